//! Tiles of `mma.sync.m16n8k16`, fed by `ldmatrix`, with copies to shared memory that run ahead of the arithmetic
//! (`cp.async`) where the device has them.
//!
//! A cube multiplies `a [rows, contraction]` by `b [contraction, cols]` in steps of [`MmaTile::depth`].
//! Its planes form a grid over the output tile; each keeps its part in registers, in tiles of the instruction.

pub(crate) mod fragment;

use super::{Order, Stage};
use crate::cube::caps::MMA;

/// Rows of one instruction's result.
pub(crate) const INSTRUCTION_ROWS: usize = MMA[0];
/// Columns of one instruction's result.
pub(crate) const INSTRUCTION_COLS: usize = MMA[1];
/// Contraction of one instruction.
pub(crate) const INSTRUCTION_DEPTH: usize = MMA[2];
/// Units of a plane: the layout of the instruction's registers assumes it.
pub(crate) const PLANE: usize = 32;
/// Elements moved at a time: 16 bytes, which is what `ldmatrix` and `cp.async` take.
pub(crate) const WIDE: usize = 8;
/// Contraction steps of one stage. Two instructions deep; 64 would save half the barriers and fill shared
/// memory twice as fast. Guess; to be measured.
const DEPTH: usize = 32;
/// Stages in shared memory with asynchronous copies: three are in flight while one is read. Guess.
const STAGES: usize = 4;
/// Stages without them: one is filled while the other is read.
const STAGES_PLAIN: usize = 2;

/// The output tile of a cube, its planes, and the stages of its contraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MmaTile {
    /// Rows of the output tile.
    pub rows: usize,
    /// Columns of the output tile.
    pub cols: usize,
    /// Planes along the rows.
    pub planes_m: usize,
    /// Planes along the columns.
    pub planes_n: usize,
    /// Stage of the left operand.
    pub a: Stage,
    /// Stage of the right operand.
    pub b: Stage,
    /// Whether copies are asynchronous. If not, they pass through registers.
    pub pipelined: bool,
}

impl MmaTile {
    /// Tile of `rows` by `cols` with the planes that suit it: 32 x 32 outputs per plane where there are enough, up to
    /// 64 x 64 in the largest, never more than eight planes.
    pub(crate) fn new(rows: usize, cols: usize, a: Order, b: Order, pipelined: bool) -> Self {
        let (planes_m, planes_n) = match (rows, cols) {
            (64, 32) => (4, 1),
            (64, 64) => (2, 2),
            (64, 128) => (2, 4),
            (128, 128) => (2, 4),
            (256, 32) => (8, 1),
            _ => (4, 2),
        };
        let (a, b) = (stage(a, rows), stage(b, cols));
        Self { rows, cols, planes_m, planes_n, a, b, pipelined }
    }

    /// Twice as wide, with the same planes: for two products with one left operand.
    pub(crate) fn doubled(self) -> Self {
        let cols = 2 * self.cols;
        Self { cols, b: stage(self.b.order, cols), ..self }
    }

    /// Contraction steps of one stage.
    pub(crate) fn depth(&self) -> usize {
        DEPTH
    }

    /// Stages in shared memory.
    pub(crate) fn stages(&self) -> usize {
        if self.pipelined { STAGES } else { STAGES_PLAIN }
    }

    /// Units of a cube.
    pub(crate) fn units(&self) -> usize {
        self.planes_m * self.planes_n * PLANE
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
        self.plane_rows() / INSTRUCTION_ROWS
    }

    /// Instruction tiles of a plane along the columns.
    pub(crate) fn tiles_n(&self) -> usize {
        self.plane_cols() / INSTRUCTION_COLS
    }

    /// Shared memory of a cube, in bytes.
    pub(crate) fn shared_bytes(&self) -> usize {
        self.stages() * (self.a.vectors() + self.b.vectors()) * 16
    }
}

/// Lines are padded by one vector: then the eight lines that an `ldmatrix` reads start in eight different groups of
/// banks.
fn stage(order: Order, outer: usize) -> Stage {
    Stage::new(order, WIDE, outer, DEPTH, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_cover_the_tile_and_lines_avoid_bank_conflicts() {
        for rows in [64, 128, 256] {
            for cols in [32, 64, 128] {
                for (a, b) in [
                    (Order::ContractionInner, Order::ContractionOuter),
                    (Order::ContractionInner, Order::ContractionInner),
                    (Order::ContractionOuter, Order::ContractionOuter),
                ] {
                    let tile = MmaTile::new(rows, cols, a, b, true);
                    assert_eq!(tile.tiles_m() * INSTRUCTION_ROWS * tile.planes_m, rows, "{tile:?}");
                    // Right fragments are loaded two at a time.
                    assert_eq!(tile.tiles_n() % 2, 0, "{tile:?}");
                    assert_eq!(tile.tiles_n() * INSTRUCTION_COLS * tile.planes_n, cols, "{tile:?}");
                    assert!((128..=256).contains(&tile.units()), "{tile:?}");
                    // A unit copies from one place of the line only, so that it needs one index.
                    assert_eq!(tile.units() % tile.a.line, 0, "{tile:?}");
                    for pitch in [tile.a.pitch, tile.b.pitch] {
                        let mut banks: Vec<usize> = (0..8).map(|row| row * pitch % 8).collect();
                        banks.sort_unstable();
                        assert_eq!(banks, (0..8).collect::<Vec<_>>(), "{tile:?}");
                    }
                }
            }
        }
    }
}
