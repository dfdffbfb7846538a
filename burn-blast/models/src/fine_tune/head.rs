//! The output layer with the losses of its scores, some rows at a time: over a large vocabulary the scores of a batch
//! take more memory than the model.

use std::ops::Range;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{DType, Int, Tensor, TensorData};
use burn_blast::functions::is_host;
use burn_blast_kernels::cpu::{ScoreLosses, score_losses};

use super::objective::next_token;
use crate::corpus::Batch;
use crate::generate::to_host;
use crate::{Error, Model};

/// Most scores that are held at a time: 16 MiB in f32. Tests hold 16 rows of 256 scores, so that texts are cut.
const SCORES: usize = if cfg!(test) { 16 << 8 } else { 4 << 20 };

/// What is asked of the scores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Weight of the loss of the next token.
    pub(crate) next_token: f64,
    /// Weight of the divergence from the teacher's scores.
    pub(crate) divergence: f64,
    /// Of the divergence.
    pub(crate) temperature: f64,
}

/// A loss with what it asks of the features before the output layer.
pub(crate) struct Scored {
    /// The loss, without autodiff.
    pub(crate) loss: Tensor<1>,
    /// Its gradient by the features, without autodiff.
    pub(crate) gradient: Tensor<3>,
}

/// Scores features, and adds the gradients of the output layer to `into`, all times `share`.
///
/// # Shapes
/// - `hidden` and the teacher's: `[batch, time, width]`, without autodiff
/// - `targets`: `[batch * time]`, without autodiff
pub(crate) fn score(
    model: &Model,
    hidden: Tensor<3>,
    teacher: Option<(&Model, Tensor<3>)>,
    targets: Tensor<1, Int>,
    terms: Terms,
    share: f64,
    into: &mut GradientsAccumulator<Model>,
) -> Scored {
    let dims = hidden.dims();
    let rows = dims[0] * dims[1];
    let at_once = (SCORES / model.vocabulary()).clamp(1, rows);
    let (mut losses, mut gradients) = (Vec::new(), Vec::new());
    // An output layer that is not trained needs no autodiff.
    let frozen = model.has_frozen_head().then(|| model.clone().valid());
    let cut = |features: &Tensor<3>, range: Range<usize>| {
        let width = features.dims()[2];
        features.clone().reshape([1, rows, width]).slice_dim(1, range)
    };
    for start in (0..rows).step_by(at_once) {
        let range = start..(start + at_once).min(rows);
        let teacher = teacher.as_ref().filter(|_| terms.divergence > 0.0);
        let theirs = teacher.map(|(teacher, hidden)| {
            let theirs = teacher.logits(cut(hidden, range.clone())).cast(DType::F32);
            theirs.squeeze_dim::<2>(0)
        });
        let targets = targets.clone().slice(range.clone());
        let x = cut(&hidden, range);
        let scale = share / rows as f64;
        let differentiate = |logits: Tensor<3>| {
            let part = terms.part(logits.cast(DType::F32).squeeze_dim(0), theirs, targets);
            (part.loss, part.gradient.mul_scalar(scale).cast(hidden.dtype()))
        };
        let (loss, gradient) = match frozen.as_ref() {
            Some(frozen) => {
                let (loss, known) = differentiate(frozen.logits(x));
                (loss, frozen.logits_backward(known))
            }
            None => {
                let x = Tensor::from_inner(x).to_device(&model.device()).require_grad();
                let logits = model.logits(x.clone());
                let (loss, known) = differentiate(logits.clone().inner());
                // The gradient by the scores is known, so that autodiff need not walk through their softmax.
                let known = Tensor::from_inner(known).to_device(&model.device()).unsqueeze();
                let mut grads = (logits * known).sum().backward();
                let gradient =
                    x.grad_remove(&mut grads).expect("the scores depend on the features");
                into.accumulate(model, GradientsParams::from_grads(grads, model));
                (loss, gradient)
            }
        };
        losses.push(loss);
        gradients.push(gradient);
    }
    let loss = Tensor::cat(losses, 0).sum().mul_scalar(share / rows as f64);
    Scored { loss, gradient: Tensor::cat(gradients, 1).reshape(dims) }
}

/// Sum of the losses of the next token over a batch, in nats.
pub(crate) fn next_token_sum(model: &Model, batch: &Batch) -> Result<f64, Error> {
    let hidden = model.hidden(batch.inputs.clone(), None);
    let [count, time, width] = hidden.dims();
    let rows = count * time;
    let hidden = hidden.reshape([1, rows, width]);
    let at_once = (SCORES / model.vocabulary()).clamp(1, rows);
    let losses = (0..rows).step_by(at_once).map(|start| {
        let range = start..(start + at_once).min(rows);
        let logits = model.logits(hidden.clone().slice_dim(1, range.clone())).cast(DType::F32);
        let targets = batch.targets.clone().slice(range.clone());
        next_token(logits, targets).mul_scalar(range.len() as f64)
    });
    let sums = to_host(Tensor::cat(losses.collect(), 0))?;
    Ok(sums.into_iter().map(f64::from).sum())
}

/// The summed loss of some rows, and its gradient by their scores.
struct Part {
    loss: Tensor<1>,
    gradient: Tensor<2>,
}

impl Terms {
    /// # Shapes
    /// - `ours` and `theirs`: `[rows, vocabulary]`, `targets`: `[rows]`
    fn part(self, ours: Tensor<2>, theirs: Option<Tensor<2>>, targets: Tensor<1, Int>) -> Part {
        if is_host(&ours.device()) && (theirs.is_none() || self.temperature == 1.0) {
            return self.part_on_host(ours, theirs, targets);
        }
        let (mut loss, mut gradient) = (None, None);
        if self.next_token > 0.0 {
            let log_shares = log_softmax(ours.clone(), 1);
            let indices = targets.unsqueeze_dim::<2>(1);
            let hits = log_shares.clone().gather(1, indices.clone());
            loss = Some(hits.clone().sum().mul_scalar(-self.next_token));
            let minus_one = hits.zeros_like().sub_scalar(1.0);
            let shares = log_shares.exp();
            let surplus =
                shares.scatter(1, indices, minus_one, burn::tensor::IndexingUpdateOp::Add);
            gradient = Some(surplus.mul_scalar(self.next_token));
        }
        if let Some(theirs) = theirs {
            let ours = log_softmax(ours.div_scalar(self.temperature), 1);
            let theirs = theirs.div_scalar(self.temperature);
            let (shares, theirs) = (softmax(theirs.clone(), 1), log_softmax(theirs, 1));
            let distance = (shares.clone() * (theirs - ours.clone())).sum();
            let weight = self.divergence * self.temperature;
            let part = distance.mul_scalar(weight * self.temperature);
            loss = Some(loss.map_or(part.clone(), |loss| loss + part));
            let part = (ours.exp() - shares).mul_scalar(weight);
            gradient = Some(gradient.map_or(part.clone(), |gradient| gradient + part));
        }
        let both = loss.zip(gradient).map(|(loss, gradient)| Part { loss, gradient });
        both.expect("a term on the scores has a weight above 0")
    }

    /// The same in one function of the host, which Burn's operations take many passes for.
    fn part_on_host(
        self,
        ours: Tensor<2>,
        theirs: Option<Tensor<2>>,
        targets: Tensor<1, Int>,
    ) -> Part {
        let (device, [rows, vocabulary]) = (ours.device(), ours.dims());
        let numbers = |tensor: Tensor<2>| -> Vec<f32> {
            tensor.into_data().try_into_vec().expect("scores are cast to f32")
        };
        let mut ours = numbers(ours);
        let mut theirs = theirs.map(numbers);
        let targets: Vec<u32> = targets.into_data().iter::<u32>().collect();
        let losses =
            ScoreLosses { next_token: self.next_token as f32, divergence: self.divergence as f32 };
        let loss = score_losses(&mut ours, theirs.as_deref_mut(), &targets, vocabulary, losses);
        Part {
            loss: Tensor::from_data(TensorData::new(vec![loss as f32], [1]), &device),
            gradient: Tensor::from_data(TensorData::new(ours, [rows, vocabulary]), &device),
        }
    }
}
