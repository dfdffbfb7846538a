//! The feed-forward block as one operation: `down(f(gate(x)) · up(x))`, or `down(f(gate(x)))` without `up`.
//!
//! The hidden features exist for one chunk of rows at a time, already in the panels that the last product reads. The
//! backward pass re-computes them instead of storing them.

use std::mem::MaybeUninit;
use std::ops::Range;

use derive_new::new;

use super::activation::Elements;
use super::arithmetic::Words;
use super::dot::words_for;
use super::features::{FeatureShape, Features};
use super::macro_kernel::{Target, Term, macro_kernel};
use super::operand::SparseOperand;
use super::output::Output;
use super::panels::{Operand, Panels};
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

    /// The words in which features of type `T` are multiplied.
    pub(super) fn words<T: 'static>(&self) -> Words {
        let layers = [Some(self.gate), self.up, Some(self.down)];
        words_for::<T>(layers.into_iter().flatten().map(|layer| layer.values), self.b())
    }

    /// Features of `width`, of some rows. `factor` says what they are in weight gradients.
    pub(super) fn features(
        &self,
        rows: usize,
        width: usize,
        words: Words,
        factor: Option<Operand>,
    ) -> FeatureShape {
        FeatureShape { rows, width, b: self.b(), words, factor }
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
    if out.is_empty() {
        return;
    }
    let words = mlp.words::<T>();
    let call = Call { mlp, x: T::values(x), words };
    let output = Output::new(SharedOut::new(out), m, mlp.d_output(), mlp.down_bias);
    let threads = threads_for(words.work(m * mlp.value_count()));
    match row_chunks(m, mlp.d_ff(), words, threads) {
        Some(chunks) => run_tasks(chunks, threads, |rows| call.rows(rows, &output, 1)),
        None => call.rows(0..m, &output, threads),
    }
}

/// A block and its input.
struct Call<'a> {
    mlp: &'a Mlp<'a>,
    x: Values<'a>,
    words: Words,
}

impl Call<'_> {
    /// The whole block for some rows.
    fn rows<T: HostFloat>(&self, rows: Range<usize>, output: &Output<'_, T>, threads: usize) {
        let mlp = self.mlp;
        let shape = |width| mlp.features(rows.len(), width, self.words, None);
        let (input, hidden) = (shape(mlp.d_input()), shape(mlp.d_ff()));
        scratch::with(input.len() + hidden.len(), |buffer| {
            let (x, buffer) = Features::split(buffer, input);
            let (hidden, _) = Features::split(buffer, hidden);
            x.write_all(self.x, rows.clone(), threads);
            let tasks = equal_work(mlp.gate.pattern.col_ptr(), task_count(threads));
            run_tasks(tasks, threads, |cols| self.hidden_columns(x.for_product(), cols, hidden));
            let term = Term::new(hidden.for_product(), mlp.down.weight());
            let tasks = equal_work(mlp.down.pattern.col_ptr(), task_count(threads));
            run_tasks(tasks, threads, |cols| output.columns(&[term], rows.clone(), cols));
        });
    }

    /// Writes the panels `cols` of the hidden features.
    fn hidden_columns(&self, x: Panels, cols: Range<usize>, to: Features) {
        let mlp = self.mlp;
        let gate = Term::new(x, mlp.gate.weight());
        let up = mlp.up.as_ref().map(|up| Term::new(x, up.weight()));
        let convert = gate.weight.scratch_len().max(up.map_or(0, |up| up.weight.scratch_len()));
        scratch::with(convert + 2 * to.panel_len(), |buffer| {
            let (convert, buffer) = buffer.split_at_mut(convert);
            let (room, other) = buffer.split_at_mut(to.panel_len());
            for col in cols {
                // SAFETY: each panel belongs to one task.
                let panel = unsafe { to.panel(col, room) };
                // SAFETY: a panel has room for its rows of a whole block.
                unsafe { macro_kernel(&[gate], col, Target::panel(panel, mlp.b()), convert) };
                add_bias(panel, mlp.gate_bias, col, mlp.b());
                if let Some(up) = up {
                    // SAFETY: as above.
                    unsafe { macro_kernel(&[up], col, Target::panel(other, mlp.b()), convert) };
                    mlp.activation.apply(Elements::Gated(panel, other));
                } else {
                    mlp.activation.apply(Elements::Plain(panel));
                }
                // SAFETY: each panel belongs to one task.
                unsafe { to.keep(col, panel) };
            }
        });
    }
}

/// Adds block column `col` of a bias to the rows of a panel.
pub(super) fn add_bias(panel: &mut [f32], bias: Option<&[f32]>, col: usize, b: usize) {
    let Some(bias) = bias else { return };
    let bias = &bias[col * b..bias.len().min((col + 1) * b)];
    for row in panel.chunks_exact_mut(b) {
        row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
    }
}
