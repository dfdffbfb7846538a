//! Models in safetensors files: under the paths of their parameters, or as Hugging Face's tools read them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::Module;
use burn::tensor::DType;
use burn_blast_checkpoint::atomic::{AtomicFile, AtomicFolder};
use burn_blast_checkpoint::format::{FORMAT_VERSION, METADATA_KEY, PROBE, VALUES};
use burn_blast_checkpoint::{
    Checkpoint, Entry, FileContent, FileMetadata, Orientation, TensorView, check_output,
    transposed, write_safetensors,
};

use super::IoError;
use super::collect::{Form, ModelTensor, collect};
use super::fill::fill;
use super::tensors::{Content, FileTensor, Names, Tensors, from_safetensors, to_safetensors};

/// Saves a model to a safetensors file, tensor by tensor. The header's metadata holds `burn_blast` with the format
/// version.
///
/// # Errors
/// If a tensor has a data type safetensors lacks, as quantised ones do, or the file cannot be written.
pub fn save_safetensors<M: Module>(model: &M, path: impl AsRef<Path>) -> Result<(), IoError> {
    let mut tensors = collect(model, Form::Packed, &|_| true)?;
    tensors.iter_mut().for_each(|tensor| tensor.name = tensor.path.full());
    let metadata = FileMetadata { version: FORMAT_VERSION, out_in: None }.text();
    let metadata = [(METADATA_KEY.to_owned(), metadata)].into();
    write_file(path.as_ref(), false, metadata, tensors)
}

/// Loads a safetensors file into a model of the same architecture, whatever blocks either keeps.
///
/// The file must be one that [`save_safetensors`] wrote, or that `blast` made from such a file. Dense weights are taken
/// as `[d_input, d_output]`, never transposed. A checkpoint of Hugging Face, and what `blast` makes from one, is refused:
/// use [`Pretrained`](super::Pretrained).
///
/// The format has no place for the identity of a parameter: to resume training, use [`load`](super::load).
///
/// # Errors
/// If the file cannot be read, is damaged, belongs to another model, or was not written by [`save_safetensors`].
pub fn load_safetensors<M: Module>(model: M, path: impl AsRef<Path>) -> Result<M, IoError> {
    let checkpoint = Checkpoint::open(path)?;
    for shard in &checkpoint.shards {
        if FileMetadata::read(shard)?.is_none_or(|metadata| metadata.out_in.is_some()) {
            return Err(IoError::Foreign { path: shard.path.clone() });
        }
    }
    let mut by_name = BTreeMap::new();
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

/// A model on its way to a safetensors file under the names that PyTorch models use. [`Pretrained`](super::Pretrained)
/// loads such files, and so does every program that knows the architecture if they are [`dense`](Self::dense).
///
/// Linear weights are written as `[d_output, d_input]`, unless [`orientation`](Self::orientation) says otherwise. Linear
/// layers must have Burn's default layout, `LinearLayout::Row`.
/// Tensors leave the device one by one.
///
/// # Example
/// See [`Pretrained`](super::Pretrained).
pub struct Export<'a, M> {
    model: &'a M,
    form: Form,
    replace: bool,
    wanted: Box<dyn Fn(&str) -> bool + 'a>,
    dtype: Option<DType>,
    rename: Box<dyn Fn(&str) -> String + 'a>,
    orientation: Box<dyn Fn(&str) -> Orientation + 'a>,
}

impl<'a, M: Module> Export<'a, M> {
    /// A model to be written, block-sparse weights packed.
    pub fn new(model: &'a M) -> Self {
        let (rename, orientation) =
            (Box::new(str::to_owned), Box::new(|_: &str| Orientation::OutIn));
        let (form, wanted) = (Form::Packed, Box::new(|_: &str| true));
        Self { model, form, replace: false, wanted, dtype: None, rename, orientation }
    }

    /// Writes the parameters whose paths are `wanted` alone. Others are not touched and may be uninitialised.
    pub fn only(mut self, wanted: impl Fn(&str) -> bool + 'a) -> Self {
        self.wanted = Box::new(wanted);
        self
    }

    /// Sets the type that floating-point numbers are converted to when they are written. Quantised ones stay so.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Writes block-sparse weights dense, zero where no block is kept, with adapters merged.
    pub fn dense(mut self) -> Self {
        self.form = Form::Dense;
        self
    }

    /// Sets whether [`save`](Self::save) replaces a checkpoint folder that exists.
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// Sets the name in the file of each parameter path. In these, scale and shift of a norm are called `weight` and
    /// `bias`; variants of enums and the base of an adapter do not appear.
    pub fn rename(mut self, rename: impl Fn(&str) -> String + 'a) -> Self {
        self.rename = Box::new(rename);
        self
    }

    /// Sets how linear weights are stored, by their name in the file.
    pub fn orientation(mut self, orientation: impl Fn(&str) -> Orientation + 'a) -> Self {
        self.orientation = Box::new(orientation);
        self
    }

    /// Writes a new folder with `model.safetensors` and what `add` writes beside it, such as `config.json`. The folder
    /// appears when both are done.
    ///
    /// # Errors
    /// If the folder exists and is not replaced, holds anything other than a checkpoint, or cannot be written, a tensor has a data type that safetensors lacks,
    /// or `add` fails.
    pub fn save<E: From<IoError>>(
        self,
        folder: impl AsRef<Path>,
        add: impl FnOnce(&AtomicFolder) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = folder.as_ref();
        let refuse = IoError::file(path);
        check_output(None, true, path, self.replace).map_err(IoError::from)?;
        let folder = AtomicFolder::new(path, self.replace).map_err(&refuse)?;
        self.write(&folder.path().join("model.safetensors"))?;
        add(&folder)?;
        Ok(folder.finish().map_err(refuse)?)
    }

    /// Writes a file, in place of one that exists.
    ///
    /// # Errors
    /// If a tensor has a data type that safetensors lacks, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), IoError> {
        let mut tensors = collect(self.model, self.form, &self.wanted)?;
        // What only training needs.
        tensors.retain(|tensor| !(tensor.path.is_of_block_sparse() && tensor.path.leaf() == PROBE));
        let mut out_in = BTreeSet::new();
        for tensor in &mut tensors {
            tensor.name = (self.rename)(&tensor.path.hugging_face());
            let weight = tensor.name.strip_suffix(VALUES).and_then(|name| name.strip_suffix('.'));
            if let (true, Some(weight)) = (tensor.path.is_of_block_sparse(), weight)
                && (self.orientation)(weight) == Orientation::OutIn
            {
                out_in.insert(weight.to_owned());
            }
            tensor.is_linear &= (self.orientation)(&tensor.name) == Orientation::OutIn;
            if let Some(dtype) = self.dtype {
                convert(tensor, dtype)?;
            }
        }
        let metadata = [
            // transformers refuses a file that does not name the framework of its layouts.
            ("format".to_owned(), "pt".to_owned()),
            (METADATA_KEY.to_owned(), FileMetadata::new(out_in).text()),
        ];
        write_file(path, true, metadata.into(), tensors)
    }
}

/// Has a tensor of floating-point numbers converted when it is read.
fn convert(tensor: &mut ModelTensor, dtype: DType) -> Result<(), IoError> {
    if !from_safetensors(&tensor.name, tensor.dtype)?.is_float() {
        return Ok(());
    }
    tensor.dtype = to_safetensors(&tensor.name, dtype)?;
    let read = std::mem::replace(&mut tensor.read, Box::new(|| unreachable!("replaced below")));
    tensor.read = Box::new(move || read().convert_dtype(dtype));
    Ok(())
}

/// Writes a safetensors file, with linear weights transposed if that is asked for.
fn write_file(
    path: &Path,
    transpose: bool,
    metadata: BTreeMap<String, String>,
    tensors: Vec<ModelTensor>,
) -> Result<(), IoError> {
    let entries = tensors.into_iter().map(|tensor| entry(tensor, transpose)).collect();
    let content = FileContent { metadata, entries };
    let write = || {
        let mut file = AtomicFile::new(path, true)?;
        write_safetensors(&mut file, &content, &mut |_| {})?;
        file.finish()
    };
    write().map_err(IoError::file(path))
}

fn entry(tensor: ModelTensor, transpose: bool) -> Entry<'static> {
    let ModelTensor { name, dtype, mut shape, is_linear, read, .. } = tensor;
    match shape[..] {
        [rows, cols] if transpose && is_linear => {
            shape.reverse();
            let size = dtype.bitsize() / 8;
            Entry::new(name, dtype, shape, move |out| {
                out.write_all(&transposed(read().as_bytes(), [rows, cols], size))
            })
        }
        _ => Entry::new(name, dtype, shape, move |out| out.write_all(read().as_bytes())),
    }
}
