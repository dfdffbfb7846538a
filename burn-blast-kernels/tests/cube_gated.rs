//! Gate and up of a gated block in one launch, against the f64 oracle, on whatever adapter wgpu finds.
//!
//! Outputs hold NaN before each launch; the hidden features of a backward launch hold their gradient.

#![cfg(feature = "cube")]

mod common;
mod gpu;

use burn_blast_kernels::Activation;
use burn_blast_kernels::cube::{self, Context};
use burn_blast_kernels::reference::{self, Exact, Rounding};
use burn_blast_kernels::{BlockMask, BlockPattern, BlockSize, MatrixShape};
use common::{numbers, values};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use cubecl::server::Handle;
use gpu::client;
use half::f16;

const F32: ElemType = ElemType::Float(FloatKind::F32);
const F16: ElemType = ElemType::Float(FloatKind::F16);

fn random(rows: usize, cols: usize, block: usize, density: f64, seed: u64) -> BlockPattern {
    let shape = MatrixShape::new(rows, cols).unwrap();
    BlockPattern::random(shape, BlockSize::new(block).unwrap(), density, seed)
}

fn of_blocks(sides: [usize; 2], block: usize, kept: &[(usize, usize)]) -> BlockPattern {
    let shape = MatrixShape::new(sides[0], sides[1]).unwrap();
    let mut mask = BlockMask::empty(shape, BlockSize::new(block).unwrap());
    kept.iter().for_each(|&(row, col)| mask.set(row, col, true));
    BlockPattern::from_mask(&mask)
}

/// Tensors on a device, of one storage type.
struct Bench {
    client: Client,
    dtype: ElemType,
}

impl Bench {
    fn round(&self, data: Vec<f32>) -> Vec<f32> {
        let exact = |x: f32| if self.dtype == F16 { f16::from_f32(x).to_f32() } else { x };
        data.into_iter().map(exact).collect()
    }

    fn handle(&self, data: &[f32]) -> Handle {
        let halves: Vec<f16>;
        let bytes = if self.dtype == F16 {
            halves = data.iter().map(|&value| f16::from_f32(value)).collect();
            f16::as_bytes(&halves)
        } else {
            f32::as_bytes(data)
        };
        // A zero-sized buffer cannot be read back.
        self.client.create_from_slice(if bytes.is_empty() { &[0; 16] } else { bytes })
    }

    fn arg(&self, handle: &Handle, len: usize) -> BufferArg {
        // SAFETY: every handle here was made from `len` elements.
        unsafe { BufferArg::from_raw_parts(handle.clone(), len) }
    }

    fn upload(&self, data: &[f32]) -> BufferArg {
        self.arg(&self.handle(data), data.len())
    }

    fn check(&self, name: &str, handle: Handle, want: &[Exact]) {
        let bytes = self.client.read_one(handle).unwrap();
        let bytes = &bytes[..want.len() * self.dtype.size()];
        let (got, rounding): (Vec<f32>, _) = if self.dtype == F16 {
            (f16::from_bytes(bytes).iter().map(|value| value.to_f32()).collect(), Rounding::F16)
        } else {
            (f32::from_bytes(bytes).to_vec(), Rounding::F32)
        };
        rounding
            .check(&got, want)
            .unwrap_or_else(|error| panic!("{name}, {:?}: {error}", self.dtype));
    }

    /// Forward and backward of one block.
    fn check_gated(&self, gate: &BlockPattern, up: &BlockPattern, f: Activation, m: usize) {
        let name = format!("{gate:?}, {up:?}, {f:?}, m = {m}");
        let shape = gate.shape();
        let x = self.round(numbers(m * shape.rows(), 1));
        let dh = self.round(numbers(m * shape.cols(), 2));
        let weights = [values(gate, 3), values(up, 4)].map(|values| self.round(values));
        let [g, u] = [(gate, 0), (up, 1)]
            .map(|(pattern, at)| reference::spmm(&x, &weights[at], None, pattern));
        let hidden = reference::gated_hidden(&g, &u, f);
        let ctx = Context::new(&self.client, gate, self.dtype).unwrap();
        let (len, poison) = (dh.len(), vec![f32::NAN; dh.len()]);

        let h = self.handle(&poison);
        let both = || weights.each_ref().map(|values| self.upload(values));
        cube::gated_hidden(&ctx, up, f, self.upload(&x), both(), self.arg(&h, len), m);
        self.check(&format!("hidden of {name}"), h, &hidden);

        let [h, dgate, dup] = [&dh, &poison, &poison].map(|data| self.handle(data));
        let gradients = [&dgate, &dup].map(|handle| self.arg(handle, len));
        let over = self.arg(&h, len);
        cube::gated_hidden_backward(&ctx, up, f, self.upload(&x), both(), over, gradients, m);
        let [want_gate, want_up] = reference::gated_gradients(&g, &u, &dh, f);
        self.check(&format!("gradient of gate of {name}"), dgate, &want_gate);
        self.check(&format!("gradient of up of {name}"), dup, &want_up);
        self.check(&format!("hidden again of {name}"), h, &hidden);
    }
}

fn bench(dtype: ElemType) -> Option<Bench> {
    let client = client()?;
    let pattern = random(8, 8, 8, 1.0, 0);
    if let Err(error) = Context::new(&client, &pattern, dtype) {
        println!("skipped: {error}");
        return None;
    }
    Some(Bench { client, dtype })
}

#[test]
fn two_patterns_agree_with_the_oracle() {
    let Some(bench) = bench(F32) else { return };
    let (gate, up) = (random(40, 56, 16, 0.5, 1), random(40, 56, 16, 0.4, 2));
    for m in [1, 2, 15, 16, 17, 33] {
        bench.check_gated(&gate, &up, Activation::Silu, m);
    }
}

#[test]
fn one_pattern_agrees_with_the_oracle() {
    let Some(bench) = bench(F32) else { return };
    let gate = random(40, 56, 16, 0.5, 1);
    // The same blocks from elsewhere are the same pattern.
    let up = random(40, 56, 16, 0.5, 1);
    for m in [1, 16, 33] {
        bench.check_gated(&gate, &up, Activation::Silu, m);
    }
}

#[test]
fn every_activation_agrees_with_the_oracle() {
    let Some(bench) = bench(F32) else { return };
    let (gate, up) = (random(24, 32, 8, 0.6, 1), random(24, 32, 8, 0.6, 2));
    for f in [Activation::Relu, Activation::Gelu] {
        bench.check_gated(&gate, &up, f, 19);
    }
}

#[test]
fn rows_read_one_by_one_and_wide_blocks_agree_with_the_oracle() {
    let Some(bench) = bench(F32) else { return };
    let (gate, up) = (random(21, 27, 8, 0.5, 1), random(21, 27, 8, 0.5, 2));
    bench.check_gated(&gate, &up, Activation::Silu, 17);
    let (gate, up) = (random(130, 192, 64, 0.7, 1), random(130, 192, 64, 0.7, 2));
    // Few rows and many, which take different kernels forward.
    for m in [5, 21] {
        bench.check_gated(&gate, &up, Activation::Silu, m);
    }
    // At block 128, two cubes share a block.
    let gate = random(132, 136, 128, 1.0, 1);
    for m in [3, 19] {
        bench.check_gated(&gate, &gate, Activation::Silu, m);
    }
}

#[test]
fn half_precision_agrees_with_the_oracle() {
    let Some(bench) = bench(F16) else { return };
    let (gate, up) = (random(64, 96, 32, 0.5, 1), random(64, 96, 32, 0.5, 2));
    bench.check_gated(&gate, &up, Activation::Silu, 21);
    bench.check_gated(&gate, &gate, Activation::Silu, 21);
}

#[test]
fn columns_without_blocks_and_no_rows_are_written() {
    let Some(bench) = bench(F32) else { return };
    let sides = [48, 64];
    let empty = of_blocks(sides, 16, &[]);
    let gate = of_blocks(sides, 16, &[(0, 0), (2, 0), (1, 2)]);
    let up = of_blocks(sides, 16, &[(1, 0), (0, 1), (1, 3)]);
    for (gate, up) in [(&empty, &empty), (&gate, &empty), (&empty, &up), (&gate, &up)] {
        bench.check_gated(gate, up, Activation::Silu, 17);
    }
    bench.check_gated(&gate, &up, Activation::Silu, 0);
}

#[test]
#[should_panic(
    expected = "gate and up must have one size and one block size, got BlockPattern(8 x 8"
)]
fn layers_of_different_size_are_refused() {
    let Some(bench) = bench(F32) else {
        panic!("gate and up must have one size and one block size, got BlockPattern(8 x 8: skipped")
    };
    let (gate, up) = (random(8, 8, 8, 1.0, 1), random(8, 16, 8, 1.0, 1));
    let ctx = Context::new(&bench.client, &gate, F32).unwrap();
    let zeros = |len: usize| bench.upload(&vec![0.0; len]);
    let values = [zeros(64), zeros(128)];
    cube::gated_hidden(&ctx, &up, Activation::Silu, zeros(8), values, zeros(8), 1);
}
