//! Every kernel for few rows as a definition, as in the catalogue of the tensor-core kernels.

use cubecl::ir::{ElemType, FloatKind, UIntKind};
use cubecl::prelude::*;

use super::base::{Blueprint, MOST_ROWS, Stored, UNITS, select};
use super::finish::{Finish, add_pieces_kernel::AddPiecesKernel};
use super::kernel::{SizesCompilationArg, few_rows_kernel::FewRowsKernel};
use super::pieces::{Pieces, lengths, share};
use crate::Activation;
use crate::cube::mma::catalogue::{Kernel, Target, optional};
use crate::{BlockPattern, BlockSize};

/// Widest vector of the device that a definition is made for; CUDA has no limit.
const WIDEST: usize = usize::MAX;

/// One kernel for few rows that a launch may pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FewRows {
    plan: Blueprint,
    /// Storage type of the tensors; of integers that of `x`.
    dtype: ElemType,
    end: Finish,
    bias: bool,
    /// Whether this is the second launch, which adds up the pieces of columns.
    adds: bool,
}

impl FewRows {
    /// The kernel that takes `rows` rows of `dtype`; values are integers if `int8`.
    fn new(block: BlockSize, rows: usize, dtype: ElemType, int8: bool) -> Self {
        let (stored, bytes) = if int8 { (Stored::Int8, 1) } else { (Stored::Float, dtype.size()) };
        let plan = select(block, rows, stored, bytes, WIDEST);
        let end = Finish { gate: None, cut: false };
        Self { plan, dtype, end, bias: false, adds: false }
    }

    /// Every tile in f32, f16, bf16 and int8 with bf16, each alone and with everything that can be added; and the
    /// second launch. Sums of pieces do not depend on the activation, which is left to that launch.
    pub fn all() -> Vec<Self> {
        let float = |kind| ElemType::Float(kind);
        let kinds = [
            (float(FloatKind::F32), false),
            (float(FloatKind::F16), false),
            (float(FloatKind::BF16), false),
            (float(FloatKind::BF16), true),
        ];
        let (mut all, mut adders) = (Vec::new(), Vec::new());
        for (dtype, int8) in kinds {
            for block in BlockSize::ALL {
                for rows in [1, 2, 4, 8, MOST_ROWS] {
                    let one = Self::new(block, rows, dtype, int8);
                    all.push(one);
                    all.push(Self { bias: true, ..one });
                    all.push(one.cut());
                    adders.push(one.adder());
                    // Integers have no gated form.
                    for gate in [Activation::Silu, Activation::Gelu, Activation::Relu] {
                        if !int8 {
                            let end = Finish { gate: Some(gate), ..one.end };
                            let gated = Self { end, bias: true, ..one };
                            all.push(gated);
                            adders.push(gated.adder());
                            if gate == Activation::Silu {
                                all.push(gated.cut());
                            }
                        }
                    }
                }
            }
        }
        all.extend(adders);
        all
    }

    fn cut(self) -> Self {
        Self { end: Finish { cut: true, ..self.end }, bias: false, ..self }
    }

    fn adder(self) -> Self {
        Self { adds: true, bias: true, ..self.cut() }
    }

    /// Storage type of `x`, and of values that are not integers.
    pub fn dtype(&self) -> ElemType {
        self.dtype
    }

    /// Side of a block.
    pub fn block(&self) -> usize {
        self.plan.block
    }

    /// Rows of the tile.
    pub fn rows(&self) -> usize {
        self.plan.rows
    }

    /// Whether values are integers.
    pub fn int8(&self) -> bool {
        self.plan.stored == Stored::Int8
    }

    /// Whether a bias is added.
    pub fn bias(&self) -> bool {
        self.bias
    }

    /// Of the first of two weights, if there are two.
    pub fn gate(&self) -> Option<Activation> {
        self.end.gate
    }

    /// Whether sums of pieces are stored.
    pub fn cuts(&self) -> bool {
        self.end.cut && !self.adds
    }

    /// Whether this adds such sums up.
    pub fn adds(&self) -> bool {
        self.adds
    }

    /// Units of a cube.
    pub fn units(&self) -> usize {
        UNITS
    }

    /// Shared memory of a cube in bytes.
    pub fn shared_bytes(&self) -> usize {
        if self.adds { 0 } else { self.plan.shared_bytes() }
    }

    /// Vectors of values that a unit has on their way.
    pub fn ahead(&self) -> usize {
        self.plan.ahead
    }

    /// Bytes of values that a cube has on their way.
    pub fn in_flight(&self) -> usize {
        let element = if self.int8() { size_of::<u32>() } else { self.dtype.size() };
        self.plan.ahead * self.plan.slots() * self.plan.vector * element
    }

    /// Blocks of a piece, on a device with so many multiprocessors, where values have so many bytes.
    pub fn share(pattern: &BlockPattern, value_bytes: usize, compute_units: usize) -> usize {
        share(pattern.nnz(), pattern.block().area() * value_bytes, compute_units)
    }

    /// What a launch uploads besides its patterns: the items of the first kernel and the columns of the second, where
    /// columns with twice `share` blocks are cut.
    pub fn pieces(patterns: &[&BlockPattern], share: usize) -> [Vec<u32>; 2] {
        let pieces = Pieces::new(&lengths(patterns), share);
        [pieces.items.as_flattened().to_vec(), pieces.columns.as_flattened().to_vec()]
    }
}

impl Kernel for FewRows {
    fn name(&self) -> String {
        let kind = match self.dtype {
            _ if self.int8() => "int8",
            ElemType::Float(FloatKind::F32) => "f32",
            ElemType::Float(FloatKind::F16) => "f16",
            _ => "bf16",
        };
        let gate = match self.end.gate {
            None => "",
            Some(Activation::Silu) => "_silu",
            Some(Activation::Gelu) => "_gelu",
            Some(Activation::Relu) => "_relu",
        };
        let bias = if self.bias { "_bias" } else { "" };
        let part = match (self.adds, self.end.cut) {
            (true, _) => "_add",
            (false, true) => "_cut",
            (false, false) => "",
        };
        format!("few_{}x{}_{kind}{gate}{bias}{part}", self.plan.rows, self.plan.block)
    }

    fn define(&self, target: &Target) -> KernelDefinition {
        let (properties, layouts) = (target.properties.clone(), target.layouts.clone());
        let units = CubeDim::new_1d(UNITS as u32);
        let settings = KernelSettings::new(units.into(), ExecutionMode::Unchecked, target.address);
        let buffer = || BufferCompilationArg { inplace: None };
        let sizes = SizesCompilationArg { m: (), k: (), n: (), items: () };
        let (plan, end) = (self.plan, self.end);
        if self.adds {
            let bias = optional(self.bias);
            return AddPiecesKernel::new(
                settings,
                properties,
                layouts,
                buffer(),
                bias,
                buffer(),
                buffer(),
                sizes,
                plan,
                end,
                self.dtype,
            )
            .define();
        }
        let stored = if self.int8() { ElemType::UInt(UIntKind::U32) } else { self.dtype };
        let out = if end.cut { ElemType::Float(FloatKind::F32) } else { self.dtype };
        let gated = end.gate.is_some();
        FewRowsKernel::new(
            settings,
            properties,
            layouts,
            buffer(),
            buffer(),
            optional(self.int8()),
            buffer(),
            buffer(),
            optional(gated),
            optional(false),
            optional(gated),
            optional(gated),
            optional(self.bias),
            buffer(),
            buffer(),
            sizes,
            (),
            16 / self.dtype.size(),
            plan.vector,
            plan.quad(),
            plan,
            end,
            self.dtype,
            stored,
            out,
        )
        .define()
    }
}
