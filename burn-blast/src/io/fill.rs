//! Filling a model with a file's tensors, once both are known to fit.

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor, TensorData};

use burn_blast_checkpoint::format::{COL_PTR, LAYOUT, ROW_IDX, leaf};

use super::IoError;
use super::entries::{Entries, Entry, check};
use super::fit::fit;
use crate::quantize::as_loaded;
use crate::window::weights;

/// Fits the model to the file, checks every tensor, then fills the model. Parameters take the identity the
/// file records; without one they keep their own.
pub(super) fn fill<M: Module>(model: M, mut entries: Entries) -> Result<M, IoError> {
    let model = fit(model, &mut entries)?;
    check(&model, &entries)?;
    // The indices were taken over when the model was fitted.
    for weight in weights(&model) {
        for part in [LAYOUT, ROW_IDX, COL_PTR] {
            entries.remove(&leaf(&weight.path, part));
        }
    }
    Ok(model.map(&mut Filler { path: Vec::new(), entries }))
}

struct Filler {
    path: Vec<String>,
    entries: Entries,
}

impl Filler {
    fn take(&mut self, own: ParamId, device: &Device) -> Option<(TensorData, ParamId)> {
        let Entry { dtype, shape, id, bytes } = self.entries.remove(&self.path.join("."))?;
        let id = id.map_or(own, ParamId::from);
        Some((TensorData::from_bytes(bytes, shape, as_loaded(dtype, device)), id))
    }
}

/// The file's own precision where device and kernels have it, as all have for quantised values; else single.
fn float_dtype(found: DType, device: &Device) -> DType {
    let supported = match found {
        DType::F16 => device.supports_dtype(FloatDType::F16),
        DType::BF16 => device.supports_dtype(FloatDType::BF16),
        DType::QFloat(_) => true,
        _ => false,
    };
    if supported { found } else { DType::F32 }
}

impl ModuleMapper for Filler {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let device = param.lazy_device();
        let Some((data, id)) = self.take(param.id, &device) else { return param };
        let dtype = float_dtype(data.dtype(), &device);
        param.transform_for_load(Tensor::from_data(data, (&device, dtype)), id)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let device = param.lazy_device();
        let Some((data, id)) = self.take(param.id, &device) else { return param };
        let dtype = data.dtype();
        param.transform_for_load(Tensor::from_data(data, (&device, dtype)), id)
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        let device = param.lazy_device();
        let Some((data, id)) = self.take(param.id, &device) else { return param };
        param.transform_for_load(Tensor::from_data(data, &device), id)
    }
}
