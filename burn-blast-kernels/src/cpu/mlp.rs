//! The feed-forward block as one operation: `down(f(gate(x)) · up(x))`, or `down(f(gate(x)))` without `up`.
//!
//! The hidden features exist for one chunk of rows at a time, already in the panels that the last product reads. The
//! backward pass re-computes them instead of storing them.

use std::mem::MaybeUninit;
use std::ops::Range;

use derive_new::new;

use super::activation::Elements;
use super::macro_kernel::{SparseOperand, Target, Term, macro_kernel};
use super::output::Output;
use super::panels::{Panels, panels_len, write_all_panels};
use super::spmm::check_values;
use super::tasks::{SharedOut, row_chunks, run_tasks, task_count, threads_for};
use super::{HostFloat, Values, scratch};
use crate::pattern::equal_work;
use crate::{Activation, BlockPattern};

/// One block-sparse layer of a feed-forward block.
#[derive(Debug, Clone, Copy, new)]
pub struct MlpLayer<'a> {
    /// Packed values, `[nnz, b, b]`.
    pub values: Values<'a>,
    /// The pattern of the values.
    pub pattern: &'a BlockPattern,
}

impl<'a> MlpLayer<'a> {
    pub(super) fn weight(&self) -> SparseOperand<'a> {
        SparseOperand::forward(self.values, self.pattern)
    }

    /// The product of `left` with the transposed weight.
    pub(super) fn transposed(&self, left: Panels) -> Term<'a> {
        Term::new(left, SparseOperand::transposed(self.values, self.pattern))
    }
}

/// A feed-forward block of two or three layers with one block size.
#[derive(Debug, Clone, Copy)]
pub struct Mlp<'a> {
    /// `[d_model, d_ff]`; the activation is applied to its output.
    pub gate: MlpLayer<'a>,
    /// `[d_model, d_ff]`, multiplied by the output of the activation. Absent in a plain block.
    pub up: Option<MlpLayer<'a>>,
    /// `[d_ff, d_output]`.
    pub down: MlpLayer<'a>,
    /// Activation between the layers.
    pub activation: Activation,
    /// Bias of `gate`, `[d_ff]`.
    pub gate_bias: Option<&'a [f32]>,
    /// Bias of `down`, `[d_output]`.
    pub down_bias: Option<&'a [f32]>,
}

impl Mlp<'_> {
    /// # Panics
    /// If layers do not fit each other or have different block sizes.
    pub(super) fn check(&self) {
        let (hidden, down) = (self.gate.pattern.shape(), self.down.pattern.shape());
        assert_eq!(hidden.cols(), down.rows(), "down must take what gate gives");
        for layer in [Some(self.gate), self.up, Some(self.down)].into_iter().flatten() {
            check_values(layer.values, layer.pattern);
            let block = self.gate.pattern.block();
            assert_eq!(layer.pattern.block(), block, "layers must have one block size");
        }
        if let Some(up) = self.up {
            assert_eq!(up.pattern.shape(), hidden, "gate and up must have one shape");
        }
        let lengths = [(self.gate_bias, hidden.cols()), (self.down_bias, down.cols())];
        for (bias, len) in lengths {
            assert!(bias.is_none_or(|bias| bias.len() == len), "a bias must be [d_output]");
        }
    }

    pub(super) fn b(&self) -> usize {
        self.gate.pattern.block().get()
    }

    pub(super) fn d_input(&self) -> usize {
        self.gate.pattern.shape().rows()
    }

    pub(super) fn d_ff(&self) -> usize {
        self.gate.pattern.shape().cols()
    }

    pub(super) fn d_output(&self) -> usize {
        self.down.pattern.shape().cols()
    }

    /// Kept values of all layers.
    pub(super) fn value_count(&self) -> usize {
        let up = self.up.map_or(0, |up| up.pattern.value_count());
        self.gate.pattern.value_count() + up + self.down.pattern.value_count()
    }
}

/// Applies a feed-forward block to `x` and writes its output to `out`.
///
/// # Shapes
/// - `x`: `[m, d_model]`
/// - `out`: `[m, d_output]`, every element is written
///
/// # Panics
/// If a slice has another length, layers do not fit each other, or block sizes differ.
pub fn mlp_into<T: HostFloat>(x: &[T], mlp: &Mlp<'_>, out: &mut [MaybeUninit<T>]) {
    mlp.check();
    let m = out.len() / mlp.d_output();
    assert_eq!(out.len(), m * mlp.d_output(), "out must be [m, d_output]");
    assert_eq!(x.len(), m * mlp.d_input(), "x must be [m, d_model]");
    let x = T::widen(x);
    T::store(out, |out| forward(&x, m, mlp, out));
}

fn forward(x: &[f32], m: usize, mlp: &Mlp<'_>, out: &mut [MaybeUninit<f32>]) {
    if out.is_empty() {
        return;
    }
    let output = Output::new(SharedOut::new(out), m, mlp.d_output(), mlp.down_bias);
    let threads = threads_for(m * mlp.value_count());
    match row_chunks(m, mlp.d_ff(), threads) {
        Some(chunks) => run_tasks(chunks, threads, |rows| forward_rows(x, rows, mlp, &output, 1)),
        None => forward_rows(x, 0..m, mlp, &output, threads),
    }
}

/// The whole block for some rows.
fn forward_rows(x: &[f32], rows: Range<usize>, mlp: &Mlp<'_>, output: &Output<'_>, threads: usize) {
    let (b, d_input, count) = (mlp.b(), mlp.d_input(), rows.len());
    let x_len = panels_len(count, d_input, b);
    scratch::with(x_len + panels_len(count, mlp.d_ff(), b), |buffer| {
        let (panels, hidden) = buffer.split_at_mut(x_len);
        write_all_panels(x, d_input, rows.clone(), b, panels, threads);
        let x = Panels::new(panels, count);
        let to = SharedOut::initialised(hidden);
        let tasks = equal_work(mlp.gate.pattern.col_ptr(), task_count(threads));
        run_tasks(tasks, threads, |cols| hidden_columns(x, mlp, cols, to));
        let term = Term::new(Panels::new(hidden, count), mlp.down.weight());
        let tasks = equal_work(mlp.down.pattern.col_ptr(), task_count(threads));
        run_tasks(tasks, threads, |cols| output.columns(&[term], rows.clone(), cols));
    });
}

/// Writes the panels `cols` of the hidden features.
fn hidden_columns(x: Panels, mlp: &Mlp<'_>, cols: Range<usize>, to: SharedOut) {
    let gate = Term::new(x, mlp.gate.weight());
    let up = mlp.up.as_ref().map(|up| Term::new(x, up.weight()));
    let convert = gate.weight.scratch_len().max(up.map_or(0, |up| up.weight.scratch_len()));
    scratch::with(convert + x.rows() * mlp.b(), |buffer| {
        let (convert, other) = buffer.split_at_mut(convert);
        let len = x.rows() * mlp.b();
        for col in cols {
            // SAFETY: each panel belongs to one task.
            let panel = unsafe { to.slice(col * len, len) };
            // SAFETY: a panel has room for its rows of a whole block.
            unsafe { macro_kernel(&[gate], col, Target::panel(panel, mlp.b()), convert) };
            add_bias(panel, mlp.gate_bias, col, mlp.b());
            let Some(up) = up else {
                mlp.activation.apply(Elements::Plain(panel));
                continue;
            };
            // SAFETY: as above.
            unsafe { macro_kernel(&[up], col, Target::panel(other, mlp.b()), convert) };
            mlp.activation.apply(Elements::Gated(panel, other));
        }
    });
}

/// Adds block column `col` of a bias to the rows of a panel.
pub(super) fn add_bias(panel: &mut [f32], bias: Option<&[f32]>, col: usize, b: usize) {
    let Some(bias) = bias else { return };
    let bias = &bias[col * b..bias.len().min((col + 1) * b)];
    for row in panel.chunks_exact_mut(b) {
        row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
    }
}
