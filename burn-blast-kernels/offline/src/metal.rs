//! Metal's shading language of the kernels on cooperative matrices, as the Metal runtime of CubeCL would hand it to
//! the system. Nothing here can compile it; the check is that it can be generated.
//!
//! The description of the device is from `cubecl-metal`, `runtime.rs`, which builds on the systems of Apple only.

use std::sync::Arc;

use burn_blast_kernels::cube::catalogue::{Definition, Target, Variant};
use cubecl::Compiler;
use cubecl::ir::{AddressType, DeviceProperties, HardwareProperties, TargetProperties};
use cubecl_cpp::metal::arch::MetalArchitecture;
use cubecl_cpp::metal::supported_cmma_combinations_metal;
use cubecl_cpp::shared::{CompilationOptions, CppCompiler, register_wmma_features};
use cubecl_cpp::target;

use crate::generate::{device, hardware};
use crate::{Arch, F16, OfflineError};

/// Every variant on cooperative matrices that an Apple GPU may get, and its source for f16.
///
/// # Errors
/// If CubeCL refuses a kernel.
pub fn metal() -> Result<Vec<(Variant, String)>, OfflineError> {
    let target = Target {
        properties: Arc::new(properties()),
        layouts: Arc::new(TargetProperties { mma: Default::default() }),
        address: AddressType::U32,
        dtype: F16,
    };
    let generate = |variant: Variant| {
        let compiled = CppCompiler::<target::Metal>::default()
            .compile(variant.define(&target), &CompilationOptions::default())
            .map_err(|error| OfflineError::Generate {
                variant: variant.name(),
                reason: error.to_string(),
            })?;
        Ok((variant, compiled.source))
    };
    Variant::cooperative(&target).into_iter().map(generate).collect()
}

fn properties() -> DeviceProperties {
    let hardware = HardwareProperties {
        max_bindings: 30,
        max_shared_memory_size: 32 * 1024,
        max_cube_count: (u32::MAX, u32::MAX, u32::MAX),
        max_cube_dim: (1024, 1024, 1024),
        num_streaming_multiprocessors: None,
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        max_vector_size: 4,
        ..hardware(Arch::Sm80)
    };
    let mut properties = device("msl", 256, hardware);
    let combinations = supported_cmma_combinations_metal(&MetalArchitecture::Metal3);
    register_wmma_features(combinations, &mut properties);
    properties
}
