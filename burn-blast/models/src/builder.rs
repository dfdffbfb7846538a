//! Modules of the sizes of a configuration, with weights drawn at random or read from a checkpoint.

use burn::module::Param;
use burn::nn;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use burn_blast::io::Pretrained;
use burn_blast::module::AnyLinear;
use rand::{Rng, SeedableRng as _};
use rand_burn::SeedableRng as _;
use rand_burn::rngs::StdRng;
use rand_chacha::ChaCha8Rng;

use crate::families::RmsNorm;
use crate::{Error, Model, ModelConfig};

/// Deviation of an embedding at the start, and of every matrix of [`ModelConfig::init_normal`], as in GPT-2 and Llama.
const DEVIATION: f32 = 0.02;

impl ModelConfig {
    /// A model of these sizes whose weights follow from `seed` alone, on every device.
    ///
    /// They are drawn on the host by one ChaCha8 generator: the embedding, then layer by layer the linear layers in
    /// the order of [`Model::linears_mut`], then the output layer. Matrices are uniform: the embedding with a deviation
    /// of 0.02, linear layers as `nn::Linear` draws them. Norms are one, biases zero.
    ///
    /// # Errors
    /// If the sizes contradict each other.
    pub fn init(&self, device: &Device, seed: u64) -> Result<Model, Error> {
        self.draw(Draw::Uniform(ChaCha8Rng::seed_from_u64(seed)), device)
    }

    /// A model of these sizes as [`init`](Self::init) makes it, but with matrices drawn from a normal distribution of
    /// deviation 0.02, by rand's `StdRng`, which may be another generator in another release.
    ///
    /// # Errors
    /// If the sizes contradict each other.
    pub fn init_normal(&self, device: &Device, seed: u64) -> Result<Model, Error> {
        self.draw(Draw::Normal(StdRng::seed_from_u64(seed)), device)
    }

    fn draw(&self, random: Draw, device: &Device) -> Result<Model, Error> {
        self.family().build(&mut Builder { source: Source::Random(Box::new(random)), device })
    }
}

/// Where weights come from.
pub(crate) enum Source<'a> {
    /// Drawn on the host, so that no thread that draws from the device at the same time changes them.
    Random(Box<Draw>),
    /// Loaded when the model is complete. Until then parameters are not drawn either.
    Stored(&'a Pretrained),
}

/// Draws matrices.
pub(crate) enum Draw {
    /// Uniform, within a bound for each.
    Uniform(ChaCha8Rng),
    /// Normal, with one deviation.
    Normal(StdRng),
}

impl Draw {
    fn matrix(&mut self, shape: [usize; 2], bound: f32, device: &Device) -> Param<Tensor<2>> {
        let data = match self {
            Self::Uniform(random) => {
                let count = shape[0] * shape[1];
                let values = (0..count).map(|_| random.random_range(-bound..bound));
                TensorData::new(values.collect::<Vec<f32>>(), shape)
            }
            Self::Normal(random) => {
                let normal = Distribution::Normal(0.0, DEVIATION.into());
                TensorData::random::<f32, _, _>(shape, normal, random)
            }
        };
        Param::from_tensor(Tensor::from_data(data, device))
    }
}

/// Makes the layers of a model.
pub(crate) struct Builder<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) device: &'a Device,
}

impl Builder<'_> {
    pub(crate) fn embedding(&mut self, count: usize, width: usize) -> nn::Embedding {
        match &mut self.source {
            Source::Random(draw) => {
                let bound = DEVIATION * 3f32.sqrt();
                nn::Embedding { weight: draw.matrix([count, width], bound, self.device) }
            }
            Source::Stored(_) => nn::EmbeddingConfig::new(count, width).init(self.device),
        }
    }

    /// A norm that multiplies by one.
    pub(crate) fn rms_norm(&self, width: usize, epsilon: f64, unit_offset: bool) -> RmsNorm {
        let one = if unit_offset { nn::Initializer::Zeros } else { nn::Initializer::Ones };
        RmsNorm { gamma: one.init([width], self.device), epsilon, unit_offset }
    }

    pub(crate) fn layer_norm(&self, width: usize, epsilon: f64) -> nn::LayerNorm {
        nn::LayerNormConfig::new(width).with_epsilon(epsilon).init(self.device)
    }

    /// The layer at `path`, of `[d_input, d_output]`: block-sparse if the checkpoint has it packed.
    pub(crate) fn linear(
        &mut self,
        path: &str,
        [d_input, d_output]: [usize; 2],
        bias: bool,
    ) -> Result<AnyLinear, Error> {
        let config = nn::LinearConfig::new(d_input, d_output).with_bias(bias);
        let device = self.device;
        Ok(match &mut self.source {
            Source::Random(draw) => {
                let bound = 1.0 / (d_input as f32).sqrt();
                let weight = draw.matrix([d_input, d_output], bound, device);
                let zeros = || nn::Initializer::Zeros.init([d_output], device);
                AnyLinear::Dense(nn::Linear { weight, bias: bias.then(zeros) })
            }
            Source::Stored(pretrained) => pretrained.linear(path, &config, device)?,
        })
    }
}
