//! What is said of weights: rows for people and for programs.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use burn_blast_checkpoint::format::LAYOUT_LEN;
use burn_blast_checkpoint::{Checkpoint, Orientation, Written};
use burn_blast_kernels::BlockPattern;
use burn_blast_kernels::budget::kept_blocks;
use comfy_table::{CellAlignment, Table};
use indicatif::BinaryBytes;
use serde::Serialize;

/// A checkpoint made from another.
#[derive(Debug, Serialize)]
pub struct Rewrite {
    #[serde(serialize_with = "crate::paths::one")]
    input: PathBuf,
    #[serde(serialize_with = "crate::paths::one")]
    output: PathBuf,
    /// Bytes of all tensors of the input.
    bytes_in: u64,
    /// Bytes of all tensors of the output.
    bytes_out: u64,
    /// What was not copied from the input's folder: files with weights in another form, and what is no file.
    left_out: Vec<String>,
}

impl Rewrite {
    pub fn new(input: &Path, output: &Path, checkpoint: &Checkpoint, written: Written) -> Self {
        Self {
            input: input.to_owned(),
            output: output.to_owned(),
            bytes_in: checkpoint.bytes(),
            bytes_out: written.bytes,
            left_out: written.left_out,
        }
    }

    /// Says `what` was done to it.
    pub fn write(&self, f: &mut fmt::Formatter<'_>, what: impl Display) -> fmt::Result {
        if !self.left_out.is_empty() {
            let files = self.left_out.join(", ");
            writeln!(f, "not copied, since they hold weights or are no files: {files}")?;
        }
        let (before, after) = (BinaryBytes(self.bytes_in), BinaryBytes(self.bytes_out));
        let output = self.output.display();
        write!(f, "{output}: {what}, {after} of tensors where the input has {before}")
    }
}

/// A block column and how many blocks it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Column {
    pub column: usize,
    pub kept: usize,
}

/// One weight.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layer {
    pub name: String,
    pub d_input: usize,
    pub d_output: usize,
    /// Type of its elements.
    pub dtype: String,
    /// How the dense weight is stored: `out-in` or `in-out`.
    pub orientation: &'static str,
    /// Whether it is stored packed, rather than dense with zero blocks.
    pub packed: bool,
    /// Side of a block.
    pub block: usize,
    /// Blocks of its grid.
    pub blocks: usize,
    pub kept: usize,
    /// Share of blocks removed.
    pub sparsity: f64,
    /// Bytes of its dense form.
    pub dense_bytes: u64,
    /// Bytes of its packed form, indices and all.
    pub packed_bytes: u64,
    /// The block column that keeps most; the first of several.
    pub densest: Column,
    /// The block column that keeps least; the first of several.
    pub emptiest: Column,
}

/// Sums over weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Total {
    /// Blocks of all grids.
    pub blocks: usize,
    pub kept: usize,
    /// Share of blocks removed.
    pub sparsity: f64,
    /// Bytes of all dense forms.
    pub dense_bytes: u64,
    /// Bytes of all packed forms.
    pub packed_bytes: u64,
}

impl Layer {
    /// The row of a weight with elements of type `dtype`.
    pub fn new(
        name: &str,
        pattern: &BlockPattern,
        dtype: safetensors::Dtype,
        orientation: Orientation,
        packed: bool,
    ) -> Self {
        let element = dtype.bitsize() / 8;
        let columns = || {
            let kept = pattern.col_ptr().windows(2).map(|pair| (pair[1] - pair[0]) as usize);
            kept.enumerate().map(|(column, kept)| Column { column, kept })
        };
        let none = Column { column: 0, kept: 0 };
        let indices = LAYOUT_LEN + pattern.row_idx().len() + pattern.col_ptr().len();
        Self {
            name: name.to_owned(),
            d_input: pattern.shape().rows(),
            d_output: pattern.shape().cols(),
            dtype: dtype.to_string(),
            orientation: match orientation {
                Orientation::OutIn => "out-in",
                Orientation::InOut => "in-out",
            },
            packed,
            block: pattern.block().get(),
            blocks: pattern.block_count(),
            kept: pattern.nnz(),
            sparsity: removed(pattern.nnz(), pattern.block_count()),
            dense_bytes: (pattern.shape().area() * element) as u64,
            packed_bytes: (pattern.value_count() * element + indices * size_of::<i32>()) as u64,
            densest: columns().rev().max_by_key(|column| column.kept).unwrap_or(none),
            emptiest: columns().min_by_key(|column| column.kept).unwrap_or(none),
        }
    }
}

impl Total {
    /// The sums of these rows.
    pub fn of(layers: &[Layer]) -> Self {
        let (blocks, kept) = (
            layers.iter().map(|layer| layer.blocks).sum(),
            layers.iter().map(|layer| layer.kept).sum(),
        );
        Self {
            blocks,
            kept,
            sparsity: removed(kept, blocks),
            dense_bytes: layers.iter().map(|layer| layer.dense_bytes).sum(),
            packed_bytes: layers.iter().map(|layer| layer.packed_bytes).sum(),
        }
    }
}

fn removed(kept: usize, blocks: usize) -> f64 {
    if blocks == 0 { 0.0 } else { 1.0 - kept as f64 / blocks as f64 }
}

/// The rows as a table, with their sum.
pub fn table(layers: &[Layer]) -> Table {
    let mut table = grid(&[
        "weight",
        "in x out",
        "type",
        "block",
        "kept",
        "removed",
        "dense",
        "packed",
        "densest column",
        "emptiest",
    ]);
    for layer in layers {
        let column = |column: Column| format!("{} ({})", column.column, column.kept);
        table.add_row([
            layer.name.clone(),
            format!("{} x {}", layer.d_input, layer.d_output),
            layer.dtype.clone(),
            layer.block.to_string(),
            format!("{} / {}", layer.kept, layer.blocks),
            percent(layer.sparsity),
            BinaryBytes(layer.dense_bytes).to_string(),
            BinaryBytes(layer.packed_bytes).to_string(),
            column(layer.densest),
            column(layer.emptiest),
        ]);
    }
    let total = Total::of(layers);
    table.add_row([
        format!("{} in all", layers.len()),
        String::new(),
        String::new(),
        String::new(),
        format!("{} / {}", total.kept, total.blocks),
        percent(total.sparsity),
        BinaryBytes(total.dense_bytes).to_string(),
        BinaryBytes(total.packed_bytes).to_string(),
    ]);
    table
}

/// An empty table: names on the left, numbers on the right.
pub fn grid(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(header.to_vec());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What to say beside the share of blocks removed if it is not the one asked for, since weights have too few blocks.
pub fn shortfall(removed: f64, asked: f64, blocks: impl IntoIterator<Item = usize>) -> String {
    let falls_short = |share: f64| share < asked - 0.01;
    let small = |blocks| falls_short(1.0 - kept_blocks(asked, blocks) as f64 / blocks as f64);
    match falls_short(removed) && blocks.into_iter().any(small) {
        true => format!(
            " instead of {}: a weight keeps whole blocks, at least one, so small weights need a smaller --block",
            percent(asked)
        ),
        false => String::new(),
    }
}

/// A share as people read it.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
