//! Every tensor-core kernel as a definition, without a device to run it on: for tools that look at the code
//! generated from it.

use std::sync::Arc;

use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::gated::base as gated;
use super::gated::kernel::SizesCompilationArg as GatedSizes;
use super::gated::kernel::gated_mma_kernel::GatedMmaKernel;
use super::sddmm::base as sddmm;
use super::sddmm::kernel::{
    SizesCompilationArg, add_splits_kernel::AddSplitsKernel, sddmm_mma_kernel::SddmmMmaKernel,
};
use super::spmm::base as spmm;
use super::spmm::kernel::spmm_mma_kernel::SpmmMmaKernel;
use super::tile::MmaTile;
use crate::cpu::Activation;
use crate::cube::gated::task::tasks;
use crate::{BlockPattern, BlockSize};

/// What one kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Spmm { plan: spmm::Blueprint, epilogue: Parts },
    Gated { plan: gated::Blueprint, activation: Activation, backward: bool },
    Sddmm { plan: sddmm::Blueprint, split: bool },
    AddSplits,
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
        let mut all = vec![Plan::AddSplits];
        for block in BlockSize::ALL.into_iter().filter(|block| block.get() >= 32) {
            for pipelined in [true, false] {
                for rows in [64, 128, 256] {
                    let plan = spmm::Blueprint::new(block, false, rows, pipelined);
                    all.extend(forward_epilogues().map(|epilogue| Plan::Spmm { plan, epilogue }));
                    let plan = spmm::Blueprint::new(block, true, rows, pipelined);
                    let epilogues =
                        [false, true].map(|residual| Parts { residual, ..Parts::default() });
                    all.extend(epilogues.map(|epilogue| Plan::Spmm { plan, epilogue }));
                }
                all.extend(gated_plans(block, pipelined));
                let plan = sddmm::Blueprint::new(block, pipelined);
                all.extend([false, true].map(|split| Plan::Sddmm { plan, split }));
            }
        }
        all.into_iter().map(|plan| Self { plan }).collect()
    }

    /// The verb.
    pub fn verb(&self) -> Verb {
        match self.plan {
            Plan::Spmm { plan, .. } if plan.transposed => Verb::SpmmT,
            Plan::Spmm { .. } => Verb::Spmm,
            Plan::Gated { backward: true, .. } => Verb::GatedBackward,
            Plan::Gated { .. } => Verb::Gated,
            Plan::Sddmm { .. } => Verb::Sddmm,
            Plan::AddSplits => Verb::AddSplits,
        }
    }

    /// What a product adds to its sums; nothing for other verbs.
    pub fn epilogue(&self) -> Parts {
        match self.plan {
            Plan::Spmm { epilogue, .. } => epilogue,
            _ => Parts::default(),
        }
    }

    /// The activation of a gated block.
    pub fn gate(&self) -> Option<Activation> {
        match self.plan {
            Plan::Gated { activation, .. } => Some(activation),
            _ => None,
        }
    }

    /// Whether gate and up have one pattern.
    pub fn joint(&self) -> bool {
        matches!(self.plan, Plan::Gated { plan, .. } if plan.joint)
    }

    /// Side of a block; `None` for a kernel that knows no blocks.
    pub fn block(&self) -> Option<usize> {
        match self.plan {
            Plan::Spmm { plan, .. } => Some(plan.block),
            Plan::Gated { plan, .. } => Some(plan.block),
            Plan::Sddmm { plan, .. } => Some(plan.block),
            Plan::AddSplits => None,
        }
    }

    /// Whether results are partial sums in f32.
    pub fn split(&self) -> bool {
        matches!(self.plan, Plan::Sddmm { split: true, .. })
    }

    /// Whether copies run ahead of the arithmetic.
    pub fn pipelined(&self) -> bool {
        self.tile().is_some_and(|tile| tile.pipelined)
    }

    /// Rows and columns of the product a cube computes at each step; `None` if it computes none. With one pattern
    /// for gate and up, the columns of both.
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
            Verb::Gated => "gated",
            Verb::GatedBackward => "gated_backward",
            Verb::AddSplits => return "add_splits".into(),
        };
        let size = self.tile().zip(self.block()).map_or(String::new(), |(tile, block)| {
            // The tile of a joint product is twice as wide as its output.
            format!("{}x{}", tile.rows, if self.joint() { block } else { tile.cols })
        });
        let joint = if self.joint() { "_joint" } else { "" };
        let Parts { bias, activation, residual } = self.epilogue();
        let bias = if bias { "_bias" } else { "" };
        // A gated block is SwiGLU if nothing else is said.
        let gate = self.gate().filter(|&gate| gate != Activation::Silu);
        let activation =
            activation.or(gate).map_or(String::new(), |f| format!("_{f:?}").to_lowercase());
        let residual = if residual { "_residual" } else { "" };
        let split = if self.split() { "_split" } else { "" };
        let plain = if self.pipelined() { "" } else { "_plain" };
        format!("{verb}_{size}{joint}{bias}{activation}{residual}{split}{plain}")
    }

    /// The kernel, ready for a code generator.
    // Long, but one constructor after the other.
    pub fn define(&self, target: &Target) -> KernelDefinition {
        let Target { properties, layouts, address, dtype } = target;
        let (properties, layouts) = (properties.clone(), layouts.clone());
        let units = CubeDim::new_1d(self.units() as u32);
        let settings = KernelSettings::new(units.into(), ExecutionMode::Unchecked, *address);
        let buffer = || BufferCompilationArg { inplace: None };
        match self.plan {
            Plan::Spmm { plan, epilogue: Parts { bias, activation, residual } } => {
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
                    optional(residual),
                    buffer(),
                    (),
                    (),
                    (),
                    (),
                    plan,
                    activation,
                    *dtype,
                );
                kernel.define()
            }
            Plan::Gated { plan, activation, backward } => {
                let gradients = if backward {
                    ComptimeOptionCompilationArg::Some((buffer(), buffer()))
                } else {
                    ComptimeOptionCompilationArg::None
                };
                let kernel = GatedMmaKernel::new(
                    settings,
                    properties,
                    layouts,
                    buffer(),
                    buffer(),
                    buffer(),
                    buffer(),
                    buffer(),
                    gradients,
                    GatedSizes { m: (), k: (), n: () },
                    (),
                    plan,
                    activation,
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
            Plan::Gated { plan, .. } => Some(plan.tile),
            Plan::Sddmm { plan, .. } => Some(plan.tile),
            Plan::AddSplits => None,
        }
    }
}

/// The index that a gated variant reads.
pub fn gated_tasks(gate: &BlockPattern, up: &BlockPattern) -> Vec<u32> {
    tasks(gate, up)
}

/// What launches of a forward product ask for.
fn forward_epilogues() -> impl Iterator<Item = Parts> {
    let bias = Parts { bias: true, ..Parts::default() };
    let activations = [Activation::Relu, Activation::Gelu, Activation::Silu];
    let activated = activations.map(|f| Parts { activation: Some(f), ..bias });
    let rest = [Parts::default(), bias, Parts { residual: true, ..bias }];
    rest.into_iter().chain(activated)
}

/// Gate and up of every tile, with one pattern and with two, forward and backward.
fn gated_plans(block: BlockSize, pipelined: bool) -> impl Iterator<Item = Plan> {
    let activations = [Activation::Silu, Activation::Gelu, Activation::Relu];
    let choices = activations
        .into_iter()
        .flat_map(|f| [(f, false, false), (f, false, true), (f, true, false), (f, true, true)]);
    choices.flat_map(move |(activation, joint, backward)| {
        gated::rows(block).map(move |rows| {
            let plan = gated::Blueprint::new(block, joint, rows, pipelined);
            Plan::Gated { plan, activation, backward }
        })
    })
}

/// An argument that a kernel may do without.
fn optional<T>(there: bool) -> ComptimeOptionCompilationArg<T>
where
    T: LaunchArg<CompilationArg = BufferCompilationArg>,
{
    if there {
        ComptimeOptionCompilationArg::Some(BufferCompilationArg { inplace: None })
    } else {
        ComptimeOptionCompilationArg::None
    }
}
