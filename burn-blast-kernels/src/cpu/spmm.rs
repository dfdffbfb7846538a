//! Forward product and input gradient.
//!
//! Many rows: tasks take a chunk of rows, regroup it into panels, and go over all output block columns. Few rows: the
//! whole input is regrouped once, and tasks take ranges of columns of equal work. Either way a tile keeps its sums in
//! registers over the blocks of its column, all of them or, in a long column, as many as the cache holds.

use std::mem::MaybeUninit;

use super::factor::{Factor, Term};
use super::output::{Epilogue, Output};
use super::panel::{Panels, pack, pack_all, panel_len};
use super::tasks::{SharedOut, chunks, each, ranges_for, threads_for};
use super::{HostFloat, Values, scratch};
use crate::BlockPattern;
use crate::pattern::equal_work;

/// `y = x · w + bias`.
///
/// # Shapes
/// - `x`: `[m, d_input]`, `values`: `[nnz, b, b]`, `bias`: `[d_output]`
/// - output: `[m, d_output]`
///
/// # Panics
/// If a slice has another length.
pub fn spmm<T: HostFloat>(
    x: &[T],
    values: &[T],
    bias: Option<&[T]>,
    pattern: &BlockPattern,
    m: usize,
) -> Vec<T> {
    let epilogue = Epilogue { bias, activation: None };
    filled(m * pattern.shape().cols(), |out| {
        spmm_into(x, T::values(values), epilogue, pattern, out);
    })
}

/// `y = activation(x · w + bias)` with values of any type, written to `out`.
///
/// # Shapes
/// - `x`: `[m, d_input]`, `values`: `[nnz, b, b]`, bias: `[d_output]`
/// - `out`: `[m, d_output]`, every element is written
///
/// # Panics
/// If a slice has another length.
pub fn spmm_into<T: HostFloat>(
    x: &[T],
    values: Values<'_>,
    epilogue: Epilogue<'_, T>,
    pattern: &BlockPattern,
    out: &mut [MaybeUninit<T>],
) {
    let shape = pattern.shape();
    let m = out.len() / shape.cols();
    assert_eq!(out.len(), m * shape.cols(), "out must be [m, d_output]");
    assert_eq!(x.len(), m * shape.rows(), "x must be [m, d_input]");
    check_values(values, pattern);
    if let Some(bias) = epilogue.bias {
        assert_eq!(bias.len(), shape.cols(), "bias must be [d_output]");
    }
    let bias = epilogue.bias.map(T::widen);
    let epilogue = Epilogue { bias: bias.as_deref(), activation: epilogue.activation };
    product(x, m, Factor::forward(values, pattern), epilogue, out);
}

/// `dx = dy · wᵀ`.
///
/// # Shapes
/// - `dy`: `[m, d_output]`, `values`: `[nnz, b, b]`
/// - output: `[m, d_input]`
///
/// # Panics
/// If a slice has another length.
pub fn spmm_t<T: HostFloat>(dy: &[T], values: &[T], pattern: &BlockPattern, m: usize) -> Vec<T> {
    filled(m * pattern.shape().rows(), |out| spmm_t_into(dy, T::values(values), pattern, out))
}

/// [`spmm_t`] with values of any type, written to `out`, `[m, d_input]`.
///
/// # Panics
/// If a slice has another length.
pub fn spmm_t_into<T: HostFloat>(
    dy: &[T],
    values: Values<'_>,
    pattern: &BlockPattern,
    out: &mut [MaybeUninit<T>],
) {
    let shape = pattern.shape();
    let m = out.len() / shape.rows();
    assert_eq!(out.len(), m * shape.rows(), "out must be [m, d_input]");
    assert_eq!(dy.len(), m * shape.cols(), "dy must be [m, d_output]");
    check_values(values, pattern);
    product(dy, m, Factor::transposed(values, pattern), Epilogue::default(), out);
}

fn product<T: HostFloat>(
    x: &[T],
    m: usize,
    factor: Factor<'_>,
    epilogue: Epilogue<'_, f32>,
    out: &mut [MaybeUninit<T>],
) {
    #[cfg(all(feature = "amx", target_arch = "x86_64", target_os = "linux"))]
    if super::amx::product(x, factor, epilogue, out) {
        return;
    }
    let x = T::widen(x);
    T::store(out, |out| Product { x: &x, m, factor, epilogue }.run(out));
}

pub(super) fn check_values(values: Values<'_>, pattern: &BlockPattern) {
    assert_eq!(values.len(), pattern.value_count(), "values must be [nnz, b, b]");
    if let Values::Int8 { scales, .. } = values {
        assert_eq!(scales.len(), pattern.nnz(), "scales must be [nnz]");
    }
}

/// A vector of `len` elements that `fill` writes all of.
pub(super) fn filled<T>(len: usize, fill: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut out = Vec::with_capacity(len);
    fill(&mut out.spare_capacity_mut()[..len]);
    // SAFETY: `fill` wrote every element.
    unsafe { out.set_len(len) };
    out
}

/// `out[m, outer] = epilogue(x[m, inner] · factor)`.
struct Product<'a> {
    x: &'a [f32],
    m: usize,
    factor: Factor<'a>,
    epilogue: Epilogue<'a, f32>,
}

impl Product<'_> {
    fn run(&self, out: &mut [MaybeUninit<f32>]) {
        if out.is_empty() {
            return;
        }
        let (b, inner) = (self.factor.b(), self.factor.inner());
        let output = Output::new(SharedOut::new(out), self.m, self.factor.outer(), self.epilogue);
        let threads = threads_for(self.m * self.factor.nnz() * b * b);
        if let Some(chunks) = chunks(self.m, inner, threads) {
            each(chunks, threads, |rows| {
                scratch::with(panel_len(rows.len(), inner, b), |panels| {
                    pack(self.x, inner, rows.clone(), 0..inner.div_ceil(b), b, panels);
                    let term = Term { left: Panels::new(panels, rows.len()), right: self.factor };
                    output.columns(&[term], rows, 0..self.factor.columns());
                });
            });
            return;
        }
        scratch::with(panel_len(self.m, inner, b), |panels| {
            pack_all(self.x, inner, 0..self.m, b, panels, threads_for(16 * self.x.len()));
            let term = Term { left: Panels::new(panels, self.m), right: self.factor };
            each(equal_work(self.factor.ptr(), ranges_for(threads)), threads, |cols| {
                output.columns(&[term], 0..self.m, cols);
            });
        });
    }
}
