//! Every kernel on tensor cores and on cooperative matrices as a definition, and every kernel for few rows
//! ([`FewRows`]), without a device to run it on: for tools that look at the code generated from it.
//!
//! The kernels are the candidates of the dispatcher, for one problem of each kind.

mod define;
mod few_rows;
mod problems;

pub use self::define::Definition;
pub use self::few_rows::FewRows;
use self::problems::{Code, cooperative, tensor_cores};
pub use self::problems::{Parts, Target};
use super::caps::Caps;
use super::dispatch::Kernel;
use super::split_k::{ADD_UNITS, SplitK, Work};
use super::tile::cmma::CmmaTile;
use super::tile::mma::MmaTile;
use super::{gated, sddmm};
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

    /// Every variant on cooperative matrices for a device with these properties and this storage type. None if it
    /// lists no matrix that the kernels take. Variants in f32 need TF32 to be allowed.
    pub fn cooperative(target: &Target) -> Vec<Self> {
        let caps = Caps::of(&target.properties, target.dtype, true);
        cooperative(&caps).into_iter().map(|code| Self { code }).collect()
    }

    /// The verb.
    pub fn verb(&self) -> Verb {
        let product = |transposed| if transposed { Verb::SpmmT } else { Verb::Spmm };
        match self.code {
            Code::Product { kernel: Kernel::SpmmMma { plan, .. }, .. } => product(plan.transposed),
            Code::Product { kernel: Kernel::SpmmCmma(plan), .. } => product(plan.transposed),
            Code::Product { kernel, .. } => unreachable!("{kernel:?} is not in the catalogue"),
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
        matches!(self.code, Code::Gated { plan, .. } if plan.joint)
    }

    /// Whether the contraction is split over cubes, so that results are partial sums in f32.
    pub fn splits_k(&self) -> bool {
        match self.code {
            Code::Product { kernel: Kernel::SpmmMma { split, .. }, .. } => split.is_some(),
            Code::Sampled(Kernel::SddmmMma { parts, .. }) => parts > 1,
            _ => false,
        }
    }

    /// Whether copies run ahead of the arithmetic.
    pub fn pipelined(&self) -> bool {
        self.mma().is_some_and(|tile| tile.pipelined)
    }

    /// Side of a block.
    pub fn block(&self) -> Option<usize> {
        match self.code {
            Code::Product { kernel, .. } | Code::Sampled(kernel) => match kernel {
                Kernel::SpmmMma { plan, .. } => Some(plan.block),
                Kernel::SddmmMma { plan, .. } => Some(plan.block),
                Kernel::SpmmCmma(plan) => Some(plan.block),
                Kernel::SddmmCmma(plan) => Some(plan.block),
                _ => None,
            },
            Code::Gated { plan, .. } => Some(plan.block),
            Code::AddParts { block, .. } => Some(block),
            Code::AddRowParts => None,
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
        match self.code {
            Code::Product { kernel: Kernel::SpmmCmma(plan), .. } => plan.col_tiles(),
            Code::Sampled(Kernel::SddmmCmma(plan)) => plan.side_tiles() * plan.side_tiles(),
            _ => 1,
        }
    }

    /// Shared memory of a cube in bytes.
    pub fn shared_bytes(&self) -> usize {
        let mma = self.mma().map(|tile| tile.shared_bytes());
        mma.or(self.cmma().map(|tile| tile.shared_bytes())).unwrap_or(0)
    }

    /// Units of a cube.
    pub fn units(&self) -> usize {
        let mma = self.mma().map(|tile| tile.units());
        mma.or(self.cmma().map(|tile| tile.units())).unwrap_or(ADD_UNITS)
    }

    /// Whether it multiplies by cooperative matrices.
    pub fn is_cooperative(&self) -> bool {
        self.cmma().is_some()
    }

    /// First slots of the groups of blocks of a sampled product, for these column pointers, with the end of the last.
    pub fn group_starts(&self, col_ptr: &[u32]) -> Vec<u32> {
        match self.code {
            Code::Sampled(Kernel::SddmmMma { plan, .. }) => {
                sddmm::group_starts(col_ptr, plan.group())
            }
            Code::Sampled(Kernel::SddmmCmma(plan)) => sddmm::group_starts(col_ptr, plan.group()),
            _ => Vec::new(),
        }
    }

    /// The parts of at most `blocks` blocks of the block columns that begin at `ptr`, and the columns that are split,
    /// both as the kernels read them; and the number of partial sums.
    pub fn work(ptr: &[u32], blocks: usize) -> ([Vec<u32>; 2], usize) {
        let work = Work::by_range(ptr, SplitK::at_most(blocks));
        ([work.parts, work.columns], work.partials)
    }

    /// A name for reports: verb, tile, and what is added.
    pub fn name(&self) -> String {
        let verb = match self.verb() {
            Verb::Spmm => "spmm",
            Verb::SpmmT => "spmm_t",
            Verb::Sddmm => "sddmm",
            Verb::Gated => "gated",
            Verb::GatedBackward => "gated_backward",
            Verb::AddRowParts => "add_row_parts",
            Verb::AddParts => "add_parts",
        };
        let size = match (self.tile_size(), self.block()) {
            (Some([rows, cols]), _) if self.is_cooperative() => format!("_cmma_{rows}x{cols}"),
            // The tile of a joint product is twice as wide as its output.
            (Some([rows, _]), Some(block)) if self.joint() => format!("_{rows}x{block}_joint"),
            (Some([rows, cols]), _) => format!("_{rows}x{cols}"),
            (None, Some(block)) => format!("_{block}"),
            (None, None) => String::new(),
        };
        // Blocks of 128 have tiles of 64 columns.
        let block = if self.block_tiles() > 1 { "_block128" } else { "" };
        let Parts { bias, activation, residual } = self.epilogue();
        let bias = if bias { "_bias" } else { "" };
        // A gated block is SwiGLU by default.
        let gate = self.gate().filter(|&gate| gate != Activation::Silu);
        let activation =
            activation.or(gate).map_or(String::new(), |f| format!("_{f:?}").to_lowercase());
        let residual = if residual { "_residual" } else { "" };
        let split = if self.splits_k() { "_split_k" } else { "" };
        let plain = if self.mma().is_some_and(|tile| !tile.pipelined) { "_plain" } else { "" };
        let tf32 = if self.cmma().is_some_and(|tile| tile.matrix.is_tf32()) { "_tf32" } else { "" };
        format!("{verb}{size}{block}{bias}{activation}{residual}{split}{plain}{tf32}")
    }

    fn mma(&self) -> Option<MmaTile> {
        match self.code {
            Code::Product { kernel: Kernel::SpmmMma { plan, .. }, .. } => Some(plan.tile),
            Code::Sampled(Kernel::SddmmMma { plan, .. }) => Some(plan.tile),
            Code::Gated { plan, .. } => Some(plan.tile),
            _ => None,
        }
    }

    fn cmma(&self) -> Option<CmmaTile> {
        match self.code {
            Code::Product { kernel: Kernel::SpmmCmma(plan), .. } => Some(plan.tile),
            Code::Sampled(Kernel::SddmmCmma(plan)) => Some(plan.tile),
            _ => None,
        }
    }
}

/// The index that a gated variant reads.
pub fn gated_tasks(gate: &BlockPattern, up: &BlockPattern) -> Vec<u32> {
    gated::task::tasks(gate, up)
}
