//! Backward pass of the feed-forward block. Of the forward pass it needs the input only.

use std::ops::Range;

use super::activation::Elements;
use super::arithmetic::Words;
use super::features::Features;
use super::macro_kernel::{Target, Term, macro_kernel};
use super::mlp::{Mlp, MlpLayer, add_bias};
use super::output::Output;
use super::panels::{Operand, Panels};
use super::sddmm::Operands;
use super::spmm::filled;
use super::tasks::{SharedOut, run_tasks, task_count, threads_for};
use super::{HostFloat, Values, scratch};
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
    // Zeros are the result without rows. Otherwise the first chunk overwrites the sums and later ones add to them.
    let zeros = |layer: &MlpLayer<'_>| vec![0.0; layer.pattern.value_count()];
    let mut gate = zeros(&mlp.gate);
    let mut up = mlp.up.as_ref().map(zeros);
    let mut down = zeros(&mlp.down);
    let mut bias = mlp.gate_bias.map(|bias| vec![0.0; bias.len().next_multiple_of(mlp.b())]);
    let words = mlp.words::<T>();
    let input = filled(x.len(), |out| {
        let backward = Backward {
            mlp,
            words,
            x: T::values(x),
            dy: T::values(dy),
            m,
            threads: threads_for(words.work(3 * m * mlp.value_count())),
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
    words: Words,
    x: Values<'a>,
    dy: Values<'a>,
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
        let mlp = self.mlp;
        let shape = |width, factor| mlp.features(rows.len(), width, self.words, Some(factor));
        let (input, output) =
            (shape(mlp.d_input(), Operand::Left), shape(mlp.d_output(), Operand::Right));
        let (hidden, gradient) =
            (shape(mlp.d_ff(), Operand::Left), shape(mlp.d_ff(), Operand::Right));
        let up_len = if mlp.up.is_some() { gradient.len() } else { 0 };
        let len = input.len() + output.len() + hidden.len() + gradient.len() + up_len;
        scratch::with(len, |buffer| {
            let (x, buffer) = Features::split(buffer, input);
            let (dy, buffer) = Features::split(buffer, output);
            let (gate, buffer) = Features::split(buffer, gradient);
            let (h, buffer) = Features::split(buffer, hidden);
            let up = mlp.up.as_ref().map(|layer| (layer, Features::split(buffer, gradient).0));
            x.write_all(self.x, rows.clone(), self.threads);
            dy.write_all(self.dy, rows.clone(), self.threads);
            let columns =
                HiddenColumns { backward: self, x, dy, gate, up: up.map(|(_, up)| up), h };
            let tasks = equal_work(mlp.gate.pattern.col_ptr(), self.tasks());
            run_tasks(tasks, self.threads, |cols| columns.write(cols));
            let add = rows.start > 0;
            let [x, dy, h] = [x, dy, h].map(Features::for_gradient);
            self.weight_gradient(x, gate.for_gradient(), mlp.gate.pattern, self.gate, add);
            if let (Some((layer, up)), Some(out)) = (up, self.up) {
                self.weight_gradient(x, up.for_gradient(), layer.pattern, out, add);
            }
            self.weight_gradient(h, dy, mlp.down.pattern, self.down, add);
            self.input_gradient(rows, gate, up);
        });
    }

    fn tasks(&self) -> usize {
        task_count(self.threads)
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
        gate: Features,
        up: Option<(&MlpLayer<'_>, Features)>,
    ) {
        let gate = self.mlp.gate.transposed(gate.for_product());
        let terms = match up {
            Some((layer, up)) => &[gate, layer.transposed(up.for_product())][..],
            None => &[gate][..],
        };
        let output = Output::new(self.dx, self.m, self.mlp.d_input(), None);
        let ptr = self.mlp.gate.pattern.row_ptr();
        run_tasks(equal_work(ptr, self.tasks()), self.threads, |cols| {
            output.columns(terms, rows.clone(), cols);
        });
    }
}

/// The hidden features of some rows, and the gradients of what they are made of.
struct HiddenColumns<'a> {
    backward: &'a Backward<'a>,
    x: Features,
    dy: Features,
    /// The gradient of `gate`.
    gate: Features,
    /// The gradient of `up`.
    up: Option<Features>,
    h: Features,
}

impl HiddenColumns<'_> {
    /// Writes the panels `cols`.
    fn write(&self, cols: Range<usize>) {
        let mlp = self.backward.mlp;
        let gate = Term::new(self.x.for_product(), mlp.gate.weight());
        let up = mlp.up.as_ref().map(|up| Term::new(self.x.for_product(), up.weight()));
        let back = mlp.down.transposed(self.dy.for_product());
        let terms = [Some(gate), up, Some(back)].into_iter().flatten();
        let convert = terms.map(|term| term.weight.scratch_len()).max().unwrap_or(0);
        let len = self.h.panel_len();
        scratch::with(convert + 3 * len, |buffer| {
            let (convert, buffer) = buffer.split_at_mut(convert);
            let (gate_room, buffer) = buffer.split_at_mut(len);
            let (up_room, h_room) = buffer.split_at_mut(len);
            for col in cols {
                let gate_panel = product(gate, col, self.gate, gate_room, convert);
                let dh = product(back, col, self.h, h_room, convert);
                add_bias(gate_panel, mlp.gate_bias, col, mlp.b());
                let mut up_panel = None;
                mlp.activation.apply(match up.zip(self.up) {
                    Some((up, to)) => {
                        let panel = up_panel.insert(product(up, col, to, up_room, convert));
                        Elements::GatedBackward(gate_panel, panel, dh)
                    }
                    None => Elements::PlainBackward(gate_panel, dh),
                });
                self.add_bias_gradient(gate_panel, col);
                // SAFETY: each panel belongs to one task.
                unsafe {
                    self.gate.keep(col, gate_panel);
                    self.h.keep(col, dh);
                    if let (Some(up), Some(panel)) = (self.up, up_panel) {
                        up.keep(col, panel);
                    }
                }
            }
        });
    }

    fn add_bias_gradient(&self, gate: &[f32], col: usize) {
        let Some(bias) = self.backward.bias else { return };
        let b = self.backward.mlp.b();
        // SAFETY: each column of the bias belongs to one task.
        let sums = unsafe { bias.slice(col * b, b) };
        for row in gate.chunks_exact(b) {
            sums.iter_mut().zip(row).for_each(|(sum, gradient)| *sum += gradient);
        }
    }
}

/// Computes panel `col` of `to` in `f32`.
fn product<'a>(
    term: Term<'_>,
    col: usize,
    to: Features,
    room: &'a mut [f32],
    convert: &mut [f32],
) -> &'a mut [f32] {
    // SAFETY: each panel belongs to one task, and has room for its rows of a whole block.
    unsafe {
        let panel = to.panel(col, room);
        macro_kernel(&[term], col, Target::panel(panel, term.weight.b), convert);
        panel
    }
}
