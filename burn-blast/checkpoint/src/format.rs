//! The recorded form of a block-sparse weight: names of tensors and metadata, and a pattern as numbers.
//!
//! This is the only place that spells these names.
//!
//! | tensor | shape | content |
//! |---|---|---|
//! | `<weight>.values` | `[nnz, b, b]` | the kept blocks, see [`burn_blast_kernels::pattern`] |
//! | `<weight>.row_idx` | `[nnz]` | block row of each |
//! | `<weight>.col_ptr` | `[block_cols + 1]` | start of each block column |
//! | `<weight>.layout` | `[5]` | format version, block size, `d_input`, `d_output`, whether a probe is recorded |
//! | `<weight>.probe` | `[block_rows, block_cols]` | only one step before an update that grows by gradient |
//! | `<layer>.lora_a`, `<layer>.lora_b`, `<layer>.lora_scale` | | a low-rank adapter beside a layer |

use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape, PatternError};

/// Kept blocks of a packed weight.
pub const VALUES: &str = "values";

/// Block row of each kept block.
pub const ROW_IDX: &str = "row_idx";

/// Start of each block column in the list of kept blocks.
pub const COL_PTR: &str = "col_ptr";

/// Version, block size and shape.
pub const LAYOUT: &str = "layout";

/// Tensors that every packed weight has.
pub const TENSORS: [&str; 4] = [VALUES, ROW_IDX, COL_PTR, LAYOUT];

/// The tensor that a weight also has one step before an update that grows by gradient.
pub const PROBE: &str = "probe";

/// First factor of an adapter, `[d_input, rank]`.
pub const LORA_A: &str = "lora_a";

/// Second factor of an adapter, `[rank, d_output]`.
pub const LORA_B: &str = "lora_b";

/// What the product of the factors is multiplied by, `[1]`.
pub const LORA_SCALE: &str = "lora_scale";

/// Key of the entry that a safetensors file with packed weights has in its metadata.
pub const METADATA_KEY: &str = "burn_blast";

/// Name of a tensor of a packed weight, or of an adapter of a layer. The owner has no name if it is the whole model.
pub fn leaf(owner: &str, leaf: &str) -> String {
    match owner {
        "" => leaf.to_owned(),
        owner => format!("{owner}.{leaf}"),
    }
}

/// Version of the recorded form, the first number of the `layout` tensor.
pub const FORMAT_VERSION: i64 = 1;

/// Numbers in the `layout` tensor: version, block, `d_input`, `d_output`, probe present.
pub const LAYOUT_LEN: usize = 5;

/// The index tensors of a packed weight, by name. `has_probe`: whether the weight is recorded with a probe.
pub fn indices(pattern: &BlockPattern, has_probe: bool) -> [(&'static str, Vec<i32>); 3] {
    // Indices are below `i32::MAX / 2` by the limits of `MatrixShape`.
    let signed = |index: &[u32]| index.iter().map(|&at| at as i32).collect();
    let (shape, block) = (pattern.shape(), pattern.block().get());
    let layout: [i32; LAYOUT_LEN] = [
        FORMAT_VERSION as i32,
        block as i32,
        shape.rows() as i32,
        shape.cols() as i32,
        has_probe.into(),
    ];
    let (row_idx, col_ptr) = (signed(pattern.row_idx()), signed(pattern.col_ptr()));
    [(LAYOUT, layout.to_vec()), (ROW_IDX, row_idx), (COL_PTR, col_ptr)]
}

/// Why a recorded layout or its indices were refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The layout tensor has the wrong length.
    #[error(
        "the layout tensor has {found} numbers instead of {LAYOUT_LEN}: this is not a burn-blast weight"
    )]
    Length {
        /// Numbers found.
        found: usize,
    },
    /// The format is of another version.
    #[error(
        "the weight is stored in format version {found}, this burn-blast reads version {FORMAT_VERSION}: update burn-blast or save the model again"
    )]
    Version {
        /// Version found.
        found: i64,
    },
    /// The weight has another size.
    #[error(
        "the weight is {found:?}, but the model's is {expected:?}: the file was saved from a model of another size"
    )]
    Size {
        /// `d_input` and `d_output` in the file.
        found: [usize; 2],
        /// `d_input` and `d_output` of the model.
        expected: [usize; 2],
    },
    /// The weight has far more rows than a weight with so few blocks can have.
    #[error("a weight of {found} rows with {kept} blocks is none: the file is damaged")]
    Rows {
        /// Rows in the file.
        found: usize,
        /// Blocks in the file.
        kept: usize,
    },
    /// A number is negative or too large.
    #[error("{name} holds {found}, which is not an index: the file is damaged")]
    Number {
        /// Tensor it was found in.
        name: &'static str,
        /// The number.
        found: i64,
    },
    /// The indices are not a pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// Block rows that any weight may have.
const MANY_ROWS: usize = 1 << 20;

/// Block rows that a weight may have beyond these, for each number of its index tensors.
const ROWS_PER_NUMBER: usize = 1 << 10;

/// Checks recorded indices; the second result says whether a probe is recorded too.
///
/// A reader that knows the size of the weight passes it as `expected`; one that only has the file passes `None`.
///
/// # Errors
/// If the numbers are not a pattern, or one of another size than expected.
pub fn parse(
    layout: &[i64],
    row_idx: &[i64],
    col_ptr: &[i64],
    expected: Option<MatrixShape>,
) -> Result<(BlockPattern, bool), FormatError> {
    let &[version, block, rows, cols, has_probe] = layout else {
        return Err(FormatError::Length { found: layout.len() });
    };
    if version != FORMAT_VERSION {
        return Err(FormatError::Version { found: version });
    }
    let size = |found: i64| {
        usize::try_from(found).map_err(|_| FormatError::Number { name: LAYOUT, found })
    };
    let (rows, cols, block) = (size(rows)?, size(cols)?, size(block)?);
    // Before anything of the file's size is allocated.
    if let Some(shape) = expected
        && [rows, cols] != [shape.rows(), shape.cols()]
    {
        let (found, expected) = ([rows, cols], [shape.rows(), shape.cols()]);
        return Err(FormatError::Size { found, expected });
    }
    let shape = MatrixShape::new(rows, cols)?;
    let block = BlockSize::new(block)?;
    // An index of the block rows is made, whose number nothing else in the file vouches for.
    let vouched = (row_idx.len() + col_ptr.len()).saturating_mul(ROWS_PER_NUMBER);
    if shape.block_rows(block) > vouched.max(MANY_ROWS) {
        return Err(FormatError::Rows { found: rows, kept: row_idx.len() });
    }
    let index = |name: &'static str, numbers: &[i64]| -> Result<Vec<u32>, FormatError> {
        let index =
            |&found: &i64| u32::try_from(found).map_err(|_| FormatError::Number { name, found });
        numbers.iter().map(index).collect()
    };
    let (col_ptr, row_idx) = (index(COL_PTR, col_ptr)?, index(ROW_IDX, row_idx)?);
    Ok((BlockPattern::new(shape, block, col_ptr, row_idx)?, has_probe != 0))
}
