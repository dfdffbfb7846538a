//! Definitions of the kernels, with the arguments in the order of their signatures.

use cubecl::ir::{ElemType, FloatKind, UIntKind};
use cubecl::prelude::*;

use super::few_rows::FewRows;
use super::portable::{Pair, Portable};
use super::problems::{Code, Parts, Target};
use super::{Variant, Verb};
use crate::Activation;
use crate::cube::dispatch::Kernel;
use crate::cube::gated::mma::kernel::gated_mma_kernel::GatedMmaKernel;
use crate::cube::gated::unit::gated_kernel::GatedKernel;
use crate::cube::gather::{pack_kernel::PackKernel, unpack_kernel::UnpackKernel};
use crate::cube::gemv::base::{SHARED_BYTES, UNITS};
use crate::cube::gemv::kernel::gemv_kernel::GemvKernel;
use crate::cube::gemv::reduce::{
    GemvSizesCompilationArg, gemv_add_parts_kernel::GemvAddPartsKernel,
};
use crate::cube::grid::GridCompilationArg;
use crate::cube::load::SizesCompilationArg;
use crate::cube::norm::block_norms_kernel::BlockNormsKernel;
use crate::cube::sddmm::cmma::kernel::sddmm_cmma_kernel::SddmmCmmaKernel;
use crate::cube::sddmm::mma::kernel::{
    SampledSizesCompilationArg, add_row_parts_kernel::AddRowPartsKernel,
    sddmm_mma_kernel::SddmmMmaKernel,
};
use crate::cube::sddmm::unit::kernel::{
    grad_block_norms_kernel::GradBlockNormsKernel, sddmm_kernel::SddmmKernel,
};
use crate::cube::split_k::ADD_UNITS;
use crate::cube::spmm::cmma::kernel::spmm_cmma_kernel::SpmmCmmaKernel;
use crate::cube::spmm::mma::kernel::spmm_mma_kernel::SpmmMmaKernel;
use crate::cube::spmm::mma::split_k::{
    add_parts_kernel::AddPartsKernel, spmm_parts_kernel::SpmmPartsKernel,
};
use crate::cube::spmm::unit::spmm_kernel::SpmmKernel;

/// Units of a cube that moves blocks; a launch takes what CubeCL finds best for the device.
const MOVING_UNITS: usize = 64;

/// A kernel that tools can generate code from.
pub trait Definition {
    /// A name for reports.
    fn name(&self) -> String;

    /// Units of a cube.
    fn units(&self) -> usize;

    /// Shared memory of a cube in bytes.
    fn shared_bytes(&self) -> usize;

    /// The kernel, ready for a code generator.
    fn define(&self, target: &Target) -> KernelDefinition;
}

impl Definition for Variant {
    /// Verb, tile, and what is added.
    fn name(&self) -> String {
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

    fn units(&self) -> usize {
        let mma = self.mma().map(|tile| tile.units());
        mma.or(self.cmma().map(|tile| tile.units())).unwrap_or(ADD_UNITS)
    }

    fn shared_bytes(&self) -> usize {
        let mma = self.mma().map(|tile| tile.shared_bytes());
        mma.or(self.cmma().map(|tile| tile.shared_bytes())).unwrap_or(0)
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
        format!("gemv_{}x{}_{kind}{gate}{bias}{part}", self.blueprint.rows, self.blueprint.block)
    }

    fn units(&self) -> usize {
        UNITS
    }

    fn shared_bytes(&self) -> usize {
        if self.adds { 0 } else { SHARED_BYTES }
    }

    fn define(&self, target: &Target) -> KernelDefinition {
        few_rows(self, target)
    }
}

impl Definition for Portable {
    fn name(&self) -> String {
        let kind = match self.dtype {
            ElemType::Float(FloatKind::F32) => "f32",
            _ => "f16",
        };
        let verb = match self.kernel {
            Kernel::SpmmUnit(tile) if tile.transposed => "spmm_t",
            Kernel::SpmmUnit(_) => "spmm",
            Kernel::GatedUnit(_) => "gated",
            Kernel::SddmmUnit(_) => "sddmm",
            Kernel::GradBlockNorms(_) => "grad_block_norms",
            Kernel::BlockNorms(_) => "block_norms",
            Kernel::Pack { .. } => "pack",
            _ => "unpack",
        };
        let rows = self.tile_size().map_or(String::new(), |[rows, _]| format!("_{rows}"));
        let pair = self.gated.map_or(String::new(), |Pair { activation, backward, joint }| {
            let backward = if backward { "_backward" } else { "" };
            format!("_{activation:?}{backward}{}", if joint { "_joint" } else { "" }).to_lowercase()
        });
        let Parts { bias, residual, .. } = self.parts;
        let bias = if bias { "_bias_gelu" } else { "" };
        let residual = if residual { "_residual" } else { "" };
        let elements = if self.vectors[0] == 1 { "_by_element" } else { "" };
        format!("{verb}{rows}x{}_{kind}{pair}{bias}{residual}{elements}", self.block)
    }

    fn units(&self) -> usize {
        match self.kernel {
            Kernel::SpmmUnit(tile) | Kernel::GatedUnit(tile) => tile.units(),
            Kernel::SddmmUnit(tile) | Kernel::GradBlockNorms(tile) => tile.units(),
            Kernel::BlockNorms(blueprint) => blueprint.units,
            _ => MOVING_UNITS,
        }
    }

    fn shared_bytes(&self) -> usize {
        match self.kernel {
            Kernel::SpmmUnit(tile) => tile.shared_bytes(1),
            Kernel::GatedUnit(tile) => {
                tile.shared_bytes(if self.gated.is_some_and(|pair| pair.joint) { 2 } else { 1 })
            }
            Kernel::SddmmUnit(tile) | Kernel::GradBlockNorms(tile) => tile.shared_bytes(),
            Kernel::BlockNorms(blueprint) => blueprint.units * size_of::<f32>(),
            _ => 0,
        }
    }

    fn define(&self, target: &Target) -> KernelDefinition {
        portable(self, target)
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

/// Cubes and their order.
fn grid() -> GridCompilationArg {
    GridCompilationArg { cubes: (), panel: () }
}

/// An argument that a kernel may do without.
fn optional<T: LaunchArg>(argument: Option<T::CompilationArg>) -> ComptimeOptionCompilationArg<T> {
    match argument {
        Some(argument) => ComptimeOptionCompilationArg::Some(argument),
        None => ComptimeOptionCompilationArg::None,
    }
}

#[rustfmt::skip]
fn variant(variant: &Variant, target: &Target) -> KernelDefinition {
    let (units, dtype) = (variant.units(), target.dtype);
    let Parts { bias, activation, residual } = variant.epilogue();
    match variant.code {
        Code::Product { kernel: Kernel::SpmmMma { blueprint, split: None }, .. } => define!(
            SpmmMmaKernel, units, target,
            buffer(), buffer(), optional(bias.then(buffer)), buffer(), buffer(), buffer(),
            optional(blueprint.transposed.then(buffer)), optional(residual.then(buffer)), buffer(),
            (), (), (), grid(), blueprint, activation, dtype,
        ),
        Code::Product { kernel: Kernel::SpmmMma { blueprint, split: Some(_) }, .. } => define!(
            SpmmPartsKernel, units, target,
            buffer(), buffer(), optional(bias.then(buffer)), buffer(), buffer(),
            optional(blueprint.transposed.then(buffer)), optional(residual.then(buffer)),
            buffer(), buffer(),
            (), (), (), grid(), blueprint, activation, dtype,
        ),
        Code::Product { kernel: Kernel::SpmmCmma(blueprint), .. } => define!(
            SpmmCmmaKernel, units, target,
            buffer(), buffer(), optional(bias.then(buffer)), buffer(), buffer(), buffer(),
            optional(blueprint.transposed.then(buffer)), optional(residual.then(buffer)), buffer(),
            (), (), (), grid(), blueprint, activation, dtype, blueprint.tile.matrix.element,
        ),
        Code::AddParts { block, .. } => define!(
            AddPartsKernel, units, target,
            buffer(), optional(bias.then(buffer)), buffer(), optional(residual.then(buffer)), buffer(),
            (), (), (), block, activation, dtype,
        ),
        Code::Gated { kernel: Kernel::GatedMma(blueprint), activation, backward } => define!(
            GatedMmaKernel, units, target,
            buffer(), buffer(), buffer(), buffer(), buffer(),
            optional(backward.then(|| (buffer(), buffer()))),
            SizesCompilationArg { m: (), k: (), n: () }, grid(), blueprint, activation, dtype,
        ),
        Code::Sampled(Kernel::SddmmMma { blueprint, parts }) => define!(
            SddmmMmaKernel, units, target,
            buffer(), buffer(), buffer(), buffer(), buffer(), buffer(),
            SampledSizesCompilationArg { m: (), k: (), n: (), values: (), parts: () },
            (), blueprint, dtype, if parts > 1 { F32 } else { dtype },
        ),
        Code::Sampled(Kernel::SddmmCmma(blueprint)) => define!(
            SddmmCmmaKernel, units, target,
            buffer(), buffer(), buffer(), buffer(), buffer(), buffer(),
            SizesCompilationArg { m: (), k: (), n: () },
            (), blueprint, dtype, blueprint.tile.matrix.element,
        ),
        Code::AddRowParts => {
            define!(AddRowPartsKernel, units, target, buffer(), buffer(), (), (), dtype)
        }
        Code::Product { kernel, .. } | Code::Gated { kernel, .. } | Code::Sampled(kernel) => {
            unreachable!("{kernel:?} is not in the catalogue")
        }
    }
}

#[rustfmt::skip]
fn few_rows(kernel: &FewRows, target: &Target) -> KernelDefinition {
    let FewRows { blueprint, dtype, end, bias, adds } = *kernel;
    let sizes = GemvSizesCompilationArg { m: (), k: (), n: (), parts: () };
    if adds {
        return define!(
            GemvAddPartsKernel, kernel.units(), target,
            buffer(), optional(bias.then(buffer)), buffer(), buffer(), sizes, blueprint, end, dtype,
        );
    }
    let stored = if kernel.int8() { ElemType::UInt(UIntKind::U32) } else { dtype };
    let (out, gated) = (if end.split { F32 } else { dtype }, end.gate.is_some());
    define!(
        GemvKernel, kernel.units(), target,
        buffer(), buffer(), optional(kernel.int8().then(buffer)), buffer(), buffer(),
        optional(gated.then(buffer)), optional(gated.then(buffer)), optional(gated.then(buffer)),
        optional(bias.then(buffer)), buffer(), buffer(),
        sizes, (), 16 / dtype.size(), blueprint.vector, blueprint.quad(), blueprint, end, dtype, stored, out,
    )
}

#[rustfmt::skip]
fn portable(kernel: &Portable, target: &Target) -> KernelDefinition {
    let Portable { parts: Parts { bias, activation, residual }, block, vectors: [x, y], dtype, .. } = *kernel;
    let (units, sizes) = (kernel.units(), SizesCompilationArg { m: (), k: (), n: () });
    match kernel.kernel {
        Kernel::SpmmUnit(tile) => define!(
            SpmmKernel, units, target,
            buffer(), buffer(), optional(bias.then(buffer)), buffer(), buffer(), buffer(),
            optional(tile.transposed.then(buffer)), optional(residual.then(buffer)), buffer(),
            (), (), (), grid(), x, y, tile, activation, dtype,
        ),
        Kernel::GatedUnit(tile) => {
            let Pair { activation, backward, joint } = kernel.gated.expect("a gated kernel has its pair");
            define!(
                GatedKernel, units, target,
                buffer(), buffer(), buffer(), buffer(), buffer(),
                optional(backward.then(|| (buffer(), buffer()))),
                sizes, grid(), x, y, tile, joint, activation, dtype,
            )
        }
        Kernel::SddmmUnit(tile) => define!(
            SddmmKernel, units, target,
            buffer(), buffer(), buffer(), buffer(), buffer(), buffer(), sizes, (), x, y, tile, dtype,
        ),
        Kernel::GradBlockNorms(tile) => define!(
            GradBlockNormsKernel, units, target,
            buffer(), buffer(), buffer(), sizes, (), (), x, y, tile, dtype,
        ),
        Kernel::BlockNorms(blueprint) => {
            define!(BlockNormsKernel, units, target, buffer(), buffer(), (), blueprint, dtype)
        }
        Kernel::Pack { width } => define!(
            PackKernel, units, target,
            buffer(), buffer(), buffer(), buffer(), (), (), (), width, block, dtype,
        ),
        Kernel::Unpack { width } => define!(
            UnpackKernel, units, target,
            buffer(), buffer(), buffer(), (), (), (), width, block, dtype,
        ),
        kernel => unreachable!("{kernel:?} is not portable"),
    }
}
