//! Buffers in, one launch.

use cubecl::prelude::*;

use super::base::{Blueprint, select};
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
    if let Class::Cmma(matrix) = class
        && let Some(plan) = cmma::base::sampled(&offer, matrix, block)
    {
        return cmma::sddmm(call, &index, plan, [x, dy, dw], m, address);
    }
    register_tiles(call, select(block, call.max_units()), [x, dy, dw], m, address);
}

fn register_tiles(
    call: &Call,
    tile: Blueprint,
    [x, dy, dw]: [BufferArg; 3],
    m: usize,
    address: AddressType,
) {
    let (index, shape) = (call.index(), call.pattern.shape());
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
    norms_by_tiles(call, select(call.pattern.block(), call.max_units()), [x, dy, norms], m);
}

fn norms_by_tiles(call: &Call, tile: Blueprint, [x, dy, norms]: [BufferArg; 3], m: usize) {
    let (index, shape) = (call.index(), call.pattern.shape());
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

#[cfg(test)]
mod tests {
    use cubecl::ir::{ElemType, FloatKind};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::cube::testing::client;
    use crate::reference::{self, Exact, Rounding};
    use crate::{BlockPattern, BlockSize, MatrixShape};

    /// CubeCL's CPU runtime has as many units as the processor has threads: few, and any number.
    #[test]
    fn the_tiles_of_devices_with_few_units_agree_with_the_oracle() {
        let Some(client) = client() else { return };
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for (block, max_units, m) in
            [(8, 6, 70), (8, 12, 33), (8, 20, 3), (16, 24, 17), (32, 12, 65)]
        {
            let shape = MatrixShape::new(3 * block - 3, 2 * block + 5).unwrap();
            let block = BlockSize::new(block).unwrap();
            let pattern = BlockPattern::random(shape, block, 0.6, 11);
            let call = Call::new(&client, &pattern, ElemType::Float(FloatKind::F32)).unwrap();
            let [x, dy] = [shape.rows(), shape.cols()].map(|side| -> Vec<f32> {
                (0..m * side).map(|_| rng.random_range(-1.0..1.0)).collect()
            });
            let tile = select(block, max_units);
            let check = |want: &[Exact], launch: &dyn Fn([BufferArg; 3])| {
                let out = vec![f32::NAN; want.len()];
                let [x, dy, out] = [&x, &dy, &out]
                    .map(|data| (client.create_from_slice(f32::as_bytes(data)), data.len()));
                let handle = out.0.clone();
                // SAFETY: the buffers were made with these lengths.
                launch(
                    [x, dy, out]
                        .map(|(handle, len)| unsafe { BufferArg::from_raw_parts(handle, len) }),
                );
                let got = f32::from_bytes(&client.read_one(handle).unwrap()).to_vec();
                Rounding::F32
                    .check(&got, want)
                    .unwrap_or_else(|error| panic!("{max_units} units, {tile:?}: {error}"));
            };
            check(&reference::sddmm(&x, &dy, &pattern), &|buffers| {
                register_tiles(&call, tile, buffers, m, AddressType::U32);
            });
            check(&reference::grad_block_norms(&x, &dy, &pattern), &|buffers| {
                norms_by_tiles(&call, tile, buffers, m);
            });
        }
    }
}
