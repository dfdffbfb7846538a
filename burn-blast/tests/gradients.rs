//! Gradients by finite differences and against dense autodiff, on every backend, plain and under gradient
//! checkpointing.

mod common;

use burn::module::{Module, ModuleVisitor};
use burn::tensor::{DType, Device, Tensor};
use burn_blast::BlockPattern;
use burn_blast::functions::{spmm, spmm_probed, unpack};
use burn_blast::prune::BlastConfig;
use burn_blast_kernels::{cpu, pack as host, reference};
use common::toy::{attach, step};
use common::{distance, engines, floats, numbers, tensor};

struct Case {
    pattern: BlockPattern,
    m: usize,
    x: Vec<f32>,
    values: Vec<f32>,
    bias: Vec<f32>,
    /// Weights of the loss `Σ c · y²`, so that every output counts differently.
    c: Vec<f32>,
}

fn cases() -> Vec<Case> {
    [(32, 48, 16, 0.5, 5), (19, 37, 8, 0.4, 3), (40, 24, 32, 1.0, 17), (16, 16, 16, 0.0, 2)]
        .into_iter()
        .map(|(rows, cols, block, density, m)| {
            let pattern = common::pattern(rows, cols, block, density, 9);
            Case {
                m,
                x: numbers(m * rows, 1),
                values: host::pack(&numbers(rows * cols, 2), &pattern),
                bias: numbers(cols, 3),
                c: numbers(m * cols, 4),
                pattern,
            }
        })
        .collect()
}

impl Case {
    fn b(&self) -> usize {
        self.pattern.block().get()
    }

    fn leaves(&self, device: &Device) -> (Tensor<2>, Tensor<3>, Tensor<1>, Tensor<2>) {
        let (rows, cols) = (self.pattern.shape().rows(), self.pattern.shape().cols());
        let (b, nnz) = (self.b(), self.pattern.nnz());
        let x = tensor(&self.x, [self.m, rows], device, DType::F32).require_grad();
        let values = tensor(&self.values, [nnz, b, b], device, DType::F32).require_grad();
        let bias = tensor(&self.bias, [cols], device, DType::F32).require_grad();
        (x, values, bias, tensor(&self.c, [self.m, cols], device, DType::F32))
    }

    /// Gradients of input, values and bias.
    fn gradients(
        &self,
        device: &Device,
        product: impl Fn(Tensor<2>, Tensor<3>, Tensor<1>) -> Tensor<2>,
    ) -> [Vec<f32>; 3] {
        let (x, values, bias, c) = self.leaves(device);
        let y = product(x.clone(), values.clone(), bias.clone());
        let grads = (y.square() * c).sum().backward();
        let x = floats(x.grad(&grads).unwrap());
        [x, floats(values.grad(&grads).unwrap()), floats(bias.grad(&grads).unwrap())]
    }

    fn sparse(&self, device: &Device) -> [Vec<f32>; 3] {
        self.gradients(device, |x, values, bias| spmm(x, values, Some(bias), &self.pattern))
    }

    /// The loss in f64, from the oracle.
    fn loss(&self, x: &[f32], values: &[f32], bias: &[f32]) -> f64 {
        let y = reference::spmm(x, values, Some(bias), &self.pattern);
        y.iter().zip(&self.c).map(|(y, &c)| y.value * y.value * f64::from(c)).sum()
    }
}

fn devices() -> Vec<(String, Device)> {
    let mut devices = Vec::new();
    for engine in engines() {
        devices.push((engine.name.to_string(), engine.device.clone().autodiff()));
        let checkpointed = engine.device.autodiff().gradient_checkpointing();
        devices.push((format!("{} with checkpointing", engine.name), checkpointed));
    }
    devices
}

const INPUTS: [&str; 3] = ["x", "values", "bias"];

#[test]
fn gradients_agree_with_dense_autodiff() {
    for (name, device) in devices() {
        for case in cases() {
            let dense = case.gradients(&device, |x, values, bias| {
                x.matmul(unpack(values, &case.pattern)) + bias.unsqueeze()
            });
            for ((got, want), what) in case.sparse(&device).iter().zip(&dense).zip(INPUTS) {
                let off = distance(got, want);
                assert!(off < 1e-5, "{what} on {name}, {:?}: off by {off}", case.pattern);
            }
        }
    }
}

/// Central differences of the f64 loss at a few elements of one input.
fn differences(numbers: &[f32], loss: impl Fn(&[f32]) -> f64) -> Vec<(usize, f64)> {
    const STEP: f32 = 1.0 / 1024.0;
    let stride = (numbers.len() / 13).max(1);
    (0..numbers.len())
        .step_by(stride)
        .map(|at| {
            let mut moved = numbers.to_vec();
            moved[at] = numbers[at] + STEP;
            let up = loss(&moved);
            moved[at] = numbers[at] - STEP;
            (at, (up - loss(&moved)) / (2.0 * f64::from(STEP)))
        })
        .collect()
}

#[test]
fn gradients_agree_with_finite_differences() {
    for (name, device) in devices() {
        for case in cases() {
            let got = case.sparse(&device);
            let (x, v, b) = (&case.x, &case.values, &case.bias);
            // Zeros that pad a ragged block are no parameters: moving them does not move the loss.
            let wanted = [
                differences(x, |x| case.loss(x, v, b)),
                differences(v, |v| case.loss(x, v, b)),
                differences(b, |b| case.loss(x, v, b)),
            ];
            for ((got, wanted), what) in got.iter().zip(wanted).zip(INPUTS) {
                for (at, want) in wanted {
                    let off = (f64::from(got[at]) - want).abs();
                    assert!(
                        off < 2e-3 * (1.0 + want.abs()),
                        "{what}[{at}] on {name}, {:?}: {} against {want}",
                        case.pattern,
                        got[at]
                    );
                }
            }
        }
    }
}

#[test]
fn the_probe_receives_the_norm_of_every_block_gradient() {
    for (name, device) in devices() {
        for case in cases() {
            let (x, values, _, c) = case.leaves(&device);
            let grid = [case.pattern.block_rows(), case.pattern.block_cols()];
            let probe = Tensor::<2>::zeros(grid, &device).require_grad();
            let y = spmm_probed(x, values, probe.clone(), &case.pattern);
            let dy = floats((y.clone() * c.clone()).mul_scalar(2.0));
            let grads = (y.square() * c).sum().backward();
            let got = floats(probe.grad(&grads).unwrap());
            let want = cpu::grad_block_norms(&case.x, &dy, &case.pattern, case.m);
            let off = distance(&got, &want);
            assert!(off < 1e-5, "{name}, {:?}: off by {off}", case.pattern);
        }
    }
}

#[test]
fn only_layers_that_rank_blocks_pay_for_gradient_norms() {
    /// Counts the weights that ask for gradient norms.
    struct Probed(usize);
    impl ModuleVisitor for Probed {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.0 += usize::from(name == "probe");
        }
    }
    let device = Device::flex().autodiff();
    let config = BlastConfig::new(20).with_interval(1).with_dense(vec!["a".into()]);
    let (mut model, mut optim) = attach(config, &device);
    for at in 1..4 {
        let mut probed = Probed(0);
        model.visit(&mut probed);
        assert_eq!(probed.0, 1, "before step {at}");
        (model, _) = step(model, &mut optim, at, 1e-3, &device);
    }
}
