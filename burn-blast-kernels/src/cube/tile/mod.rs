//! Tiles: the part of a product that one cube computes, its numbers and its device code.

use super::caps::Caps;

pub(super) mod cmma;
pub(super) mod mma;
pub(super) mod unit;

/// The axis of an operand that is contiguous, in global and in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Order {
    /// One line holds the contraction: `a [rows, depth]`, `b [cols, depth]`.
    ContractionInner,
    /// One line holds the output axis: `a [depth, rows]`, `b [depth, cols]`.
    ContractionOuter,
}

/// One operand's stage in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stage {
    /// Its memory order.
    pub order: Order,
    /// Elements of a vector.
    pub width: usize,
    /// Vectors of one line, without padding.
    pub line: usize,
    /// Number of lines.
    pub lines: usize,
    /// Vectors from one line to the next.
    pub pitch: usize,
    /// Products whose operands are side by side in a line.
    pub products: usize,
}

impl Stage {
    /// `outer` rows or columns of the output, `depth` steps of the contraction, and `pad` vectors after each line.
    fn new(order: Order, width: usize, outer: usize, depth: usize, pad: usize) -> Self {
        let (line, lines) = match order {
            Order::ContractionInner => (depth / width, outer),
            Order::ContractionOuter => (outer / width, depth),
        };
        Self { order, width, line, lines, pitch: line + pad, products: 1 }
    }

    /// Vectors of the stage.
    pub(super) fn vectors(&self) -> usize {
        self.lines * self.pitch
    }

    /// Where the fragment at `(outer, contraction)` starts.
    pub(super) fn from(&self, outer: usize, contraction: usize) -> Start {
        match self.order {
            Order::ContractionInner => Start { line: outer, quad: contraction / self.width },
            Order::ContractionOuter => Start { line: contraction, quad: outer / self.width },
        }
    }

    /// Vectors from the start of the stage to the fragment at `(outer, contraction)`.
    pub(super) fn offset(&self, outer: usize, contraction: usize) -> usize {
        let Start { line, quad } = self.from(outer, contraction);
        line * self.pitch + quad
    }
}

/// A line of a stage, and a vector in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    pub line: usize,
    pub quad: usize,
}

/// Fewest cubes per multiprocessor for which a tall tile is taken. Below, a shorter one keeps more of the device busy.
/// Guess; to be measured.
const MIN_CUBES_PER_UNIT: usize = 2;

/// Orders blueprints for `m` rows and `block_cols` block columns of output, given tallest first. First the tallest that
/// `m` fills more than half and that leaves enough cubes, otherwise the shortest; then the others.
pub(super) fn best_first<B>(
    mut blueprints: Vec<B>,
    rows: impl Fn(&B) -> usize,
    caps: &Caps,
    [m, block_cols]: [usize; 2],
) -> Vec<B> {
    let least = MIN_CUBES_PER_UNIT * caps.compute_units.unwrap_or(1);
    let suits = |blueprint: &B| {
        let rows = rows(blueprint);
        m > rows / 2 && m.div_ceil(rows) * block_cols >= least
    };
    if let Some(shortest) = blueprints.len().checked_sub(1) {
        let best = blueprints.iter().position(suits).unwrap_or(shortest);
        blueprints[..=best].rotate_right(1);
    }
    blueprints
}
