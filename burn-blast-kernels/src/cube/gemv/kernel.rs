//! The loop nest: one cube walks a part of a block column, or of the same column of two weights.
//!
//! Values go from memory to registers, once, a few vectors ahead of the arithmetic. Rows of `x` are gathered into
//! shared memory one stage at a time. For one row, a stage is usually a whole column.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::base::{Blueprint, Format, UNITS};
use super::reduce::{Ending, GemvSizes, Part, reduce, store};

/// `y[m, n] = Σ_k x[m, k] · w[k, n] + bias[n]`, or with a second weight `y = f(x · w + bias) · (x · up)`.
///
/// With split-K, `out` takes the partial sums of each part instead, `[weights, parts, row tiles, rows, block]`.
/// `parts` holds three numbers per part, as in `Work::by_column`.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn gemv_kernel<F: Float, E: Numeric, O: Float, NX: Size, NV: Size, NR: Size>(
    x: &[Vector<F, NX>],
    values: &[Vector<E, NV>],
    scales: ComptimeOption<&[f32]>,
    ptr: &[u32],
    idx: &[u32],
    up_values: ComptimeOption<&[Vector<E, NV>]>,
    up_ptr: ComptimeOption<&[u32]>,
    up_idx: ComptimeOption<&[u32]>,
    bias: ComptimeOption<&[F]>,
    parts: &[u32],
    out: &mut [O],
    sizes: GemvSizes,
    cubes: usize,
    #[comptime] blueprint: Blueprint,
    #[comptime] end: Ending,
    #[define(F)] _dtype: ElemType,
    #[define(E)] _stored: ElemType,
    #[define(O)] _out_type: ElemType,
) {
    if CUBE_POS >= cubes {
        terminate!();
    }
    let row_tiles = sizes.m.div_ceil(blueprint.rows);
    let at = CUBE_POS / row_tiles;
    let part = Part {
        column: parts[at * 3] as usize,
        part: parts[at * 3 + 1] as usize,
        parts: parts[at * 3 + 2] as usize,
        first_row: (CUBE_POS % row_tiles) * blueprint.rows,
    };
    let mut tile = Shared::<[Vector<f32, NR>]>::new_slice(comptime!(blueprint.tile()));
    let sums =
        walk::<F, E, NX, NV, NR>(x, values, &scales, ptr, idx, &mut tile, part, sizes, blueprint);
    let sums = reduce::<NR>(&mut tile, &sums, blueprint);
    if comptime!(end.gate.is_some()) {
        // There is no gated pair of integers, so the scales are of no weight here.
        let (values, ptr, idx) = (up_values.unwrap(), up_ptr.unwrap(), up_idx.unwrap());
        let up = walk::<F, E, NX, NV, NR>(
            x, values, &scales, ptr, idx, &mut tile, part, sizes, blueprint,
        );
        let up = reduce::<NR>(&mut tile, &up, blueprint);
        store::<F, O, NR>(out, &bias, &sums, &up, part, sizes, blueprint, end);
    } else {
        store::<F, O, NR>(out, &bias, &sums, &sums, part, sizes, blueprint, end);
    }
}

/// Sums of one unit over one part: quads of rows, and for each the columns it reads.
#[cube]
#[allow(clippy::too_many_arguments)]
fn walk<F: Float, E: Numeric, NX: Size, NV: Size, NR: Size>(
    x: &[Vector<F, NX>],
    values: &[Vector<E, NV>],
    scales: &ComptimeOption<&[f32]>,
    ptr: &[u32],
    idx: &[u32],
    tile: &mut Shared<[Vector<f32, NR>]>,
    part: Part,
    sizes: GemvSizes,
    #[comptime] blueprint: Blueprint,
) -> Array<Vector<f32, NR>> {
    let mut sums =
        Array::<Vector<f32, NR>>::new(comptime!(blueprint.unit_quads() * blueprint.cols()));
    #[unroll]
    for at in 0..comptime!(blueprint.unit_quads() * blueprint.cols()) {
        sums[at] = Vector::zeroed();
    }
    let column = ptr[part.column] as usize;
    let blocks = ptr[part.column + 1] as usize - column;
    let first = column + blocks * part.part / part.parts;
    let blocks = column + blocks * (part.part + 1) / part.parts - first;
    let vectors = blocks * comptime!(blueprint.block_vectors());
    let origin = first * comptime!(blueprint.block_vectors());
    let slot = UNIT_POS as usize / comptime!(blueprint.units_m());
    let stride = comptime!(blueprint.ahead * blueprint.slots());

    let mut next = Array::<Vector<E, NV>>::new(comptime!(blueprint.ahead));
    #[unroll]
    for at in 0..comptime!(blueprint.ahead) {
        let vector = slot + comptime!(at * blueprint.slots());
        next[at] = Vector::zeroed();
        if vector < vectors {
            next[at] = values[origin + vector];
        }
    }
    for chunk in 0..vectors.div_ceil(stride) {
        let row = chunk * comptime!(blueprint.chunk());
        let in_stage = row % comptime!(blueprint.stage());
        if in_stage == 0 {
            // No unit reads the previous stage any more.
            sync_cube();
            let rows = blocks * blueprint.block - row;
            fill::<F, NX, NR>(
                x,
                tile,
                scales,
                idx,
                first,
                row,
                rows,
                part.first_row,
                sizes,
                blueprint,
            );
            sync_cube();
        }
        let mut now = Array::<Vector<E, NV>>::new(comptime!(blueprint.ahead));
        let ahead = (chunk + 1) * stride + slot;
        if comptime!(!blueprint.crowded()) {
            #[unroll]
            for at in 0..comptime!(blueprint.ahead) {
                now[at] = next[at];
                let vector = ahead + comptime!(at * blueprint.slots());
                next[at] = load::<E, NV>(values, origin, vector, vectors);
            }
        }
        #[unroll]
        for at in 0..comptime!(blueprint.ahead) {
            let vector = slot + comptime!(at * blueprint.slots());
            if comptime!(blueprint.crowded()) {
                now[at] = next[at];
                let vector = ahead + comptime!(at * blueprint.slots());
                next[at] = load::<E, NV>(values, origin, vector, vectors);
            }
            if chunk * stride + vector < vectors {
                let row = in_stage
                    + vector / comptime!(blueprint.units_n()) * comptime!(blueprint.depth());
                multiply::<E, NV, NR>(&*tile, now[at], row, &mut sums, blueprint);
            }
        }
    }
    sums
}

/// A vector of a part that is not empty; beyond its end, the last one. Nobody uses that, and a load without a
/// condition takes fewer registers.
#[cube]
fn load<E: Numeric, N: Size>(
    values: &[Vector<E, N>],
    origin: usize,
    vector: usize,
    vectors: usize,
) -> Vector<E, N> {
    values[origin + select(vector < vectors, vector, vectors - 1)]
}

/// Gathers `x` for rows of the block column starting at `row`, up to the end of the column or of shared memory. The
/// scale of integers is multiplied here, where it is one product for all columns.
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
    sizes: GemvSizes,
    #[comptime] blueprint: Blueprint,
) {
    let width = NX::value();
    let wide = comptime!(blueprint.stage() / width);
    for at in range_stepped(UNIT_POS as usize, comptime!(wide * blueprint.quads()), UNITS) {
        let step = at % wide * width;
        let quad = at / wide;
        if step < rows {
            let block = first + (row + step) / blueprint.block;
            let col = idx[block] as usize * blueprint.block + (row + step) % blueprint.block;
            let mut xs = Array::<Vector<F, NX>>::new(comptime!(blueprint.quad()));
            #[unroll]
            for i in 0..comptime!(blueprint.quad()) {
                let x_row = first_row + quad * comptime!(blueprint.quad()) + i;
                xs[i] = Vector::zeroed();
                // Zero outside of `x`, where a product with padding must not see NaN.
                if x_row < sizes.m && col < sizes.k {
                    xs[i] = x[(x_row * sizes.k + col) / width];
                }
            }
            #[unroll]
            for j in 0..comptime!(width) {
                let mut four = Vector::<f32, NR>::zeroed();
                #[unroll]
                for i in 0..comptime!(blueprint.quad()) {
                    four.insert(i, f32::cast_from(xs[i].extract(j)));
                }
                #[comptime]
                if let ComptimeOption::Some(scales) = scales {
                    four *= Vector::new(scales[block]);
                }
                tile[(step + j) * comptime!(blueprint.quads()) + quad] = four;
            }
        }
    }
}

/// Adds the product of one vector of values with the rows of `x` it belongs to.
#[cube]
fn multiply<E: Numeric, N: Size, NR: Size>(
    tile: &Shared<[Vector<f32, NR>]>,
    vector: Vector<E, N>,
    row: usize,
    sums: &mut Array<Vector<f32, NR>>,
    #[comptime] blueprint: Blueprint,
) {
    let w = widen::<E, N>(vector, blueprint);
    let quad =
        UNIT_POS as usize % comptime!(blueprint.units_m()) * comptime!(blueprint.unit_quads());
    #[unroll]
    for deep in 0..comptime!(blueprint.depth()) {
        #[unroll]
        for i in 0..comptime!(blueprint.unit_quads()) {
            let x = tile[(row + deep) * comptime!(blueprint.quads()) + quad + i];
            #[unroll]
            for j in 0..comptime!(blueprint.cols()) {
                let at = comptime!(i * blueprint.cols() + j);
                sums[at] = fma(x, Vector::new(w[comptime!(deep * blueprint.cols() + j)]), sums[at]);
            }
        }
    }
}

/// The values of a vector as f32; integers without their scale.
#[cube]
fn widen<E: Numeric, N: Size>(from: Vector<E, N>, #[comptime] blueprint: Blueprint) -> Array<f32> {
    let mut w = Array::<f32>::new(comptime!(blueprint.values()));
    #[unroll]
    for at in 0..comptime!(blueprint.vector) {
        if comptime!(blueprint.format == Format::Float) {
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
