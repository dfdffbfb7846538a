//! The three products of one layer.

use anyhow::Result;
use burn::tensor::Device;
use burn_blast::functions;
use burn_blast::module::{Integer, quantize};
use burn_blast::tuning::Strategy;

use super::{Case, Input, Weight, bounded, call};
use crate::check::Sample;
use crate::element::Element;
use crate::record::Problem;

/// `y = x · w`: the layer, quantised for problems of integers, beside `nn::Linear`.
pub fn forward(problem: &Problem, device: &Device) -> Result<Case> {
    let mut weight = Weight::of(problem)?;
    let input = Input::new([problem.rows, problem.d_input], 2, problem);
    let x = input.tensor(device);
    let mut sparse = weight.layer(device);
    let dense = sparse.clone().into_linear();
    if problem.dtype == Element::Int8 {
        sparse = quantize(sparse, Integer::Int8)?;
        let values = sparse.weight.values().dequantize().into_data();
        weight.dequantised = Some(values.iter::<f32>().collect());
    }
    let auto = sparse.clone().with_strategy(Strategy::Auto);
    let path = auto.path(problem.rows).path;
    let (rounding, checked) = (problem.dtype.rounding(), sparse.clone());
    Ok(Case {
        sparse: call(&x, move |x| sparse.forward(x)),
        dense: call(&x, move |x| dense.forward(x)),
        auto: Some((call(&x, move |x| auto.forward(x)), path)),
        work: weight.work(problem.rows),
        check: Box::new(move || {
            Sample::of(&checked.forward(x), weight.pattern.shape().rows()).compare(|m, n| {
                bounded(rounding, weight.column(n).map(|(k, w)| (input.at(m, k), w)))
            })
        }),
    })
}

/// `dx = dy · wᵀ`: the kernel beside Burn's product with the transposed weight.
pub fn input_gradient(problem: &Problem, device: &Device) -> Result<Case> {
    let weight = Weight::of(problem)?;
    let input = Input::new([problem.rows, problem.d_output], 2, problem);
    let (dy, values) = (input.tensor(device), weight.values(device));
    let dense = functions::unpack(values.clone(), &weight.pattern);
    let (pattern, packed) = (weight.pattern.clone(), values.clone());
    let rounding = problem.dtype.rounding();
    Ok(Case {
        sparse: call(&dy, move |dy| functions::spmm_t(dy, packed.clone(), &pattern)),
        dense: call(&dy, move |dy| dy.matmul(dense.clone().transpose())),
        auto: None,
        work: weight.work(problem.rows),
        check: Box::new(move || {
            let dx = functions::spmm_t(dy, values, &weight.pattern);
            Sample::of(&dx, weight.pattern.shape().cols())
                .compare(|m, k| bounded(rounding, weight.row(k).map(|(n, w)| (input.at(m, n), w))))
        }),
    })
}

/// `dw = xᵀ · dy` at the kept blocks: the kernel beside Burn's product, which computes the whole gradient.
pub fn weight_gradient(problem: &Problem, device: &Device) -> Result<Case> {
    let weight = Weight::of(problem)?;
    let left = Input::new([problem.rows, problem.d_input], 2, problem);
    let right = Input::new([problem.rows, problem.d_output], 3, problem);
    let (x, dy) = (left.tensor(device), right.tensor(device));
    let (dy_sparse, dy_dense, pattern) = (dy.clone(), dy.clone(), weight.pattern.clone());
    let (rounding, rows) = (problem.dtype.rounding(), problem.rows);
    Ok(Case {
        sparse: call(&x, move |x| functions::sddmm(x, dy_sparse.clone(), &pattern)),
        dense: call(&x, move |x| x.transpose().matmul(dy_dense.clone())),
        auto: None,
        work: weight.work(rows),
        check: Box::new(move || {
            let got = functions::sddmm(x, dy, &weight.pattern).flatten(1, 2);
            Sample::of(&got, rows).compare(|slot, at| {
                let terms = weight
                    .position(slot, at)
                    .into_iter()
                    .flat_map(|(k, n)| (0..rows).map(move |m| (left.at(m, k), right.at(m, n))));
                bounded(rounding, terms)
            })
        }),
    })
}
