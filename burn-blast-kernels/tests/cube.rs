//! Every CubeCL routine against the f64 oracle, on whatever adapter wgpu finds (in CI a software one).
//!
//! Output buffers hold NaN before each launch, so an element that is not written fails its check.

#![cfg(feature = "cube")]

mod gpu;

use burn_blast_kernels::Activation;
use burn_blast_kernels::cube::{self, Context, CubeError, Epilogue, KernelClass, Left, Op};
use burn_blast_kernels::reference::{self, Exact, Rounding};
use burn_blast_kernels::{BlockMask, BlockPattern, BlockSize, MatrixShape, pack};
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;
use gpu::client;
use half::f16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const F32: ElemType = ElemType::Float(FloatKind::F32);
const F16: ElemType = ElemType::Float(FloatKind::F16);

/// Inputs of one problem, already rounded to the storage type.
struct Problem {
    client: Client,
    dtype: ElemType,
    pattern: BlockPattern,
    m: usize,
    x: Vec<f32>,
    dy: Vec<f32>,
    dense: Vec<f32>,
    values: Vec<f32>,
    bias: Vec<f32>,
}

impl Problem {
    fn new(client: &Client, dtype: ElemType, pattern: BlockPattern, m: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut draw = |count: usize| -> Vec<f32> {
            let exact =
                |value: f32| if dtype == F16 { f16::from_f32(value).to_f32() } else { value };
            (0..count).map(|_| exact(rng.random_range(-1.0..1.0))).collect()
        };
        let shape = pattern.shape();
        let dense = draw(shape.area());
        Self {
            x: draw(m * shape.rows()),
            dy: draw(m * shape.cols()),
            bias: draw(shape.cols()),
            values: pack::pack(&dense, &pattern),
            dense,
            client: client.clone(),
            dtype,
            pattern,
            m,
        }
    }

    fn random(client: &Client, dtype: ElemType, sizes: [usize; 3], m: usize, density: f64) -> Self {
        let [rows, cols, block] = sizes;
        let shape = MatrixShape::new(rows, cols).unwrap();
        let pattern = BlockPattern::random(shape, BlockSize::new(block).unwrap(), density, 11);
        Self::new(client, dtype, pattern, m)
    }

    fn upload(&self, data: &[f32]) -> BufferArg {
        let bytes = if self.dtype == F16 {
            let halves: Vec<f16> = data.iter().map(|&value| f16::from_f32(value)).collect();
            f16::as_bytes(&halves).to_vec()
        } else {
            f32::as_bytes(data).to_vec()
        };
        // SAFETY: the buffer was made from `data`.
        unsafe { BufferArg::from_raw_parts(self.client.create_from_slice(&bytes), data.len()) }
    }

    /// Launches into a buffer full of NaN and checks what it holds afterwards.
    fn check(&self, name: &str, want: &[Exact], launch: impl FnOnce(&Context, BufferArg)) {
        let size = self.dtype.size();
        let poison: Vec<u8> = match self.dtype {
            F16 => f16::as_bytes(&vec![f16::NAN; want.len()]).to_vec(),
            _ => f32::as_bytes(&vec![f32::NAN; want.len()]).to_vec(),
        };
        // A zero-sized buffer cannot be read back.
        let handle =
            self.client.create_from_slice(if want.is_empty() { &[0; 16] } else { &poison });
        // SAFETY: the buffer holds at least that many elements.
        let out = unsafe { BufferArg::from_raw_parts(handle.clone(), want.len()) };
        let ctx = Context::new(&self.client, &self.pattern, self.dtype).unwrap();
        launch(&ctx, out);
        let bytes = self.client.read_one(handle).unwrap();
        let bytes = &bytes[..want.len() * size];
        let (got, rounding): (Vec<f32>, _) = match self.dtype {
            F16 => {
                (f16::from_bytes(bytes).iter().map(|value| value.to_f32()).collect(), Rounding::F16)
            }
            _ if cube::tf32_allowed() => (f32::from_bytes(bytes).to_vec(), Rounding::TF32),
            _ => (f32::from_bytes(bytes).to_vec(), Rounding::F32),
        };
        if let Err(error) = rounding.check(&got, want) {
            panic!("{name}, {:?}, {:?}, m = {}: {error}", self.pattern, self.dtype, self.m);
        }
    }

    fn check_spmm(&self) {
        let want = reference::spmm(&self.x, &self.values, None, &self.pattern);
        self.check("spmm", &want, |ctx, y| {
            cube::spmm(
                ctx,
                self.upload(&self.x),
                self.upload(&self.values),
                Epilogue::default(),
                y,
                self.m,
            );
        });
        let want = reference::spmm(&self.x, &self.values, Some(&self.bias), &self.pattern);
        self.check("spmm with bias", &want, |ctx, y| {
            let bias = Epilogue::bias(Some(self.upload(&self.bias)));
            cube::spmm(ctx, self.upload(&self.x), self.upload(&self.values), bias, y, self.m);
        });
    }

    fn check_spmm_t(&self) {
        let want = reference::spmm_t(&self.dy, &self.values, &self.pattern);
        self.check("spmm_t", &want, |ctx, dx| {
            cube::spmm_t(ctx, self.upload(&self.dy), self.upload(&self.values), None, dx, self.m);
        });
    }

    /// Bias, activation and residual at once.
    fn check_epilogues(&self) {
        let sums = reference::spmm(&self.x, &self.values, Some(&self.bias), &self.pattern);
        for f in [Activation::Relu, Activation::Gelu, Activation::Silu] {
            let want = plus(reference::activate(&sums, f), &self.dy);
            self.check(&format!("spmm with {f:?}"), &want, |ctx, y| {
                let epilogue = Epilogue {
                    bias: Some(self.upload(&self.bias)),
                    activation: Some(f),
                    residual: Some(self.upload(&self.dy)),
                };
                let (x, values) = (self.upload(&self.x), self.upload(&self.values));
                let left = cube::spmm(ctx, x, values, epilogue, y, self.m);
                assert_eq!(left, Left::Nothing);
            });
        }
        let want = plus(reference::spmm_t(&self.dy, &self.values, &self.pattern), &self.x);
        self.check("spmm_t with a residual", &want, |ctx, dx| {
            let (dy, values) = (self.upload(&self.dy), self.upload(&self.values));
            cube::spmm_t(ctx, dy, values, Some(self.upload(&self.x)), dx, self.m);
        });
    }

    fn check_sddmm(&self) {
        let want = reference::sddmm(&self.x, &self.dy, &self.pattern);
        self.check("sddmm", &want, |ctx, dw| {
            cube::sddmm(ctx, self.upload(&self.x), self.upload(&self.dy), dw, self.m);
        });
        let want = reference::grad_block_norms(&self.x, &self.dy, &self.pattern);
        self.check("grad_block_norms", &want, |ctx, norms| {
            cube::grad_block_norms(ctx, self.upload(&self.x), self.upload(&self.dy), norms, self.m);
        });
    }

    fn check_layout(&self) {
        let want = reference::block_norms(&self.values, &self.pattern);
        self.check("block_norms", &want, |ctx, norms| {
            cube::block_norms(ctx, self.upload(&self.values), norms);
        });
        self.check("pack", &copies(&self.values), |ctx, values| {
            cube::pack(ctx, self.upload(&self.dense), values);
        });
        let want = copies(&pack::unpack(&self.values, &self.pattern));
        self.check("unpack", &want, |ctx, dense| {
            cube::unpack(ctx, self.upload(&self.values), dense);
        });
    }

    fn check_all(&self) {
        self.check_spmm();
        self.check_spmm_t();
        self.check_sddmm();
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
fn small_blocks_agree_with_the_oracle() {
    let Some(client) = client() else { return };
    for m in [1, 2, 15, 16, 17] {
        // Both sides ragged, rows read four at a time.
        Problem::random(&client, F32, [20, 28, 8], m, 0.5).check_all();
    }
    // Three rows of tiles.
    Problem::random(&client, F32, [16, 32, 16], 260, 0.75).check_all();
}

#[test]
fn ragged_sides_read_one_by_one_agree_with_the_oracle() {
    let Some(client) = client() else { return };
    Problem::random(&client, F32, [50, 37, 16], 33, 0.6).check_all();
    Problem::random(&client, F32, [33, 64, 32], 5, 1.0).check_all();
}

#[test]
fn wide_blocks_agree_with_the_oracle() {
    let Some(client) = client() else { return };
    Problem::random(&client, F32, [130, 192, 64], 70, 0.7).check_all();
    Problem::random(&client, F32, [200, 260, 128], 3, 0.7).check_all();
}

#[test]
fn half_precision_agrees_with_the_oracle() {
    let Some(client) = client() else { return };
    let shape = MatrixShape::new(8, 8).unwrap();
    let pattern = BlockPattern::dense(shape, BlockSize::new(8).unwrap());
    if let Err(error) = Context::new(&client, &pattern, F16) {
        println!("skipped: {error}");
        return;
    }
    Problem::random(&client, F16, [64, 96, 32], 21, 0.5).check_all();
    Problem::random(&client, F16, [21, 30, 8], 4, 0.5).check_all();
}

/// On CUDA with `BURN_BLAST_TF32=1`, every block that has a kernel in TF32.
#[test]
fn f32_takes_tensor_cores_where_they_are_allowed_and_nowhere_else() {
    let Some(client) = client() else { return };
    let cuda = std::env::var("BURN_BLAST_DEVICE").is_ok_and(|device| device == "cuda");
    for block in [16, 32, 64, 128] {
        // Rows and sides end inside tiles; more rows than the kernels for few take.
        let problem = Problem::random(&client, F32, [2 * block + 4, 3 * block - 4, block], 67, 0.6);
        let plan = Context::new(&client, &problem.pattern, F32).unwrap().plan(Op::PRODUCT, 67);
        let tf32 = matches!(plan.class(), KernelClass::CooperativeMatrices { tf32: true, .. });
        assert_eq!(tf32, cube::tf32_allowed() && cuda, "{plan}");
        if tf32 {
            problem.check_spmm();
            problem.check_spmm_t();
            problem.check_sddmm();
            problem.check_epilogues();
        }
    }
    if !(cube::tf32_allowed() && cuda) {
        println!("SKIPPED: products in TF32 want BURN_BLAST_TF32=1 and BURN_BLAST_DEVICE=cuda");
    }
}

#[test]
fn epilogues_agree_with_the_oracle() {
    let Some(client) = client() else { return };
    // Rows read and written four at a time, and one by one; columns without blocks.
    Problem::random(&client, F32, [40, 48, 16], 17, 0.4).check_epilogues();
    Problem::random(&client, F32, [21, 27, 8], 5, 0.5).check_epilogues();
}

#[test]
fn an_empty_pattern_writes_zeros_and_the_bias() {
    let Some(client) = client() else { return };
    Problem::random(&client, F32, [48, 40, 16], 5, 0.0).check_all();
}

#[test]
fn empty_block_rows_and_columns_are_written() {
    let Some(client) = client() else { return };
    let shape = MatrixShape::new(64, 80).unwrap();
    let mut mask = BlockMask::empty(shape, BlockSize::new(16).unwrap());
    for (row, col) in [(0, 1), (3, 1), (3, 4)] {
        mask.set(row, col, true);
    }
    Problem::new(&client, F32, BlockPattern::from_mask(&mask), 19).check_all();
}

#[test]
fn one_full_column_and_row_among_nearly_empty_ones_are_written() {
    let Some(client) = client() else { return };
    let shape = MatrixShape::new(128, 120).unwrap();
    let mut mask = BlockMask::empty(shape, BlockSize::new(16).unwrap());
    (0..8).for_each(|at| mask.set(at, 5, true));
    (0..8).for_each(|at| mask.set(2, at, true));
    mask.set(7, 0, true);
    let problem = Problem::new(&client, F32, BlockPattern::from_mask(&mask), 18);
    assert_eq!(problem.pattern.work_order().cols_by_length[..2], [5, 0]);
    problem.check_spmm();
    problem.check_spmm_t();
    problem.check_sddmm();
}

#[test]
fn no_rows_give_a_zero_gradient() {
    let Some(client) = client() else { return };
    let problem = Problem::random(&client, F32, [32, 48, 16], 0, 0.5);
    problem.check_spmm();
    problem.check_spmm_t();
    problem.check_sddmm();
}

#[test]
fn padding_stays_zero_when_the_other_side_is_not_finite() {
    let Some(client) = client() else { return };
    let mut problem = Problem::random(&client, F32, [20, 28, 8], 3, 1.0);
    problem.x.fill(f32::INFINITY);
    let pattern = problem.pattern.clone();
    let handle = client.empty(pattern.value_count() * 4);
    // SAFETY: the buffer was made with this length.
    let out = unsafe { BufferArg::from_raw_parts(handle.clone(), pattern.value_count()) };
    let ctx = Context::new(&client, &pattern, F32).unwrap();
    cube::sddmm(&ctx, problem.upload(&problem.x), problem.upload(&problem.dy), out, 3);
    let bytes = client.read_one(handle).unwrap();
    let got = f32::from_bytes(&bytes);
    let inside = pack::pack(&vec![1.0_f32; 20 * 28], &pattern);
    for (at, (&got, &inside)) in got.iter().zip(&inside).enumerate() {
        assert_eq!(got == 0.0, inside == 0.0, "element {at}: {got}");
    }
}

#[test]
fn a_zero_weight_does_not_hide_nan() {
    let Some(client) = client() else { return };
    let mut problem = Problem::random(&client, F32, [16, 16, 16], 2, 1.0);
    problem.values.fill(0.0);
    problem.x[3] = f32::NAN;
    let handle = client.empty(2 * 16 * 4);
    // SAFETY: the buffer was made with this length.
    let out = unsafe { BufferArg::from_raw_parts(handle.clone(), 2 * 16) };
    let ctx = Context::new(&client, &problem.pattern, F32).unwrap();
    cube::spmm(
        &ctx,
        problem.upload(&problem.x),
        problem.upload(&problem.values),
        Epilogue::default(),
        out,
        2,
    );
    let bytes = client.read_one(handle).unwrap();
    let got = f32::from_bytes(&bytes);
    assert!(got[..16].iter().all(|value| value.is_nan()), "{got:?}");
    assert!(got[16..].iter().all(|&value| value == 0.0), "{got:?}");
}

#[test]
fn norms_are_the_same_from_run_to_run() {
    let Some(client) = client() else { return };
    let problem = Problem::random(&client, F32, [64, 64, 32], 1, 1.0);
    let run = || {
        let handle = client.empty(problem.pattern.nnz() * 4);
        // SAFETY: the buffer was made with this length.
        let out = unsafe { BufferArg::from_raw_parts(handle.clone(), problem.pattern.nnz()) };
        let ctx = Context::new(&client, &problem.pattern, F32).unwrap();
        cube::block_norms(&ctx, problem.upload(&problem.values), out);
        f32::from_bytes(&client.read_one(handle).unwrap()).to_vec()
    };
    let first = run();
    assert!((0..5).all(|_| run() == first));
}

#[test]
fn more_blocks_than_one_grid_dimension_holds_are_all_reduced() {
    let Some(client) = client() else { return };
    let problem = Problem::random(&client, F32, [2048, 2056, 8], 0, 1.0);
    assert!(problem.pattern.nnz() > 65535);
    problem.check_layout();
}

#[test]
fn weights_of_every_width_are_packed_and_unpacked() {
    let Some(client) = client() else { return };
    for block in [8, 32] {
        for cols in 89..=96 {
            Problem::random(&client, F32, [2 * block + 3, cols, block], 0, 0.5).check_layout();
        }
    }
    // No blocks, and all of them.
    for density in [0.0, 1.0] {
        Problem::random(&client, F32, [40, 92, 16], 0, density).check_layout();
    }
}

#[test]
fn other_types_are_refused_with_advice() {
    let Some(client) = client() else { return };
    let shape = MatrixShape::new(8, 8).unwrap();
    let pattern = BlockPattern::dense(shape, BlockSize::new(8).unwrap());
    let refuse = |kind| Context::new(&client, &pattern, ElemType::Float(kind)).err();
    assert!(matches!(refuse(FloatKind::F64), Some(CubeError::DataType { .. })));
    if let Some(error) = refuse(FloatKind::BF16) {
        assert!(error.to_string().contains("cast the weight and its input to F32"), "{error}");
    }
}
