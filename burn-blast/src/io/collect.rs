//! The walk that lists the tensors of a model to be written. Each leaves its device when it is written.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, BoolStore, DType, Int, Shape, Tensor, TensorData};
use burn_blast_checkpoint::format::{LORA_A, LORA_B, LORA_SCALE};
use safetensors::Dtype;

use super::IoError;
use super::tensors::{ParameterPath, to_safetensors};
use crate::functions::unpack;
use crate::module::lora_change;
use crate::ops::packed;
use crate::window::{self, Stage, View};

/// How block-sparse weights are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Their kept blocks and indices, with adapters beside them.
    Packed,
    /// Zero where no block is kept, adapters merged.
    Dense,
}

/// A tensor of a model.
pub(super) struct ModelTensor {
    pub(super) path: ParameterPath,
    /// What it is called in the file; the collector leaves it empty.
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Whether it is the `[d_input, d_output]` weight of a linear layer, dense.
    pub(super) is_linear: bool,
    /// Reads it from the device.
    pub(super) read: Box<dyn Fn() -> TensorData>,
}

/// Lists the tensors of a model.
///
/// Parameters whose names are not `wanted` are not touched, so that they may stay uninitialised.
pub(super) fn collect<M: Module>(
    model: &M,
    form: Form,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Vec<ModelTensor>, IoError> {
    let mut collector = Collector {
        wanted,
        path: ParameterPath::default(),
        form,
        tensors: Vec::new(),
        weights: Vec::new(),
        adapters: BTreeMap::new(),
        error: None,
    };
    model.visit(&mut collector);
    collector.finish()
}

struct Collector<'a> {
    wanted: &'a dyn Fn(&str) -> bool,
    path: ParameterPath,
    form: Form,
    tensors: Vec<ModelTensor>,
    /// Block-sparse weights to be written dense.
    weights: Vec<(ParameterPath, Tensor<3>, View)>,
    /// Parameters of adapters to be merged, by the layer that they belong to and their name in it.
    adapters: BTreeMap<(String, String), Tensor<2>>,
    error: Option<IoError>,
}

impl Collector<'_> {
    fn is_wanted(&self) -> bool {
        (self.wanted)(&self.path.hugging_face())
    }

    fn push(
        &mut self,
        path: ParameterPath,
        dtype: DType,
        shape: Shape,
        is_linear: bool,
        read: impl Fn() -> TensorData + 'static,
    ) {
        match to_safetensors(&path.full(), dtype) {
            Ok(dtype) => {
                let (name, shape, read) = (String::new(), shape.to_vec(), Box::new(read));
                self.tensors.push(ModelTensor { path, name, dtype, shape, is_linear, read });
            }
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
    }

    fn finish(mut self) -> Result<Vec<ModelTensor>, IoError> {
        for (path, values, View { pattern, .. }) in std::mem::take(&mut self.weights) {
            // `<layer>.base.weight` in an adapted layer, whose adapter is `<layer>.lora_a` and so on.
            let layer = path.parent().parent().full();
            let part = |name: &str| self.adapters.get(&(layer.clone(), name.to_owned())).cloned();
            let adapter = (part(LORA_A), part(LORA_B), part(LORA_SCALE));
            let shape = Shape::new([pattern.shape().rows(), pattern.shape().cols()]);
            self.push(path, values.dtype(), shape, true, move || {
                let dense = unpack(values.clone(), &pattern);
                let dense = match adapter.clone() {
                    (Some(a), Some(b), Some(scale)) => {
                        dense + lora_change(a, b, scale.reshape([1]))
                    }
                    _ => dense,
                };
                dense.into_data()
            });
        }
        self.error.map_or(Ok(self.tensors), Err)
    }

    fn is_merged(&self) -> bool {
        self.form == Form::Dense && self.path.container() == "Struct:LoraLinear"
    }
}

impl ModuleVisitor for Collector<'_> {
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
        let tensor = param.transform_for_save().val();
        if self.is_merged() {
            let key = (self.path.parent().full(), self.path.leaf().to_owned());
            let dims = tensor.dims();
            let tensor = tensor.reshape([dims[0], dims[1..].iter().product()]);
            self.adapters.insert(key, tensor);
            return;
        }
        match window::view() {
            Some(view)
                if self.form == Form::Dense && !matches!(tensor.dtype(), DType::QFloat(_)) =>
            {
                if view.stage == Stage::Values {
                    let values = tensor.reshape(packed(&view.pattern));
                    self.weights.push((self.path.parent(), values, view));
                }
            }
            _ => {
                let is_linear = self.path.is_linear_weight();
                let (dtype, shape) = (tensor.dtype(), tensor.shape());
                let read = move || tensor.to_data();
                self.push(self.path.clone(), dtype, shape, is_linear, read);
            }
        }
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        if !self.is_wanted() || (self.form == Form::Dense && self.path.is_of_block_sparse()) {
            return;
        }
        let tensor = param.transform_for_save().val();
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        self.push(self.path.clone(), dtype, shape, false, move || tensor.to_data());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        if !self.is_wanted() {
            return;
        }
        let tensor = param.transform_for_save().val();
        let native = DType::Bool(BoolStore::Native);
        let shape = tensor.shape();
        let read = move || tensor.to_data().convert_dtype(native);
        self.push(self.path.clone(), native, shape, false, read);
    }
}
