//! The launches. The buffers have the sizes that the caller checked, and `m` is not zero.

use cubecl::prelude::*;

use super::cmma::kernel::spmm_cmma_kernel;
use super::mma::kernel::spmm_mma_kernel;
use super::mma::split_k::{add_parts_kernel, spmm_parts_kernel};
use super::unit::spmm_kernel;
use super::{Tensors, View, cmma, mma};
use crate::cube::buffer::{SharedBuffer, partial_sums};
use crate::cube::context::{Context, row_vector};
use crate::cube::index::IndexBuffer;
use crate::cube::split_k::{ADD_UNITS, SplitK, WorkIndex};
use crate::cube::tile::unit::UnitTile;

/// The product on register tiles.
pub(crate) fn unit(ctx: &Context, tile: UnitTile, address: AddressType, tensors: Tensors) {
    let Tensors { transposed, x, values, y, epilogue, m } = tensors;
    let index = ctx.index();
    let view = View::new(ctx, &index, transposed);
    let cubes = m.div_ceil(tile.rows) * view.block_cols * tile.col_tiles();
    // The sums of a transposed tile are `units_n` columns apart and stored one by one.
    let y_vector = if tile.transposed { 1 } else { row_vector(view.output) };
    // SAFETY: every read of `x` and `residual` and every write of `y` is guarded by `m`, `k` and `n`, which the buffers
    // were checked against; indices come from a `BlockPattern`, whose blocks are inside its grid and whose slots
    // are inside `values`. The loops are bounded by those indices.
    unsafe {
        spmm_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(cubes),
            CubeDim::new_1d(tile.units() as u32),
            address,
            row_vector(view.contraction),
            y_vector,
            x,
            index.bindable(values),
            epilogue.bias.into(),
            view.order.arg(),
            view.ptr.arg(),
            view.idx.arg(),
            view.slot.map(IndexBuffer::arg).into(),
            epilogue.residual.into(),
            y,
            m,
            view.contraction,
            view.output,
            ctx.grid(cubes, tile.rows, m, view.contraction),
            tile,
            epilogue.activation,
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
    let Tensors { transposed, x, values, y, epilogue, m } = tensors;
    let index = ctx.index();
    let view = View::new(ctx, &index, transposed);
    let cubes = m.div_ceil(blueprint.tile.rows) * view.block_cols * blueprint.col_tiles();
    spmm_cmma_kernel::launch(
        ctx.client,
        ctx.cubes(cubes),
        CubeDim::new_1d(blueprint.tile.units() as u32),
        address,
        x,
        index.bindable(values),
        epilogue.bias.into(),
        view.order.arg(),
        view.ptr.arg(),
        view.idx.arg(),
        view.slot.map(IndexBuffer::arg).into(),
        epilogue.residual.into(),
        y,
        m,
        view.contraction,
        view.output,
        ctx.grid(cubes, blueprint.tile.rows, m, view.contraction),
        blueprint,
        epilogue.activation,
        ctx.dtype,
        blueprint.tile.matrix.element,
    );
}

/// The product on tensor cores; two launches with split-K.
pub(crate) fn mma(
    ctx: &Context,
    blueprint: mma::base::Blueprint,
    split: Option<SplitK>,
    address: AddressType,
    tensors: Tensors,
) {
    if let Some(split) = split {
        return mma_split_k(ctx, blueprint, split, address, tensors);
    }
    let Tensors { transposed, x, values, y, epilogue, m } = tensors;
    let index = ctx.index();
    let view = View::new(ctx, &index, transposed);
    let cubes = m.div_ceil(blueprint.tile.rows) * view.block_cols;
    // SAFETY: every read of `x` and write of `y` is guarded by `m`, `k` and `n`, which the buffers were
    // checked against; indices come from a `BlockPattern`, whose blocks are inside its grid and whose slots
    // are inside `values`. The loops are bounded by those indices.
    unsafe {
        spmm_mma_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(cubes),
            CubeDim::new_1d(blueprint.tile.units() as u32),
            address,
            x,
            index.bindable(values),
            epilogue.bias.into(),
            view.order.arg(),
            view.ptr.arg(),
            view.idx.arg(),
            view.slot.map(IndexBuffer::arg).into(),
            epilogue.residual.into(),
            y,
            m,
            view.contraction,
            view.output,
            ctx.grid(cubes, blueprint.tile.rows, m, view.contraction),
            blueprint,
            epilogue.activation,
            ctx.dtype,
        );
    }
}

/// The product over parts of block columns, and the launch that adds their partial sums.
fn mma_split_k(
    ctx: &Context,
    blueprint: mma::base::Blueprint,
    split: SplitK,
    address: AddressType,
    tensors: Tensors,
) {
    let Tensors { transposed, x, values, y, epilogue, m } = tensors;
    let index = ctx.index();
    let view = View::new(ctx, &index, transposed);
    let work = WorkIndex::by_range(ctx.pattern, ctx.client, transposed, split);
    let partial = partial_sums(ctx.client, work.host.partials * m * blueprint.block);
    let cubes = m.div_ceil(blueprint.tile.rows) * work.host.count;
    let y = SharedBuffer::new(y);
    let [bias, residual] = [epilogue.bias, epilogue.residual].map(|arg| arg.map(SharedBuffer::new));
    let [bias, residual] =
        [&bias, &residual].map(|buffer| move || buffer.as_ref().map(SharedBuffer::arg));
    // SAFETY: every read of `x` and write of `y` is guarded by `m`, `k` and `n`, which the buffers were
    // checked against; indices come from a `BlockPattern`, whose blocks are inside its grid and whose slots
    // are inside `values`. Partial sums are numbered below `partials`, their rows are guarded by `m`.
    unsafe {
        spmm_parts_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(cubes),
            CubeDim::new_1d(blueprint.tile.units() as u32),
            address,
            x,
            index.bindable(values),
            bias().into(),
            work.parts.arg(),
            view.idx.arg(),
            view.slot.map(IndexBuffer::arg).into(),
            residual().into(),
            y.arg(),
            partial.arg(),
            m,
            view.contraction,
            view.output,
            ctx.grid(cubes, blueprint.tile.rows, m, view.contraction),
            blueprint,
            epilogue.activation,
            ctx.dtype,
        );
    }
    let vectors = work.host.split_columns * m * blueprint.block / 4;
    // SAFETY: `partial` holds every part of every column in `columns`; writes are guarded by `n`, and rows by the
    // number of units.
    unsafe {
        add_parts_kernel::launch_unchecked(
            ctx.client,
            ctx.cubes(vectors.div_ceil(ADD_UNITS)),
            CubeDim::new_1d(ADD_UNITS as u32),
            address,
            partial.arg(),
            bias().into(),
            work.columns.arg(),
            residual().into(),
            y.arg(),
            m,
            view.output,
            work.host.split_columns,
            blueprint.block,
            epilogue.activation,
            ctx.dtype,
        );
    }
}

#[cfg(test)]
mod tests {
    use cubecl::ir::{ElemType, FloatKind};

    use super::*;
    use crate::cube::caps::Caps;
    use crate::cube::epilogue::Epilogue;
    use crate::cube::testing::client;
    use crate::cube::{Op, gated_hidden, grid, spmm, spmm_t};
    use crate::{Activation, BlockPattern, BlockSize, MatrixShape};

    type Launch<'a> = &'a dyn Fn(&Context, BufferArg);

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|at| (at * 37 % 101) as f32 / 50.0 - 1.0).collect()
    }

    /// A cache for three row tiles makes panels of three and two of five row tiles.
    #[test]
    fn panels_change_no_bit() {
        let Some(client) = client() else { return };
        let (shape, block) = (MatrixShape::new(44, 60).unwrap(), BlockSize::new(16).unwrap());
        let [gate, up] = [1, 2].map(|seed| BlockPattern::random(shape, block, 0.6, seed));
        let dtype = ElemType::Float(FloatKind::F32);
        let plain = Caps { cache: None, ..Caps::new(client.properties(), dtype, false) };
        let ctx = Context { client: &client, pattern: &gate, dtype, caps: plain };
        let [rows, _] = ctx.plan(Op::PRODUCT, 1000).tile().unwrap();
        let m = 5 * rows - 3;
        let small = |contraction: usize| Caps { cache: Some(rows * contraction * 16), ..plain };
        let upload = |data: &[f32]| {
            let handle = client.create_from_slice(f32::as_bytes(data));
            // SAFETY: the buffer was made of as many elements.
            unsafe { BufferArg::from_raw_parts(handle, data.len()) }
        };
        let (x, dy) = (numbers(m * 44), numbers(m * 60));
        let values = [&gate, &up].map(|pattern| numbers(pattern.value_count()));
        let run = |caps: Caps, len: usize, launch: Launch| {
            let ctx = Context { client: &client, pattern: &gate, dtype, caps };
            let handle = client.create_from_slice(f32::as_bytes(&vec![f32::NAN; len]));
            // SAFETY: the buffer was made of as many elements.
            launch(&ctx, unsafe { BufferArg::from_raw_parts(handle.clone(), len) });
            client.read_one(handle).unwrap().to_vec()
        };
        let both = || values.each_ref().map(|values| upload(values));
        let launches: [(&str, usize, usize, Launch); 3] = [
            ("spmm", 44, m * 60, &|ctx, y| {
                spmm(ctx, upload(&x), upload(&values[0]), Epilogue::default(), y, m);
            }),
            ("spmm_t", 60, m * 44, &|ctx, dx| {
                spmm_t(ctx, upload(&dy), upload(&values[0]), None, dx, m);
            }),
            ("gated_hidden", 44, m * 60, &|ctx, h| {
                gated_hidden(ctx, &up, Activation::Silu, upload(&x), both(), h, m);
            }),
        ];
        for (name, contraction, len, launch) in launches {
            let panels = small(contraction);
            let row_tiles = m.div_ceil(rows);
            assert_eq!(grid::panel(panels.cache, row_tiles, rows * contraction * 4), 3, "{name}");
            assert_eq!(run(panels, len, launch), run(plain, len, launch), "{name}");
        }
    }
}
