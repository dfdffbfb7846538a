//! Which kernel computes what.
//!
//! [`plan`] is a pure function of an operation, the capabilities of a device and the sizes of a problem. It alone
//! decides between few rows (gemv), tensor cores, cooperative matrices and register tiles, and on split-K. [`launch`]
//! runs a plan. A new kernel is a variant of [`Kernel`], a line in the function of its operation, and a line in
//! [`launch`].

use cubecl::ir::AddressType;
use cubecl::prelude::BufferArg;

pub use self::class::device_class;
use self::class::{ManyRows, many_rows};
pub(super) use self::plan::{Kernel, Problem};
pub use self::plan::{KernelClass, Op, Plan, Split, Unfused};
use super::caps::Caps;
use super::context::{Context, row_vector};
use super::gemv::base::{self as gemv_base, Format};
use super::split_k::{SplitK, lengths, longest, output_ptr, row_parts};
use super::tile::cmma::CmmaTile;
use super::tile::mma::MmaTile;
use super::tile::unit;
use super::{gated, gather, gemv, norm, sddmm, spmm};
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
pub(super) fn plan(op: Op, caps: &Caps, problem: &Problem) -> Plan {
    candidates(op, caps, problem)[0]
}

/// The plans for an operation, best first by what is known without measuring, all of one class. Never empty.
pub(super) fn candidates(op: Op, caps: &Caps, problem: &Problem) -> Vec<Plan> {
    let address = problem.address(problem.pattern.value_count());
    let (unfused, dequantize) = (Unfused::Nothing, false);
    let done = |kernel| Plan { kernel, address, unfused, dequantize };
    let many = |transposed, unfused| {
        let kernels = products(caps, problem, transposed, address).into_iter();
        kernels.map(|kernel| Plan { unfused, ..done(kernel) }).collect()
    };
    match op {
        Op::Spmm { bias, activation, residual } => {
            if !residual && let Some(kernel) = gemv_spmm(caps, problem, address) {
                let unfused = if activation { Unfused::Activation } else { unfused };
                return vec![Plan { unfused, ..done(kernel) }];
            }
            many(false, unfused_residual(caps, residual && bias))
        }
        Op::SpmmT { residual } => many(true, unfused_residual(caps, residual)),
        Op::SpmmInt8 => match gemv_int8(caps, problem) {
            Some(kernel) => vec![done(kernel)],
            None => {
                let plans = candidates(Op::PRODUCT, caps, problem).into_iter();
                plans.map(|plan| Plan { dequantize: true, ..plan }).collect()
            }
        },
        Op::Sddmm => vec![done(sampled(caps, problem, address))],
        Op::Gated { up, backward } => {
            let address = problem.address(problem.pattern.value_count().max(up.value_count()));
            let kernels = gated_pair(caps, problem, up, backward, address);
            kernels.into_iter().map(|kernel| Plan { address, ..done(kernel) }).collect()
        }
        Op::GradBlockNorms => {
            let tile = sddmm::unit::base::select_norms(problem.block(), caps.max_units);
            vec![done(Kernel::GradBlockNorms(tile))]
        }
        Op::BlockNorms => {
            vec![done(Kernel::BlockNorms(norm::select(problem.block(), caps.max_units)))]
        }
        Op::Pack => vec![done(Kernel::Pack { width: row_vector(problem.matrix().cols()) })],
        Op::Unpack => vec![done(Kernel::Unpack { width: row_vector(problem.matrix().cols()) })],
    }
}

/// Launches a plan for the operation that `args` belong to.
pub(super) fn launch(ctx: &Context, plan: Plan, args: Args) {
    let address = plan.address;
    match (plan.kernel, args) {
        (Kernel::Gemv { blueprint, split }, args) => {
            gemv::launch(ctx, blueprint, split, gemv_tensors(ctx, args));
        }
        (Kernel::SpmmUnit(tile), Args::Product(args)) => {
            spmm::launch::unit(ctx, tile, address, args);
        }
        (Kernel::SpmmMma { blueprint, split }, Args::Product(args)) => {
            spmm::launch::mma(ctx, blueprint, split, address, args);
        }
        (Kernel::SpmmCmma(blueprint), Args::Product(args)) => {
            spmm::launch::cmma(ctx, blueprint, address, args);
        }
        (Kernel::SddmmUnit(tile), Args::Sampled(args)) => {
            sddmm::launch::unit(ctx, tile, address, args);
        }
        (Kernel::SddmmMma { blueprint, parts }, Args::Sampled(args)) => {
            sddmm::launch::mma(ctx, blueprint, parts, args);
        }
        (Kernel::SddmmCmma(blueprint), Args::Sampled(args)) => {
            sddmm::launch::cmma(ctx, blueprint, address, args);
        }
        (Kernel::GatedUnit(tile), Args::Gated(args)) => {
            gated::launch::unit(ctx, tile, address, args);
        }
        (Kernel::GatedMma(blueprint), Args::Gated(args)) => {
            gated::launch::mma(ctx, blueprint, address, args);
        }
        (Kernel::GradBlockNorms(tile), Args::Sampled(args)) => {
            sddmm::launch::norms(ctx, tile, args);
        }
        (Kernel::BlockNorms(blueprint), Args::Norms { values, norms }) => {
            norm::launch(ctx, blueprint, values, norms);
        }
        (Kernel::Pack { width }, Args::Layout { from, to }) => {
            gather::launch_pack(ctx, width, from, to);
        }
        (Kernel::Unpack { width }, Args::Layout { from, to }) => {
            gather::launch_unpack(ctx, width, from, to);
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

/// `Unfused::Residual` if a kernel needs one buffer more than [`BINDINGS`] and the device does not bind it, otherwise
/// `Unfused::Nothing`.
fn unfused_residual(caps: &Caps, one_more: bool) -> Unfused {
    if one_more && caps.bindings <= BINDINGS { Unfused::Residual } else { Unfused::Nothing }
}

/// The kernel for few rows of a forward product, if it is the best.
fn gemv_spmm(caps: &Caps, problem: &Problem, address: AddressType) -> Option<Kernel> {
    let class = many_rows(caps, problem.block(), problem.matrix(), address);
    // A unit has half the arithmetic per byte of f32, and keeps up with memory to 16 rows.
    let cores = class != ManyRows::Unit && caps.dtype.size() == 2;
    let buffers = gemv_base::buffers(Format::Float, false, true);
    gemv_kernel(caps, problem, &[problem.pattern], Format::Float, buffers, cores)
}

/// The kernel for few rows of integers, if it takes them.
fn gemv_int8(caps: &Caps, problem: &Problem) -> Option<Kernel> {
    let buffers = gemv_base::buffers(Format::Int8, false, false);
    gemv_kernel(caps, problem, &[problem.pattern], Format::Int8, buffers, false)
}

/// The kernel for few rows of these weights, if it is the best. `cores`: whether tensor cores would run the
/// product instead.
fn gemv_kernel(
    caps: &Caps,
    problem: &Problem,
    patterns: &[&BlockPattern],
    format: Format,
    buffers: usize,
    cores: bool,
) -> Option<Kernel> {
    let most = gemv_base::most_rows(caps, problem.pattern.block_cols(), cores);
    if problem.m > most || !gemv_base::fits(caps, buffers) {
        return None;
    }
    let bytes = if format == Format::Int8 { 1 } else { caps.dtype.size() };
    let blueprint = gemv_base::select(problem.block(), problem.m, format, bytes, caps.vector);
    let blocks = patterns.iter().map(|pattern| pattern.nnz()).sum();
    let split = SplitK::by_bytes(blocks, problem.block().area() * bytes, caps.compute_units);
    let longest = lengths(patterns).into_iter().max().unwrap_or(0);
    Some(Kernel::Gemv { blueprint, split: split.if_splits(longest) })
}

/// The kernels for many rows of a product: first the tile that is used without tuning, then the other heights, tallest
/// first.
fn products(caps: &Caps, problem: &Problem, transposed: bool, address: AddressType) -> Vec<Kernel> {
    let (block, pattern, m) = (problem.block(), problem.pattern, problem.m);
    let columns = if transposed { pattern.block_rows() } else { pattern.block_cols() };
    match many_rows(caps, block, problem.matrix(), address) {
        ManyRows::Mma { pipelined } => {
            let blueprints =
                spmm::mma::base::candidates(caps, block, transposed, [m, columns], pipelined);
            let split = |rows| split_columns(caps, problem, transposed, rows);
            let kernel = |blueprint: spmm::mma::base::Blueprint| Kernel::SpmmMma {
                split: split(blueprint.tile.rows),
                blueprint,
            };
            blueprints.into_iter().map(kernel).collect()
        }
        ManyRows::Cmma(matrix) => {
            let work = [m, columns];
            let blueprints = spmm::cmma::base::candidates(caps, matrix, block, transposed, work);
            blueprints.into_iter().map(Kernel::SpmmCmma).collect()
        }
        ManyRows::Unit => {
            let tile = unit::select(block, transposed, m, caps.max_units);
            let tiles = [Some(tile), unit::shorter(block, tile, caps.max_units)];
            tiles.into_iter().flatten().map(Kernel::SpmmUnit).collect()
        }
    }
}

/// How the block columns of the output are split for row tiles of `rows` rows. `None` if the partial sums need 64-bit
/// indices, which asynchronous copies do not support.
fn split_columns(caps: &Caps, problem: &Problem, transposed: bool, rows: usize) -> Option<SplitK> {
    let (pattern, m) = (problem.pattern, problem.m);
    let split = SplitK::by_share(pattern.nnz(), m.div_ceil(rows), caps.compute_units)?
        .if_splits(longest(pattern, transposed))?;
    let sums = split.partials(output_ptr(pattern, transposed)) * m * problem.block().get();
    (AddressType::from_len(sums) == AddressType::U32).then_some(split)
}

/// The kernel of a sampled product.
fn sampled(caps: &Caps, problem: &Problem, address: AddressType) -> Kernel {
    let block = problem.block();
    let found = match many_rows(caps, block, problem.matrix(), address) {
        ManyRows::Mma { pipelined } => {
            sddmm::mma::base::select(caps, block, pipelined).map(|blueprint| {
                let groups = sddmm::groups(problem.pattern.col_ptr(), blueprint.group());
                let parts = row_parts(caps.compute_units, problem.m, groups);
                // Partial sums stay within 32-bit indices, since asynchronous copies support no others.
                let sums = AddressType::from_len(parts * problem.pattern.value_count());
                Kernel::SddmmMma {
                    blueprint,
                    parts: if sums == AddressType::U32 { parts } else { 1 },
                }
            })
        }
        ManyRows::Cmma(matrix) => {
            sddmm::cmma::base::select(caps, matrix, block).map(Kernel::SddmmCmma)
        }
        ManyRows::Unit => None,
    };
    found.unwrap_or_else(|| Kernel::SddmmUnit(sddmm::unit::base::select(block, caps.max_units)))
}

/// The kernels of a gated pair, the best first. Cooperative matrices have none.
fn gated_pair(
    caps: &Caps,
    problem: &Problem,
    up: &BlockPattern,
    backward: bool,
    address: AddressType,
) -> Vec<Kernel> {
    let (block, gate) = (problem.block(), problem.pattern);
    let class = many_rows(caps, block, problem.matrix(), address);
    let cores = matches!(class, ManyRows::Mma { .. });
    let buffers = gemv_base::buffers(Format::Float, true, false);
    if !backward
        && let Some(kernel) = gemv_kernel(caps, problem, &[gate, up], Format::Float, buffers, cores)
    {
        return vec![kernel];
    }
    if let ManyRows::Mma { pipelined } = class {
        let work = [problem.m, gate.block_cols()];
        let blueprints = gated::mma::base::candidates(caps, block, gate == up, work, pipelined);
        if !blueprints.is_empty() {
            return blueprints.into_iter().map(Kernel::GatedMma).collect();
        }
    }
    vec![Kernel::GatedUnit(unit::select_pair(block, problem.m, caps.max_units))]
}

impl Kernel {
    /// The tile, of a kernel on tensor cores.
    pub(super) fn mma(&self) -> Option<MmaTile> {
        match *self {
            Kernel::SpmmMma { blueprint, .. } => Some(blueprint.tile),
            Kernel::SddmmMma { blueprint, .. } => Some(blueprint.tile),
            Kernel::GatedMma(blueprint) => Some(blueprint.tile),
            _ => None,
        }
    }

    /// The tile, of a kernel on cooperative matrices.
    pub(super) fn cmma(&self) -> Option<CmmaTile> {
        match *self {
            Kernel::SpmmCmma(blueprint) => Some(blueprint.tile),
            Kernel::SddmmCmma(blueprint) => Some(blueprint.tile),
            _ => None,
        }
    }

    /// The class of the kernel.
    pub(super) fn class(&self) -> KernelClass {
        if let Some(tile) = self.mma() {
            return KernelClass::TensorCores { pipelined: tile.pipelined };
        }
        match (self, self.cmma()) {
            (_, Some(CmmaTile { matrix, .. })) => {
                KernelClass::CooperativeMatrices { side: matrix.side, tf32: matrix.is_tf32() }
            }
            (Kernel::Gemv { .. }, _) => KernelClass::Gemv,
            _ => KernelClass::RegisterTiles,
        }
    }

    /// Rows and columns of the output that one cube computes, if it computes a tile of one.
    pub(super) fn tile(&self) -> Option<[usize; 2]> {
        match *self {
            Kernel::Gemv { blueprint, .. } => Some([blueprint.rows, blueprint.block]),
            Kernel::SpmmUnit(tile) | Kernel::GatedUnit(tile) => Some([tile.rows, tile.cols]),
            Kernel::SddmmUnit(tile) | Kernel::GradBlockNorms(tile) => Some([tile.side; 2]),
            Kernel::GatedMma(blueprint) => Some([blueprint.tile.rows, blueprint.block]),
            _ => {
                let mma = self.mma().map(|tile| [tile.rows, tile.cols]);
                mma.or(self.cmma().map(|tile| [tile.rows, tile.cols]))
            }
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
