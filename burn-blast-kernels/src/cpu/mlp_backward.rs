//! Backward pass of the feed-forward block. Of the forward pass it needs the input only.

use std::ops::Range;

use super::activation::Elements;
use super::macro_kernel::{Target, Term, macro_kernel};
use super::mlp::{Mlp, MlpLayer, add_bias};
use super::output::Output;
use super::panels::{Panels, panels_len, write_all_panels};
use super::sddmm::Operands;
use super::spmm::filled;
use super::tasks::{SharedOut, run_tasks, task_count, threads_for};
use super::{HostFloat, scratch};
use crate::BlockPattern;
use crate::pattern::equal_work;

/// Rows whose hidden features exist at once. With fewer, the weight gradients would be read and written more often.
const CHUNK_ROWS: usize = 256;

/// Gradients of a feed-forward block, by [`mlp_backward`].
#[derive(Debug, Clone)]
pub struct MlpGradients<T> {
    /// Gradient of the input, `[m, d_model]`.
    pub input: Vec<T>,
    /// Gradient of the values of `gate`.
    pub gate: Vec<T>,
    /// Gradient of the values of `up`, if the block has it.
    pub up: Option<Vec<T>>,
    /// Gradient of the values of `down`.
    pub down: Vec<T>,
    /// Gradient of the bias of `gate`, `[d_ff]`, if it has one. The bias of `down` has the sum of `dy` over its rows.
    pub gate_bias: Option<Vec<T>>,
}

/// Computes the gradients of a feed-forward block from `dy`, the gradient of its output.
///
/// # Shapes
/// - `x`: `[m, d_model]`, `dy`: `[m, d_output]`
///
/// # Panics
/// If a slice has another length, layers do not fit each other, or block sizes differ.
pub fn mlp_backward<T: HostFloat>(x: &[T], dy: &[T], mlp: &Mlp<'_>, m: usize) -> MlpGradients<T> {
    mlp.check();
    assert_eq!(x.len(), m * mlp.d_input(), "x must be [m, d_model]");
    assert_eq!(dy.len(), m * mlp.d_output(), "dy must be [m, d_output]");
    let (x, dy) = (T::widen(x), T::widen(dy));
    // Zeros are the result without rows. Otherwise the first chunk overwrites the sums and later ones add to them.
    let zeros = |layer: &MlpLayer<'_>| vec![0.0; layer.pattern.value_count()];
    let mut gate = zeros(&mlp.gate);
    let mut up = mlp.up.as_ref().map(zeros);
    let mut down = zeros(&mlp.down);
    let mut bias = mlp.gate_bias.map(|bias| vec![0.0; bias.len().next_multiple_of(mlp.b())]);
    let input = filled(x.len(), |out| {
        let backward = Backward {
            mlp,
            x: &x,
            dy: &dy,
            m,
            threads: threads_for(3 * m * mlp.value_count()),
            dx: SharedOut::new(out),
            gate: SharedOut::initialised(&mut gate),
            up: up.as_mut().map(|up| SharedOut::initialised(up)),
            down: SharedOut::initialised(&mut down),
            bias: bias.as_mut().map(|bias| SharedOut::initialised(bias)),
        };
        for start in (0..m).step_by(CHUNK_ROWS) {
            backward.chunk(start..m.min(start + CHUNK_ROWS));
        }
    });
    MlpGradients {
        input: T::narrow(input),
        gate: T::narrow(gate),
        up: up.map(T::narrow),
        down: T::narrow(down),
        gate_bias: bias.map(|mut bias| {
            bias.truncate(mlp.d_ff());
            T::narrow(bias)
        }),
    }
}

struct Backward<'a> {
    mlp: &'a Mlp<'a>,
    x: &'a [f32],
    dy: &'a [f32],
    m: usize,
    threads: usize,
    dx: SharedOut,
    gate: SharedOut,
    up: Option<SharedOut>,
    down: SharedOut,
    bias: Option<SharedOut>,
}

impl Backward<'_> {
    fn chunk(&self, rows: Range<usize>) {
        let (mlp, count, b) = (self.mlp, rows.len(), self.mlp.b());
        let x_len = panels_len(count, mlp.d_input(), b);
        let dy_len = panels_len(count, mlp.d_output(), b);
        let ff_len = panels_len(count, mlp.d_ff(), b);
        let up_len = if mlp.up.is_some() { ff_len } else { 0 };
        scratch::with(x_len + dy_len + 2 * ff_len + up_len, |buffer| {
            let (x, buffer) = buffer.split_at_mut(x_len);
            let (dy, buffer) = buffer.split_at_mut(dy_len);
            let (gate, buffer) = buffer.split_at_mut(ff_len);
            let (hidden, up) = buffer.split_at_mut(ff_len);
            write_all_panels(self.x, mlp.d_input(), rows.clone(), b, x, self.threads);
            write_all_panels(self.dy, mlp.d_output(), rows.clone(), b, dy, self.threads);
            let (x, dy) = (Panels::new(x, count), Panels::new(dy, count));
            let to = [
                SharedOut::initialised(gate),
                SharedOut::initialised(up),
                SharedOut::initialised(hidden),
            ];
            let tasks = equal_work(mlp.gate.pattern.col_ptr(), self.tasks());
            run_tasks(tasks, self.threads, |cols| {
                self.hidden_columns(x, dy, cols, to);
            });
            let panels = |buffer: &[f32]| Panels::new(buffer, count);
            let (gate, hidden) = (panels(gate), panels(hidden));
            let up = mlp.up.as_ref().map(|layer| (layer, panels(up)));
            let add = rows.start > 0;
            self.weight_gradient(x, gate, mlp.gate.pattern, self.gate, add);
            if let (Some((layer, up)), Some(out)) = (up, self.up) {
                self.weight_gradient(x, up, layer.pattern, out, add);
            }
            self.weight_gradient(hidden, dy, mlp.down.pattern, self.down, add);
            self.input_gradient(rows, gate, up);
        });
    }

    fn tasks(&self) -> usize {
        task_count(self.threads)
    }

    /// Writes the panels `cols` of the gradients of `gate` and `up` and of the hidden features, in this order, to `to`.
    fn hidden_columns(&self, x: Panels, dy: Panels, cols: Range<usize>, to: [SharedOut; 3]) {
        let gate = Term::new(x, self.mlp.gate.weight());
        let up = self.mlp.up.as_ref().map(|up| Term::new(x, up.weight()));
        let back = self.mlp.down.transposed(dy);
        let terms = [Some(gate), up, Some(back)].into_iter().flatten();
        let len = terms.map(|term| term.weight.scratch_len()).max().unwrap_or(0);
        scratch::with(len, |convert| {
            for col in cols {
                self.hidden_column(gate, up, back, col, to, convert);
            }
        });
    }

    fn hidden_column(
        &self,
        gate: Term<'_>,
        up: Option<Term<'_>>,
        back: Term<'_>,
        col: usize,
        to: [SharedOut; 3],
        convert: &mut [f32],
    ) {
        let (mlp, b) = (self.mlp, self.mlp.b());
        let len = gate.input.rows() * b;
        let mut product = |term: Term<'_>, to: SharedOut| {
            // SAFETY: each panel belongs to one task.
            let panel = unsafe { to.slice(col * len, len) };
            // SAFETY: a panel has room for its rows of a whole block.
            unsafe { macro_kernel(&[term], col, Target::panel(panel, b), convert) };
            panel
        };
        let (gate, dh) = (product(gate, to[0]), product(back, to[2]));
        add_bias(gate, mlp.gate_bias, col, b);
        mlp.activation.apply(match up {
            Some(up) => Elements::GatedBackward(gate, product(up, to[1]), dh),
            None => Elements::PlainBackward(gate, dh),
        });
        if let Some(bias) = self.bias {
            // SAFETY: each column of the bias belongs to one task.
            let sums = unsafe { bias.slice(col * b, b) };
            for row in gate.chunks_exact(b) {
                sums.iter_mut().zip(row).for_each(|(sum, gradient)| *sum += gradient);
            }
        }
    }

    fn weight_gradient(
        &self,
        left: Panels,
        right: Panels,
        pattern: &BlockPattern,
        out: SharedOut,
        add: bool,
    ) {
        let (b, area) = (pattern.block().get(), pattern.block().area());
        let (ptr, idx) = (pattern.col_ptr(), pattern.row_idx());
        run_tasks(equal_work(ptr, self.tasks()), self.threads, |cols| {
            for col in cols {
                let operands = Operands { left, right: right.panel(col, b), b };
                let entries = ptr[col] as usize..ptr[col + 1] as usize;
                for (entry, &row) in entries.clone().zip(&idx[entries]) {
                    // SAFETY: each block belongs to one column, each column to one task.
                    let block = unsafe { out.at(entry * area) };
                    operands.block(row as usize, block, add);
                }
            }
        });
    }

    fn input_gradient(
        &self,
        rows: Range<usize>,
        gate: Panels,
        up: Option<(&MlpLayer<'_>, Panels)>,
    ) {
        let gate = self.mlp.gate.transposed(gate);
        let terms = match up {
            Some((layer, up)) => &[gate, layer.transposed(up)][..],
            None => &[gate][..],
        };
        let output = Output::new(self.dx, self.m, self.mlp.d_input(), None);
        let ptr = self.mlp.gate.pattern.row_ptr();
        run_tasks(equal_work(ptr, self.tasks()), self.threads, |cols| {
            output.columns(terms, rows.clone(), cols);
        });
    }
}
