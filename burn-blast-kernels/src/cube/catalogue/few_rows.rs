//! Every kernel for few rows.

use cubecl::ir::{ElemType, FloatKind};

use super::problems::{GATES, few_rows_caps, kernels, pattern};
use crate::Activation;
use crate::cube::dispatch::{Kernel, Op};
use crate::cube::gemv::base::{Blueprint, Format, MOST_ROWS};
use crate::cube::gemv::reduce::Ending;
use crate::cube::split_k::{SplitK, Work, lengths};
use crate::{BlockPattern, BlockSize};

/// One kernel for few rows that a launch may select.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FewRows {
    pub(super) blueprint: Blueprint,
    /// Storage type of the tensors; for integers the one of `x`.
    pub dtype: ElemType,
    pub(super) end: Ending,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether this is the second launch, which adds the parts of columns.
    pub adds: bool,
}

impl FewRows {
    /// Every tile in f32, f16, bf16 and int8 with bf16, each with the least and the most that can be added; and the
    /// second launch. Partial sums do not depend on the activation, which is left to that launch.
    pub fn all() -> Vec<Self> {
        let (mut all, mut adders) = (Vec::new(), Vec::new());
        let floats = [FloatKind::F32, FloatKind::F16, FloatKind::BF16].map(ElemType::Float);
        for block in BlockSize::ALL {
            let pattern = pattern(block, 1, false);
            for rows in [1, 2, 4, 8, MOST_ROWS] {
                for dtype in floats {
                    let one = Self::new(Op::PRODUCT, dtype, &pattern, rows);
                    let biased = Self { bias: true, ..one };
                    all.extend([one, biased, one.split()]);
                    adders.push(biased.adder());
                    let op = Op::Gated { up: &pattern, backward: false };
                    let pair = Self::new(op, dtype, &pattern, rows);
                    for gate in GATES {
                        let gated = Self { end: Ending { gate: Some(gate), ..pair.end }, ..pair };
                        all.push(gated);
                        adders.push(gated.adder());
                        if gate == Activation::Silu {
                            all.push(gated.split());
                        }
                    }
                }
                let one = Self::new(Op::SpmmInt8, floats[2], &pattern, rows);
                all.extend([one, one.split()]);
                adders.push(one.adder());
            }
        }
        all.extend(adders);
        all
    }

    /// The kernel that the dispatcher selects.
    fn new(op: Op, dtype: ElemType, pattern: &BlockPattern, rows: usize) -> Self {
        let [Kernel::Gemv { blueprint, .. }] =
            kernels(op, &few_rows_caps(dtype), pattern, rows)[..]
        else {
            unreachable!("{rows} rows are few")
        };
        let end = Ending { gate: None, split: false };
        Self { blueprint, dtype, end, bias: false, adds: false }
    }

    fn split(self) -> Self {
        Self { end: Ending { split: true, ..self.end }, ..self }
    }

    fn adder(self) -> Self {
        Self { adds: true, ..self.split() }
    }

    /// Side of a block.
    pub fn block(&self) -> usize {
        self.blueprint.block
    }

    /// Rows of the tile.
    pub fn rows(&self) -> usize {
        self.blueprint.rows
    }

    /// Whether values are integers.
    pub fn int8(&self) -> bool {
        self.blueprint.format == Format::Int8
    }

    /// Activation of the product with the first of two weights, if there are two.
    pub fn gate(&self) -> Option<Activation> {
        self.end.gate
    }

    /// Whether the contraction is split over cubes, so that partial sums are stored.
    pub fn splits_k(&self) -> bool {
        self.end.split && !self.adds
    }

    /// Vectors of values that a unit has in flight.
    pub fn ahead(&self) -> usize {
        self.blueprint.ahead
    }

    /// Bytes of values that a cube has in flight.
    pub fn in_flight(&self) -> usize {
        let element = if self.int8() { size_of::<u32>() } else { self.dtype.size() };
        self.blueprint.ahead * self.blueprint.slots() * self.blueprint.vector * element
    }

    /// Blocks per part on a device with `compute_units` multiprocessors, for values of `value_bytes` bytes.
    pub fn part_blocks(pattern: &BlockPattern, value_bytes: usize, compute_units: usize) -> usize {
        let block_bytes = pattern.block().area() * value_bytes;
        SplitK::by_bytes(pattern.nnz(), block_bytes, Some(compute_units)).blocks
    }

    /// Index arrays a launch uploads besides its patterns, for parts of at least `blocks` blocks: parts of the first
    /// kernel and columns of the second.
    pub fn work(patterns: &[&BlockPattern], blocks: usize) -> [Vec<u32>; 2] {
        let work = Work::by_column(&lengths(patterns), Some(SplitK::at_least(blocks)));
        [work.parts, work.columns]
    }
}
