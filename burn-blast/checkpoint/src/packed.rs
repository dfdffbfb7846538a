//! Packed weights of a checkpoint, as `docs/src/files.md` describes them.

use std::collections::BTreeSet;

use burn_blast_kernels::BlockPattern;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::CheckpointError;
use crate::checkpoint::Checkpoint;
use crate::dense::{DenseLayout, Orientation};
use crate::format::{
    self, COL_PTR, FORMAT_VERSION, LAYOUT, METADATA_KEY, PROBE, ROW_IDX, TENSORS, VALUES, parse,
};
use crate::shard::{Shard, TensorView};

/// A packed weight.
#[derive(Debug, Clone)]
pub struct PackedWeight<'a> {
    /// Name of the weight; its tensors are called `<name>.values` and so on.
    pub name: String,
    /// Which blocks it keeps.
    pub pattern: BlockPattern,
    /// Their values, `[nnz, b, b]`.
    pub values: TensorView<'a>,
    /// How the dense weight it was made from was stored.
    pub orientation: Orientation,
    /// Whether the weight is recorded with a probe for a training update.
    pub has_probe: bool,
}

/// What a file's metadata says about its packed weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMetadata {
    /// Format version.
    pub version: i64,
    /// Weights that were `[d_output, d_input]` before they were packed. Files that `burn_blast::io` saves, whose dense
    /// weights are `[d_input, d_output]`, do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_in: Option<BTreeSet<String>>,
}

impl FileMetadata {
    /// The entry of a file with weights packed from these of `[d_output, d_input]`, and others.
    pub fn new(out_in: BTreeSet<String>) -> Self {
        Self { version: FORMAT_VERSION, out_in: Some(out_in) }
    }

    /// Reads the entry of a file, if it has one.
    ///
    /// # Errors
    /// If it is of another version or cannot be read.
    pub fn read(shard: &Shard) -> Result<Option<Self>, CheckpointError> {
        let refuse = |reason| CheckpointError::Metadata { path: shard.path.clone(), reason };
        let Some(text) = shard.metadata.get(METADATA_KEY) else { return Ok(None) };
        let metadata: Self = serde_json::from_str(text)
            .map_err(|error| refuse(format!("cannot be read ({error})")))?;
        if metadata.version != FORMAT_VERSION {
            let reason = format!("has format version {}, not {FORMAT_VERSION}", metadata.version);
            return Err(refuse(reason));
        }
        Ok(Some(metadata))
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

impl<'a> PackedWeight<'a> {
    /// Every packed weight of a checkpoint.
    ///
    /// # Errors
    /// If one is damaged.
    pub fn all(checkpoint: &'a Checkpoint) -> Result<Vec<Self>, CheckpointError> {
        let first =
            |problems: Vec<CheckpointError>| problems.into_iter().next().expect("never empty");
        let names = Self::names(checkpoint);
        names.iter().map(|name| Self::read(checkpoint, name).map_err(first)).collect()
    }

    /// Names of all packed weights, damaged or not, in the order of their layers. A weight is found by an index tensor,
    /// or by values whose name ends in `.weight.values`.
    pub fn names(checkpoint: &Checkpoint) -> Vec<String> {
        let (mut names, mut seen) = (Vec::new(), BTreeSet::new());
        for name in checkpoint.names() {
            let Some((base, leaf)) = name.rsplit_once('.') else { continue };
            let is_packed = match leaf {
                VALUES => base.ends_with(".weight"),
                leaf => TENSORS.contains(&leaf),
            };
            if is_packed && seen.insert(base) {
                names.push(base.to_owned());
            }
        }
        names
    }

    /// Reads a packed weight.
    ///
    /// # Errors
    /// Everything that is wrong with it, at least one thing.
    pub fn read(checkpoint: &'a Checkpoint, name: &str) -> Result<Self, Vec<CheckpointError>> {
        let mut problems = Vec::new();
        let [values, row_idx, col_ptr, layout] = TENSORS.map(|leaf| {
            let tensor = checkpoint.tensor(&format::leaf(name, leaf));
            if tensor.is_none() {
                problems.push(CheckpointError::TensorMissing { name: name.to_owned(), leaf });
            }
            tensor
        });
        let mut indices = |leaf: &'static str, tensor: Option<TensorView<'_>>| {
            let tensor = tensor?;
            let read = numbers(tensor);
            if read.is_none() {
                problems.push(misshapen(name, leaf, tensor, "I32 of one axis".to_string()));
            }
            read
        };
        let layout = indices(LAYOUT, layout);
        let (row_idx, col_ptr) = (indices(ROW_IDX, row_idx), indices(COL_PTR, col_ptr));
        let (Some(values), Some(layout), Some(row_idx), Some(col_ptr)) =
            (values, layout, row_idx, col_ptr)
        else {
            return Err(problems);
        };
        let (pattern, has_probe) = parse(&layout, &row_idx, &col_ptr, None)
            .map_err(|cause| vec![CheckpointError::Layout { name: name.to_owned(), cause }])?;
        let b = pattern.block().get();
        if values.shape() != [pattern.nnz(), b, b] || !is_float(values.dtype()) {
            let expected = format!("floating-point of [{}, {b}, {b}]", pattern.nnz());
            return Err(vec![misshapen(name, VALUES, values, expected)]);
        }
        let holder = checkpoint.shard_of(&format::leaf(name, VALUES));
        let metadata = holder.map_or(Ok(None), FileMetadata::read).map_err(|error| vec![error])?;
        let orientation =
            metadata.map_or(Orientation::InOut, |metadata| metadata.orientation(name));
        Ok(Self { name: name.to_owned(), pattern, values, orientation, has_probe })
    }

    /// How the dense matrix it was made from was stored.
    pub fn layout(&self) -> DenseLayout {
        DenseLayout::of(self.pattern.shape(), self.orientation)
    }

    /// Bytes of one block.
    pub fn block_bytes(&self) -> usize {
        self.pattern.block().area() * self.values.element_size()
    }

    /// Values of a slot.
    pub fn slot(&self, slot: usize) -> &'a [u8] {
        &self.values.bytes()[slot * self.block_bytes()..][..self.block_bytes()]
    }

    /// What [`read`](Self::read) does not need to know: whether the weight is there dense too, whether the probe is
    /// what the layout says, and whether blocks are zero outside the weight.
    pub fn problems(&self, checkpoint: &Checkpoint) -> Vec<CheckpointError> {
        let (mut problems, name, pattern) = (Vec::new(), &self.name, &self.pattern);
        if checkpoint.tensor(name).is_some() {
            problems.push(CheckpointError::Both(name.clone()));
        }
        let probe = checkpoint.tensor(&format::leaf(name, PROBE));
        let grid = [pattern.block_rows(), pattern.block_cols()];
        match (self.has_probe, probe) {
            (true, None) => {
                problems.push(CheckpointError::TensorMissing { name: name.clone(), leaf: PROBE });
            }
            (true, Some(probe)) if probe.shape() != grid => {
                problems.push(misshapen(name, PROBE, probe, format!("of {grid:?}")));
            }
            (false, Some(probe)) => {
                let expected = "absent, since the layout says that there is none".to_string();
                problems.push(misshapen(name, PROBE, probe, expected));
            }
            _ => {}
        }
        let damaged =
            pattern.blocks().enumerate().find(|&(slot, at)| !self.padding_is_zero(slot, at));
        if let Some((slot, (row, col))) = damaged {
            problems.push(CheckpointError::Padding { name: name.clone(), slot, row, col });
        }
        self.values.release();
        problems
    }

    /// Whether a block is zero where it is outside the weight.
    fn padding_is_zero(&self, slot: usize, (row, col): (usize, usize)) -> bool {
        let (shape, b) = (self.pattern.shape(), self.pattern.block().get());
        let (rows, cols) = (b.min(shape.rows() - row * b), b.min(shape.cols() - col * b));
        if (rows, cols) == (b, b) {
            return true;
        }
        let size = self.values.element_size();
        let mut block_rows = self.slot(slot).chunks_exact(b * size).enumerate();
        block_rows.all(|(row, elements)| {
            let outside = if row < rows { &elements[cols * size..] } else { elements };
            outside.iter().all(|byte| *byte == 0)
        })
    }
}

/// Types that values can have.
fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
}

/// Content of an index tensor. 64 bits are read too: burn-blast does.
fn numbers(tensor: TensorView<'_>) -> Option<Vec<i64>> {
    match (tensor.shape().len(), tensor.dtype()) {
        (1, Dtype::I32) => {
            Some(tensor.elements().iter().map(|at| i32::from_le_bytes(*at).into()).collect())
        }
        (1, Dtype::I64) => {
            Some(tensor.elements().iter().map(|at| i64::from_le_bytes(*at)).collect())
        }
        _ => None,
    }
}

fn misshapen(
    name: &str,
    leaf: &'static str,
    tensor: TensorView<'_>,
    expected: String,
) -> CheckpointError {
    CheckpointError::TensorShape { name: name.to_owned(), leaf, found: tensor.describe(), expected }
}
