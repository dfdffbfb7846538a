//! The kernel as a definition, for `mma::catalogue`.

use cubecl::prelude::*;

use super::base::Blueprint;
use super::kernel::spmm_mma_kernel::SpmmMmaKernel;
use crate::cube::mma::catalogue::{Parts, Target, buffer, optional};

pub(in crate::cube::mma) fn spmm(
    settings: KernelSettings,
    target: &Target,
    plan: Blueprint,
    Parts { bias, activation, residual }: Parts,
) -> KernelDefinition {
    let kernel = SpmmMmaKernel::new(
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
    );
    kernel.define()
}
