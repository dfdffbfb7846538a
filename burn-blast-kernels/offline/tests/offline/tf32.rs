//! The kernels that multiply f32 as TF32 on cooperative matrices: every one emulated against the f64 oracle, and
//! assembled.
//!
//! Problems whose tensors are exact in TF32 are held to the bound of f32 arithmetic; problems of any f32 to the bound
//! of factors rounded once.

use blast_offline::{Arch, F32, cooperative};
use burn_blast_kernels::cube::catalogue::{Definition, Parts, Variant, Verb};

use crate::common::{Problem, emulator, source};
use crate::{kernels, toolkit};

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

/// Numbers just below one of ten bits: truncating them instead of rounding them is off by twice the bound.
pub fn just_below(sides: [usize; 2], block: usize) -> Problem {
    let mut problem = Problem::new(F32, sides, block, &[(0, 0), (1, 0)], 15);
    let number = 1.0 + 1.0 / 1024.0 - 1.0 / 1_048_576.0;
    problem.values.fill(number);
    problem.x.fill(number);
    problem.dy.fill(number);
    problem
}

fn check(verb: Verb, rows: usize) {
    let chosen =
        |variant: &Variant| variant.verb() == verb && variant.tile_size().unwrap()[0] == rows;
    kernels::check_all(F32, variants(), chosen);
}

#[test]
fn forward() {
    check(Verb::Spmm, 64);
}

#[test]
fn forward_in_tall_tiles() {
    check(Verb::Spmm, 128);
}

#[test]
fn input_gradient() {
    check(Verb::SpmmT, 64);
}

#[test]
fn input_gradient_in_tall_tiles() {
    check(Verb::SpmmT, 128);
}

#[test]
fn weight_gradient() {
    check(Verb::Sddmm, 64);
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
        let problem = just_below([64, 32], 32);
        let result = match variant.verb() {
            Verb::Sddmm => problem.check_sddmm(&variant, &program, None),
            _ => problem.check_product(&variant, &program, None),
        };
        assert!(result.is_err(), "{}", variant.name());
    }
}

#[test]
fn no_architecture_spills_anything() {
    for arch in Arch::ON_THE_PAGE {
        toolkit::check_all(arch, F32, Variant::is_cooperative);
    }
}
