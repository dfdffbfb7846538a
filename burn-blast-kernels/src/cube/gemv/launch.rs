//! One launch, or two with split-K. The buffers have the sizes that the caller checked, and `m` is not zero.

use cubecl::ir::{ElemType, FloatKind, UIntKind};
use cubecl::prelude::*;

use super::base::{Blueprint, Format, UNITS};
use super::kernel::gemv_kernel;
use super::reduce::{Ending, GemvSizesLaunch, gemv_add_parts_kernel};
use crate::Activation;
use crate::BlockPattern;
use crate::cube::buffer::partial_sums;
use crate::cube::context::Context;
use crate::cube::index::PatternIndex;
use crate::cube::split_k::{SplitK, WorkIndex};

/// A weight of a launch.
pub(crate) struct Weight<'a> {
    pub pattern: &'a BlockPattern,
    pub values: BufferArg,
    /// One per block, of integers.
    pub scales: Option<BufferArg>,
}

/// The tensors of a product of `m` rows, or of a gated pair of products.
pub(crate) struct Tensors<'a> {
    pub x: BufferArg,
    pub weight: Weight<'a>,
    /// The second weight of a gated pair, and the activation of the product with the first.
    pub up: Option<(Weight<'a>, Activation)>,
    pub bias: Option<BufferArg>,
    pub y: BufferArg,
    pub m: usize,
}

pub(crate) fn launch(ctx: &Context, blueprint: Blueprint, split: Option<SplitK>, tensors: Tensors) {
    let Tensors { x, weight, up, bias, y, m } = tensors;
    let gate = up.as_ref().map(|(_, activation)| *activation);
    let weights: Vec<Weight> = [Some(weight), up.map(|(up, _)| up)].into_iter().flatten().collect();
    let patterns: Vec<&BlockPattern> = weights.iter().map(|weight| weight.pattern).collect();
    let work = &WorkIndex::by_column(&patterns, ctx.client, split);
    let launch = Launch { ctx, blueprint, end: Ending { gate, split: split.is_some() }, work, m };
    if split.is_none() {
        return launch.walk(x, weights, bias, y, ctx.dtype);
    }
    let count =
        patterns.len() * work.host.count * m.next_multiple_of(blueprint.rows) * blueprint.block;
    let partial = partial_sums(ctx.client, count);
    launch.walk(x, weights, None, partial.arg(), ElemType::Float(FloatKind::F32));
    launch.add(partial.arg(), bias, y);
}

/// What both launches take.
struct Launch<'a> {
    ctx: &'a Context<'a>,
    blueprint: Blueprint,
    end: Ending,
    work: &'a WorkIndex,
    m: usize,
}

impl Launch<'_> {
    fn sizes(&self) -> GemvSizesLaunch {
        let shape = self.ctx.pattern.shape();
        GemvSizesLaunch::new(self.m, shape.rows(), shape.cols(), self.work.host.count)
    }

    fn walk(
        &self,
        x: BufferArg,
        weights: Vec<Weight>,
        bias: Option<BufferArg>,
        out: BufferArg,
        out_type: ElemType,
    ) {
        let (ctx, blueprint) = (self.ctx, self.blueprint);
        let cubes = self.m.div_ceil(blueprint.rows) * self.work.host.count;
        let longest = weights.iter().map(|weight| weight.values.len()).max().unwrap_or(0);
        let address = AddressType::from_len(longest.max(x.len()).max(out.len()));
        let stored = match blueprint.format {
            Format::Float => ctx.dtype,
            Format::Int8 => ElemType::UInt(UIntKind::U32),
        };
        let mut weights = weights.into_iter().map(|weight| {
            let index = PatternIndex::of(weight.pattern, ctx.client);
            let values = index.bindable(weight.values);
            let scales = weight.scales.map(|scales| index.bindable(scales));
            (values, scales, index.col_ptr.arg(), index.row_idx.arg())
        });
        let (values, scales, ptr, idx) = weights.next().expect("a product has a weight");
        let (up_values, up_ptr, up_idx) = match weights.next() {
            Some((values, _, ptr, idx)) => (Some(values), Some(ptr), Some(idx)),
            None => (None, None, None),
        };
        // SAFETY: reads of `x` and writes of `out` are guarded by `m`, `k` and `n`, which the buffers were checked
        // against; reads of values by the number of blocks of the column, which are inside `values` and name rows
        // inside the grid, as a `BlockPattern` has been checked to do.
        unsafe {
            gemv_kernel::launch_unchecked(
                ctx.client,
                ctx.cubes(cubes),
                CubeDim::new_1d(UNITS as u32),
                address,
                ctx.wide_vector(ctx.pattern.shape().rows()),
                blueprint.vector,
                blueprint.quad(),
                x,
                values,
                scales.into(),
                ptr,
                idx,
                up_values.into(),
                up_ptr.into(),
                up_idx.into(),
                bias.into(),
                self.work.parts.arg(),
                out,
                self.sizes(),
                cubes,
                blueprint,
                self.end,
                ctx.dtype,
                stored,
                out_type,
            );
        }
    }

    fn add(&self, partial: BufferArg, bias: Option<BufferArg>, y: BufferArg) {
        let address = AddressType::from_len(partial.len().max(y.len()));
        // SAFETY: units beyond `y` do nothing; `partial` holds every part that the columns name.
        unsafe {
            gemv_add_parts_kernel::launch_unchecked(
                self.ctx.client,
                self.ctx.cubes(y.len().div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                address,
                partial,
                bias.into(),
                self.work.columns.arg(),
                y,
                self.sizes(),
                self.blueprint,
                self.end,
                self.ctx.dtype,
            );
        }
    }
}
