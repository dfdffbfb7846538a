//! The tile shape of each block size and vector width.

/// Calls a function with the block size and tile shape for a number of lanes. A tile has enough independent sums to hide
/// the latency of a multiply-add, and fits the registers: 32 with 16 lanes and on NEON, 16 elsewhere.
macro_rules! with_tile_shape {
    ($simd:ident, $b:expr, $function:ident $arguments:tt) => {
        match (<f32 as macerator::Scalar>::lanes::<$simd>(), $b) {
            (16, 8) => $function::<$simd, 8, 16, 1, true> $arguments,
            (16, 16) => $function::<$simd, 16, 16, 1, false> $arguments,
            (16, 32) => $function::<$simd, 32, 12, 2, false> $arguments,
            (16, 64) => $function::<$simd, 64, 6, 4, false> $arguments,
            (16, _) => $function::<$simd, 128, 6, 4, false> $arguments,
            (8, 8) => $function::<$simd, 8, 8, 1, false> $arguments,
            (8, 16) => $function::<$simd, 16, 6, 2, false> $arguments,
            (8, 32) => $function::<$simd, 32, 6, 2, false> $arguments,
            (8, 64) => $function::<$simd, 64, 6, 2, false> $arguments,
            (8, _) => $function::<$simd, 128, 6, 2, false> $arguments,
            (4, 8) => $function::<$simd, 8, 8, 2, false> $arguments,
            (4, 16) => $function::<$simd, 16, 6, 4, false> $arguments,
            (4, 32) => $function::<$simd, 32, 6, 4, false> $arguments,
            (4, 64) => $function::<$simd, 64, 6, 4, false> $arguments,
            (4, _) => $function::<$simd, 128, 6, 4, false> $arguments,
            (_, 8) => $function::<$simd, 8, 2, 8, false> $arguments,
            (_, 16) => $function::<$simd, 16, 2, 8, false> $arguments,
            (_, 32) => $function::<$simd, 32, 2, 8, false> $arguments,
            (_, 64) => $function::<$simd, 64, 2, 8, false> $arguments,
            (_, _) => $function::<$simd, 128, 2, 8, false> $arguments,
        }
    };
}
pub(super) use with_tile_shape;
