//! Models in burnpack files, Burn's own format.

use std::path::Path;

use burn::module::Module;

use super::IoError;
use super::entries::{check, read_burnpack, read_file, write_file};
use super::fill::fill;
use super::fit::{fit, refuse_dense};

/// Saves a model to a burnpack file.
///
/// # Errors
/// If the file cannot be written.
pub fn save<M: Module>(model: &M, path: impl AsRef<Path>) -> Result<(), IoError> {
    write_file(path.as_ref(), &to_bytes(model)?)
}

/// Loads a burnpack file into a model of the same architecture, whatever blocks either keeps.
///
/// # Example
/// ```
/// use burn::tensor::Device;
/// use burn_blast::io;
/// use burn_blast::module::BlockSparseLinearConfig;
///
/// let device = Device::flex();
/// let config = BlockSparseLinearConfig::new(64, 64).with_block_size(16);
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("model.bpk");
///
/// io::save(&config.clone().with_sparsity(0.75).init(&device), &path)?;
/// let model = io::load(config.init(&device), &path)?;
/// assert_eq!(model.sparsity(), 0.75);
/// # Ok::<(), io::IoError>(())
/// ```
///
/// # Errors
/// If the file cannot be read, is damaged, or belongs to another model. The model is then dropped unchanged.
pub fn load<M: Module>(model: M, path: impl AsRef<Path>) -> Result<M, IoError> {
    from_bytes(model, read_file(path.as_ref())?)
}

/// [`save`] into memory.
///
/// # Errors
/// If the record cannot be packed.
pub fn to_bytes<M: Module>(model: &M) -> Result<Vec<u8>, IoError> {
    Ok(model.clone().into_record().into_bytes()?.to_vec())
}

/// [`load`] from memory.
///
/// # Errors
/// If the bytes are damaged or belong to another model.
pub fn from_bytes<M: Module>(model: M, bytes: Vec<u8>) -> Result<M, IoError> {
    fill(model, read_burnpack(bytes)?)
}

/// Gives a fresh model the patterns of a burnpack file without filling it, so that Burn's own loading, such
/// as the checkpoints of a `Learner`, accepts the file. [`load`] needs no such step.
///
/// # Errors
/// If the file cannot be read, is damaged, belongs to another model, or holds dense weights, which only [`load`]
/// packs.
pub fn size_to<M: Module>(model: M, path: impl AsRef<Path>) -> Result<M, IoError> {
    let mut entries = read_burnpack(read_file(path.as_ref())?)?;
    refuse_dense(&model, &entries)?;
    let model = fit(model, &mut entries)?;
    check(&model, &entries)?;
    Ok(model)
}
