//! The feed-forward block as one operation against the same block in f64, dense and step by step.

mod common;

use std::mem::MaybeUninit;

use burn_blast_kernels::cpu::{self, Mlp, MlpGradients, MlpLayer, Values};
use burn_blast_kernels::reference::activation;
use burn_blast_kernels::{Activation, BlockPattern, pack};
use common::{numbers, random, values};

/// A feed-forward block with random parts.
struct Case {
    m: usize,
    patterns: [BlockPattern; 3],
    values: [Vec<f32>; 3],
    x: Vec<f32>,
    dy: Vec<f32>,
    biases: Option<[Vec<f32>; 2]>,
    gated: bool,
    activation: Activation,
}

impl Case {
    fn new(
        sizes: [usize; 3],
        block: usize,
        density: f64,
        m: usize,
        gated: bool,
        f: Activation,
    ) -> Self {
        let [d_model, d_ff, d_output] = sizes;
        let pattern = |rows, cols, seed| random([rows, cols, block], density, seed);
        let patterns =
            [pattern(d_model, d_ff, 1), pattern(d_model, d_ff, 2), pattern(d_ff, d_output, 3)];
        let values = [0, 1, 2].map(|at| values(&patterns[at], 7 + at as u64));
        // Only the block without a gate has biases.
        let biases = (!gated).then(|| [numbers(d_ff, 20), numbers(d_output, 21)]);
        let (x, dy) = (numbers(m * d_model, 30), numbers(m * d_output, 31));
        Self { m, patterns, values, x, dy, biases, gated, activation: f }
    }

    fn mlp(&self) -> Mlp<'_> {
        let layer = |at: usize| MlpLayer::new(Values::F32(&self.values[at]), &self.patterns[at]);
        let bias = |at: usize| self.biases.as_ref().map(|biases| &biases[at][..]);
        Mlp {
            gate: layer(0),
            up: self.gated.then(|| layer(1)),
            down: layer(2),
            activation: self.activation,
            gate_bias: bias(0),
            down_bias: bias(1),
        }
    }

    fn forward(&self) -> Vec<f32> {
        let mut out = vec![MaybeUninit::new(f32::NAN); self.dy.len()];
        cpu::mlp_into(&self.x, &self.mlp(), &mut out);
        // SAFETY: it was initialised with NaN.
        out.into_iter().map(|y| unsafe { y.assume_init() }).collect()
    }
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&number| f64::from(number)).collect()
}

/// `a [m, k] · b [k, n]`.
fn product(a: &[f64], b: &[f64], [m, k, n]: [usize; 3]) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for t in 0..k {
            for j in 0..n {
                c[i * n + j] += a[i * k + t] * b[t * n + j];
            }
        }
    }
    c
}

fn transposed(a: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..rows * cols).map(|at| a[(at % rows) * cols + at / rows]).collect()
}

/// The results by definition: the output and the gradients of `x`, the weights and the first bias.
struct Expected {
    y: Vec<f64>,
    dx: Vec<f64>,
    weights: [Vec<f64>; 3],
    bias: Vec<f64>,
}

fn expected(case: &Case) -> Expected {
    let [gate, up, down] =
        [0, 1, 2].map(|at| wide(&pack::unpack(&case.values[at], &case.patterns[at])));
    let (k, f) = (case.patterns[0].shape().rows(), case.patterns[0].shape().cols());
    let (n, m) = (case.patterns[2].shape().cols(), case.m);
    let (x, dy) = (wide(&case.x), wide(&case.dy));
    let bias = |at: usize, j: usize| case.biases.as_ref().map_or(0.0, |b| f64::from(b[at][j]));
    let mut g = product(&x, &gate, [m, k, f]);
    g.iter_mut().enumerate().for_each(|(at, g)| *g += bias(0, at % f));
    let u = if case.gated { product(&x, &up, [m, k, f]) } else { vec![1.0; m * f] };
    let h: Vec<f64> =
        g.iter().zip(&u).map(|(&g, u)| activation(case.activation, g).0 * u).collect();
    let mut y = product(&h, &down, [m, f, n]);
    y.iter_mut().enumerate().for_each(|(at, y)| *y += bias(1, at % n));
    let dh = product(&dy, &transposed(&down, f, n), [m, n, f]);
    let slope = |at: usize| activation(case.activation, g[at]).1;
    let dg: Vec<f64> = (0..m * f).map(|at| dh[at] * u[at] * slope(at)).collect();
    let du: Vec<f64> = (0..m * f).map(|at| dh[at] * activation(case.activation, g[at]).0).collect();
    let mut dx = product(&dg, &transposed(&gate, k, f), [m, f, k]);
    if case.gated {
        let second = product(&du, &transposed(&up, k, f), [m, f, k]);
        dx.iter_mut().zip(second).for_each(|(dx, more)| *dx += more);
    }
    let xt = transposed(&x, m, k);
    let weights = [
        product(&xt, &dg, [k, m, f]),
        product(&xt, &du, [k, m, f]),
        product(&transposed(&h, m, f), &dy, [f, m, n]),
    ];
    let bias = (0..f).map(|j| (0..m).map(|i| dg[i * f + j]).sum()).collect();
    Expected { y, dx, weights, bias }
}

/// The errors of three products and of the activation (a few units of f32) add up over sums of `terms`.
fn close(what: &str, got: &[f32], want: &[f64], terms: usize) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-3_f64, |scale, want| scale.max(want.abs()));
    let limit = 2e-7 * (terms as f64).sqrt().max(4.0) * 4.0 * scale;
    for (at, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(got) - want).abs() <= limit, "{what}, {at}: {got} for {want} ± {limit}");
    }
}

fn check(case: &Case, name: &str) {
    let want = expected(case);
    let terms = case.m.max(case.patterns[0].shape().cols()).max(case.patterns[0].shape().rows());
    close(&format!("{name}, output"), &case.forward(), &want.y, terms);
    let MlpGradients { input, gate, up, down, gate_bias } =
        cpu::mlp_backward(&case.x, &case.dy, &case.mlp(), case.m);
    close(&format!("{name}, dx"), &input, &want.dx, terms);
    let packed = |at: usize| {
        let dense: Vec<f32> = want.weights[at].iter().map(|&w| w as f32).collect();
        wide(&pack::pack(&dense, &case.patterns[at]))
    };
    close(&format!("{name}, dgate"), &gate, &packed(0), terms);
    close(&format!("{name}, ddown"), &down, &packed(2), terms);
    assert_eq!(up.is_some(), case.gated);
    if let Some(up) = up {
        close(&format!("{name}, dup"), &up, &packed(1), terms);
    }
    assert_eq!(gate_bias.is_some(), !case.gated);
    if let Some(bias) = gate_bias {
        close(&format!("{name}, dbias"), &bias, &want.bias, terms);
    }
}

#[test]
fn a_gated_block_is_right_forward_and_backward() {
    for block in [8, 16, 32, 64, 128] {
        for m in [1, 2, 15, 17, 33] {
            // Whole and ragged sizes.
            for sizes in [[2 * block, 3 * block, block], [block + 3, 2 * block - 5, block / 2 + 1]]
            {
                let case = Case::new(sizes, block, 0.6, m, true, Activation::Silu);
                check(&case, &format!("block {block}, {m} rows, {sizes:?}"));
            }
        }
    }
}

#[test]
fn a_plain_block_with_biases_is_right_forward_and_backward() {
    for activation in [Activation::Gelu, Activation::Relu, Activation::Silu] {
        for (block, m) in [(16, 5), (32, 40)] {
            let sizes = [2 * block + 1, 3 * block - 2, 2 * block];
            let case = Case::new(sizes, block, 0.5, m, false, activation);
            check(&case, &format!("{activation:?}, block {block}, {m} rows"));
        }
    }
}

#[test]
fn many_rows_are_cut_into_chunks_whose_gradients_add_up() {
    let case = Case::new([48, 64, 48], 16, 0.5, 600, true, Activation::Silu);
    check(&case, "600 rows");
}

#[test]
fn empty_patterns_and_no_rows_give_zeros() {
    check(&Case::new([32, 48, 32], 16, 0.0, 3, true, Activation::Silu), "nnz 0");
    check(&Case::new([32, 48, 32], 16, 1.0, 0, true, Activation::Silu), "no rows");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let case = Case::new([256, 512, 256], 32, 0.5, 300, true, Activation::Silu);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let gradients = cpu::mlp_backward(&case.x, &case.dy, &case.mlp(), case.m);
            (case.forward(), gradients.input, gradients.gate, gradients.down)
        })
    };
    assert!(run(1) == run(3), "one and three threads differ");
}

#[test]
#[should_panic(expected = "layers must have one block size")]
fn layers_of_different_blocks_are_refused() {
    let mut case = Case::new([32, 64, 32], 16, 0.5, 2, true, Activation::Silu);
    let other = Case::new([32, 64, 32], 32, 0.5, 2, true, Activation::Silu);
    case.patterns[2] = other.patterns[2].clone();
    case.values[2] = other.values[2].clone();
    case.forward();
}
