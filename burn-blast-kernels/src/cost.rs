//! Operations and bytes of a product, and an estimate of the density up to which the sparse product is faster.
//!
//! [`Strategy::Auto`](crate::Strategy) uses the estimate for devices that have not been measured.

use crate::{BlockPattern, BlockSize};

/// Operations and bytes of a forward product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Multiplications and additions of the sparse product.
    pub sparse_flops: f64,
    /// Multiplications and additions of the dense product.
    pub dense_flops: f64,
    /// Bytes of packed values and indices.
    pub sparse_bytes: f64,
}

impl Cost {
    /// The cost for an input of `m` rows, with elements of `element_bytes` bytes.
    pub fn of(pattern: &BlockPattern, m: usize, element_bytes: usize) -> Self {
        let area = pattern.shape().area() as f64;
        Self {
            sparse_flops: 2.0 * m as f64 * pattern.value_count() as f64,
            dense_flops: 2.0 * m as f64 * area,
            sparse_bytes: (pattern.value_count() * element_bytes + pattern.index_bytes()) as f64,
        }
    }
}

/// Kinds of device that the estimate distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceClass {
    /// The host kernels of [`cpu`](crate::cpu).
    Host,
    /// The CubeCL kernels on a device without tensor cores for the data type, or on an unknown device.
    Gpu,
    /// A device with tensor cores for the data type, which both products can use.
    TensorCores,
    /// A device with tensor cores that only the dense product uses: for f32 where TF32 is not allowed, or with
    /// cooperative matrices on planes of varying size.
    DenseTensorCores,
}

/// Rate of the sparse kernel on kept blocks, relative to Burn's dense product on the same device.
///
/// `Host`: on an AVX-512 Xeon, the rate of the sparse kernel on kept blocks is about twice the rate of Burn's default
/// (AVX2) dense product (`benches/record/2026-11-21-cascade-lake`). It is taken as 1, so that a machine without AVX-512,
/// or a build with Burn's `x86-v4`, is not promised too much. With 256 rows and every block kept, blocks of 16 reached
/// 1.0 to 1.6 times the dense rate, and blocks of 8, which fill half a register, 0.35 to 0.7 (`blocks-8-16.jsonl` in the
/// same place).
///
/// `Gpu`: a guess, because Burn's dense product uses tensor cores where there are any, and the portable kernel does not.
///
/// `TensorCores`: estimates on paper, not measured. The bandwidth of the L2 cache of an H100 limits tiles of one block's
/// width to 0.18, 0.30 to 0.35 and 0.45 to 0.6 of a good dense product, for blocks of 32, 64 and 128 (the page "The
/// kernel ladder" has the arithmetic). The lower ends are taken, rounded down, so that a doubtful product is dense. Blocks
/// of 16 have narrower tiles or register tiles, and blocks of 8 have register tiles. f32 in TF32 has twice the bytes and
/// half the rate, so that the ratios are the same.
///
/// `DenseTensorCores`: published peaks in f32 and TF32 are 19.5 and 156 TFLOP/s on an A100, 67 and 495 on an H100. If both
/// products come equally near to their peak, register tiles reach an eighth. Taken as a tenth, and not measured.
fn relative_rate(device: DeviceClass, block: BlockSize) -> f64 {
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
/// The dense product has to unpack the weight first, which costs about one pass over it. The fewer rows the input has,
/// the more that counts.
pub(crate) fn break_even_density(device: DeviceClass, block: BlockSize, m: usize) -> f64 {
    // Unpacking an element takes about as long as this many multiply-adds. Guess.
    const UNPACK_ROWS: f64 = 16.0;
    (relative_rate(device, block) * (1.0 + UNPACK_ROWS / m.max(1) as f64)).min(1.0)
}
