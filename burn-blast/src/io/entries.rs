//! A file's tensors, format aside, and reading and writing files whole.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::quantization::quantized_data_len;
use burn::tensor::{Bool, Bytes, DType, Int, Shape, Tensor};
use burn_blast_checkpoint::atomic::replace_file;
use burn_blast_kernels::BlockSize;
use burn_pack::Reader;

use super::IoError;
use crate::quantize::is_int8;
use crate::window;

/// One tensor of a file.
pub(super) struct Entry {
    pub(super) dtype: DType,
    pub(super) shape: Shape,
    pub(super) id: Option<u64>,
    pub(super) bytes: Bytes,
}

/// Tensors by path.
pub(super) type Entries = BTreeMap<String, Entry>;

const BURNPACK: &str = "burnpack";

/// Reads the tensors of a burnpack buffer. Each has as many bytes as its shape needs: of all but quantised ones the
/// reader makes sure.
pub(super) fn read_burnpack(bytes: Vec<u8>) -> Result<Entries, IoError> {
    let refuse =
        |error: burn_pack::Error| IoError::Format { format: BURNPACK, reason: error.to_string() };
    let reader = Reader::from_bytes(Bytes::from_bytes_vec(bytes)).map_err(refuse)?;
    let mut entries = Entries::new();
    for tensor in reader.into_tensors().map_err(refuse)? {
        let (name, dtype, shape, id, bytes) = tensor.into_parts().map_err(refuse)?;
        // Views into a damaged file may start anywhere; elements must not.
        let aligned = bytes.as_ptr().align_offset(size_of::<u64>()) == 0;
        let bytes = if aligned { bytes } else { Bytes::from_bytes_vec(bytes.to_vec()) };
        if matches!(dtype, DType::QFloat(_)) {
            check_quantized(&name, dtype, &shape, bytes.len())?;
        }
        entries.insert(name, Entry { dtype, shape, id, bytes });
    }
    Ok(entries)
}

/// Checks the scheme of a quantised tensor, which may be in no valid state, and then its length.
fn check_quantized(name: &str, dtype: DType, shape: &Shape, len: usize) -> Result<(), IoError> {
    let block = BlockSize::ALL.into_iter().find(|&block| is_int8(dtype, block));
    let refuse = |what: &str| {
        let reason = format!("tensor \"{name}\" {what}");
        Err(IoError::Format { format: BURNPACK, reason })
    };
    match (block, dtype) {
        (Some(block), DType::QFloat(scheme)) if shape[..].ends_with(&[block.get(); 2]) => {
            match len == quantized_data_len(&scheme, shape) {
                true => Ok(()),
                false => refuse("does not have the bytes that its shape needs"),
            }
        }
        _ => refuse("is quantised otherwise than by 8-bit integers with one f32 scale a block"),
    }
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, IoError> {
    std::fs::read(path).map_err(|source| IoError::File { path: path.to_path_buf(), source })
}

pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), IoError> {
    replace_file(path, bytes).map_err(|source| IoError::File { path: path.to_path_buf(), source })
}

/// Checks that a file's tensors are exactly those of a model: names, shapes and kinds of number.
pub(super) fn check<M: Module>(model: &M, entries: &Entries) -> Result<(), IoError> {
    let mut checker = Checker { path: Vec::new(), entries, seen: HashSet::new(), error: None };
    model.visit(&mut checker);
    if let Some(error) = checker.error {
        return Err(error);
    }
    match entries.keys().find(|name| !checker.seen.contains(*name)) {
        Some(name) => Err(IoError::Unknown { name: name.clone() }),
        None => Ok(()),
    }
}

struct Checker<'a> {
    path: Vec<String>,
    entries: &'a Entries,
    seen: HashSet<String>,
    error: Option<IoError>,
}

impl Checker<'_> {
    fn check(&mut self, expected: Shape, kind: &'static str, fits: impl Fn(DType) -> bool) {
        let name = self.path.join(".");
        let error = match self.entries.get(&name) {
            None => IoError::Missing { name },
            Some(entry) if entry.shape != expected => {
                IoError::Shape { name, found: entry.shape.to_vec(), expected: expected.to_vec() }
            }
            Some(entry) if !fits(entry.dtype) => {
                IoError::Kind { name, found: format!("{:?}", entry.dtype), expected: kind }
            }
            Some(_) => {
                self.seen.insert(name);
                return;
            }
        };
        self.error.get_or_insert(error);
    }
}

impl ModuleVisitor for Checker<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // A parameter held in another layout is recorded in that of its save mapper; until it is drawn, that
        // is the shape it reports, and asking for more would draw it.
        let shape = match param.is_initialized() {
            true => param.transform_for_save().lazy_shape(),
            false => param.lazy_shape(),
        };
        let block = window::values().map(|weight| weight.pattern.block());
        self.check(shape, "floating-point", |dtype| {
            dtype.is_float() || block.is_some_and(|block| is_int8(dtype, block))
        });
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.check(param.lazy_shape(), "integer", |dtype| dtype.is_int() || dtype.is_uint());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.check(param.lazy_shape(), "boolean", |dtype| dtype.is_bool());
    }
}
