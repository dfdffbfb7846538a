//! The feed-forward block in one pass over its input: `down(f(gate(x)) · up(x))`, or `down(f(up(x)))`.
//!
//! The hidden features exist for one chunk of rows at a time, in the regrouped form the last product reads. The
//! backward pass computes them again instead of storing them.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::factor::{Factor, Target, Term, column};
use super::output::{Epilogue, Output};
use super::panel::{Panels, pack_all, panel_len};
use super::spmm::check_values;
use super::tasks::{SharedOut, chunks, each, ranges_for, threads_for};
use super::{Activation, HostFloat, Values, scratch};
use crate::BlockPattern;
use crate::pattern::equal_work;

/// One block-sparse layer of a feed-forward block.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// `[nnz, b, b]`.
    pub values: Values<'a>,
    /// Which blocks they are.
    pub pattern: &'a BlockPattern,
}

impl<'a> Layer<'a> {
    pub(super) fn factor(&self) -> Factor<'a> {
        Factor::forward(self.values, self.pattern)
    }

    /// The product by the transposed weight.
    pub(super) fn turned(&self, left: Panels) -> Term<'a> {
        Term { left, right: Factor::transposed(self.values, self.pattern) }
    }
}

/// A feed-forward block of two or three layers of one block size.
#[derive(Debug, Clone, Copy)]
pub struct Mlp<'a> {
    /// `[d_model, d_ff]`, through the activation.
    pub gate: Layer<'a>,
    /// `[d_model, d_ff]`, multiplied by what the activation gives; absent in a plain block.
    pub up: Option<Layer<'a>>,
    /// `[d_ff, d_model]`.
    pub down: Layer<'a>,
    /// Between the layers.
    pub activation: Activation,
    /// Bias of the gate, `[d_ff]`.
    pub gate_bias: Option<&'a [f32]>,
    /// Bias of the last layer, `[d_model]`.
    pub down_bias: Option<&'a [f32]>,
}

impl<'a> Mlp<'a> {
    /// # Panics
    /// If sizes do not follow each other or the layers have different blocks.
    pub(super) fn check(&self) {
        let (hidden, down) = (self.gate.pattern.shape(), self.down.pattern.shape());
        assert_eq!(hidden.cols(), down.rows(), "down must take what gate gives");
        for layer in [Some(self.gate), self.up, Some(self.down)].into_iter().flatten() {
            check_values(layer.values, layer.pattern);
            assert_eq!(layer.pattern.block(), self.b_size(), "layers must have one block size");
        }
        if let Some(up) = self.up {
            assert_eq!(up.pattern.shape(), hidden, "gate and up must have one shape");
        }
        let lengths = [(self.gate_bias, hidden.cols()), (self.down_bias, down.cols())];
        for (bias, len) in lengths {
            assert!(bias.is_none_or(|bias| bias.len() == len), "a bias must be [d_output]");
        }
    }

    fn b_size(&self) -> crate::BlockSize {
        self.gate.pattern.block()
    }

    pub(super) fn b(&self) -> usize {
        self.b_size().get()
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

/// Applies the block, and writes `out`.
///
/// # Shapes
/// - `x`: `[m, d_model]`
/// - `out`: `[m, d_output]`, every element is written
///
/// # Panics
/// If a slice has another length, sizes do not follow each other, or blocks differ.
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
    let epilogue = Epilogue { bias: mlp.down_bias, activation: None };
    let output = Output::new(SharedOut::new(out), m, mlp.d_output(), epilogue);
    let threads = threads_for(m * mlp.value_count());
    match chunks(m, mlp.d_ff(), threads) {
        Some(chunks) => each(chunks, threads, |rows| rows_of(x, rows, mlp, &output, 1)),
        None => rows_of(x, 0..m, mlp, &output, threads),
    }
}

/// All of the block for some rows.
fn rows_of(x: &[f32], rows: Range<usize>, mlp: &Mlp<'_>, output: &Output<'_>, threads: usize) {
    let (b, d_input, count) = (mlp.b(), mlp.d_input(), rows.len());
    let x_len = panel_len(count, d_input, b);
    scratch::with(x_len + panel_len(count, mlp.d_ff(), b), |buffer| {
        let (panels, hidden) = buffer.split_at_mut(x_len);
        pack_all(x, d_input, rows.clone(), b, panels, threads);
        let x = Panels::new(panels, count);
        let to = SharedOut::of(hidden);
        each(equal_work(mlp.gate.pattern.col_ptr(), ranges_for(threads)), threads, |cols| {
            hidden_columns(x, mlp, cols, to);
        });
        let term = Term { left: Panels::new(hidden, count), right: mlp.down.factor() };
        each(equal_work(mlp.down.pattern.col_ptr(), ranges_for(threads)), threads, |cols| {
            output.columns(&[term], rows.clone(), cols);
        });
    });
}

/// Writes the panels `cols` of the hidden features.
fn hidden_columns(x: Panels, mlp: &Mlp<'_>, cols: Range<usize>, to: SharedOut) {
    let (gate, up) = (mlp.gate.factor(), mlp.up.as_ref().map(Layer::factor));
    let convert = gate.scratch_len().max(up.map_or(0, |up| up.scratch_len()));
    scratch::with(convert + x.rows() * mlp.b(), |buffer| {
        let (convert, other) = buffer.split_at_mut(convert);
        let len = x.rows() * mlp.b();
        for col in cols {
            // SAFETY: each panel belongs to one task.
            let panel = unsafe { to.slice(col * len, len) };
            let gate = Term { left: x, right: gate };
            // SAFETY: a panel has room for its rows of a whole block.
            unsafe { column(&[gate], col, Target::panel(panel, mlp.b()), convert) };
            add_bias(panel, mlp.gate_bias, col, mlp.b());
            let Some(up) = up else {
                mlp.activation.apply(panel);
                continue;
            };
            let up = Term { left: x, right: up };
            // SAFETY: as above.
            unsafe { column(&[up], col, Target::panel(other, mlp.b()), convert) };
            mlp.activation.gate(panel, other);
        }
    });
}

/// Adds block column `col` of a bias to the rows of a panel.
pub(super) fn add_bias(panel: &mut [f32], bias: Option<&[f32]>, col: usize, b: usize) {
    let Some(bias) = bias else { return };
    let bias = &bias[col * b..bias.len().min((col + 1) * b)];
    for line in panel.chunks_exact_mut(b) {
        for (y, bias) in line.iter_mut().zip(bias) {
            *y += bias;
        }
    }
}
