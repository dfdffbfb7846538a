//! The kernels as definitions, for `mma::catalogue`.

use cubecl::prelude::*;

use super::base::{Product, Sampled};
use super::sddmm::sddmm_cmma_kernel::SddmmCmmaKernel;
use super::spmm::spmm_cmma_kernel::SpmmCmmaKernel;
use crate::cube::mma::catalogue::{Parts, Target, buffer, optional};
use crate::cube::sizes::SizesCompilationArg;

pub(in crate::cube) fn spmm(
    settings: KernelSettings,
    target: &Target,
    plan: Product,
    Parts { bias, activation, residual }: Parts,
) -> KernelDefinition {
    let kernel = SpmmCmmaKernel::new(
        settings,
        target.properties.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        optional(bias),
        buffer(),
        buffer(),
        buffer(),
        optional(plan.transposed),
        optional(residual),
        buffer(),
        (),
        (),
        (),
        (),
        plan,
        activation,
        target.dtype,
        plan.tile.matrix.element,
    );
    kernel.define()
}

pub(in crate::cube) fn sddmm(
    settings: KernelSettings,
    target: &Target,
    plan: Sampled,
) -> KernelDefinition {
    let kernel = SddmmCmmaKernel::new(
        settings,
        target.properties.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        buffer(),
        SizesCompilationArg { m: (), k: (), n: () },
        (),
        plan,
        target.dtype,
        plan.tile.matrix.element,
    );
    kernel.define()
}
