//! Optimizer state, checked against the model it belongs to.

use std::collections::HashMap;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::ModuleOptimizer;
use burn::tensor::{Bytes, Shape, Tensor};

use super::IoError;
use super::entries::{read_burnpack, read_file, write_file};

/// Saves the state of an optimizer to a burnpack file.
///
/// # Errors
/// If the file cannot be written.
pub fn save_optimizer(optimizer: &ModuleOptimizer, path: impl AsRef<Path>) -> Result<(), IoError> {
    write_file(path.as_ref(), &optimizer.into_bytes()?)
}

/// Loads the state of an optimizer saved together with `model`, which must be loaded and attached already.
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
    for (name, entry) in read_burnpack(bytes.clone())? {
        let parameter = entry.id.and_then(|id| parameters.0.get(&id));
        let Some(expected) = parameter else {
            return Err(IoError::ForeignState { name });
        };
        let own = name.rsplit('.').next().is_some_and(|leaf| leaf.starts_with("blast_"));
        let same_rank = entry.shape.num_dims() == expected.num_dims();
        if !own && same_rank && entry.shape != *expected {
            let (found, expected) = (entry.shape.to_vec(), expected.to_vec());
            return Err(IoError::Shape { name, found, expected });
        }
    }
    Ok(optimizer.from_bytes(Bytes::from_bytes_vec(bytes))?)
}

/// Shape of every parameter, by id.
#[derive(Default)]
struct Parameters(HashMap<u64, Shape>);

impl ModuleVisitor for Parameters {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.insert(param.id.val(), param.lazy_shape());
    }
}
