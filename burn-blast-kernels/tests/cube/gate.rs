//! Every kernel for many rows on tensor cores, through the public operations. On other devices a rehearsal of a few problems.

use burn_blast_kernels::Activation;
use burn_blast_kernels::cube::{Context, KernelClass, Op};

use crate::bench::{BF16, Bench, F16};
use crate::cases::{Case, Verb, cases};
use crate::{Problem, gated};

/// Runs the problems; says which class of kernel they took.
fn walk(bench: &Bench) {
    let units = bench.client.properties().hardware.num_streaming_multiprocessors;
    let units = units.filter(|&units| units > 1).unwrap_or(1) as usize;
    let cases = cases(units);
    let cores = class(bench, &cases[0]) == AHEAD;
    let chosen: Vec<&Case> = cases.iter().filter(|case| cores || rehearsed(case)).collect();
    for case in &chosen {
        assert_eq!(class(bench, case) == AHEAD, cores, "{case:?}");
        run(bench, case);
    }
    if !cores {
        let (some, all) = (chosen.len(), cases.len());
        println!("SKIPPED: no tensor cores for {:?}; rehearsed {some} of {all}", bench.dtype);
    }
}

/// Small problems, of which each takes another branch of [`run`].
fn rehearsed(case: &Case) -> bool {
    case.block == 32 && case.m == 60 && fullest(case)
}

/// One of a kind: everything added that can be.
fn fullest(case: &Case) -> bool {
    match case.verb {
        Verb::Spmm { residual, .. } | Verb::SpmmT { residual } => residual,
        Verb::Sddmm => true,
        Verb::Gated { activation, .. } => activation == Activation::Silu,
    }
}

/// The class of all kernels of the test.
const AHEAD: KernelClass = KernelClass::TensorCores { pipelined: true };

/// The class of kernel that a problem takes; on tensor cores, prints how it runs.
fn class(bench: &Bench, case: &Case) -> KernelClass {
    let (pattern, up) = (case.pattern(), case.up());
    let op = match case.verb {
        Verb::Spmm { bias, activation, residual } => {
            Op::Spmm { bias, activation: activation.is_some(), residual }
        }
        Verb::SpmmT { residual } => Op::SpmmT { residual },
        Verb::Sddmm => Op::Sddmm,
        Verb::Gated { backward, .. } => Op::Gated { up: &up, backward },
    };
    let plan = Context::new(&bench.client, &pattern, bench.dtype).unwrap().plan(op, case.m);
    if plan.class() == AHEAD {
        println!("{case:?}: {plan}");
    }
    plan.class()
}

fn run(bench: &Bench, case: &Case) {
    let problem = || Problem::new(bench, case.pattern(), case.m);
    match case.verb {
        Verb::Spmm { bias, activation, residual } => {
            problem().check_epilogue(bias, activation, residual);
        }
        Verb::SpmmT { residual } => problem().check_spmm_t(residual),
        Verb::Sddmm => problem().check_sddmm(),
        // One check runs forward and backward.
        Verb::Gated { backward: false, .. } => {}
        Verb::Gated { activation, .. } => {
            gated::check(bench, &case.pattern(), &case.up(), activation, case.m);
        }
    }
}

/// For the sanitizers, which slow a kernel down a hundredfold.
#[test]
fn one_problem_of_each_kind_in_bf16() {
    let Some(bench) = Bench::new(BF16) else { return };
    let small = |case: &&Case| case.block == 64 && [60, 1100].contains(&case.m);
    let cases = cases(1);
    let chosen: Vec<&Case> = cases.iter().filter(small).filter(|case| fullest(case)).collect();
    if class(&bench, chosen[0]) != AHEAD {
        println!("SKIPPED: no tensor cores for bf16");
        return;
    }
    chosen.iter().for_each(|case| run(&bench, case));
}

#[test]
fn every_kernel_for_many_rows_in_bf16() {
    if let Some(bench) = Bench::new(BF16) {
        walk(&bench);
    }
}

#[test]
fn every_kernel_for_many_rows_in_f16() {
    if let Some(bench) = Bench::new(F16) {
        walk(&bench);
    }
}
