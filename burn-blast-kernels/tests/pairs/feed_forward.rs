//! Feed-forward blocks in pairs of bf16, against the products that they are made of.

use burn_blast_kernels::cpu::{self, HostFloat, Mlp, MlpLayer};
use burn_blast_kernels::{Activation, BlockPattern, reference};
use half::bf16;

use super::{allowed, halves, numbers, poisoned, random, values, written};

/// A feed-forward block and its separate products, of which each rounds its factors.
struct Case {
    patterns: [BlockPattern; 3],
    weights: [Vec<f32>; 3],
    x: Vec<f32>,
    dy: Vec<f32>,
    bias: Vec<f32>,
    gated: bool,
    m: usize,
}

/// What the block gives, in this order: y, and the gradients of x, gate, up (if there is one) and down.
type Results = Vec<Vec<f32>>;

impl Case {
    fn new(gated: bool, block: usize, m: usize) -> Self {
        let sizes = [
            (1, 2 * block + 3, 3 * block + 1),
            (2, 2 * block + 3, 3 * block + 1),
            (3, 3 * block + 1, block + 5),
        ];
        let patterns = sizes.map(|(seed, rows, cols)| random([rows, cols, block], 0.6, seed));
        let (k, f, n) = (2 * block + 3, 3 * block + 1, block + 5);
        let weights = patterns.each_ref().map(|pattern| halves(values(pattern, 9)).1);
        let [x, dy, bias] =
            [(4, m * k), (5, m * n), (6, f)].map(|(seed, len)| halves(numbers(len, seed)).1);
        Self { patterns, weights, x, dy, bias, gated, m }
    }

    /// As one operation, with NaN where the weights have no elements.
    fn fused<T: HostFloat>(&self) -> Results {
        let poisoned: [Vec<T>; 3] =
            [0, 1, 2].map(|at| T::narrow(poisoned(&self.weights[at], &self.patterns[at])));
        let layer = |at: usize| MlpLayer::new(T::values(&poisoned[at]), &self.patterns[at]);
        let mlp = Mlp {
            gate: layer(0),
            up: self.gated.then(|| layer(1)),
            down: layer(2),
            activation: Activation::Silu,
            gate_bias: (!self.gated).then_some(&self.bias[..]),
            down_bias: None,
        };
        let (x, dy) = (T::narrow(self.x.clone()), T::narrow(self.dy.clone()));
        let y = written(self.dy.len(), |out| cpu::mlp_into(&x, &mlp, out));
        let gradients = cpu::mlp_backward(&x, &dy, &mlp, self.m);
        let weights = [Some(gradients.gate), gradients.up, Some(gradients.down)];
        let mut results = vec![y, T::widen(&gradients.input).into_owned()];
        results.extend(
            self.patterns
                .iter()
                .zip(weights)
                .filter_map(|(pattern, gradient)| Some(inside(&T::widen(&gradient?), pattern))),
        );
        results
    }

    fn separate(&self) -> Results {
        let ([gate, up, down], [wg, wu, wd]) = (&self.patterns, &self.weights);
        let (m, f) = (self.m, gate.shape().cols());
        let bias = (!self.gated).then_some(&self.bias[..]);
        let g = cpu::spmm(&self.x, wg, bias, gate, m);
        let u = match self.gated {
            true => cpu::spmm(&self.x, wu, None, up, m),
            false => vec![1.0; m * f],
        };
        let silu = |g: f32| reference::activation(Activation::Silu, g.into());
        let dh = cpu::spmm_t(&self.dy, wd, down, m);
        let each = |value: &dyn Fn(usize) -> f32| (0..m * f).map(value).collect::<Vec<f32>>();
        let h = each(&|at| silu(g[at]).0 as f32 * u[at]);
        let dg = each(&|at| dh[at] * u[at] * silu(g[at]).1 as f32);
        let du = each(&|at| dh[at] * silu(g[at]).0 as f32);
        let mut dx = cpu::spmm_t(&dg, wg, gate, m);
        if self.gated {
            let more = cpu::spmm_t(&du, wu, up, m);
            dx.iter_mut().zip(more).for_each(|(dx, more)| *dx += more);
        }
        let mut results = vec![cpu::spmm(&h, wd, None, down, m), dx];
        results.push(inside(&cpu::sddmm(&self.x, &dg, gate, m), gate));
        if self.gated {
            results.push(inside(&cpu::sddmm(&self.x, &du, up, m), up));
        }
        results.push(inside(&cpu::sddmm(&h, &self.dy, down, m), down));
        results
    }
}

/// The elements that are inside the weight.
fn inside(values: &[f32], pattern: &BlockPattern) -> Vec<f32> {
    let marked = poisoned(&vec![0.0; values.len()], pattern);
    values.iter().zip(marked).filter(|(_, mark)| !mark.is_nan()).map(|(value, _)| *value).collect()
}

#[test]
fn a_feed_forward_block_is_its_products() {
    allowed();
    for (gated, block, m) in [(true, 16, 33), (true, 32, 700), (false, 16, 131), (false, 64, 20)] {
        let case = Case::new(gated, block, m);
        let want = case.separate();
        let name = format!("gated {gated}, block {block}, {m} rows");
        let results = [("f32", case.fused::<f32>(), 2e-6), ("bf16", case.fused::<bf16>(), 8e-3)];
        for (dtype, got, error) in results {
            assert_eq!(got.len(), want.len());
            for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                close(&format!("result {at} in {dtype}, {name}"), got, want, error);
            }
        }
    }
}

/// Hidden features of the two ways differ in the last bits of f32, so a few are rounded to the neighbour in bf16: 2⁻⁷ of
/// one term in a sum of many. All others have the error of their own rounding.
fn close(what: &str, got: &[f32], want: &[f32], error: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-3_f32, |scale, want| scale.max(want.abs()));
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= (2e-3 + error) * scale, "{what}, {at}: {got} for {want}");
    }
    let near = |got: f32, want: f32| (got - want).abs() <= error * want.abs().max(scale * 0.5);
    let same = got.iter().zip(want).filter(|(got, want)| near(**got, **want)).count();
    assert!(10 * same >= 9 * got.len(), "{what}: {same} of {} equal", got.len());
}
