//! Buffers in, one launch.

use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

use super::kernel::{pack_kernel, unpack_kernel};
use crate::cube::Call;
use crate::cube::call::check_len;
use crate::cube::index::GridIndex;

/// Gathers the kept blocks of a dense weight into `values`, zero outside the weight.
///
/// # Shapes
/// - `dense`: `[d_input, d_output]`
/// - `values`: `[nnz, b, b]`
///
/// # Panics
/// If a buffer has another size.
pub fn pack(call: &Call, dense: BufferArg, values: BufferArg) {
    let shape = call.pattern.shape();
    check_len("dense weight", &dense, &[shape.rows(), shape.cols()]);
    check_len("values", &values, &[call.pattern.value_count()]);
    let count = values.len();
    if count == 0 {
        return;
    }
    let index = call.index();
    let units = CubeDim::new(call.client, count);
    pack_kernel::launch(
        call.client,
        calculate_cube_count_elemwise(call.client, count, units),
        units,
        AddressType::from_len(dense.len().max(count)),
        dense,
        index.row_idx.arg(),
        index.col_of_slot.arg(),
        values,
        shape.rows(),
        shape.cols(),
        count,
        call.pattern.block().get(),
        call.dtype,
    );
}

/// Scatters packed values into a dense weight, zero where no block is kept.
///
/// # Shapes
/// - `values`: `[nnz, b, b]`
/// - `dense`: `[d_input, d_output]`
///
/// # Panics
/// If a buffer has another size.
pub fn unpack(call: &Call, values: BufferArg, dense: BufferArg) {
    let shape = call.pattern.shape();
    check_len("values", &values, &[call.pattern.value_count()]);
    check_len("dense weight", &dense, &[shape.rows(), shape.cols()]);
    let count = dense.len();
    let index = call.index();
    let grid = GridIndex::of(call.pattern, call.client);
    let units = CubeDim::new(call.client, count);
    unpack_kernel::launch(
        call.client,
        calculate_cube_count_elemwise(call.client, count, units),
        units,
        AddressType::from_len(values.len().max(count)),
        index.bindable(values),
        grid.slot_of_block.arg(),
        dense,
        shape.cols(),
        call.pattern.block_cols(),
        count,
        call.pattern.block().get(),
        call.dtype,
    );
}
