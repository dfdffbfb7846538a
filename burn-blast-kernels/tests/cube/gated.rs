//! Gate and up of a gated block in one launch. The hidden features of a backward launch hold their gradient before it.

use burn_blast_kernels::cube::{self, Context};
use burn_blast_kernels::reference::{self, Exact};
use burn_blast_kernels::{Activation, BlockPattern};
use cubecl::server::Handle;

use crate::bench::{Bench, F16, F32, arg, kept};
use crate::common::{numbers, random, values};

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
fn every_kind_of_pair_agrees_with_the_oracle() {
    use Activation::{Gelu, Relu, Silu};
    let Some(bench) = Bench::new(F32) else { return };
    let cases: [([usize; 3], f64, Activation, &[usize]); 5] = [
        ([40, 56, 16], 0.5, Silu, &[1, 2, 15, 16, 17, 33]),
        ([24, 32, 8], 0.6, Relu, &[19]),
        ([24, 32, 8], 0.6, Gelu, &[19]),
        // Rows read one by one.
        ([21, 27, 8], 0.5, Silu, &[17]),
        // Wide blocks; few rows and many, which take different kernels forward.
        ([130, 192, 64], 0.7, Silu, &[5, 21]),
    ];
    for (sizes, density, f, rows) in cases {
        for &m in rows {
            check(&bench, &random(sizes, density, 1), &random(sizes, density, 2), f, m);
        }
    }
    // One pattern for both, the second time built again. At block 128, two cubes share a block.
    let sizes = [40, 56, 16];
    for (sizes, m) in
        [(sizes, 1), (sizes, 16), (sizes, 33), ([132, 136, 128], 3), ([132, 136, 128], 19)]
    {
        check(&bench, &random(sizes, 0.7, 1), &random(sizes, 0.7, 1), Silu, m);
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
#[should_panic(expected = "gate and up must have one size and one block size, got BlockPattern(")]
fn layers_of_different_size_are_refused() {
    let Some(bench) = Bench::new(F32) else {
        panic!("gate and up must have one size and one block size, got BlockPattern( skipped")
    };
    let (gate, up) = (random([8, 8, 8], 1.0, 1), random([8, 16, 8], 1.0, 1));
    let ctx = Context::new(&bench.client, &gate, F32).unwrap();
    let zeros = |len: usize| bench.upload(&vec![0.0; len]);
    let values = [zeros(64), zeros(128)];
    cube::gated_hidden(&ctx, &up, Activation::Silu, zeros(8), values, zeros(8), 1);
}
