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
mod tests {
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::ModelConfig;
    use crate::fine_tune::tests::{config, corpus, model, settings};
    use crate::fine_tune::trainer::read;

    /// Loss and gradients of an objective.
    fn gradients(objective: &Objective, model: &Model, batch: &Batch) -> (f64, GradientsParams) {
        let mut into = GradientsAccumulator::new();
        let loss = objective.gradients(model, batch, 1.0, &mut into);
        (read(vec![loss]).unwrap()[0], into.grads())
    }

    /// Every gradient, parameter by parameter.
    struct Listed<'a>(&'a GradientsParams, Vec<Vec<f32>>);

    impl ModuleVisitor for Listed<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.0.get::<D>(param.id);
            self.1.push(gradient.map(|one| one.into_data().iter().collect()).unwrap_or_default());
        }
    }

    #[test]
    fn gradients_in_pieces_are_those_of_the_whole_loss() {
        let device = Device::flex().autodiff();
        let batch = corpus().batch(settings().sequences, 0, 0, &device);
        // The scores come in more than one piece.
        assert_eq!(batch.targets.dims(), [32]);
        for is_tied in [true, false] {
            let mut config = config();
            config["tie_word_embeddings"] = is_tied.into();
            let config = ModelConfig::parse(&config).unwrap();
            let [student, teacher] =
                [3, 4].map(|seed| config.init_normal(&Device::flex(), seed).unwrap());
            let student = student.train();
            let objective = Objective {
                next_token: 0.7,
                divergence: 0.4,
                temperature: 2.0,
                hidden_states: 0.3,
                mlps: 0.0,
                teacher: Some(teacher.clone()),
            };
            let (loss, found) = gradients(&objective, &student, &batch);
            let constant = |tensor| Tensor::<3>::from_inner(tensor).to_device(&device);
            let (ours, hidden) = student.trace(batch.inputs.clone());
            let (theirs, target) = teacher.trace(batch.inputs.clone().inner());
            let (scores, target) = (student.logits(hidden), teacher.logits(target));
            let theirs = theirs.into_iter().map(constant).collect();
            let whole = next_token(scores.clone(), batch.targets.clone()) * 0.7
                + divergence(scores, constant(target), 2.0) * 0.4
                + hidden_states(ours, theirs) * 0.3;
            let expected = number(whole.clone().inner());
            assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
            let expected = GradientsParams::from_grads(whole.backward(), &student);
            let [found, expected] = [found, expected].map(|grads| {
                let mut listed = Listed(&grads, Vec::new());
                student.visit(&mut listed);
                listed.1
            });
            assert_eq!(found.len(), expected.len());
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found.len(), expected.len(), "parameter {at}");
                assert!(!found.is_empty(), "parameter {at}");
                let largest = expected.iter().fold(0f32, |most, one| most.max(one.abs()));
                for (found, expected) in found.iter().zip(expected) {
                    assert!((found - expected).abs() <= 1e-4 * largest, "{at}: {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn an_mlp_is_compared_on_what_the_teacher_gives_it() {
        let device = Device::flex().autodiff();
        let batch = corpus().batch(settings().sequences, 0, 0, &device);
        let config = ModelConfig::parse(&config()).unwrap();
        let [student, teacher] =
            [3, 4].map(|seed| config.init_normal(&Device::flex(), seed).unwrap());
        let objective = Objective {
            next_token: 0.0,
            mlps: 1.0,
            teacher: Some(teacher.clone()),
            ..Objective::default()
        };
        let (loss, found) = gradients(&objective, &student.clone().train(), &batch);
        let mut expected = 0.0;
        let mut inputs = Vec::new();
        teacher.observe(batch.inputs.clone().inner(), &mut |name, input| {
            if name.ends_with("gate_proj") {
                inputs.push(input);
            }
        });
        for (layer, input) in inputs.iter().enumerate() {
            let [ours, theirs] = [&student, &teacher].map(|model| model.mlp(layer, input.clone()));
            expected += number(relative(ours, theirs)) / 2.0;
        }
        assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
        // Three weights in each of two layers.
        let mut listed = Listed(&found, Vec::new());
        student.visit(&mut listed);
        assert_eq!(listed.1.iter().filter(|gradient| !gradient.is_empty()).count(), 6);
    }

    #[test]
    fn only_named_parts_of_the_objective_count() {
        let (start, corpus) = (model(DType::F32), corpus());
        let device = Device::flex().autodiff();
        let batch = corpus.batch(settings().sequences, 0, 0, &device);
        let tracked = start.clone().train();
        let loss = |objective: Objective| gradients(&objective, &tracked, &batch).0;
        let plain = loss(Objective::default());
        let with = |next_token, divergence, hidden_states| {
            let teacher = Some(start.clone());
            let (temperature, mlps) = (1.0, hidden_states);
            loss(Objective { next_token, divergence, temperature, hidden_states, mlps, teacher })
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
        let batch = corpus.batch(settings().sequences, 0, 0, &Device::flex().autodiff());
        let teacher = Some(teacher);
        let objective =
            Objective { next_token: 0.0, divergence: 1.0, teacher, ..Objective::default() };
        let (loss, _) = gradients(&objective, &start.train(), &batch);
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
