//! `blast diff`: what two checkpoints keep, and whether it is the same.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use burn_blast_checkpoint::format::{PROBE, TENSORS, leaf};
use burn_blast_checkpoint::{Checkpoint, DenseWeight, PackedWeight, name_parts};
use burn_blast_kernels::BlockMask;
use serde::Serialize;

use crate::error::Error;
use crate::progress::Progress;
use crate::report::{grid, percent};

/// One weight that is packed on at least one side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerDiff {
    pub name: String,
    /// Blocks kept by both.
    pub both: usize,
    /// Blocks only the first keeps.
    pub only_a: usize,
    /// Blocks only the second keeps.
    pub only_b: usize,
    /// Blocks dropped and added, relative to the blocks the second keeps.
    pub churn: f64,
    /// Blocks kept by both whose values are equal bit for bit.
    pub equal: usize,
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Weights packed on at least one side.
    pub layers: Vec<LayerDiff>,
    /// Weights that cannot be compared, and why.
    pub incomparable: Vec<String>,
    /// Other tensors that are equal.
    pub equal: usize,
    /// Other tensors of both that are not.
    pub different: Vec<String>,
    /// Tensors only the first has.
    pub only_a: Vec<String>,
    /// Tensors only the second has.
    pub only_b: Vec<String>,
}

/// A weight of one of the two. A dense one keeps the blocks that hold anything but zeros.
enum Side<'a> {
    Packed(PackedWeight<'a>),
    Dense(DenseWeight<'a>),
}

/// Compares two checkpoints.
pub fn diff(a: &Path, b: &Path, progress: &Progress) -> Result<Report, Error> {
    let (a, b) = (Checkpoint::open(a)?, Checkpoint::open(b)?);
    let (packed_a, packed_b) = (PackedWeight::all(&a)?, PackedWeight::all(&b)?);
    let mut report = Report::default();
    let mut names: Vec<&String> =
        packed_a.iter().chain(&packed_b).map(|packed| &packed.name).collect();
    names.sort_by_cached_key(|name| name_parts(name));
    names.dedup();
    progress.begin("comparing", a.bytes());
    for name in &names {
        let (in_a, in_b) = (find(&packed_a, name), find(&packed_b, name));
        let model = in_a.or(in_b).expect("the name comes from one of them");
        match (side(&a, in_a, model)?, side(&b, in_b, model)?) {
            (Some(a), Some(b)) => match compare(name, &a, &b, model) {
                Ok(layer) => report.layers.push(layer),
                Err(reason) => report.incomparable.push(format!("{name}: {reason}")),
            },
            (None, _) => absent(&a, name, &mut report.only_b, &mut report.incomparable),
            (_, None) => absent(&b, name, &mut report.only_a, &mut report.incomparable),
        }
        progress.advance(model.values.bytes().len() as u64);
    }
    let parts = |name: &&String| {
        let parts = TENSORS.iter().chain([&PROBE]).map(move |part| leaf(name, part));
        parts.chain([(*name).clone()]).collect::<Vec<_>>()
    };
    let seen: BTreeSet<String> = names.iter().flat_map(parts).collect();
    rest(&a, &b, &seen, &mut report, progress);
    Ok(report)
}

fn find<'a, 'b>(packed: &'b [PackedWeight<'a>], name: &str) -> Option<&'b PackedWeight<'a>> {
    packed.iter().find(|packed| packed.name == name)
}

/// Notes that a checkpoint lacks a weight the other has packed: there is nothing of that name, or what cannot hold it.
fn absent(
    lacking: &Checkpoint,
    name: &str,
    only: &mut Vec<String>,
    incomparable: &mut Vec<String>,
) {
    match lacking.tensor(name) {
        None => only.push(name.to_owned()),
        Some(tensor) => {
            incomparable.push(format!("{name}: {} against a packed weight", tensor.describe()));
        }
    }
}

/// The weight on one side: packed, or dense and stored as the other side's was.
fn side<'a>(
    checkpoint: &'a Checkpoint,
    packed: Option<&PackedWeight<'a>>,
    model: &PackedWeight<'_>,
) -> Result<Option<Side<'a>>, Error> {
    if let Some(packed) = packed {
        return Ok(Some(Side::Packed(packed.clone())));
    }
    let Some(tensor) = checkpoint.tensor(&model.name) else { return Ok(None) };
    Ok(DenseWeight::of(&model.name, tensor, model.orientation)?.map(Side::Dense))
}

impl Side<'_> {
    /// Blocks it keeps, with their size and type.
    fn describe(&self, model: &PackedWeight<'_>) -> (BlockMask, String) {
        let (mask, dtype) = match self {
            Self::Packed(packed) => (BlockMask::from(&packed.pattern), packed.values.dtype()),
            Self::Dense(weight) => {
                (weight.nonzero_blocks(model.pattern.block()), weight.tensor.dtype())
            }
        };
        let (shape, block) = (mask.shape(), mask.block().get());
        let text = format!("{} x {} of {dtype} in blocks of {block}", shape.rows(), shape.cols());
        (mask, text)
    }

    /// Values of a block it keeps, in packed order.
    fn block(&self, mask: &BlockMask, slots: &[Option<u32>], number: usize) -> Vec<u8> {
        let block = mask.block();
        match self {
            Self::Packed(packed) => {
                let slot = slots[number].expect("the block is kept");
                packed.slot(slot as usize).to_vec()
            }
            Self::Dense(weight) => {
                let cols = weight.shape.block_cols(block);
                weight.block_bytes(block, (number / cols, number % cols))
            }
        }
    }

    fn slots(&self) -> Vec<Option<u32>> {
        match self {
            Self::Packed(packed) => packed.pattern.slots_by_index(),
            Self::Dense(_) => Vec::new(),
        }
    }

    fn release(&self) {
        match self {
            Self::Packed(packed) => packed.values.release(),
            Self::Dense(weight) => weight.tensor.release(),
        }
    }
}

fn compare(
    name: &str,
    a: &Side<'_>,
    b: &Side<'_>,
    model: &PackedWeight<'_>,
) -> Result<LayerDiff, String> {
    let ((mask_a, text_a), (mask_b, text_b)) = (a.describe(model), b.describe(model));
    if text_a != text_b {
        return Err(format!("{text_a} against {text_b}"));
    }
    let both = mask_a.intersection(&mask_b);
    let (slots_a, slots_b) = (a.slots(), b.slots());
    let same =
        |number: &usize| a.block(&mask_a, &slots_a, *number) == b.block(&mask_b, &slots_b, *number);
    let equal = both.indices().filter(same).count();
    a.release();
    b.release();
    let (only_a, only_b) = (mask_a.difference(&mask_b).count(), mask_b.difference(&mask_a).count());
    let kept = mask_b.count();
    let churn = if kept == 0 { 0.0 } else { (only_a + only_b) as f64 / kept as f64 };
    Ok(LayerDiff { name: name.to_owned(), both: both.count(), only_a, only_b, churn, equal })
}

/// Compares all tensors except the ones in `seen`.
fn rest(
    a: &Checkpoint,
    b: &Checkpoint,
    seen: &BTreeSet<String>,
    report: &mut Report,
    progress: &Progress,
) {
    let other = |name: &&str| !seen.contains(*name);
    for name in a.names().into_iter().filter(other) {
        let tensor = a.tensor(name).expect("its name comes from the checkpoint");
        match b.tensor(name) {
            None => report.only_a.push(name.to_owned()),
            Some(other) => {
                let same = tensor.dtype() == other.dtype()
                    && tensor.shape() == other.shape()
                    && tensor.bytes() == other.bytes();
                match same {
                    true => report.equal += 1,
                    false => report.different.push(name.to_owned()),
                }
                other.release();
            }
        }
        tensor.release();
        progress.advance(tensor.bytes().len() as u64);
    }
    let missing = b.names().into_iter().filter(other).filter(|name| a.tensor(name).is_none());
    report.only_b.extend(missing.map(str::to_owned));
}

impl Report {
    /// Whether no difference was found.
    pub fn same(&self) -> bool {
        let layer =
            |layer: &LayerDiff| layer.only_a + layer.only_b == 0 && layer.equal == layer.both;
        self.layers.iter().all(layer)
            && [&self.incomparable, &self.different, &self.only_a, &self.only_b]
                .iter()
                .all(|names| names.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.layers.is_empty() {
            let mut table = grid(&["weight", "both", "only A", "only B", "churn", "equal values"]);
            for layer in &self.layers {
                table.add_row([
                    layer.name.clone(),
                    layer.both.to_string(),
                    layer.only_a.to_string(),
                    layer.only_b.to_string(),
                    percent(layer.churn),
                    format!("{} / {}", layer.equal, layer.both),
                ]);
            }
            writeln!(f, "{table}")?;
        }
        self.incomparable.iter().try_for_each(|line| writeln!(f, "cannot be compared: {line}"))?;
        let lists = [
            ("different", &self.different),
            ("only in A", &self.only_a),
            ("only in B", &self.only_b),
        ];
        for (what, names) in lists.iter().filter(|(_, names)| !names.is_empty()) {
            writeln!(f, "{what}: {}", names.join(", "))?;
        }
        write!(f, "{} other tensors are equal; ", self.equal)?;
        write!(f, "{}", if self.same() { "no difference" } else { "the checkpoints differ" })
    }
}
