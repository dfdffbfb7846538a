//! Loading checkpoints as Hugging Face publishes them.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::{Initializer, LinearConfig};
use burn::tensor::{DType, Device, Tensor};
use burn_blast_checkpoint::format::{FormatError, LORA_A, PROBE, TENSORS, leaf};
use burn_blast_checkpoint::{Checkpoint, Orientation, PackedWeight, TensorView};

use super::IoError;
use super::fill::{fill, fill_part};
use super::safetensors::file_tensor;
use super::tensors::{Names, Tensors, from_safetensors};
use crate::module::{AnyLinear, BlockSparseLinear, BlockSparseWeight, LoraLinear};

/// A safetensors file or a Hugging Face folder, with or without shards, to be loaded into a module. A GGUF file is unpacked to a
/// temporary folder, in four bytes for each weight if it is quantised.
///
/// A parameter finds its tensor by its path. Names that only say which type a module has do not count: variants of
/// enums and the base of an adapter. Scale and shift of a norm may be called `weight` and `bias`. Other differences are
/// up to [`rename`](Self::rename), and so are tensors that the model has no place for. Weights of linear layers are
/// transposed where the file has them as `[d_output, d_input]`. Block-sparse layers take packed weights as they are,
/// and pack dense ones. Every block that holds anything but zeros is kept: to remove blocks, attach a
/// [`Blast`](crate::prune::Blast) to the loaded model and train it.
///
/// Files are mapped and tensors are read one by one, so no second copy of the checkpoint is held. A model is
/// loaded completely or not at all.
///
/// # Example
/// ```
/// use burn::module::Module;
/// use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig};
/// use burn::tensor::Device;
/// use burn_blast::io::{Export, IoError, Pretrained};
/// use burn_blast::prelude::*;
///
/// #[derive(Module, Debug)]
/// struct Model {
///     embed_tokens: Embedding,
///     norm: RmsNorm,
///     up_proj: BlockSparseLinear,
///     down_proj: Linear,
/// }
///
/// fn model(device: &Device) -> Model {
///     Model {
///         embed_tokens: EmbeddingConfig::new(10, 32).init(device),
///         norm: RmsNormConfig::new(32).init(device),
///         up_proj: BlockSparseLinearConfig::new(32, 64).with_block_size(16).init(device),
///         down_proj: LinearConfig::new(64, 32).init(device),
///     }
/// }
///
/// # let device = Device::flex();
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("checkpoint");
/// # let saved = model(&device);
/// Export::new(&saved).rename(|name| format!("model.{name}")).save(&path, |_| Ok::<_, IoError>(()))?;
///
/// let loaded = Pretrained::open(&path)?
///     .rename(|name| name.strip_prefix("model.").map(str::to_owned))?
///     .load(model(&device))?;
/// # assert_eq!(loaded.up_proj.to_dense().into_data(), saved.up_proj.to_dense().into_data());
/// # assert_eq!(loaded.down_proj.weight.to_data(), saved.down_proj.weight.to_data());
/// # Ok::<(), IoError>(())
/// ```
pub struct Pretrained {
    checkpoint: Checkpoint,
    /// Names in the file, by name in the model.
    names: BTreeMap<String, String>,
    orientation: Option<OrientationRule>,
    dtype: Option<DType>,
}

/// How the weight of a linear layer is stored, by its name in the model.
type OrientationRule = Box<dyn Fn(&str) -> Orientation>;

impl Pretrained {
    /// Opens every file of a checkpoint and checks headers and index. Tensors are read by [`load`](Self::load).
    ///
    /// # Errors
    /// If a file is missing or damaged, or the index contradicts the files.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, IoError> {
        let checkpoint = Checkpoint::open(path)?;
        let names = BTreeMap::new();
        Self { checkpoint, names, orientation: None, dtype: None }
            .rename(|name| Some(name.to_owned()))
    }

    /// Sets what each tensor of the file is called in the model. A tensor without such a name is not loaded: answer
    /// `None` for every tensor that the model has no place for, otherwise [`load`](Self::load) fails with
    /// [`IoError::Unknown`].
    ///
    /// # Errors
    /// If two tensors get one name.
    pub fn rename(mut self, rename: impl Fn(&str) -> Option<String>) -> Result<Self, IoError> {
        let mut names = BTreeMap::new();
        let probes: Vec<String> = PackedWeight::names(&self.checkpoint)
            .iter()
            .map(|weight| leaf(weight, PROBE))
            .collect();
        for file in self.checkpoint.names() {
            // What only training needs.
            if probes.iter().any(|probe| probe == file) {
                continue;
            }
            let Some(name) = rename(file) else { continue };
            if let Some(first) = names.insert(name.clone(), file.to_owned()) {
                return Err(IoError::Renamed { name, first, second: file.to_owned() });
            }
        }
        self.names = names;
        Ok(self)
    }

    /// Sets how the weights of linear layers are stored, by their name in the model. Without it, files of burn-blast
    /// and the `Conv1D` layers of GPT-2 have them as `[d_input, d_output]`, all others as `[d_output, d_input]`; see
    /// [`Checkpoint::orientation`].
    pub fn orientation(mut self, orientation: impl Fn(&str) -> Orientation + 'static) -> Self {
        self.orientation = Some(Box::new(orientation));
        self
    }

    /// Sets the type that floating-point tensors are converted to. Without it they keep their own where the device has
    /// it, and are `F32` otherwise.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Names in the model of all tensors that are loaded.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The tensor of this name in the model.
    pub fn tensor(&self, name: &str) -> Option<TensorView<'_>> {
        self.checkpoint.tensor(self.names.get(name)?)
    }

    /// Type of the tensor of this name in the model.
    pub fn dtype_of(&self, name: &str) -> Option<DType> {
        from_safetensors(name, self.tensor(name)?.dtype()).ok()
    }

    /// A layer for the weight at `path`, to be filled by [`load`](Self::load): block-sparse if the file has it packed,
    /// with an adapter if there is one beside it, and dense otherwise.
    ///
    /// # Errors
    /// If the packed weight or the adapter does not have these sizes, or is damaged.
    pub fn linear(
        &self,
        path: &str,
        config: &LinearConfig,
        device: &Device,
    ) -> Result<AnyLinear, IoError> {
        let weight = leaf(path, "weight");
        let file = TENSORS.iter().find_map(|part| {
            let file = self.names.get(&leaf(&weight, part))?;
            file.strip_suffix(part)?.strip_suffix('.').map(str::to_owned)
        });
        let Some(file) = file else { return Ok(AnyLinear::Dense(config.init(device))) };
        let [rows, cols] = [config.d_input, config.d_output];
        let packed = PackedWeight::read(&self.checkpoint, &file)
            .map_err(|problems| problems.into_iter().next().expect("never empty"))?;
        let shape = packed.pattern.shape();
        if [shape.rows(), shape.cols()] != [rows, cols] {
            let (found, expected) = ([shape.rows(), shape.cols()], [rows, cols]);
            let cause = FormatError::Size { found, expected };
            return Err(IoError::Layout { layer: weight, cause });
        }
        let weight = BlockSparseWeight::empty(shape, packed.pattern.block(), device);
        let bias: Option<Param<Tensor<1>>> =
            config.bias.then(|| Initializer::Zeros.init([cols], device));
        let layer = BlockSparseLinear::new(weight, bias);
        let name = leaf(path, LORA_A);
        let Some(factor) = self.tensor(&name) else { return Ok(AnyLinear::Sparse(layer)) };
        match factor.shape() {
            &[found, rank] if found == rows && rank > 0 => {
                let zeros = |rows, cols| Tensor::zeros([rows, cols], device);
                let scale = Tensor::zeros([1], device);
                let layer = LoraLinear::new(layer, zeros(rows, rank), zeros(rank, cols), scale);
                Ok(AnyLinear::Adapted(layer))
            }
            found => {
                let expected = vec![rows, found.get(1).copied().unwrap_or(1).max(1)];
                Err(IoError::Shape { name, found: found.to_vec(), expected })
            }
        }
    }

    /// Loads the checkpoint into a model of the same architecture, whatever blocks either keeps.
    ///
    /// # Errors
    /// If a tensor is damaged or holds a number that is not finite, or the file holds other tensors than the model needs.
    pub fn load<M: Module>(&self, model: M) -> Result<M, IoError> {
        fill(model, self.tensors()?, self.dtype)
    }

    /// Loads those tensors whose names in the model are `wanted`. Other parameters stay as they are: those that Burn has not
    /// initialised yet take no memory, so that a model larger than memory can be worked on part by part.
    ///
    /// # Errors
    /// As [`load`](Self::load), for these tensors.
    pub fn load_part<M: Module>(
        &self,
        model: M,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<M, IoError> {
        let mut tensors = self.tensors()?;
        tensors.by_name.retain(|name, _| wanted(name));
        fill_part(model, tensors, self.dtype, &wanted)
    }

    fn tensors(&self) -> Result<Tensors<'_>, IoError> {
        let mut by_name = BTreeMap::new();
        for (name, file) in &self.names {
            let view = self.checkpoint.tensor(file).expect("its name comes from the checkpoint");
            let orientation = match &self.orientation {
                Some(orientation) => orientation(name),
                None => self.checkpoint.orientation(file)?,
            };
            let tensor = file_tensor(file, view, orientation == Orientation::OutIn)?;
            by_name.insert(name.clone(), tensor);
        }
        Ok(Tensors { by_name, names: Names::HuggingFace })
    }
}
