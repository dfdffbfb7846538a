//! The walk that fills a model with a file's tensors, once both are known to fit.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_blast_kernels::{BlockPattern, pack};

use super::IoError;
use super::check::{InFile, check_model};
use super::tensors::{ParameterPath, Tensors};
use crate::ops::packed;
use crate::quantize::as_loaded;
use crate::window::{self, View};

/// Checks every tensor, then fills the model, tensor by tensor. Parameters take the identity that the file records;
/// without one they keep their own. Numbers are converted to `dtype`, if there is one.
pub(super) fn fill<M: Module>(
    model: M,
    tensors: Tensors<'_>,
    dtype: Option<DType>,
) -> Result<M, IoError> {
    let weights = check_model(&model, &tensors)?;
    Ok(model.map(&mut Filler { path: ParameterPath::default(), tensors, weights, dtype }))
}

struct Filler<'a> {
    path: ParameterPath,
    tensors: Tensors<'a>,
    weights: BTreeMap<String, InFile>,
    dtype: Option<DType>,
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
                (data, id, pattern, probe)
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
