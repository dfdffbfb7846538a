//! Packed weights of a checkpoint, as `docs/src/files.md` describes them.

use std::collections::BTreeSet;
use std::path::Path;

use burn_blast_kernels::stored::{FORMAT_VERSION, parse};
use burn_blast_kernels::{BlockMask, BlockPattern};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::disk::{Disk, Orientation};
use crate::shard::{Shard, Tensor};
use crate::weight::as_elements;

/// A packed weight.
#[derive(Debug, Clone)]
pub struct Packed<'a> {
    /// Name of the weight; its parts are called `<name>.values` and so on.
    pub name: String,
    /// Which blocks it keeps.
    pub pattern: BlockPattern,
    /// Their values, `[nnz, b, b]`.
    pub values: Tensor<'a>,
    /// How the dense weight it was made from lay on disk.
    pub orientation: Orientation,
    /// Whether the weight is recorded with a probe for a training update.
    pub armed: bool,
}

/// Parts every packed weight has.
pub(crate) const PARTS: [&str; 4] = ["values", "row_idx", "col_ptr", "layout"];

/// The part a weight has one step before an update that grows by gradient.
pub(crate) const PROBE: &str = "probe";

/// Key of the entry of a file's metadata.
pub(crate) const KEY: &str = "burn_blast";

/// What a file's metadata says about its packed weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Format version.
    pub version: i64,
    /// Weights that were `[d_output, d_input]` before they were packed. Files of burn-blast itself, whose dense
    /// weights are the other way round, do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_in: Option<BTreeSet<String>>,
}

impl Origin {
    /// That of weights this program packs.
    pub fn new(out_in: BTreeSet<String>) -> Self {
        Self { version: FORMAT_VERSION, out_in: Some(out_in) }
    }

    /// Reads the entry of a file, if it has one.
    ///
    /// # Errors
    /// If it is of another version or cannot be read.
    pub fn read(shard: &Shard) -> Result<Option<Self>, Error> {
        let refuse =
            |path: &Path, reason: String| Error::Metadata { path: path.to_owned(), reason };
        let Some(text) = shard.metadata().get(KEY) else { return Ok(None) };
        let origin: Self = serde_json::from_str(text)
            .map_err(|error| refuse(shard.path(), format!("cannot be read ({error})")))?;
        if origin.version != FORMAT_VERSION {
            let reason = format!("has format version {}, not {FORMAT_VERSION}", origin.version);
            return Err(refuse(shard.path(), reason));
        }
        Ok(Some(origin))
    }

    /// The text of the entry.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("a number and strings only")
    }

    fn orientation(&self, name: &str) -> Orientation {
        match self.out_in.as_ref().is_some_and(|names| names.contains(name)) {
            true => Orientation::OutIn,
            false => Orientation::InOut,
        }
    }
}

impl<'a> Packed<'a> {
    /// Every packed weight of a checkpoint.
    ///
    /// # Errors
    /// If one is damaged.
    pub fn all(checkpoint: &'a Checkpoint) -> Result<Vec<Self>, Error> {
        let first = |problems: Vec<Error>| problems.into_iter().next().expect("never empty");
        let names = packed_names(checkpoint);
        names.iter().map(|name| Self::read(checkpoint, name).map_err(first)).collect()
    }

    /// Reads a packed weight.
    ///
    /// # Errors
    /// Everything that is wrong with it, at least one thing.
    pub fn read(checkpoint: &'a Checkpoint, name: &str) -> Result<Self, Vec<Error>> {
        let mut problems = Vec::new();
        let mut part = |part: &'static str| {
            let tensor = checkpoint.tensor(&format!("{name}.{part}"));
            if tensor.is_none() {
                problems.push(Error::PartMissing { name: name.to_owned(), part });
            }
            tensor
        };
        let [values, row_idx, col_ptr, layout] = PARTS.map(&mut part);
        let mut indices = |part: &'static str, tensor: Option<Tensor<'_>>| {
            let tensor = tensor?;
            let read = numbers(tensor);
            if read.is_none() {
                problems.push(misshapen(name, part, tensor, "I32 of one axis".to_string()));
            }
            read
        };
        let layout = indices("layout", layout);
        let (row_idx, col_ptr) = (indices("row_idx", row_idx), indices("col_ptr", col_ptr));
        let (Some(values), Some(layout), Some(row_idx), Some(col_ptr)) =
            (values, layout, row_idx, col_ptr)
        else {
            return Err(problems);
        };
        let (pattern, armed) = parse(&layout, &row_idx, &col_ptr, None)
            .map_err(|source| vec![Error::Layout { name: name.to_owned(), source }])?;
        let b = pattern.block().get();
        if values.shape() != [pattern.nnz(), b, b] || !is_float(values.dtype()) {
            let expected = format!("floating-point of [{}, {b}, {b}]", pattern.nnz());
            return Err(vec![misshapen(name, "values", values, expected)]);
        }
        let holder = checkpoint.shard_of(&format!("{name}.values"));
        let origin = holder.map_or(Ok(None), Origin::read).map_err(|error| vec![error])?;
        let orientation = origin.map_or(Orientation::InOut, |origin| origin.orientation(name));
        Ok(Self { name: name.to_owned(), pattern, values, orientation, armed })
    }

    /// The dense matrix on disk it was made from.
    pub fn disk(&self) -> Disk {
        Disk::of(self.pattern.shape(), self.orientation)
    }

    /// Bytes of one element.
    pub fn element_size(&self) -> usize {
        self.values.dtype().bitsize() / 8
    }

    /// Bytes of one block.
    pub fn block_bytes(&self) -> usize {
        self.pattern.block().area() * self.element_size()
    }

    /// Values of a slot.
    pub fn slot(&self, slot: usize) -> &'a [u8] {
        &self.values.bytes()[slot * self.block_bytes()..][..self.block_bytes()]
    }

    /// Which blocks hold anything but zeros of either sign.
    pub fn nonzero_blocks(&self) -> BlockMask {
        let (shape, block) = (self.pattern.shape(), self.pattern.block());
        let cols = shape.block_cols(block);
        let content = self.pattern.blocks().enumerate().filter(|(slot, _)| {
            let elements = self.slot(*slot).chunks_exact(self.element_size());
            // The sign is the highest bit of the last byte.
            elements.into_iter().any(|element| {
                let (last, rest) = element.split_last().expect("an element has bytes");
                last << 1 != 0 || rest.iter().any(|byte| *byte != 0)
            })
        });
        let numbers = content.map(|(_, (row, col))| row * cols + col);
        BlockMask::from_indices(shape, block, numbers)
    }
}

/// Names of the weights of which an index is there, or the values under a name that only those of a packed weight
/// have, in the order of their layers.
pub(crate) fn packed_names(checkpoint: &Checkpoint) -> Vec<String> {
    let (mut names, mut seen) = (Vec::new(), BTreeSet::new());
    for name in checkpoint.names() {
        let index =
            || PARTS[1..].iter().find_map(|part| name.strip_suffix(part)?.strip_suffix('.'));
        let values = || name.strip_suffix(".values").filter(|base| base.ends_with(".weight"));
        let base = index().or_else(values);
        if let Some(base) = base
            && seen.insert(base)
        {
            names.push(base.to_owned());
        }
    }
    names
}

/// Types that values can have.
fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
}

/// Content of an index tensor. 64 bits are read too: burn-blast does.
fn numbers(tensor: Tensor<'_>) -> Option<Vec<i64>> {
    let bytes = tensor.bytes();
    match (tensor.shape().len(), tensor.dtype()) {
        (1, Dtype::I32) => {
            Some(as_elements(bytes).iter().map(|at| i32::from_le_bytes(*at).into()).collect())
        }
        (1, Dtype::I64) => {
            Some(as_elements(bytes).iter().map(|at| i64::from_le_bytes(*at)).collect())
        }
        _ => None,
    }
}

pub(crate) fn misshapen(
    name: &str,
    part: &'static str,
    tensor: Tensor<'_>,
    expected: String,
) -> Error {
    let found = format!("{} of {:?}", tensor.dtype(), tensor.shape());
    Error::PartShape { name: name.to_owned(), part, found, expected }
}
