//! What the dispatcher plans on a device with WebGPU's default limits, for programs that launch the generated code
//! themselves.

use cubecl::ir::ElemType;

use super::few_rows::FewRows;
use super::portable::{Portable, webgpu_caps};
use super::problems::{Parts, pattern};
use super::{Definition, Target, Verb};
use crate::BlockSize;
use crate::cube::dispatch::{Kernel, Op, Problem, plan};
use crate::cube::gemv::reduce::Ending;
use cubecl::prelude::KernelDefinition;

/// A product to plan: `y = x · w`, `dx = dy · wᵀ`, or `xᵀ · dy` at the kept blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// [`Verb::Spmm`], [`Verb::SpmmT`] or [`Verb::Sddmm`].
    pub verb: Verb,
    /// Storage type.
    pub dtype: ElemType,
    /// Side of a block.
    pub block: BlockSize,
    /// Whether both sides of the weight are multiples of 4, so that rows are read by vectors.
    pub wide: bool,
    /// Rows of the input.
    pub rows: usize,
}

/// The kernel of a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Planned {
    /// On register tiles.
    Tile(Portable),
    /// For few rows, without split-K.
    FewRows(FewRows),
}

impl Planned {
    /// The kernel that a launch takes. Kernels for few rows are planned in f32 with whole vectors only.
    ///
    /// # Panics
    /// If the verb is another.
    pub fn new(ask: Ask) -> Self {
        let Ask { verb, dtype, block, wide, rows } = ask;
        let few = wide && dtype.size() == size_of::<f32>();
        // A residual keeps the kernels for few rows away.
        let op = match verb {
            Verb::Spmm if few => Op::PRODUCT,
            Verb::Spmm => Op::Spmm { bias: false, activation: false, residual: true },
            Verb::SpmmT => Op::SpmmT { residual: false },
            Verb::Sddmm => Op::Sddmm,
            other => panic!("{other:?} is not a single product"),
        };
        let pattern = pattern(block, 2, false);
        let kernel = plan(op, &webgpu_caps(dtype), &Problem { pattern: &pattern, m: rows }).kernel;
        if let Kernel::Gemv { blueprint, .. } = kernel {
            let end = Ending { gate: None, split: false };
            return Self::FewRows(FewRows { blueprint, dtype, end, bias: false, adds: false });
        }
        let vectors = match (wide, verb) {
            (false, _) => [1, 1],
            // The sums of a transposed tile are stored one by one.
            (true, Verb::SpmmT) => [4, 1],
            (true, _) => [4, 4],
        };
        let parts = Parts::default();
        Self::Tile(Portable { kernel, parts, gated: None, block: block.get(), vectors, dtype })
    }

    /// Rows of the output that a cube computes; 0 if it walks all rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Tile(Portable { kernel: Kernel::SddmmUnit(_), .. }) => 0,
            Self::Tile(tile) => tile.tile_size().map_or(0, |[rows, _]| rows),
            Self::FewRows(few) => few.rows(),
        }
    }

    /// Cubes that share a block.
    pub fn block_tiles(&self) -> usize {
        match self {
            Self::Tile(Portable { kernel: Kernel::SpmmUnit(tile), .. }) => tile.col_tiles(),
            Self::Tile(Portable { kernel: Kernel::SddmmUnit(tile), .. }) => {
                tile.side_tiles() * tile.side_tiles()
            }
            _ => 1,
        }
    }

    /// Most blocks of a block column that a cube of a sampled product computes together.
    pub fn group(&self) -> usize {
        match self {
            Self::Tile(Portable { kernel: Kernel::SddmmUnit(tile), .. }) => tile.blocks,
            _ => 1,
        }
    }
}

impl Definition for Planned {
    fn name(&self) -> String {
        match self {
            Self::Tile(tile) => tile.name(),
            Self::FewRows(few) => few.name(),
        }
    }

    fn units(&self) -> usize {
        match self {
            Self::Tile(tile) => tile.units(),
            Self::FewRows(few) => few.units(),
        }
    }

    fn shared_bytes(&self) -> usize {
        match self {
            Self::Tile(tile) => tile.shared_bytes(),
            Self::FewRows(few) => few.shared_bytes(),
        }
    }

    fn define(&self, target: &Target) -> KernelDefinition {
        match self {
            Self::Tile(tile) => tile.define(target),
            Self::FewRows(few) => few.define(target),
        }
    }
}
