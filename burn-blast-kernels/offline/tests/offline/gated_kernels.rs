//! The tensor-core kernels of the gated block, emulated, against the f64 oracle.
//!
//! Outputs start as NaN, but for the hidden features of a backward kernel, which hold their gradient.

use blast_offline::{BF16, Emulator, F16, Program};
use burn_blast_kernels::cube::catalogue::{Definition, Variant, Verb, gated_tasks};
use burn_blast_kernels::{Activation, reference};
use cubecl::ir::ElemType;

use crate::common::{Problem, build, check_banks, indices, named, panel, poison, run};
use crate::kernels::{check, several_tiles};

/// Gate, with `x` and the gradient of the hidden features as its `dy`, and up.
struct Gated {
    gate: Problem,
    up: Problem,
}

impl Gated {
    fn new(
        dtype: ElemType,
        sides: [usize; 2],
        block: usize,
        kept: [&[(usize, usize)]; 2],
        m: usize,
    ) -> Self {
        let [gate, up] = kept.map(|kept| Problem::new(dtype, sides, block, kept, m));
        let mut problem = Self { gate, up };
        // Not the values of the gate.
        problem.up.values.iter_mut().for_each(|value| *value *= -0.5);
        problem
    }

    /// Runs a variant and compares all that it writes with the oracle.
    fn check(&self, variant: &Variant, program: &Program) -> Result<(), String> {
        let Self { gate, up } = self;
        let (shape, f) = (gate.pattern.shape(), variant.gate().unwrap());
        let [g, u] = [gate, up].map(|p| reference::spmm(&gate.x, &p.values, None, &p.pattern));
        let backward = variant.verb() == Verb::GatedBackward;
        let mut wants = vec![reference::gated_hidden(&g, &u, f)];
        let mut buffers = vec![gate.input(&gate.x), gate.input(&gate.values)];
        buffers.extend([gate.input(&up.values), indices(&gated_tasks(&gate.pattern, &up.pattern))]);
        let first = buffers.len();
        if backward {
            wants.extend(reference::gated_gradients(&g, &u, &gate.dy, f));
            let dh = gate.input(&gate.dy);
            buffers.push(blast_offline::Buffer { writable: true, ..dh });
            buffers.extend([0, 1].map(|_| poison(gate.dtype, g.len())));
        } else {
            buffers.push(poison(gate.dtype, g.len()));
        }
        let [rows, _] = variant.tile_size().unwrap();
        let row_tiles = gate.m.div_ceil(rows);
        let cubes = row_tiles * gate.pattern.block_cols();
        let sizes = [gate.m, shape.rows(), shape.cols(), cubes, panel(row_tiles)];
        let traffic = run(variant, program, cubes, &sizes, &mut buffers)
            .map_err(|error| error.to_string())?;
        let names = ["hidden features", "gradient of the gate", "gradient of up"];
        for ((got, want), name) in buffers[first..].iter().zip(&wants).zip(names) {
            gate.compare(got, want).map_err(|error| format!("{name}: {error}"))?;
        }
        check_banks(traffic)
    }
}

/// Patterns and numbers of rows around the edges of the variant's tile.
fn problems(variant: &Variant, dtype: ElemType) -> Vec<Gated> {
    let (block, [rows, _]) = (variant.block().unwrap(), variant.tile_size().unwrap());
    let sides = |row_blocks: usize, col_blocks: usize| [row_blocks * block, col_blocks * block];
    // Ragged blocks at both ends, and columns that neither, only one, or both have blocks in.
    let ragged = [3 * block - 24, 4 * block - 8];
    let gate = [(0, 0), (2, 0), (0, 1), (2, 3)];
    let other = [(1, 0), (0, 1), (1, 1), (2, 1)];
    let full: Vec<(usize, usize)> = (0..4).map(|at| (at / 2, at % 2)).collect();
    let column: Vec<(usize, usize)> = (0..6).map(|row| (row, 0)).collect();
    let apart = |kept| if variant.joint() { gate.as_slice() } else { kept };
    let mut problems = vec![
        Gated::new(dtype, ragged, block, [&gate, apart(&other)], several_tiles(rows)),
        Gated::new(dtype, sides(2, 2), block, [&full, &full], rows),
        Gated::new(dtype, sides(6, 1), block, [&column, &column], 17),
        Gated::new(dtype, sides(1, 2), block, [&[], &[]], 5),
    ];
    if !variant.joint() {
        problems.push(Gated::new(dtype, sides(2, 2), block, [&[(0, 1)], &[]], 1));
        problems.push(Gated::new(dtype, sides(2, 2), block, [&[], &[(1, 0)]], 2));
    }
    problems
}

/// Checks a variant on every problem.
pub fn check_one(emulator: &Emulator, variant: &Variant, dtype: ElemType) -> Result<(), String> {
    let program = build(emulator, variant, dtype)?;
    for problem in problems(variant, dtype) {
        let Gated { gate, up } = &problem;
        problem.check(variant, &program).map_err(|error| {
            let (name, gate, m) = (variant.name(), &gate.pattern, gate.m);
            format!("{name} on {gate:?} and {:?}, m = {m}: {error}", up.pattern)
        })?;
    }
    Ok(())
}

/// SwiGLU with copies that run ahead.
fn piped(variant: &Variant, verb: Verb) -> bool {
    variant.verb() == verb && variant.pipelined() && variant.gate() == Some(Activation::Silu)
}

#[test]
fn hidden_features() {
    check(BF16, |variant| piped(variant, Verb::Gated));
}

#[test]
fn gradients() {
    check(BF16, |variant| piped(variant, Verb::GatedBackward));
}

#[test]
fn half_precision() {
    let names = ["gated_64x64", "gated_64x64_joint", "gated_backward_64x32_joint"];
    check(F16, named(names));
}

#[test]
fn other_activations_and_copies_through_registers() {
    let names = [
        "gated_64x32_gelu",
        "gated_backward_64x32_joint_gelu",
        "gated_backward_64x32_relu",
        "gated_64x64_plain",
        "gated_128x32_joint_plain",
        "gated_backward_64x64_joint_plain",
    ];
    check(BF16, named(names));
}
