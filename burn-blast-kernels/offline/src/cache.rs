//! A model of the last-level cache: which bytes of a product come from memory, for an order of its cubes.
//!
//! The cubes that are resident take turns, one block at a time, and the next cube starts where one ends. A cube touches a tile
//! of the input and a block of the weight for each of its blocks, and its tile of the output at its end. The cache holds the
//! most recently touched of them, whole. A GPU is less orderly, so figures compare orders; they are no forecast.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;

use burn_blast_kernels::cube::catalogue::{row_panel, tile_of};
use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape};

/// Bytes of an element; bf16.
const ELEMENT: usize = 2;

/// A device.
#[derive(Debug, Clone, Copy)]
pub struct Cache {
    /// Bytes of the last-level cache.
    pub bytes: usize,
    /// Cubes that run at a time.
    pub cubes: usize,
}

/// A product of `m` rows with a random pattern at 90 % sparsity.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// For reports.
    pub name: &'static str,
    /// Rows of the input.
    pub m: usize,
    /// Contraction and output.
    pub sides: [usize; 2],
    /// Side of a block.
    pub block: usize,
    /// Rows of a tile of the output.
    pub rows: usize,
}

impl Product {
    fn row_tiles(&self) -> usize {
        self.m.div_ceil(self.rows)
    }

    /// Row tiles of a panel, as launches choose it on a device that reports this cache, or none.
    pub fn panel(&self, cache: Option<usize>) -> usize {
        row_panel(cache, self.row_tiles(), self.rows * self.sides[0] * ELEMENT)
    }

    /// Cubes on an H100 at a time: a tile of 256 x 128 leaves room for one on each of 132 multiprocessors, others for two.
    fn resident(&self) -> usize {
        if self.rows * self.block > 256 * 64 { 132 } else { 264 }
    }

    /// Bytes from memory in panels of `panel` row tiles.
    pub fn bytes(&self, cache: Cache, panel: usize) -> usize {
        let [k, n] = self.sides;
        let (shape, block) = (MatrixShape::new(k, n), BlockSize::new(self.block));
        let (shape, block) = shape.and_then(|shape| Ok((shape, block?))).expect("valid sizes");
        let pattern = BlockPattern::random(shape, block, 0.1, 0);
        let (ptr, order) = (pattern.col_ptr(), &pattern.work_order().cols_by_length);
        let cubes = self.row_tiles() * order.len();
        let mut waiting = (0..cubes).map(|cube| {
            let (row_tile, col_tile) = tile_of(cube, cubes, panel, self.row_tiles());
            let column = order[col_tile] as usize;
            Cube { row_tile, column, at: ptr[column] as usize, end: ptr[column + 1] as usize }
        });
        let mut memory = Recent::new(cache.bytes);
        let [x, w] = [self.rows, self.block].map(|lines| lines * self.block * ELEMENT);
        let mut running: Vec<Cube> = waiting.by_ref().take(cache.cubes).collect();
        while !running.is_empty() {
            for cube in &mut running {
                if cube.at < cube.end {
                    let row = pattern.row_idx()[cube.at] as usize;
                    memory.touch((Tensor::Input, cube.row_tile, row), x);
                    memory.touch((Tensor::Values, cube.at, 0), w);
                    cube.at += 1;
                }
                if cube.at == cube.end {
                    memory.touch((Tensor::Output, cube.row_tile, cube.column), x);
                }
            }
            running.retain(|cube| cube.at < cube.end);
            running.extend(waiting.by_ref().take(cache.cubes - running.len()));
        }
        memory.missed
    }
}

struct Cube {
    row_tile: usize,
    column: usize,
    at: usize,
    end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Tensor {
    Input,
    Values,
    Output,
}

type Key = (Tensor, usize, usize);

/// What was touched most recently, up to a number of bytes.
struct Recent {
    bytes: usize,
    used: usize,
    missed: usize,
    turn: usize,
    /// Size and last turn of each part in the cache.
    parts: HashMap<Key, (usize, usize)>,
    /// All turns, oldest first; one that is not the last of its part no longer counts.
    turns: VecDeque<(Key, usize)>,
}

impl Recent {
    fn new(bytes: usize) -> Self {
        let (parts, turns) = (HashMap::new(), VecDeque::new());
        Self { bytes, used: 0, missed: 0, turn: 0, parts, turns }
    }

    fn touch(&mut self, key: Key, size: usize) {
        self.turn += 1;
        self.turns.push_back((key, self.turn));
        if self.parts.insert(key, (size, self.turn)).is_none() {
            self.missed += size;
            self.used += size;
        }
        while self.used > self.bytes {
            let (key, turn) = self.turns.pop_front().expect("what is used was touched");
            if self.parts.get(&key).is_some_and(|&(_, last)| last == turn) {
                self.used -= self.parts.remove(&key).map_or(0, |(size, _)| size);
            }
        }
    }
}

/// An A100; an H100 of whose cache little is held twice.
const WHOLE: usize = 40_000_000;
/// An H100 whose halves both hold the input.
const HALF: usize = 25_000_000;
/// An RTX 3090.
const SMALL: usize = 6_000_000;

/// Products of Llama 3.1 8B and 405B.
pub const PRODUCTS: [Product; 6] = [
    Product { name: "8B gate", m: 2048, sides: [4096, 14336], block: 64, rows: 256 },
    Product { name: "8B gate", m: 8192, sides: [4096, 14336], block: 64, rows: 256 },
    Product {
        name: "8B gate, input gradient",
        m: 8192,
        sides: [14336, 4096],
        block: 64,
        rows: 256,
    },
    Product { name: "8B gate", m: 8192, sides: [4096, 14336], block: 128, rows: 256 },
    Product { name: "405B gate", m: 2048, sides: [16384, 53248], block: 128, rows: 256 },
    Product { name: "405B gate", m: 8192, sides: [16384, 53248], block: 128, rows: 256 },
];

/// MB from memory without panels and with them, by size of the cache, which devices do not report.
pub fn table() -> String {
    let mut text = String::from(
        "| product | rows | block | rows of a panel | 40 MB: all rows | panels | 25 MB: all rows | panels | 6 MB: all rows | panels |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for product in PRODUCTS {
        let (panel, Product { name, m, block, rows, .. }) = (product.panel(None), product);
        write!(text, "| {name} | {m} | {block} | {} |", m.min(panel * rows))
            .expect("a string grows");
        for bytes in [WHOLE, HALF, SMALL] {
            let cache = Cache { bytes, cubes: product.resident() };
            let [all, panels] =
                [product.row_tiles(), panel].map(|panel| product.bytes(cache, panel));
            write!(text, " {:.0} | {:.0} |", all as f64 / 1e6, panels as f64 / 1e6)
                .expect("a string grows");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_read_less_of_many_rows_and_change_nothing_for_few() {
        let [few, many, gradient, ..] = PRODUCTS;
        assert_eq!(few.panel(None), few.row_tiles());
        for (product, bytes, least) in
            [(many, WHOLE, 2.5), (gradient, WHOLE, 2.5), (many, HALF, 2.5), (gradient, HALF, 2.0)]
        {
            let cache = Cache { bytes, cubes: product.resident() };
            let [all, panels] =
                [product.row_tiles(), product.panel(None)].map(|panel| product.bytes(cache, panel));
            assert!(all as f64 >= least * panels as f64, "{product:?}: {all}, {panels}");
        }
    }

    #[test]
    fn a_cache_that_holds_everything_reads_everything_once() {
        let product = Product { name: "", m: 128, sides: [256, 256], block: 64, rows: 64 };
        let all = Cache { bytes: 1 << 30, cubes: 3 };
        // One or two of the sixteen blocks; every output tile, and the input tiles of the kept block rows.
        let bytes = product.bytes(all, 1);
        let tile = 64 * 64 * ELEMENT;
        assert_eq!(bytes % tile, 0);
        assert!((8 * tile + 3 * tile..=8 * tile + 6 * tile).contains(&bytes), "{}", bytes / tile);
    }
}
