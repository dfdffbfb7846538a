//! Buffers in, one launch.

use cubecl::prelude::*;

use super::base::select;
use super::kernel::block_norms_kernel;
use crate::cube::Call;
use crate::cube::call::check_len;

/// Writes the Frobenius norm of each kept block to `norms`.
///
/// # Shapes
/// - `values`: `[nnz, b, b]`
/// - `norms`: `[nnz]`
///
/// # Panics
/// If a buffer has another size.
pub fn block_norms(call: &Call, values: BufferArg, norms: BufferArg) {
    check_len("values", &values, &[call.pattern.value_count()]);
    check_len("norms", &norms, &[call.pattern.nnz()]);
    if norms.is_empty() {
        return;
    }
    let plan = select(call.pattern.block(), call.max_units());
    let cubes = call.pattern.nnz();
    block_norms_kernel::launch(
        call.client,
        call.cubes(cubes),
        CubeDim::new_1d(plan.units as u32),
        AddressType::from_len(values.len()),
        values,
        norms,
        cubes,
        plan,
        call.dtype,
    );
}
