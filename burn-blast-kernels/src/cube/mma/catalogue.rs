//! Every tensor-core kernel as a definition, without a device to run it on: for tools that look at the code
//! generated from it.

use std::sync::Arc;

use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::offer::Offer;
use super::pieces::base as pieces;
use super::pieces::catalogue as cut;
use super::sddmm::base as sddmm;
use super::sddmm::kernel::{
    SizesCompilationArg, add_splits_kernel::AddSplitsKernel, sddmm_mma_kernel::SddmmMmaKernel,
};
use super::spmm::base as spmm;
use super::spmm::kernel::spmm_mma_kernel::SpmmMmaKernel;
use super::tile::MmaTile;
use crate::BlockSize;
use crate::cube::cmma::base as cmma;
use crate::cube::cmma::catalogue as cooperative;

/// What one kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Spmm { plan: spmm::Blueprint, bias: bool, pieces: bool },
    Sddmm { plan: sddmm::Blueprint, split: bool },
    AddSplits,
    AddPieces { block: usize, bias: bool },
    CmmaProduct { plan: cmma::Product, bias: bool },
    CmmaSampled { plan: cmma::Sampled },
}

/// The verb of a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// `y = x · w`, with `+ bias` where the variant has one.
    Spmm,
    /// `dx = dy · wᵀ`.
    SpmmT,
    /// `xᵀ · dy` at the kept blocks.
    Sddmm,
    /// Sum of the partial results of a split `sddmm`.
    AddSplits,
    /// Sum of the partial results of the lines that a product cuts, with `+ bias` where the variant has one.
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
    /// Storage type of the tensors: f16 or bf16.
    pub dtype: ElemType,
}

impl Variant {
    /// Every variant, with and without copies that run ahead.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self { plan: Plan::AddSplits }];
        for block in BlockSize::ALL.into_iter().filter(|block| block.get() >= 32) {
            for bias in [false, true] {
                all.push(Self { plan: Plan::AddPieces { block: block.get(), bias } });
            }
            for pipelined in [true, false] {
                for rows in [64, 128, 256] {
                    for (transposed, bias) in [(false, false), (false, true), (true, false)] {
                        let plan = spmm::Blueprint::new(block, transposed, rows, pipelined);
                        let variant = |pieces| Self { plan: Plan::Spmm { plan, bias, pieces } };
                        all.extend([false, true].map(variant));
                    }
                }
                let plan = sddmm::Blueprint::new(block, pipelined);
                all.push(Self { plan: Plan::Sddmm { plan, split: false } });
                all.push(Self { plan: Plan::Sddmm { plan, split: true } });
            }
        }
        all
    }

    /// Every variant on cooperative matrices for a device with these properties and this storage type. None if
    /// it lists no matrix that the kernels take.
    pub fn cooperative(target: &Target) -> Vec<Self> {
        let offer = Offer::of(&target.properties, target.dtype);
        let Some(side) = offer.cmma else { return Vec::new() };
        let mut all = Vec::new();
        for block in BlockSize::ALL.into_iter().filter(|block| block.get() >= 16) {
            for (transposed, bias) in [(false, false), (false, true), (true, false)] {
                let plans = cmma::candidates(&offer, side, block, transposed, [1, 1]);
                let variant = |plan| Self { plan: Plan::CmmaProduct { plan, bias } };
                all.extend(plans.into_iter().map(variant));
            }
            let plan = cmma::sampled(&offer, side, block);
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
            Plan::Sddmm { .. } | Plan::CmmaSampled { .. } => Verb::Sddmm,
            Plan::AddSplits => Verb::AddSplits,
            Plan::AddPieces { .. } => Verb::AddPieces,
        }
    }

    /// Whether a bias is added.
    pub fn bias(&self) -> bool {
        matches!(
            self.plan,
            Plan::Spmm { bias: true, .. }
                | Plan::AddPieces { bias: true, .. }
                | Plan::CmmaProduct { bias: true, .. }
        )
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
            Plan::Sddmm { plan, .. } => Some(plan.block),
            Plan::AddPieces { block, .. } => Some(block),
            Plan::CmmaProduct { plan, .. } => Some(plan.block),
            Plan::CmmaSampled { plan } => Some(plan.block),
            Plan::AddSplits => None,
        }
    }

    /// Rows and columns of a cube's output tile; `None` if it has none.
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
        mma.or(self.cmma().map(|tile| tile.units())).unwrap_or(sddmm::ADD_UNITS)
    }

    /// Whether it multiplies by cooperative matrices.
    pub fn is_cooperative(&self) -> bool {
        self.cmma().is_some()
    }

    /// Most blocks of a cube in a sampled product, and their first slots for these column pointers, with the
    /// end of the last.
    pub fn group_starts(&self, col_ptr: &[u32]) -> Vec<u32> {
        match self.plan {
            Plan::Sddmm { plan, .. } => sddmm::group_starts(col_ptr, plan.group()),
            Plan::CmmaSampled { plan } => sddmm::group_starts(col_ptr, plan.group()),
            _ => Vec::new(),
        }
    }

    /// The pieces of lines that begin at `ptr`, of at most `bound` blocks, and the lines that are cut, both as
    /// the kernels read them; and the number of partial sums.
    pub fn cut(ptr: &[u32], bound: usize) -> ([Vec<u32>; 2], usize) {
        let cut = pieces::cut(ptr, bound);
        ([cut.pieces.as_flattened().to_vec(), cut.lines.as_flattened().to_vec()], cut.partials)
    }

    /// A name for reports: verb, tile, what is added.
    pub fn name(&self) -> String {
        let verb = match self.verb() {
            Verb::Spmm => "spmm",
            Verb::SpmmT => "spmm_t",
            Verb::Sddmm => "sddmm",
            Verb::AddSplits => "add_splits",
            Verb::AddPieces => "add_pieces",
        };
        let size = match (self.tile_size(), self.block()) {
            (Some([rows, cols]), _) if self.is_cooperative() => format!("_cmma_{rows}x{cols}"),
            (Some([rows, cols]), _) => format!("_{rows}x{cols}"),
            (None, Some(block)) => format!("_{block}"),
            (None, None) => String::new(),
        };
        // Blocks of 128 have tiles of 64 columns.
        let parts = if self.parts() > 1 { "_parts" } else { "" };
        let bias = if self.bias() { "_bias" } else { "" };
        let split = if self.split() { "_split" } else { "" };
        let pieces = if self.pieces() { "_pieces" } else { "" };
        let plain = if self.mma().is_some_and(|tile| !tile.pipelined) { "_plain" } else { "" };
        format!("{verb}{size}{parts}{bias}{split}{pieces}{plain}")
    }

    /// The kernel, ready for a code generator.
    pub fn define(&self, target: &Target) -> KernelDefinition {
        let Target { properties, layouts, address, dtype } = target;
        let (properties, layouts) = (properties.clone(), layouts.clone());
        let units = CubeDim::new_1d(self.units() as u32);
        let settings = KernelSettings::new(units.into(), ExecutionMode::Unchecked, *address);
        match self.plan {
            Plan::Spmm { plan, bias, pieces: true } => cut::spmm(settings, target, plan, bias),
            Plan::AddPieces { block, bias } => cut::add(settings, target, block, bias),
            Plan::Spmm { plan, bias, .. } => {
                let (bias, slot) = (optional(bias), optional(plan.transposed));
                let kernel = SpmmMmaKernel::new(
                    settings,
                    properties,
                    layouts,
                    buffer(),
                    buffer(),
                    bias,
                    buffer(),
                    buffer(),
                    buffer(),
                    slot,
                    buffer(),
                    (),
                    (),
                    (),
                    (),
                    plan,
                    *dtype,
                );
                kernel.define()
            }
            Plan::Sddmm { plan, split } => {
                let out = if split { ElemType::Float(FloatKind::F32) } else { *dtype };
                let sizes = SizesCompilationArg { m: (), k: (), n: (), values: (), splits: () };
                let kernel = SddmmMmaKernel::new(
                    settings,
                    properties,
                    layouts,
                    buffer(),
                    buffer(),
                    buffer(),
                    buffer(),
                    buffer(),
                    buffer(),
                    sizes,
                    (),
                    plan,
                    *dtype,
                    out,
                );
                kernel.define()
            }
            Plan::CmmaProduct { plan, bias } => cooperative::spmm(settings, target, plan, bias),
            Plan::CmmaSampled { plan } => cooperative::sddmm(settings, target, plan),
            Plan::AddSplits => {
                let kernel = AddSplitsKernel::new(
                    settings,
                    properties,
                    layouts,
                    buffer(),
                    buffer(),
                    (),
                    (),
                    *dtype,
                );
                kernel.define()
            }
        }
    }

    fn mma(&self) -> Option<MmaTile> {
        match self.plan {
            Plan::Spmm { plan, .. } => Some(plan.tile),
            Plan::Sddmm { plan, .. } => Some(plan.tile),
            _ => None,
        }
    }

    fn cmma(&self) -> Option<cmma::CmmaTile> {
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
