//! Giving a model the patterns of a file.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Bytes, DType, Shape, Tensor, TensorData};
use burn_blast_checkpoint::format::{COL_PTR, LAYOUT, ROW_IDX, VALUES, indices, leaf, parse};
use burn_blast_kernels::{BlockMask, BlockPattern, pack};

use super::IoError;
use super::entries::{Entries, Entry};
use crate::ops::packed;
use crate::quantize::is_int8;
use crate::window::{self, WeightEntry, weights};

/// What a file says about one weight.
struct Stored {
    pattern: BlockPattern,
    armed: bool,
}

/// Packs dense weights in place, then gives every block-sparse weight of `model` the pattern the file has
/// for it. Nothing of the model changes if a pattern is not valid.
pub(super) fn fit<M: Module>(model: M, entries: &mut Entries) -> Result<M, IoError> {
    let mut stored = BTreeMap::new();
    for WeightEntry { path, pattern, .. } in weights(&model) {
        if entries.contains_key(&path) {
            pack_dense(&path, &pattern, entries)?;
        }
        let weight = read(&path, &pattern, entries)?;
        stored.insert(path, weight);
    }
    Ok(model.map(&mut Sizer { path: Vec::new(), stored }))
}

/// Refuses a file that holds a dense weight where the model has a block-sparse one.
pub(super) fn refuse_dense<M: Module>(model: &M, entries: &Entries) -> Result<(), IoError> {
    match weights(model).into_iter().find(|weight| entries.contains_key(&weight.path)) {
        Some(weight) => Err(IoError::Missing { name: leaf(&weight.path, VALUES) }),
        None => Ok(()),
    }
}

/// Reads and checks the pattern of one weight.
fn read(path: &str, model: &BlockPattern, entries: &Entries) -> Result<Stored, IoError> {
    let missing = |name: &str| IoError::Missing { name: name.to_string() };
    let numbers = |part: &str| {
        let name = leaf(path, part);
        let entry = entries.get(&name).ok_or_else(|| missing(&name))?;
        if !(entry.dtype.is_int() || entry.dtype.is_uint()) {
            let found = format!("{:?}", entry.dtype);
            return Err(IoError::Kind { name, found, expected: "integer" });
        }
        let data = TensorData::from_bytes(entry.bytes.clone(), entry.shape.clone(), entry.dtype);
        Ok(data.iter::<i64>().collect::<Vec<_>>())
    };
    let (layout, row_idx, col_ptr) = (numbers(LAYOUT)?, numbers(ROW_IDX)?, numbers(COL_PTR)?);
    let (pattern, armed) = parse(&layout, &row_idx, &col_ptr, Some(model.shape()))
        .map_err(|source| IoError::Layout { layer: path.to_string(), source })?;
    let name = leaf(path, VALUES);
    let values = entries.get(&name).ok_or_else(|| missing(&name))?;
    if !values.dtype.is_float() && !is_int8(values.dtype, pattern.block()) {
        let found = format!("{:?}", values.dtype);
        return Err(IoError::Kind { name, found, expected: "floating-point" });
    }
    Ok(Stored { pattern, armed })
}

/// Replaces a dense weight by its non-zero blocks.
fn pack_dense(path: &str, model: &BlockPattern, entries: &mut Entries) -> Result<(), IoError> {
    let (shape, block) = (model.shape(), model.block());
    let Some(entry) = entries.remove(path) else { return Ok(()) };
    let expected = vec![shape.rows(), shape.cols()];
    if entry.shape.to_vec() != expected {
        let found = entry.shape.to_vec();
        return Err(IoError::Shape { name: path.to_string(), found, expected });
    }
    if !entry.dtype.is_float() {
        let found = format!("{:?}", entry.dtype);
        return Err(IoError::Kind { name: path.to_string(), found, expected: "floating-point" });
    }
    let dense: Vec<f32> =
        TensorData::from_bytes(entry.bytes, entry.shape, entry.dtype).iter::<f32>().collect();
    let mask: BlockMask = pack::nonzero_blocks(&dense, shape, block);
    let pattern = BlockPattern::from_mask(&mask);
    let values = TensorData::new(pack::pack(&dense, &pattern), packed(&pattern));
    let values = values.convert_dtype(entry.dtype);
    let index = |numbers: Vec<i32>| TensorData::new(numbers.clone(), [numbers.len()]);
    let [layout, row_idx, col_ptr] = indices(&pattern, false).map(index);
    let tensors = [(VALUES, values), (LAYOUT, layout), (ROW_IDX, row_idx), (COL_PTR, col_ptr)];
    for (part, data) in tensors {
        let (bytes, shape, dtype): (Bytes, Shape, DType) = data.into_parts();
        let id = (part == VALUES).then_some(entry.id).flatten();
        entries.insert(leaf(path, part), Entry { dtype, shape, id, bytes });
    }
    Ok(())
}

struct Sizer {
    path: Vec<String>,
    stored: BTreeMap<String, Stored>,
}

impl ModuleMapper for Sizer {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let weight = self.path[..self.path.len().saturating_sub(1)].join(".");
        let stored = window::values().and_then(|_| self.stored.remove(&weight));
        let Some(stored) = stored else { return param };
        let shape = packed(&stored.pattern);
        window::update(|update| {
            update.pattern = Some(stored.pattern);
            update.probe = Some(stored.armed);
        });
        resize(param, shape)
    }
}

/// Zeros of another size in place of a parameter, which keeps its id and whether it takes gradients.
fn resize<const D: usize>(param: Param<Tensor<D>>, shape: Shape) -> Param<Tensor<D>> {
    let tensor = param.base().dequantize();
    let zeros = Tensor::<D>::zeros(shape, (&tensor.device(), tensor.dtype()))
        .set_require_grad(tensor.is_require_grad());
    let (id, _, mapper): (ParamId, _, _) = param.consume();
    Param::from_mapped_value(id, zeros, mapper)
}
