//! Machine code of every tensor-core kernel, without a GPU: nothing spills, registers stay below their
//! ceiling, and the kernels use the instructions they were written for.

use std::collections::BTreeMap;

use blast_offline::{Arch, BF16, F16, Machine, generate, ladder};
use burn_blast_kernels::cube::catalogue::{Definition, Variant, Verb};
use cubecl::ir::{AddressType, ElemType};

use crate::common::{self, named, source, toolkit};

/// Most registers of a unit, by output tile. 128 leave room for two blocks of 256 units per multiprocessor,
/// 80 for three; only the largest tile gives up the second.
fn ceiling(variant: &Variant) -> usize {
    let gated = matches!(variant.verb(), Verb::Gated | Verb::GatedBackward);
    match variant.tile_size() {
        None => 40,
        // Two blocks, too.
        Some(_) if variant.name().ends_with("_tf32") => 128,
        // A gated block keeps two sums for each output.
        Some([rows, _]) if gated && rows * variant.block().unwrap() <= 8192 => 128,
        Some(_) if gated => 224,
        Some([_, 16 | 32] | [64, _] | [128, 64]) => 80,
        Some([256, 64] | [128, 128]) => 128,
        Some(_) => 224,
    }
}

/// Most bytes that a unit spills.
const MOST_SPILLED: usize = 12;

/// What is wrong with the machine code of a variant, if anything is.
fn fault(variant: &Variant, machine: &Machine) -> Option<String> {
    let count = |instruction: &str| machine.instructions[instruction];
    let cores = !matches!(variant.verb(), Verb::AddRowParts | Verb::AddParts);
    // Rather than take more registers, ptxas puts a few bytes aside before the loop and takes them back after it; which kernels
    // it does that to follows from little. On one of the two architectures, it reads some of these in the loop.
    let aside = match variant.name().as_str() {
        "spmm_64x64_bias_gelu_residual_split_k" => 4,
        "spmm_64x32_bias_gelu_residual_split_k_plain" => 8,
        "spmm_cmma_128x32_bias_gelu_residual" => 12,
        _ => 0,
    };
    let spilled = machine.spill_stores.max(machine.spill_loads);
    let right = spilled <= MOST_SPILLED
        && machine.spills_in_loops <= aside / size_of::<u32>()
        && machine.stack <= 2 * MOST_SPILLED
        && machine.registers <= ceiling(variant)
        && (count("HMMA") > 0) == cores
        // What a fragment of wmma is loaded by is the compiler's choice.
        && (variant.is_cooperative() || (count("LDSM") > 0) == cores)
        && (count("LDGSTS") > 0) == variant.pipelined();
    (!right).then(|| format!("at most {} registers: {machine:?}", ceiling(variant)))
}

/// Assembles the variants that `chosen` selects and returns their registers. It must select one at least.
pub fn check_all(
    arch: Arch,
    dtype: ElemType,
    chosen: impl Fn(&Variant) -> bool,
) -> Option<BTreeMap<String, usize>> {
    let all = Variant::all().into_iter().chain(blast_offline::cooperative(arch, dtype));
    let variants: Vec<Variant> = all.filter(|variant| chosen(variant)).collect();
    assemble(arch, &variants, |_| dtype, fault)
}

/// Assembles some variants and returns their registers, if `fault` finds nothing wrong with any.
pub fn assemble<V: Definition>(
    arch: Arch,
    variants: &[V],
    dtype: impl Fn(&V) -> ElemType,
    fault: impl Fn(&V, &Machine) -> Option<String>,
) -> Option<BTreeMap<String, usize>> {
    let toolkit = toolkit()?;
    assert!(!variants.is_empty(), "no variant was chosen");
    let generate = |variant: &V| {
        let source = generate(variant, arch, dtype(variant), AddressType::U32).unwrap();
        assert_eq!(source.shared_bytes, variant.shared_bytes(), "{}", variant.name());
        (variant.name(), source)
    };
    let kernels: Vec<_> = variants.iter().map(generate).collect();
    let machines = toolkit.compile(arch, &kernels).unwrap_or_else(|error| panic!("{error}"));
    let checked = variants.iter().zip(&machines);
    let wrong: Vec<String> =
        checked.filter_map(|(variant, machine)| fault(variant, machine)).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), variants.len(), wrong.join("\n"));
    Some(machines.into_iter().map(|machine| (machine.name, machine.registers)).collect())
}

#[test]
fn kernels_on_the_page_spill_nothing_and_cost_what_it_says() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/kernel-ladder.md");
    let page = std::fs::read_to_string(page).unwrap();
    let variants = ladder::on_the_page();
    let names: Vec<String> = variants.iter().map(Variant::name).collect();
    for name in &names {
        assert!(
            page.contains(&format!("| {name} |")),
            "docs/src/kernel-ladder.md lacks {name}: run the ladder"
        );
    }
    let on_it = |variant: &Variant| variants.contains(variant);
    let [Some(ampere), Some(hopper)] = Arch::ON_THE_PAGE.map(|arch| check_all(arch, BF16, on_it))
    else {
        return;
    };
    for variant in &variants {
        let row = ladder::row(variant, [&ampere, &hopper].map(|all| all[&variant.name()]));
        assert!(page.contains(&row), "docs/src/kernel-ladder.md lacks {row}: run the ladder");
    }
    assert!(names.len() > 80, "{} kernels", names.len());
}

#[test]
fn the_other_variants_spill_nothing() {
    let names = [
        "spmm_256x128_bias",
        "spmm_128x64_bias_gelu_residual",
        "spmm_t_256x128_residual",
        "gated_128x128_joint_gelu",
        "gated_backward_128x64_joint_gelu",
        "sddmm_128x128_split_k",
    ];
    check_all(Arch::Sm80, BF16, named(names));
    let names = [
        "spmm_128x64_bias_silu",
        "spmm_t_64x32",
        "gated_backward_256x64_joint",
        "sddmm_128x64",
        "add_row_parts",
    ];
    check_all(Arch::Sm80, F16, named(names));
    let names = ["spmm_256x128_bias_gelu_residual_split_k", "add_parts_64_bias_gelu_residual"];
    check_all(Arch::Sm90, BF16, named(names));
    let names = [
        "spmm_256x128_bias_gelu_residual_plain",
        "spmm_t_128x64_plain",
        "gated_128x128_plain",
        "gated_backward_64x32_joint_plain",
        "sddmm_128x32_plain",
    ];
    check_all(Arch::Sm80, BF16, named(names));
}

#[test]
fn cooperative_matrices_of_f16_spill_nothing() {
    let names = [
        "spmm_cmma_64x16",
        "spmm_cmma_64x64_bias_gelu_residual",
        "spmm_t_cmma_128x64",
        "sddmm_cmma_64x64",
    ];
    check_all(Arch::Sm80, F16, named(names));
}

#[test]
fn metal_s_source_has_its_8_by_8_matrices() {
    let all = blast_offline::metal().unwrap();
    assert!(all.len() >= 16, "{} kernels", all.len());
    for (variant, code) in all {
        let name = variant.name();
        let transposed = variant.verb() != Verb::Spmm;
        for part in ["simdgroup_half8x8", "simdgroup_float8x8", "simdgroup_multiply_accumulate"] {
            assert!(code.contains(part), "{name} lacks {part}:\n{code}");
        }
        assert_eq!(code.contains(", 0, true);"), transposed, "{name}:\n{code}");
        assert!(variant.shared_bytes() <= 32 * 1024, "{name}");
    }
}

#[test]
fn the_widest_tiles_assemble_for_consumer_gpus() {
    let names = ["spmm_256x128", "spmm_t_128x64", "gated_256x64_joint", "sddmm_128x128_split_k"];
    for arch in [Arch::Sm86, Arch::Sm89, Arch::Sm120] {
        check_all(arch, BF16, named(names));
    }
}

#[test]
fn indices_of_64_bits_spill_nothing() {
    let Some(toolkit) = toolkit() else { return };
    for name in ["spmm_256x128_bias_gelu_residual_plain", "sddmm_128x128_plain"] {
        let variant = common::variant(name);
        let source = generate(&variant, Arch::Sm90, BF16, AddressType::U64).unwrap();
        let machines = toolkit.compile(Arch::Sm90, &[(name.into(), source)]).unwrap();
        assert_eq!(fault(&variant, &machines[0]), None, "{name}");
    }
}

#[test]
fn facts_belong_to_a_source_and_an_architecture_and_not_to_a_name() {
    let Some(toolkit) = toolkit() else { return };
    let [small, large] =
        ["spmm_64x32", "spmm_256x128"].map(|name| source(&common::variant(name), BF16));
    let kernels = [("a".into(), small.clone()), ("b".into(), small), ("c".into(), large)];
    let mut registers = Vec::new();
    for arch in [Arch::Sm80, Arch::Sm80, Arch::Sm90] {
        let machines = toolkit.compile(arch, &kernels).unwrap();
        let names: Vec<&str> = machines.iter().map(|machine| machine.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        registers.push([0, 1, 2].map(|at| machines[at].registers));
    }
    let [[a, b, c], again, hopper] = registers.try_into().unwrap();
    assert!(a == b && a < c, "{a}, {b}, {c}");
    assert_eq!([a, b, c], again);
    // ptxas gives the larger one another number there.
    assert_ne!(c, hopper[2]);
}

#[test]
fn a_kernel_that_does_not_compile_is_refused_with_the_compiler_s_words() {
    let Some(toolkit) = toolkit() else { return };
    let mut source = source(&common::variant("add_row_parts"), BF16);
    source.code = source.code.replace("return;", "return nonsense;");
    let kernels = [("broken".into(), source)];
    // The second time as well: only what compiles is kept.
    for _ in 0..2 {
        let error = toolkit.compile(Arch::Sm80, &kernels).unwrap_err().to_string();
        assert!(error.contains("NVRTC refuses broken.cu") && error.contains("nonsense"), "{error}");
    }
}
