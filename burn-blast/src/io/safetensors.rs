//! Models in safetensors files under the paths of their parameters, for other tools.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{BoolStore, DType};
use burn_blast_checkpoint::format::{FORMAT_VERSION, METADATA_KEY};
use burn_blast_checkpoint::{Checkpoint, TensorView};
use safetensors::Dtype;

use super::IoError;
use super::collect::{Form, collect};
use super::fill::fill;
use super::tensors::{Content, FileTensor, Names, Tensors};

/// Saves a model to a safetensors file, tensor by tensor. The header's metadata holds `burn_blast` with the format
/// version.
///
/// # Errors
/// If a tensor has a data type safetensors lacks, as quantised ones do, or the file cannot be written.
pub fn save_safetensors<M: Module>(model: &M, path: impl AsRef<Path>) -> Result<(), IoError> {
    let mut tensors = collect(model, Form::Packed)?;
    tensors.iter_mut().for_each(|tensor| tensor.name = tensor.path.full());
    let version = format!("{{\"version\":{FORMAT_VERSION}}}");
    let metadata = [(METADATA_KEY.to_owned(), version)].into();
    super::export::write_file(path.as_ref(), false, metadata, tensors)
}

/// Loads a safetensors file into a model of the same architecture, whatever blocks either keeps.
///
/// The file must be one that [`save_safetensors`] wrote, or that `blast` made from such a file. Dense weights are taken
/// as `[d_input, d_output]`, never transposed. For a checkpoint of Hugging Face, and for what `blast` makes from one,
/// use [`Pretrained`](super::Pretrained): here a square weight of such a file would be loaded transposed.
///
/// The format has no place for the identity of a parameter: to resume training, use [`load`](super::load).
///
/// # Errors
/// If the file cannot be read, is damaged, or belongs to another model.
pub fn load_safetensors<M: Module>(model: M, path: impl AsRef<Path>) -> Result<M, IoError> {
    let checkpoint = Checkpoint::open(path)?;
    let mut by_name = std::collections::BTreeMap::new();
    for name in checkpoint.names() {
        let view = checkpoint.tensor(name).expect("its name comes from the checkpoint");
        by_name.insert(name.to_owned(), file_tensor(name, view, false)?);
    }
    fill(model, Tensors { by_name, names: Names::Record }, None)
}

/// A tensor of a checkpoint.
pub(super) fn file_tensor<'a>(
    name: &str,
    view: TensorView<'a>,
    out_in: bool,
) -> Result<FileTensor<'a>, IoError> {
    let (dtype, shape) = (from_safetensors(name, view.dtype())?, view.shape().to_vec());
    Ok(FileTensor { dtype, shape, id: None, out_in, content: Content::Mapped(view) })
}

/// Data types both sides have.
const DTYPES: [(DType, Dtype); 13] = [
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
    (DType::Bool(BoolStore::Native), Dtype::BOOL),
];

pub(super) fn to_safetensors(name: &str, dtype: DType) -> Result<Dtype, IoError> {
    if matches!(dtype, DType::QFloat(_)) {
        return Err(IoError::Quantized { name: name.to_string() });
    }
    let known = DTYPES.iter().find(|(ours, _)| *ours == dtype);
    known.map(|&(_, theirs)| theirs).ok_or_else(|| unsupported(name, format!("{dtype:?}")))
}

pub(super) fn from_safetensors(name: &str, dtype: Dtype) -> Result<DType, IoError> {
    let known = DTYPES.iter().find(|(_, theirs)| *theirs == dtype);
    known.map(|&(ours, _)| ours).ok_or_else(|| unsupported(name, format!("{dtype:?}")))
}

fn unsupported(name: &str, found: String) -> IoError {
    IoError::Kind { name: name.to_string(), found, expected: "8- to 64-bit" }
}
