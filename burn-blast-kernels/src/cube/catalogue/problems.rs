//! The problems whose plans are in the catalogue.

use std::sync::Arc;

use cubecl::ir::{AddressType, DeviceProperties, ElemType, FloatKind, TargetProperties};

use crate::Activation;
use crate::cube::caps::Caps;
use crate::cube::dispatch::{Kernel, Op, Problem, candidates};
use crate::{BlockMask, BlockPattern, BlockSize, MatrixShape};

/// One kernel, with the compile-time parameters that a plan does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Product { kernel: Kernel, epilogue: Parts },
    Gated { kernel: Kernel, activation: Activation, backward: bool },
    Sampled(Kernel),
    AddRowParts,
    AddParts { block: usize, epilogue: Parts },
}

/// The parts of the epilogue of a product.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// `+ bias`.
    pub bias: bool,
    /// `f(..)`.
    pub activation: Option<Activation>,
    /// `+ residual`.
    pub residual: bool,
}

/// What a definition is for.
pub struct Target {
    /// The device to generate code for.
    pub properties: Arc<DeviceProperties>,
    /// Its register layouts.
    pub layouts: Arc<TargetProperties>,
    /// Width of the indices.
    pub address: AddressType,
    /// Storage type of the tensors: f16 or bf16, f32 on cooperative matrices; kernels for few rows have their own.
    pub dtype: ElemType,
}

/// A device without limits but for its number of multiprocessors, which lets no kernel take few rows beside tensor
/// cores.
const CAPS: Caps = Caps {
    dtype: ElemType::Float(FloatKind::BF16),
    mma: true,
    ldmatrix: true,
    cmma: None,
    copy_async: true,
    plane: Some(32),
    max_units: 1024,
    shared_bytes: usize::MAX,
    vector: usize::MAX,
    bindings: usize::MAX,
    compute_units: Some(108),
    cubes: u64::MAX,
    elements: u64::MAX,
    cache: None,
};
/// More rows than are few.
const ROWS: usize = 64;
/// Rows that are split where there are few blocks.
const MANY_ROWS: usize = 8192;
/// Gates of a gated block.
pub(super) const GATES: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::Relu];

/// The same device for a kernel for few rows of this type, without tensor cores.
pub(super) fn few_rows_caps(dtype: ElemType) -> Caps {
    Caps { dtype, mma: false, compute_units: None, ..CAPS }
}

/// A pattern of `side` x `side` blocks: one block, or a full row and column.
pub(super) fn pattern(block: BlockSize, side: usize, full: bool) -> BlockPattern {
    let shape = MatrixShape::new(side * block.get(), side * block.get());
    let mut mask = BlockMask::empty(shape.expect("the sides are not zero"), block);
    mask.set(0, 0, true);
    for at in 1..if full { side } else { 1 } {
        mask.set(at, 0, true);
        mask.set(0, at, true);
    }
    BlockPattern::from_mask(&mask)
}

/// The kernels of all candidates.
pub(super) fn kernels(op: Op, caps: &Caps, pattern: &BlockPattern, m: usize) -> Vec<Kernel> {
    let plans = candidates(op, caps, &Problem { pattern, m }).into_iter();
    plans.map(|plan| plan.kernel).collect()
}

/// Everything on `mma`.
pub(super) fn tensor_cores() -> Vec<Code> {
    let mut all = vec![Code::AddRowParts];
    for block in BlockSize::ALL.into_iter().filter(|block| block.get() >= 32) {
        let add = |epilogue| Code::AddParts { block: block.get(), epilogue };
        let [bare, forward] = extremes(false);
        all.extend([bare, forward, extremes(true)[1]].map(add));
        // A full column of 33 blocks is split, a single block is not.
        let [short, long] = [pattern(block, 33, false), pattern(block, 33, true)];
        for pipelined in [true, false] {
            let caps = Caps { copy_async: pipelined, ..CAPS };
            for transposed in [false, true] {
                all.extend(products(&caps, &short, transposed, pipelined));
                all.extend(products(&caps, &long, transposed, false));
            }
            for (up, backward) in [(&long, false), (&long, true), (&short, false), (&short, true)] {
                let plans = kernels(Op::Gated { up, backward }, &caps, &short, ROWS);
                all.extend(plans.into_iter().flat_map(|kernel| gated(kernel, backward, pipelined)));
            }
            for m in [ROWS, MANY_ROWS] {
                all.extend(kernels(Op::Sddmm, &caps, &short, m).into_iter().map(Code::Sampled));
            }
        }
    }
    all
}

/// Everything on the cooperative matrices of a device, which may have `mma` too.
pub(super) fn cooperative(caps: &Caps) -> Vec<Code> {
    let caps = Caps { mma: false, ..*caps };
    let mut all = Vec::new();
    for block in BlockSize::ALL {
        let pattern = pattern(block, 1, false);
        for transposed in [false, true] {
            all.extend(products(&caps, &pattern, transposed, false));
        }
        all.extend(kernels(Op::Sddmm, &caps, &pattern, ROWS).into_iter().map(Code::Sampled));
    }
    let on_matrices = |code: &Code| match code {
        Code::Product { kernel, .. } | Code::Sampled(kernel) => {
            matches!(kernel, Kernel::SpmmCmma(_) | Kernel::SddmmCmma(_))
        }
        _ => false,
    };
    all.retain(on_matrices);
    all
}

/// Products with the least and the most epilogue, and with each one `between`.
fn products(caps: &Caps, pattern: &BlockPattern, transposed: bool, between: bool) -> Vec<Code> {
    let op = if transposed { Op::SpmmT { residual: false } } else { Op::PRODUCT };
    let mut epilogues = extremes(transposed).to_vec();
    if between && !transposed {
        // What layers ask for, and each activation.
        epilogues.extend(
            [None, Some(Activation::Relu), Some(Activation::Silu)].map(|activation| Parts {
                bias: true,
                activation,
                residual: false,
            }),
        );
    }
    let kernels = kernels(op, caps, pattern, ROWS).into_iter();
    let codes = |kernel| {
        epilogues.clone().into_iter().map(move |epilogue| Code::Product { kernel, epilogue })
    };
    kernels.flat_map(codes).collect()
}

/// The least and the most epilogue of a product.
fn extremes(transposed: bool) -> [Parts; 2] {
    let (bias, activation) =
        if transposed { (false, None) } else { (true, Some(Activation::Gelu)) };
    [Parts::default(), Parts { bias, activation, residual: true }]
}

/// What the launch of a kernel on tensor cores or cooperative matrices compiles, with its second pass.
pub(super) fn codes(op: Op, activation: Option<Activation>, kernel: Kernel) -> Vec<Code> {
    let (bias, residual) = match op {
        Op::Spmm { bias, residual, .. } => (bias, residual),
        Op::SpmmT { residual } => (false, residual),
        _ => (false, false),
    };
    let epilogue = Parts { bias, activation, residual };
    match kernel {
        Kernel::SpmmMma { split: None, .. } | Kernel::SpmmCmma(_) => {
            vec![Code::Product { kernel, epilogue }]
        }
        Kernel::SpmmMma { blueprint, .. } => {
            vec![
                Code::Product { kernel, epilogue },
                Code::AddParts { block: blueprint.block, epilogue },
            ]
        }
        Kernel::SddmmMma { parts: 1, .. } | Kernel::SddmmCmma(_) => vec![Code::Sampled(kernel)],
        Kernel::SddmmMma { .. } => vec![Code::Sampled(kernel), Code::AddRowParts],
        Kernel::GatedMma(_) => {
            let Op::Gated { backward, .. } = op else { unreachable!("{op:?} has no gated kernel") };
            let activation = activation.expect("a gated block has an activation");
            vec![Code::Gated { kernel, activation, backward }]
        }
        _ => Vec::new(),
    }
}

/// A gated kernel with each activation. Without copies that run ahead its epilogue is the same, so one activation
/// stands for all.
fn gated(kernel: Kernel, backward: bool, pipelined: bool) -> Vec<Code> {
    let gates = if pipelined { &GATES[..] } else { &GATES[..1] };
    gates.iter().map(|&activation| Code::Gated { kernel, activation, backward }).collect()
}

/// Whether the kernel of a product multiplies by the transposed weight.
pub(super) fn is_transposed(kernel: Kernel) -> bool {
    match kernel {
        Kernel::SpmmMma { blueprint, .. } => blueprint.transposed,
        Kernel::SpmmCmma(blueprint) => blueprint.transposed,
        _ => unreachable!("{kernel:?} is not in the catalogue"),
    }
}
