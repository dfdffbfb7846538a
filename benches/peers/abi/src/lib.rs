//! The host kernels behind a C ABI, so that `cpu_peers.py` can time them beside other libraries in one process.
//!
//! Pointers are not checked; lengths follow from the sizes of the pattern and `m`.

use std::mem::MaybeUninit;
use std::slice::{from_raw_parts, from_raw_parts_mut};

use burn_blast_kernels::cpu::{self, HostFloat, Values};
use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape};
use half::bf16;

/// Creates a pattern from its column view; null if the indices are not valid.
///
/// # Safety
/// `col_ptr` holds `n / block + 1` elements. The last one is the number of elements in `row_idx`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blast_pattern(
    k: usize,
    n: usize,
    block: usize,
    col_ptr: *const u32,
    row_idx: *const u32,
) -> *mut BlockPattern {
    let build = || {
        let (shape, block) = (MatrixShape::new(k, n).ok()?, BlockSize::new(block).ok()?);
        // SAFETY: guaranteed by the caller.
        let (col_ptr, row_idx) = unsafe {
            let col_ptr = from_raw_parts(col_ptr, n.div_ceil(block.get()) + 1);
            let nnz = *col_ptr.last()? as usize;
            (col_ptr, from_raw_parts(row_idx, nnz))
        };
        BlockPattern::new(shape, block, col_ptr.to_vec(), row_idx.to_vec()).ok()
    };
    build().map_or(std::ptr::null_mut(), |pattern| Box::into_raw(Box::new(pattern)))
}

/// Frees a pattern.
///
/// # Safety
/// `pattern` came from [`blast_pattern`] and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blast_pattern_free(pattern: *mut BlockPattern) {
    // SAFETY: guaranteed by the caller.
    drop(unsafe { Box::from_raw(pattern) });
}

/// # Safety
/// `len` elements must be writable at `ptr`.
unsafe fn room<'a, T>(ptr: *mut T, len: usize) -> &'a mut [MaybeUninit<T>] {
    // SAFETY: guaranteed by the caller.
    unsafe { from_raw_parts_mut(ptr.cast(), len) }
}

/// # Safety
/// The same as for the exported functions.
unsafe fn forward<T: HostFloat>(
    pattern: &BlockPattern,
    x: *const T,
    values: Values<'_>,
    y: *mut T,
    m: usize,
) {
    let (k, n) = (pattern.shape().rows(), pattern.shape().cols());
    // SAFETY: guaranteed by the caller.
    let (x, y) = unsafe { (from_raw_parts(x, m * k), room(y, m * n)) };
    cpu::spmm_into(x, values, None, pattern, y);
}

/// Exports a forward product with floating-point values.
macro_rules! forward {
    ($(#[$doc:meta])* $name:ident, $input:ty, $value:ty, $values:path) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `x` holds `m · k` elements, `values` the kept blocks, `y` has room for `m · n` elements.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            pattern: *const BlockPattern,
            x: *const $input,
            values: *const $value,
            y: *mut $input,
            m: usize,
        ) {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let values = $values(from_raw_parts(values, (*pattern).value_count()));
                forward(&*pattern, x, values, y, m);
            }
        }
    };
}

forward!(
    /// `y = x · w` in f32.
    blast_spmm_f32, f32, f32, Values::F32
);
forward!(
    /// `y = x · w` with weights in bf16.
    blast_spmm_bf16w, f32, bf16, Values::Bf16
);
forward!(
    /// `y = x · w` with everything in bf16, by AMX or dot products where the machine has them.
    blast_spmm_bf16, bf16, bf16, Values::Bf16
);

/// Allows products with int8 weights to round their input to int8, or forbids it.
#[unsafe(no_mangle)]
pub extern "C" fn blast_allow_int8(allow: bool) {
    cpu::allow_int8(allow);
}

/// Lets products in f32 round their factors to bf16.
#[unsafe(no_mangle)]
pub extern "C" fn blast_allow_bf16(allow: bool) {
    cpu::allow_bf16(allow);
}

/// `y = x · w` with weights in int8, one scale per block.
///
/// # Safety
/// As [`blast_spmm_f32`]; `scales` holds one float per block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blast_spmm_int8(
    pattern: *const BlockPattern,
    x: *const f32,
    values: *const i8,
    scales: *const f32,
    y: *mut f32,
    m: usize,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let values = from_raw_parts(values, (*pattern).value_count());
        let values = Values::Int8 { values, scales: from_raw_parts(scales, (*pattern).nnz()) };
        forward(&*pattern, x, values, y, m);
    }
}

/// Bytes of the kept blocks in 4-bit integers.
///
/// # Safety
/// `pattern` came from [`blast_pattern`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blast_int4_len(pattern: *const BlockPattern) -> usize {
    // SAFETY: guaranteed by the caller.
    unsafe { (*pattern).nnz() * cpu::int4_block_len((*pattern).block()) }
}

/// Rounds values to 4-bit integers.
///
/// # Safety
/// `values` holds the kept blocks; `bytes` has room for [`blast_int4_len`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blast_quantize_int4(
    pattern: *const BlockPattern,
    values: *const f32,
    bytes: *mut i8,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let values = from_raw_parts(values, (*pattern).value_count());
        let from = cpu::quantize_int4(values, &*pattern);
        from_raw_parts_mut(bytes, from.len()).copy_from_slice(&from);
    }
}

/// `y = x · w` with weights of [`blast_quantize_int4`].
///
/// # Safety
/// As there, and as [`blast_spmm_f32`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blast_spmm_int4(
    pattern: *const BlockPattern,
    x: *const f32,
    bytes: *const i8,
    y: *mut f32,
    m: usize,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let bytes = from_raw_parts(bytes, blast_int4_len(pattern));
        forward(&*pattern, x, Values::Int4 { bytes, block: (*pattern).block() }, y, m);
    }
}

/// Exports the gradients of a product in one data type.
macro_rules! gradients {
    ($float:ty, $values:path, $spmm_t:ident, $sddmm:ident) => {
        /// `dx = dy · wᵀ`.
        ///
        /// # Safety
        /// `dy` holds `m · n` elements, `values` the kept blocks, `dx` has room for `m · k`.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $spmm_t(
            pattern: *const BlockPattern,
            dy: *const $float,
            values: *const $float,
            dx: *mut $float,
            m: usize,
        ) {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let pattern = &*pattern;
                let (k, n) = (pattern.shape().rows(), pattern.shape().cols());
                let values = $values(from_raw_parts(values, pattern.value_count()));
                cpu::spmm_t_into(from_raw_parts(dy, m * n), values, pattern, room(dx, m * k));
            }
        }

        /// `dw = xᵀ · dy` at the kept blocks.
        ///
        /// # Safety
        /// `x` holds `m · k` elements, `dy` `m · n`, `dw` has room for the kept blocks.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $sddmm(
            pattern: *const BlockPattern,
            x: *const $float,
            dy: *const $float,
            dw: *mut $float,
            m: usize,
        ) {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let pattern = &*pattern;
                let (k, n) = (pattern.shape().rows(), pattern.shape().cols());
                let dw = room(dw, pattern.value_count());
                let (x, dy) = (from_raw_parts(x, m * k), from_raw_parts(dy, m * n));
                cpu::sddmm_into(x, dy, pattern, m, dw);
            }
        }
    };
}

gradients!(f32, Values::F32, blast_spmm_t_f32, blast_sddmm_f32);
gradients!(bf16, Values::Bf16, blast_spmm_t_bf16, blast_sddmm_bf16);
