//! Which kernel computes what.
//!
//! [`plan`] is a pure function of an operation, the capabilities of a device and the sizes of a problem. It alone
//! decides between few rows (gemv), tensor cores, cooperative matrices and register tiles, and on split-K. [`launch`]
//! runs a plan. A new kernel is a variant of [`Kernel`], a line in the function of its operation, and a line in
//! [`launch`].

use cubecl::ir::AddressType;
use cubecl::prelude::BufferArg;

pub(super) use self::class::device_class;
use self::class::{Class, class};
pub(super) use self::plan::{Kernel, Shape};
pub use self::plan::{KernelClass, Left, Op, Plan, Split};
use super::caps::{Caps, MatrixKind};
use super::context::{Context, row_vector};
use super::gemv::base::{self as few, Format};
use super::split_k::{SplitK, lengths, longest, output_ptr, row_parts};
use super::tile::unit;
use super::{gated, gather, gemv, norm, sddmm, spmm, tile};
use crate::BlockPattern;

mod class;
mod plan;
#[cfg(test)]
mod tests;

/// Most buffers of a kernel that every device must bind: input, values, bias or slots, three of indices, and output.
/// WebGPU binds eight, one of which CubeCL takes for the sizes of a kernel.
pub(super) const BINDINGS: usize = 7;

/// The tensors of an operation.
pub(super) enum Args<'a> {
    Product(spmm::Tensors),
    Int8 { x: BufferArg, values: BufferArg, scales: BufferArg, y: BufferArg, m: usize },
    Sampled(sddmm::Tensors),
    Gated(gated::Tensors<'a>),
    Norms { values: BufferArg, norms: BufferArg },
    Layout { from: BufferArg, to: BufferArg },
}

/// The plan that is taken without tuning.
pub(super) fn plan(op: Op, caps: &Caps, shape: &Shape) -> Plan {
    candidates(op, caps, shape)[0]
}

/// The plans for an operation, best first by what is known without measuring, all of one class. Never empty.
pub(super) fn candidates(op: Op, caps: &Caps, shape: &Shape) -> Vec<Plan> {
    let address = shape.address(shape.pattern.value_count());
    let done = |kernel| Plan { kernel, address, left: Left::Nothing, dequantize: false };
    match op {
        Op::Spmm { bias, activation, residual } => {
            if !residual && let Some(kernel) = gemv_spmm(caps, shape, address) {
                let left = if activation { Left::Activation } else { Left::Nothing };
                return vec![Plan { left, ..done(kernel) }];
            }
            let left = left(caps, residual && bias);
            let kernels = products(caps, shape, false, address);
            kernels.into_iter().map(|kernel| Plan { left, ..done(kernel) }).collect()
        }
        Op::SpmmT { residual } => {
            let left = left(caps, residual);
            let kernels = products(caps, shape, true, address);
            kernels.into_iter().map(|kernel| Plan { left, ..done(kernel) }).collect()
        }
        Op::SpmmInt8 => match gemv_int8(caps, shape) {
            Some(kernel) => vec![done(kernel)],
            None => {
                let plans = candidates(Op::PRODUCT, caps, shape).into_iter();
                plans.map(|plan| Plan { dequantize: true, ..plan }).collect()
            }
        },
        Op::Sddmm => vec![done(sampled(caps, shape, address))],
        Op::Gated { up, backward } => {
            let address = shape.address(shape.pattern.value_count().max(up.value_count()));
            let kernels = gated_pair(caps, shape, up, backward, address);
            kernels.into_iter().map(|kernel| Plan { address, ..done(kernel) }).collect()
        }
        Op::GradBlockNorms => {
            let tile = sddmm::unit::base::select(shape.block(), caps.max_units);
            vec![done(Kernel::GradBlockNorms(tile))]
        }
        Op::BlockNorms => {
            vec![done(Kernel::BlockNorms(norm::base::select(shape.block(), caps.max_units)))]
        }
        // If rows of the weight are read four elements at a time, each unit moves four.
        Op::Pack => vec![done(Kernel::Pack { four: row_vector(shape.matrix().cols()) == 4 })],
        Op::Unpack => vec![done(Kernel::Unpack { four: row_vector(shape.matrix().cols()) == 4 })],
    }
}

/// Launches a plan for the operation that `args` belong to.
pub(super) fn launch(ctx: &Context, plan: Plan, args: Args) {
    let address = plan.address;
    match (plan.kernel, args) {
        (Kernel::Gemv { plan, split }, args) => {
            gemv::launch(ctx, plan, split, gemv_tensors(ctx, args));
        }
        (Kernel::SpmmUnit(tile), Args::Product(args)) => {
            spmm::unit::launch(ctx, tile, address, args);
        }
        (Kernel::SpmmMma { plan, split }, Args::Product(args)) => {
            spmm::mma::launch(ctx, plan, split, address, args);
        }
        (Kernel::SpmmCmma(plan), Args::Product(args)) => {
            spmm::cmma::launch(ctx, plan, address, args);
        }
        (Kernel::SddmmUnit(tile), Args::Sampled(args)) => {
            sddmm::unit::launch(ctx, tile, address, args);
        }
        (Kernel::SddmmMma { plan, parts }, Args::Sampled(args)) => {
            sddmm::mma::launch(ctx, plan, parts, args);
        }
        (Kernel::SddmmCmma(plan), Args::Sampled(args)) => {
            sddmm::cmma::launch(ctx, plan, address, args);
        }
        (Kernel::GatedUnit(tile), Args::Gated(args)) => {
            gated::unit::launch(ctx, tile, address, args);
        }
        (Kernel::GatedMma(plan), Args::Gated(args)) => {
            gated::mma::launch(ctx, plan, address, args);
        }
        (Kernel::GradBlockNorms(tile), Args::Sampled(args)) => {
            sddmm::unit::launch_norms(ctx, tile, args);
        }
        (Kernel::BlockNorms(plan), Args::Norms { values, norms }) => {
            norm::launch(ctx, plan, values, norms);
        }
        (Kernel::Pack { four }, Args::Layout { from, to }) => {
            gather::launch_pack(ctx, four, from, to);
        }
        (Kernel::Unpack { four }, Args::Layout { from, to }) => {
            gather::launch_unpack(ctx, four, from, to);
        }
        (kernel, _) => unreachable!("{kernel:?} was planned for another operation"),
    }
}

/// The tensors of an operation that has a kernel for few rows.
fn gemv_tensors<'a>(ctx: &Context<'a>, args: Args<'a>) -> gemv::Tensors<'a> {
    let weight = |values, scales| gemv::Weight { pattern: ctx.pattern, values, scales };
    match args {
        Args::Product(args) => gemv::Tensors {
            x: args.x,
            weight: weight(args.values, None),
            up: None,
            bias: args.epilogue.bias,
            y: args.y,
            m: args.m,
        },
        Args::Int8 { x, values, scales, y, m } => {
            gemv::Tensors { x, weight: weight(values, Some(scales)), up: None, bias: None, y, m }
        }
        Args::Gated(args) => {
            let [gate, up] = args.values;
            let up = gemv::Weight { pattern: args.up, values: up, scales: None };
            gemv::Tensors {
                x: args.x,
                weight: weight(gate, None),
                up: Some((up, args.activation)),
                bias: None,
                y: args.h,
                m: args.m,
            }
        }
        _ => unreachable!("few rows have a kernel for products only"),
    }
}

/// `Left::Residual` if a kernel needs one buffer more than [`BINDINGS`] and the device does not bind it, otherwise
/// `Left::Nothing`.
fn left(caps: &Caps, one_more: bool) -> Left {
    if one_more && caps.bindings <= BINDINGS { Left::Residual } else { Left::Nothing }
}

/// The kernel for few rows of a forward product, if it is the best.
fn gemv_spmm(caps: &Caps, shape: &Shape, address: AddressType) -> Option<Kernel> {
    let class = class(caps, shape.block(), shape.matrix(), address);
    // A unit has half the arithmetic per byte of f32, and keeps up with memory to 16 rows.
    let cores = class != Class::Unit && caps.dtype.size() == 2;
    gemv(
        caps,
        shape,
        &[shape.pattern],
        Format::Float,
        few::buffers(Format::Float, false, true),
        cores,
    )
}

/// The kernel for few rows of integers, if it takes them.
fn gemv_int8(caps: &Caps, shape: &Shape) -> Option<Kernel> {
    let buffers = few::buffers(Format::Int8, false, false);
    gemv(caps, shape, &[shape.pattern], Format::Int8, buffers, false)
}

/// The kernel for few rows of these weights, if it is the best. `cores`: whether tensor cores would run the
/// product instead.
fn gemv(
    caps: &Caps,
    shape: &Shape,
    patterns: &[&BlockPattern],
    format: Format,
    buffers: usize,
    cores: bool,
) -> Option<Kernel> {
    let most = few::most_rows(caps, shape.pattern.block_cols(), cores);
    if shape.m > most || !few::fits(caps, buffers) {
        return None;
    }
    let bytes = if format == Format::Int8 { 1 } else { caps.dtype.size() };
    let plan = few::select(shape.block(), shape.m, format, bytes, caps.vector);
    let blocks = patterns.iter().map(|pattern| pattern.nnz()).sum();
    let split = SplitK::by_bytes(blocks, shape.block().area() * bytes, caps.compute_units);
    let longest = lengths(patterns).into_iter().max().unwrap_or(0);
    Some(Kernel::Gemv { plan, split: split.if_splits(longest) })
}

/// The kernels for many rows of a product: first the tile that is used without tuning, then the other heights, tallest
/// first.
fn products(caps: &Caps, shape: &Shape, transposed: bool, address: AddressType) -> Vec<Kernel> {
    let (block, pattern, m) = (shape.block(), shape.pattern, shape.m);
    let columns = if transposed { pattern.block_rows() } else { pattern.block_cols() };
    match class(caps, block, shape.matrix(), address) {
        Class::Mma { pipelined } => {
            let plans =
                spmm::mma::base::candidates(caps, block, transposed, [m, columns], pipelined);
            let split = |rows| split_columns(caps, shape, transposed, rows);
            let kernel = |plan: spmm::mma::base::Blueprint| Kernel::SpmmMma {
                split: split(plan.tile.rows),
                plan,
            };
            plans.into_iter().map(kernel).collect()
        }
        Class::Cmma(matrix) => {
            let plans = spmm::cmma::base::candidates(caps, matrix, block, transposed, [m, columns]);
            plans.into_iter().map(Kernel::SpmmCmma).collect()
        }
        Class::Unit => {
            let tile = unit::select(block, transposed, m, caps.max_units);
            let tiles = [Some(tile), unit::shorter(tile)];
            tiles.into_iter().flatten().map(Kernel::SpmmUnit).collect()
        }
    }
}

/// How the block columns of the output are split for row tiles of `rows` rows. `None` if the partial sums need 64-bit
/// indices, which asynchronous copies do not support.
fn split_columns(caps: &Caps, shape: &Shape, transposed: bool, rows: usize) -> Option<SplitK> {
    let (pattern, m) = (shape.pattern, shape.m);
    let split = SplitK::by_share(pattern.nnz(), m.div_ceil(rows), caps.compute_units)?
        .if_splits(longest(pattern, transposed))?;
    let sums = split.partials(output_ptr(pattern, transposed)) * m * shape.block().get();
    (AddressType::from_len(sums) == AddressType::U32).then_some(split)
}

/// The kernel of a sampled product.
fn sampled(caps: &Caps, shape: &Shape, address: AddressType) -> Kernel {
    let block = shape.block();
    let found = match class(caps, block, shape.matrix(), address) {
        Class::Mma { pipelined } => {
            sddmm::mma::base::select(caps, block, pipelined).map(|plan| {
                let groups = sddmm::groups(shape.pattern.col_ptr(), plan.group());
                let parts = row_parts(caps.compute_units, shape.m, groups);
                // Partial sums stay within 32-bit indices, since asynchronous copies support no others.
                let sums = AddressType::from_len(parts * shape.pattern.value_count());
                Kernel::SddmmMma { plan, parts: if sums == AddressType::U32 { parts } else { 1 } }
            })
        }
        Class::Cmma(matrix) => {
            sddmm::cmma::base::select(caps, matrix, block).map(Kernel::SddmmCmma)
        }
        Class::Unit => None,
    };
    found.unwrap_or_else(|| Kernel::SddmmUnit(sddmm::unit::base::select(block, caps.max_units)))
}

/// The kernels of a gated pair, the best first. Cooperative matrices have none.
fn gated_pair(
    caps: &Caps,
    shape: &Shape,
    up: &BlockPattern,
    backward: bool,
    address: AddressType,
) -> Vec<Kernel> {
    let (block, gate) = (shape.block(), shape.pattern);
    let class = class(caps, block, shape.matrix(), address);
    let cores = matches!(class, Class::Mma { .. });
    let buffers = few::buffers(Format::Float, true, false);
    let few = gemv(caps, shape, &[gate, up], Format::Float, buffers, cores);
    if let Some(kernel) = few.filter(|_| !backward) {
        return vec![kernel];
    }
    if let Class::Mma { pipelined } = class {
        let work = [shape.m, gate.block_cols()];
        let plans = gated::mma::base::candidates(caps, block, gate == up, work, pipelined);
        if !plans.is_empty() {
            return plans.into_iter().map(Kernel::GatedMma).collect();
        }
    }
    vec![Kernel::GatedUnit(unit::select(block, false, shape.m, caps.max_units))]
}

impl Kernel {
    /// The class of the kernel.
    pub(super) fn class(&self) -> KernelClass {
        let cmma = |matrix: MatrixKind| KernelClass::CooperativeMatrices {
            side: matrix.side,
            tf32: matrix.is_tf32(),
        };
        let mma = |tile: tile::mma::MmaTile| KernelClass::TensorCores { pipelined: tile.pipelined };
        match *self {
            Kernel::Gemv { .. } => KernelClass::Gemv,
            Kernel::SpmmMma { plan, .. } => mma(plan.tile),
            Kernel::SddmmMma { plan, .. } => mma(plan.tile),
            Kernel::GatedMma(plan) => mma(plan.tile),
            Kernel::SpmmCmma(plan) => cmma(plan.tile.matrix),
            Kernel::SddmmCmma(plan) => cmma(plan.tile.matrix),
            _ => KernelClass::RegisterTiles,
        }
    }

    /// Rows and columns of the output that one cube computes, if it computes a tile of one.
    pub(super) fn tile(&self) -> Option<[usize; 2]> {
        match *self {
            Kernel::Gemv { plan, .. } => Some([plan.rows, plan.block]),
            Kernel::SpmmUnit(tile) | Kernel::GatedUnit(tile) => Some([tile.rows, tile.cols]),
            Kernel::SpmmMma { plan, .. } => Some([plan.tile.rows, plan.tile.cols]),
            Kernel::SpmmCmma(plan) => Some([plan.tile.rows, plan.tile.cols]),
            Kernel::SddmmUnit(tile) | Kernel::GradBlockNorms(tile) => Some([tile.side; 2]),
            Kernel::SddmmMma { plan, .. } => Some([plan.tile.rows, plan.tile.cols]),
            Kernel::SddmmCmma(plan) => Some([plan.tile.rows, plan.tile.cols]),
            Kernel::GatedMma(plan) => Some([plan.tile.rows, plan.block]),
            _ => None,
        }
    }

    /// How the contraction is split over cubes, if it is.
    pub(super) fn split(&self) -> Option<Split> {
        match *self {
            Kernel::Gemv { split, .. } | Kernel::SpmmMma { split, .. } => {
                split.map(|split| Split::Blocks(split.blocks))
            }
            Kernel::SddmmMma { parts, .. } => (parts > 1).then_some(Split::Parts(parts)),
            _ => None,
        }
    }
}
