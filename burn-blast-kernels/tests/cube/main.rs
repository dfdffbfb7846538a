//! Every CubeCL routine against the f64 oracle, on whatever adapter wgpu finds (in CI a software one).
//!
//! Output buffers hold NaN before each launch, so an element that is not written fails its check.

#![cfg(feature = "cube")]

mod bench;
#[path = "../common/gate.rs"]
mod cases;
#[path = "../common/mod.rs"]
mod common;
mod gate;
mod gated;
mod gemv;

use bench::{Bench, F16, F32, kept};
use burn_blast_kernels::cube::{self, Context, CubeError, Epilogue, KernelClass, Op, Unfused};
use burn_blast_kernels::reference::{self, Exact};
use burn_blast_kernels::{Activation, BlockPattern, pack};
use common::{numbers, random};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

/// Inputs of one problem, already rounded to the storage type.
struct Problem<'a> {
    bench: &'a Bench,
    pattern: BlockPattern,
    m: usize,
    x: Vec<f32>,
    dy: Vec<f32>,
    dense: Vec<f32>,
    values: Vec<f32>,
    bias: Vec<f32>,
}

impl<'a> Problem<'a> {
    fn new(bench: &'a Bench, pattern: BlockPattern, m: usize) -> Self {
        let draw = |count, seed| bench.round(numbers(count, seed));
        let shape = pattern.shape();
        let dense = draw(shape.area(), 1);
        Self {
            x: draw(m * shape.rows(), 2),
            dy: draw(m * shape.cols(), 3),
            bias: draw(shape.cols(), 4),
            values: pack::pack(&dense, &pattern),
            dense,
            bench,
            pattern,
            m,
        }
    }

    fn random(bench: &'a Bench, sizes: [usize; 3], m: usize, density: f64) -> Self {
        Self::new(bench, random(sizes, density, 11), m)
    }

    fn run(&self, len: usize, launch: impl FnOnce(&Context, BufferArg)) -> Vec<f32> {
        self.bench.run(&self.pattern, len, launch)
    }

    fn check(&self, name: &str, want: &[Exact], launch: impl FnOnce(&Context, BufferArg)) {
        let got = self.run(want.len(), launch);
        let name = format!("{name}, {:?}, m = {}", self.pattern, self.m);
        self.bench.check_product(&name, &got, want);
    }

    fn check_spmm(&self) {
        for bias in [None, Some(self.bias.as_slice())] {
            let want = reference::spmm(&self.x, &self.values, bias, &self.pattern);
            let name = format!("spmm, bias: {}", bias.is_some());
            self.check(&name, &want, |ctx, y| {
                let [x, values] = self.bench.uploads([&self.x, &self.values]);
                let bias = Epilogue::bias(bias.map(|bias| self.bench.upload(bias)));
                cube::spmm(ctx, x, values, bias, y, self.m);
            });
        }
    }

    fn check_spmm_t(&self, residual: bool) {
        let mut want = reference::spmm_t(&self.dy, &self.values, &self.pattern);
        if residual {
            want = plus(want, &self.x);
        }
        self.check(&format!("spmm_t, residual: {residual}"), &want, |ctx, dx| {
            let [dy, values] = self.bench.uploads([&self.dy, &self.values]);
            let residual = residual.then(|| self.bench.upload(&self.x));
            cube::spmm_t(ctx, dy, values, residual, dx, self.m);
        });
    }

    /// Bias, activation and residual at once.
    fn check_epilogues(&self) {
        for f in [Activation::Relu, Activation::Gelu, Activation::Silu] {
            self.check_epilogue(true, Some(f), true);
        }
        self.check_spmm_t(true);
    }

    /// A product with these parts, which its kernel fuses.
    fn check_epilogue(&self, bias: bool, activation: Option<Activation>, residual: bool) {
        let bias = bias.then_some(self.bias.as_slice());
        let mut want = reference::spmm(&self.x, &self.values, bias, &self.pattern);
        if let Some(f) = activation {
            want = reference::activate(&want, f);
        }
        if residual {
            want = plus(want, &self.dy);
        }
        let name = format!("spmm, bias: {}, {activation:?}, residual: {residual}", bias.is_some());
        self.check(&name, &want, |ctx, y| {
            let [x, values] = self.bench.uploads([&self.x, &self.values]);
            let epilogue = Epilogue {
                bias: bias.map(|bias| self.bench.upload(bias)),
                activation,
                residual: residual.then(|| self.bench.upload(&self.dy)),
            };
            let unfused = cube::spmm(ctx, x, values, epilogue, y, self.m);
            assert_eq!(unfused, Unfused::Nothing);
        });
    }

    fn check_sddmm(&self) {
        let want = reference::sddmm(&self.x, &self.dy, &self.pattern);
        self.check("sddmm", &want, |ctx, dw| {
            let [x, dy] = self.bench.uploads([&self.x, &self.dy]);
            cube::sddmm(ctx, x, dy, dw, self.m);
        });
        let want = reference::grad_block_norms(&self.x, &self.dy, &self.pattern);
        self.check("grad_block_norms", &want, |ctx, norms| {
            let [x, dy] = self.bench.uploads([&self.x, &self.dy]);
            cube::grad_block_norms(ctx, x, dy, norms, self.m);
        });
    }

    fn check_layout(&self) {
        let want = reference::block_norms(&self.values, &self.pattern);
        self.check("block_norms", &want, |ctx, norms| {
            cube::block_norms(ctx, self.bench.upload(&self.values), norms);
        });
        self.check("pack", &copies(&self.values), |ctx, values| {
            cube::pack(ctx, self.bench.upload(&self.dense), values);
        });
        let want = copies(&pack::unpack(&self.values, &self.pattern));
        self.check("unpack", &want, |ctx, dense| {
            cube::unpack(ctx, self.bench.upload(&self.values), dense);
        });
    }

    fn check_products(&self) {
        self.check_spmm();
        self.check_spmm_t(false);
        self.check_sddmm();
    }

    fn check_all(&self) {
        self.check_products();
        self.check_layout();
    }
}

/// Sums with one more term each.
fn plus(mut sums: Vec<Exact>, terms: &[f32]) -> Vec<Exact> {
    sums.iter_mut().zip(terms).for_each(|(sum, &term)| sum.add(f64::from(term)));
    sums
}

/// Elements that must arrive as they are.
fn copies(data: &[f32]) -> Vec<Exact> {
    data.iter().map(|&value| Exact { value: f64::from(value), abs_sum: 0.0, terms: 0 }).collect()
}

#[test]
fn every_size_of_blocks_agrees_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    for m in [1, 2, 15, 16, 17] {
        // Both sides ragged, rows read four at a time.
        Problem::random(&bench, [20, 28, 8], m, 0.5).check_all();
    }
    // Three rows of tiles.
    Problem::random(&bench, [16, 32, 16], 260, 0.75).check_all();
    // Ragged sides, read one by one.
    Problem::random(&bench, [50, 37, 16], 33, 0.6).check_all();
    Problem::random(&bench, [33, 64, 32], 5, 1.0).check_all();
    // Wide blocks.
    Problem::random(&bench, [130, 192, 64], 70, 0.7).check_all();
    Problem::random(&bench, [200, 260, 128], 3, 0.7).check_all();
}

#[test]
fn half_precision_agrees_with_the_oracle() {
    let Some(bench) = Bench::new(F16) else { return };
    Problem::random(&bench, [64, 96, 32], 21, 0.5).check_all();
    Problem::random(&bench, [21, 30, 8], 4, 0.5).check_all();
}

/// On CUDA with `BURN_BLAST_TF32=1`, every block that has a kernel in TF32.
#[test]
fn f32_takes_tensor_cores_where_they_are_allowed_and_nowhere_else() {
    let Some(bench) = Bench::new(F32) else { return };
    let cuda = std::env::var("BURN_BLAST_DEVICE").is_ok_and(|device| device == "cuda");
    for block in [16, 32, 64, 128] {
        // Rows and sides end inside tiles; more rows than the kernels for few take.
        let problem = Problem::random(&bench, [2 * block + 4, 3 * block - 4, block], 67, 0.6);
        let plan =
            Context::new(&bench.client, &problem.pattern, F32).unwrap().plan(Op::PRODUCT, 67);
        let tf32 = matches!(plan.class(), KernelClass::CooperativeMatrices { tf32: true, .. });
        assert_eq!(tf32, cube::tf32_allowed() && cuda, "{plan}");
        if tf32 {
            problem.check_products();
            problem.check_epilogues();
        }
    }
    if !(cube::tf32_allowed() && cuda) {
        println!("SKIPPED: products in TF32 want BURN_BLAST_TF32=1 and BURN_BLAST_DEVICE=cuda");
    }
}

#[test]
fn epilogues_agree_with_the_oracle() {
    let Some(bench) = Bench::new(F32) else { return };
    // Rows read and written four at a time, and one by one; columns without blocks.
    Problem::random(&bench, [40, 48, 16], 17, 0.4).check_epilogues();
    Problem::random(&bench, [21, 27, 8], 5, 0.5).check_epilogues();
}

#[test]
fn patterns_and_columns_without_blocks_write_zeros_and_the_bias() {
    let Some(bench) = Bench::new(F32) else { return };
    Problem::random(&bench, [48, 40, 16], 5, 0.0).check_all();
    let pattern = kept([64, 80, 16], &[(0, 1), (3, 1), (3, 4)]);
    Problem::new(&bench, pattern, 19).check_all();
}

#[test]
fn one_full_column_and_row_among_nearly_empty_ones_are_written() {
    let Some(bench) = Bench::new(F32) else { return };
    let cross = (0..8).flat_map(|at| [(at, 5), (2, at)]).chain([(7, 0)]);
    let pattern = kept([128, 120, 16], &cross.collect::<Vec<_>>());
    let problem = Problem::new(&bench, pattern, 18);
    assert_eq!(problem.pattern.work_order().cols_by_length[..2], [5, 0]);
    problem.check_products();
}

#[test]
fn no_rows_give_a_zero_gradient() {
    let Some(bench) = Bench::new(F32) else { return };
    Problem::random(&bench, [32, 48, 16], 0, 0.5).check_products();
}

#[test]
fn padding_stays_zero_when_the_other_side_is_not_finite() {
    let Some(bench) = Bench::new(F32) else { return };
    let mut problem = Problem::random(&bench, [20, 28, 8], 3, 1.0);
    problem.x.fill(f32::INFINITY);
    let got = problem.run(problem.values.len(), |ctx, dw| {
        let [x, dy] = bench.uploads([&problem.x, &problem.dy]);
        cube::sddmm(ctx, x, dy, dw, 3);
    });
    let inside = pack::pack(&vec![1.0_f32; 20 * 28], &problem.pattern);
    for (at, (&got, &inside)) in got.iter().zip(&inside).enumerate() {
        assert_eq!(got == 0.0, inside == 0.0, "element {at}: {got}");
    }
}

#[test]
fn a_zero_weight_does_not_hide_nan() {
    let Some(bench) = Bench::new(F32) else { return };
    // Few rows and many, which take different kernels.
    for m in [3, 33] {
        let mut problem = Problem::random(&bench, [32, 32, 16], m, 1.0);
        problem.values.fill(0.0);
        problem.x[32] = f32::NAN;
        let got = problem.run(m * 32, |ctx, y| {
            let [x, values] = bench.uploads([&problem.x, &problem.values]);
            cube::spmm(ctx, x, values, Epilogue::default(), y, m);
        });
        for (at, value) in got.into_iter().enumerate() {
            assert!(if at / 32 == 1 { value.is_nan() } else { value == 0.0 }, "{at}: {value}");
        }
    }
}

#[test]
fn norms_are_the_same_from_run_to_run() {
    let Some(bench) = Bench::new(F32) else { return };
    let problem = Problem::random(&bench, [64, 64, 32], 1, 1.0);
    let run = || {
        problem.run(problem.pattern.nnz(), |ctx, norms| {
            cube::block_norms(ctx, bench.upload(&problem.values), norms);
        })
    };
    let first = run();
    assert!((0..5).all(|_| run() == first));
}

#[test]
fn more_blocks_than_one_grid_dimension_holds_are_all_reduced() {
    let Some(bench) = Bench::new(F32) else { return };
    let problem = Problem::random(&bench, [2048, 2056, 8], 0, 1.0);
    assert!(problem.pattern.nnz() > 65535);
    problem.check_layout();
}

#[test]
fn weights_of_every_width_are_packed_and_unpacked() {
    let Some(bench) = Bench::new(F32) else { return };
    for block in [8, 32] {
        for cols in 89..=96 {
            Problem::random(&bench, [2 * block + 3, cols, block], 0, 0.5).check_layout();
        }
    }
    // No blocks, and all of them.
    for density in [0.0, 1.0] {
        Problem::random(&bench, [40, 92, 16], 0, density).check_layout();
    }
}

#[test]
fn other_types_are_refused_with_advice() {
    let Some(bench) = Bench::new(F32) else { return };
    let pattern = random([8, 8, 8], 1.0, 0);
    let refuse = |kind| Context::new(&bench.client, &pattern, ElemType::Float(kind)).err();
    assert!(matches!(refuse(FloatKind::F64), Some(CubeError::DataType { .. })));
    if let Some(error) = refuse(FloatKind::BF16) {
        assert!(error.to_string().contains("cast the weight and its input to F32"), "{error}");
    }
}
