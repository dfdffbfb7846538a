//! The kernels that multiply f32 as TF32 on cooperative matrices: every one emulated against the f64 oracle, and
//! assembled.
//!
//! Problems whose tensors are exact in TF32 are held to the bound of f32 arithmetic; problems of any f32 to the bound
//! of factors rounded once.

use blast_offline::{Arch, F32, Program, TF32, cooperative};
use burn_blast_kernels::cube::catalogue::{Parts, Variant, Verb};
use cubecl::ir::AddressType;

use crate::common::{Problem, emulator, source, toolkit};

fn variants() -> Vec<Variant> {
    cooperative(Arch::Sm80, F32)
}

#[test]
fn there_is_one_for_every_block_verb_and_height() {
    let all = variants();
    for block in [16, 32, 64, 128] {
        let count = |verb: Verb, rows: usize, bare: bool| {
            all.iter()
                .filter(|variant| variant.block() == Some(block) && variant.verb() == verb)
                .filter(|variant| variant.tile_size().unwrap()[0] == rows)
                .filter(|variant| (variant.epilogue() == Parts::default()) == bare)
                .count()
        };
        for verb in [Verb::Spmm, Verb::SpmmT] {
            for rows in [64, 128] {
                assert_eq!([true, false].map(|bare| count(verb, rows, bare)), [1, 1], "{block}");
            }
        }
        assert_eq!(count(Verb::Sddmm, 64, true), 1, "{block}");
    }
    assert_eq!(all.len(), 36);
    assert!(all.iter().all(|variant| variant.name().ends_with("_tf32")), "{all:?}");
}

/// Patterns and numbers of rows around the edges of the variant's tile.
fn problems(variant: &Variant) -> Vec<Problem> {
    let (block, [rows, _]) = (variant.block().unwrap(), variant.tile_size().unwrap());
    let sides = |row_blocks: usize, col_blocks: usize| [row_blocks * block, col_blocks * block];
    // Ragged blocks at both ends, an empty column and an empty row between full ones.
    let ragged = [3 * block - 12, 4 * block - 4];
    let holes = [(0, 0), (2, 0), (0, 1), (2, 3)];
    let full: Vec<(usize, usize)> = (0..4).map(|at| (at / 2, at % 2)).collect();
    let column: Vec<(usize, usize)> = (0..6).map(|row| (row, 0)).collect();
    let mut problems = vec![
        Problem::new(TF32, ragged, block, &holes, rows + 3),
        Problem::new(F32, sides(2, 2), block, &full, rows),
        Problem::new(TF32, sides(1, 2), block, &[(0, 1)], 1),
        Problem::new(TF32, sides(6, 1), block, &column, 17),
        just_below(sides(2, 1), block),
    ];
    if variant.verb() != Verb::Sddmm {
        // A launch of `sddmm` without blocks does nothing.
        problems.push(Problem::new(TF32, sides(1, 2), block, &[], 5));
    }
    problems
}

/// Numbers just below one of ten bits: truncating them instead of rounding them is off by twice the bound.
fn just_below(sides: [usize; 2], block: usize) -> Problem {
    let mut problem = Problem::new(F32, sides, block, &[(0, 0), (1, 0)], 15);
    let number = 1.0 + 1.0 / 1024.0 - 1.0 / 1_048_576.0;
    problem.values.fill(number);
    problem.x.fill(number);
    problem.dy.fill(number);
    problem
}

fn check_problem(problem: &Problem, variant: &Variant, program: &Program) -> Result<(), String> {
    match variant.verb() {
        Verb::Sddmm => problem.check_sddmm(variant, program, None),
        _ => problem.check_product(variant, program),
    }
}

fn check(verb: Verb, tall: bool) {
    let Some(emulator) = emulator() else { return };
    let chosen = |variant: &Variant| {
        variant.verb() == verb && (variant.tile_size().unwrap()[0] == 128) == tall
    };
    let mut count = 0;
    for variant in variants().iter().filter(|variant| chosen(variant)) {
        let program =
            emulator.build(&source(variant, F32)).unwrap_or_else(|error| panic!("{error}"));
        for problem in problems(variant) {
            if let Err(error) = check_problem(&problem, variant, &program) {
                panic!("{} on {:?}, m = {}: {error}", variant.name(), problem.pattern, problem.m);
            }
        }
        count += 1;
    }
    assert!(count > 0, "no variant was checked");
}

#[test]
fn forward() {
    check(Verb::Spmm, false);
}

#[test]
fn forward_in_tall_tiles() {
    check(Verb::Spmm, true);
}

#[test]
fn input_gradient() {
    check(Verb::SpmmT, false);
}

#[test]
fn input_gradient_in_tall_tiles() {
    check(Verb::SpmmT, true);
}

#[test]
fn weight_gradient() {
    check(Verb::Sddmm, false);
}

/// The bound would notice: factors truncated at ten bits fail it.
#[test]
fn a_kernel_that_does_not_round_is_found() {
    let Some(emulator) = emulator() else { return };
    for variant in variants() {
        if variant.block() != Some(32) || variant.epilogue() != Parts::default() {
            continue;
        }
        let mut source = source(&variant, F32);
        assert!(source.code.contains("nvcuda::wmma::__float_to_tf32("), "{}", variant.name());
        source.code = source.code.replace("nvcuda::wmma::__float_to_tf32(", "(");
        let program = emulator.build(&source).unwrap_or_else(|error| panic!("{error}"));
        let result = check_problem(&just_below([64, 32], 32), &variant, &program);
        assert!(result.is_err(), "{}", variant.name());
    }
}

fn check_machine_code(arch: Arch) {
    let Some(toolkit) = toolkit() else { return };
    let all = cooperative(arch, F32);
    let kernels: Vec<_> = all
        .iter()
        .map(|variant| {
            let source = blast_offline::generate(variant, arch, F32, AddressType::U32).unwrap();
            assert_eq!(source.shared_bytes, variant.shared_bytes(), "{}", variant.name());
            (variant.name(), source)
        })
        .collect();
    let machines = toolkit.compile(arch, &kernels).unwrap_or_else(|error| panic!("{error}"));
    for machine in &machines {
        let name = &machine.name;
        let spilled = (machine.spill_stores, machine.spill_loads, machine.stack);
        assert_eq!(spilled, (0, 0, 0), "{name}: bytes stored, loaded, on the stack");
        // So that two cubes of 256 units run on a multiprocessor.
        assert!(machine.registers <= 128, "{name}: {} registers", machine.registers);
        assert!(machine.instructions["HMMA"] > 0, "{name}: {machine:?}");
    }
}

#[test]
fn ampere_spills_nothing() {
    check_machine_code(Arch::Sm80);
}

#[test]
fn hopper_spills_nothing() {
    check_machine_code(Arch::Sm90);
}
