//! A dry run of the test on a device (`tests/cube/gate.rs` of the kernels crate): which kernels its problems select.

use std::collections::BTreeSet;

use blast_offline::{Arch, BF16, target};
use burn_blast_kernels::cube::Op;
use burn_blast_kernels::cube::catalogue::{Definition, Variant};
use cubecl::ir::AddressType;

use self::problems::{Case, Verb, cases};

#[path = "../../../tests/common/gate.rs"]
mod problems;

/// Names of the kernels that no problem selects, of all that copy ahead or add partial sums. The others copy through registers
/// on devices without `cp.async`, or where a tensor has more than 2^32 elements; no problem here is as large.
fn missed(arch: Arch, chosen: impl Fn(&Case) -> bool) -> Vec<String> {
    let target = target(arch, BF16, AddressType::U32);
    let units = target.properties.hardware.num_streaming_multiprocessors.unwrap() as usize;
    let mut selected = BTreeSet::new();
    for case in cases(units).into_iter().filter(chosen) {
        let (pattern, up) = (case.pattern(), case.up());
        let (op, activation) = match case.verb {
            Verb::Spmm { bias, activation, residual } => {
                (Op::Spmm { bias, activation: activation.is_some(), residual }, activation)
            }
            Verb::SpmmT { residual } => (Op::SpmmT { residual }, None),
            Verb::Sddmm => (Op::Sddmm, None),
            Verb::Gated { backward, activation, .. } => {
                (Op::Gated { up: &up, backward }, Some(activation))
            }
        };
        let launched = Variant::launched(&target, op, activation, &pattern, case.m);
        assert!(!launched.is_empty(), "{case:?} takes no tensor cores");
        selected.extend(launched.iter().map(Variant::name));
    }
    let all = Variant::all().into_iter();
    let all = all.filter(|variant| variant.pipelined() || variant.tile_size().is_none());
    all.map(|variant| variant.name()).filter(|name| !selected.contains(name)).collect()
}

#[test]
fn the_problems_for_a_device_select_every_kernel_that_copies_ahead() {
    for arch in Arch::ALL {
        assert_eq!(missed(arch, |_| true), Vec::<String>::new(), "{arch:?}");
    }
}

#[test]
fn a_kernel_that_no_problem_selects_is_found() {
    let missed = missed(Arch::Sm90, |case| case.m != 300);
    assert!(missed.contains(&"spmm_256x64_bias".to_string()), "{missed:?}");
    assert!(missed.iter().all(|name| name.contains("_256x")), "{missed:?}");
}
