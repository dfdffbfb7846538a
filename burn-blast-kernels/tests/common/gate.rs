//! Problems that select every kernel for many rows on a device with tensor cores, through the public operations. The test on a
//! device runs them (`tests/cube/gate.rs`); without one, `blast-offline` counts the kernels that they select.

use burn_blast_kernels::{Activation, BlockMask, BlockPattern, BlockSize, MatrixShape};

/// An operation with its compile-time parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Spmm {
        bias: bool,
        activation: Option<Activation>,
        residual: bool,
    },
    SpmmT {
        residual: bool,
    },
    Sddmm,
    /// `joint`: gate and up have one pattern.
    Gated {
        joint: bool,
        backward: bool,
        activation: Activation,
    },
}

/// One problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub verb: Verb,
    pub block: usize,
    /// Block rows and block columns of the weight.
    pub grid: [usize; 2],
    /// Whether one block column of the output has all its blocks.
    pub long: bool,
    pub m: usize,
}

/// Blocks along the contraction of a product that is not split, and of one that is.
const SHORT: usize = 3;
const LONG: usize = 40;

/// The problems for a device with so many multiprocessors.
pub fn cases(units: usize) -> Vec<Case> {
    let mut all = Vec::new();
    for block in [32, 64, 128] {
        // Rows and block columns for which tiles of 64, 128 and 256 rows are taken.
        for (m, columns) in [(60, 5), (100, 2 * units), (300, units)] {
            for verb in products() {
                let transposed = matches!(verb, Verb::SpmmT { .. });
                for long in [false, true].into_iter().filter(|&long| !long || extreme(verb)) {
                    let contraction = if long { LONG } else { SHORT };
                    let grid =
                        if transposed { [columns, contraction] } else { [contraction, columns] };
                    all.push(Case { verb, block, grid, long, m });
                }
            }
            if m <= 128 || block <= 64 {
                let grid = [SHORT, columns];
                all.extend(gated().map(|verb| Case { verb, block, grid, long: false, m }));
            }
        }
        // Rows of few groups of blocks are split.
        for m in [60, 1100] {
            all.push(Case { verb: Verb::Sddmm, block, grid: [SHORT, 4], long: false, m });
        }
    }
    // So many rows that they are cut into panels.
    let gate = Verb::Gated { joint: true, backward: true, activation: Activation::Silu };
    for verb in [products()[0], Verb::SpmmT { residual: false }, gate] {
        all.push(Case { verb, block: 64, grid: [6, 6], long: false, m: 45_000 });
    }
    all
}

fn products() -> Vec<Verb> {
    let spmm = |bias, activation, residual| Verb::Spmm { bias, activation, residual };
    let activations = [None, Some(Activation::Relu), Some(Activation::Silu)];
    let mut all = vec![spmm(false, None, false), spmm(true, Some(Activation::Gelu), true)];
    all.extend(activations.map(|activation| spmm(true, activation, false)));
    all.extend([false, true].map(|residual| Verb::SpmmT { residual }));
    all
}

/// Whether the product has nothing added to it, or everything; split products have no other kernels in the catalogue.
fn extreme(verb: Verb) -> bool {
    match verb {
        Verb::Spmm { bias, residual, .. } => bias == residual,
        _ => true,
    }
}

fn gated() -> impl Iterator<Item = Verb> {
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    kinds.into_iter().flat_map(|(joint, backward)| {
        let verb = move |activation| Verb::Gated { joint, backward, activation };
        [Activation::Silu, Activation::Gelu, Activation::Relu].map(verb)
    })
}

impl Case {
    /// The pattern of the weight, or of the gate: ragged at both ends, with empty block columns.
    pub fn pattern(&self) -> BlockPattern {
        self.make(0)
    }

    /// The pattern of up.
    pub fn up(&self) -> BlockPattern {
        let joint = matches!(self.verb, Verb::Gated { joint: true, .. });
        self.make(if joint { 0 } else { 1 })
    }

    fn make(&self, shift: usize) -> BlockPattern {
        let [rows, cols] = self.grid;
        let sides = self.grid.map(|blocks| blocks * self.block - 8);
        let shape = MatrixShape::new(sides[0], sides[1]).expect("the sides are not zero");
        let block = BlockSize::new(self.block).expect("a block size");
        let mut mask = BlockMask::empty(shape, block);
        let transposed = matches!(self.verb, Verb::SpmmT { .. });
        let (contraction, outputs) = if transposed { (cols, rows) } else { (rows, cols) };
        let mut keep = |at: usize, output: usize| {
            let (row, col) = if transposed { (output, at) } else { (at, output) };
            mask.set(row, col, true);
        };
        for output in (0..outputs).filter(|output| (output + shift) % 5 != 4) {
            keep((output + shift) % contraction, output);
            keep((2 * output + shift + 1) % contraction, output);
        }
        (0..contraction).filter(|_| self.long).for_each(|at| keep(at, 1));
        BlockPattern::from_mask(&mask)
    }
}
