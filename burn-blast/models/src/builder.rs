//! Modules of the sizes of a configuration, with weights drawn at random or read from a checkpoint.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::nn;
use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use burn_blast::MatrixShape;
use burn_blast::module::BlockSparseWeight;
use burn_blast::module::{AnyLinear, BlockSparseLinear, LoraLinear, LoraLinearConfig};
use burn_blast_checkpoint::format::{self, COL_PTR, LAYOUT, LORA_A, ROW_IDX, VALUES, leaf};
use burn_pack::Tensor as Entry;
use burn_store::bridge;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::checkpoint::{PACKED, unreadable};
use crate::{Config, Error, Model};

/// Deviation of an embedding at the start, and of every matrix of [`Config::init_normal`], as in GPT-2 and Llama.
const DEVIATION: f32 = 0.02;

impl Config {
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
        self.family().build(&mut Builder {
            source: Source::Random(random),
            device,
            dtype: DType::F32,
        })
    }

    /// A model of these sizes with matrices drawn from a normal distribution of deviation 0.02, norms at one. The same
    /// seed gives the same model on a device that nothing else draws from at the same time.
    ///
    /// # Errors
    /// If the sizes contradict each other.
    pub fn init_normal(&self, device: &Device, seed: u64) -> Result<Model, Error> {
        let entries = BTreeMap::new();
        let source = Source::Stored(&entries);
        let model = self.family().build(&mut Builder { source, device, dtype: DType::F32 })?;
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
    /// The tensors of a checkpoint. Dense ones are loaded when the model is complete; until then parameters are not
    /// drawn either.
    Stored(&'a BTreeMap<String, Entry>),
}

/// Makes the layers of a model.
pub(crate) struct Builder<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) device: &'a Device,
    pub(crate) dtype: DType,
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

    pub(crate) fn rms_norm(&self, width: usize, epsilon: f64) -> nn::RmsNorm {
        nn::RmsNormConfig::new(width).with_epsilon(epsilon).init(self.device)
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
        let device = self.device;
        let zeros = || -> Param<Tensor<1>> { nn::Initializer::Zeros.init([d_output], device) };
        let entries = match &mut self.source {
            Source::Random(random) => {
                let bound = 1.0 / (d_input as f32).sqrt();
                let weight = uniform(random, [d_input, d_output], bound, device);
                return Ok(AnyLinear::Dense(nn::Linear { weight, bias: bias.then(zeros) }));
            }
            Source::Stored(entries) => *entries,
        };
        if !PACKED.iter().any(|end| entries.contains_key(&format!("{path}{end}"))) {
            let config = nn::LinearConfig::new(d_input, d_output).with_bias(bias);
            return Ok(AnyLinear::Dense(config.init(device)));
        }
        let packed = Packed { entries, device, dtype: self.dtype };
        let weight = packed.weight(&format!("{path}.weight"), [d_input, d_output])?;
        let layer = BlockSparseLinear::new(weight, bias.then(zeros));
        Ok(match entries.get(&leaf(path, LORA_A)) {
            Some(a) => AnyLinear::Adapted(adapted(layer, path, a)?),
            None => AnyLinear::Sparse(layer),
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

/// A layer with an adapter of the file's rank, still to be filled.
fn adapted(base: BlockSparseLinear, path: &str, a: &Entry) -> Result<LoraLinear, Error> {
    let shape = base.pattern().shape();
    match a.shape.as_slice() {
        &[rows, rank] if rows == shape.rows() && rank > 0 => {
            Ok(LoraLinearConfig::new(rank).init(base))
        }
        found => Err(Error::Shape {
            name: leaf(path, LORA_A),
            found: found.to_vec(),
            expected: vec![shape.rows(), found.get(1).copied().unwrap_or(1).max(1)],
        }),
    }
}

/// Packed weights of a checkpoint.
struct Packed<'a> {
    entries: &'a BTreeMap<String, Entry>,
    device: &'a Device,
    dtype: DType,
}

impl Packed<'_> {
    /// Reads a packed weight of `[d_input, d_output]`.
    fn weight(&self, weight: &str, shape: [usize; 2]) -> Result<BlockSparseWeight, Error> {
        let refuse = |source| Error::Layout { name: weight.to_string(), source };
        let shape = MatrixShape::new(shape[0], shape[1]).map_err(|error| refuse(error.into()))?;
        let integer = |dtype: DType| dtype.is_int() || dtype.is_uint();
        let numbers = |part: &str| -> Result<Vec<i64>, Error> {
            let data = self.read(&leaf(weight, part), "integer", integer)?;
            Ok(data.iter::<i64>().collect())
        };
        let (layout, rows, columns) = (numbers(LAYOUT)?, numbers(ROW_IDX)?, numbers(COL_PTR)?);
        let (pattern, _) = format::parse(&layout, &rows, &columns, Some(shape)).map_err(refuse)?;
        let name = leaf(weight, VALUES);
        let values = self.read(&name, "floating-point", |dtype| dtype.is_float())?;
        let block = pattern.block().get();
        let (found, expected) = (values.shape().to_vec(), vec![pattern.nnz(), block, block]);
        if found != expected {
            return Err(Error::Shape { name, found, expected });
        }
        let values = values.convert_dtype(self.dtype);
        let values = Tensor::from_data(values, (self.device, self.dtype));
        Ok(BlockSparseWeight::new(values, pattern))
    }

    fn read(
        &self,
        name: &str,
        expected: &'static str,
        fits: impl Fn(DType) -> bool,
    ) -> Result<TensorData, Error> {
        let missing = || Error::Missing { name: name.to_string() };
        let entry = self.entries.get(name).ok_or_else(missing)?;
        if !fits(entry.dtype) {
            let found = format!("{:?}", entry.dtype);
            return Err(Error::Kind { name: name.to_string(), found, expected });
        }
        bridge::to_data(entry).map_err(|error| unreadable(name, &error.to_string()))
    }
}
