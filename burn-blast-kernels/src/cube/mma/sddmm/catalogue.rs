//! The kernels as definitions, for `mma::catalogue`.

use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::base::Blueprint;
use super::kernel::{
    SizesCompilationArg, add_splits_kernel::AddSplitsKernel, sddmm_mma_kernel::SddmmMmaKernel,
};
use crate::cube::mma::catalogue::{Target, buffer};

pub(in crate::cube::mma) fn sddmm(
    settings: KernelSettings,
    target: &Target,
    plan: Blueprint,
    split: bool,
) -> KernelDefinition {
    let out = if split { ElemType::Float(FloatKind::F32) } else { target.dtype };
    let kernel = SddmmMmaKernel::new(
        settings,
        target.properties.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        SizesCompilationArg { m: (), k: (), n: (), values: (), splits: () },
        (),
        plan,
        target.dtype,
        out,
    );
    kernel.define()
}

pub(in crate::cube::mma) fn add(settings: KernelSettings, target: &Target) -> KernelDefinition {
    let kernel = AddSplitsKernel::new(
        settings,
        target.properties.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        (),
        (),
        target.dtype,
    );
    kernel.define()
}
