//! Every kernel of the catalogue, where the other tests take one or two of a kind:
//! `cargo test --release -p blast-offline every:: -- --ignored --test-threads 1`.

use std::collections::BTreeMap;

use blast_offline::{Arch, BF16, F16, cooperative};
use burn_blast_kernels::Activation;
use burn_blast_kernels::cube::catalogue::{Parts, Variant, Verb};

use crate::{few_rows, kernels, portable, toolkit};

/// Whether the variant adds nothing to its sums, or everything that can be.
fn extreme(variant: &Variant) -> bool {
    let Parts { bias, activation, residual } = variant.epilogue();
    let between = variant.gate() == Some(Activation::Silu) && variant.pipelined();
    first(variant) && (residual || !bias && activation.is_none()) && !between
}

/// Whether it is a first pass. Second passes run with the kernels that they belong to.
fn first(variant: &Variant) -> bool {
    !matches!(variant.verb(), Verb::AddRowParts | Verb::AddParts)
}

/// Shows the registers of every kernel, with `--nocapture`.
fn print(arch: Arch, registers: Option<BTreeMap<String, usize>>) {
    let registers = registers.unwrap_or_default();
    println!("{}, {} kernels: {registers:?}", arch.flag(), registers.len());
}

#[test]
#[ignore = "all of them take an hour of one core; CI takes every tile, and this is run when kernels change"]
fn every_tensor_core_kernel_assembles() {
    for arch in Arch::ALL {
        for dtype in [BF16, F16] {
            print(arch, toolkit::check_all(arch, dtype, |_| true));
        }
    }
}

#[test]
#[ignore = "all of them take an hour of one core; CI takes every tile, and this is run when kernels change"]
fn every_kernel_for_few_rows_assembles() {
    for arch in Arch::ALL {
        print(arch, few_rows::assemble(arch, |_| true));
    }
}

#[test]
#[ignore = "all of them take an hour of one core; CI takes every tile, and this is run when kernels change"]
fn every_product_in_bf16() {
    kernels::check(BF16, |variant| first(variant) && variant.gate().is_none());
}

#[test]
#[ignore = "all of them take an hour of one core; CI takes every tile, and this is run when kernels change"]
fn every_gated_kernel_in_bf16() {
    kernels::check(BF16, |variant| variant.gate().is_some());
}

#[test]
#[ignore = "all of them take an hour of one core; CI takes every tile, and this is run when kernels change"]
fn every_tile_in_f16_with_the_barest_and_the_fullest_epilogue() {
    kernels::check(F16, extreme);
}

#[test]
#[ignore = "all of them take an hour of one core; CI takes every tile, and this is run when kernels change"]
fn every_kernel_on_cooperative_matrices() {
    for dtype in [BF16, F16] {
        kernels::check_all(dtype, cooperative(Arch::Sm80, dtype), |_| true);
    }
}

#[test]
#[ignore = "all of them take an hour of one core; CI takes every tile, and this is run when kernels change"]
fn every_portable_kernel() {
    portable::check(1);
    portable::check_in_browser(1);
}
