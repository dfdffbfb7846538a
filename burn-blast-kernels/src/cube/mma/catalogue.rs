//! Every tensor-core kernel as a definition, and every kernel for few rows ([`FewRows`]), without a device to run
//! it on: for tools that look at the code generated from it.

use std::sync::Arc;

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::gated::catalogue::Gated;
use super::offer::Offer;
use super::tile::MmaTile;
use super::{pieces, sddmm, spmm};
use crate::Activation;
use crate::cube::cmma;
use crate::cube::gated::task::tasks;
pub use crate::cube::gemv::catalogue::FewRows;
use crate::{BlockPattern, BlockSize};

/// What one kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Spmm { plan: spmm::base::Blueprint, epilogue: Parts, pieces: bool },
    Gated(Gated),
    Sddmm { plan: sddmm::base::Blueprint, split: bool },
    AddSplits,
    AddPieces { block: usize, epilogue: Parts },
    CmmaProduct { plan: cmma::base::Product, epilogue: Parts },
    CmmaSampled { plan: cmma::base::Sampled },
}

/// Which parts the epilogue of a product has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// `+ bias`.
    pub bias: bool,
    /// `f(..)`.
    pub activation: Option<Activation>,
    /// `+ residual`.
    pub residual: bool,
}

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
    /// Sum of the partial results of a split `sddmm`.
    AddSplits,
    /// Sum of the partial results of the lines that a product cuts, with the product's epilogue.
    AddPieces,
}

/// One kernel that a launch may pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    plan: Plan,
}

/// What a definition is made for.
pub struct Target {
    /// The device to generate code for.
    pub properties: Arc<DeviceProperties>,
    /// Its register layouts.
    pub layouts: Arc<TargetProperties>,
    /// Width of indices.
    pub address: AddressType,
    /// Storage type of the tensors: f16 or bf16, f32 on cooperative matrices; kernels for few rows have their own.
    pub dtype: ElemType,
}

/// A kernel that tools can generate code from.
pub trait Kernel {
    /// A name for reports.
    fn name(&self) -> String;

    /// The kernel, ready for a code generator.
    fn define(&self, target: &Target) -> KernelDefinition;
}

impl Kernel for Variant {
    fn name(&self) -> String {
        Variant::name(self)
    }

    fn define(&self, target: &Target) -> KernelDefinition {
        Variant::define(self, target)
    }
}

impl Variant {
    /// Every variant, with and without copies that run ahead. Of cut lines and of copies that do not run ahead,
    /// which end as the others do, only those with the barest and the fullest epilogue.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Plan::AddSplits];
        for block in BlockSize::ALL.into_iter().filter(|block| block.get() >= 32) {
            let add = |epilogue| Plan::AddPieces { block: block.get(), epilogue };
            let [bare, forward] = extremes(false);
            all.extend([bare, forward, extremes(true)[1]].map(add));
            for pipelined in [true, false] {
                for rows in [64, 128, 256] {
                    for (transposed, epilogue, pieces) in products(pipelined) {
                        let plan = spmm::base::Blueprint::new(block, transposed, rows, pipelined);
                        all.push(Plan::Spmm { plan, epilogue, pieces });
                    }
                }
                all.extend(Gated::all(block, pipelined).map(Plan::Gated));
                let plan = sddmm::base::Blueprint::new(block, pipelined);
                all.extend([false, true].map(|split| Plan::Sddmm { plan, split }));
            }
        }
        all.into_iter().map(|plan| Self { plan }).collect()
    }

    /// Every variant on cooperative matrices for a device with these properties and this storage type. None if
    /// it lists no matrix that the kernels take. Those in f32 are the ones that TF32 must be allowed for.
    pub fn cooperative(target: &Target) -> Vec<Self> {
        let offer = Offer::of(&target.properties, target.dtype, true);
        let Some(matrix) = offer.cmma else { return Vec::new() };
        let mut all = Vec::new();
        for block in BlockSize::ALL.into_iter().filter(|block| block.get() >= 16) {
            for transposed in [false, true] {
                let plans = cmma::base::candidates(&offer, matrix, block, transposed, [1, 1]);
                for plan in plans {
                    let variant = |epilogue| Self { plan: Plan::CmmaProduct { plan, epilogue } };
                    all.extend(extremes(transposed).map(variant));
                }
            }
            let plan = cmma::base::sampled(&offer, matrix, block);
            all.extend(plan.map(|plan| Self { plan: Plan::CmmaSampled { plan } }));
        }
        all
    }

    /// The verb.
    pub fn verb(&self) -> Verb {
        match self.plan {
            Plan::Spmm { plan, .. } if plan.transposed => Verb::SpmmT,
            Plan::Spmm { .. } => Verb::Spmm,
            Plan::CmmaProduct { plan, .. } if plan.transposed => Verb::SpmmT,
            Plan::CmmaProduct { .. } => Verb::Spmm,
            Plan::Gated(Gated { backward: true, .. }) => Verb::GatedBackward,
            Plan::Gated(_) => Verb::Gated,
            Plan::Sddmm { .. } | Plan::CmmaSampled { .. } => Verb::Sddmm,
            Plan::AddSplits => Verb::AddSplits,
            Plan::AddPieces { .. } => Verb::AddPieces,
        }
    }

    /// What a product adds to its sums; nothing for other verbs.
    pub fn epilogue(&self) -> Parts {
        match self.plan {
            Plan::Spmm { epilogue, .. }
            | Plan::AddPieces { epilogue, .. }
            | Plan::CmmaProduct { epilogue, .. } => epilogue,
            _ => Parts::default(),
        }
    }

    /// The activation of a gated block.
    pub fn gate(&self) -> Option<Activation> {
        match self.plan {
            Plan::Gated(gated) => Some(gated.activation),
            _ => None,
        }
    }

    /// Whether gate and up have one pattern.
    pub fn joint(&self) -> bool {
        matches!(self.plan, Plan::Gated(gated) if gated.plan.joint)
    }

    /// Whether results are partial sums in f32.
    pub fn split(&self) -> bool {
        matches!(self.plan, Plan::Sddmm { split: true, .. })
    }

    /// Whether long lines are cut into pieces.
    pub fn pieces(&self) -> bool {
        matches!(self.plan, Plan::Spmm { pieces: true, .. })
    }

    /// Whether copies run ahead of the arithmetic.
    pub fn pipelined(&self) -> bool {
        self.mma().is_some_and(|tile| tile.pipelined)
    }

    /// Side of a block.
    pub fn block(&self) -> Option<usize> {
        match self.plan {
            Plan::Spmm { plan, .. } => Some(plan.block),
            Plan::Gated(gated) => Some(gated.plan.block),
            Plan::Sddmm { plan, .. } => Some(plan.block),
            Plan::AddPieces { block, .. } => Some(block),
            Plan::CmmaProduct { plan, .. } => Some(plan.block),
            Plan::CmmaSampled { plan } => Some(plan.block),
            Plan::AddSplits => None,
        }
    }

    /// Rows and columns of the product a cube computes at each step; `None` if it computes none. With one pattern
    /// for gate and up, the columns of both.
    pub fn tile_size(&self) -> Option<[usize; 2]> {
        let mma = self.mma().map(|tile| [tile.rows, tile.cols]);
        mma.or(self.cmma().map(|tile| [tile.rows, tile.cols]))
    }

    /// Cubes that share a block, or a line of blocks.
    pub fn parts(&self) -> usize {
        match self.plan {
            Plan::CmmaProduct { plan, .. } => plan.parts(),
            Plan::CmmaSampled { plan } => plan.parts() * plan.parts(),
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
        mma.or(self.cmma().map(|tile| tile.units())).unwrap_or(sddmm::base::ADD_UNITS)
    }

    /// Whether it multiplies by cooperative matrices.
    pub fn is_cooperative(&self) -> bool {
        self.cmma().is_some()
    }

    /// Most blocks of a cube in a sampled product, and their first slots for these column pointers, with the
    /// end of the last.
    pub fn group_starts(&self, col_ptr: &[u32]) -> Vec<u32> {
        match self.plan {
            Plan::Sddmm { plan, .. } => sddmm::base::group_starts(col_ptr, plan.group()),
            Plan::CmmaSampled { plan } => sddmm::base::group_starts(col_ptr, plan.group()),
            _ => Vec::new(),
        }
    }

    /// The pieces of lines that begin at `ptr`, of at most `bound` blocks, and the lines that are cut, both as
    /// the kernels read them; and the number of partial sums.
    pub fn cut(ptr: &[u32], bound: usize) -> ([Vec<u32>; 2], usize) {
        let cut = pieces::base::cut(ptr, bound);
        ([cut.pieces.as_flattened().to_vec(), cut.lines.as_flattened().to_vec()], cut.partials)
    }

    /// A name for reports: verb, tile, what is added.
    pub fn name(&self) -> String {
        let verb = match self.verb() {
            Verb::Spmm => "spmm",
            Verb::SpmmT => "spmm_t",
            Verb::Sddmm => "sddmm",
            Verb::Gated => "gated",
            Verb::GatedBackward => "gated_backward",
            Verb::AddSplits => "add_splits",
            Verb::AddPieces => "add_pieces",
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
        let parts = if self.parts() > 1 { "_parts" } else { "" };
        let Parts { bias, activation, residual } = self.epilogue();
        let bias = if bias { "_bias" } else { "" };
        // A gated block is SwiGLU if nothing else is said.
        let gate = self.gate().filter(|&gate| gate != Activation::Silu);
        let activation =
            activation.or(gate).map_or(String::new(), |f| format!("_{f:?}").to_lowercase());
        let residual = if residual { "_residual" } else { "" };
        let split = if self.split() { "_split" } else { "" };
        let pieces = if self.pieces() { "_pieces" } else { "" };
        let plain = if self.mma().is_some_and(|tile| !tile.pipelined) { "_plain" } else { "" };
        let tf32 = if self.cmma().is_some_and(|tile| tile.matrix.is_tf32()) { "_tf32" } else { "" };
        format!("{verb}{size}{parts}{bias}{activation}{residual}{split}{pieces}{plain}{tf32}")
    }

    /// The kernel, ready for a code generator.
    pub fn define(&self, target: &Target) -> KernelDefinition {
        let units = CubeDim::new_1d(self.units() as u32);
        let settings = KernelSettings::new(units.into(), ExecutionMode::Unchecked, target.address);
        match self.plan {
            Plan::Spmm { plan, epilogue, pieces: true } => {
                pieces::catalogue::spmm(settings, target, plan, epilogue)
            }
            Plan::Spmm { plan, epilogue, .. } => {
                spmm::catalogue::spmm(settings, target, plan, epilogue)
            }
            Plan::AddPieces { block, epilogue } => {
                pieces::catalogue::add(settings, target, block, epilogue)
            }
            Plan::Gated(gated) => gated.define(settings, target),
            Plan::Sddmm { plan, split } => sddmm::catalogue::sddmm(settings, target, plan, split),
            Plan::AddSplits => sddmm::catalogue::add(settings, target),
            Plan::CmmaProduct { plan, epilogue } => {
                cmma::catalogue::spmm(settings, target, plan, epilogue)
            }
            Plan::CmmaSampled { plan } => cmma::catalogue::sddmm(settings, target, plan),
        }
    }

    fn mma(&self) -> Option<MmaTile> {
        match self.plan {
            Plan::Spmm { plan, .. } => Some(plan.tile),
            Plan::Gated(gated) => Some(gated.plan.tile),
            Plan::Sddmm { plan, .. } => Some(plan.tile),
            _ => None,
        }
    }

    fn cmma(&self) -> Option<cmma::base::CmmaTile> {
        match self.plan {
            Plan::CmmaProduct { plan, .. } => Some(plan.tile),
            Plan::CmmaSampled { plan } => Some(plan.tile),
            _ => None,
        }
    }
}

/// An argument that a kernel always takes.
pub(in crate::cube) fn buffer() -> BufferCompilationArg {
    BufferCompilationArg { inplace: None }
}

/// The index that a gated variant reads.
pub fn gated_tasks(gate: &BlockPattern, up: &BlockPattern) -> Vec<u32> {
    tasks(gate, up)
}

/// Between the barest and the fullest epilogue of a forward product: what layers ask for, and each activation.
fn forward_epilogues() -> [Parts; 3] {
    [None, Some(Activation::Relu), Some(Activation::Silu)].map(|activation| Parts {
        bias: true,
        activation,
        residual: false,
    })
}

/// The barest and the fullest epilogue of a product.
fn extremes(transposed: bool) -> [Parts; 2] {
    let (bias, activation) =
        if transposed { (false, None) } else { (true, Some(Activation::Gelu)) };
    [Parts::default(), Parts { bias, activation, residual: true }]
}

/// Products as `(transposed, epilogue, with long lines cut)`.
fn products(pipelined: bool) -> impl Iterator<Item = (bool, Parts, bool)> {
    let between = pipelined.then(forward_epilogues).into_iter().flatten();
    let between = between.map(|epilogue| (false, epilogue, false));
    let ways = [(false, false), (true, false), (false, true), (true, true)];
    let ends = ways.into_iter().flat_map(|(transposed, pieces)| {
        extremes(transposed).map(|epilogue| (transposed, epilogue, pieces))
    });
    between.chain(ends)
}

/// An argument that a kernel may do without.
pub(in crate::cube) fn optional<T>(there: bool) -> ComptimeOptionCompilationArg<T>
where
    T: LaunchArg<CompilationArg = BufferCompilationArg>,
{
    if there {
        ComptimeOptionCompilationArg::Some(buffer())
    } else {
        ComptimeOptionCompilationArg::None
    }
}
