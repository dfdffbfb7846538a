//! What every model can do, whatever its family.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_blast::functions;
use burn_blast::module::AnyLinear;

use crate::attention::Pass;
use crate::{Cache, Error, Model, Precision};

/// Gives every parameter a data type.
struct Cast(DType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.cast(self.0))
    }
}

impl Model {
    /// Scores of the next token at every position.
    ///
    /// With a cache, `tokens` continue its text, which grows by them; without, they are a whole text.
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
        let pass = Pass::new(cache, tokens.dims()[1]);
        self.family().hidden(tokens, pass)
    }

    /// The output of every layer for a whole text, and the features that [`logits`](Self::logits) takes.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, time]`
    /// - output: `[batch, time, width]`, for each layer and for the features
    pub fn trace(&self, tokens: Tensor<2, Int>) -> (Vec<Tensor<3>>, Tensor<3>) {
        let mut features = Vec::with_capacity(self.layers());
        let mut pass = Pass::new(None, tokens.dims()[1]);
        pass.features = Some(&mut features);
        let hidden = self.family().hidden(tokens, pass);
        (features, hidden)
    }

    /// Input and output of every MLP for a whole text.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, time]`
    /// - output: `[batch, time, width]` each
    pub(crate) fn mlp_trace(&self, tokens: Tensor<2, Int>) -> Vec<[Tensor<3>; 2]> {
        let mut pass = Pass::new(None, tokens.dims()[1]);
        let mut mlps = Vec::with_capacity(self.layers());
        pass.mlps = Some(&mut mlps);
        let mut x = self.family().embed(tokens, &pass);
        for index in 0..self.layers() {
            x = self.family().attend(index, x, &mut pass);
            x = self.family().feed(index, x, &mut pass);
        }
        drop(pass);
        mlps
    }

    /// Calls `hook` with the input of each linear layer of the MLPs while a whole text passes through the model: the
    /// name of the layer as in [`linears_mut`](Self::linears_mut), and `[batch, time, d_input]`.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, time]`
    pub fn observe(&self, tokens: Tensor<2, Int>, hook: &mut dyn FnMut(&str, Tensor<3>)) {
        let mut pass = Pass::new(None, tokens.dims()[1]);
        let mut show = |name: &str, input: Tensor<3>| {
            hook(name, input.clone());
            input
        };
        pass.hook = Some(&mut show);
        self.family().hidden(tokens, pass);
    }

    /// The features that the first layer takes.
    ///
    /// # Shapes
    /// - `tokens`: `[batch, time]`
    /// - output: `[batch, time, width]`
    #[cfg(feature = "calibrate")]
    pub(crate) fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let pass = Pass::new(None, tokens.dims()[1]);
        self.family().embed(tokens, &pass)
    }

    /// The features of whole texts before a layer, with what its attention adds.
    ///
    /// # Shapes
    /// - `x` and output: `[batch, time, width]`
    #[cfg(feature = "calibrate")]
    pub(crate) fn attend(&self, index: usize, x: Tensor<3>) -> Tensor<3> {
        let mut pass = Pass::new(None, x.dims()[1]);
        self.family().attend(index, x, &mut pass)
    }

    /// The features of whole texts after the attention of a layer, with what its MLP adds.
    ///
    /// # Shapes
    /// - `x` and output: `[batch, time, width]`
    #[cfg(feature = "calibrate")]
    pub(crate) fn feed(&self, index: usize, x: Tensor<3>) -> Tensor<3> {
        let mut pass = Pass::new(None, x.dims()[1]);
        self.family().feed(index, x, &mut pass)
    }

    /// Applies the MLP of one layer.
    ///
    /// # Shapes
    /// - `input` and output: `[batch, time, width]`
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn mlp(&self, layer: usize, input: Tensor<3>) -> Tensor<3> {
        let mut pass = Pass::new(None, 1);
        self.family().mlp(layer, input, &mut pass)
    }

    /// The output layer.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, time, width]`
    /// - output: `[batch, time, vocabulary]`
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        match self.family().head() {
            Some(head) => head.forward(hidden),
            None => {
                // In two dimensions: in three, Burn's CPU backend copies a transposed weight before it multiplies.
                let [batch, time, width] = hidden.dims();
                let scores =
                    hidden.reshape([batch * time, width]).matmul(self.embedding().transpose());
                scores.reshape([batch, time, self.vocabulary()])
            }
        }
    }

    /// The backward pass of [`logits`](Self::logits): the gradient of the features from the gradient of the scores. Not
    /// tracked by autodiff.
    ///
    /// # Shapes
    /// - `gradient`: `[rows, vocabulary]`
    /// - output: `[1, rows, width]`
    pub(crate) fn logits_backward(&self, gradient: Tensor<2>) -> Tensor<3> {
        let gradient = match self.family().head() {
            Some(AnyLinear::Sparse(head)) if !head.weight.is_quantized() => {
                functions::spmm_t(gradient, head.weight.values(), head.pattern())
            }
            Some(head) => gradient.matmul(head.to_dense().transpose()),
            None => gradient.matmul(self.embedding()),
        };
        gradient.unsqueeze()
    }

    /// Whether the output layer is not trained.
    pub(crate) fn has_frozen_head(&self) -> bool {
        match self.family().head() {
            Some(AnyLinear::Adapted(_)) => false,
            Some(head) => {
                let weight = match head {
                    AnyLinear::Sparse(layer) => layer.weight.values().is_require_grad(),
                    other => other.to_dense().is_require_grad(),
                };
                !weight && !head.bias().is_some_and(|bias| bias.val().is_require_grad())
            }
            None => !self.embedding().is_require_grad(),
        }
    }

    /// The model with parameters of another data type.
    ///
    /// # Errors
    /// If the device does not have it.
    pub fn with_precision(self, precision: Precision) -> Result<Self, Error> {
        let dtype = precision.on(&self.device(), self.dtype())?;
        Ok(if dtype == self.dtype() { self } else { self.map(&mut Cast(dtype)) })
    }

    /// A cache that holds no text yet.
    pub fn cache(&self) -> Cache {
        Cache::new(self.layers())
    }

    /// Layers, without embedding and output.
    pub fn layers(&self) -> usize {
        self.family().layers()
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.embedding().dims()[0]
    }

    /// Features between the layers.
    pub fn width(&self) -> usize {
        self.embedding().dims()[1]
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
        self.family().embedding()
    }
}
