//! Buffers in, one launch.

use cubecl::prelude::*;

use super::base::select;
use super::kernel::{grad_block_norms_kernel, sddmm_kernel};
use crate::cube::Call;
use crate::cube::call::{check_len, row_vector};
use crate::cube::cmma;
use crate::cube::mma;
use crate::cube::mma::offer::{Class, class};
use crate::cube::sizes::SizesLaunch;

/// Writes `xᵀ · dy` at the kept blocks to `dw`, zero outside the weight. With `m = 0` that is all zeros.
///
/// # Shapes
/// - `x`: `[m, d_input]`
/// - `dy`: `[m, d_output]`
/// - `dw`: `[nnz, b, b]`
///
/// # Panics
/// If a buffer has another size.
pub fn sddmm(call: &Call, x: BufferArg, dy: BufferArg, dw: BufferArg, m: usize) {
    let shape = call.pattern.shape();
    check_len("input", &x, &[m, shape.rows()]);
    check_len("output gradient", &dy, &[m, shape.cols()]);
    check_len("weight gradient", &dw, &[call.pattern.value_count()]);
    if dw.is_empty() {
        return;
    }
    let index = call.index();
    let block = call.pattern.block();
    let offer = call.offer();
    let address = AddressType::from_len(x.len().max(dy.len()).max(dw.len()));
    let class = class(&offer, block, [shape.rows(), shape.cols()], address);
    if let Class::Mma { pipelined } = class
        && let Some(plan) = mma::sddmm::select(&offer, block, pipelined)
    {
        return mma::sddmm::launch(call, &index, &offer, plan, [x, dy, dw], m);
    }
    if let Class::Cmma { side } = class
        && let Some(plan) = cmma::base::sampled(&offer, side, block)
    {
        return cmma::sddmm(call, &index, plan, [x, dy, dw], m, address);
    }
    let tile = select(block, call.max_units());
    let cubes = call.pattern.nnz() * tile.parts() * tile.parts();
    sddmm_kernel::launch(
        call.client,
        call.cubes(cubes),
        CubeDim::new_1d(tile.units() as u32),
        address,
        row_vector(shape.rows()),
        row_vector(shape.cols()),
        index.bindable(x),
        index.bindable(dy),
        index.row_idx.arg(),
        index.col_of_slot.arg(),
        dw,
        SizesLaunch::new(m, shape.rows(), shape.cols()),
        cubes,
        tile,
        call.dtype,
    );
}

/// Writes the Frobenius norm of every block of `xᵀ · dy`, kept or not, to `norms`. The product itself is
/// never stored.
///
/// # Shapes
/// - `x`: `[m, d_input]`
/// - `dy`: `[m, d_output]`
/// - `norms`: `[block_rows, block_cols]`
///
/// # Panics
/// If a buffer has another size.
pub fn grad_block_norms(call: &Call, x: BufferArg, dy: BufferArg, norms: BufferArg, m: usize) {
    let shape = call.pattern.shape();
    check_len("input", &x, &[m, shape.rows()]);
    check_len("output gradient", &dy, &[m, shape.cols()]);
    check_len("norms", &norms, &[call.pattern.block_rows(), call.pattern.block_cols()]);
    let index = call.index();
    let tile = select(call.pattern.block(), call.max_units());
    let cubes = call.pattern.block_count();
    grad_block_norms_kernel::launch(
        call.client,
        call.cubes(cubes),
        CubeDim::new_1d(tile.units() as u32),
        AddressType::from_len(x.len().max(dy.len())),
        row_vector(shape.rows()),
        row_vector(shape.cols()),
        index.bindable(x),
        index.bindable(dy),
        norms,
        SizesLaunch::new(m, shape.rows(), shape.cols()),
        call.pattern.block_cols(),
        cubes,
        tile,
        call.dtype,
    );
}
