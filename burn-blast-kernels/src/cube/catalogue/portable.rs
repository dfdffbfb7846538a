//! Every kernel that any device can run.

use cubecl::ir::{ElemType, FloatKind};

use super::problems::{GATES, Parts, few_rows_caps, kernels, pattern};
use crate::cube::caps::Caps;
use crate::cube::dispatch::{Kernel, Op};
use crate::{Activation, BlockSize};

/// Rows of a problem, one for each height of a tile.
const ROWS: [usize; 4] = [16, 32, 64, 512];

/// One kernel on register tiles, or one that moves or sums blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Portable {
    pub(super) kernel: Kernel,
    /// What a product adds to its sums.
    pub(super) parts: Parts,
    pub(super) gated: Option<Pair>,
    /// Side of a block.
    pub(super) block: usize,
    /// Elements read at a time from rows of the input, and from rows of the output.
    pub(super) vectors: [usize; 2],
    /// Storage type of the tensors.
    pub dtype: ElemType,
}

/// What distinguishes the kernels of a gated pair of one tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub activation: Activation,
    pub backward: bool,
    /// Whether gate and up have one pattern.
    pub joint: bool,
}

impl Portable {
    /// Every tile in f32 and f16, read by vectors and by elements, each with the least and the most that can be added.
    pub fn all() -> Vec<Self> {
        let types = [FloatKind::F32, FloatKind::F16].map(ElemType::Float);
        types
            .into_iter()
            .flat_map(|dtype| BlockSize::ALL.map(|block| of(block, dtype)))
            .flatten()
            .collect()
    }

    /// Side of a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Rows and columns of the tile of a cube, if it computes one.
    pub fn tile_size(&self) -> Option<[usize; 2]> {
        self.kernel.tile()
    }
}

/// A device with WebGPU's default limits, but for its grid.
pub(super) fn webgpu_caps(dtype: ElemType) -> Caps {
    Caps { max_units: 256, bindings: 7, vector: 4, ..few_rows_caps(dtype) }
}

fn of(block: BlockSize, dtype: ElemType) -> Vec<Portable> {
    let caps = webgpu_caps(dtype);
    let (pattern, mut all) = (pattern(block, 2, false), Vec::new());
    let mut add = |kernel, parts, gated, vectors| {
        let made = Portable { kernel, parts, gated, block: block.get(), vectors, dtype };
        if !all.contains(&made) {
            all.push(made);
        }
    };
    let (bare, by_vector, by_element) = (Parts::default(), [4, 4], [1, 1]);
    for rows in ROWS {
        let many = |op| {
            let kernels = kernels(op, &caps, &pattern, rows).into_iter();
            kernels.filter(|kernel| !matches!(kernel, Kernel::Gemv { .. }))
        };
        // An operation with a residual has no kernel for few rows.
        for kernel in many(Op::Spmm { bias: false, activation: false, residual: true }) {
            let bias = Parts { bias: true, activation: Some(Activation::Gelu), residual: false };
            for vectors in [by_vector, by_element] {
                add(kernel, bare, None, vectors);
                add(kernel, bias, None, vectors);
                add(kernel, Parts { residual: true, ..bare }, None, vectors);
            }
        }
        for kernel in many(Op::SpmmT { residual: false }) {
            for vectors in [[4, 1], by_element] {
                add(kernel, bare, None, vectors);
            }
        }
        for (joint, backward) in [(false, false), (true, false), (false, true), (true, true)] {
            // Backward has no kernel for few rows, and the tile of forward.
            for kernel in many(Op::Gated { up: &pattern, backward: true }) {
                let gates = if rows == ROWS[0] { &GATES[..] } else { &GATES[..1] };
                for &activation in gates {
                    add(kernel, bare, Some(Pair { activation, backward, joint }), by_vector);
                }
                let activation = GATES[0];
                add(kernel, bare, Some(Pair { activation, backward, joint }), by_element);
            }
        }
    }
    for op in [Op::Sddmm, Op::GradBlockNorms] {
        for kernel in kernels(op, &caps, &pattern, ROWS[3]) {
            add(kernel, bare, None, by_vector);
            add(kernel, bare, None, by_element);
        }
    }
    for op in [Op::BlockNorms, Op::Pack, Op::Unpack] {
        for kernel in kernels(op, &caps, &pattern, ROWS[3]) {
            add(kernel, bare, None, by_vector);
        }
    }
    all
}
