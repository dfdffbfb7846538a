//! Buffers in, one launch, or two where long columns are cut.

use cubecl::ir::{ElemType, FloatKind, UIntKind};
use cubecl::prelude::*;

use super::base::{self, Blueprint, Stored, UNITS, select};
use super::finish::{Finish, add_pieces_kernel};
use super::kernel::{SizesLaunch, few_rows_kernel};
use super::pieces::{PieceIndex, share};
use crate::Activation;
use crate::BlockPattern;
use crate::cube::call::check_len;
use crate::cube::index::PatternIndex;
use crate::cube::mma::offer::{Class, class};
use crate::cube::{Call, CubeError};

/// A weight as a launch takes it.
struct Weight<'a> {
    pattern: &'a BlockPattern,
    values: BufferArg,
    scales: Option<BufferArg>,
}

/// Two weights of one shape and block size, for [`gated_few_rows`].
pub struct Gated<'a> {
    /// Blocks of the weight whose product is multiplied; those of the gate are the call's.
    pub up: &'a BlockPattern,
    /// Of the gate.
    pub activation: Activation,
    /// `[nnz, b, b]` of the gate, and of the other.
    pub values: [BufferArg; 2],
    /// `[d_output]`, added to the product with the gate.
    pub bias: Option<BufferArg>,
}

/// Writes `f(x · gate + bias) · (x · up)` to `y`: in one launch, or two where long columns are cut. For few rows:
/// weights are read again for each sixteen.
///
/// # Shapes
/// - `x`: `[m, d_input]`
/// - `y`: `[m, d_output]`
///
/// # Errors
/// If the device is too small; [`gated_hidden`](crate::cube::gated_hidden) runs there. Not where
/// [`serves_gated_few_rows`] holds.
///
/// # Panics
/// If a buffer has another size than [`Gated`] says, or the patterns have different shapes or blocks.
pub fn gated_few_rows(
    call: &Call,
    x: BufferArg,
    gated: Gated,
    y: BufferArg,
    m: usize,
) -> Result<(), CubeError> {
    check_device(call, base::buffers(Stored::Float, true, gated.bias.is_some()))?;
    let gate = call.pattern;
    assert_eq!(gated.up.shape(), gate.shape(), "gate and up must have one shape");
    assert_eq!(gated.up.block(), gate.block(), "gate and up must have one block size");
    let [gate_values, up_values] = gated.values;
    check_len("gate", &gate_values, &[gate.value_count()]);
    check_len("up", &up_values, &[gated.up.value_count()]);
    let weights = [
        Weight { pattern: gate, values: gate_values, scales: None },
        Weight { pattern: gated.up, values: up_values, scales: None },
    ];
    product(call, x, weights.into(), gated.bias, y, m, Stored::Float, Some(gated.activation));
    Ok(())
}

/// Writes `x · (scales · values) + bias` to `y`, where each block has a scale. An empty block column becomes its
/// bias, or zero. For few rows: values are read again for each sixteen.
///
/// # Shapes
/// - `x`: `[m, d_input]`
/// - `values`: `[nnz, b, b / 4]` words of 32 bits, each of four integers with the first in the lowest byte, as
///   `i8` lies in the memory of a little-endian host
/// - `scales`: `[nnz]`, f32
/// - `bias`: `[d_output]`
/// - `y`: `[m, d_output]`
///
/// # Errors
/// If the device allows too few units or too little shared memory a cube, or too few buffers: eight with a bias, one
/// more than WebGPU promises. No other kernel takes integers.
///
/// # Panics
/// If a buffer has another size.
pub fn spmm_int8(
    call: &Call,
    x: BufferArg,
    [values, scales]: [BufferArg; 2],
    bias: Option<BufferArg>,
    y: BufferArg,
    m: usize,
) -> Result<(), CubeError> {
    check_device(call, base::buffers(Stored::Int8, false, bias.is_some()))?;
    let pattern = call.pattern;
    check_len("values", &values, &[pattern.value_count() / 4]);
    check_len("scales", &scales, &[pattern.nnz()]);
    let weight = Weight { pattern, values, scales: Some(scales) };
    product(call, x, vec![weight], bias, y, m, Stored::Int8, None);
    Ok(())
}

fn check_device(call: &Call, buffers: usize) -> Result<(), CubeError> {
    match base::lacks(&call.offer(), buffers) {
        Some((what, needed, found)) => {
            Err(CubeError::FewRows { what, needed, found, device: call.client.name().into() })
        }
        None => Ok(()),
    }
}

/// [`spmm`](crate::cube::spmm()) for few rows, where [`serves_few_rows`] holds; buffers have the sizes that the caller
/// checked.
pub(in crate::cube) fn spmm(
    call: &Call,
    [x, values, y]: [BufferArg; 3],
    bias: Option<BufferArg>,
    m: usize,
) {
    let weight = Weight { pattern: call.pattern, values, scales: None };
    product(call, x, vec![weight], bias, y, m, Stored::Float, None);
}

/// Whether [`spmm`](crate::cube::spmm()) of `m` rows is taken by the kernel for few rows. One with an activation or a
/// residual never is.
pub fn serves_few_rows(call: &Call, m: usize) -> bool {
    // A unit has half the arithmetic for a byte of f32, and keeps up with memory to 16 rows.
    let cores = usual_class(call, m) != Class::Unit && call.dtype.size() == 2;
    let buffers = base::buffers(Stored::Float, false, true);
    base::few_rows(&call.offer(), m, call.pattern.block_cols(), cores, buffers)
}

/// Whether [`gated_few_rows`], with a bias or without, is the best way to a gated pair for `m` rows. Otherwise it is
/// [`gated_hidden`](crate::cube::gated_hidden).
pub fn serves_gated_few_rows(call: &Call, m: usize, bias: bool) -> bool {
    // Cooperative matrices have no kernel for a gated pair.
    let cores = matches!(usual_class(call, m), Class::Mma { .. });
    let buffers = base::buffers(Stored::Float, true, bias);
    base::few_rows(&call.offer(), m, call.pattern.block_cols(), cores, buffers)
}

/// Whether [`spmm_int8`], without a bias, is the best way to a product of `m` rows. Otherwise it is one of the values
/// multiplied by their scales.
pub fn serves_int8(call: &Call, m: usize) -> bool {
    let buffers = base::buffers(Stored::Int8, false, false);
    base::few_rows(&call.offer(), m, call.pattern.block_cols(), false, buffers)
}

/// The class of kernel that takes many rows.
fn usual_class(call: &Call, m: usize) -> Class {
    let shape = call.pattern.shape();
    let longest = call.pattern.value_count().max(m * shape.rows()).max(m * shape.cols());
    let sides = [shape.rows(), shape.cols()];
    class(&call.offer(), call.pattern.block(), sides, AddressType::from_len(longest))
}

#[allow(clippy::too_many_arguments)]
fn product(
    call: &Call,
    x: BufferArg,
    weights: Vec<Weight>,
    bias: Option<BufferArg>,
    y: BufferArg,
    m: usize,
    stored: Stored,
    gate: Option<Activation>,
) {
    let shape = call.pattern.shape();
    check_len("input", &x, &[m, shape.rows()]);
    check_len("output", &y, &[m, shape.cols()]);
    if let Some(bias) = &bias {
        check_len("bias", bias, &[shape.cols()]);
    }
    if m == 0 {
        return;
    }
    let block = call.pattern.block();
    let size = if stored == Stored::Int8 { 1 } else { call.dtype.size() };
    let plan = select(block, m, stored, size, call.widest());
    let patterns: Vec<&BlockPattern> = weights.iter().map(|weight| weight.pattern).collect();
    let blocks = patterns.iter().map(|pattern| pattern.nnz()).sum();
    let share = share(blocks, block.area() * size, call.offer().compute_units);
    let pieces = PieceIndex::of(&patterns, call.client, share);
    let end = Finish { gate, cut: pieces.cut };
    let launch = Launch { call, plan, end, pieces: &pieces, m };
    if !pieces.cut {
        return launch.walk(x, weights, bias, y, call.dtype);
    }
    let count = patterns.len() * pieces.count * m.next_multiple_of(plan.rows) * plan.block;
    let handle = call.client.empty(count * size_of::<f32>());
    // SAFETY: the buffer was made with this length.
    let partial = || unsafe { BufferArg::from_raw_parts(handle.clone(), count) };
    launch.walk(x, weights, None, partial(), ElemType::Float(FloatKind::F32));
    launch.add(partial(), bias, y);
}

/// What both launches take.
struct Launch<'a> {
    call: &'a Call<'a>,
    plan: Blueprint,
    end: Finish,
    pieces: &'a PieceIndex,
    m: usize,
}

impl Launch<'_> {
    fn sizes(&self) -> SizesLaunch {
        let shape = self.call.pattern.shape();
        SizesLaunch::new(self.m, shape.rows(), shape.cols(), self.pieces.count)
    }

    fn walk(
        &self,
        x: BufferArg,
        weights: Vec<Weight>,
        bias: Option<BufferArg>,
        out: BufferArg,
        out_type: ElemType,
    ) {
        let (call, plan) = (self.call, self.plan);
        let cubes = self.m.div_ceil(plan.rows) * self.pieces.count;
        let longest = weights.iter().map(|weight| weight.values.len()).max().unwrap_or(0);
        let address = AddressType::from_len(longest.max(x.len()).max(out.len()));
        let stored = match plan.stored {
            Stored::Float => call.dtype,
            Stored::Int8 => ElemType::UInt(UIntKind::U32),
        };
        let mut weights = weights.into_iter().map(|weight| {
            let index = PatternIndex::of(weight.pattern, call.client);
            let values = index.bindable(weight.values);
            let scales = weight.scales.map(|scales| index.bindable(scales));
            (values, scales, index.col_ptr.arg(), index.row_idx.arg())
        });
        let (values, scales, ptr, idx) = weights.next().expect("a product has a weight");
        let (up_values, up_scales, up_ptr, up_idx) = match weights.next() {
            Some((values, scales, ptr, idx)) => (Some(values), scales, Some(ptr), Some(idx)),
            None => (None, None, None, None),
        };
        // SAFETY: reads of `x` and writes of `out` are guarded by `m`, `k` and `n`, which the buffers were checked
        // against; reads of values by the number of blocks of the column, which lie inside `values` and name rows
        // inside the grid, as a `BlockPattern` has been checked to do.
        unsafe {
            few_rows_kernel::launch_unchecked(
                call.client,
                call.cubes(cubes),
                CubeDim::new_1d(UNITS as u32),
                address,
                call.row_vector(call.pattern.shape().rows()),
                plan.vector,
                plan.quad(),
                x,
                values,
                scales.into(),
                ptr,
                idx,
                up_values.into(),
                up_scales.into(),
                up_ptr.into(),
                up_idx.into(),
                bias.into(),
                self.pieces.items.arg(),
                out,
                self.sizes(),
                cubes,
                plan,
                self.end,
                call.dtype,
                stored,
                out_type,
            );
        }
    }

    fn add(&self, partial: BufferArg, bias: Option<BufferArg>, y: BufferArg) {
        let address = AddressType::from_len(partial.len().max(y.len()));
        // SAFETY: units beyond `y` do nothing; `partial` holds every piece that the columns name.
        unsafe {
            add_pieces_kernel::launch_unchecked(
                self.call.client,
                self.call.cubes(y.len().div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                address,
                partial,
                bias.into(),
                self.pieces.columns.arg(),
                y,
                self.sizes(),
                self.plan,
                self.end,
                self.call.dtype,
            );
        }
    }
}
