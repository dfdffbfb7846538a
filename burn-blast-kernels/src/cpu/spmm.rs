//! The forward product and the input gradient.
//!
//! With many rows, a task takes a chunk of rows, writes it to panels and computes all block columns of the output. With
//! few rows, the whole input is written to panels once, and a task takes block columns of about equal work. In both cases
//! a tile keeps its sums in registers over all blocks of its column, or over a group of blocks that fits the cache.

use std::mem::MaybeUninit;

use super::arithmetic::Words;
use super::dot::{rounds_to_integers, words_for, words_for_integers};
use super::int4::int4_block_len;
use super::macro_kernel::Term;
use super::operand::SparseOperand;
use super::output::Output;
use super::panels::{Layout, Operand, Panels, write_all_panels, write_panels};
use super::tasks::{SharedOut, row_chunks, run_tasks, task_count, threads_for};
use super::{HostFloat, Values, gemv, scratch};
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
    filled(m * pattern.shape().cols(), |out| spmm_into(x, T::values(values), bias, pattern, out))
}

/// [`spmm`] with values of any type, written to `out`.
///
/// # Shapes
/// - `x`: `[m, d_input]`, `values`: `[nnz, b, b]`, `bias`: `[d_output]`
/// - `out`: `[m, d_output]`, every element is written
///
/// # Panics
/// If a slice has another length.
pub fn spmm_into<T: HostFloat>(
    x: &[T],
    values: Values<'_>,
    bias: Option<&[T]>,
    pattern: &BlockPattern,
    out: &mut [MaybeUninit<T>],
) {
    let shape = pattern.shape();
    let m = out.len() / shape.cols();
    assert_eq!(out.len(), m * shape.cols(), "out must be [m, d_output]");
    assert_eq!(x.len(), m * shape.rows(), "x must be [m, d_input]");
    check_values(values, pattern);
    if let Some(bias) = bias {
        assert_eq!(bias.len(), shape.cols(), "bias must be [d_output]");
    }
    let bias = bias.map(T::widen);
    product(x, m, SparseOperand::forward(values, pattern), bias.as_deref(), out);
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

/// [`spmm_t`] with values of any type, written to `out`.
///
/// # Shapes
/// - `dy`: `[m, d_output]`, `values`: `[nnz, b, b]`
/// - `out`: `[m, d_input]`, every element is written
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
    product(dy, m, SparseOperand::transposed(values, pattern), None, out);
}

/// `out[m, outer] = x[m, inner] · weight + bias`.
fn product<T: HostFloat>(
    x: &[T],
    m: usize,
    weight: SparseOperand<'_>,
    bias: Option<&[f32]>,
    out: &mut [MaybeUninit<T>],
) {
    if out.is_empty() {
        return;
    }
    let (b, inner) = (weight.b, weight.inner);
    let words = match rounds_to_integers(weight.values) && weight.is_forward() {
        // A single row has nothing to gain from rounded factors: reading the weights takes the time.
        _ if m == 1 => Words::Single,
        true => words_for_integers::<T>(b),
        false => words_for::<T>([weight.values], b),
    };
    let threads = threads_for(words.work(m * weight.value_count()));
    let output = SharedOut::new(out);
    if m == 1 && gemv::product(&T::widen(x), weight, bias, output, threads) {
        return;
    }
    let layout = Layout::new(words, Operand::Input);
    let x = T::values(x);
    let output = Output::new(output, m, weight.outer, bias);
    if let Some(chunks) = row_chunks(m, inner, words, threads) {
        run_tasks(chunks, threads, |rows| {
            scratch::with(layout.panels_len(rows.len(), inner, b), |panels| {
                let cols = 0..inner.div_ceil(b);
                write_panels(x, inner, rows.clone(), cols, b, layout, panels);
                let term = Term::new(Panels::new(panels, rows.len(), layout), weight);
                output.columns(&[term], rows, 0..weight.starts.len() - 1);
            });
        });
        return;
    }
    scratch::with(layout.panels_len(m, inner, b), |panels| {
        write_all_panels(x, inner, 0..m, b, layout, panels, threads_for(16 * x.len()));
        let term = Term::new(Panels::new(panels, m, layout), weight);
        run_tasks(equal_work(weight.starts, task_count(threads)), threads, |cols| {
            output.columns(&[term], 0..m, cols);
        });
    });
}

pub(super) fn check_values(values: Values<'_>, pattern: &BlockPattern) {
    assert_eq!(values.len(), pattern.value_count(), "values must be [nnz, b, b]");
    match values {
        Values::Int8 { scales, .. } => {
            assert_eq!(scales.len(), pattern.nnz(), "scales must be [nnz]");
        }
        Values::Int4 { bytes, block } => {
            let fits =
                block == pattern.block() && bytes.len() == pattern.nnz() * int4_block_len(block);
            assert!(fits, "4-bit integers must be of the pattern's blocks");
        }
        _ => {}
    }
}

/// A vector of `len` elements, all of which `fill` writes.
pub(super) fn filled<T>(len: usize, fill: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut out = Vec::with_capacity(len);
    fill(&mut out.spare_capacity_mut()[..len]);
    // SAFETY: `fill` wrote every element.
    unsafe { out.set_len(len) };
    out
}
