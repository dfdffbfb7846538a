//! What training minimises: the cross-entropy of the next token, and distances from a teacher.
//!
//! Burn's `CrossEntropyLoss` and `KLDivLoss` sum in another order, and the latter takes the logarithm of probabilities
//! that may be zero; recorded runs were made with these.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{DType, Int, Tensor};

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
        self.check()?;
        Error::fits(context, teacher.config().context())?;
        let refuse = |what, theirs: usize, ours: usize| match theirs == ours {
            true => Ok(()),
            false => Err(Error::Teacher { what, theirs, ours }),
        };
        if self.hidden_states > 0.0 {
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
    /// If one is negative, none is above 0, or the temperature is not above 0.
    pub fn check(&self) -> Result<(), Error> {
        let weights = [self.next_token, self.divergence, self.hidden_states];
        for (setting, weight) in
            ["next-token", "divergence", "hidden-states"].into_iter().zip(weights)
        {
            Error::in_range(setting, weight, weight >= 0.0, "a number from 0")?;
        }
        let most = weights.into_iter().fold(0.0, f64::max);
        Error::in_range("largest weight of the losses", most, most > 0.0, "above 0")?;
        Error::in_range("teacher-temperature", self.temperature, self.temperature > 0.0, "above 0")
    }

    /// The loss of a batch.
    pub fn loss(&self, model: &Model, batch: &Batch) -> Tensor<1> {
        let Some(teacher) = &self.teacher else {
            return next_token(scores(model, batch), batch.targets.clone());
        };
        let (ours, logits) = model.trace(batch.inputs.clone());
        let device = logits.device();
        // Losses are sums over many positions, in single precision whatever the model's.
        let logits = logits.cast(DType::F32);
        let constant =
            |tensor: Tensor<3>| Tensor::from_inner(tensor).to_device(&device).cast(DType::F32);
        // Only what counts is computed: hidden states of every layer cost most.
        let mut parts = Vec::new();
        if self.next_token > 0.0 {
            let loss = next_token(logits.clone(), batch.targets.clone());
            parts.push(loss.mul_scalar(self.next_token));
        }
        if self.divergence > 0.0 || self.hidden_states > 0.0 {
            let (theirs, target) = teacher.trace(batch.inputs.clone().inner());
            if self.divergence > 0.0 {
                let loss = divergence(logits, constant(target), self.temperature);
                parts.push(loss.mul_scalar(self.divergence));
            }
            if self.hidden_states > 0.0 {
                let ours = ours.into_iter().map(|one| one.cast(DType::F32)).collect();
                let theirs = theirs.into_iter().map(constant).collect();
                parts.push(hidden_states(ours, theirs).mul_scalar(self.hidden_states));
            }
        }
        let sum = parts.into_iter().reduce(|sum, loss| sum + loss);
        sum.expect("the settings were checked for a weight above 0")
    }
}

/// Scores of the next token, in single precision whatever the model's.
///
/// # Shapes
/// - output: `[batch, context, vocabulary]`
pub fn scores(model: &Model, batch: &Batch) -> Tensor<3> {
    model.forward(batch.inputs.clone(), None).cast(DType::F32)
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
    let distances = student.into_iter().zip(teacher).map(|(ours, theirs)| {
        let size = theirs.clone().square().mean().add_scalar(TINY);
        (ours - theirs).square().mean() / size
    });
    let sum = distances.reduce(|sum, distance| sum + distance).expect("a model has layers");
    sum.div_scalar(layers)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::ModelConfig;
    use crate::fine_tune::tests::{config, corpus, model, settings};
    use crate::fine_tune::trainer::read;

    #[test]
    fn only_named_parts_of_the_objective_count() {
        let (start, corpus) = (model(DType::F32), corpus());
        let batch = corpus.batch(settings().sequences, 0, 0, &Device::flex());
        let loss = |objective: Objective| read(vec![objective.loss(&start, &batch)]).unwrap()[0];
        let plain = loss(Objective::default());
        let with = |next_token, divergence, hidden_states| {
            let teacher = Some(start.clone());
            loss(Objective { next_token, divergence, temperature: 1.0, hidden_states, teacher })
        };
        assert!((with(2.0, 0.0, 0.0) - 2.0 * plain).abs() < 1e-4);
        // The teacher is the student.
        assert!(with(0.0, 1.0, 1.0).abs() < 1e-4);
    }

    #[test]
    fn a_teacher_of_another_width_gives_its_scores() {
        let (start, corpus) = (model(DType::F32), corpus());
        let mut wide = config();
        wide["hidden_size"] = 32.into();
        let teacher = ModelConfig::parse(&wide).unwrap().init_normal(&Device::flex(), 2).unwrap();
        let batch = corpus.batch(settings().sequences, 0, 0, &Device::flex());
        let teacher = Some(teacher);
        let objective =
            Objective { next_token: 0.0, divergence: 1.0, teacher, ..Objective::default() };
        let loss = read(vec![objective.loss(&start, &batch)]).unwrap()[0];
        assert!(loss > 0.0 && loss.is_finite(), "{loss}");
    }

    fn number(loss: Tensor<1>) -> f64 {
        f64::from(loss.into_scalar::<f32>())
    }

    #[test]
    fn equal_scores_cost_their_entropy_and_diverge_by_nothing() {
        let device = Device::flex();
        let logits = Tensor::<3>::zeros([2, 3, 8], &device);
        let targets = Tensor::<1, Int>::from_ints([0, 1, 2, 3, 4, 5], &device);
        assert!((number(next_token(logits.clone(), targets)) - 8.0_f64.ln()).abs() < 1e-6);
        assert!(number(divergence(logits.clone(), logits, 2.0)).abs() < 1e-6);
    }

    #[test]
    fn the_divergence_follows_the_formula() {
        let device = Device::flex();
        let student = Tensor::<3>::from_floats([[[1.0, 0.0, -1.0]]], &device);
        let teacher = Tensor::<3>::from_floats([[[0.0, 2.0, 0.0]]], &device);
        let shares = |logits: [f64; 3]| {
            let sum: f64 = logits.iter().map(|x| (x / 2.0).exp()).sum();
            logits.map(|x| (x / 2.0).exp() / sum)
        };
        let (p, q) = (shares([0.0, 2.0, 0.0]), shares([1.0, 0.0, -1.0]));
        let want: f64 = 4.0 * p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
        assert!((number(divergence(student, teacher, 2.0)) - want).abs() < 1e-5);
    }

    #[test]
    fn the_distance_of_hidden_states_is_relative() {
        let device = Device::flex();
        let teacher = Tensor::<3>::random([2, 3, 4], Distribution::Default, &device) + 1.0;
        let far = |scale: f64| teacher.clone() * scale;
        let one = number(hidden_states(vec![far(1.5)], vec![teacher.clone()]));
        assert!((one - 0.25).abs() < 1e-5, "{one}");
        let two =
            number(hidden_states(vec![far(1.5), far(1.0)], vec![teacher.clone(), teacher.clone()]));
        assert!((two - 0.125).abs() < 1e-5, "{two}");
    }
}
