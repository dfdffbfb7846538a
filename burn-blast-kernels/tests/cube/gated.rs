//! Gate and up of a gated block in one launch. The hidden features of a backward launch hold their gradient before it.

use burn_blast_kernels::cube::{self, Context};
use burn_blast_kernels::reference::{self, Exact};
use burn_blast_kernels::{Activation, BlockPattern};
use cubecl::server::Handle;

use crate::bench::{Bench, F16, F32, arg, kept, random};
use crate::common::{numbers, values};

/// Forward and backward of one block.
pub fn check(bench: &Bench, gate: &BlockPattern, up: &BlockPattern, f: Activation, m: usize) {
    let name = format!("{gate:?}, {up:?}, {f:?}, m = {m}");
    let shape = gate.shape();
    let x = bench.round(numbers(m * shape.rows(), 1));
    let dh = bench.round(numbers(m * shape.cols(), 2));
    let weights = [values(gate, 3), values(up, 4)].map(|values| bench.round(values));
    let [g, u] =
        [(gate, 0), (up, 1)].map(|(pattern, at)| reference::spmm(&x, &weights[at], None, pattern));
    let hidden = reference::gated_hidden(&g, &u, f);
    let ctx = Context::new(&bench.client, gate, bench.dtype).unwrap();
    let (len, poison) = (dh.len(), vec![f32::NAN; dh.len()]);
    let compare = |what: &str, handle: Handle, want: &[Exact]| {
        bench.check(&format!("{what} of {name}"), &bench.read(handle, len), want);
    };

    let h = bench.handle(&poison);
    let both = || weights.each_ref().map(|values| bench.upload(values));
    cube::gated_hidden(&ctx, up, f, bench.upload(&x), both(), arg(&h, len), m);
    compare("hidden", h, &hidden);

    let [h, dgate, dup] = [&dh, &poison, &poison].map(|data| bench.handle(data));
    let gradients = [&dgate, &dup].map(|handle| arg(handle, len));
    let over = arg(&h, len);
    cube::gated_hidden_backward(&ctx, up, f, bench.upload(&x), both(), over, gradients, m);
    let [want_gate, want_up] = reference::gated_gradients(&g, &u, &dh, f);
    compare("gradient of gate", dgate, &want_gate);
    compare("gradient of up", dup, &want_up);
    compare("hidden again", h, &hidden);
}

#[test]
fn two_patterns_agree_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    let (gate, up) = (random([40, 56, 16], 0.5, 1), random([40, 56, 16], 0.4, 2));
    for m in [1, 2, 15, 16, 17, 33] {
        check(&bench, &gate, &up, Activation::Silu, m);
    }
}

#[test]
fn one_pattern_agrees_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    let gate = random([40, 56, 16], 0.5, 1);
    // The same blocks from elsewhere are the same pattern.
    let up = random([40, 56, 16], 0.5, 1);
    for m in [1, 16, 33] {
        check(&bench, &gate, &up, Activation::Silu, m);
    }
}

#[test]
fn every_activation_agrees_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    let (gate, up) = (random([24, 32, 8], 0.6, 1), random([24, 32, 8], 0.6, 2));
    for f in [Activation::Relu, Activation::Gelu] {
        check(&bench, &gate, &up, f, 19);
    }
}

#[test]
fn rows_read_one_by_one_and_wide_blocks_agree_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    let (gate, up) = (random([21, 27, 8], 0.5, 1), random([21, 27, 8], 0.5, 2));
    check(&bench, &gate, &up, Activation::Silu, 17);
    let (gate, up) = (random([130, 192, 64], 0.7, 1), random([130, 192, 64], 0.7, 2));
    // Few rows and many, which take different kernels forward.
    for m in [5, 21] {
        check(&bench, &gate, &up, Activation::Silu, m);
    }
    // At block 128, two cubes share a block.
    let gate = random([132, 136, 128], 1.0, 1);
    for m in [3, 19] {
        check(&bench, &gate, &gate, Activation::Silu, m);
    }
}

#[test]
fn half_precision_agrees_with_the_oracle() {
    let Some(bench) = Bench::new(F16) else { return };
    let (gate, up) = (random([64, 96, 32], 0.5, 1), random([64, 96, 32], 0.5, 2));
    check(&bench, &gate, &up, Activation::Silu, 21);
    check(&bench, &gate, &gate, Activation::Silu, 21);
}

#[test]
fn columns_without_blocks_and_no_rows_are_written() {
    let Some(bench) = Bench::new(F32) else { return };
    let sides = [48, 64, 16];
    let empty = kept(sides, &[]);
    let gate = kept(sides, &[(0, 0), (2, 0), (1, 2)]);
    let up = kept(sides, &[(1, 0), (0, 1), (1, 3)]);
    for (gate, up) in [(&empty, &empty), (&gate, &empty), (&empty, &up), (&gate, &up)] {
        check(&bench, gate, up, Activation::Silu, 17);
    }
    check(&bench, &gate, &up, Activation::Silu, 0);
}

#[test]
#[should_panic(expected = "gate and up must have one size")]
fn layers_of_different_size_are_refused() {
    let Some(bench) = Bench::new(F32) else { panic!("gate and up must have one size: skipped") };
    let (gate, up) = (random([8, 8, 8], 1.0, 1), random([8, 16, 8], 1.0, 1));
    let ctx = Context::new(&bench.client, &gate, F32).unwrap();
    let zeros = |len: usize| bench.upload(&vec![0.0; len]);
    let values = [zeros(64), zeros(128)];
    cube::gated_hidden(&ctx, &up, Activation::Silu, zeros(8), values, zeros(8), 1);
}
