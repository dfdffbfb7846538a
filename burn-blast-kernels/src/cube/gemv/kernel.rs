//! The loop nest: one cube walks a piece of a block column, or of the same column of two weights.
//!
//! Values go from memory to registers, once, a few vectors ahead of the arithmetic. Rows of `x` are gathered into
//! shared memory a stage at a time, which for one row is a whole column as a rule.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::base::{Blueprint, Stored, UNITS};
use super::finish::{Finish, finish, reduce};

/// What all walks of a cube have in common.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Sizes {
    /// Rows of `x`, its columns, columns of `y`.
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// Pieces of block columns.
    pub items: usize,
}

/// The piece of a cube.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Item {
    /// Its block column.
    pub column: usize,
    /// Which piece of it, of how many.
    piece: usize,
    pieces: usize,
    /// First row of `x`.
    pub first_row: usize,
}

/// `y[m, n] = Σ_k x[m, k] · w[k, n] + bias[n]`, or with a second weight `y = f(x · w + bias) · (x · up)`.
///
/// Where columns are cut, `out` takes the sums of each piece instead, `[walks, items, row tiles, rows, block]`.
/// `items` is that of [`Pieces`](super::pieces::Pieces).
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn few_rows_kernel<F: Float, E: Numeric, O: Float, NX: Size, NV: Size, NR: Size>(
    x: &[Vector<F, NX>],
    values: &[Vector<E, NV>],
    scales: ComptimeOption<&[f32]>,
    ptr: &[u32],
    idx: &[u32],
    up_values: ComptimeOption<&[Vector<E, NV>]>,
    up_scales: ComptimeOption<&[f32]>,
    up_ptr: ComptimeOption<&[u32]>,
    up_idx: ComptimeOption<&[u32]>,
    bias: ComptimeOption<&[F]>,
    items: &[u32],
    out: &mut [O],
    sizes: Sizes,
    cubes: usize,
    #[comptime] plan: Blueprint,
    #[comptime] end: Finish,
    #[define(F)] _dtype: ElemType,
    #[define(E)] _stored: ElemType,
    #[define(O)] _out_type: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let row_tiles = sizes.m.div_ceil(plan.rows);
    let at = CUBE_POS / row_tiles;
    let item = Item {
        column: items[at * 3] as usize,
        piece: items[at * 3 + 1] as usize,
        pieces: items[at * 3 + 2] as usize,
        first_row: (CUBE_POS % row_tiles) * plan.rows,
    };
    let mut tile = Shared::<[Vector<f32, NR>]>::new_slice(comptime!(plan.tile()));
    let sums = walk::<F, E, NX, NV, NR>(x, values, &scales, ptr, idx, &mut tile, item, sizes, plan);
    let sums = reduce::<NR>(&mut tile, &sums, plan);
    if comptime!(end.gate.is_some()) {
        let (values, ptr, idx) = (up_values.unwrap(), up_ptr.unwrap(), up_idx.unwrap());
        let up =
            walk::<F, E, NX, NV, NR>(x, values, &up_scales, ptr, idx, &mut tile, item, sizes, plan);
        let up = reduce::<NR>(&mut tile, &up, plan);
        finish::<F, O, NR>(out, &bias, &sums, &up, item, sizes, plan, end);
    } else {
        finish::<F, O, NR>(out, &bias, &sums, &sums, item, sizes, plan, end);
    }
}

/// Sums of one unit over one piece: quads of rows, and for each the columns it meets.
#[cube]
#[allow(clippy::too_many_arguments)]
fn walk<F: Float, E: Numeric, NX: Size, NV: Size, NR: Size>(
    x: &[Vector<F, NX>],
    values: &[Vector<E, NV>],
    scales: &ComptimeOption<&[f32]>,
    ptr: &[u32],
    idx: &[u32],
    tile: &mut Shared<[Vector<f32, NR>]>,
    item: Item,
    sizes: Sizes,
    #[comptime] plan: Blueprint,
) -> Array<Vector<f32, NR>> {
    let mut sums = Array::<Vector<f32, NR>>::new(comptime!(plan.unit_quads() * plan.cols()));
    #[unroll]
    for at in 0..comptime!(plan.unit_quads() * plan.cols()) {
        sums[at] = Vector::zeroed();
    }
    let column = ptr[item.column] as usize;
    let blocks = ptr[item.column + 1] as usize - column;
    let first = column + blocks * item.piece / item.pieces;
    let blocks = column + blocks * (item.piece + 1) / item.pieces - first;
    let vectors = blocks * comptime!(plan.block_vectors());
    let origin = first * comptime!(plan.block_vectors());
    let slot = UNIT_POS as usize / comptime!(plan.units_m());
    let stride = comptime!(plan.ahead * plan.slots());

    let mut next = Array::<Vector<E, NV>>::new(comptime!(plan.ahead));
    #[unroll]
    for at in 0..comptime!(plan.ahead) {
        let vector = slot + comptime!(at * plan.slots());
        next[at] = Vector::zeroed();
        if vector < vectors {
            next[at] = values[origin + vector];
        }
    }
    for chunk in 0..vectors.div_ceil(stride) {
        let row = chunk * comptime!(plan.chunk());
        let in_stage = row % comptime!(plan.stage());
        if in_stage == 0 {
            // Nobody reads the stage before any more.
            sync_cube();
            let rows = blocks * plan.block - row;
            fill::<F, NX, NR>(x, tile, scales, idx, first, row, rows, item.first_row, sizes, plan);
            sync_cube();
        }
        let mut now = Array::<Vector<E, NV>>::new(comptime!(plan.ahead));
        let ahead = (chunk + 1) * stride + slot;
        if comptime!(!plan.crowded()) {
            #[unroll]
            for at in 0..comptime!(plan.ahead) {
                now[at] = next[at];
                let vector = ahead + comptime!(at * plan.slots());
                next[at] = load::<E, NV>(values, origin, vector, vectors);
            }
        }
        #[unroll]
        for at in 0..comptime!(plan.ahead) {
            let vector = slot + comptime!(at * plan.slots());
            if comptime!(plan.crowded()) {
                now[at] = next[at];
                let vector = ahead + comptime!(at * plan.slots());
                next[at] = load::<E, NV>(values, origin, vector, vectors);
            }
            if chunk * stride + vector < vectors {
                let row = in_stage + vector / comptime!(plan.units_n()) * comptime!(plan.depth());
                multiply::<E, NV, NR>(&*tile, now[at], row, &mut sums, plan);
            }
        }
    }
    sums
}

/// A vector of a piece that is not empty, or the last one beyond it: nobody uses that, and a load without a condition
/// takes fewer registers.
#[cube]
fn load<E: Numeric, N: Size>(
    values: &[Vector<E, N>],
    origin: usize,
    vector: usize,
    vectors: usize,
) -> Vector<E, N> {
    values[origin + select(vector < vectors, vector, vectors - 1)]
}

/// Gathers `x` for the rows of the block column from `row` on, as many as there are or fit. Integers get their scale
/// here, where it is one product for all columns.
#[cube]
#[allow(clippy::too_many_arguments)]
fn fill<F: Float, NX: Size, NR: Size>(
    x: &[Vector<F, NX>],
    tile: &mut Shared<[Vector<f32, NR>]>,
    scales: &ComptimeOption<&[f32]>,
    idx: &[u32],
    first: usize,
    row: usize,
    rows: usize,
    first_row: usize,
    sizes: Sizes,
    #[comptime] plan: Blueprint,
) {
    let width = NX::value();
    let wide = comptime!(plan.stage() / width);
    for at in range_stepped(UNIT_POS as usize, comptime!(wide * plan.quads()), UNITS) {
        let step = at % wide * width;
        let quad = at / wide;
        if step < rows {
            let block = first + (row + step) / plan.block;
            let col = idx[block] as usize * plan.block + (row + step) % plan.block;
            let mut lines = Array::<Vector<F, NX>>::new(comptime!(plan.quad()));
            #[unroll]
            for i in 0..comptime!(plan.quad()) {
                let line = first_row + quad * comptime!(plan.quad()) + i;
                lines[i] = Vector::zeroed();
                // Zero outside of `x`, where a product with padding must not see NaN.
                if line < sizes.m && col < sizes.k {
                    lines[i] = x[(line * sizes.k + col) / width];
                }
            }
            #[unroll]
            for j in 0..comptime!(width) {
                let mut four = Vector::<f32, NR>::zeroed();
                #[unroll]
                for i in 0..comptime!(plan.quad()) {
                    four.insert(i, f32::cast_from(lines[i].extract(j)));
                }
                #[comptime]
                if let ComptimeOption::Some(scales) = scales {
                    four *= Vector::new(scales[block]);
                }
                tile[(step + j) * comptime!(plan.quads()) + quad] = four;
            }
        }
    }
}

/// Adds the product of one vector of values with the rows of `x` it meets.
#[cube]
fn multiply<E: Numeric, N: Size, NR: Size>(
    tile: &Shared<[Vector<f32, NR>]>,
    vector: Vector<E, N>,
    row: usize,
    sums: &mut Array<Vector<f32, NR>>,
    #[comptime] plan: Blueprint,
) {
    let w = widen::<E, N>(vector, plan);
    let quad = UNIT_POS as usize % comptime!(plan.units_m()) * comptime!(plan.unit_quads());
    #[unroll]
    for deep in 0..comptime!(plan.depth()) {
        #[unroll]
        for i in 0..comptime!(plan.unit_quads()) {
            let x = tile[(row + deep) * comptime!(plan.quads()) + quad + i];
            #[unroll]
            for j in 0..comptime!(plan.cols()) {
                let at = comptime!(i * plan.cols() + j);
                sums[at] = fma(x, Vector::new(w[comptime!(deep * plan.cols() + j)]), sums[at]);
            }
        }
    }
}

/// The values of a vector as f32; integers without their scale.
#[cube]
fn widen<E: Numeric, N: Size>(from: Vector<E, N>, #[comptime] plan: Blueprint) -> Array<f32> {
    let mut w = Array::<f32>::new(comptime!(plan.values()));
    #[unroll]
    for at in 0..comptime!(plan.vector) {
        if comptime!(plan.stored == Stored::Float) {
            w[at] = f32::cast_from(from.extract(at));
        } else {
            // A byte in the lowest bits of 2^23 is that many more: no conversion, which GPUs do at a fraction of the
            // rate of additions, and no signed bytes, which WGSL does not have.
            let word = u32::cast_from(from.extract(at)) ^ 0x8080_8080u32;
            #[unroll]
            for byte in 0..4u32 {
                let bits = ((word >> comptime!(8 * byte)) & 255u32) | 0x4B00_0000u32;
                w[comptime!(at * 4 + byte as usize)] = f32::reinterpret(bits) - 8_388_736.0f32;
            }
        }
    }
    w
}
