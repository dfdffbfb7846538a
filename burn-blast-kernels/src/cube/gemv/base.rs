//! The numbers of one product with few rows, picked on the host.
//!
//! The blocks of one column lie one after the other, so a block column is a matrix of `b` columns that is read
//! from front to back. Units take its 16-byte vectors in turn; a unit always meets the same columns of it and
//! keeps their sums in registers. The rows of `x` that go with a stretch of the column lie in shared memory.

use super::super::mma::offer::Offer;
use crate::BlockSize;

/// Units of a cube, all of which read values.
pub(crate) const UNITS: usize = 128;
/// Rows of the largest tile.
pub(crate) const MOST_ROWS: usize = 16;
/// Most rows for which sums on tensor cores are left unused where a device has them and enough columns of blocks
/// to fill it. On paper: a 16-byte vector of bf16 takes 8 · (rows + 1) operations a unit and the values of an H100
/// arrive at 13 bytes a cycle and multiprocessor, so 16 rows keep 110 of its 128 lanes busy, and an A100, with
/// half the lanes, reaches its limit at 8. To be measured.
const MOST_ROWS_BESIDE_CORES: usize = 8;
/// Numbers of `x` in shared memory: 16 KiB, the least that WebGPU promises.
const TILE: usize = 4096;
/// Sums of a unit. 64 leave room for three cubes on a multiprocessor, by what ptxas says.
const SUMS: usize = 64;
/// Bytes of a vector, the widest load there is.
const VECTOR_BYTES: usize = 16;
/// Vectors of values that a unit has on their way: 8 KiB a cube, of which three cover a latency of 1 µs at the
/// 23 bytes a nanosecond that an H100 has for each multiprocessor. Guess; to be measured.
const AHEAD: usize = 4;
/// The same where vectors are short, which means WGSL or SPIR-V: every copy of the loop costs their compilers
/// a second, on a software adapter several.
const AHEAD_NARROW: usize = 1;

/// How values lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stored {
    /// As numbers of the type of `x`.
    Float,
    /// Four integers to a 32-bit word, lowest byte first, with one scale a block.
    Int8,
}

/// How a block column is spread over the units of a cube.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Blueprint {
    /// Side of a block.
    pub block: usize,
    /// Rows of `x` at a time: 1, 2, 4, 8 or 16.
    pub rows: usize,
    /// What a vector holds.
    pub stored: Stored,
    /// Storage elements of a vector: numbers, or words of four integers.
    pub vector: usize,
    /// Vectors of a unit on their way.
    pub ahead: usize,
}

impl Blueprint {
    /// Values of a vector.
    pub fn values(&self) -> usize {
        self.vector * if self.stored == Stored::Int8 { 4 } else { 1 }
    }

    /// Columns of a block that a unit meets.
    pub fn cols(&self) -> usize {
        self.values().min(self.block)
    }

    /// Rows of a block that one vector holds: more than one if it is longer than they are.
    pub fn depth(&self) -> usize {
        self.values() / self.cols()
    }

    /// Vectors of a block.
    pub fn block_vectors(&self) -> usize {
        self.block * self.block / self.values()
    }

    /// Rows of `x` that one load from shared memory brings.
    pub fn quad(&self) -> usize {
        self.rows.min(4)
    }

    /// Such loads for all rows.
    pub fn quads(&self) -> usize {
        self.rows / self.quad()
    }

    /// Of these, how many a unit sums up. Where that is not all of them, neighbouring units read the same vector of
    /// values, in one transaction.
    pub fn unit_quads(&self) -> usize {
        self.rows.min(SUMS / self.cols()) / self.quad()
    }

    /// Units that share a vector.
    pub fn units_m(&self) -> usize {
        self.quads() / self.unit_quads()
    }

    /// Units along the columns of a block.
    pub fn units_n(&self) -> usize {
        self.block / self.cols()
    }

    /// Units along the contraction.
    pub fn units_k(&self) -> usize {
        UNITS / (self.units_m() * self.units_n())
    }

    /// Whether sums leave so few registers that each vector is loaded only when another is used up. Where they do
    /// not, all are loaded first: either order alone makes ptxas spill in some kernel.
    pub fn crowded(&self) -> bool {
        self.units_m() > 1
    }

    /// Vectors that the cube reads at a time.
    pub fn slots(&self) -> usize {
        UNITS / self.units_m()
    }

    /// Rows of the block column that are in flight together.
    pub fn chunk(&self) -> usize {
        self.ahead * self.units_k() * self.depth()
    }

    /// Rows of the block column for which `x` lies in shared memory; a multiple of [`Blueprint::chunk`].
    pub fn stage(&self) -> usize {
        TILE / self.rows
    }

    /// Vectors of `x` in shared memory.
    pub fn tile(&self) -> usize {
        TILE / self.quad()
    }

    /// Shared memory of a cube in bytes.
    pub fn shared_bytes(&self) -> usize {
        TILE * size_of::<f32>()
    }
}

/// Sums leave a cube in rounds: as many of each unit as fit the memory that held `x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Rounds {
    /// Columns and quads of rows of a unit in one round.
    pub cols: usize,
    pub quads: usize,
    /// Rounds along either.
    pub along_cols: usize,
    pub along_quads: usize,
    /// Results of one round, and of one unit in it.
    pub results: usize,
    pub each: usize,
}

impl Rounds {
    pub fn new(plan: &Blueprint) -> Self {
        let room = plan.tile() / UNITS;
        let cols = plan.cols().min(room);
        let quads = plan.unit_quads().min(room / cols);
        let results = cols * quads * plan.units_m() * plan.units_n();
        Self {
            cols,
            quads,
            along_cols: plan.cols() / cols,
            along_quads: plan.unit_quads() / quads,
            results,
            each: results.div_ceil(UNITS),
        }
    }

    /// Results of one unit.
    pub fn outs(&self) -> usize {
        self.along_cols * self.along_quads * self.each
    }
}

/// Picks the tile for `m` rows and values of `value_bytes`, on a device that moves at most `widest` storage elements
/// at a time.
pub(crate) fn select(
    block: BlockSize,
    m: usize,
    stored: Stored,
    value_bytes: usize,
    widest: usize,
) -> Blueprint {
    let element = if stored == Stored::Int8 { size_of::<u32>() } else { value_bytes };
    let vector = (VECTOR_BYTES / element).min(widest);
    let rows = m.next_power_of_two().clamp(1, MOST_ROWS);
    let ahead = if widest < VECTOR_BYTES { AHEAD_NARROW } else { AHEAD };
    let mut plan = Blueprint { block: block.get(), rows, stored, vector, ahead };
    while plan.chunk() > plan.stage() {
        plan.ahead /= 2;
    }
    plan
}

/// Buffers of a launch: `x`, values and their two indices, pieces and output; scales, a second weight with its
/// indices, and a bias where there are any.
pub(crate) fn buffers(stored: Stored, gated: bool, bias: bool) -> usize {
    6 + usize::from(stored == Stored::Int8) + 3 * usize::from(gated) + usize::from(bias)
}

/// What the device has too little of for a launch with so many buffers: what it is, how much is needed, and how much
/// there is.
pub(crate) fn lacks(offer: &Offer, buffers: usize) -> Option<(&'static str, usize, usize)> {
    let needs = [
        ("units a cube", UNITS, offer.max_units),
        ("bytes of shared memory", TILE * size_of::<f32>(), offer.shared_bytes),
        ("buffers", buffers, offer.bindings),
    ];
    needs.into_iter().find(|(_, needed, found)| needed > found)
}

/// Whether a forward product with `m` rows, `lines` block columns and so many buffers is one of few rows. `cores` says
/// that tensor cores would take it otherwise.
pub(crate) fn few_rows(offer: &Offer, m: usize, lines: usize, cores: bool, buffers: usize) -> bool {
    // Tensor cores take a block column a cube, however long it is: few columns leave the device idle. Where the number
    // of multiprocessors is not known, they are taken to be more than the columns.
    let filled = offer.compute_units > 1 && lines >= offer.compute_units;
    let most = if cores && filled { MOST_ROWS_BESIDE_CORES } else { MOST_ROWS };
    m <= most && lacks(offer, buffers).is_none()
}

#[cfg(test)]
mod tests {
    use super::super::super::mma::offer::tests::{AMPERE, APPLE};
    use super::*;

    fn plans() -> impl Iterator<Item = Blueprint> {
        let kinds = [
            (Stored::Float, 4, 4),
            (Stored::Float, 2, 4),
            (Stored::Float, 2, 16),
            (Stored::Int8, 1, 4),
            (Stored::Int8, 1, 16),
        ];
        BlockSize::ALL.into_iter().flat_map(move |block| {
            kinds.into_iter().flat_map(move |(stored, bytes, widest)| {
                (1..=MOST_ROWS).map(move |m| select(block, m, stored, bytes, widest))
            })
        })
    }

    #[test]
    fn every_tile_covers_its_rows_and_columns_once() {
        for plan in plans() {
            assert_eq!(plan.units_m() * plan.unit_quads() * plan.quad(), plan.rows, "{plan:?}");
            assert_eq!(plan.units_n() * plan.cols(), plan.block, "{plan:?}");
            assert_eq!(plan.units_m() * plan.units_n() * plan.units_k(), UNITS, "{plan:?}");
            let rounds = Rounds::new(&plan);
            let results = rounds.along_cols * rounds.along_quads * rounds.results;
            assert_eq!(results * plan.quad(), plan.block * plan.rows, "{plan:?}");
        }
    }

    #[test]
    fn sums_and_shared_memory_stay_within_their_limits() {
        for plan in plans() {
            assert!(plan.cols() * plan.unit_quads() * plan.quad() <= SUMS, "{plan:?}");
            let rounds = Rounds::new(&plan);
            assert!(rounds.cols * rounds.quads * UNITS <= plan.tile(), "{plan:?}");
            assert!(plan.ahead >= 1 && plan.stage().is_multiple_of(plan.chunk()), "{plan:?}");
            assert_eq!(plan.shared_bytes(), 16 * 1024);
        }
    }

    #[test]
    fn values_are_read_in_vectors_of_16_bytes() {
        let block = BlockSize::new(64).unwrap();
        for (stored, bytes, vector) in
            [(Stored::Float, 4, 4), (Stored::Float, 2, 8), (Stored::Int8, 1, 4)]
        {
            let plan = select(block, 3, stored, bytes, 1024);
            assert_eq!((plan.vector, plan.rows, plan.ahead), (vector, 4, AHEAD));
            assert_eq!(plan.values(), 16 / bytes);
        }
        // WGSL knows no longer vectors than four.
        let narrow = select(block, 3, Stored::Float, 2, 4);
        assert_eq!((narrow.vector, narrow.ahead), (4, AHEAD_NARROW));
    }

    #[test]
    fn few_rows_follow_the_table() {
        let small = Offer { max_units: 64, ..AMPERE };
        let tight = Offer { shared_bytes: 8192, ..AMPERE };
        let table = [
            ("one row", AMPERE, 1, 256, true, true),
            ("nine rows, unknown size", APPLE, 9, 256, true, true),
            ("seventeen rows, unknown size", APPLE, 17, 256, true, false),
            ("eight rows", AMPERE, 8, 256, true, true),
            ("nine rows, tensor cores", AMPERE, 9, 256, true, false),
            ("nine rows, tensor cores, few columns", AMPERE, 9, 107, true, true),
            ("sixteen rows, no tensor cores", AMPERE, 16, 256, false, true),
            ("seventeen rows", AMPERE, 17, 10, false, false),
            ("cubes of 64", small, 1, 256, false, false),
            ("8 KiB of shared memory", tight, 1, 256, false, false),
        ];
        for (name, offer, m, lines, cores, want) in table {
            assert_eq!(few_rows(&offer, m, lines, cores, 7), want, "{name}");
        }
    }

    #[test]
    fn webgpu_s_seven_buffers_serve_a_product_and_no_gated_pair() {
        let webgpu = Offer { max_units: 256, shared_bytes: 16_384, bindings: 7, ..APPLE };
        let table = [
            ("a product", Stored::Float, false, true, None),
            ("integers", Stored::Int8, false, false, None),
            ("integers and bias", Stored::Int8, false, true, Some(("buffers", 8, 7))),
            ("a gated pair", Stored::Float, true, false, Some(("buffers", 9, 7))),
            ("a gated pair and bias", Stored::Float, true, true, Some(("buffers", 10, 7))),
        ];
        for (name, stored, gated, bias, want) in table {
            let buffers = buffers(stored, gated, bias);
            assert_eq!(lacks(&webgpu, buffers), want, "{name}");
            assert_eq!(lacks(&APPLE, buffers), None, "{name}");
            assert_eq!(few_rows(&webgpu, 1, 8, false, buffers), want.is_none(), "{name}");
        }
        let narrow = Offer { max_units: 12, ..APPLE };
        assert_eq!(lacks(&narrow, 7), Some(("units a cube", 128, 12)));
        let tight = Offer { shared_bytes: 8192, ..APPLE };
        assert_eq!(lacks(&tight, 7), Some(("bytes of shared memory", 16_384, 8192)));
    }
}
