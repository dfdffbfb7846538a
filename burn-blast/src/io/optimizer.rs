//! Optimizer state, checked against the model it belongs to.

use std::collections::HashMap;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::ModuleOptimizer;
use burn::tensor::{Bytes, Shape, Tensor};
use burn_pack::Reader;

use super::IoError;
use super::record::{read_burnpack, read_file, refuse, write_file};
use super::tensors::FileTensor;

/// Saves the state of an optimizer to a burnpack file.
///
/// # Errors
/// If the file cannot be written.
pub fn save_optimizer(optimizer: &ModuleOptimizer, path: impl AsRef<Path>) -> Result<(), IoError> {
    write_file(path.as_ref(), &optimizer.into_bytes()?)
}

/// Loads the state of an optimizer saved together with `model`, which must be loaded and attached already. A parameter
/// that the file has nothing about, since it took no step before, starts without state.
///
/// # Errors
/// If the file cannot be read, is damaged, or belongs to another model or another step: moments must have
/// the shape of their parameter.
pub fn load_optimizer<M: Module>(
    optimizer: ModuleOptimizer,
    model: &M,
    path: impl AsRef<Path>,
) -> Result<ModuleOptimizer, IoError> {
    let bytes = read_file(path.as_ref())?;
    let mut parameters = Parameters::default();
    model.visit(&mut parameters);
    let reader = Reader::from_bytes(Bytes::from_bytes_vec(bytes.clone())).map_err(refuse)?;
    for (name, value) in reader.scalars() {
        let shape = parameters.of(name)?;
        let rank = name.ends_with("__rank").then(|| usize::try_from(*value).ok());
        if rank.is_some_and(|rank| rank != Some(shape.num_dims())) {
            return Err(IoError::ForeignState { name: name.clone() });
        }
    }
    let tensors = read_burnpack(bytes.clone())?.by_name;
    for (name, tensor) in &tensors {
        if tensor.id.map(|id| id.to_string()).as_deref() != name.split('.').next() {
            return Err(IoError::ForeignState { name: name.clone() });
        }
        let parameter = parameters.of(name)?;
        let flat = |tensor: &FileTensor<'_>| vec![tensor.shape.iter().product()];
        let expected = match name.rsplit_once('.') {
            // One per block that is or will be kept, or per block of the grid, however many there are.
            Some((_, "blast_kept" | "blast_next_blocks" | "blast_gathered_norms")) => flat(tensor),
            // One per kept block. For a plain linear weight, the file records the kept blocks once some are dropped.
            Some((state, "blast_running" | "blast_gathered" | "blast_added_at"))
                if parameter.num_dims() == 2 =>
            {
                match tensors.get(&format!("{state}.blast_kept")) {
                    Some(kept) => kept.shape.clone(),
                    None => flat(tensor),
                }
            }
            Some((_, "blast_running" | "blast_gathered" | "blast_added_at")) => vec![parameter[0]],
            _ => parameter.to_vec(),
        };
        if tensor.shape != expected {
            let (name, found) = (name.clone(), tensor.shape.clone());
            return Err(IoError::Shape { name, found, expected });
        }
    }
    Ok(optimizer.from_bytes(Bytes::from_bytes_vec(bytes))?)
}

/// Shape of every parameter, by id.
#[derive(Default)]
struct Parameters(HashMap<u64, Shape>);

impl Parameters {
    /// Shape of the parameter an entry belongs to: entries are called `<parameter id>.<leaf>`.
    fn of(&self, entry: &str) -> Result<&Shape, IoError> {
        let id = entry.split('.').next().and_then(|id| id.parse().ok());
        let foreign = || IoError::ForeignState { name: entry.to_string() };
        id.and_then(|id: u64| self.0.get(&id)).ok_or_else(foreign)
    }
}

impl ModuleVisitor for Parameters {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.insert(param.id.val(), param.lazy_shape());
    }
}
