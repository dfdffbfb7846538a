//! Modules of the sizes of a configuration: packed layers filled, all others still to be.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::nn;
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_blast::{BlockSparseLinear, BlockSparseWeight, LoraLinear, LoraLinearConfig, MatrixShape};
use burn_blast_checkpoint::format::{self, COL_PTR, LAYOUT, LORA_A, ROW_IDX, VALUES, leaf};
use burn_pack::Tensor as Entry;
use burn_store::bridge;

use crate::{Error, Linear};

/// Makes the layers of a model. Parameters are drawn on first use only, which never comes: they are loaded before.
pub(crate) struct Builder<'a> {
    pub(super) entries: &'a BTreeMap<String, Entry>,
    pub(super) device: &'a Device,
    pub(super) dtype: DType,
}

impl Builder<'_> {
    pub(crate) fn embedding(&self, count: usize, width: usize) -> nn::Embedding {
        nn::EmbeddingConfig::new(count, width).init(self.device)
    }

    pub(crate) fn rms_norm(&self, width: usize, epsilon: f64) -> nn::RmsNorm {
        nn::RmsNormConfig::new(width).with_epsilon(epsilon).init(self.device)
    }

    pub(crate) fn layer_norm(&self, width: usize, epsilon: f64) -> nn::LayerNorm {
        nn::LayerNormConfig::new(width).with_epsilon(epsilon).init(self.device)
    }

    /// The layer at `path`, of `[d_input, d_output]`: block-sparse if the checkpoint has it packed.
    pub(crate) fn linear(
        &self,
        path: &str,
        [d_input, d_output]: [usize; 2],
        bias: bool,
    ) -> Result<Linear, Error> {
        let packed = super::names::PACKED.iter();
        if packed.map(|end| format!("{path}{end}")).any(|name| self.entries.contains_key(&name)) {
            let weight = self.packed(&format!("{path}.weight"), [d_input, d_output])?;
            let zeros = || nn::Initializer::Zeros.init([d_output], self.device);
            let bias: Option<Param<Tensor<1>>> = bias.then(zeros);
            let layer = BlockSparseLinear::new(weight, bias);
            return Ok(match self.entries.get(&leaf(path, LORA_A)) {
                Some(a) => Linear::Adapted(self.adapted(layer, path, a)?),
                None => Linear::Sparse(layer),
            });
        }
        let config = nn::LinearConfig::new(d_input, d_output).with_bias(bias);
        Ok(Linear::Dense(config.init(self.device)))
    }

    /// A layer with an adapter of the file's rank, still to be filled.
    fn adapted(&self, base: BlockSparseLinear, path: &str, a: &Entry) -> Result<LoraLinear, Error> {
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

    /// Reads a packed weight of `[d_input, d_output]`.
    fn packed(&self, weight: &str, shape: [usize; 2]) -> Result<BlockSparseWeight, Error> {
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
        bridge::to_data(entry).map_err(|error| super::load::unreadable(name, &error.to_string()))
    }
}
