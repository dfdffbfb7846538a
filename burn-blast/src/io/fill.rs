//! The two walks that load a model. The first compares it with the file and changes nothing: every name, shape and kind
//! of number, and the pattern of every block-sparse weight. The second fills it with the file's tensors.

use std::collections::{BTreeMap, HashSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_blast_checkpoint::format::{COL_PTR, LAYOUT, PROBE, ROW_IDX, VALUES, parse};
use burn_blast_kernels::{BlockPattern, pack};

use super::IoError;
use super::tensors::{Content, Names, ParameterPath, Tensors, check_tensor};
use crate::ops::packed;
use crate::quantize::{as_loaded, is_integer, readable, stored_shape};
use crate::window::{self, Stage, View};

/// Checks every tensor, then fills the model, tensor by tensor. Parameters take the identity that the file records;
/// without one they keep their own. Numbers are converted to `dtype`, if there is one.
pub(super) fn fill<M: Module>(
    model: M,
    tensors: Tensors<'_>,
    dtype: Option<DType>,
) -> Result<M, IoError> {
    fill_part(model, tensors, dtype, &|_| true)
}

/// The same for the parameters whose names are `wanted`. `tensors` are those of no others.
pub(super) fn fill_part<M: Module>(
    model: M,
    tensors: Tensors<'_>,
    dtype: Option<DType>,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<M, IoError> {
    let weights = check_model(&model, &tensors, wanted)?;
    let path = ParameterPath::default();
    let mut filler = Filler { path, tensors, weights, dtype, error: None };
    let model = model.map(&mut filler);
    filler.error.map_or(Ok(model), Err)
}

struct Filler<'a> {
    path: ParameterPath,
    tensors: Tensors<'a>,
    weights: BTreeMap<String, InFile>,
    dtype: Option<DType>,
    /// The first one.
    error: Option<IoError>,
}

impl Filler<'_> {
    /// Content and identity of the tensor of this name.
    fn take(
        &mut self,
        name: &str,
        own: ParamId,
        in_out: bool,
        device: &Device,
    ) -> Option<(TensorData, ParamId)> {
        let mut tensor = self.tensors.by_name.remove(name)?;
        // A run's own record is loaded as it is.
        if let (Content::Mapped(view), Names::HuggingFace) = (&tensor.content, self.tensors.names)
            && let Err(error) = view.check_finite(name)
        {
            self.error.get_or_insert(error.into());
        }
        tensor.dtype = as_loaded(tensor.dtype, device);
        let id = tensor.id.map_or(own, ParamId::from);
        Some((tensor.read(in_out), id))
    }

    /// Content of the parameter that is walked.
    fn parameter(&mut self, own: ParamId, device: &Device) -> Option<(TensorData, ParamId)> {
        let name = self.tensors.find(&self.path)?;
        self.take(&name, own, self.path.is_linear_weight(), device)
    }

    /// Reads the values of the current block-sparse weight and requests their pattern.
    fn values(
        &mut self,
        own: ParamId,
        view: &View,
        device: &Device,
    ) -> Option<(TensorData, ParamId)> {
        let (data, id, pattern, probe) = match self.weights.remove(&self.path.parent().full())? {
            InFile::Packed { name, pattern, probe } => {
                let (data, id) = self.take(&name, own, false, device)?;
                (readable(data, &pattern, device), id, pattern, probe)
            }
            InFile::Dense { name } => {
                let (dense, id) = self.take(&name, own, true, device)?;
                let (data, pattern) = pack_dense(dense, &view.pattern);
                (data, id, pattern, false)
            }
        };
        window::request(|request| {
            request.pattern = Some(pattern);
            request.probe = Some(probe);
        });
        Some((data, id))
    }

    /// Type of a parameter: quantised values stay so, others take the type asked for. Without one they keep the file's
    /// type if device and kernels have it, and are single precision otherwise.
    fn float_dtype(&self, found: DType, device: &Device) -> DType {
        match (found, self.dtype) {
            (DType::QFloat(_), _) => found,
            (_, Some(dtype)) => dtype,
            (DType::F16, None) if device.supports_dtype(FloatDType::F16) => found,
            (DType::BF16, None) if device.supports_dtype(FloatDType::BF16) => found,
            _ => DType::F32,
        }
    }
}

/// The blocks of a dense weight that hold anything but zeros, and their pattern.
fn pack_dense(dense: TensorData, model: &BlockPattern) -> (TensorData, BlockPattern) {
    let dtype = dense.dtype();
    let dense: Vec<f32> = dense.iter::<f32>().collect();
    let mask = pack::nonzero_blocks(&dense, model.shape(), model.block());
    let pattern = BlockPattern::from_mask(&mask);
    let values = TensorData::new(pack::pack(&dense, &pattern), packed(&pattern));
    (values.convert_dtype(dtype), pattern)
}

impl ModuleMapper for Filler<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let device = param.lazy_device();
        let loaded = match (window::view(), window::values()) {
            (None, _) => self.parameter(param.id, &device),
            (_, Some(view)) => self.values(param.id, &view, &device),
            // A probe is made by its weight.
            _ => None,
        };
        let Some((data, id)) = loaded else { return param };
        let dtype = self.float_dtype(data.dtype(), &device);
        param.transform_for_load(Tensor::from_data(data, (&device, dtype)), id)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        if self.path.is_of_block_sparse() {
            return param;
        }
        let device = param.lazy_device();
        let Some((data, id)) = self.parameter(param.id, &device) else { return param };
        let dtype = data.dtype();
        param.transform_for_load(Tensor::from_data(data, (&device, dtype)), id)
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        let device = param.lazy_device();
        let Some((data, id)) = self.parameter(param.id, &device) else { return param };
        param.transform_for_load(Tensor::from_data(data, &device), id)
    }
}

/// What a file has for a block-sparse weight.
enum InFile {
    /// A dense weight of this name, to be packed.
    Dense { name: String },
    /// Values of this name, which belong to `pattern`.
    Packed { name: String, pattern: BlockPattern, probe: bool },
}

/// Checks that a file's tensors are exactly the parameters of a model. Returns what it has for each block-sparse
/// weight, by path.
fn check_model<M: Module>(
    model: &M,
    tensors: &Tensors<'_>,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<BTreeMap<String, InFile>, IoError> {
    let mut checker = Checker {
        path: ParameterPath::default(),
        tensors,
        wanted,
        seen: HashSet::new(),
        weights: BTreeMap::new(),
        error: None,
    };
    model.visit(&mut checker);
    if let Some(error) = checker.error {
        return Err(error);
    }
    match tensors.by_name.keys().find(|name| !checker.seen.contains(*name)) {
        Some(name) => Err(IoError::Unknown { name: name.clone() }),
        None => Ok(checker.weights),
    }
}

struct Checker<'a> {
    path: ParameterPath,
    tensors: &'a Tensors<'a>,
    wanted: &'a dyn Fn(&str) -> bool,
    seen: HashSet<String>,
    weights: BTreeMap<String, InFile>,
    /// The first one.
    error: Option<IoError>,
}

impl Checker<'_> {
    fn is_wanted(&self) -> bool {
        (self.wanted)(&self.path.name(self.tensors.names))
    }

    fn keep(&mut self, result: Result<(), IoError>) {
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }

    fn parameter(
        &mut self,
        mut shape: Vec<usize>,
        kind: &'static str,
        fits: impl Fn(DType) -> bool,
    ) -> Result<(), IoError> {
        let (name, tensor) = self.tensors.get(&self.path)?;
        if tensor.out_in && self.path.is_linear_weight() {
            shape.reverse();
        }
        check_tensor(&name, tensor, &shape, kind, fits)?;
        self.seen.insert(name);
        Ok(())
    }

    /// Checks all that a file has for the block-sparse weight whose values are being walked.
    fn weight(&mut self, model: &BlockPattern) -> Result<(), IoError> {
        let weight = self.path.parent();
        let recorded = match self.tensors.find(&weight) {
            Some(name) => self.dense(name, model)?,
            None => self.packed(model)?,
        };
        self.weights.insert(weight.full(), recorded);
        Ok(())
    }

    fn dense(&mut self, name: String, model: &BlockPattern) -> Result<InFile, IoError> {
        let tensor = &self.tensors.by_name[&name];
        let mut shape = [model.shape().rows(), model.shape().cols()];
        if tensor.out_in {
            shape.reverse();
        }
        check_tensor(&name, tensor, &shape, "floating-point", |dtype| dtype.is_float())?;
        self.seen.insert(name.clone());
        Ok(InFile::Dense { name })
    }

    fn packed(&mut self, model: &BlockPattern) -> Result<InFile, IoError> {
        let mut indices = |part| {
            let (name, numbers) = self.tensors.index(&self.path.sibling(part))?;
            self.seen.insert(name);
            Ok::<_, IoError>(numbers)
        };
        let (layout, row_idx, col_ptr) = (indices(LAYOUT)?, indices(ROW_IDX)?, indices(COL_PTR)?);
        let layer = || self.path.parent().name(self.tensors.names);
        let (pattern, probe) = parse(&layout, &row_idx, &col_ptr, Some(model.shape()))
            .map_err(|cause| IoError::Layout { layer: layer(), cause })?;
        let probe = probe && self.tensors.names == Names::Record;
        if probe {
            let (name, tensor) = self.tensors.get(&self.path.sibling(PROBE))?;
            let grid = [pattern.block_rows(), pattern.block_cols()];
            check_tensor(&name, tensor, &grid, "floating-point", |dtype| dtype.is_float())?;
            self.seen.insert(name);
        }
        let (name, tensor) = self.tensors.get(&self.path.sibling(VALUES))?;
        let shape = stored_shape(tensor.dtype, &tensor.shape, &pattern);
        // A weight with a probe is about to be pruned.
        check_tensor(&name, tensor, &shape.to_vec(), "floating-point", |dtype| {
            dtype.is_float() || (!probe && is_integer(dtype, &shape, pattern.block()))
        })?;
        self.seen.insert(name.clone());
        Ok(InFile::Packed { name, pattern, probe })
    }
}

impl ModuleVisitor for Checker<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.is_wanted() {
            return;
        }
        let result = match window::view() {
            // The file decides whether there is one.
            Some(view) if view.stage == Stage::Probe => Ok(()),
            Some(view) => self.weight(&view.pattern),
            None => {
                // A parameter held in another layout is recorded in the layout of its save mapper. Until it is
                // initialised, that is the shape it reports, and asking for more would initialise it.
                let shape = match param.is_initialized() {
                    true => param.transform_for_save().lazy_shape(),
                    false => param.lazy_shape(),
                };
                self.parameter(shape.to_vec(), "floating-point", |dtype| dtype.is_float())
            }
        };
        self.keep(result);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        // The indices of a block-sparse weight are checked with its values.
        if self.is_wanted() && !self.path.is_of_block_sparse() {
            let fits = |dtype: DType| dtype.is_int() || dtype.is_uint();
            let result = self.parameter(param.lazy_shape().to_vec(), "integer", fits);
            self.keep(result);
        }
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        if !self.is_wanted() {
            return;
        }
        let result =
            self.parameter(param.lazy_shape().to_vec(), "boolean", |dtype| dtype.is_bool());
        self.keep(result);
    }
}
