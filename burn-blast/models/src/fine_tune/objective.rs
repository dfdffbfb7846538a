//! What training minimises: the cross-entropy of the next token, and distances from a teacher.
//!
//! Burn's `CrossEntropyLoss` and `KLDivLoss` sum in another order, and the latter takes the logarithm of probabilities
//! that may be zero; recorded runs were made with these.

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{DType, Int, Tensor};

use super::head::{Terms, score};
use crate::corpus::Batch;
use crate::{Error, Model, ModelFolder, Precision};

/// Keeps the relative distance of hidden states finite where the teacher's are all zero.
const TINY: f64 = 1e-6;

/// What is minimised.
#[derive(Clone, Debug)]
pub struct Objective {
    /// Weight of the loss of the next token.
    pub next_token: f64,
    /// Weight of the divergence from the teacher.
    pub divergence: f64,
    /// Of the divergence.
    pub temperature: f64,
    /// Weight of the distance from the teacher's hidden states.
    pub hidden_states: f64,
    /// Weight of the distance of each MLP from the teacher's, both given what the teacher's takes.
    pub mlps: f64,
    /// A model with the same number of layers and of tokens, without autodiff; of the same width if hidden states count.
    pub teacher: Option<Model>,
}

impl Default for Objective {
    /// The loss of the next token alone.
    fn default() -> Self {
        Self {
            next_token: 1.0,
            divergence: 0.0,
            temperature: 1.0,
            hidden_states: 0.0,
            mlps: 0.0,
            teacher: None,
        }
    }
}

impl Objective {
    /// Loads a teacher for `student`, with the precision of the student.
    ///
    /// # Errors
    /// If the settings make no sense, the teacher cannot be loaded, or the two do not fit each other.
    pub fn with_teacher(
        mut self,
        teacher: &ModelFolder,
        student: &Model,
        context: usize,
    ) -> Result<Self, Error> {
        self.check_weights()?;
        Error::fits(context, teacher.config().context())?;
        let refuse = |what, theirs: usize, ours: usize| match theirs == ours {
            true => Ok(()),
            false => Err(Error::Teacher { what, theirs, ours }),
        };
        if self.hidden_states > 0.0 || self.mlps > 0.0 {
            refuse("features per layer", teacher.config().width(), student.width())?;
        }
        let teacher = teacher.load(&student.device(), Precision::of(student.dtype()))?;
        refuse("layers", teacher.layers(), student.layers())?;
        refuse("tokens", teacher.vocabulary(), student.vocabulary())?;
        self.teacher = Some(teacher);
        Ok(self)
    }

    /// Checks the weights of the parts.
    ///
    /// # Errors
    /// If one is negative, none counts, or the temperature is not above 0. Without a teacher only the next token counts.
    pub fn check(&self) -> Result<(), Error> {
        self.check_weights()?;
        let counts = self.next_token > 0.0 || self.teacher.is_some();
        Error::in_range("next-token", self.next_token, counts, "above 0 without a teacher")
    }

    /// Whether it is the loss of the next token and nothing else.
    pub fn is_next_token(&self) -> bool {
        self.divergence == 0.0 && self.hidden_states == 0.0 && self.mlps == 0.0
    }

    fn check_weights(&self) -> Result<(), Error> {
        let weights = [self.next_token, self.divergence, self.hidden_states, self.mlps];
        let names = ["next-token", "divergence", "hidden-states", "mlps"];
        for (setting, weight) in names.into_iter().zip(weights) {
            Error::in_range(setting, weight, weight >= 0.0, "a number from 0")?;
        }
        let most = weights.into_iter().fold(0.0, f64::max);
        Error::in_range(
            "largest of the weights next-token, divergence, hidden-states and mlps",
            most,
            most > 0.0,
            "above 0",
        )?;
        Error::in_range("teacher-temperature", self.temperature, self.temperature > 0.0, "above 0")
    }

    /// Adds the gradients of a batch's loss to `into`, and returns the loss, both times `share`.
    pub(crate) fn gradients(
        &self,
        model: &Model,
        batch: &Batch,
        share: f64,
        into: &mut GradientsAccumulator<Model>,
    ) -> Tensor<1> {
        let mut parts = Vec::new();
        if let Some(teacher) = self.teacher.as_ref().filter(|_| self.mlps > 0.0) {
            parts.push(self.local(model, teacher, batch, share, into));
        }
        let asked = self.divergence > 0.0 || self.hidden_states > 0.0;
        let teacher = self.teacher.as_ref().filter(|_| asked);
        if self.next_token > 0.0 || teacher.is_some() {
            parts.extend(self.through(model, teacher, batch, share, into));
        }
        let sum = parts.into_iter().reduce(|sum, one| sum + one);
        sum.expect("the settings were checked for a weight above 0")
    }

    /// The terms on what the whole model gives.
    fn through(
        &self,
        model: &Model,
        teacher: Option<&Model>,
        batch: &Batch,
        share: f64,
        into: &mut GradientsAccumulator<Model>,
    ) -> Vec<Tensor<1>> {
        let (ours, hidden) = model.trace(batch.inputs.clone());
        let theirs = teacher.map(|teacher| teacher.trace(batch.inputs.clone().inner()));
        let (theirs, target) = theirs.unzip();
        let (mut parts, mut surrogates) = (Vec::new(), Vec::new());
        if self.next_token > 0.0 || self.divergence > 0.0 {
            let Self { next_token, divergence, temperature, .. } = *self;
            let terms = Terms { next_token, divergence, temperature };
            let targets = batch.targets.clone().inner();
            let ours = hidden.clone().inner();
            let scored = score(model, ours, teacher.zip(target), targets, terms, share, into);
            parts.push(scored.loss);
            let known = Tensor::from_inner(scored.gradient).to_device(&hidden.device());
            surrogates.push((hidden * known).cast(DType::F32).sum());
        }
        if let Some(theirs) = theirs.filter(|_| self.hidden_states > 0.0) {
            let device = batch.inputs.device();
            let constant = |one| Tensor::<3>::from_inner(one).to_device(&device).cast(DType::F32);
            // A distance is a sum over many positions, in single precision whatever the model's.
            let ours = ours.into_iter().map(|one| one.cast(DType::F32)).collect();
            let theirs = theirs.into_iter().map(constant).collect();
            let loss = hidden_states(ours, theirs).mul_scalar(self.hidden_states * share);
            parts.push(loss.clone().inner());
            surrogates.push(loss);
        }
        let surrogate = surrogates.into_iter().reduce(|sum, one| sum + one);
        // Nothing before the output layer may be trained.
        if let Some(surrogate) = surrogate.filter(Tensor::is_tracked) {
            into.accumulate(model, GradientsParams::from_grads(surrogate.backward(), model));
        }
        parts
    }

    /// The distances of the MLPs, one after the other, so that autodiff holds one.
    fn local(
        &self,
        model: &Model,
        teacher: &Model,
        batch: &Batch,
        share: f64,
        into: &mut GradientsAccumulator<Model>,
    ) -> Tensor<1> {
        let device = batch.inputs.device();
        let constant = |one| Tensor::<3>::from_inner(one).to_device(&device);
        let mlps = teacher.mlp_trace(batch.inputs.clone().inner());
        let weight = self.mlps * share / mlps.len() as f64;
        let mut sum: Option<Tensor<1>> = None;
        for (index, [input, output]) in mlps.into_iter().enumerate() {
            let ours = model.mlp(index, constant(input)).cast(DType::F32);
            let loss = relative(ours, constant(output).cast(DType::F32)).mul_scalar(weight);
            let value = loss.clone().inner();
            sum = Some(sum.map_or(value.clone(), |sum| sum + value));
            if loss.is_tracked() {
                into.accumulate(model, GradientsParams::from_grads(loss.backward(), model));
            }
        }
        sum.expect("a model has layers")
    }
}

/// Mean cross-entropy of the next token, in nats.
///
/// # Shapes
/// - `logits`: `[batch, time, vocabulary]`, `targets`: `[batch * time]`
pub fn next_token(logits: Tensor<3>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [batch, time, vocabulary] = logits.dims();
    let log_shares = log_softmax(logits.reshape([batch * time, vocabulary]), 1);
    log_shares.gather(1, targets.reshape([batch * time, 1])).mean().neg()
}

/// Mean divergence of the student's scores from the teacher's, `KL(teacher ‖ student)` in nats, both divided by
/// `temperature` and the result multiplied by its square, so that gradients keep their size (Hinton et al. 2015).
///
/// # Shapes
/// - both: `[batch, time, vocabulary]`
pub fn divergence(student: Tensor<3>, teacher: Tensor<3>, temperature: f64) -> Tensor<1> {
    let positions = student.dims()[0] * student.dims()[1];
    let ours = log_softmax(student.div_scalar(temperature), 2);
    let theirs = teacher.div_scalar(temperature);
    let distance = softmax(theirs.clone(), 2) * (log_softmax(theirs, 2) - ours);
    distance.sum().mul_scalar(temperature * temperature / positions as f64)
}

/// Mean over layers of the squared distance from the teacher's hidden states, relative to their mean square
/// (SquareHead, Kurtic et al. 2023).
///
/// # Panics
/// If the two have different numbers of layers.
pub fn hidden_states(student: Vec<Tensor<3>>, teacher: Vec<Tensor<3>>) -> Tensor<1> {
    assert_eq!(student.len(), teacher.len(), "student and teacher must have the same layers");
    let layers = student.len() as f64;
    let distances = student.into_iter().zip(teacher).map(|(ours, theirs)| relative(ours, theirs));
    let sum = distances.reduce(|sum, distance| sum + distance).expect("a model has layers");
    sum.div_scalar(layers)
}

/// Mean squared distance, relative to the mean square of the second.
fn relative(ours: Tensor<3>, theirs: Tensor<3>) -> Tensor<1> {
    let size = theirs.clone().square().mean().add_scalar(TINY);
    (ours - theirs).square().mean() / size
}

#[cfg(test)]
mod tests;
