//! The numbers of one cube's matrix product, picked on the host.

use crate::BlockSize;
use crate::cube::mma::offer::Offer;
use crate::cube::mma::tile::Order;

/// Elements of one vector: eight bytes, which every device reads at once.
pub(crate) const WIDTH: usize = 4;
/// Vectors between lines in shared memory on top of what they hold: 16 bytes, to which some devices want
/// lines aligned.
const PAD: usize = 2;
/// Most units of a cube: the least that WebGPU promises.
const MAX_UNITS: usize = 256;
/// Widest tile: at block 128, cubes share a block.
const MAX_COLS: usize = 64;
/// Rows of the output tile, tallest first. The taller one may need more than 32 KiB of shared memory.
pub(crate) const ROWS: [usize; 2] = [128, 64];
/// Most contraction steps of a stage. Guess; to be measured.
const MAX_DEPTH: usize = 32;
/// Stages in shared memory: one is filled while the other is read.
pub(crate) const STAGES: usize = 2;
/// Fewest cubes per multiprocessor for which the taller tile is taken. Guess; to be measured.
const MIN_CUBES_PER_UNIT: usize = 2;

/// How a cube's output tile is cut into planes, and its contraction into stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CmmaTile {
    /// Rows, columns and contraction of one instruction.
    pub side: usize,
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
    /// Memory order of the left operand.
    pub a: Order,
    /// Memory order of the right operand.
    pub b: Order,
}

impl CmmaTile {
    fn new(
        offer: &Offer,
        side: usize,
        [rows, cols]: [usize; 2],
        depth: usize,
        order: [Order; 2],
    ) -> Self {
        let planes = MAX_UNITS / offer.plane;
        let planes_n = (cols / side).min(2);
        let planes_m = (planes / planes_n).min(rows / side);
        let [a, b] = order;
        Self { side, plane: offer.plane, rows, cols, planes_m, planes_n, depth, a, b }
    }

    /// Planes of a cube.
    pub fn planes(&self) -> usize {
        self.planes_m * self.planes_n
    }

    /// Units of a cube.
    pub fn units(&self) -> usize {
        self.planes() * self.plane
    }

    /// Rows of the output that one plane keeps.
    pub fn plane_rows(&self) -> usize {
        self.rows / self.planes_m
    }

    /// Columns of the output that one plane keeps.
    pub fn plane_cols(&self) -> usize {
        self.cols / self.planes_n
    }

    /// Instruction tiles of a plane along the rows.
    pub fn tiles_m(&self) -> usize {
        self.plane_rows() / self.side
    }

    /// Instruction tiles of a plane along the columns.
    pub fn tiles_n(&self) -> usize {
        self.plane_cols() / self.side
    }

    /// Vectors of one line of the left operand's stage, without padding.
    pub fn a_line(&self) -> usize {
        self.line(self.a, self.rows)
    }

    /// Vectors of one line of the right operand's stage, without padding.
    pub fn b_line(&self) -> usize {
        self.line(self.b, self.cols)
    }

    /// Lines of the left operand's stage.
    pub fn a_lines(&self) -> usize {
        self.lines(self.a, self.rows)
    }

    /// Lines of the right operand's stage.
    pub fn b_lines(&self) -> usize {
        self.lines(self.b, self.cols)
    }

    /// Vectors from one line of the left operand to the next.
    pub fn a_pitch(&self) -> usize {
        self.a_line() + PAD
    }

    /// Vectors from one line of the right operand to the next.
    pub fn b_pitch(&self) -> usize {
        self.b_line() + PAD
    }

    /// Vectors of one stage of the left operand.
    pub fn a_stage(&self) -> usize {
        self.a_lines() * self.a_pitch()
    }

    /// Vectors of one stage of the right operand.
    pub fn b_stage(&self) -> usize {
        self.b_lines() * self.b_pitch()
    }

    /// Vectors of f32 through which a plane hands out one instruction's results.
    pub fn handover(&self) -> usize {
        self.side * self.side / WIDTH
    }

    /// Shared memory of a cube, in bytes, for elements of two.
    pub fn shared_bytes(&self) -> usize {
        STAGES * (self.a_stage() + self.b_stage()) * WIDTH * 2
            + self.planes() * self.handover() * WIDTH * 4
    }

    fn line(&self, order: Order, side: usize) -> usize {
        match order {
            Order::ContractionInner => self.depth / WIDTH,
            Order::ContractionOuter => side / WIDTH,
        }
    }

    fn lines(&self, order: Order, side: usize) -> usize {
        match order {
            Order::ContractionInner => side,
            Order::ContractionOuter => self.depth,
        }
    }

    fn fits(&self, offer: &Offer) -> bool {
        self.shared_bytes() <= offer.shared_bytes && self.units() <= offer.max_units
    }
}

/// How `spmm` or `spmm_t` is cut into cubes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Product {
    /// Whether the weight is transposed: then the outer index of a block is the output.
    pub transposed: bool,
    /// Side of a block.
    pub block: usize,
    /// The product of one cube.
    pub tile: CmmaTile,
}

impl Product {
    pub fn new(
        offer: &Offer,
        side: usize,
        block: BlockSize,
        transposed: bool,
        rows: usize,
    ) -> Self {
        let block = block.get();
        // The contraction runs down a block's rows, or along them when transposed.
        let b = if transposed { Order::ContractionInner } else { Order::ContractionOuter };
        let size = [rows, block.min(MAX_COLS)];
        let order = [Order::ContractionInner, b];
        let tile = CmmaTile::new(offer, side, size, block.min(MAX_DEPTH), order);
        Self { transposed, block, tile }
    }

    /// Cubes that share a line of blocks.
    pub fn parts(&self) -> usize {
        self.block / self.tile.cols
    }
}

/// How `sddmm` is cut into cubes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Sampled {
    /// Side of a block.
    pub block: usize,
    /// The product of one cube: several blocks of one block column, or a part of one.
    pub tile: CmmaTile,
}

impl Sampled {
    pub fn new(offer: &Offer, side: usize, block: BlockSize) -> Self {
        let block = block.get();
        let (size, order) = ([MAX_COLS, block.min(MAX_COLS)], [Order::ContractionOuter; 2]);
        Self { block, tile: CmmaTile::new(offer, side, size, MAX_DEPTH, order) }
    }

    /// Most blocks of a cube.
    pub fn group(&self) -> usize {
        (self.tile.rows / self.block).max(1)
    }

    /// Cubes along one side of a block.
    pub fn parts(&self) -> usize {
        self.block / self.tile.cols
    }
}

/// The tiles for a product of `m` rows and `lines` lines of blocks, best first by what is known without
/// measuring: the taller one where `m` fills more than half of it and it leaves enough cubes. Empty if the
/// device has too little shared memory or too few units.
pub(crate) fn candidates(
    offer: &Offer,
    side: usize,
    block: BlockSize,
    transposed: bool,
    [m, lines]: [usize; 2],
) -> Vec<Product> {
    let [tall, short] = ROWS;
    let cubes = m.div_ceil(tall) * lines;
    let suits = m > tall / 2 && cubes >= MIN_CUBES_PER_UNIT * offer.compute_units;
    let rows = if suits { [tall, short] } else { [short, tall] };
    rows.into_iter()
        .map(|rows| Product::new(offer, side, block, transposed, rows))
        .filter(|plan| plan.tile.fits(offer))
        .collect()
}

/// The tile for `sddmm`, unless the device has too little shared memory or too few units.
pub(crate) fn sampled(offer: &Offer, side: usize, block: BlockSize) -> Option<Sampled> {
    let plan = Sampled::new(offer, side, block);
    plan.tile.fits(offer).then_some(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cube::mma::offer::tests::{AMPERE, APPLE};

    fn blocks() -> impl Iterator<Item = BlockSize> {
        BlockSize::ALL.into_iter().filter(|block| block.get() >= 16)
    }

    #[test]
    fn planes_cover_every_tile() {
        let wide = Offer { plane: 64, ..AMPERE };
        for (offer, side) in [(AMPERE, 16), (wide, 16), (APPLE, 8)] {
            for block in blocks() {
                for rows in ROWS {
                    for transposed in [false, true] {
                        let plan = Product::new(&offer, side, block, transposed, rows);
                        let tile = plan.tile;
                        assert_eq!(tile.tiles_m() * side * tile.planes_m, rows, "{tile:?}");
                        assert_eq!(tile.tiles_n() * side * tile.planes_n, tile.cols, "{tile:?}");
                        assert!((64..=256).contains(&tile.units()), "{tile:?}");
                        assert_eq!(plan.block % tile.depth, 0, "{plan:?}");
                        assert_eq!(tile.depth % side, 0, "{plan:?}");
                    }
                }
                let plan = Sampled::new(&offer, side, block);
                assert_eq!(plan.group() * plan.block % plan.tile.rows, 0, "{plan:?}");
                // A unit copies from one place of a line only, so that it needs one index.
                assert_eq!(plan.tile.units() % plan.tile.a_line(), 0, "{plan:?}");
            }
        }
    }

    #[test]
    fn metal_has_room_for_a_tile_and_for_sddmm() {
        for block in blocks() {
            let found = candidates(&APPLE, 8, block, false, [8192, 4096]);
            assert!(found.iter().any(|plan| plan.tile.rows == 64), "{block:?}");
            assert!(sampled(&APPLE, 8, block).is_some(), "{block:?}");
        }
    }

    #[test]
    fn the_tile_follows_rows_lines_and_the_device() {
        let tiny = Offer { shared_bytes: 16_384, ..AMPERE };
        let narrow = Offer { max_units: 128, ..AMPERE };
        let table = [
            ("many rows", AMPERE, 8192, 128, vec![128, 64]),
            ("few rows", AMPERE, 64, 512, vec![64, 128]),
            ("few lines", AMPERE, 256, 4, vec![64, 128]),
            ("Metal", APPLE, 8192, 128, vec![128, 64]),
            ("32 KiB and 16 x 16", Offer { cmma: Some(16), ..APPLE }, 8192, 128, vec![64]),
            ("16 KiB", tiny, 8192, 128, vec![]),
            ("cubes of 128", narrow, 8192, 128, vec![]),
        ];
        for (name, offer, m, lines, want) in table {
            let block = BlockSize::new(64).unwrap();
            let side = offer.cmma.unwrap();
            let rows: Vec<usize> = candidates(&offer, side, block, false, [m, lines])
                .into_iter()
                .map(|plan| plan.tile.rows)
                .collect();
            assert_eq!(rows, want, "{name}");
        }
    }
}
