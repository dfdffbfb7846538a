//! Operations, their sizes, and plans.

use std::fmt;

use cubecl::ir::AddressType;

use crate::cube::split_k::SplitK;
use crate::cube::tile::unit::UnitTile;
use crate::cube::{gated, gemv, norm, sddmm, spmm};
use crate::{BlockPattern, BlockSize, MatrixShape};

/// A kernel with its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::cube) enum Kernel {
    Gemv {
        blueprint: gemv::base::Blueprint,
        split: Option<SplitK>,
    },
    SpmmUnit(UnitTile),
    SpmmMma {
        blueprint: spmm::mma::base::Blueprint,
        split: Option<SplitK>,
    },
    SpmmCmma(spmm::cmma::base::Blueprint),
    SddmmUnit(sddmm::unit::base::Blueprint),
    SddmmMma {
        blueprint: sddmm::mma::base::Blueprint,
        parts: usize,
    },
    SddmmCmma(sddmm::cmma::base::Blueprint),
    GatedUnit(UnitTile),
    GatedMma(gated::mma::base::Blueprint),
    GradBlockNorms(sddmm::unit::base::Blueprint),
    BlockNorms(norm::Blueprint),
    /// `width` is the number of elements that a unit moves at a time.
    Pack {
        width: usize,
    },
    /// As `Pack`.
    Unpack {
        width: usize,
    },
}

/// An operation of the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// `y = f(x · w + bias) + residual`.
    Spmm {
        /// Whether there is a bias.
        bias: bool,
        /// Whether there is an activation.
        activation: bool,
        /// Whether there is a residual.
        residual: bool,
    },
    /// `y = x · (scales · values)` with 8-bit integer values and one scale per block.
    SpmmInt8,
    /// `dx = dy · wᵀ + residual`.
    SpmmT {
        /// Whether there is a residual.
        residual: bool,
    },
    /// `xᵀ · dy` at the kept blocks.
    Sddmm,
    /// `h = f(x · gate) · (x · up)`, or its gradients.
    Gated {
        /// The second pattern.
        up: &'a BlockPattern,
        /// Whether gradients are computed.
        backward: bool,
    },
    /// The norm of each block of `xᵀ · dy`.
    GradBlockNorms,
    /// The norm of each kept block.
    BlockNorms,
    /// Dense weight to packed values.
    Pack,
    /// Packed values to dense weight.
    Unpack,
}

impl Op<'_> {
    /// `x · w`, with nothing added.
    pub const PRODUCT: Self = Self::Spmm { bias: false, activation: false, residual: false };
}

/// The sizes that a plan depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Problem<'a> {
    /// The pattern of the weight; of the gate, in a gated block.
    pub pattern: &'a BlockPattern,
    /// Rows of the input.
    pub m: usize,
}

impl Problem<'_> {
    pub(super) fn block(&self) -> BlockSize {
        self.pattern.block()
    }

    pub(super) fn matrix(&self) -> MatrixShape {
        self.pattern.shape()
    }

    /// Width of the indices into tensors of an operation, if no other is longer than `values`.
    pub(super) fn address(&self, values: usize) -> AddressType {
        let shape = self.matrix();
        AddressType::from_len(values.max(self.m * shape.rows()).max(self.m * shape.cols()))
    }
}

/// The part of an operation that a plan leaves to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfused {
    /// The result is complete.
    Nothing,
    /// The activation is still to be applied.
    Activation,
    /// The residual is still to be added.
    Residual,
}

/// Classes of kernel. The page "The kernel ladder" of the book has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelClass {
    /// Few rows: bound by reading the values once.
    Gemv,
    /// Register tiles, on any device.
    RegisterTiles,
    /// `mma` instructions.
    TensorCores {
        /// Whether copies to shared memory run ahead.
        pipelined: bool,
    },
    /// Cooperative matrices.
    CooperativeMatrices {
        /// Side of a matrix.
        side: usize,
        /// Whether tensors are f32 and factors rounded to TF32.
        tf32: bool,
    },
}

/// How a contraction is split over cubes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Blocks per part, approximately.
    Blocks(usize),
    /// Number of parts.
    Parts(usize),
}

/// How one operation runs: the kernel with every number of its launch, and what is not fused into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub(in crate::cube) kernel: Kernel,
    pub(in crate::cube) address: AddressType,
    /// What is left to the caller.
    pub unfused: Unfused,
    /// Whether integer values are multiplied by their scales first, since no kernel reads them as they are.
    pub dequantize: bool,
}

impl Plan {
    /// The class of the kernel.
    pub fn class(&self) -> KernelClass {
        self.kernel.class()
    }

    /// Rows and columns of the output that one cube computes, if it computes a tile of one.
    pub fn tile(&self) -> Option<[usize; 2]> {
        self.kernel.tile()
    }

    /// How the contraction is split over cubes, if it is.
    pub fn split(&self) -> Option<Split> {
        self.kernel.split()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dequantize {
            write!(f, "values dequantised, then ")?;
        }
        write!(f, "{}", self.class())?;
        if let Some([rows, cols]) = self.tile() {
            write!(f, ", {rows} x {cols} per cube")?;
        }
        match self.split() {
            Some(Split::Blocks(blocks)) => write!(f, ", split-K by {blocks} blocks")?,
            Some(Split::Parts(parts)) => write!(f, ", split-K in {parts}")?,
            None => {}
        }
        match self.unfused {
            Unfused::Nothing => Ok(()),
            Unfused::Activation => write!(f, ", the activation apart"),
            Unfused::Residual => write!(f, ", the residual apart"),
        }
    }
}

impl fmt::Display for KernelClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gemv => write!(f, "gemv"),
            Self::RegisterTiles => write!(f, "register tiles"),
            Self::TensorCores { pipelined: true } => write!(f, "tensor cores, copies ahead"),
            Self::TensorCores { pipelined: false } => write!(f, "tensor cores"),
            Self::CooperativeMatrices { side, tf32 } => {
                let tf32 = if *tf32 { " in TF32" } else { "" };
                write!(f, "cooperative matrices of {side} x {side}{tf32}")
            }
        }
    }
}
