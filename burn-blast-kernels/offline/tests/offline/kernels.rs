//! Every tensor-core kernel, emulated, against the f64 oracle.
//!
//! Output buffers start as NaN, so an element that is not written fails its check. Inputs end where their
//! tensors end, so a read beyond them fails.

use blast_offline::{Arch, BF16, Emulator, F16, F32, Program, TF32, cooperative};
use burn_blast_kernels::cube::catalogue::{Definition, Variant, Verb};
use burn_blast_kernels::pack;
use cubecl::ir::ElemType;

use crate::common::{Problem, build, check_banks, decode, emulator, named, variant};
use crate::gated_kernels;
use crate::tf32::just_below;

/// Checks the variants that `chosen` selects on every problem. It must select one at least.
pub fn check(dtype: ElemType, chosen: impl Fn(&Variant) -> bool) {
    check_all(dtype, Variant::all(), chosen);
}

pub fn check_all(dtype: ElemType, all: Vec<Variant>, chosen: impl Fn(&Variant) -> bool) {
    let Some(emulator) = emulator() else { return };
    let chosen: Vec<Variant> = all.into_iter().filter(|variant| chosen(variant)).collect();
    assert!(!chosen.is_empty(), "no variant was checked");
    let result = |variant: &Variant| match variant.gate() {
        Some(_) => gated_kernels::check_one(emulator, variant, dtype),
        None => check_one(emulator, variant, dtype),
    };
    let wrong: Vec<String> = chosen.iter().filter_map(|variant| result(variant).err()).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), chosen.len(), wrong.join("\n"));
    println!("{} kernels agree with the oracle", chosen.len());
}

fn check_one(emulator: &Emulator, variant: &Variant, dtype: ElemType) -> Result<(), String> {
    let program = build(emulator, variant, dtype)?;
    let adder = match second_pass(variant) {
        Some(adder) => Some((adder, build(emulator, &adder, dtype)?)),
        None => None,
    };
    for problem in problems(variant, dtype) {
        let result = if variant.verb() == Verb::Sddmm {
            problem.check_sddmm(variant, &program, adder.as_ref().map(|(_, add)| add))
        } else {
            let blocks = if problem.m == 1 { 2 } else { 3 };
            let split = adder.as_ref().map(|(adder, add)| (blocks, adder, add));
            problem.check_product(variant, &program, split)
        };
        let (name, pattern) = (variant.name(), &problem.pattern);
        result
            .and_then(check_banks)
            .map_err(|error| format!("{name} on {pattern:?}, m = {}: {error}", problem.m))?;
    }
    Ok(())
}

/// The kernel that adds the partial sums of a variant, if it leaves any.
fn second_pass(variant: &Variant) -> Option<Variant> {
    if !variant.splits_k() {
        return None;
    }
    let sampled = variant.verb() == Verb::Sddmm;
    let verb = if sampled { Verb::AddRowParts } else { Verb::AddParts };
    let fits = |one: &Variant| {
        one.verb() == verb
            && one.block().is_none_or(|block| Some(block) == variant.block())
            && one.epilogue() == variant.epilogue()
    };
    let found = Variant::all().into_iter().find(fits);
    assert!(found.is_some(), "no second pass for {}", variant.name());
    found
}

/// Patterns and numbers of rows around the edges of the variant's tile.
fn problems(variant: &Variant, dtype: ElemType) -> Vec<Problem> {
    let (block, [rows, _]) = (variant.block().unwrap(), variant.tile_size().unwrap());
    if variant.splits_k() && variant.verb() != Verb::Sddmm {
        return [1, rows + 17].map(|m| skewed(dtype, block, m)).into();
    }
    if dtype == F32 {
        let mut problems = edges(variant, [TF32, F32], [12, 4]);
        problems.push(just_below([2 * block, block], block));
        return problems;
    }
    edges(variant, [dtype; 2], [24.min(3 * block / 4), 8])
}

/// Problems of the first type, the one without ragged blocks of the second. `ragged`: what the others lack in whole
/// blocks.
fn edges(variant: &Variant, [dtype, other]: [ElemType; 2], ragged: [usize; 2]) -> Vec<Problem> {
    let (block, [rows, _]) = (variant.block().unwrap(), variant.tile_size().unwrap());
    let sides = |row_blocks: usize, col_blocks: usize| [row_blocks * block, col_blocks * block];
    // Ragged blocks at both ends, an empty column and an empty row between full ones.
    let ragged = [3 * block - ragged[0], 4 * block - ragged[1]];
    let holes = [(0, 0), (2, 0), (0, 1), (2, 3)];
    let full: Vec<(usize, usize)> = (0..4).map(|at| (at / 2, at % 2)).collect();
    let column: Vec<(usize, usize)> = (0..6).map(|row| (row, 0)).collect();
    // Rows end inside an instruction tile; the contraction of `sddmm` also ends inside a stage.
    let mut problems = vec![
        Problem::new(dtype, ragged, block, &holes, several_tiles(rows)),
        Problem::new(other, sides(2, 2), block, &full, rows),
        Problem::new(dtype, sides(1, 2), block, &[(0, 1)], 1),
        Problem::new(dtype, sides(6, 1), block, &column, 17),
    ];
    if variant.verb() != Verb::Sddmm {
        // A launch of `sddmm` without blocks does nothing.
        problems.push(Problem::new(dtype, sides(1, 2), block, &[], 5));
    }
    problems
}

/// Rows that end inside a tile: the third of the lowest tiles, so that the last panel is smaller than the first, and the second
/// of the others, which take long to emulate.
pub fn several_tiles(rows: usize) -> usize {
    if rows == 64 { 2 * rows + 3 } else { rows + 3 }
}

fn pipelined(variant: &Variant, verb: Verb) -> bool {
    // With an epilogue there is more to go wrong; one test looks at the kernels without.
    let fullest = match variant.verb() {
        Verb::Spmm => variant.epilogue().bias && variant.epilogue().residual,
        _ => variant.epilogue().residual,
    };
    variant.pipelined() && variant.verb() == verb && fullest && !variant.splits_k()
}

/// One full column, one full row and little else, in blocks of this size: both directions have block columns to split.
fn skewed(dtype: ElemType, block: usize, m: usize) -> Problem {
    let mut kept: Vec<(usize, usize)> = (0..7).map(|row| (row, 1)).collect();
    kept.extend([(3, 0), (3, 2), (3, 3), (3, 4), (3, 5), (3, 6), (0, 6)]);
    Problem::new(dtype, [7 * block - 8, 7 * block - 24], block, &kept, m)
}

#[test]
fn forward() {
    check(BF16, |variant| pipelined(variant, Verb::Spmm));
}

#[test]
fn input_gradient() {
    check(BF16, |variant| pipelined(variant, Verb::SpmmT));
}

#[test]
fn products_on_cooperative_matrices() {
    // The taller tile differs in a number of tiles only.
    let names = [
        "spmm_cmma_64x16_bias_gelu_residual",
        "spmm_cmma_64x64_bias_gelu_residual",
        "spmm_t_cmma_128x32",
        "spmm_t_cmma_64x64_block128",
    ];
    let chosen = named(names);
    check_all(F16, cooperative(Arch::Sm80, F16), chosen);
    let wide = |variant: &Variant| variant.name() == "spmm_cmma_128x64_block128";
    check_all(BF16, cooperative(Arch::Sm80, BF16), wide);
}

#[test]
fn weight_gradient_on_cooperative_matrices() {
    check_all(F16, cooperative(Arch::Sm80, F16), |variant| variant.verb() == Verb::Sddmm);
}

#[test]
fn long_columns_with_split_k() {
    let names = [
        "spmm_64x32_bias_gelu_residual_split_k",
        "spmm_128x64_split_k",
        "spmm_t_64x64_split_k",
        "spmm_t_128x32_split_k_plain",
    ];
    check(BF16, named(names));
}

#[test]
fn weight_gradient() {
    check(BF16, |variant| variant.pipelined() && variant.verb() == Verb::Sddmm);
}

#[test]
fn half_precision_and_no_bias() {
    let names = ["spmm_64x64", "spmm_t_64x64", "sddmm_128x64_split_k"];
    check(F16, named(names));
}

#[test]
fn activations() {
    let names = ["spmm_64x32_bias_gelu_residual", "spmm_64x64_bias_silu", "spmm_64x32_bias_relu"];
    check(BF16, named(names));
}

#[test]
fn copies_through_registers() {
    let names = [
        "spmm_64x64_bias_gelu_residual_plain",
        "spmm_t_128x32_residual_plain",
        "sddmm_128x64_plain",
    ];
    check(BF16, named(names));
}

#[test]
fn padding_is_zero_where_the_other_side_is_not_finite() {
    let Some(emulator) = emulator() else { return };
    for name in ["sddmm_128x32", "sddmm_cmma_64x32"] {
        let variant = variant(name);
        let program = build(emulator, &variant, BF16).unwrap();
        check_padding(&variant, &program);
    }
}

fn check_padding(variant: &Variant, program: &Program) {
    let mut problem = Problem::new(BF16, [40, 56], 32, &[(0, 1), (1, 0), (1, 1)], 2);
    let inside = pack::pack(&vec![1.0; 40 * 56], &problem.pattern);
    let ones = vec![1.0; problem.x.len()];
    for dy in [1.0, f32::INFINITY] {
        problem.x = if dy == 1.0 { vec![f32::INFINITY; ones.len()] } else { ones.clone() };
        problem.dy.fill(dy);
        let (result, _) = problem.sddmm(variant, program, None).unwrap();
        for (at, (got, inside)) in decode(BF16, &result.bytes).into_iter().zip(&inside).enumerate()
        {
            assert_eq!(got == 0.0, *inside == 0.0, "element {at}: {got}");
        }
    }
}
