//! Buffers in, one launch.

use cubecl::prelude::*;

use super::base::select;
use super::kernel::spmm_kernel;
use crate::cube::Call;
use crate::cube::call::{check_len, row_vector};
use crate::cube::gemv;
use crate::cube::index::{IndexBuffer, PatternIndex};
use crate::cube::mma;
use crate::cube::mma::offer::{Class, class};

/// Writes `x · w + bias` to `y`. An empty block column becomes its bias, or zero.
///
/// # Shapes
/// - `x`: `[m, d_input]`
/// - `values`: `[nnz, b, b]`
/// - `bias`: `[d_output]`
/// - `y`: `[m, d_output]`
///
/// # Panics
/// If a buffer has another size.
pub fn spmm(
    call: &Call,
    x: BufferArg,
    values: BufferArg,
    bias: Option<BufferArg>,
    y: BufferArg,
    m: usize,
) {
    let shape = call.pattern.shape();
    let index = call.index();
    if let Some(bias) = &bias {
        check_len("bias", bias, &[shape.cols()]);
    }
    let side = Side {
        order: &index.cols_by_length,
        ptr: &index.col_ptr,
        idx: &index.row_idx,
        slot: None,
        lines: call.pattern.block_cols(),
        contraction: shape.rows(),
        output: shape.cols(),
    };
    launch(call, &index, side, [x, values, y], bias, m);
}

/// Writes `dy · wᵀ` to `dx`. An empty block row becomes zero.
///
/// # Shapes
/// - `dy`: `[m, d_output]`
/// - `values`: `[nnz, b, b]`
/// - `dx`: `[m, d_input]`
///
/// # Panics
/// If a buffer has another size.
pub fn spmm_t(call: &Call, dy: BufferArg, values: BufferArg, dx: BufferArg, m: usize) {
    let shape = call.pattern.shape();
    let index = call.index();
    let side = Side {
        order: &index.rows_by_length,
        ptr: &index.row_ptr,
        idx: &index.col_idx,
        slot: Some(&index.slot),
        lines: call.pattern.block_rows(),
        contraction: shape.cols(),
        output: shape.rows(),
    };
    launch(call, &index, side, [dy, values, dx], None, m);
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

impl Side<'_> {
    fn transposed(&self) -> bool {
        self.slot.is_some()
    }
}

fn launch(
    call: &Call,
    index: &PatternIndex,
    side: Side,
    [x, values, y]: [BufferArg; 3],
    bias: Option<BufferArg>,
    m: usize,
) {
    check_len("input", &x, &[m, side.contraction]);
    check_len("values", &values, &[call.pattern.value_count()]);
    check_len("output", &y, &[m, side.output]);
    if m == 0 {
        return;
    }
    if !side.transposed() && gemv::serves_few_rows(call, m) {
        return gemv::spmm(call, [x, values, y], bias, m);
    }
    let block = call.pattern.block();
    let offer = call.offer();
    let address = AddressType::from_len(x.len().max(values.len()).max(y.len()));
    if let Class::Mma { pipelined } = class(&offer, block, [side.contraction, side.output], address)
        && let Some(plan) =
            mma::spmm::select(&offer, block, side.transposed(), m, side.lines, pipelined)
    {
        return mma::spmm::launch(call, index, side, plan, [x, values, y], bias, m, address);
    }
    let tile = select(block, side.transposed(), m, call.max_units());
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
        bias.into(),
        side.order.arg(),
        side.ptr.arg(),
        side.idx.arg(),
        side.slot.map(IndexBuffer::arg).into(),
        y,
        m,
        side.contraction,
        side.output,
        cubes,
        tile,
        call.dtype,
    );
}
