//! The table of `docs/src/kernel-ladder.md`: what each kernel costs, and what bounds it on paper.

use burn_blast_kernels::Activation;
use burn_blast_kernels::cube::catalogue::{Definition, Parts, Variant, Verb};
use cubecl::ir::AddressType;

use crate::{Arch, BF16, OfflineError, Toolkit, cooperative, generate};

/// Registers of a multiprocessor, in both architectures.
const REGISTERS: usize = 65_536;
/// Shared memory of a multiprocessor of an H100, and what each block takes on top of its own, in bytes.
const SHARED: usize = 228 * 1024;
const SHARED_RESERVED: usize = 1024;
/// Granularity of register allocation per warp.
const REGISTER_UNIT: usize = 256;
/// Rate of `mma.sync` on an H100 in TFLOP/s: 62 % of 800 for dense bf16. From public micro-benchmarks of
/// Hopper; to be measured.
const MMA_TFLOPS: f64 = 500.0;
/// Bandwidth from L2 to shared memory of an H100 in TB/s, lower end of public micro-benchmarks; to be measured.
const L2_TBPS: f64 = 5.5;

/// The variants that the page has a row for, in its order. The others differ in their epilogue, or in how copies are
/// made.
pub fn on_the_page() -> Vec<Variant> {
    let mut variants = Variant::all();
    // They depend only on properties that both architectures have, so one list suffices.
    variants.extend(cooperative(Arch::Sm80, BF16));
    variants.retain(|variant| {
        (variant.pipelined() || variant.is_cooperative() || variant.tile_size().is_none())
            && variant.epilogue() == Parts::default()
            && variant.gate().is_none_or(|gate| gate == Activation::Silu)
            && !(variant.verb() == Verb::Sddmm && variant.splits_k())
    });
    variants.sort_by_key(|variant| {
        let verbs = [Verb::Spmm, Verb::SpmmT, Verb::Sddmm, Verb::Gated, Verb::GatedBackward];
        let verb = verbs.iter().position(|&verb| verb == variant.verb()).unwrap_or(verbs.len());
        let kind = (variant.is_cooperative(), variant.splits_k(), variant.joint());
        (kind.0, verb, kind, variant.tile_size().map(|[rows, cols]| (cols, rows)))
    });
    variants
}

/// The rows of the table, compiled with `toolkit`.
///
/// # Errors
/// If a kernel does not compile.
pub fn table(toolkit: &Toolkit) -> Result<String, OfflineError> {
    let variants = on_the_page();
    let registers = registers(toolkit, &variants)?;
    let mut text = String::from(
        "| kernel | units | registers sm_80, sm_90a | shared KiB | blocks per multiprocessor | B per output and step \
         | FLOP per B | paper bound, TFLOP/s |\n|---|---|---|---|---|---|---|---|\n",
    );
    variants.iter().zip(registers).for_each(|(variant, cost)| text.push_str(&row(variant, cost)));
    Ok(text)
}

/// Registers of each variant in bf16, on Ampere and on Hopper.
pub(crate) fn registers<V: Definition>(
    toolkit: &Toolkit,
    variants: &[V],
) -> Result<Vec<[usize; 2]>, OfflineError> {
    let compile = |arch: Arch| {
        let source = |one: &V| Ok((one.name(), generate(one, arch, BF16, AddressType::U32)?));
        let sources: Result<Vec<_>, OfflineError> = variants.iter().map(source).collect();
        toolkit.compile(arch, &sources?)
    };
    let (ampere, hopper) = (compile(Arch::Sm80)?, compile(Arch::Sm90)?);
    Ok(ampere.iter().zip(&hopper).map(|(a, b)| [a.registers, b.registers]).collect())
}

/// How the row of a variant begins.
pub fn row_head(variant: &impl Definition) -> String {
    format!("| {} | {} |", variant.name(), variant.units())
}

/// The row of a variant, with its registers on Ampere and on Hopper.
pub fn row(variant: &Variant, [ampere, hopper]: [usize; 2]) -> String {
    let bound = variant.tile_size().map_or("| |".into(), |size| {
        let [rows, cols] = size.map(|side| side as f64);
        // A step of the contraction brings one row of each operand, two bytes per element, for two operations per
        // output.
        let bytes = 2.0 * (rows + cols) / (rows * cols);
        let intensity = 2.0 / bytes;
        let bound = (intensity * L2_TBPS).min(MMA_TFLOPS);
        format!("{bytes:.3} | {intensity:.0} | {bound:.0}")
    });
    format!(
        "{} {ampere}, {hopper} | {} | {} | {bound} |\n",
        row_head(variant),
        variant.shared_bytes() / 1024,
        resident(variant.units(), variant.shared_bytes(), hopper),
    )
}

/// Cubes that a multiprocessor of an H100 holds at once, limited by registers per unit and by shared memory per cube.
pub(crate) fn resident(units: usize, shared_bytes: usize, registers: usize) -> usize {
    let warp = (registers * 32).next_multiple_of(REGISTER_UNIT);
    let by_registers = REGISTERS / warp / (units / 32);
    by_registers.min(SHARED / (shared_bytes + SHARED_RESERVED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_what_its_tile_costs() {
        let all = Variant::all();
        let variant = all.iter().find(|variant| variant.name() == "spmm_256x128").unwrap();
        // 384 two-byte elements per step for 256 x 128 outputs; 85.3 FLOP per byte at 5.5 TB/s.
        assert_eq!(
            row(variant, [200, 200]),
            "| spmm_256x128 | 256 | 200, 200 | 96 | 1 | 0.023 | 85 | 469 |\n"
        );
        let adder = all.iter().find(|variant| variant.name() == "add_parts_64").unwrap();
        assert_eq!(row(adder, [30, 32]), "| add_parts_64 | 256 | 30, 32 | 0 | 8 | | | |\n");
    }
}
