//! How a walk over parameters meets the weight that a parameter belongs to.
//!
//! Burn's optimizers, records and visitors walk a module parameter by parameter. While a
//! [`BlockSparseWeight`](crate::module::BlockSparseWeight) hands its parameters to such a walk, a window onto the
//! weight is open on the thread. The walk reads the weight through a [`View`], and asks for changes by a [`Request`],
//! which the weight applies when the walk returns. This works because a walk calls the mapper or visitor
//! synchronously, on the thread that walks.

use std::cell::RefCell;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor};
use burn_blast_kernels::BlockPattern;

use crate::break_even::TuningTable;

thread_local! {
    static WINDOW: RefCell<Option<(View, Request)>> = const { RefCell::new(None) };
}

/// Identity of a layer in a training run: its place among the layers of the model.
///
/// The path of a layer is for messages only: it depends on the module that the optimizer was attached to. Parameter ids
/// change when a record is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LayerId(pub(crate) usize);

/// Which parameter of the weight is being walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Probe,
    Values,
}

/// What a walk sees of the weight.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// The parameter that is walked now. A walk starts at `Probe`, even if there is no probe.
    pub(crate) stage: Stage,
    pub(crate) pattern: BlockPattern,
    pub(crate) layer: Option<LayerId>,
    /// Type of the values, or their type before they were quantised.
    pub(crate) float: DType,
    /// Other devices train replicas of the weight.
    pub(crate) replicated: bool,
}

/// What a walk asks to change about the weight. The values it returns must fit the new pattern.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) pattern: Option<BlockPattern>,
    /// Whether the weight has a probe from now on.
    pub(crate) probe: Option<bool>,
    pub(crate) layer: Option<LayerId>,
    pub(crate) tuning: Option<Arc<TuningTable>>,
    /// Gradient norms of all blocks, row by row. The walk over the probe writes them, the walk over the values takes
    /// them.
    pub(crate) grad_norms: Option<Vec<f32>>,
}

/// Runs `walk` with the window open and returns the changes it asked for.
pub(crate) fn open<R>(view: View, walk: impl FnOnce() -> R) -> (R, Request) {
    /// Restores the outer window even if the walk panics.
    struct Close(Option<(View, Request)>);
    impl Drop for Close {
        fn drop(&mut self) {
            WINDOW.replace(self.0.take());
        }
    }
    let close = Close(WINDOW.replace(Some((view, Request::default()))));
    let result = walk();
    let changes = request(std::mem::take).unwrap_or_default();
    drop(close);
    (result, changes)
}

/// Marks which parameter of the weight the walk handles now.
pub(crate) fn enter(stage: Stage) {
    WINDOW.with_borrow_mut(|window| {
        if let Some((view, _)) = window {
            view.stage = stage;
        }
    });
}

/// What a walk sees of the weight, if it handles one.
pub(crate) fn view() -> Option<View> {
    WINDOW.with_borrow(|window| window.as_ref().map(|(view, _)| view.clone()))
}

/// What a walk sees of the weight, if it handles the values now.
pub(crate) fn values() -> Option<View> {
    view().filter(|view| view.stage == Stage::Values)
}

/// Asks for changes of the weight that is being walked.
pub(crate) fn request<R>(change: impl FnOnce(&mut Request) -> R) -> Option<R> {
    WINDOW.with_borrow_mut(|window| window.as_mut().map(|(_, request)| change(request)))
}

/// A block-sparse weight of a model, as [`weights`] lists it.
pub(crate) struct WeightEntry {
    /// Path of the weight.
    pub(crate) path: String,
    pub(crate) pattern: BlockPattern,
    /// Type of the values.
    pub(crate) dtype: DType,
}

impl WeightEntry {
    /// Path of the layer.
    pub(crate) fn layer(&self) -> String {
        layer_name(&self.path, "weight")
    }
}

/// Lists the block-sparse weights of a model, in its order.
pub(crate) fn weights<M: Module>(model: &M) -> Vec<WeightEntry> {
    let mut visitor = ListWeights { path: Vec::new(), weights: Vec::new() };
    model.visit(&mut visitor);
    visitor.weights
}

/// Path of the layer of a parameter. The layer may be the whole model, and has no path then.
pub(crate) fn layer_name(parameter: &str, leaf: &str) -> String {
    match parameter.strip_suffix(leaf) {
        Some("") => "model".to_string(),
        Some(layer) => layer.trim_end_matches('.').to_string(),
        None => parameter.to_string(),
    }
}

struct ListWeights {
    path: Vec<String>,
    weights: Vec<WeightEntry>,
}

impl ModuleVisitor for ListWeights {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(View { pattern, .. }) = values() {
            let path = self.path[..self.path.len() - 1].join(".");
            self.weights.push(WeightEntry { path, pattern, dtype: param.val().dtype() });
        }
    }
}
