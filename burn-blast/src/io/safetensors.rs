//! Models in safetensors files under the paths of their parameters, for other tools.

use std::path::Path;

use burn::module::Module;
use burn_blast_checkpoint::format::{FORMAT_VERSION, METADATA_KEY};
use burn_blast_checkpoint::{Checkpoint, TensorView};

use super::IoError;
use super::collect::{Form, collect};
use super::fill::fill;
use super::tensors::{Content, FileTensor, Names, Tensors, from_safetensors};

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
