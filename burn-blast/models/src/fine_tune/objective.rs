//! What training minimises.

use burn::tensor::{DType, Tensor};

use super::losses;
use crate::corpus::{Batch, check_context};
use crate::{Error, Model, ModelFolder, Precision};

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
        check_context(teacher, context)?;
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
            return losses::next_token(scores(model, batch), batch.targets.clone());
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
            let loss = losses::next_token(logits.clone(), batch.targets.clone());
            parts.push(loss.mul_scalar(self.next_token));
        }
        if self.divergence > 0.0 || self.hidden_states > 0.0 {
            let (theirs, target) = teacher.trace(batch.inputs.clone().inner());
            if self.divergence > 0.0 {
                let loss = losses::divergence(logits, constant(target), self.temperature);
                parts.push(loss.mul_scalar(self.divergence));
            }
            if self.hidden_states > 0.0 {
                let ours = ours.into_iter().map(|one| one.cast(DType::F32)).collect();
                let theirs = theirs.into_iter().map(constant).collect();
                parts.push(losses::hidden_states(ours, theirs).mul_scalar(self.hidden_states));
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use serde_json::json;

    use super::*;
    use crate::fine_tune::tests::{corpus, model, settings};
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
        let wide = json!({
            "model_type": "llama", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": true,
        });
        let teacher =
            ModelFolder::new(wide).unwrap().config().init_normal(&Device::flex(), 2).unwrap();
        let batch = corpus.batch(settings().sequences, 0, 0, &Device::flex());
        let objective = Objective {
            next_token: 0.0,
            divergence: 1.0,
            temperature: 1.0,
            hidden_states: 0.0,
            teacher: Some(teacher),
        };
        let loss = read(vec![objective.loss(&start, &batch)]).unwrap()[0];
        assert!(loss > 0.0 && loss.is_finite(), "{loss}");
    }
}
