//! Tiles of `mma.sync.m16n8k16`, fed by `ldmatrix`, with copies to shared memory that run ahead of the arithmetic
//! (`cp.async`) where the device has them.
//!
//! A cube multiplies `a [rows, contraction]` by `b [contraction, cols]` in steps of [`MmaTile::depth`].
//! Its planes form a grid over the output tile; each keeps its part in registers, in tiles of the instruction.

pub(crate) mod fragment;

use cubecl::prelude::*;

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
/// Groups of banks of shared memory, each as wide as a vector.
const GROUPS: usize = 8;
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

    /// Twice as wide, with the same planes: for two products with one left operand. A plane keeps the same columns of both.
    pub(crate) fn doubled(self) -> Self {
        let cols = 2 * self.cols;
        let b = Stage { products: 2, ..stage(self.b.order, cols) };
        Self { cols, b, ..self }
    }

    /// First column of instruction tile `j` of a plane, from the first column of the plane in the first product on.
    pub(crate) fn tile_col(&self, j: usize) -> usize {
        let per_product = self.tiles_n() / self.b.products;
        j / per_product * (self.cols / self.b.products) + j % per_product * INSTRUCTION_COLS
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

/// Lines are not padded; [`place`] avoids bank conflicts.
fn stage(order: Order, outer: usize) -> Stage {
    Stage::new(order, WIDE, outer, DEPTH, 0)
}

/// Place of vector `quad` of a line in its stage. The vectors of a line are permuted by [`turn`].
#[cube]
pub(crate) fn place(line: usize, quad: usize, #[comptime] stage: Stage) -> usize {
    line * stage.pitch + (quad ^ turn(line, stage))
}

/// By what the numbers of the vectors of a line are permuted, bit by bit. Shared memory serves eight vectors at a time if they
/// are in eight different groups of banks, which repeat every eight vectors. So eight neighbours of one line, as copies write
/// them, and one vector of each of eight lines, as `ldmatrix` reads them, must differ modulo eight. Where a line has four
/// vectors, two lines share the groups; where a copy writes four vectors of each of two lines, it must not meet itself either.
/// The same for a line and the eighth after it.
#[cube]
fn turn(line: usize, #[comptime] stage: Stage) -> usize {
    if comptime!(stage.line < GROUPS) {
        line / 2 % 4
    } else if comptime!(stage.line / stage.products < GROUPS) {
        line / 2 % 4 + line % 2 * 4
    } else {
        line % GROUPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads of eight lines, and writes of eight vectors, take eight different groups of banks; every vector has its place.
    fn check_banks(stage: Stage) {
        let all_groups = |places: Vec<usize>| {
            let mut groups: Vec<usize> = places.iter().map(|place| place % GROUPS).collect();
            groups.sort_unstable();
            assert_eq!(groups, (0..GROUPS).collect::<Vec<_>>(), "{stage:?}: {places:?}");
        };
        let place = |at: usize| place(at / stage.line, at % stage.line, stage);
        // Copies write a whole line, or the part of it that belongs to one of two products.
        let width = stage.line / stage.products;
        let part = |at: usize| place(at / width * stage.line + at % width);
        for first in (0..stage.vectors() / stage.products).step_by(GROUPS) {
            all_groups((first..first + GROUPS).map(part).collect());
        }
        for line in (0..stage.lines).step_by(GROUPS) {
            for quad in 0..stage.line {
                let of_line = |line: usize| place(line * stage.line + quad);
                all_groups((line..line + GROUPS).map(of_line).collect());
            }
        }
        let mut places: Vec<usize> = (0..stage.vectors()).map(place).collect();
        places.sort_unstable();
        assert!(places.into_iter().eq(0..stage.vectors()), "{stage:?}");
    }

    #[test]
    fn planes_cover_the_tile_and_nothing_meets_in_a_bank() {
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
                    check_banks(tile.a);
                    check_banks(tile.b);
                    if b == Order::ContractionOuter {
                        check_banks(tile.doubled().b);
                    }
                }
            }
        }
    }
}
