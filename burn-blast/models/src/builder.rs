//! Modules of the sizes of a configuration, with weights drawn at random or read from a checkpoint.

use burn::module::{Module, ModuleMapper, Param};
use burn::nn;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use burn_blast::io::Pretrained;
use burn_blast::module::AnyLinear;
use rand::{Rng, SeedableRng};
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
        let random = Box::new(ChaCha8Rng::seed_from_u64(seed));
        self.family().build(&mut Builder { source: Source::Random(random), device })
    }

    /// A model of these sizes with matrices drawn from a normal distribution of deviation 0.02, norms at one. The same
    /// seed gives the same model on a device that nothing else draws from at the same time.
    ///
    /// # Errors
    /// If the sizes contradict each other.
    pub fn init_normal(&self, device: &Device, seed: u64) -> Result<Model, Error> {
        let model = self.family().build(&mut Builder { source: Source::Stored(None), device })?;
        device.seed(seed);
        Ok(model.map(&mut Normal))
    }
}

struct Normal;

impl ModuleMapper for Normal {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // Norms are made as they must be, and biases are small.
        if D < 2 {
            return param;
        }
        param.map(|old| {
            let normal = Distribution::Normal(0.0, DEVIATION.into());
            Tensor::random(old.shape(), normal, &old.device())
        })
    }
}

/// Where weights come from.
pub(crate) enum Source<'a> {
    /// Drawn on the host.
    Random(Box<ChaCha8Rng>),
    /// Loaded when the model is complete, if there is a checkpoint. Until then parameters are not drawn either.
    Stored(Option<&'a Pretrained>),
}

/// Makes the layers of a model.
pub(crate) struct Builder<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) device: &'a Device,
}

impl Builder<'_> {
    pub(crate) fn embedding(&mut self, count: usize, width: usize) -> nn::Embedding {
        match &mut self.source {
            Source::Random(random) => {
                let bound = DEVIATION * 3f32.sqrt();
                nn::Embedding { weight: uniform(random, [count, width], bound, self.device) }
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
            Source::Random(random) => {
                let bound = 1.0 / (d_input as f32).sqrt();
                let weight = uniform(random, [d_input, d_output], bound, device);
                let zeros = || nn::Initializer::Zeros.init([d_output], device);
                AnyLinear::Dense(nn::Linear { weight, bias: bias.then(zeros) })
            }
            Source::Stored(Some(pretrained)) => pretrained.linear(path, &config, device)?,
            Source::Stored(None) => AnyLinear::Dense(config.init(device)),
        })
    }
}

fn uniform(
    random: &mut ChaCha8Rng,
    shape: [usize; 2],
    bound: f32,
    device: &Device,
) -> Param<Tensor<2>> {
    let count = shape[0] * shape[1];
    let values: Vec<f32> = (0..count).map(|_| random.random_range(-bound..bound)).collect();
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
}
