//! The kernels of the page, and what their launches need.

use anyhow::{Result, bail};
use blast_offline::{Declaration, F16, F32, MOST_BUFFERS, wgsl};
use burn_blast_kernels::BlockSize;
use burn_blast_kernels::cube::catalogue::{Ask, Definition, Planned, Verb};
use serde::Serialize;

/// A kernel as the page launches it.
#[derive(Debug, Clone, Serialize)]
pub struct Exported {
    /// Name in the catalogue.
    pub name: String,
    /// `forward`, `input_gradient` or `weight_gradient`.
    pub verb: &'static str,
    /// `f32` or `f16`.
    pub dtype: &'static str,
    /// Side of a block.
    pub block: usize,
    /// Whether rows are read by vectors, for sides of the weight that are multiples of 4.
    pub wide: bool,
    /// The page takes this kernel for this many rows, and for fewer where no other is closer.
    pub for_rows: usize,
    /// Rows of the output that a cube computes; 0 if it walks all rows.
    pub tile_rows: usize,
    /// Cubes that share a block.
    pub block_tiles: usize,
    /// Most blocks that a cube of a weight gradient computes together.
    pub group: usize,
    /// What is bound, in this order; the sizes follow.
    pub bindings: &'static [&'static str],
    /// The numbers in the buffer of sizes, in this order, before the lengths of the buffers.
    pub sizes: &'static [&'static str],
    /// WGSL.
    pub code: String,
    /// Name of the entry point.
    pub entry: &'static str,
}

/// Rows for which the page has kernels, with whole vectors in f32; with single elements, and in f16.
const ROWS: [usize; 5] = [1, 16, 17, 64, 256];
const ROWS_BY_ELEMENT: [usize; 2] = [33, 256];
const ROWS_F16: [usize; 1] = [256];
/// Sides of blocks. Blocks of 8 are slow on any device, and would add a quarter to the page.
const BLOCKS: [usize; 4] = [16, 32, 64, 128];

/// Every kernel of the page, as the dispatcher plans it.
///
/// # Errors
/// If one cannot be generated, or binds more buffers than WebGPU promises.
pub fn kernels() -> Result<Vec<Exported>> {
    let mut all: Vec<Exported> = Vec::new();
    for verb in [Verb::Spmm, Verb::SpmmT, Verb::Sddmm] {
        for block in BLOCKS {
            let block = BlockSize::new(block)?;
            for (dtype, wide, rows) in [
                (F32, true, &ROWS[..]),
                (F32, false, &ROWS_BY_ELEMENT[..]),
                (F16, true, &ROWS_F16[..]),
            ] {
                // From many rows to few, so that a kernel for several has the most of them.
                for &rows in rows.iter().rev() {
                    let exported = export(Ask { verb, dtype, block, wide, rows })?;
                    if all.iter().all(|other| other.name != exported.name) {
                        all.push(exported);
                    }
                }
            }
        }
    }
    Ok(all)
}

fn export(ask: Ask) -> Result<Exported> {
    let planned = Planned::new(ask);
    let made = wgsl(&planned, ask.dtype, Declaration::AsUsed)?;
    if made.buffers > MOST_BUFFERS {
        bail!("{} binds {} buffers", planned.name(), made.buffers);
    }
    let few = matches!(planned, Planned::FewRows(_));
    let (verb, bindings, sizes): (_, &[_], &[_]) = match ask.verb {
        Verb::Spmm if few => (
            "forward",
            &["x", "values", "ptr", "idx", "parts", "out"],
            &["m", "k", "n", "columns", "cubes"],
        ),
        Verb::Spmm => (
            "forward",
            &["x", "values", "order", "ptr", "idx", "out"],
            &["m", "k", "n", "cubes", "panel"],
        ),
        Verb::SpmmT => (
            "input_gradient",
            &["x", "values", "order", "ptr", "idx", "slot", "out"],
            &["m", "k", "n", "cubes", "panel"],
        ),
        _ => (
            "weight_gradient",
            &["x", "dy", "row_of_slot", "col_of_slot", "starts", "out"],
            &["m", "k", "n", "cubes"],
        ),
    };
    if made.buffers != bindings.len() + 1 || made.written.iter().filter(|is| **is).count() != 1 {
        bail!("{} does not bind {bindings:?}", planned.name());
    }
    Ok(Exported {
        name: planned.name(),
        verb,
        dtype: if ask.dtype == F32 { "f32" } else { "f16" },
        block: ask.block.get(),
        wide: ask.wide,
        for_rows: ask.rows,
        tile_rows: planned.rows(),
        block_tiles: planned.block_tiles(),
        group: planned.group(),
        bindings,
        sizes,
        code: made.code.replace(&made.entry, ENTRY),
        entry: ENTRY,
    })
}

/// The generated name ends in a hash, which says nothing to readers.
const ENTRY: &str = "product";
