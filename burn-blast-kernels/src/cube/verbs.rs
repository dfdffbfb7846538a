//! The operations, as callers see them: each checks its buffers, plans, and launches.

use cubecl::prelude::*;

use super::buffer::check_len;
use super::context::Context;
use super::dispatch::{Args, Op, Plan, Problem, Unfused, candidates, launch};
use super::epilogue::Epilogue;
use super::gated::Tensors as GatedTensors;
use super::sddmm::Tensors as SampledTensors;
use super::spmm::{Tensors as ProductTensors, sides};
use crate::Activation;
use crate::BlockPattern;

/// Writes `f(x · w + bias) + residual` to `y`, with the parts that the epilogue has. The product with an empty block
/// column is zero. Returns what is left to the caller: for few rows the activation, and the residual beside a bias
/// where the device binds too few buffers.
///
/// # Shapes
/// - `x`: `[m, d_input]`
/// - `values`: `[nnz, b, b]`
/// - `bias`: `[d_output]`, `residual`: `[m, d_output]`
/// - `y`: `[m, d_output]`, which shares no memory with the inputs: a tuned product is run several times
///
/// # Panics
/// If a buffer has another size.
pub fn spmm(
    ctx: &Context,
    x: BufferArg,
    values: BufferArg,
    epilogue: Epilogue,
    y: BufferArg,
    m: usize,
) -> Unfused {
    let op = Op::Spmm {
        bias: epilogue.bias.is_some(),
        activation: epilogue.activation.is_some(),
        residual: epilogue.residual.is_some(),
    };
    product(ctx, op, ProductTensors { transposed: false, x, values, y, epilogue, m })
}

/// Writes `dy · wᵀ + residual` to `dx`. The product with an empty block row is zero. Returns what is left to the
/// caller: the residual where the device binds too few buffers.
///
/// # Shapes
/// - `dy`: `[m, d_output]`
/// - `values`: `[nnz, b, b]`
/// - `residual`, `dx`: `[m, d_input]`; `dx` shares no memory with the inputs, as in [`spmm`]
///
/// # Panics
/// If a buffer has another size.
pub fn spmm_t(
    ctx: &Context,
    dy: BufferArg,
    values: BufferArg,
    residual: Option<BufferArg>,
    dx: BufferArg,
    m: usize,
) -> Unfused {
    let op = Op::SpmmT { residual: residual.is_some() };
    let epilogue = Epilogue { residual, ..Epilogue::default() };
    product(ctx, op, ProductTensors { transposed: true, x: dy, values, y: dx, epilogue, m })
}

fn product(ctx: &Context, op: Op, mut tensors: ProductTensors) -> Unfused {
    let m = tensors.m;
    let [contraction, output] = sides(ctx.pattern, tensors.transposed);
    check_len("input", &tensors.x, &[m, contraction]);
    check_len("values", &tensors.values, &[ctx.pattern.value_count()]);
    check_len("output", &tensors.y, &[m, output]);
    tensors.epilogue.check(m, output);
    if m == 0 {
        return Unfused::Nothing;
    }
    let plans = candidates(op, &ctx.caps, &Problem { pattern: ctx.pattern, m });
    let Plan { unfused, .. } = plans[0];
    match unfused {
        Unfused::Nothing => {}
        Unfused::Activation => tensors.epilogue.activation = None,
        Unfused::Residual => tensors.epilogue.residual = None,
    }
    // The tuner may launch another plan than [`Context::plan`] returns, with another tile height.
    #[cfg(feature = "autotune")]
    if plans.len() > 1 && super::tune::is_on(ctx.client) {
        super::tune::Product::new(ctx, plans, tensors).run();
        return unfused;
    }
    launch(ctx, plans[0], Args::Product(tensors));
    unfused
}

/// Writes `x · (scales · values)` to `y`, where each block of integers has a scale. The product with an empty block
/// column is zero. Where no kernel reads the integers as they are, it takes the values that `dequantize` returns
/// instead.
///
/// # Shapes
/// - `x`: `[m, d_input]`
/// - `values`: `[nnz, b, b / 4]` words of 32 bits, each of four integers with the first in the lowest byte, as `i8` is
///   stored in the memory of a little-endian host
/// - `scales`: `[nnz]`, f32
/// - the result of `dequantize`: `[nnz, b, b]`
/// - `y`: `[m, d_output]`
///
/// # Panics
/// If a buffer has another size.
pub fn spmm_int8(
    ctx: &Context,
    x: BufferArg,
    [values, scales]: [BufferArg; 2],
    dequantize: impl FnOnce() -> BufferArg,
    y: BufferArg,
    m: usize,
) {
    let (pattern, shape) = (ctx.pattern, ctx.pattern.shape());
    check_len("input", &x, &[m, shape.rows()]);
    check_len("values", &values, &[pattern.value_count() / 4]);
    check_len("scales", &scales, &[pattern.nnz()]);
    check_len("output", &y, &[m, shape.cols()]);
    if m == 0 {
        return;
    }
    let plan = ctx.plan(Op::SpmmInt8, m);
    if plan.dequantize {
        spmm(ctx, x, dequantize(), Epilogue::default(), y, m);
    } else {
        launch(ctx, plan, Args::Int8 { x, values, scales, y, m });
    }
}

/// Writes `xᵀ · dy` at the kept blocks to `dw`, zero outside the weight. With `m = 0` it is zero everywhere.
///
/// # Shapes
/// - `x`: `[m, d_input]`
/// - `dy`: `[m, d_output]`
/// - `dw`: `[nnz, b, b]`
///
/// # Panics
/// If a buffer has another size.
pub fn sddmm(ctx: &Context, x: BufferArg, dy: BufferArg, dw: BufferArg, m: usize) {
    check_len("weight gradient", &dw, &[ctx.pattern.value_count()]);
    let empty = dw.is_empty();
    sampled(ctx, Op::Sddmm, empty, SampledTensors { x, dy, out: dw, m });
}

/// Writes the Frobenius norm of every block of `xᵀ · dy`, kept or not, to `norms`. The product itself is never stored.
///
/// # Shapes
/// - `x`: `[m, d_input]`
/// - `dy`: `[m, d_output]`
/// - `norms`: `[block_rows, block_cols]`
///
/// # Panics
/// If a buffer has another size.
pub fn grad_block_norms(ctx: &Context, x: BufferArg, dy: BufferArg, norms: BufferArg, m: usize) {
    check_len("norms", &norms, &[ctx.pattern.block_rows(), ctx.pattern.block_cols()]);
    sampled(ctx, Op::GradBlockNorms, false, SampledTensors { x, dy, out: norms, m });
}

fn sampled(ctx: &Context, op: Op, empty: bool, tensors: SampledTensors) {
    let (shape, m) = (ctx.pattern.shape(), tensors.m);
    check_len("input", &tensors.x, &[m, shape.rows()]);
    check_len("output gradient", &tensors.dy, &[m, shape.cols()]);
    if !empty {
        launch(ctx, ctx.plan(op, m), Args::Sampled(tensors));
    }
}

/// Writes `f(x · gate) · (x · up)` to `h`. The pattern of the gate is the one of the context.
///
/// # Shapes
/// - `x`: `[m, d_model]`
/// - `values`, of gate and up: `[nnz, b, b]`
/// - `h`: `[m, d_ff]`
///
/// # Panics
/// If a buffer has another size, or gate and up have different sizes or blocks.
pub fn gated_hidden(
    ctx: &Context,
    up: &BlockPattern,
    activation: Activation,
    x: BufferArg,
    values: [BufferArg; 2],
    h: BufferArg,
    m: usize,
) {
    gated(ctx, GatedTensors { up, activation, x, values, h, gradients: None, m });
}

/// Writes the gradients of `x · gate` and `x · up` to `dgate` and `dup`, and the hidden features
/// `f(x · gate) · (x · up)` to `h`, which holds their gradient on entry.
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
    ctx: &Context,
    up: &BlockPattern,
    activation: Activation,
    x: BufferArg,
    values: [BufferArg; 2],
    h: BufferArg,
    [dgate, dup]: [BufferArg; 2],
    m: usize,
) {
    let gradients = Some((dgate, dup));
    gated(ctx, GatedTensors { up, activation, x, values, h, gradients, m });
}

fn gated(ctx: &Context, tensors: GatedTensors) {
    let (gate, shape) = (ctx.pattern, ctx.pattern.shape());
    let GatedTensors { up, ref x, ref values, ref h, ref gradients, m, .. } = tensors;
    assert!(
        shape == up.shape() && gate.block() == up.block(),
        "gate and up must have one size and one block size, got {gate:?} and {up:?}"
    );
    check_len("input", x, &[m, shape.rows()]);
    check_len("values of the gate", &values[0], &[gate.value_count()]);
    check_len("values of up", &values[1], &[up.value_count()]);
    check_len("hidden features", h, &[m, shape.cols()]);
    if let Some((dgate, dup)) = gradients {
        check_len("gradient of the gate", dgate, &[m, shape.cols()]);
        check_len("gradient of up", dup, &[m, shape.cols()]);
    }
    if m > 0 {
        let plan = ctx.plan(Op::Gated { up, backward: gradients.is_some() }, m);
        launch(ctx, plan, Args::Gated(tensors));
    }
}

/// Writes the Frobenius norm of each kept block to `norms`.
///
/// # Shapes
/// - `values`: `[nnz, b, b]`
/// - `norms`: `[nnz]`
///
/// # Panics
/// If a buffer has another size.
pub fn block_norms(ctx: &Context, values: BufferArg, norms: BufferArg) {
    check_len("values", &values, &[ctx.pattern.value_count()]);
    check_len("norms", &norms, &[ctx.pattern.nnz()]);
    if !norms.is_empty() {
        launch(ctx, ctx.plan(Op::BlockNorms, 0), Args::Norms { values, norms });
    }
}

/// Gathers the kept blocks of a dense weight into `values`, zero outside the weight.
///
/// # Shapes
/// - `dense`: `[d_input, d_output]`
/// - `values`: `[nnz, b, b]`
///
/// # Panics
/// If a buffer has another size.
pub fn pack(ctx: &Context, dense: BufferArg, values: BufferArg) {
    check_layout(ctx, &dense, &values);
    if !values.is_empty() {
        launch(ctx, ctx.plan(Op::Pack, 0), Args::Layout { from: dense, to: values });
    }
}

/// Scatters packed values into a dense weight, zero where no block is kept.
///
/// # Shapes
/// - `values`: `[nnz, b, b]`
/// - `dense`: `[d_input, d_output]`
///
/// # Panics
/// If a buffer has another size.
pub fn unpack(ctx: &Context, values: BufferArg, dense: BufferArg) {
    check_layout(ctx, &dense, &values);
    launch(ctx, ctx.plan(Op::Unpack, 0), Args::Layout { from: values, to: dense });
}

fn check_layout(ctx: &Context, dense: &BufferArg, values: &BufferArg) {
    let shape = ctx.pattern.shape();
    check_len("dense weight", dense, &[shape.rows(), shape.cols()]);
    check_len("values", values, &[ctx.pattern.value_count()]);
}
