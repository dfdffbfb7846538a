//! The tensors of a file, whatever its format, and the paths of parameters that they belong to.

use std::collections::BTreeMap;

use burn::tensor::{BoolStore, Bytes, DType, TensorData};
use burn_blast_checkpoint::{TensorView, transposed};
use safetensors::Dtype;

use super::IoError;
use crate::weight::CONTAINER;

/// A tensor of a file, not read yet.
pub(super) struct FileTensor<'a> {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// Identity of the parameter, if the file records it.
    pub(super) id: Option<u64>,
    /// Whether the file has it as `[d_output, d_input]`, if it is the weight of a linear layer.
    pub(super) out_in: bool,
    pub(super) content: Content<'a>,
}

pub(super) enum Content<'a> {
    Bytes(Bytes),
    Mapped(TensorView<'a>),
}

impl FileTensor<'_> {
    /// Its content, transposed if `as_in_out` is asked for and the file has it the other way.
    pub(super) fn read(self, as_in_out: bool) -> TensorData {
        let Self { dtype, shape, out_in, content, .. } = self;
        let view = match content {
            Content::Bytes(bytes) => return TensorData::from_bytes(bytes, shape, dtype),
            Content::Mapped(view) => view,
        };
        let data = match shape[..] {
            [rows, cols] if as_in_out && out_in => {
                let bytes = transposed(view.bytes(), [rows, cols], dtype.size());
                TensorData::from_bytes_vec(bytes, [cols, rows], dtype)
            }
            _ => TensorData::from_bytes_vec(view.bytes().to_vec(), shape, dtype),
        };
        view.release();
        data
    }

    /// Its content as integers.
    fn integers(&self) -> Vec<i64> {
        let bytes = match &self.content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::Mapped(view) => Bytes::from_bytes_vec(view.bytes().to_vec()),
        };
        TensorData::from_bytes(bytes, self.shape.clone(), self.dtype).iter::<i64>().collect()
    }
}

/// The tensors of a file by name.
pub(super) struct Tensors<'a> {
    pub(super) by_name: BTreeMap<String, FileTensor<'a>>,
    pub(super) names: Names,
}

/// How tensors are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// By the path of the parameter.
    Record,
    /// As Hugging Face calls them; see [`ParameterPath::hugging_face`]. Probes are not read.
    HuggingFace,
}

impl Tensors<'_> {
    /// Name of the tensor of a parameter, if the file has it.
    pub(super) fn find(&self, path: &ParameterPath) -> Option<String> {
        let names = match self.names {
            Names::Record => vec![path.full()],
            Names::HuggingFace => vec![path.full(), path.short(), path.hugging_face()],
        };
        names.into_iter().find(|name| self.by_name.contains_key(name))
    }

    /// Name and tensor of a parameter.
    pub(super) fn get(&self, path: &ParameterPath) -> Result<(String, &FileTensor<'_>), IoError> {
        let missing = || IoError::Missing { name: path.name(self.names) };
        let name = self.find(path).ok_or_else(missing)?;
        let tensor = &self.by_name[&name];
        Ok((name, tensor))
    }

    /// Name and content of an index of a packed weight.
    pub(super) fn index(&self, path: &ParameterPath) -> Result<(String, Vec<i64>), IoError> {
        let (name, tensor) = self.get(path)?;
        let fits = |dtype: DType| dtype.is_int() || dtype.is_uint();
        let expected = vec![tensor.shape.iter().product()];
        check_tensor(&name, tensor, &expected, "integer", fits)?;
        let numbers = tensor.integers();
        Ok((name, numbers))
    }
}

/// Checks shape and type of a tensor.
pub(super) fn check_tensor(
    name: &str,
    tensor: &FileTensor<'_>,
    shape: &[usize],
    kind: &'static str,
    fits: impl Fn(DType) -> bool,
) -> Result<(), IoError> {
    let name = name.to_owned();
    if tensor.shape != shape {
        let (found, expected) = (tensor.shape.clone(), shape.to_vec());
        return Err(IoError::Shape { name, found, expected });
    }
    if !fits(tensor.dtype) {
        let found = format!("{:?}", tensor.dtype);
        return Err(IoError::Kind { name, found, expected: kind });
    }
    Ok(())
}

/// Where a walk over a model is: the name of each module, and the type of the module that contains it.
#[derive(Debug, Clone, Default)]
pub(super) struct ParameterPath(Vec<(String, String)>);

impl ParameterPath {
    pub(super) fn enter(&mut self, name: &str, container: &str) {
        self.0.push((name.to_owned(), container.to_owned()));
    }

    pub(super) fn exit(&mut self) {
        self.0.pop();
    }

    /// Path of the module that contains the parameter.
    pub(super) fn parent(&self) -> Self {
        Self(self.0[..self.0.len().saturating_sub(1)].to_vec())
    }

    /// Path of another parameter of the same module.
    pub(super) fn sibling(&self, name: &str) -> Self {
        let mut path = self.parent();
        let container = self.0.last().map_or("", |(_, container)| container);
        path.enter(name, container);
        path
    }

    /// Type of the module that contains the parameter.
    pub(super) fn container(&self) -> &str {
        self.0.last().map_or("", |(_, container)| container)
    }

    /// Name of the parameter in its module.
    pub(super) fn leaf(&self) -> &str {
        self.0.last().map_or("", |(name, _)| name)
    }

    /// The path as Burn records it.
    pub(super) fn full(&self) -> String {
        join(self.0.iter())
    }

    /// The path without names that only say which type a module has: variants of enums, and the base of an adapter.
    pub(super) fn short(&self) -> String {
        join(self.0.iter().filter(|(name, container)| {
            !container.starts_with("Enum:") && (name != "base" || container != "Struct:LoraLinear")
        }))
    }

    /// The short path, with scale and shift of a norm called `weight` and `bias`, as in PyTorch.
    pub(super) fn hugging_face(&self) -> String {
        let short = self.short();
        let leaf = match (self.leaf(), self.container().ends_with("Norm")) {
            ("gamma", true) => "weight",
            ("beta", true) => "bias",
            _ => return short,
        };
        format!("{}{leaf}", short.trim_end_matches(self.leaf()))
    }

    /// What the tensor of the parameter is called in a new file.
    pub(super) fn name(&self, names: Names) -> String {
        match names {
            Names::Record => self.full(),
            Names::HuggingFace => self.hugging_face(),
        }
    }

    /// Whether the parameter is the dense weight of a linear layer.
    pub(super) fn is_linear_weight(&self) -> bool {
        self.leaf() == "weight" && self.container() == "Struct:Linear"
    }

    /// Whether the parameter is part of a block-sparse weight.
    pub(super) fn is_of_block_sparse(&self) -> bool {
        self.container() == CONTAINER
    }
}

fn join<'a>(parts: impl Iterator<Item = &'a (String, String)>) -> String {
    parts.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".")
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
