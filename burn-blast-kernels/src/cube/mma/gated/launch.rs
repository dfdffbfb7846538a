//! Buffers in, one launch.

use cubecl::prelude::*;

use super::base::Blueprint;
use super::kernel::gated_mma_kernel;
use crate::Activation;
use crate::cube::Call;
use crate::cube::gated::Buffers;
use crate::cube::index::GatedIndex;
use crate::cube::sizes::SizesLaunch;

/// Launches the products that `plan` describes. Buffers have the sizes that the caller checked, and `m` is
/// not zero.
pub(crate) fn launch(
    call: &Call,
    index: &GatedIndex,
    plan: Blueprint,
    activation: Activation,
    buffers: Buffers,
    m: usize,
    address: AddressType,
) {
    let shape = call.pattern.shape();
    let cubes = m.div_ceil(plan.tile.rows) * call.pattern.block_cols();
    let [gate, up] = buffers.values;
    // SAFETY: every read of `x` and access to `h` and the gradients is guarded by the sizes, which the buffers
    // were checked against; the index was made from two patterns of these sizes, whose blocks lie inside their
    // grid and whose slots lie inside their values. The loops are bounded by it.
    unsafe {
        gated_mma_kernel::launch_unchecked(
            call.client,
            call.cubes(cubes),
            CubeDim::new_1d(plan.tile.units() as u32),
            address,
            buffers.x,
            gate,
            up,
            index.tasks.arg(),
            buffers.h,
            buffers.gradients.into(),
            SizesLaunch::new(m, shape.rows(), shape.cols()),
            cubes,
            plan,
            activation,
            call.dtype,
        );
    }
}
