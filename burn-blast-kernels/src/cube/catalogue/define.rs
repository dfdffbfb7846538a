//! Definitions of the kernels, with the arguments in the order of their signatures.

use cubecl::ir::{ElemType, FloatKind, UIntKind};
use cubecl::prelude::*;

use super::Variant;
use super::few_rows::FewRows;
use super::problems::{Code, Parts, Target};
use crate::Activation;
use crate::cube::dispatch::Kernel;
use crate::cube::gated::mma::kernel::gated_mma_kernel::GatedMmaKernel;
use crate::cube::gemv::kernel::gemv_kernel::GemvKernel;
use crate::cube::gemv::reduce::{
    GemvSizesCompilationArg, gemv_add_parts_kernel::GemvAddPartsKernel,
};
use crate::cube::load::SizesCompilationArg;
use crate::cube::sddmm::cmma::kernel::sddmm_cmma_kernel::SddmmCmmaKernel;
use crate::cube::sddmm::mma::kernel::{
    SampledSizesCompilationArg, add_row_parts_kernel::AddRowPartsKernel,
    sddmm_mma_kernel::SddmmMmaKernel,
};
use crate::cube::spmm::cmma::kernel::spmm_cmma_kernel::SpmmCmmaKernel;
use crate::cube::spmm::mma::kernel::spmm_mma_kernel::SpmmMmaKernel;
use crate::cube::spmm::mma::split_k::{
    add_parts_kernel::AddPartsKernel, spmm_parts_kernel::SpmmPartsKernel,
};

/// A kernel that tools can generate code from.
pub trait Definition {
    /// A name for reports.
    fn name(&self) -> String;

    /// The kernel, ready for a code generator.
    fn define(&self, target: &Target) -> KernelDefinition;
}

impl Definition for Variant {
    fn name(&self) -> String {
        Variant::name(self)
    }

    fn define(&self, target: &Target) -> KernelDefinition {
        variant(self, target)
    }
}

impl Definition for FewRows {
    fn name(&self) -> String {
        let kind = match self.dtype {
            _ if self.int8() => "int8",
            ElemType::Float(FloatKind::F32) => "f32",
            ElemType::Float(FloatKind::F16) => "f16",
            _ => "bf16",
        };
        let gate = match self.end.gate {
            None => "",
            Some(Activation::Silu) => "_silu",
            Some(Activation::Gelu) => "_gelu",
            Some(Activation::Relu) => "_relu",
        };
        let bias = if self.bias { "_bias" } else { "" };
        let part = match (self.adds, self.end.split) {
            (true, _) => "_add",
            (false, true) => "_split_k",
            (false, false) => "",
        };
        format!("gemv_{}x{}_{kind}{gate}{bias}{part}", self.plan.rows, self.plan.block)
    }

    fn define(&self, target: &Target) -> KernelDefinition {
        few_rows(self, target)
    }
}

const F32: ElemType = ElemType::Float(FloatKind::F32);

/// A kernel with its settings, its target, and its arguments.
macro_rules! define {
    ($kernel:ident, $units:expr, $target:expr, $($argument:expr),* $(,)?) => {{
        let (units, target): (usize, &Target) = ($units, $target);
        let units = CubeDim::new_1d(units as u32);
        let settings = KernelSettings::new(units.into(), ExecutionMode::Unchecked, target.address);
        let (properties, layouts) = (target.properties.clone(), target.layouts.clone());
        $kernel::new(settings, properties, layouts, $($argument),*).define()
    }};
}

/// An argument that a kernel always takes.
fn buffer() -> BufferCompilationArg {
    BufferCompilationArg { inplace: None }
}

/// An argument that a kernel may do without.
fn optional<T>(there: bool) -> ComptimeOptionCompilationArg<T>
where
    T: LaunchArg<CompilationArg = BufferCompilationArg>,
{
    if there {
        ComptimeOptionCompilationArg::Some(buffer())
    } else {
        ComptimeOptionCompilationArg::None
    }
}

#[rustfmt::skip]
fn variant(variant: &Variant, target: &Target) -> KernelDefinition {
    let (units, dtype) = (variant.units(), target.dtype);
    let Parts { bias, activation, residual } = variant.epilogue();
    match variant.code {
        Code::Product { kernel: Kernel::SpmmMma { plan, split: None }, .. } => define!(
            SpmmMmaKernel, units, target,
            buffer(), buffer(), optional(bias), buffer(), buffer(), buffer(),
            optional(plan.transposed), optional(residual), buffer(),
            (), (), (), (), plan, activation, dtype,
        ),
        Code::Product { kernel: Kernel::SpmmMma { plan, split: Some(_) }, .. } => define!(
            SpmmPartsKernel, units, target,
            buffer(), buffer(), optional(bias), buffer(), buffer(),
            optional(plan.transposed), optional(residual), buffer(), buffer(),
            (), (), (), (), plan, activation, dtype,
        ),
        Code::Product { kernel: Kernel::SpmmCmma(plan), .. } => define!(
            SpmmCmmaKernel, units, target,
            buffer(), buffer(), optional(bias), buffer(), buffer(), buffer(),
            optional(plan.transposed), optional(residual), buffer(),
            (), (), (), (), plan, activation, dtype, plan.tile.matrix.element,
        ),
        Code::AddParts { block, .. } => define!(
            AddPartsKernel, units, target,
            buffer(), optional(bias), buffer(), optional(residual), buffer(),
            (), (), (), block, activation, dtype,
        ),
        Code::Gated { plan, activation, backward } => define!(
            GatedMmaKernel, units, target,
            buffer(), buffer(), buffer(), buffer(), buffer(), gradients(backward),
            SizesCompilationArg { m: (), k: (), n: () }, (), plan, activation, dtype,
        ),
        Code::Sampled(Kernel::SddmmMma { plan, parts }) => define!(
            SddmmMmaKernel, units, target,
            buffer(), buffer(), buffer(), buffer(), buffer(), buffer(),
            SampledSizesCompilationArg { m: (), k: (), n: (), values: (), parts: () },
            (), plan, dtype, if parts > 1 { F32 } else { dtype },
        ),
        Code::Sampled(Kernel::SddmmCmma(plan)) => define!(
            SddmmCmmaKernel, units, target,
            buffer(), buffer(), buffer(), buffer(), buffer(), buffer(),
            SizesCompilationArg { m: (), k: (), n: () },
            (), plan, dtype, plan.tile.matrix.element,
        ),
        Code::AddRowParts => {
            define!(AddRowPartsKernel, units, target, buffer(), buffer(), (), (), dtype)
        }
        Code::Product { kernel, .. } | Code::Sampled(kernel) => {
            unreachable!("{kernel:?} is not in the catalogue")
        }
    }
}

/// The two gradients that a backward kernel writes.
fn gradients<T>(there: bool) -> ComptimeOptionCompilationArg<T>
where
    T: LaunchArg<CompilationArg = (BufferCompilationArg, BufferCompilationArg)>,
{
    if there {
        ComptimeOptionCompilationArg::Some((buffer(), buffer()))
    } else {
        ComptimeOptionCompilationArg::None
    }
}

#[rustfmt::skip]
fn few_rows(kernel: &FewRows, target: &Target) -> KernelDefinition {
    let FewRows { plan, dtype, end, bias, adds } = *kernel;
    let sizes = GemvSizesCompilationArg { m: (), k: (), n: (), parts: () };
    if adds {
        return define!(
            GemvAddPartsKernel, kernel.units(), target,
            buffer(), optional(bias), buffer(), buffer(), sizes, plan, end, dtype,
        );
    }
    let stored = if kernel.int8() { ElemType::UInt(UIntKind::U32) } else { dtype };
    let (out, gated) = (if end.split { F32 } else { dtype }, end.gate.is_some());
    define!(
        GemvKernel, kernel.units(), target,
        buffer(), buffer(), optional(kernel.int8()), buffer(), buffer(),
        optional(gated), optional(gated), optional(gated), optional(bias), buffer(), buffer(),
        sizes, (), 16 / dtype.size(), plan.vector, plan.quad(), plan, end, dtype, stored, out,
    )
}
