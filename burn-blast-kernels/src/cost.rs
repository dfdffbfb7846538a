//! How much work a product is, and a first guess of when sparse beats dense.
//!
//! The guess serves [`Strategy::Auto`](crate::Strategy) until a device has been measured.

use crate::{BlockPattern, BlockSize};

/// Operations and bytes of one forward product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Multiplications and additions on kept blocks.
    pub sparse_flops: f64,
    /// Multiplications and additions of the dense product.
    pub dense_flops: f64,
    /// Bytes of packed values and indices.
    pub sparse_bytes: f64,
    /// Bytes of the dense weight.
    pub dense_bytes: f64,
}

impl Cost {
    /// Cost of `[m, d_input] x pattern` with elements of `element_bytes` bytes.
    pub fn of(pattern: &BlockPattern, m: usize, element_bytes: usize) -> Self {
        let area = pattern.shape().area() as f64;
        Self {
            sparse_flops: 2.0 * m as f64 * pattern.value_count() as f64,
            dense_flops: 2.0 * m as f64 * area,
            sparse_bytes: (pattern.value_count() * element_bytes + index_bytes(pattern)) as f64,
            dense_bytes: area * element_bytes as f64,
        }
    }
}

/// Bytes of both index views of a pattern.
pub fn index_bytes(pattern: &BlockPattern) -> usize {
    let entries = pattern.col_ptr().len() + pattern.row_ptr().len() + 3 * pattern.nnz();
    entries * size_of::<u32>()
}

/// Where a product runs, as far as the first guess cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceClass {
    /// The host kernels of [`cpu`](crate::cpu).
    Host,
    /// The CubeCL kernels where the dense product has no tensor cores for this type, or it is not known.
    Gpu,
    /// A device with tensor cores for this type, which the dense product uses and the sparse one may.
    TensorCores,
    /// A device with tensor cores that the dense product uses for this type and the sparse one does not: f32 where
    /// TF32 is not allowed, or cooperative matrices on planes whose size varies.
    DenseTensorCores,
}

/// Rate of the sparse kernel on kept blocks, relative to Burn's dense product on the same device.
///
/// Host: on an AVX-512 Xeon the sparse kernel runs about twice Burn's default (AVX2) dense rate on what it
/// keeps (`benches/record/2026-11-21-cascade-lake`); taken as 1, so that a machine without AVX-512, or a build
/// with Burn's `x86-v4`, is not promised more than it gives. With 256 rows and every block kept, blocks of 16 came to 1.0 to 1.6 times the
/// dense rate, and those of 8, which fill half a register, to 0.35 to 0.7 (`blocks-8-16.jsonl` in the same place).
/// Gpu: a guess, since Burn's dense product uses tensor cores where there are any and the portable kernel does not.
///
/// TensorCores: estimates on paper, not measured. What a tile of one block's width can draw from the L2 cache of an
/// H100 bounds blocks of 32, 64 and 128 to 0.18, 0.30 to 0.35 and 0.45 to 0.6 of a good dense product (the page "The
/// kernel ladder" has the arithmetic); the lower ends are taken, rounded down, so that a doubtful product is dense.
/// Blocks of 16 get narrower tiles or register tiles, and those of 8 register tiles. f32 in TF32 has twice the bytes and
/// half the rate, so that the shares are the same.
///
/// DenseTensorCores: published peaks in f32 and TF32 are 19.5 and 156 TFLOP/s on an A100, 67 and 495 on an H100, so register
/// tiles reach an eighth if both come as near to their peak; taken as a tenth, and not measured.
pub fn relative_rate(device: DeviceClass, block: BlockSize) -> f64 {
    match (device, block.get()) {
        (DeviceClass::Host, 8) => 0.5,
        (DeviceClass::Host, _) => 1.0,
        (DeviceClass::Gpu, 8) => 0.1,
        (DeviceClass::Gpu, 16) => 0.2,
        (DeviceClass::Gpu, _) => 0.3,
        (DeviceClass::TensorCores, 8) => 0.02,
        (DeviceClass::TensorCores, 16) => 0.05,
        (DeviceClass::TensorCores, 32) => 0.15,
        (DeviceClass::TensorCores, 64) => 0.3,
        (DeviceClass::TensorCores, _) => 0.45,
        (DeviceClass::DenseTensorCores, 8) => 0.02,
        (DeviceClass::DenseTensorCores, 16) => 0.05,
        (DeviceClass::DenseTensorCores, _) => 0.1,
    }
}

/// Largest density at which the sparse product is expected to be at least as fast as the dense one.
///
/// Unpacking the weight for the dense product costs about one pass over it, which counts for more the
/// fewer rows the input has.
pub fn break_even_density(device: DeviceClass, block: BlockSize, m: usize) -> f64 {
    // One element unpacked moves as many bytes as about this many multiply-adds take time. Guess.
    const UNPACK_ROWS: f64 = 16.0;
    (relative_rate(device, block) * (1.0 + UNPACK_ROWS / m.max(1) as f64)).min(1.0)
}
