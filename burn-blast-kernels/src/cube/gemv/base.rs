//! The numbers of one product with few rows, selected on the host.
//!
//! The blocks of one column are stored one after the other, so a block column is a matrix of `b` columns that is read
//! from front to back. Units take its 16-byte vectors in turn. Each unit always reads the same columns and keeps their
//! sums in registers. The rows of `x` for the part of the column being read are in shared memory.

use crate::BlockSize;
use crate::cube::caps::Caps;

/// Units of a cube, all of which read values.
pub(crate) const UNITS: usize = 128;
/// Rows of the largest tile.
pub(crate) const MOST_ROWS: usize = 16;
/// Most rows for which tensor cores are left unused where a device has them and the weight has enough block columns
/// to fill it. On paper: a 16-byte vector of bf16 takes 8 · (rows + 1) operations per unit, and the values of an H100
/// arrive at 13 bytes per cycle and multiprocessor. So 16 rows keep 110 of its 128 lanes busy, and an A100, with half
/// the lanes, reaches its limit at 8. To be measured.
const MOST_ROWS_BESIDE_CORES: usize = 8;
/// Numbers of `x` in shared memory: 16 KiB, the least that WebGPU promises.
const TILE: usize = 4096;
/// Shared memory of a cube in bytes.
pub(crate) const SHARED_BYTES: usize = TILE * size_of::<f32>();
/// Sums of a unit. 64 leave room for three cubes per multiprocessor, as ptxas reports.
const SUMS: usize = 64;
/// Bytes of a vector, the widest load there is.
const VECTOR_BYTES: usize = 16;
/// Vectors of values that a unit has in flight: 8 KiB per cube, of which three cover a latency of 1 µs at the 23
/// bytes per nanosecond that an H100 has per multiprocessor. Guess; to be measured.
const AHEAD: usize = 4;
/// The same where vectors are short, which means WGSL or SPIR-V: every copy of the loop costs their compilers a second,
/// and several on a software adapter.
const AHEAD_NARROW: usize = 1;

/// Format of the values in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    /// Numbers of the type of `x`.
    Float,
    /// Four integers to a 32-bit word, lowest byte first, with one scale per block.
    Int8,
}

/// How the units of a cube share a block column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Blueprint {
    /// Side of a block.
    pub block: usize,
    /// Rows of `x` at a time: 1, 2, 4, 8 or 16.
    pub rows: usize,
    /// Format of the values.
    pub format: Format,
    /// Storage elements of a vector: numbers, or words of four integers.
    pub vector: usize,
    /// Vectors that a unit has in flight.
    pub ahead: usize,
}

impl Blueprint {
    /// Values of a vector.
    pub(crate) fn values(&self) -> usize {
        self.vector * if self.format == Format::Int8 { 4 } else { 1 }
    }

    /// Columns of a block that a unit reads.
    pub(crate) fn cols(&self) -> usize {
        self.values().min(self.block)
    }

    /// Rows of a block that one vector holds: more than one if it is longer than a row.
    pub(crate) fn depth(&self) -> usize {
        self.values() / self.cols()
    }

    /// Vectors of a block.
    pub(crate) fn block_vectors(&self) -> usize {
        self.block * self.block / self.values()
    }

    /// Rows of `x` that one load from shared memory brings.
    pub(crate) fn quad(&self) -> usize {
        self.rows.min(4)
    }

    /// Such loads for all rows.
    pub(crate) fn quads(&self) -> usize {
        self.rows / self.quad()
    }

    /// Loads of these whose rows one unit sums up. Where that is not all of them, neighbouring units read the same
    /// vector of values in one transaction.
    pub(crate) fn unit_quads(&self) -> usize {
        self.rows.min(SUMS / self.cols()) / self.quad()
    }

    /// Units that share a vector.
    pub(crate) fn units_m(&self) -> usize {
        self.quads() / self.unit_quads()
    }

    /// Units along the columns of a block.
    pub(crate) fn units_n(&self) -> usize {
        self.block / self.cols()
    }

    /// Units along the contraction.
    pub(crate) fn units_k(&self) -> usize {
        UNITS / (self.units_m() * self.units_n())
    }

    /// Whether the sums take so many registers that vectors are loaded one at a time, each when another is used up.
    /// Otherwise all are loaded first. With either order alone, ptxas spills in some kernel.
    pub(crate) fn crowded(&self) -> bool {
        self.units_m() > 1
    }

    /// Vectors that the cube reads at a time.
    pub(crate) fn slots(&self) -> usize {
        UNITS / self.units_m()
    }

    /// Rows of the block column that are in flight together.
    pub(crate) fn chunk(&self) -> usize {
        self.ahead * self.units_k() * self.depth()
    }

    /// Rows of the block column for which `x` is in shared memory; a multiple of [`Blueprint::chunk`].
    pub(crate) fn stage(&self) -> usize {
        TILE / self.rows
    }

    /// Vectors of `x` in shared memory.
    pub(crate) fn tile(&self) -> usize {
        TILE / self.quad()
    }
}

/// The rounds in which a cube writes its sums: each writes the sums per unit that fit the shared memory that held
/// `x`.
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
    pub(crate) fn new(blueprint: &Blueprint) -> Self {
        let room = blueprint.tile() / UNITS;
        let cols = blueprint.cols().min(room);
        let quads = blueprint.unit_quads().min(room / cols);
        let results = cols * quads * blueprint.units_m() * blueprint.units_n();
        Self {
            cols,
            quads,
            along_cols: blueprint.cols() / cols,
            along_quads: blueprint.unit_quads() / quads,
            results,
            each: results.div_ceil(UNITS),
        }
    }

    /// Results of one unit.
    pub(crate) fn outs(&self) -> usize {
        self.along_cols * self.along_quads * self.each
    }
}

/// The tile for `m` rows and values of `value_bytes`, on a device that moves at most `widest` storage elements at a
/// time.
pub(crate) fn select(
    block: BlockSize,
    m: usize,
    format: Format,
    value_bytes: usize,
    widest: usize,
) -> Blueprint {
    let element = if format == Format::Int8 { size_of::<u32>() } else { value_bytes };
    let vector = (VECTOR_BYTES / element).min(widest);
    let rows = m.next_power_of_two().clamp(1, MOST_ROWS);
    let ahead = if widest < VECTOR_BYTES { AHEAD_NARROW } else { AHEAD };
    let mut blueprint = Blueprint { block: block.get(), rows, format, vector, ahead };
    while blueprint.chunk() > blueprint.stage() {
        blueprint.ahead /= 2;
    }
    blueprint
}

/// Buffers of a launch: `x`, values and their two indices, parts and output; scales, a second weight with its indices,
/// and a bias where there are any.
pub(crate) fn buffers(format: Format, gated: bool, bias: bool) -> usize {
    6 + usize::from(format == Format::Int8) + 3 * usize::from(gated) + usize::from(bias)
}

/// Whether the device has the units and the shared memory of a cube and binds `buffers` buffers.
pub(crate) fn fits(caps: &Caps, buffers: usize) -> bool {
    caps.max_units >= UNITS && caps.shared_bytes >= SHARED_BYTES && caps.bindings >= buffers
}

/// Most rows for which this kernel is the best, on a weight of `block_cols` block columns. `cores`: whether tensor
/// cores would run the product instead.
pub(crate) fn most_rows(caps: &Caps, block_cols: usize, cores: bool) -> usize {
    // Tensor cores take one block column per cube, however long it is: few columns leave the device idle. Where the
    // number of multiprocessors is not known, it is taken to be greater than the number of columns.
    let filled = caps.compute_units.is_some_and(|units| block_cols >= units);
    if cores && filled { MOST_ROWS_BESIDE_CORES } else { MOST_ROWS }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blueprints() -> impl Iterator<Item = Blueprint> {
        let kinds = [
            (Format::Float, 4, 4),
            (Format::Float, 2, 4),
            (Format::Float, 2, 16),
            (Format::Int8, 1, 4),
            (Format::Int8, 1, 16),
        ];
        BlockSize::ALL.into_iter().flat_map(move |block| {
            kinds.into_iter().flat_map(move |(format, bytes, widest)| {
                (1..=MOST_ROWS).map(move |m| select(block, m, format, bytes, widest))
            })
        })
    }

    #[test]
    fn every_tile_covers_its_rows_and_columns_once() {
        for blueprint in blueprints() {
            assert_eq!(
                blueprint.units_m() * blueprint.unit_quads() * blueprint.quad(),
                blueprint.rows,
                "{blueprint:?}"
            );
            assert_eq!(blueprint.units_n() * blueprint.cols(), blueprint.block, "{blueprint:?}");
            assert_eq!(
                blueprint.units_m() * blueprint.units_n() * blueprint.units_k(),
                UNITS,
                "{blueprint:?}"
            );
            let rounds = Rounds::new(&blueprint);
            let results = rounds.along_cols * rounds.along_quads * rounds.results;
            assert_eq!(
                results * blueprint.quad(),
                blueprint.block * blueprint.rows,
                "{blueprint:?}"
            );
        }
    }

    #[test]
    fn sums_and_shared_memory_stay_within_their_limits() {
        for blueprint in blueprints() {
            assert!(
                blueprint.cols() * blueprint.unit_quads() * blueprint.quad() <= SUMS,
                "{blueprint:?}"
            );
            let rounds = Rounds::new(&blueprint);
            assert!(rounds.cols * rounds.quads * UNITS <= blueprint.tile(), "{blueprint:?}");
            assert!(
                blueprint.ahead >= 1 && blueprint.stage().is_multiple_of(blueprint.chunk()),
                "{blueprint:?}"
            );
        }
    }

    #[test]
    fn values_are_read_in_vectors_of_16_bytes() {
        let block = BlockSize::new(64).unwrap();
        for (format, bytes, vector) in
            [(Format::Float, 4, 4), (Format::Float, 2, 8), (Format::Int8, 1, 4)]
        {
            let blueprint = select(block, 3, format, bytes, 1024);
            assert_eq!((blueprint.vector, blueprint.rows, blueprint.ahead), (vector, 4, AHEAD));
            assert_eq!(blueprint.values(), 16 / bytes);
        }
        // WGSL knows no longer vectors than four.
        let narrow = select(block, 3, Format::Float, 2, 4);
        assert_eq!((narrow.vector, narrow.ahead), (4, AHEAD_NARROW));
    }
}
