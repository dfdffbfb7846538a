//! The walk that compares a model with a file: every name, shape and kind of number, and the pattern of every
//! block-sparse weight. It changes nothing.

use std::collections::{BTreeMap, HashSet};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, DType, Int, Tensor};
use burn_blast_checkpoint::format::{COL_PTR, LAYOUT, PROBE, ROW_IDX, VALUES, parse};
use burn_blast_kernels::BlockPattern;

use super::IoError;
use super::tensors::{Names, ParameterPath, Tensors, check_tensor};
use crate::ops::packed;
use crate::quantize::is_int8;
use crate::window::{self, Stage};

/// What a file has for a block-sparse weight.
pub(super) enum InFile {
    /// A dense weight of this name, to be packed.
    Dense { name: String },
    /// Values of this name, which belong to `pattern`.
    Packed { name: String, pattern: BlockPattern, probe: bool },
}

/// Checks that a file's tensors are exactly the parameters of a model. Returns what it has for each block-sparse
/// weight, by path.
pub(super) fn check_model<M: Module>(
    model: &M,
    tensors: &Tensors<'_>,
) -> Result<BTreeMap<String, InFile>, IoError> {
    let mut checker = Checker {
        path: ParameterPath::default(),
        tensors,
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
    seen: HashSet<String>,
    weights: BTreeMap<String, InFile>,
    /// The first one.
    error: Option<IoError>,
}

impl Checker<'_> {
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
            .map_err(|source| IoError::Layout { layer: layer(), source })?;
        let probe = probe && self.tensors.names == Names::Record;
        if probe {
            let (name, tensor) = self.tensors.get(&self.path.sibling(PROBE))?;
            let grid = [pattern.block_rows(), pattern.block_cols()];
            check_tensor(&name, tensor, &grid, "floating-point", |dtype| dtype.is_float())?;
            self.seen.insert(name);
        }
        let (name, tensor) = self.tensors.get(&self.path.sibling(VALUES))?;
        check_tensor(&name, tensor, &packed(&pattern).to_vec(), "floating-point", |dtype| {
            dtype.is_float() || is_int8(dtype, pattern.block())
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
        if !self.path.is_of_block_sparse() {
            let fits = |dtype: DType| dtype.is_int() || dtype.is_uint();
            let result = self.parameter(param.lazy_shape().to_vec(), "integer", fits);
            self.keep(result);
        }
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        let result =
            self.parameter(param.lazy_shape().to_vec(), "boolean", |dtype| dtype.is_bool());
        self.keep(result);
    }
}
