//! A model of either architecture.

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::attention::Pass;
use crate::gpt2::Gpt2;
use crate::llama::Llama;
use crate::{Cache, Linear};

/// A language model loaded by [`Checkpoint::load`](crate::Checkpoint::load).
///
/// As a Burn module its parameters are called as in the checkpoint, save that the weight and bias of a norm are
/// `gamma` and `beta`, and that Burn adds the names of enum variants: `Llama`, `Gpt2`, `Dense`, `Sparse`.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one model")]
pub enum Model {
    /// A Llama.
    Llama(Llama),
    /// A GPT-2.
    Gpt2(Gpt2),
}

impl Model {
    /// Scores of the next token at every position.
    ///
    /// With a cache, `tokens` continue the text it holds, which grows by them; without, they are a whole text.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, time]`
    /// - output: `[batch, time, vocabulary]`
    pub fn forward(&self, tokens: Tensor<2, Int>, cache: Option<&mut Cache>) -> Tensor<3> {
        self.logits(self.hidden(tokens, cache))
    }

    /// The features [`logits`](Self::logits) takes, for callers that need the scores of few positions: over a large
    /// vocabulary these cost more than some layers.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, time]`
    /// - output: `[batch, time, width]`
    pub fn hidden(&self, tokens: Tensor<2, Int>, cache: Option<&mut Cache>) -> Tensor<3> {
        let pass = Pass::new(cache, tokens.dims()[1], &tokens.device());
        self.pass(tokens, pass)
    }

    /// What every layer gives, and the scores of the next token at every position of a whole text.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, time]`
    /// - output: `[batch, time, width]` for each layer, `[batch, time, vocabulary]`
    pub fn trace(&self, tokens: Tensor<2, Int>) -> (Vec<Tensor<3>>, Tensor<3>) {
        let mut features = Vec::with_capacity(self.layers());
        let mut pass = Pass::new(None, tokens.dims()[1], &tokens.device());
        pass.features = Some(&mut features);
        let logits = self.logits(self.pass(tokens, pass));
        (features, logits)
    }

    /// Tells `witness` what each linear layer of the MLPs takes while a whole text goes through the model: the name of
    /// the layer as in [`linears_mut`](Self::linears_mut), and `[batch, time, d_input]`.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, time]`
    pub fn observe(&self, tokens: Tensor<2, Int>, witness: &mut dyn FnMut(&str, Tensor<3>)) {
        let mut pass = Pass::new(None, tokens.dims()[1], &tokens.device());
        pass.witness = Some(witness);
        self.pass(tokens, pass);
    }

    fn pass(&self, tokens: Tensor<2, Int>, pass: Pass) -> Tensor<3> {
        match self {
            Self::Llama(model) => model.hidden(tokens, pass),
            Self::Gpt2(model) => model.hidden(tokens, pass),
        }
    }

    /// The output layer.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, time, width]`
    /// - output: `[batch, time, vocabulary]`
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        let head = match self {
            Self::Llama(model) => model.head(),
            Self::Gpt2(model) => model.head(),
        };
        match head {
            Some(head) => head.forward(hidden),
            None => {
                // In two dimensions: in three, Burn's CPU backend copies a turned weight before it multiplies.
                let [batch, time, width] = hidden.dims();
                let scores =
                    hidden.reshape([batch * time, width]).matmul(self.embedding().transpose());
                scores.reshape([batch, time, self.vocabulary()])
            }
        }
    }

    /// A cache that holds no text yet.
    pub fn cache(&self) -> Cache {
        Cache::new(self.layers())
    }

    /// Layers, without embedding and output.
    pub fn layers(&self) -> usize {
        match self {
            Self::Llama(model) => model.layers(),
            Self::Gpt2(model) => model.layers(),
        }
    }

    /// Every linear layer with its name in the checkpoint, to read or to replace.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        match self {
            Self::Llama(model) => model.linears_mut(),
            Self::Gpt2(model) => model.linears_mut(),
        }
    }

    /// Those of the MLPs of all but the last `keep_last` layers.
    pub fn mlps_mut(&mut self, keep_last: usize) -> Vec<(String, &mut Linear)> {
        let layers = self.layers().saturating_sub(keep_last);
        let mut all = self.linears_mut();
        all.retain(|(name, _)| {
            let layer = name.split('.').find_map(|part| part.parse::<usize>().ok());
            name.contains(".mlp.") && layer.is_some_and(|layer| layer < layers)
        });
        all
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.embedding().dims()[0]
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embedding().device()
    }

    /// Precision of the weights.
    pub fn dtype(&self) -> DType {
        self.embedding().dtype()
    }

    /// Tokens of equally long texts as a tensor on the model's device.
    ///
    /// # Panics
    /// If the texts differ in length.
    pub fn tokens(&self, texts: &[&[u32]]) -> Tensor<2, Int> {
        let time = texts.first().map_or(0, |text| text.len());
        assert!(texts.iter().all(|text| text.len() == time), "the texts must have one length");
        let numbers: Vec<i32> = texts.concat().into_iter().map(|token| token as i32).collect();
        Tensor::from_data(TensorData::new(numbers, [texts.len(), time]), &self.device())
    }

    fn embedding(&self) -> Tensor<2> {
        match self {
            Self::Llama(model) => model.embedding(),
            Self::Gpt2(model) => model.embedding(),
        }
    }
}
