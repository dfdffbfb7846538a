//! Every kernel on tensor cores and on cooperative matrices as a definition, every kernel for few rows ([`FewRows`])
//! and every one that any device can run ([`Portable`]), without a device to run it on: for tools that look at the code generated from it.
//!
//! The kernels are the candidates of the dispatcher, for one problem of each kind.

mod define;
mod few_rows;
mod planned;
mod portable;
mod problems;

pub use self::define::Definition;
pub use self::few_rows::FewRows;
pub use self::planned::{Ask, Planned};
pub use self::portable::Portable;
use self::problems::{Code, codes, cooperative, is_transposed, tensor_cores};
pub use self::problems::{Parts, Target};
use super::caps::Caps;
use super::dispatch::{Kernel, Op, Problem, plan};
use super::split_k::{SplitK, Work};
use super::tile::cmma::CmmaTile;
use super::tile::mma::MmaTile;
use super::{gated, grid, sddmm};
use crate::Activation;
use crate::BlockPattern;

/// The verb of a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `y = x · w`, with what the epilogue has.
    Spmm,
    /// `dx = dy · wᵀ`, with what the epilogue has.
    SpmmT,
    /// `xᵀ · dy` at the kept blocks.
    Sddmm,
    /// `h = f(x · gate) · (x · up)`.
    Gated,
    /// Gradients of the two products, and `h` again.
    GatedBackward,
    /// Sum of the partial sums of an `sddmm` whose rows are split.
    AddRowParts,
    /// Sum of the partial sums of the block columns that a product splits, with its epilogue.
    AddParts,
}

/// One kernel that a launch may select.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    code: Code,
}

impl Variant {
    /// Every variant on `mma`, with and without copies that run ahead. With split-K, and with copies that do not run
    /// ahead, the epilogue is the same code, so only its smallest and largest variants are listed.
    pub fn all() -> Vec<Self> {
        tensor_cores().into_iter().map(|code| Self { code }).collect()
    }

    /// The variants that an operation on `m` rows launches on a device, without tuning: the product, and the second pass where
    /// there is one. None if it takes another class of kernel. `activation`: of the product, or of a gated block.
    pub fn launched(
        target: &Target,
        op: Op,
        activation: Option<Activation>,
        pattern: &BlockPattern,
        m: usize,
    ) -> Vec<Self> {
        let caps = Caps::new(&target.properties, target.dtype, true);
        let kernel = plan(op, &caps, &Problem { pattern, m }).kernel;
        codes(op, activation, kernel).into_iter().map(|code| Self { code }).collect()
    }

    /// Every variant on cooperative matrices for a device with these properties and this storage type. None if it
    /// lists no matrix that the kernels take. Variants in f32 need TF32 to be allowed.
    pub fn cooperative(target: &Target) -> Vec<Self> {
        let caps = Caps::new(&target.properties, target.dtype, true);
        cooperative(&caps).into_iter().map(|code| Self { code }).collect()
    }

    /// The verb.
    pub fn verb(&self) -> Verb {
        match self.code {
            Code::Product { kernel, .. } => {
                if is_transposed(kernel) {
                    Verb::SpmmT
                } else {
                    Verb::Spmm
                }
            }
            Code::Gated { backward: true, .. } => Verb::GatedBackward,
            Code::Gated { .. } => Verb::Gated,
            Code::Sampled(_) => Verb::Sddmm,
            Code::AddRowParts => Verb::AddRowParts,
            Code::AddParts { .. } => Verb::AddParts,
        }
    }

    /// What a product adds to its sums; nothing for other verbs.
    pub fn epilogue(&self) -> Parts {
        match self.code {
            Code::Product { epilogue, .. } | Code::AddParts { epilogue, .. } => epilogue,
            _ => Parts::default(),
        }
    }

    /// The activation of a gated block.
    pub fn gate(&self) -> Option<Activation> {
        match self.code {
            Code::Gated { activation, .. } => Some(activation),
            _ => None,
        }
    }

    /// Whether gate and up have one pattern.
    pub fn joint(&self) -> bool {
        matches!(self.kernel(), Some(Kernel::GatedMma(blueprint)) if blueprint.joint)
    }

    /// Whether the contraction is split over cubes, so that results are partial sums in f32.
    pub fn splits_k(&self) -> bool {
        self.kernel().is_some_and(|kernel| kernel.split().is_some())
    }

    /// Whether copies run ahead of the arithmetic.
    pub fn pipelined(&self) -> bool {
        self.mma().is_some_and(|tile| tile.pipelined)
    }

    /// Side of a block.
    pub fn block(&self) -> Option<usize> {
        if let Code::AddParts { block, .. } = self.code {
            return Some(block);
        }
        match self.kernel()? {
            Kernel::SpmmMma { blueprint, .. } => Some(blueprint.block),
            Kernel::SddmmMma { blueprint, .. } => Some(blueprint.block),
            Kernel::SpmmCmma(blueprint) => Some(blueprint.block),
            Kernel::SddmmCmma(blueprint) => Some(blueprint.block),
            Kernel::GatedMma(blueprint) => Some(blueprint.block),
            _ => None,
        }
    }

    /// Rows and columns of the product that a cube computes at each step; `None` if it computes none. Where gate and
    /// up have one pattern, the columns of both.
    pub fn tile_size(&self) -> Option<[usize; 2]> {
        let mma = self.mma().map(|tile| [tile.rows, tile.cols]);
        mma.or(self.cmma().map(|tile| [tile.rows, tile.cols]))
    }

    /// Cubes that share a block, or a block column.
    pub fn block_tiles(&self) -> usize {
        match self.kernel() {
            Some(Kernel::SpmmCmma(blueprint)) => blueprint.col_tiles(),
            Some(Kernel::SddmmCmma(blueprint)) => blueprint.side_tiles() * blueprint.side_tiles(),
            _ => 1,
        }
    }

    /// Whether it multiplies by cooperative matrices.
    pub fn is_cooperative(&self) -> bool {
        self.cmma().is_some()
    }

    /// First slots of the groups of blocks of a sampled product, for these column pointers, with the end of the last.
    pub fn group_starts(&self, col_ptr: &[u32]) -> Vec<u32> {
        let group = match self.kernel() {
            Some(Kernel::SddmmMma { blueprint, .. }) => blueprint.group(),
            Some(Kernel::SddmmCmma(blueprint)) => blueprint.group(),
            _ => return Vec::new(),
        };
        sddmm::group_starts(col_ptr, group)
    }

    /// The parts of at most `blocks` blocks of the block columns that begin at `ptr`, and the columns that are split,
    /// both as the kernels read them; and the number of partial sums.
    pub fn work(ptr: &[u32], blocks: usize) -> ([Vec<u32>; 2], usize) {
        let work = Work::by_range(ptr, SplitK::at_most(blocks));
        ([work.parts, work.columns], work.partials)
    }

    fn kernel(&self) -> Option<Kernel> {
        match self.code {
            Code::Product { kernel, .. } | Code::Gated { kernel, .. } | Code::Sampled(kernel) => {
                Some(kernel)
            }
            Code::AddRowParts | Code::AddParts { .. } => None,
        }
    }

    fn mma(&self) -> Option<MmaTile> {
        self.kernel()?.mma()
    }

    fn cmma(&self) -> Option<CmmaTile> {
        self.kernel()?.cmma()
    }
}

/// The index that a gated variant reads.
pub fn gated_tasks(gate: &BlockPattern, up: &BlockPattern) -> Vec<u32> {
    gated::task::tasks(gate, up)
}

/// Row tile and column tile that a cube computes, of a launch of `cubes` cubes in panels of `panel` row tiles.
pub fn tile_of(cube: usize, cubes: usize, panel: usize, row_tiles: usize) -> (usize, usize) {
    grid::tile_of(cube, grid::Grid { cubes, panel }, row_tiles)
}

/// Row tiles of a panel on a device with a last-level cache of `cache` bytes, for tiles whose input takes `tile_bytes` bytes.
pub fn row_panel(cache: Option<usize>, row_tiles: usize, tile_bytes: usize) -> usize {
    grid::panel(cache, row_tiles, tile_bytes)
}
