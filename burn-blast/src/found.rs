//! The block-sparse weights of a model.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor};
use burn_blast_kernels::BlockPattern;

use crate::window::{self, Stage, Window};

/// A block-sparse weight of a model.
pub(crate) struct FoundWeight {
    /// Path of the weight.
    pub(crate) path: String,
    pub(crate) pattern: BlockPattern,
    /// Type of the values.
    pub(crate) dtype: DType,
}

impl FoundWeight {
    /// Path of the layer.
    pub(crate) fn layer(&self) -> String {
        layer_name(&self.path, "weight")
    }
}

/// Lists the block-sparse weights of a model, in its order.
pub(crate) fn weights<M: Module>(model: &M) -> Vec<FoundWeight> {
    let mut finder = Finder { path: Vec::new(), found: Vec::new() };
    model.visit(&mut finder);
    finder.found
}

/// The layer a parameter belongs to: what a user knows, not the tensor inside it. A layer that is the whole
/// model has no path.
pub(crate) fn layer_name(parameter: &str, leaf: &str) -> String {
    match parameter.strip_suffix(leaf) {
        Some("") => "model".to_string(),
        Some(layer) => layer.trim_end_matches('.').to_string(),
        None => parameter.to_string(),
    }
}

struct Finder {
    path: Vec<String>,
    found: Vec<FoundWeight>,
}

impl ModuleVisitor for Finder {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values =
            |window: &mut Window| (window.stage == Stage::Values).then(|| window.pattern.clone());
        if let Some(Some(pattern)) = window::with(values) {
            let path = self.path[..self.path.len() - 1].join(".");
            self.found.push(FoundWeight { path, pattern, dtype: param.val().dtype() });
        }
    }
}
