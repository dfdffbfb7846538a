//! The tables of `docs/src/kernel-ladder.md` about few rows: what each kernel costs, and which bytes a decoding
//! step has to move.

use std::fmt::Write;

use burn_blast_kernels::cube::catalogue::{Definition, FewRows};
use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape};

use crate::ladder::{registers, resident, row_head};
use crate::{BF16, OfflineError, Toolkit};

/// Bandwidth of the memory of an H100 that streaming reads reach, in TB/s: 90 % of 3.35. Guess; to be measured.
const MEMORY_TBPS: f64 = 3.0;
/// Multiprocessors of an H100.
const H100: usize = 132;
/// Products of the second table: `[d_input, d_output]` of gate and down in Llama 3.2 1B and Llama 3.1 8B.
const SHAPES: [[usize; 2]; 4] = [[2048, 8192], [8192, 2048], [4096, 14336], [14336, 4096]];

/// Whether the page has a row for a variant. The others differ in type, or in their epilogue.
pub fn on_the_page(variant: &FewRows) -> bool {
    let alone = !variant.bias && variant.gate().is_none() && !variant.splits_k() && !variant.adds;
    alone
        && variant.dtype == BF16
        && [32, 64, 128].contains(&variant.block())
        && [1, 4, 16].contains(&variant.rows())
}

/// One row a kernel, compiled with `toolkit`.
///
/// # Errors
/// If a kernel does not compile.
pub fn kernels(toolkit: &Toolkit) -> Result<String, OfflineError> {
    let variants: Vec<FewRows> = FewRows::all().into_iter().filter(on_the_page).collect();
    let registers = registers(toolkit, &variants)?;
    let mut text = String::from(
        "| kernel | units | registers sm_80, sm_90a | blocks per multiprocessor | KiB of values in flight there |\n\
         |---|---|---|---|---|\n",
    );
    variants.iter().zip(registers).for_each(|(variant, cost)| text.push_str(&row(variant, cost)));
    Ok(text)
}

fn row(variant: &FewRows, [ampere, hopper]: [usize; 2]) -> String {
    let blocks = resident(variant.units(), variant.shared_bytes(), hopper);
    let flight = blocks * variant.in_flight() / 1024;
    format!("{} {ampere}, {hopper} | {blocks} | {flight} |\n", row_head(variant))
}

/// The bytes that one product has to move at 90 % sparsity in blocks of 64, and the least time for them.
pub fn traffic() -> String {
    let mut text = String::from(
        "| product | rows | values | KiB of values | indices | x and y | µs | dense, µs | cubes | launches |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for [rows, cols] in SHAPES {
        for (m, int8) in [(1, false), (1, true), (16, false)] {
            text.push_str(&step([rows, cols], m, int8));
        }
    }
    text
}

fn step([rows, cols]: [usize; 2], m: usize, int8: bool) -> String {
    let (shape, block) = (MatrixShape::new(rows, cols), BlockSize::new(64));
    let (shape, block) = shape.and_then(|shape| Ok((shape, block?))).expect("the sizes are valid");
    let pattern = BlockPattern::random(shape, block, 0.1, 1);
    let blocks = FewRows::part_blocks(&pattern, if int8 { 1 } else { 2 }, H100);
    let [parts, _] = FewRows::work(&[&pattern], blocks);
    let cubes = parts.len() / 3;
    let values = pattern.value_count() * if int8 { 1 } else { 2 };
    let words = pattern.nnz() * if int8 { 2 } else { 1 } + pattern.block_cols() + 1 + parts.len();
    let (indices, tensors) = (4 * words, 2 * m * (rows + cols));
    let microseconds = |bytes: usize| bytes as f64 / MEMORY_TBPS / 1e6;
    let launches = if cubes > pattern.block_cols() { 2 } else { 1 };
    let kib = |bytes: usize| bytes as f64 / 1024.0;
    let mut text = String::new();
    write!(
        text,
        "| {rows} x {cols} | {m} | {} | {:.0} | {:.0} | {:.0} | {:.2} | {:.1} | {cubes} | {launches} |",
        if int8 { "int8" } else { "bf16" },
        kib(values),
        kib(indices),
        kib(tensors),
        microseconds(values + indices + tensors),
        microseconds(2 * rows * cols + tensors),
    )
    .expect("a string takes any text");
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_holds_what_its_kernel_costs() {
        let all = FewRows::all();
        let variant = all.iter().find(|one| one.name() == "gemv_16x64_bf16").unwrap();
        // 160 registers for each of 128 units leave room for three; neighbours share a vector, so 4 KiB of each.
        assert_eq!(row(variant, [150, 156]), "| gemv_16x64_bf16 | 128 | 150, 156 | 3 | 12 |\n");
    }

    #[test]
    fn a_step_moves_the_values_and_little_else() {
        // 410 of 4096 blocks of 8 KiB; 539 words for blocks and columns, 387 for cubes. One column has eight blocks.
        let want = "| 2048 x 8192 | 1 | bf16 | 3280 | 4 | 20 | 1.13 | 11.2 | 129 | 2 |\n";
        assert_eq!(step([2048, 8192], 1, false), want);
    }
}
