//! One launch. The buffers have the sizes that the caller checked.

use cubecl::prelude::*;

use super::super::Tensors;
use super::base::Blueprint;
use super::kernel::{grad_block_norms_kernel, sddmm_kernel};
use crate::cube::context::{Context, row_vector};
use crate::cube::load::SizesLaunch;

/// Launches the product at the kept blocks, of which there is one at least.
pub(crate) fn launch(ctx: &Context, tile: Blueprint, address: AddressType, tensors: Tensors) {
    let Tensors { x, dy, out, m } = tensors;
    let (index, shape) = (ctx.index(), ctx.pattern.shape());
    let cubes = ctx.pattern.nnz() * tile.side_tiles() * tile.side_tiles();
    sddmm_kernel::launch(
        ctx.client,
        ctx.cubes(cubes),
        CubeDim::new_1d(tile.units() as u32),
        address,
        row_vector(shape.rows()),
        row_vector(shape.cols()),
        index.bindable(x),
        index.bindable(dy),
        index.row_idx.arg(),
        index.col_of_slot.arg(),
        out,
        SizesLaunch::new(m, shape.rows(), shape.cols()),
        cubes,
        tile,
        ctx.dtype,
    );
}

/// Launches the norms of all blocks of the grid.
pub(crate) fn launch_norms(ctx: &Context, tile: Blueprint, tensors: Tensors) {
    let Tensors { x, dy, out, m } = tensors;
    let (index, shape) = (ctx.index(), ctx.pattern.shape());
    let cubes = ctx.pattern.block_count();
    grad_block_norms_kernel::launch(
        ctx.client,
        ctx.cubes(cubes),
        CubeDim::new_1d(tile.units() as u32),
        AddressType::from_len(x.len().max(dy.len())),
        row_vector(shape.rows()),
        row_vector(shape.cols()),
        index.bindable(x),
        index.bindable(dy),
        out,
        SizesLaunch::new(m, shape.rows(), shape.cols()),
        ctx.pattern.block_cols(),
        cubes,
        tile,
        ctx.dtype,
    );
}

#[cfg(test)]
mod tests {
    use cubecl::ir::{ElemType, FloatKind};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::base::select;
    use super::*;
    use crate::cube::caps::Caps;
    use crate::cube::testing::client;
    use crate::reference::{self, Exact, Rounding};
    use crate::{BlockPattern, BlockSize, MatrixShape};

    /// CubeCL's CPU runtime has one unit per thread of the processor: few, and any number.
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
            let (client, pattern, dtype) = (&client, &pattern, ElemType::Float(FloatKind::F32));
            let caps = Caps::of(client.properties(), dtype, false);
            let ctx = Context { client, pattern, dtype, caps };
            let [x, dy] = [shape.rows(), shape.cols()].map(|side| -> Vec<f32> {
                (0..m * side).map(|_| rng.random_range(-1.0..1.0)).collect()
            });
            let tile = select(block, max_units);
            let check = |want: &[Exact], launch: &dyn Fn(Tensors)| {
                let out = vec![f32::NAN; want.len()];
                let [x, dy, out] = [&x, &dy, &out]
                    .map(|data| (client.create_from_slice(f32::as_bytes(data)), data.len()));
                let handle = out.0.clone();
                // SAFETY: the buffers were made with these lengths.
                let [x, dy, out] = [x, dy, out]
                    .map(|(handle, len)| unsafe { BufferArg::from_raw_parts(handle, len) });
                launch(Tensors { x, dy, out, m });
                let got = f32::from_bytes(&client.read_one(handle).unwrap()).to_vec();
                Rounding::F32
                    .check(&got, want)
                    .unwrap_or_else(|error| panic!("{max_units} units, {tile:?}: {error}"));
            };
            check(&reference::sddmm(&x, &dy, pattern), &|tensors| {
                super::launch(&ctx, tile, AddressType::U32, tensors);
            });
            check(&reference::grad_block_norms(&x, &dy, pattern), &|tensors| {
                launch_norms(&ctx, tile, tensors);
            });
        }
    }
}
