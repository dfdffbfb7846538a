//! Every tensor-core kernel as a definition, and every kernel for few rows ([`FewRows`]), without a device to run
//! it on: for tools that look at the code generated from it.

use std::sync::Arc;

use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::sddmm::base as sddmm;
use super::sddmm::kernel::{
    SizesCompilationArg, add_splits_kernel::AddSplitsKernel, sddmm_mma_kernel::SddmmMmaKernel,
};
use super::spmm::base as spmm;
use super::spmm::kernel::spmm_mma_kernel::SpmmMmaKernel;
use super::tile::MmaTile;
use crate::BlockSize;
pub use crate::cube::gemv::catalogue::FewRows;

/// What one kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Spmm { plan: spmm::Blueprint, bias: bool },
    Sddmm { plan: sddmm::Blueprint, split: bool },
    AddSplits,
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
    /// Storage type of the tensors: f16 or bf16; kernels for few rows have their own.
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
    /// Every variant, with and without copies that run ahead.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self { plan: Plan::AddSplits }];
        for block in BlockSize::ALL.into_iter().filter(|block| block.get() >= 32) {
            for pipelined in [true, false] {
                for rows in [64, 128, 256] {
                    let plan = spmm::Blueprint::new(block, false, rows, pipelined);
                    all.push(Self { plan: Plan::Spmm { plan, bias: false } });
                    all.push(Self { plan: Plan::Spmm { plan, bias: true } });
                    let plan = spmm::Blueprint::new(block, true, rows, pipelined);
                    all.push(Self { plan: Plan::Spmm { plan, bias: false } });
                }
                let plan = sddmm::Blueprint::new(block, pipelined);
                all.push(Self { plan: Plan::Sddmm { plan, split: false } });
                all.push(Self { plan: Plan::Sddmm { plan, split: true } });
            }
        }
        all
    }

    /// The verb.
    pub fn verb(&self) -> Verb {
        match self.plan {
            Plan::Spmm { plan, .. } if plan.transposed => Verb::SpmmT,
            Plan::Spmm { .. } => Verb::Spmm,
            Plan::Sddmm { .. } => Verb::Sddmm,
            Plan::AddSplits => Verb::AddSplits,
        }
    }

    /// Whether a bias is added.
    pub fn bias(&self) -> bool {
        matches!(self.plan, Plan::Spmm { bias: true, .. })
    }

    /// Whether results are partial sums in f32.
    pub fn split(&self) -> bool {
        matches!(self.plan, Plan::Sddmm { split: true, .. })
    }

    /// Whether copies run ahead of the arithmetic.
    pub fn pipelined(&self) -> bool {
        self.tile().is_some_and(|tile| tile.pipelined)
    }

    /// Rows and columns of a cube's output tile; `None` if it has none.
    pub fn tile_size(&self) -> Option<[usize; 2]> {
        self.tile().map(|tile| [tile.rows, tile.cols])
    }

    /// Shared memory of a cube in bytes.
    pub fn shared_bytes(&self) -> usize {
        self.tile().map_or(0, |tile| tile.shared_bytes())
    }

    /// Units of a cube.
    pub fn units(&self) -> usize {
        self.tile().map_or(sddmm::ADD_UNITS, |tile| tile.units())
    }

    /// Most blocks of a cube in a sampled product, and their first slots for these column pointers, with the
    /// end of the last.
    pub fn group_starts(&self, col_ptr: &[u32]) -> Vec<u32> {
        match self.plan {
            Plan::Sddmm { plan, .. } => sddmm::group_starts(col_ptr, plan.group()),
            _ => Vec::new(),
        }
    }

    /// A name for reports: verb, tile, what is added.
    pub fn name(&self) -> String {
        let verb = match self.verb() {
            Verb::Spmm => "spmm",
            Verb::SpmmT => "spmm_t",
            Verb::Sddmm => "sddmm",
            Verb::AddSplits => return "add_splits".into(),
        };
        let size = self.tile().map_or(String::new(), |tile| format!("{}x{}", tile.rows, tile.cols));
        let bias = if self.bias() { "_bias" } else { "" };
        let split = if self.split() { "_split" } else { "" };
        let plain = if self.pipelined() { "" } else { "_plain" };
        format!("{verb}_{size}{bias}{split}{plain}")
    }

    /// The kernel, ready for a code generator.
    pub fn define(&self, target: &Target) -> KernelDefinition {
        let Target { properties, layouts, address, dtype } = target;
        let (properties, layouts) = (properties.clone(), layouts.clone());
        let units = CubeDim::new_1d(self.units() as u32);
        let settings = KernelSettings::new(units.into(), ExecutionMode::Unchecked, *address);
        let buffer = || BufferCompilationArg { inplace: None };
        match self.plan {
            Plan::Spmm { plan, bias } => {
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

    fn tile(&self) -> Option<MmaTile> {
        match self.plan {
            Plan::Spmm { plan, .. } => Some(plan.tile),
            Plan::Sddmm { plan, .. } => Some(plan.tile),
            Plan::AddSplits => None,
        }
    }
}

/// An argument that a kernel may do without.
pub(in crate::cube) fn optional<T>(there: bool) -> ComptimeOptionCompilationArg<T>
where
    T: LaunchArg<CompilationArg = BufferCompilationArg>,
{
    if there {
        ComptimeOptionCompilationArg::Some(BufferCompilationArg { inplace: None })
    } else {
        ComptimeOptionCompilationArg::None
    }
}
