//! Buffers in, one launch.

use cubecl::prelude::*;

use super::kernel::gated_kernel;
use crate::Activation;
use crate::BlockPattern;
use crate::cube::Call;
use crate::cube::call::{check_len, row_vector};
use crate::cube::index::GatedIndex;
use crate::cube::mma;
use crate::cube::mma::offer::{Class, class};
use crate::cube::sizes::SizesLaunch;
use crate::cube::spmm::base::select;

/// Writes `f(x · gate) · (x · up)` to `h`. The call's pattern is that of the gate.
///
/// # Shapes
/// - `x`: `[m, d_model]`
/// - `values`, of gate and up: `[nnz, b, b]`
/// - `h`: `[m, d_ff]`
///
/// # Panics
/// If a buffer has another size, or gate and up have different sizes or blocks.
pub fn gated_hidden(
    call: &Call,
    up: &BlockPattern,
    activation: Activation,
    x: BufferArg,
    values: [BufferArg; 2],
    h: BufferArg,
    m: usize,
) {
    launch(call, up, activation, Buffers { x, values, h, gradients: None }, m);
}

/// From the gradient `dh` of `h = f(x · gate) · (x · up)`, which `h` holds when called: writes the gradients of
/// `x · gate` and `x · up` to `dgate` and `dup`, and `h` over `dh`.
///
/// # Shapes
/// - `x`: `[m, d_model]`
/// - `values`, of gate and up: `[nnz, b, b]`
/// - `h`, `dgate`, `dup`: `[m, d_ff]`
///
/// # Panics
/// If a buffer has another size, or gate and up have different sizes or blocks.
#[allow(clippy::too_many_arguments)]
pub fn gated_hidden_backward(
    call: &Call,
    up: &BlockPattern,
    activation: Activation,
    x: BufferArg,
    values: [BufferArg; 2],
    h: BufferArg,
    [dgate, dup]: [BufferArg; 2],
    m: usize,
) {
    launch(call, up, activation, Buffers { x, values, h, gradients: Some((dgate, dup)) }, m);
}

/// The tensors of a launch.
pub(in crate::cube) struct Buffers {
    pub x: BufferArg,
    pub values: [BufferArg; 2],
    pub h: BufferArg,
    pub gradients: Option<(BufferArg, BufferArg)>,
}

impl Buffers {
    fn check(&self, gate: &BlockPattern, up: &BlockPattern, m: usize) {
        let shape = gate.shape();
        assert!(
            shape == up.shape() && gate.block() == up.block(),
            "gate and up must have one size and one block size, got {gate:?} and {up:?}"
        );
        check_len("input", &self.x, &[m, shape.rows()]);
        check_len("values of the gate", &self.values[0], &[gate.value_count()]);
        check_len("values of up", &self.values[1], &[up.value_count()]);
        check_len("hidden features", &self.h, &[m, shape.cols()]);
        if let Some((dgate, dup)) = &self.gradients {
            check_len("gradient of the gate", dgate, &[m, shape.cols()]);
            check_len("gradient of up", dup, &[m, shape.cols()]);
        }
    }

    fn address(&self) -> AddressType {
        let values = self.values.iter().map(BufferArg::len);
        AddressType::from_len(values.fold(self.x.len().max(self.h.len()), usize::max))
    }
}

fn launch(call: &Call, up: &BlockPattern, activation: Activation, buffers: Buffers, m: usize) {
    let (gate, shape) = (call.pattern, call.pattern.shape());
    buffers.check(gate, up, m);
    if m == 0 {
        return;
    }
    let address = buffers.address();
    let index = call.index();
    let values = buffers.values.map(|values| index.bindable(values));
    let buffers = Buffers { values, ..buffers };
    let tasks = GatedIndex::of(gate, up, call.client);
    let (block, lines, joint) = (gate.block(), gate.block_cols(), gate == up);
    let offer = call.offer();
    if let Class::Mma { pipelined } = class(&offer, block, [shape.rows(), shape.cols()], address)
        && let Some(plan) = mma::gated::select(&offer, block, joint, m, lines, pipelined)
    {
        return mma::gated::launch(call, &tasks, plan, activation, buffers, m, address);
    }
    let tile = select(block, false, m, call.max_units());
    let cubes = m.div_ceil(tile.rows) * lines * tile.parts();
    let [gate, up] = buffers.values;
    gated_kernel::launch(
        call.client,
        call.cubes(cubes),
        CubeDim::new_1d(tile.units() as u32),
        address,
        row_vector(shape.rows()),
        row_vector(shape.cols()),
        buffers.x,
        gate,
        up,
        tasks.tasks.arg(),
        buffers.h,
        buffers.gradients.into(),
        SizesLaunch::new(m, shape.rows(), shape.cols()),
        cubes,
        tile,
        joint,
        activation,
        call.dtype,
    );
}
