//! Models in safetensors files, for other tools.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Bytes, DType, Shape};
use burn_blast_checkpoint::format::{FORMAT_VERSION, METADATA_KEY};
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};

use super::IoError;
use super::entries::{Entries, Entry, read_burnpack, read_file, write_file};
use super::fill::fill;
use super::record::to_bytes;

/// Saves a model to a safetensors file. The header's metadata holds `burn_blast` with the format version.
///
/// # Errors
/// If a tensor has a data type safetensors lacks, as quantised ones do, or the file cannot be written.
pub fn save_safetensors<M: Module>(model: &M, path: impl AsRef<Path>) -> Result<(), IoError> {
    let mut tensors = Vec::new();
    for (name, entry) in read_burnpack(to_bytes(model)?)? {
        let dtype = to_safetensors(&name, entry.dtype)?;
        tensors.push((name, Stored { dtype, entry }));
    }
    let version = format!("{{\"version\":{FORMAT_VERSION}}}");
    let metadata = HashMap::from([(METADATA_KEY.to_string(), version)]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(refuse)?;
    write_file(path.as_ref(), &bytes)
}

/// Loads a safetensors file into a model of the same architecture, whatever blocks either keeps. The format has
/// no place for the identity of a parameter: to resume training, use [`load`](super::load).
///
/// # Errors
/// If the file cannot be read, is damaged, or belongs to another model.
pub fn load_safetensors<M: Module>(model: M, path: impl AsRef<Path>) -> Result<M, IoError> {
    let bytes = read_file(path.as_ref())?;
    let file = SafeTensors::deserialize(&bytes).map_err(refuse)?;
    let mut entries = Entries::new();
    for (name, view) in file.tensors() {
        let dtype = from_safetensors(&name, view.dtype())?;
        let shape = Shape::from(view.shape().to_vec());
        let bytes = Bytes::from_bytes_vec(view.data().to_vec());
        entries.insert(name, Entry { dtype, shape, id: None, bytes });
    }
    fill(model, entries)
}

struct Stored {
    dtype: Dtype,
    entry: Entry,
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.entry.shape.as_slice()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.entry.bytes)
    }

    fn data_len(&self) -> usize {
        self.entry.bytes.len()
    }
}

/// Data types both sides have.
const DTYPES: [(DType, Dtype); 12] = [
    (DType::F64, Dtype::F64),
    (DType::F32, Dtype::F32),
    (DType::F16, Dtype::F16),
    (DType::BF16, Dtype::BF16),
    (DType::I64, Dtype::I64),
    (DType::I32, Dtype::I32),
    (DType::I16, Dtype::I16),
    (DType::I8, Dtype::I8),
    (DType::U64, Dtype::U64),
    (DType::U32, Dtype::U32),
    (DType::U16, Dtype::U16),
    (DType::U8, Dtype::U8),
];

fn to_safetensors(name: &str, dtype: DType) -> Result<Dtype, IoError> {
    if matches!(dtype, DType::Bool(_)) {
        return Ok(Dtype::BOOL);
    }
    if matches!(dtype, DType::QFloat(_)) {
        return Err(IoError::Quantized { name: name.to_string() });
    }
    let known = DTYPES.iter().find(|(ours, _)| *ours == dtype);
    known.map(|&(_, theirs)| theirs).ok_or_else(|| unsupported(name, format!("{dtype:?}")))
}

fn from_safetensors(name: &str, dtype: Dtype) -> Result<DType, IoError> {
    if dtype == Dtype::BOOL {
        return Ok(DType::Bool(burn::tensor::BoolStore::Native));
    }
    let known = DTYPES.iter().find(|(_, theirs)| *theirs == dtype);
    known.map(|&(ours, _)| ours).ok_or_else(|| unsupported(name, format!("{dtype:?}")))
}

fn unsupported(name: &str, found: String) -> IoError {
    IoError::Kind { name: name.to_string(), found, expected: "8- to 64-bit" }
}

fn refuse(error: SafeTensorError) -> IoError {
    IoError::Format { format: "safetensors", reason: error.to_string() }
}
