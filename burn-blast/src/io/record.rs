//! Models in burnpack files, Burn's own format.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::quantization::quantized_data_len;
use burn::tensor::{Bytes, DType, Shape};
use burn_blast_checkpoint::atomic::replace_file;
use burn_blast_kernels::BlockSize;
use burn_pack::Reader;

use super::IoError;
use super::fill::fill;
use super::tensors::{Content, FileTensor, Names, Tensors};
use crate::quantize::is_integer;

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
/// use burn_blast::prelude::*;
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
/// Burn's own loading accepts a file only if the model keeps the blocks of the file. Call this first where Burn loads,
/// as a `Learner` that resumes does.
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
    fill(model, read_burnpack(bytes)?, None)
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, IoError> {
    std::fs::read(path).map_err(IoError::file(path))
}

pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), IoError> {
    replace_file(path, bytes).map_err(IoError::file(path))
}

const BURNPACK: &str = "burnpack";

pub(super) fn refuse(error: burn_pack::Error) -> IoError {
    IoError::Format { format: BURNPACK, reason: error.to_string() }
}

/// Reads the tensors of a burnpack buffer. Each has the number of bytes that its shape needs: the reader checks all but
/// quantised ones.
pub(super) fn read_burnpack(bytes: Vec<u8>) -> Result<Tensors<'static>, IoError> {
    let reader = Reader::from_bytes(Bytes::from_bytes_vec(bytes)).map_err(refuse)?;
    let mut by_name = BTreeMap::new();
    for tensor in reader.into_tensors().map_err(refuse)? {
        let (name, dtype, shape, id, bytes) = tensor.into_parts().map_err(refuse)?;
        // Views into a damaged file may start anywhere; elements must not.
        let aligned = bytes.as_ptr().align_offset(size_of::<u64>()) == 0;
        let bytes = if aligned { bytes } else { Bytes::from_bytes_vec(bytes.to_vec()) };
        if matches!(dtype, DType::QFloat(_)) {
            check_quantized(&name, dtype, &shape, bytes.len())?;
        }
        let (shape, content) = (shape.to_vec(), Content::Bytes(bytes));
        by_name.insert(name, FileTensor { dtype, shape, id, out_in: false, content });
    }
    Ok(Tensors { by_name, names: Names::Record })
}

/// Checks the scheme of a quantised tensor, which may be in no valid state, and then its length.
fn check_quantized(name: &str, dtype: DType, shape: &Shape, len: usize) -> Result<(), IoError> {
    let fits = |block: &BlockSize| is_integer(dtype, shape, *block);
    let refuse = |what: &str| {
        let reason = format!("tensor \"{name}\" {what}");
        Err(IoError::Format { format: BURNPACK, reason })
    };
    match dtype {
        DType::QFloat(scheme) if BlockSize::ALL.iter().any(fits) => {
            match len == quantized_data_len(&scheme, shape) {
                true => Ok(()),
                false => refuse("does not have the bytes that its shape needs"),
            }
        }
        _ => refuse("is quantised otherwise than by 8- or 4-bit integers in blocks"),
    }
}
