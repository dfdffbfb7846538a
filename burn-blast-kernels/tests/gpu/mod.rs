//! The device that tests of CubeCL kernels run on.

use burn_blast_kernels::cube;
use cubecl::Device;
use cubecl::prelude::Client;

/// A client of the `wgpu` runtime, which compiles to WGSL, the most restricted target. With `BURN_BLAST_DEVICE=cuda`, a
/// client of the first CUDA device, in a build with the features `cubecl/cuda` and `cubecl/cuda-cpp`.
///
/// With `BURN_BLAST_TF32=1`, products in f32 may use TF32.
///
/// Where wgpu has no adapter, it prints a message and the test of the caller is skipped.
pub fn client() -> Option<Client> {
    cube::allow_tf32(std::env::var("BURN_BLAST_TF32").is_ok_and(|value| value == "1"));
    match std::env::var("BURN_BLAST_DEVICE").as_deref() {
        Ok("cuda") => return Some(Device::Cuda(Default::default()).client()),
        Ok(other) => panic!("BURN_BLAST_DEVICE is {other}: set it to cuda, or not at all"),
        Err(_) => {}
    }
    if Device::enumerate_all().is_empty() {
        let required = std::env::var("BURN_BLAST_REQUIRE_GPU").is_ok_and(|value| value == "1");
        assert!(!required, "BURN_BLAST_REQUIRE_GPU is set, but wgpu found no adapter");
        println!("SKIPPED: wgpu found no adapter");
        return None;
    }
    Some(Device::Wgpu(Default::default()).client())
}
