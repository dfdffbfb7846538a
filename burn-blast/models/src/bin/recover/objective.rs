//! What training minimises, and how it is put together.

use burn::tensor::{DType, Tensor};
use burn_blast_models::Model;

use crate::data::Batch;
use crate::loss;

/// What is minimised.
#[derive(Debug, Default)]
pub struct Objective {
    /// Weight of the loss of the next token.
    pub next_token: f64,
    /// Weight of the divergence from the teacher.
    pub divergence: f64,
    /// Of the divergence.
    pub temperature: f64,
    /// Weight of the distance from the teacher's features.
    pub features: f64,
    /// A model of as many layers and tokens, without autodiff; of the same width if its features count.
    pub teacher: Option<Model>,
}

impl Objective {
    /// The loss of a batch.
    pub fn loss(&self, model: &Model, batch: &Batch) -> Tensor<1> {
        let Some(teacher) = &self.teacher else {
            return loss::next_token(scores(model, batch), batch.targets.clone());
        };
        let (ours, logits) = model.trace(batch.inputs.clone());
        let device = logits.device();
        // Losses are sums over many positions, in single precision whatever the model's.
        let logits = logits.cast(DType::F32);
        let constant =
            |tensor: Tensor<3>| Tensor::from_inner(tensor).to_device(&device).cast(DType::F32);
        // Only what counts is computed: features of every layer are the dearest part.
        let mut parts = Vec::new();
        if self.next_token > 0.0 {
            let loss = loss::next_token(logits.clone(), batch.targets.clone());
            parts.push(loss.mul_scalar(self.next_token));
        }
        if self.divergence > 0.0 || self.features > 0.0 {
            let (theirs, target) = teacher.trace(batch.inputs.clone().inner());
            if self.divergence > 0.0 {
                let loss = loss::divergence(logits, constant(target), self.temperature);
                parts.push(loss.mul_scalar(self.divergence));
            }
            if self.features > 0.0 {
                let ours = ours.into_iter().map(|one| one.cast(DType::F32)).collect();
                let theirs = theirs.into_iter().map(constant).collect();
                parts.push(loss::features(ours, theirs).mul_scalar(self.features));
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
    use burn_blast_models::Checkpoint;
    use serde_json::json;

    use super::*;
    use crate::train::read;
    use crate::train::tests::{args, corpus, model};

    #[test]
    fn only_named_parts_of_the_objective_count() {
        let (start, corpus) = (model(DType::F32), corpus());
        let batch = corpus.batch(&args().text, 0, 0, &Device::flex());
        let loss = |objective: Objective| read(vec![objective.loss(&start, &batch)]).unwrap()[0];
        let plain = loss(Objective::default());
        let with = |next_token, divergence, features| {
            let teacher = Some(start.clone());
            loss(Objective { next_token, divergence, temperature: 1.0, features, teacher })
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
            Checkpoint::new(wide).unwrap().config().init_normal(&Device::flex(), 2).unwrap();
        let batch = corpus.batch(&args().text, 0, 0, &Device::flex());
        let objective = Objective {
            next_token: 0.0,
            divergence: 1.0,
            temperature: 1.0,
            features: 0.0,
            teacher: Some(teacher),
        };
        let loss = read(vec![objective.loss(&start, &batch)]).unwrap()[0];
        assert!(loss > 0.0 && loss.is_finite(), "{loss}");
    }
}
