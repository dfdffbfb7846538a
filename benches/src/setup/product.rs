//! The three products of one layer.

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use burn_blast::functions;
use burn_blast::module::{BlockSparseLinear, BlockSparseWeight, quantize};
use burn_blast::tuning::Strategy;
use burn_blast_kernels::reference::Exact;

use super::{Case, Input, Weight, boxed};
use crate::check::Sample;
use crate::element::Element;
use crate::record::Problem;

/// `y = x · w`: the layer, quantised for problems of integers, beside `nn::Linear`.
pub fn forward(problem: &Problem, device: &Device) -> Result<Case> {
    let weight = Weight::new([problem.d_input, problem.d_output], 1, problem)?;
    let input = Input::new([problem.rows, problem.d_input], 2, problem)?;
    let x = input.tensor(device);
    let packed = BlockSparseWeight::new(weight.values(device), weight.pattern.clone());
    let plain = BlockSparseLinear::new(packed, None).with_strategy(Strategy::Sparse);
    let element = super::element(problem)?;
    let integers = element == Element::Int8;
    let sparse = if integers { quantize(plain.clone())? } else { plain.clone() };
    // The values that the integers stand for.
    let dequantised = integers.then(|| {
        let values = sparse.weight.values().dequantize().into_data();
        values.iter::<f32>().collect::<Vec<_>>()
    });
    let auto = sparse.clone().with_strategy(Strategy::Auto);
    let path = auto.path(problem.rows).path;
    let dense = plain.into_linear();
    let work = weight.work(problem.rows);
    let rounding = element.rounding();
    let (checked, inputs) = (sparse.clone(), [x.clone(), x.clone(), x.clone(), x]);
    let [x, x_dense, x_auto, x_check] = inputs;
    Ok(Case {
        sparse: Box::new(move || boxed(sparse.forward(x.clone()))),
        dense: Box::new(move || boxed(dense.forward(x_dense.clone()))),
        auto: Some((Box::new(move || boxed(auto.forward(x_auto.clone()))), path)),
        work,
        check: Box::new(move || {
            Sample::of(&checked.forward(x_check), weight.pattern.shape().rows()).compare(|m, n| {
                let exact = match &dequantised {
                    Some(packed) => {
                        Exact::dot(weight.column_of(packed, n).map(|(k, w)| (input.at(m, k), w)))
                    }
                    None => Exact::dot(weight.column(n).map(|(k, w)| (input.at(m, k), w))),
                };
                (exact.value, rounding.limit(&exact))
            })
        }),
    })
}

/// `dx = dy · wᵀ`: the kernel beside Burn's product with the transposed weight.
pub fn input_gradient(problem: &Problem, device: &Device) -> Result<Case> {
    let weight = Weight::new([problem.d_input, problem.d_output], 1, problem)?;
    let input = Input::new([problem.rows, problem.d_output], 2, problem)?;
    let (dy, values) = (input.tensor(device), weight.values(device));
    let dense = functions::unpack(values.clone(), &weight.pattern);
    let (pattern, work) = (weight.pattern.clone(), weight.work(problem.rows));
    let rounding = super::element(problem)?.rounding();
    let (dy_dense, dy_check, checked) = (dy.clone(), dy.clone(), values.clone());
    Ok(Case {
        sparse: Box::new(move || boxed(functions::spmm_t(dy.clone(), values.clone(), &pattern))),
        dense: Box::new(move || boxed(dy_dense.clone().matmul(dense.clone().transpose()))),
        auto: None,
        work,
        check: Box::new(move || {
            let dx = functions::spmm_t(dy_check, checked, &weight.pattern);
            Sample::of(&dx, weight.pattern.shape().cols()).compare(|m, k| {
                let exact = Exact::dot(weight.row(k).map(|(n, w)| (input.at(m, n), w)));
                (exact.value, rounding.limit(&exact))
            })
        }),
    })
}

/// `dw = xᵀ · dy` at the kept blocks: the kernel beside Burn's product, which computes the whole gradient.
pub fn weight_gradient(problem: &Problem, device: &Device) -> Result<Case> {
    let weight = Weight::new([problem.d_input, problem.d_output], 1, problem)?;
    let left = Input::new([problem.rows, problem.d_input], 2, problem)?;
    let right = Input::new([problem.rows, problem.d_output], 3, problem)?;
    let (x, dy) = (left.tensor(device), right.tensor(device));
    let (pattern, work) = (weight.pattern.clone(), weight.work(problem.rows));
    let (rounding, rows) = (super::element(problem)?.rounding(), problem.rows);
    let (x_dense, dy_dense, x_check, dy_check) = (x.clone(), dy.clone(), x.clone(), dy.clone());
    Ok(Case {
        sparse: Box::new(move || boxed(functions::sddmm(x.clone(), dy.clone(), &pattern))),
        dense: Box::new(move || boxed(x_dense.clone().transpose().matmul(dy_dense.clone()))),
        auto: None,
        work,
        check: Box::new(move || {
            let got = by_slot(functions::sddmm(x_check, dy_check, &weight.pattern));
            let positions = Positions::of(&weight);
            Sample::of(&got, rows).compare(|slot, at| {
                let exact = match positions.inside(slot, at) {
                    Some((k, n)) => Exact::dot((0..rows).map(|m| (left.at(m, k), right.at(m, n)))),
                    None => Exact::dot(std::iter::empty()),
                };
                (exact.value, rounding.limit(&exact))
            })
        }),
    })
}

/// `[nnz, b, b]` as `[nnz, b * b]`.
pub fn by_slot(values: Tensor<3>) -> Tensor<2> {
    let [nnz, rows, cols] = values.dims();
    values.reshape([nnz, rows * cols])
}

/// Positions of packed values in the weight.
pub struct Positions {
    blocks: Vec<(usize, usize)>,
    b: usize,
    shape: [usize; 2],
}

impl Positions {
    /// The positions in a weight.
    pub fn of(weight: &Weight) -> Self {
        let (shape, b) = (weight.pattern.shape(), weight.pattern.block().get());
        let blocks = weight.pattern.blocks().collect();
        Self { blocks, b, shape: [shape.rows(), shape.cols()] }
    }

    /// Row and column of the `at`-th value of a block, if it is inside the weight.
    pub fn inside(&self, slot: usize, at: usize) -> Option<(usize, usize)> {
        let (row, col) = self.blocks[slot];
        let (k, n) = (row * self.b + at / self.b, col * self.b + at % self.b);
        (k < self.shape[0] && n < self.shape[1]).then_some((k, n))
    }
}
