//! The launches. The buffers have the sizes that the caller checked. A product at the kept blocks needs one at least.

use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::cmma::kernel::sddmm_cmma_kernel;
use super::mma::kernel::{SampledSizesLaunch, add_row_parts_kernel, sddmm_mma_kernel};
use super::unit::kernel::{grad_block_norms_kernel, sddmm_kernel};
use super::{GroupIndex, Tensors, cmma, mma, unit};
use crate::cube::buffer::partial_sums;
use crate::cube::context::{Context, row_vector};
use crate::cube::load::SizesLaunch;
use crate::cube::split_k::ADD_UNITS;

/// The product on register tiles.
pub(crate) fn unit(
    ctx: &Context,
    tile: unit::base::Blueprint,
    address: AddressType,
    tensors: Tensors,
) {
    let Tensors { x, dy, out, m } = tensors;
    let (index, shape) = (ctx.index(), ctx.pattern.shape());
    let groups = GroupIndex::of(ctx, tile.blocks);
    let cubes = groups.count * tile.side_tiles() * tile.side_tiles();
    // SAFETY: every read of `x` and `dy` is from inside, whatever the sizes; slots of a `BlockPattern` are inside `dw`, which has
    // its length.
    unsafe {
        sddmm_kernel::launch_unchecked(
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
            groups.starts.arg(),
            out,
            SizesLaunch::new(m, shape.rows(), shape.cols()),
            cubes,
            tile,
            ctx.dtype,
        );
    }
}

/// The norms of all blocks of the grid, on register tiles.
pub(crate) fn norms(ctx: &Context, tile: unit::base::Blueprint, tensors: Tensors) {
    let Tensors { x, dy, out, m } = tensors;
    let (index, shape) = (ctx.index(), ctx.pattern.shape());
    let cubes = ctx.pattern.block_count();
    // SAFETY: as above; a cube writes one norm, and there are as many as blocks.
    unsafe {
        grad_block_norms_kernel::launch_unchecked(
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
}

/// The product on cooperative matrices.
pub(crate) fn cmma(
    ctx: &Context,
    blueprint: cmma::base::Blueprint,
    address: AddressType,
    tensors: Tensors,
) {
    let Tensors { x, dy, out, m } = tensors;
    let (index, shape) = (ctx.index(), ctx.pattern.shape());
    let groups = GroupIndex::of(ctx, blueprint.group());
    let cubes = groups.count * blueprint.side_tiles() * blueprint.side_tiles();
    sddmm_cmma_kernel::launch(
        ctx.client,
        ctx.cubes(cubes),
        CubeDim::new_1d(blueprint.tile.units() as u32),
        address,
        index.bindable(x),
        index.bindable(dy),
        index.row_idx.arg(),
        index.col_of_slot.arg(),
        groups.starts.arg(),
        out,
        SizesLaunch::new(m, shape.rows(), shape.cols()),
        cubes,
        blueprint,
        ctx.dtype,
        blueprint.tile.matrix.element,
    );
}

/// The product on tensor cores with its rows split into `parts` parts; a second launch adds them.
pub(crate) fn mma(ctx: &Context, blueprint: mma::base::Blueprint, parts: usize, tensors: Tensors) {
    if parts == 1 {
        return mma_parts(ctx, blueprint, 1, tensors, ctx.dtype);
    }
    let Tensors { x, dy, out: dw, m } = tensors;
    let values = ctx.pattern.value_count();
    let partial = partial_sums(ctx.client, parts * values);
    let sums = ElemType::Float(FloatKind::F32);
    mma_parts(ctx, blueprint, parts, Tensors { x, dy, out: partial.arg(), m }, sums);
    let vectors = values / 4;
    // SAFETY: `partial` holds `parts` arrays and `dw` one of `values` elements; units beyond it do nothing.
    unsafe {
        add_row_parts_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(vectors.div_ceil(ADD_UNITS)),
            CubeDim::new_1d(ADD_UNITS as u32),
            AddressType::from_len(partial.len()),
            partial.arg(),
            dw,
            vectors,
            parts,
            ctx.dtype,
        );
    }
}

fn mma_parts(
    ctx: &Context,
    blueprint: mma::base::Blueprint,
    parts: usize,
    tensors: Tensors,
    out_type: ElemType,
) {
    let Tensors { x, dy, out, m } = tensors;
    let (index, shape) = (ctx.index(), ctx.pattern.shape());
    let groups = GroupIndex::of(ctx, blueprint.group());
    let cubes = groups.count * parts;
    let longest = x.len().max(dy.len()).max(out.len());
    let values = ctx.pattern.value_count();
    // SAFETY: every read of `x` and `dy` is guarded by `m`, `k` and `n`, which the buffers were checked
    // against; slots come from a `BlockPattern` and are inside `out`. The loops are bounded by `m`.
    unsafe {
        sddmm_mma_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(cubes),
            CubeDim::new_1d(blueprint.tile.units() as u32),
            AddressType::from_len(longest),
            index.bindable(x),
            index.bindable(dy),
            index.row_idx.arg(),
            index.col_of_slot.arg(),
            groups.starts.arg(),
            out,
            SampledSizesLaunch::new(m, shape.rows(), shape.cols(), values, parts),
            cubes,
            blueprint,
            ctx.dtype,
            out_type,
        );
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

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
            let caps = Caps::new(client.properties(), dtype, false);
            let ctx = Context { client, pattern, dtype, caps };
            let [x, dy] = [shape.rows(), shape.cols()].map(|side| -> Vec<f32> {
                (0..m * side).map(|_| rng.random_range(-1.0..1.0)).collect()
            });
            let check = |tile: unit::base::Blueprint, want: &[Exact], launch: &dyn Fn(Tensors)| {
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
            let tile = unit::base::select(block, max_units);
            check(tile, &reference::sddmm(&x, &dy, pattern), &|tensors| {
                super::unit(&ctx, tile, AddressType::U32, tensors);
            });
            let tile = unit::base::select_norms(block, max_units);
            check(tile, &reference::grad_block_norms(&x, &dy, pattern), &|tensors| {
                norms(&ctx, tile, tensors);
            });
        }
    }
}
