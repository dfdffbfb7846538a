//! The numbers of one cube's matrix product, picked on the host.

use cubecl::ir::{ElemType, FloatKind};

use crate::BlockSize;
use crate::cube::mma::offer::Offer;
use crate::cube::mma::tile::Order;

/// Elements of one vector: eight bytes of 16-bit elements, which every device reads at once, or 16 of f32.
pub(crate) const WIDTH: usize = 4;
/// Bytes between lines in shared memory on top of what they hold. Some devices want lines aligned to as many.
const PAD: usize = 16;
/// Most units of a cube: the least that WebGPU promises.
const MAX_UNITS: usize = 256;
/// Widest tile: at block 128, cubes share a block.
const MAX_COLS: usize = 64;
/// Rows of the output tile, tallest first. The taller one may need more than 32 KiB of shared memory.
pub(crate) const ROWS: [usize; 2] = [128, 64];
/// Most bytes of one row's contraction in a stage: 32 steps of f16, and of TF32 16, which take as long there, since
/// the instruction has half the rate. Guess; to be measured.
const MAX_DEPTH: usize = 64;
/// Stages in shared memory: one is filled while the other is read.
pub(crate) const STAGES: usize = 2;
/// Fewest cubes per multiprocessor for which the taller tile is taken. Guess; to be measured.
const MIN_CUBES_PER_UNIT: usize = 2;

/// The cooperative matrices of one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MatrixKind {
    /// Rows and columns of its result, in f32.
    pub side: usize,
    /// Its contraction.
    pub depth: usize,
    /// Type of the factors, to which tensors are converted on their way to shared memory: TF32 for f32, otherwise
    /// their own.
    pub element: ElemType,
}

impl MatrixKind {
    /// Whether the factors are f32 rounded to TF32.
    pub fn is_tf32(&self) -> bool {
        self.element == ElemType::Float(FloatKind::TF32)
    }
}

/// One operand's stage in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stage {
    /// How it lies there.
    pub order: Order,
    /// Vectors of one line, without padding.
    pub line: usize,
    /// Number of lines.
    pub lines: usize,
    /// Vectors from one line to the next.
    pub pitch: usize,
}

impl Stage {
    /// `outer` rows or columns of the output, `depth` steps of the contraction.
    fn new(matrix: MatrixKind, order: Order, outer: usize, depth: usize) -> Self {
        let (line, lines) = match order {
            Order::ContractionInner => (depth / WIDTH, outer),
            Order::ContractionOuter => (outer / WIDTH, depth),
        };
        // Twice as much for TF32 by output lines: then the words that a plane reads at a time lie in different banks,
        // since its units hold what those of `mma.sync` do (so ptxas 13.0 has it, for sm_80 and sm_90a).
        let twice = matrix.is_tf32() && order == Order::ContractionOuter;
        let pad = PAD * if twice { 2 } else { 1 } / (WIDTH * matrix.element.size());
        Self { order, line, lines, pitch: line + pad }
    }

    /// Vectors of the stage.
    pub fn vectors(&self) -> usize {
        self.lines * self.pitch
    }

    /// Vectors from the start of the stage to the fragment at `(outer, contraction)`.
    pub fn offset(&self, outer: usize, contraction: usize) -> usize {
        match self.order {
            Order::ContractionInner => outer * self.pitch + contraction / WIDTH,
            Order::ContractionOuter => contraction * self.pitch + outer / WIDTH,
        }
    }

    /// Lines of a fragment, and vectors of each.
    pub fn fragment(&self, matrix: MatrixKind) -> [usize; 2] {
        match self.order {
            Order::ContractionInner => [matrix.side, matrix.depth / WIDTH],
            Order::ContractionOuter => [matrix.depth, matrix.side / WIDTH],
        }
    }
}

/// How a cube's output tile is cut into planes, and its contraction into stages.
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
    fn new(
        offer: &Offer,
        matrix: MatrixKind,
        [rows, cols]: [usize; 2],
        depth: usize,
        [a, b]: [Order; 2],
    ) -> Self {
        let planes = MAX_UNITS / offer.plane;
        let planes_n = (cols / matrix.side).min(2);
        let planes_m = (planes / planes_n).min(rows / matrix.side);
        let stage = |order, outer| Stage::new(matrix, order, outer, depth);
        let (a, b) = (stage(a, rows), stage(b, cols));
        Self { matrix, plane: offer.plane, rows, cols, planes_m, planes_n, depth, a, b }
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
        self.plane_rows() / self.matrix.side
    }

    /// Instruction tiles of a plane along the columns.
    pub fn tiles_n(&self) -> usize {
        self.plane_cols() / self.matrix.side
    }

    /// Vectors of f32 through which a plane hands out one instruction's results.
    pub fn handover(&self) -> usize {
        self.matrix.side * self.matrix.side / WIDTH
    }

    /// Shared memory of a cube, in bytes.
    pub fn shared_bytes(&self) -> usize {
        STAGES * (self.a.vectors() + self.b.vectors()) * WIDTH * self.matrix.element.size()
            + self.planes() * self.handover() * WIDTH * size_of::<f32>()
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
        matrix: MatrixKind,
        block: BlockSize,
        transposed: bool,
        rows: usize,
    ) -> Self {
        let block = block.get();
        // The contraction runs down a block's rows, or along them when transposed.
        let b = if transposed { Order::ContractionInner } else { Order::ContractionOuter };
        let size = [rows, block.min(MAX_COLS)];
        let order = [Order::ContractionInner, b];
        let depth = block.min(MAX_DEPTH / matrix.element.size());
        let tile = CmmaTile::new(offer, matrix, size, depth, order);
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
    pub fn new(offer: &Offer, matrix: MatrixKind, block: BlockSize) -> Self {
        let block = block.get();
        let (size, order) = ([MAX_COLS, block.min(MAX_COLS)], [Order::ContractionOuter; 2]);
        let depth = MAX_DEPTH / matrix.element.size();
        Self { block, tile: CmmaTile::new(offer, matrix, size, depth, order) }
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
    matrix: MatrixKind,
    block: BlockSize,
    transposed: bool,
    [m, lines]: [usize; 2],
) -> Vec<Product> {
    let [tall, short] = ROWS;
    let cubes = m.div_ceil(tall) * lines;
    let suits = m > tall / 2 && cubes >= MIN_CUBES_PER_UNIT * offer.compute_units;
    let rows = if suits { [tall, short] } else { [short, tall] };
    rows.into_iter()
        .map(|rows| Product::new(offer, matrix, block, transposed, rows))
        .filter(|plan| plan.tile.fits(offer))
        .collect()
}

/// The tile for `sddmm`, unless the device has too little shared memory or too few units.
pub(crate) fn sampled(offer: &Offer, matrix: MatrixKind, block: BlockSize) -> Option<Sampled> {
    let plan = Sampled::new(offer, matrix, block);
    plan.tile.fits(offer).then_some(plan)
}

#[cfg(test)]
pub(in crate::cube) mod tests {
    use super::*;
    use crate::cube::mma::offer::tests::{AMPERE, AMPERE_F32, APPLE};

    const F16: ElemType = ElemType::Float(FloatKind::F16);
    /// 16 x 16 x 16 in f16, as in CUDA and Vulkan.
    pub const F16_BY_16: MatrixKind = MatrixKind { side: 16, depth: 16, element: F16 };
    /// 8 x 8 x 8 in f16, as in Metal.
    pub const F16_BY_8: MatrixKind = MatrixKind { side: 8, depth: 8, element: F16 };
    /// 16 x 16 x 8 in TF32, as in CUDA.
    pub const TF32: MatrixKind =
        MatrixKind { side: 16, depth: 8, element: ElemType::Float(FloatKind::TF32) };

    fn blocks() -> impl Iterator<Item = BlockSize> {
        BlockSize::ALL.into_iter().filter(|block| block.get() >= 16)
    }

    /// Devices with the matrices that they have.
    fn devices() -> [(Offer, MatrixKind); 4] {
        let wide = Offer { plane: 64, ..AMPERE };
        [AMPERE, wide, APPLE, AMPERE_F32].map(|offer| (offer, offer.cmma.unwrap()))
    }

    fn tiles(offer: &Offer, matrix: MatrixKind, block: BlockSize) -> Vec<CmmaTile> {
        let product = |rows, transposed| Product::new(offer, matrix, block, transposed, rows).tile;
        let products = ROWS.into_iter().flat_map(|rows| [false, true].map(|t| product(rows, t)));
        products.chain([Sampled::new(offer, matrix, block).tile]).collect()
    }

    #[test]
    fn planes_cover_every_tile() {
        for (offer, matrix) in devices() {
            for block in blocks() {
                for tile in tiles(&offer, matrix, block) {
                    let side = matrix.side;
                    assert_eq!(tile.tiles_m() * side * tile.planes_m, tile.rows, "{tile:?}");
                    assert_eq!(tile.tiles_n() * side * tile.planes_n, tile.cols, "{tile:?}");
                    assert!((64..=256).contains(&tile.units()), "{tile:?}");
                    assert_eq!(tile.depth % matrix.depth, 0, "{tile:?}");
                    // A unit copies from one place of a line only, so that it needs one index.
                    assert_eq!(tile.units() % tile.a.line, 0, "{tile:?}");
                    assert_eq!(tile.units() % tile.b.line, 0, "{tile:?}");
                }
                let plan = Product::new(&offer, matrix, block, false, 64);
                assert_eq!(plan.block % plan.tile.depth, 0, "{plan:?}");
                let plan = Sampled::new(&offer, matrix, block);
                assert_eq!(plan.group() * plan.block % plan.tile.rows, 0, "{plan:?}");
            }
        }
    }

    /// In `mma.sync.m16n8k8` lane `l` holds, of its 16 rows or 8 columns, `l / 4` at step `l % 4`.
    #[test]
    fn the_words_of_a_tf32_fragment_lie_in_different_banks() {
        for block in blocks() {
            for tile in tiles(&AMPERE_F32, TF32, block) {
                for stage in [tile.a, tile.b] {
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
    }

    #[test]
    fn metal_has_room_for_a_tile_and_for_sddmm() {
        for block in blocks() {
            let found = candidates(&APPLE, F16_BY_8, block, false, [8192, 4096]);
            assert!(found.iter().any(|plan| plan.tile.rows == 64), "{block:?}");
            assert!(sampled(&APPLE, F16_BY_8, block).is_some(), "{block:?}");
        }
    }

    #[test]
    fn a_stage_of_tf32_has_half_the_steps_in_as_many_bytes() {
        let block = BlockSize::new(64).unwrap();
        let [half, tf32] = [(AMPERE, F16_BY_16), (AMPERE_F32, TF32)]
            .map(|(offer, matrix)| Product::new(&offer, matrix, block, false, 128).tile);
        assert_eq!((half.depth, tf32.depth), (32, 16));
        // 128 lines of 64 + 16 bytes beside 32 lines of 128 + 16, or 16 of 256 + 32; and the handover.
        assert_eq!(half.shared_bytes(), 2 * (128 * 80 + 32 * 144) + 8 * 1024);
        assert_eq!(tf32.shared_bytes(), 2 * (128 * 80 + 16 * 288) + 8 * 1024);
    }

    #[test]
    fn the_tile_follows_rows_lines_and_the_device() {
        let tiny = Offer { shared_bytes: 16_384, ..AMPERE };
        let narrow = Offer { max_units: 128, ..AMPERE };
        let table = [
            ("many rows", AMPERE, 8192, 128, vec![128, 64]),
            ("few rows", AMPERE, 64, 512, vec![64, 128]),
            ("few lines", AMPERE, 256, 4, vec![64, 128]),
            ("TF32", AMPERE_F32, 8192, 128, vec![128, 64]),
            ("Metal", APPLE, 8192, 128, vec![128, 64]),
            ("32 KiB and 16 x 16", Offer { cmma: Some(F16_BY_16), ..APPLE }, 8192, 128, vec![64]),
            ("16 KiB", tiny, 8192, 128, vec![]),
            ("cubes of 128", narrow, 8192, 128, vec![]),
        ];
        for (name, offer, m, lines, want) in table {
            let block = BlockSize::new(64).unwrap();
            let matrix = offer.cmma.unwrap();
            let rows: Vec<usize> = candidates(&offer, matrix, block, false, [m, lines])
                .into_iter()
                .map(|plan| plan.tile.rows)
                .collect();
            assert_eq!(rows, want, "{name}");
        }
    }
}
