//! The gated MLP of Llama-style models.

use anyhow::Result;
use burn::tensor::Device;
use burn::tensor::activation::silu;
use burn_blast::module::{BlockSparseGatedMlp, BlockSparseLinear};
use burn_blast::tuning::cost::Cost;
use burn_blast::tuning::{ProductPath, Strategy};
use burn_blast_kernels::reference::{Exact, Rounding};

use super::{Case, Input, Weight, bounded, call};
use crate::check::Sample;
use crate::record::Problem;

/// Roundings to the storage type between the two products: `silu` is an exponential, a sum, a quotient and a product,
/// and the gate is another product; some devices compute the quotient with logarithm and exponential.
const ACTIVATION_ROUNDINGS: f64 = 16.0;

/// Steepest slope of `silu`, rounded up.
const SILU_SLOPE: f64 = 1.1;

/// `down(silu(gate(x)) · up(x))`, with all layers block-sparse or all dense.
pub fn case(problem: &Problem, device: &Device) -> Result<Case> {
    let (d_model, d_ff) = (problem.d_input, problem.d_output);
    let weights = [
        Weight::new([d_model, d_ff], 1, problem)?,
        Weight::new([d_model, d_ff], 2, problem)?,
        Weight::new([d_ff, d_model], 3, problem)?,
    ];
    let input = Input::new([problem.rows, problem.d_input], 4, problem);
    let x = input.tensor(device);
    let [gate, up, down] = weights.each_ref().map(|weight| weight.linear(device));
    let layers = weights.each_ref().map(|weight| weight.layer(device));
    let sparse = mlp(layers.clone(), Strategy::Sparse);
    let auto = mlp(layers, Strategy::Auto);
    let layers = [&auto.gate, &auto.up, &auto.down];
    let all_sparse =
        layers.iter().all(|layer| layer.path(problem.rows).path == ProductPath::Sparse);
    let path = if all_sparse { ProductPath::Sparse } else { ProductPath::Dense };
    let (rounding, rows, checked) = (problem.dtype.rounding(), problem.rows, sparse.clone());
    Ok(Case {
        sparse: call(&x, move |x| sparse.forward(x)),
        dense: call(&x, move |x| {
            let gate = silu(gate.forward(x.clone()));
            down.forward(gate * up.forward(x))
        }),
        auto: Some((call(&x, move |x| auto.forward(x)), path)),
        work: work(&weights, rows),
        check: Box::new(move || {
            let y = checked.forward(x);
            let ([gate, up, down], hidden) = (weights, vec![Vec::new(); rows]);
            let mut oracle = Oracle { gate, up, down, input, rounding, hidden };
            // One element needs a row of the hidden layer, so few rows are checked.
            let terms = oracle.gate.pattern.value_count();
            Sample::of(&y, terms).compare(|m, n| oracle.element(m, n))
        }),
    })
}

fn mlp(layers: [BlockSparseLinear; 3], strategy: Strategy) -> BlockSparseGatedMlp {
    let [gate, up, down] = layers.map(|layer| layer.with_strategy(strategy));
    BlockSparseGatedMlp::new(gate, up, down)
}

fn work(weights: &[Weight; 3], rows: usize) -> Cost {
    let sum = |part: fn(Cost) -> f64| weights.iter().map(|weight| part(weight.work(rows))).sum();
    Cost {
        sparse_flops: sum(|work| work.sparse_flops),
        dense_flops: sum(|work| work.dense_flops),
        sparse_bytes: sum(|work| work.sparse_bytes),
    }
}

struct Oracle {
    gate: Weight,
    up: Weight,
    down: Weight,
    input: Input,
    rounding: Rounding,
    /// Values and error bounds of the hidden layer, by row, computed on demand.
    hidden: Vec<Vec<(f64, f64)>>,
}

impl Oracle {
    /// An element of the output and its error bound.
    fn element(&mut self, m: usize, n: usize) -> (f64, f64) {
        if self.hidden[m].is_empty() {
            let d_ff = self.gate.pattern.shape().cols();
            self.hidden[m] = (0..d_ff).map(|h| self.hidden(m, h)).collect();
        }
        let hidden = &self.hidden[m];
        let exact = Exact::dot(self.down.column(n).map(|(h, w)| (hidden[h].0, w)));
        let inherited: f64 = self.down.column(n).map(|(h, w)| hidden[h].1 * w.abs()).sum();
        // The hidden layer may be off by its own bound.
        let exact = Exact { abs_sum: exact.abs_sum + inherited, ..exact };
        (exact.value, inherited + self.rounding.limit(&exact))
    }

    /// An element of the hidden layer and its error bound: the bounds of the two products, propagated through `silu` and
    /// the gate, plus the roundings on the way.
    fn hidden(&self, m: usize, h: usize) -> (f64, f64) {
        let product = |weight: &Weight| {
            bounded(self.rounding, weight.column(h).map(|(k, w)| (self.input.at(m, k), w)))
        };
        let ((gate, gate_off), (up, up_off)) = (product(&self.gate), product(&self.up));
        let active = gate / (1.0 + (-gate).exp());
        let active_off =
            SILU_SLOPE * gate_off + ACTIVATION_ROUNDINGS * self.rounding.output * active.abs();
        let value = active * up;
        let off = active_off * (up.abs() + up_off) + active.abs() * up_off;
        (value, off + self.rounding.limit(&Exact { value, abs_sum: 0.0, terms: 0 }))
    }
}
