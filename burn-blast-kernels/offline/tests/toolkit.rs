//! Machine code of every tensor-core kernel, without a GPU: nothing spills, registers stay below their
//! ceiling, and the instructions are those the kernels were written for.

mod common;

use blast_offline::{Arch, BF16, F16, Machine, Source, ladder};
use burn_blast_kernels::cube::catalogue::{Variant, Verb};
use common::{source, toolkit};
use cubecl::ir::ElemType;

fn sources(
    arch: Arch,
    dtype: ElemType,
    chosen: impl Fn(&Variant) -> bool,
) -> Vec<(Variant, Source)> {
    let generate = |variant: Variant| {
        let source =
            blast_offline::generate(&variant, arch, dtype, cubecl::ir::AddressType::U32).unwrap();
        (variant, source)
    };
    let all = Variant::all().into_iter().chain(blast_offline::cooperative(arch, dtype));
    all.filter(|variant| chosen(variant)).map(generate).collect()
}

/// Most registers of a unit, by output tile. 128 leave room for two blocks of 256 units on a multiprocessor,
/// 80 for three; only the largest tile gives up the second.
fn ceiling(variant: &Variant) -> usize {
    let gated = matches!(variant.verb(), Verb::Gated | Verb::GatedBackward);
    match variant.tile_size() {
        None => 40,
        // A gated block keeps two sums for each output.
        Some([rows, _]) if gated && rows * variant.block().unwrap() <= 8192 => 128,
        Some(_) if gated => 224,
        Some([_, 16 | 32] | [64, _] | [128, 64]) => 80,
        Some([256, 64] | [128, 128]) => 128,
        Some(_) => 224,
    }
}

fn check(variant: &Variant, machine: &Machine) {
    let name = &machine.name;
    let spilled = (machine.spill_stores, machine.spill_loads, machine.stack);
    assert_eq!(spilled, (0, 0, 0), "{name}: bytes stored, loaded, on the stack");
    assert!(machine.registers <= ceiling(variant), "{name}: {} registers", machine.registers);
    let count = |instruction: &str| machine.instructions[instruction];
    let cores = !matches!(variant.verb(), Verb::AddSplits | Verb::AddPieces);
    assert_eq!(count("HMMA") > 0, cores, "{name}: {machine:?}");
    // What a fragment of wmma is loaded by is the compiler's choice.
    assert!(variant.is_cooperative() || (count("LDSM") > 0) == cores, "{name}: {machine:?}");
    assert_eq!(count("LDGSTS") > 0, variant.pipelined(), "{name}: {machine:?}");
}

fn check_all(arch: Arch, dtype: ElemType, chosen: impl Fn(&Variant) -> bool) {
    let Some(toolkit) = toolkit() else { return };
    let (variants, kernels): (Vec<_>, Vec<_>) = sources(arch, dtype, chosen)
        .into_iter()
        .map(|(variant, source)| (variant, (variant.name(), source)))
        .unzip();
    assert!(!variants.is_empty(), "no variant was chosen");
    for (variant, (name, source)) in variants.iter().zip(&kernels) {
        assert_eq!(source.shared_bytes, variant.shared_bytes(), "{name}");
    }
    let machines = toolkit.compile(arch, &kernels).unwrap_or_else(|error| panic!("{error}"));
    for (variant, machine) in variants.iter().zip(&machines) {
        check(variant, machine);
    }
}

#[test]
fn ampere_spills_nothing() {
    check_all(Arch::Sm80, BF16, ladder::on_the_page);
}

#[test]
fn hopper_spills_nothing() {
    check_all(Arch::Sm90, BF16, ladder::on_the_page);
}

#[test]
fn the_page_has_a_row_for_every_kernel_it_names() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/kernel-ladder.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut count = 0;
    for variant in Variant::all().iter().filter(|variant| ladder::on_the_page(variant)) {
        let row = ladder::row_head(variant);
        assert!(page.contains(&row), "docs/src/kernel-ladder.md lacks {row}: run the ladder");
        count += 1;
    }
    assert!(count > 20, "{count} kernels");
}

#[test]
fn the_other_variants_spill_nothing() {
    let names = [
        "spmm_256x128_bias",
        "spmm_128x64_bias_residual",
        "spmm_t_256x128_residual",
        "gated_128x128_joint_gelu",
        "gated_backward_128x64_joint_gelu",
        "sddmm_128x128_split",
        "add_splits",
    ];
    check_all(Arch::Sm80, BF16, |variant| names.contains(&variant.name().as_str()));
    let names = [
        "spmm_128x64_bias_silu",
        "spmm_t_64x32",
        "gated_backward_256x64_joint",
        "sddmm_128x64",
        "add_splits",
    ];
    check_all(Arch::Sm80, F16, |variant| names.contains(&variant.name().as_str()));
    let names = [
        "spmm_256x128_bias_gelu_residual_pieces",
        "spmm_t_128x64_pieces",
        "add_pieces_64_bias_gelu_residual",
    ];
    check_all(Arch::Sm90, BF16, |variant| names.contains(&variant.name().as_str()));
    let names = [
        "spmm_256x128_bias_plain",
        "spmm_t_128x64_plain",
        "gated_128x128_plain",
        "gated_backward_64x32_joint_plain",
        "sddmm_128x32_plain",
    ];
    check_all(Arch::Sm80, BF16, |variant| names.contains(&variant.name().as_str()));
}

#[test]
fn cooperative_matrices_spill_nothing() {
    let names =
        ["spmm_cmma_64x16", "spmm_cmma_64x64_bias", "spmm_t_cmma_128x64", "sddmm_cmma_64x64"];
    check_all(Arch::Sm80, F16, |variant| names.contains(&variant.name().as_str()));
    let names = ["spmm_cmma_128x64_parts", "sddmm_cmma_64x64_parts"];
    check_all(Arch::Sm90, BF16, |variant| names.contains(&variant.name().as_str()));
}

#[test]
fn metal_s_source_has_its_8_by_8_matrices() {
    let all = blast_offline::metal().unwrap();
    assert!(all.len() >= 16, "{} kernels", all.len());
    for (variant, code) in all {
        let name = variant.name();
        let turned = variant.verb() != Verb::Spmm;
        for part in ["simdgroup_half8x8", "simdgroup_float8x8", "simdgroup_multiply_accumulate"] {
            assert!(code.contains(part), "{name} lacks {part}:\n{code}");
        }
        assert_eq!(code.contains(", 0, true);"), turned, "{name}:\n{code}");
        assert!(variant.shared_bytes() <= 32 * 1024, "{name}");
    }
}

#[test]
fn indices_of_64_bits_spill_nothing() {
    let Some(toolkit) = toolkit() else { return };
    for name in ["spmm_256x128_bias_plain", "sddmm_128x128_plain"] {
        let variant = common::variant(name);
        let wide = cubecl::ir::AddressType::U64;
        let source = blast_offline::generate(&variant, Arch::Sm90, BF16, wide).unwrap();
        let machines = toolkit.compile(Arch::Sm90, &[(name.into(), source)]).unwrap();
        check(&variant, &machines[0]);
    }
}

#[test]
fn a_kernel_that_does_not_compile_is_refused_with_the_compiler_s_words() {
    let Some(toolkit) = toolkit() else { return };
    let mut source = source(&common::variant("add_splits"), BF16);
    source.code = source.code.replace("return;", "return nonsense;");
    let error = toolkit.compile(Arch::Sm80, &[("broken".into(), source)]).unwrap_err().to_string();
    assert!(error.contains("NVRTC refuses broken.cu") && error.contains("nonsense"), "{error}");
}
