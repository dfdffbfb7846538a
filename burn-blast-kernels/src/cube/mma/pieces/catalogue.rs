//! The kernels as definitions, for `mma::catalogue`.

use cubecl::prelude::*;

use super::kernel::add_pieces_kernel::AddPiecesKernel;
use super::kernel::spmm_pieces_kernel::SpmmPiecesKernel;
use crate::cube::mma::catalogue::{Parts, Target, buffer, optional};
use crate::cube::mma::spmm::base::Blueprint;

pub(in crate::cube::mma) fn spmm(
    settings: KernelSettings,
    target: &Target,
    plan: Blueprint,
    Parts { bias, activation, residual }: Parts,
) -> KernelDefinition {
    let kernel = SpmmPiecesKernel::new(
        settings,
        target.properties.clone(),
        target.layouts.clone(),
        buffer(),
        buffer(),
        optional(bias),
        buffer(),
        buffer(),
        optional(plan.transposed),
        optional(residual),
        buffer(),
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

pub(in crate::cube::mma) fn add(
    settings: KernelSettings,
    target: &Target,
    block: usize,
    Parts { bias, activation, residual }: Parts,
) -> KernelDefinition {
    let kernel = AddPiecesKernel::new(
        settings,
        target.properties.clone(),
        target.layouts.clone(),
        buffer(),
        optional(bias),
        buffer(),
        optional(residual),
        buffer(),
        (),
        (),
        (),
        block,
        activation,
        target.dtype,
    );
    kernel.define()
}
