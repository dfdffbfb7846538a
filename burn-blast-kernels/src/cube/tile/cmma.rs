//! Tiles of cooperative matrices: tensor cores through the interface that Vulkan, Metal, ROCm and CUDA share, where a
//! plane loads, multiplies and stores whole tiles of 16 x 16 or 8 x 8 and does not know which of its units holds which
//! element. The only way to tensor cores for f32, as TF32.
//!
//! Copies pass through registers, since of these devices only CUDA has asynchronous ones, and results through shared
//! memory, since a unit does not know its elements. `mma` is therefore preferred where there are both. Metal's
//! matrices in f32 are not used.

pub(crate) mod fragment;

use super::{Order, Stage};
use crate::cube::caps::{Caps, MatrixKind};

/// Elements of one vector: eight bytes of 16-bit elements, which every device reads at once, or 16 of f32.
pub(crate) const WIDTH: usize = 4;
/// Padding between lines in shared memory, in bytes. Some devices need lines aligned to this size.
const PAD: usize = 16;
/// Most units of a cube: the least that WebGPU promises.
const MAX_UNITS: usize = 256;
/// Widest tile: at block 128, cubes share a block.
pub(crate) const MAX_COLS: usize = 64;
/// Most bytes of one row's contraction in a stage: 32 steps of f16, and of TF32 16, which take as long there, since
/// the instruction has half the rate. Guess; to be measured.
pub(crate) const MAX_DEPTH: usize = 64;
/// Stages in shared memory: one is filled while the other is read.
pub(crate) const STAGES: usize = 2;

/// The output tile of a cube, its planes, and the stages of its contraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CmmaTile {
    /// The instruction.
    pub matrix: MatrixKind,
    /// Units of a plane.
    pub plane: usize,
    /// Rows of the output tile.
    pub rows: usize,
    /// Columns of the output tile.
    pub cols: usize,
    /// Planes along the rows.
    pub planes_m: usize,
    /// Planes along the columns.
    pub planes_n: usize,
    /// Contraction steps of one stage.
    pub depth: usize,
    /// Stage of the left operand.
    pub a: Stage,
    /// Stage of the right operand.
    pub b: Stage,
}

impl CmmaTile {
    pub(crate) fn new(
        caps: &Caps,
        matrix: MatrixKind,
        [rows, cols]: [usize; 2],
        depth: usize,
        [a, b]: [Order; 2],
    ) -> Self {
        let plane = caps.plane.expect("cooperative matrices have planes of one size");
        let planes = MAX_UNITS / plane;
        let planes_n = (cols / matrix.side).min(2);
        let planes_m = (planes / planes_n).min(rows / matrix.side);
        let stage = |order, outer| {
            // Twice as much for TF32 by output lines: then the words that a plane reads at a time are in different
            // banks, since its units hold the same elements as with `mma.sync` (as ptxas 13.0 has it, for sm_80 and
            // sm_90a).
            let twice = matrix.is_tf32() && order == Order::ContractionOuter;
            let pad = PAD * if twice { 2 } else { 1 } / (WIDTH * matrix.element.size());
            Stage::new(order, WIDTH, outer, depth, pad)
        };
        let (a, b) = (stage(a, rows), stage(b, cols));
        Self { matrix, plane, rows, cols, planes_m, planes_n, depth, a, b }
    }

    /// Lines of a fragment of an operand, and vectors of each.
    pub(crate) fn fragment(&self, operand: Stage) -> [usize; 2] {
        let MatrixKind { side, depth, .. } = self.matrix;
        match operand.order {
            Order::ContractionInner => [side, depth / WIDTH],
            Order::ContractionOuter => [depth, side / WIDTH],
        }
    }

    /// Planes of a cube.
    pub(crate) fn planes(&self) -> usize {
        self.planes_m * self.planes_n
    }

    /// Units of a cube.
    pub(crate) fn units(&self) -> usize {
        self.planes() * self.plane
    }

    /// Rows of the output that one plane keeps.
    pub(crate) fn plane_rows(&self) -> usize {
        self.rows / self.planes_m
    }

    /// Columns of the output that one plane keeps.
    pub(crate) fn plane_cols(&self) -> usize {
        self.cols / self.planes_n
    }

    /// Instruction tiles of a plane along the rows.
    pub(crate) fn tiles_m(&self) -> usize {
        self.plane_rows() / self.matrix.side
    }

    /// Instruction tiles of a plane along the columns.
    pub(crate) fn tiles_n(&self) -> usize {
        self.plane_cols() / self.matrix.side
    }

    /// Vectors of f32 through which a plane hands out one instruction's results.
    pub(crate) fn handover(&self) -> usize {
        self.matrix.side * self.matrix.side / WIDTH
    }

    /// Shared memory of a cube, in bytes.
    pub(crate) fn shared_bytes(&self) -> usize {
        STAGES * (self.a.vectors() + self.b.vectors()) * WIDTH * self.matrix.element.size()
            + self.planes() * self.handover() * WIDTH * size_of::<f32>()
    }

    /// Whether the device has the shared memory and the units.
    pub(crate) fn fits(&self, caps: &Caps) -> bool {
        self.shared_bytes() <= caps.shared_bytes && self.units() <= caps.max_units
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockSize;
    use crate::cube::caps::tests::{AMPERE, AMPERE_F32, APPLE};

    /// The tiles of all products and sampled products on blocks of 16 and more.
    fn tiles(caps: &Caps) -> Vec<CmmaTile> {
        use Order::{ContractionInner as Inner, ContractionOuter as Outer};
        let matrix = caps.cmma.unwrap();
        let most = MAX_DEPTH / matrix.element.size();
        let of_block = |block: BlockSize| {
            let (block, cols) = (block.get(), block.get().min(MAX_COLS));
            let product = move |rows: usize, b| {
                CmmaTile::new(caps, matrix, [rows, cols], block.min(most), [Inner, b])
            };
            let products = [128, 64].map(|rows| [Inner, Outer].map(|b| product(rows, b)));
            let sampled = CmmaTile::new(caps, matrix, [MAX_COLS, cols], most, [Outer; 2]);
            products.into_iter().flatten().chain([sampled])
        };
        BlockSize::ALL.into_iter().filter(|block| block.get() >= 16).flat_map(of_block).collect()
    }

    #[test]
    fn planes_cover_every_tile() {
        for caps in [AMPERE, Caps { plane: Some(64), ..AMPERE }, APPLE, AMPERE_F32] {
            for tile in tiles(&caps) {
                let (side, depth) = (tile.matrix.side, tile.matrix.depth);
                assert_eq!(tile.tiles_m() * side * tile.planes_m, tile.rows, "{tile:?}");
                assert_eq!(tile.tiles_n() * side * tile.planes_n, tile.cols, "{tile:?}");
                assert!((64..=256).contains(&tile.units()), "{tile:?}");
                assert_eq!(tile.depth % depth, 0, "{tile:?}");
                // A unit copies from one place of a line only, so that it needs one index.
                assert_eq!(tile.units() % tile.a.line, 0, "{tile:?}");
                assert_eq!(tile.units() % tile.b.line, 0, "{tile:?}");
            }
        }
    }

    /// In `mma.sync.m16n8k8` lane `l` holds, of its 16 rows or 8 columns, `l / 4` at step `l % 4`.
    #[test]
    fn the_words_of_a_tf32_fragment_are_in_different_banks() {
        for stage in tiles(&AMPERE_F32).into_iter().flat_map(|tile| [tile.a, tile.b]) {
            let word = |lane: usize| match stage.order {
                Order::ContractionInner => lane / 4 * stage.pitch * WIDTH + lane % 4,
                Order::ContractionOuter => lane % 4 * stage.pitch * WIDTH + lane / 4,
            };
            let mut banks: Vec<usize> = (0..32).map(|lane| word(lane) % 32).collect();
            banks.sort_unstable();
            assert_eq!(banks, (0..32).collect::<Vec<_>>(), "{stage:?}");
        }
    }
}
