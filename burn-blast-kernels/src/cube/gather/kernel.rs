//! One unit moves one element, or four of a row. There is nothing else to select on the host.

use cubecl::prelude::*;

use super::ABSENT;

/// `values[slot, i, j] = dense[row·b + i, col·b + j]`, zero outside the weight.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn pack_kernel<F: Float>(
    dense: &[F],
    row_of_slot: &[u32],
    col_of_slot: &[u32],
    values: &mut [F],
    rows: usize,
    cols: usize,
    count: usize,
    #[comptime] block: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= count {
        terminate!();
    }
    let slot = ABSOLUTE_POS / comptime!(block * block);
    let inner = ABSOLUTE_POS % comptime!(block * block);
    let row = row_of_slot[slot] as usize * block + inner / block;
    let col = col_of_slot[slot] as usize * block + inner % block;
    let mut value = F::new(0.0);
    if row < rows && col < cols {
        value = dense[row * cols + col];
    }
    values[ABSOLUTE_POS] = value;
}

/// `dense[row·b + i, col·b + j] = values[slot, i, j]`, zero where no block is kept.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn unpack_kernel<F: Float>(
    values: &[F],
    slot_of_block: &[u32],
    dense: &mut [F],
    cols: usize,
    block_cols: usize,
    count: usize,
    #[comptime] block: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= count {
        terminate!();
    }
    let row = ABSOLUTE_POS / cols;
    let col = ABSOLUTE_POS % cols;
    let slot = slot_of_block[(row / block) * block_cols + col / block];
    let mut value = F::new(0.0);
    if slot != ABSENT {
        value = values[(slot as usize * block + row % block) * block + col % block];
    }
    dense[ABSOLUTE_POS] = value;
}

/// [`pack_kernel`] for four elements per unit, where `cols` is a multiple of 4: a block is, so four are in one row of
/// both.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn pack_four_kernel<F: Float>(
    dense: &[Vector<F, Const<4>>],
    row_of_slot: &[u32],
    col_of_slot: &[u32],
    values: &mut [Vector<F, Const<4>>],
    rows: usize,
    cols: usize,
    count: usize,
    #[comptime] block: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= count {
        terminate!();
    }
    let slot = ABSOLUTE_POS / comptime!(block * block / 4);
    let inner = ABSOLUTE_POS % comptime!(block * block / 4) * 4;
    let row = row_of_slot[slot] as usize * block + inner / block;
    let col = col_of_slot[slot] as usize * block + inner % block;
    let mut four = Vector::<F, Const<4>>::zeroed();
    if row < rows && col < cols {
        four = dense[(row * cols + col) / 4];
    }
    values[ABSOLUTE_POS] = four;
}

/// [`unpack_kernel`] for four elements per unit, where `cols` is a multiple of 4.
#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub(crate) fn unpack_four_kernel<F: Float>(
    values: &[Vector<F, Const<4>>],
    slot_of_block: &[u32],
    dense: &mut [Vector<F, Const<4>>],
    cols: usize,
    block_cols: usize,
    count: usize,
    #[comptime] block: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= count {
        terminate!();
    }
    let row = ABSOLUTE_POS * 4 / cols;
    let col = ABSOLUTE_POS * 4 % cols;
    let slot = slot_of_block[(row / block) * block_cols + col / block];
    let mut four = Vector::<F, Const<4>>::zeroed();
    if slot != ABSENT {
        four = values[((slot as usize * block + row % block) * block + col % block) / 4];
    }
    dense[ABSOLUTE_POS] = four;
}
