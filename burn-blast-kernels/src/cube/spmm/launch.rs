//! Buffers in, one launch.

use cubecl::prelude::*;

use super::base::Blueprint;
use super::kernel::spmm_kernel;
use super::plan::{Plan, plans};
use crate::cube::call::{check_len, row_vector};
use crate::cube::cmma;
use crate::cube::gemv;
use crate::cube::index::{IndexBuffer, PatternIndex};
use crate::cube::mma;
use crate::cube::mma::offer::class;
use crate::cube::{Call, Epilogue};

/// Writes `f(x · w + bias) + residual` to `y`, as far as the epilogue has them. The product with an empty block
/// column is zero.
///
/// # Shapes
/// - `x`: `[m, d_input]`
/// - `values`: `[nnz, b, b]`
/// - `bias`: `[d_output]`, `residual`: `[m, d_output]`
/// - `y`: `[m, d_output]`, which shares no memory with the inputs: a tuned product is run several times
///
/// # Panics
/// If a buffer has another size, or if there are bias and residual and the device does not take both:
/// [`Call::takes_residual`].
pub fn spmm(
    call: &Call,
    x: BufferArg,
    values: BufferArg,
    epilogue: Epilogue,
    y: BufferArg,
    m: usize,
) {
    let index = call.index();
    launch(call, &index, Side::of(call, &index, false), [x, values, y], epilogue, m);
}

/// Writes `dy · wᵀ + residual` to `dx`. The product with an empty block row is zero.
///
/// # Shapes
/// - `dy`: `[m, d_output]`
/// - `values`: `[nnz, b, b]`
/// - `residual`, `dx`: `[m, d_input]`; `dx` shares no memory with the inputs, as in [`spmm`]
///
/// # Panics
/// If a buffer has another size, or if there is a residual and the device does not take it:
/// [`Call::takes_residual`].
pub fn spmm_t(
    call: &Call,
    dy: BufferArg,
    values: BufferArg,
    residual: Option<BufferArg>,
    dx: BufferArg,
    m: usize,
) {
    let index = call.index();
    let epilogue = Epilogue { residual, ..Epilogue::default() };
    launch(call, &index, Side::of(call, &index, true), [dy, values, dx], epilogue, m);
}

/// The view of the pattern a product walks, and its sizes.
pub(in crate::cube) struct Side<'a> {
    pub order: &'a IndexBuffer,
    pub ptr: &'a IndexBuffer,
    pub idx: &'a IndexBuffer,
    pub slot: Option<&'a IndexBuffer>,
    pub lines: usize,
    pub contraction: usize,
    pub output: usize,
}

impl<'a> Side<'a> {
    /// The view of the call's pattern for a product with the weight, or with its transpose.
    pub(super) fn of(call: &Call, index: &'a PatternIndex, transposed: bool) -> Self {
        let (pattern, shape) = (call.pattern, call.pattern.shape());
        if transposed {
            return Self {
                order: &index.rows_by_length,
                ptr: &index.row_ptr,
                idx: &index.col_idx,
                slot: Some(&index.slot),
                lines: pattern.block_rows(),
                contraction: shape.cols(),
                output: shape.rows(),
            };
        }
        Self {
            order: &index.cols_by_length,
            ptr: &index.col_ptr,
            idx: &index.row_idx,
            slot: None,
            lines: pattern.block_cols(),
            contraction: shape.rows(),
            output: shape.cols(),
        }
    }

    fn transposed(&self) -> bool {
        self.slot.is_some()
    }
}

fn launch(
    call: &Call,
    index: &PatternIndex,
    side: Side,
    [x, values, y]: [BufferArg; 3],
    epilogue: Epilogue,
    m: usize,
) {
    check_len("input", &x, &[m, side.contraction]);
    check_len("values", &values, &[call.pattern.value_count()]);
    check_len("output", &y, &[m, side.output]);
    epilogue.check(m, side.output);
    let room = call.takes_residual() || (epilogue.bias.is_none() && !side.transposed());
    epilogue.check_residual(room, call.client.name());
    if m == 0 {
        return;
    }
    if !side.transposed() && epilogue.is_bias() && gemv::serves_few_rows(call, m) {
        return gemv::spmm(call, [x, values, y], epilogue.bias, m);
    }
    let block = call.pattern.block();
    let offer = call.offer();
    let address = AddressType::from_len(x.len().max(values.len()).max(y.len()));
    let class = class(&offer, block, [side.contraction, side.output], address);
    let work = [m, side.lines];
    let plans = plans(&offer, class, block, side.transposed(), work, call.max_units());
    #[cfg(feature = "autotune")]
    if plans.len() > 1 && super::tune::is_on(call.client) {
        let product = super::tune::Product::new(call, side.transposed(), m, plans);
        return product.run([x, values, y], epilogue);
    }
    run(call, index, side, plans[0], [x, values, y], epilogue, m);
}

/// Launches the product as `plan` describes. Buffers have the sizes that the caller checked, and `m` is not zero.
pub(super) fn run(
    call: &Call,
    index: &PatternIndex,
    side: Side,
    plan: Plan,
    [x, values, y]: [BufferArg; 3],
    epilogue: Epilogue,
    m: usize,
) {
    let address = AddressType::from_len(x.len().max(values.len()).max(y.len()));
    let buffers = [x, values, y];
    match plan {
        Plan::Mma(plan) => {
            mma::spmm::launch(call, index, side, plan, buffers, epilogue, m, address)
        }
        Plan::Cmma(plan) => cmma::spmm(call, index, side, plan, buffers, epilogue, m, address),
        Plan::Unit(tile) => register_tiles(call, index, side, tile, buffers, epilogue, m, address),
    }
}

#[allow(clippy::too_many_arguments)]
fn register_tiles(
    call: &Call,
    index: &PatternIndex,
    side: Side,
    tile: Blueprint,
    [x, values, y]: [BufferArg; 3],
    epilogue: Epilogue,
    m: usize,
    address: AddressType,
) {
    let cubes = m.div_ceil(tile.rows) * side.lines * tile.parts();
    // Transposed sums lie `units_n` columns apart and are stored one by one.
    let y_vector = if tile.transposed { 1 } else { row_vector(side.output) };
    spmm_kernel::launch(
        call.client,
        call.cubes(cubes),
        CubeDim::new_1d(tile.units() as u32),
        address,
        row_vector(side.contraction),
        y_vector,
        x,
        index.bindable(values),
        epilogue.bias.into(),
        side.order.arg(),
        side.ptr.arg(),
        side.idx.arg(),
        side.slot.map(IndexBuffer::arg).into(),
        epilogue.residual.into(),
        y,
        m,
        side.contraction,
        side.output,
        cubes,
        tile,
        epilogue.activation,
        call.dtype,
    );
}
