//! Weight gradient at kept blocks, and the tile product it shares with the gradient norms.

use macerator::{AutoArch, Scalar, Simd, WithSimd};
use rayon::prelude::*;

use super::HostFloat;
use super::panel::pack_columns;
use super::tile::{Left, Tile, used_lanes};
use crate::BlockPattern;

/// Rows summed before the tiles of a block move on: two panels of this height fit the first-level cache
/// at a block of 32, the second-level cache at any block.
const ROWS_PER_PASS: usize = 256;

/// `xᵀ · dy` at the kept blocks.
///
/// # Shapes
/// - `x`: `[m, d_input]`, `dy`: `[m, d_output]`
/// - output: `[nnz, b, b]`, zero where a ragged block lies outside the weight
///
/// # Panics
/// If a slice has another length.
pub fn sddmm<T: HostFloat>(x: &[T], dy: &[T], pattern: &BlockPattern, m: usize) -> Vec<T> {
    let operands = Panels::new(x, dy, pattern, m);
    let mut values = vec![0.0; pattern.value_count()];
    let blocks: Vec<(usize, usize)> = pattern.blocks().collect();
    values.par_chunks_mut(pattern.block().area()).zip(blocks).for_each(|(out, (row, col))| {
        operands.block_product(row, col, out);
    });
    T::narrow(values)
}

/// Both operands of `xᵀ · dy`, regrouped by block column.
pub(super) struct Panels {
    x: Vec<f32>,
    dy: Vec<f32>,
    m: usize,
    b: usize,
}

impl Panels {
    pub(super) fn new<T: HostFloat>(x: &[T], dy: &[T], pattern: &BlockPattern, m: usize) -> Self {
        let (shape, b) = (pattern.shape(), pattern.block().get());
        assert_eq!(x.len(), m * shape.rows(), "x must be [m, d_input]");
        assert_eq!(dy.len(), m * shape.cols(), "dy must be [m, d_output]");
        if m == 0 {
            return Self { x: Vec::new(), dy: Vec::new(), m, b };
        }
        let x = pack_columns(&T::widen(x), m, shape.rows(), b);
        let dy = pack_columns(&T::widen(dy), m, shape.cols(), b);
        Self { x, dy, m, b }
    }

    /// Writes one `[b, b]` block of the product into `out`.
    pub(super) fn block_product(&self, row: usize, col: usize, out: &mut [f32]) {
        let panel = self.m * self.b;
        let x = &self.x[row * panel..(row + 1) * panel];
        let dy = &self.dy[col * panel..(col + 1) * panel];
        AutoArch::new().dispatch(BlockProduct { x, dy, out, b: self.b });
    }
}

struct BlockProduct<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    out: &'a mut [f32],
    b: usize,
}

impl BlockProduct<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const MR: usize, const NV: usize, const HALF: bool>(self) {
        let (b, width) = (self.b, NV * used_lanes::<S, HALF>());
        self.out.fill(0.0);
        let pass = ROWS_PER_PASS * b;
        for (x, dy) in self.x.chunks(pass).zip(self.dy.chunks(pass)) {
            for k in (0..b).step_by(MR) {
                for n in (0..b).step_by(width) {
                    // SAFETY: `MR` and `width` divide `b`, so every tile lies inside the block, and both
                    // panels hold `x.len() / b` rows of `b`.
                    unsafe {
                        let left = Left { ptr: x.as_ptr().add(k), row_stride: 1, k_stride: b };
                        let to = self.out.as_mut_ptr().add(k * b + n);
                        let mut tile = Tile::<S, MR, NV, HALF>::zero();
                        tile.accumulate(left, dy.as_ptr().add(n), b, x.len() / b);
                        tile.add(to, b);
                        tile.store(to, b);
                    }
                }
            }
        }
    }
}

impl WithSimd for BlockProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        match (f32::lanes::<S>(), self.b) {
            (16, 8) => self.tiles::<S, 8, 1, true>(),
            (16, 16) => self.tiles::<S, 16, 1, false>(),
            (16, 32) => self.tiles::<S, 8, 2, false>(),
            (16, _) => self.tiles::<S, 4, 4, false>(),
            (8, 8) => self.tiles::<S, 8, 1, false>(),
            (1, _) => self.tiles::<S, 2, 8, false>(),
            _ => self.tiles::<S, 4, 2, false>(),
        }
    }
}
