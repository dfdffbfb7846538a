//! The device that tests of CubeCL kernels run on, and tensors of one storage type on it.

use burn_blast_kernels::cube::{self, Context};
use burn_blast_kernels::reference::{Exact, Rounding};
use burn_blast_kernels::{BlockMask, BlockPattern, BlockSize, MatrixShape};
use cubecl::Device;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::server::Handle;
use half::{bf16, f16};

use crate::common::random;

pub const F32: ElemType = ElemType::Float(FloatKind::F32);
pub const F16: ElemType = ElemType::Float(FloatKind::F16);
pub const BF16: ElemType = ElemType::Float(FloatKind::BF16);

/// Tensors of one type on one device.
pub struct Bench {
    pub client: Client,
    pub dtype: ElemType,
}

impl Bench {
    /// `None` without an adapter, or if it does not know the type. The test of the caller is then skipped.
    pub fn new(dtype: ElemType) -> Option<Self> {
        let bench = Self { client: client()?, dtype };
        match Context::new(&bench.client, &random([8, 8, 8], 1.0, 0), dtype) {
            Ok(_) => Some(bench),
            Err(error) => {
                println!("SKIPPED: {error}");
                None
            }
        }
    }

    /// The numbers as they are stored.
    pub fn round(&self, data: Vec<f32>) -> Vec<f32> {
        let exact = |x: f32| match self.dtype {
            F16 => f16::from_f32(x).to_f32(),
            BF16 => bf16::from_f32(x).to_f32(),
            _ => x,
        };
        data.into_iter().map(exact).collect()
    }

    pub fn handle(&self, data: &[f32]) -> Handle {
        match self.dtype {
            F16 => {
                let halves: Vec<f16> = data.iter().map(|&value| f16::from_f32(value)).collect();
                self.bytes(f16::as_bytes(&halves))
            }
            BF16 => {
                let halves: Vec<bf16> = data.iter().map(|&value| bf16::from_f32(value)).collect();
                self.bytes(bf16::as_bytes(&halves))
            }
            _ => self.bytes(f32::as_bytes(data)),
        }
    }

    /// A zero-sized buffer can be neither read back nor bound.
    pub fn bytes(&self, bytes: &[u8]) -> Handle {
        self.client.create_from_slice(if bytes.is_empty() { &[0; 16] } else { bytes })
    }

    pub fn upload(&self, data: &[f32]) -> BufferArg {
        arg(&self.handle(data), data.len())
    }

    pub fn uploads<const N: usize>(&self, data: [&[f32]; N]) -> [BufferArg; N] {
        data.map(|data| self.upload(data))
    }

    pub fn read(&self, handle: Handle, len: usize) -> Vec<f32> {
        let bytes = self.client.read_one(handle).unwrap();
        let bytes = &bytes[..len * self.dtype.size()];
        match self.dtype {
            F16 => f16::from_bytes(bytes).iter().map(|value| value.to_f32()).collect(),
            BF16 => bf16::from_bytes(bytes).iter().map(|value| value.to_f32()).collect(),
            _ => f32::from_bytes(bytes).to_vec(),
        }
    }

    /// What a launch writes to a buffer full of NaN.
    pub fn run(
        &self,
        pattern: &BlockPattern,
        len: usize,
        launch: impl FnOnce(&Context, BufferArg),
    ) -> Vec<f32> {
        let handle = self.handle(&vec![f32::NAN; len]);
        launch(&Context::new(&self.client, pattern, self.dtype).unwrap(), arg(&handle, len));
        self.read(handle, len)
    }

    pub fn check(&self, name: &str, got: &[f32], want: &[Exact]) {
        let rounding = match self.dtype {
            F16 => Rounding::F16,
            BF16 => Rounding::BF16,
            _ => Rounding::F32,
        };
        self.check_rounding(rounding, name, got, want);
    }

    /// For products that may run on tensor cores.
    pub fn check_product(&self, name: &str, got: &[f32], want: &[Exact]) {
        match self.dtype == F32 && cube::tf32_allowed() {
            true => self.check_rounding(Rounding::TF32, name, got, want),
            false => self.check(name, got, want),
        }
    }

    fn check_rounding(&self, rounding: Rounding, name: &str, got: &[f32], want: &[Exact]) {
        rounding
            .check(got, want)
            .unwrap_or_else(|error| panic!("{name}, {:?}: {error}", self.dtype));
    }
}

/// The buffer of a handle that was made from `len` elements.
pub fn arg(handle: &Handle, len: usize) -> BufferArg {
    // SAFETY: the buffer holds at least that many elements.
    unsafe { BufferArg::from_raw_parts(handle.clone(), len) }
}

/// Kept blocks `(row, col)`.
pub fn kept([rows, cols, block]: [usize; 3], blocks: &[(usize, usize)]) -> BlockPattern {
    let shape = MatrixShape::new(rows, cols).unwrap();
    let mut mask = BlockMask::empty(shape, BlockSize::new(block).unwrap());
    blocks.iter().for_each(|&(row, col)| mask.set(row, col, true));
    BlockPattern::from_mask(&mask)
}

/// A client of the `wgpu` runtime, which compiles to WGSL, the most restricted target. With `BURN_BLAST_DEVICE=cuda`, a
/// client of the first CUDA device, in a build with the features `cubecl/cuda` and `cubecl/cuda-cpp`.
///
/// With `BURN_BLAST_TF32=1`, products in f32 may use TF32.
///
/// Where wgpu has no adapter, it prints a message and the test of the caller is skipped.
fn client() -> Option<Client> {
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
