//! A pattern as the numbers that files hold: `layout`, `row_idx` and `col_ptr`.

use crate::{BlockPattern, BlockSize, MatrixShape, PatternError};

/// Version of the recorded form, the first number of the `layout` tensor.
pub const FORMAT_VERSION: i64 = 1;

/// Numbers in the `layout` tensor: version, block, `d_input`, `d_output`, probe present.
pub const LAYOUT_LEN: usize = 5;

/// Numbers of the `layout` tensor; `armed` says that a probe is recorded beside it.
pub fn layout(pattern: &BlockPattern, armed: bool) -> [i32; LAYOUT_LEN] {
    let (shape, block) = (pattern.shape(), pattern.block().get());
    [FORMAT_VERSION as i32, block as i32, shape.rows() as i32, shape.cols() as i32, armed.into()]
}

/// Why recorded indices were refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
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
        /// Those of the model.
        expected: [usize; 2],
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
) -> Result<(BlockPattern, bool), LayoutError> {
    let &[version, block, rows, cols, armed] = layout else {
        return Err(LayoutError::Length { found: layout.len() });
    };
    if version != FORMAT_VERSION {
        return Err(LayoutError::Version { found: version });
    }
    let size = |found: i64| {
        usize::try_from(found).map_err(|_| LayoutError::Number { name: "layout", found })
    };
    let (rows, cols, block) = (size(rows)?, size(cols)?, size(block)?);
    // Before anything of the file's size is allocated.
    if let Some(shape) = expected
        && [rows, cols] != [shape.rows(), shape.cols()]
    {
        let (found, expected) = ([rows, cols], [shape.rows(), shape.cols()]);
        return Err(LayoutError::Size { found, expected });
    }
    let shape = MatrixShape::new(rows, cols)?;
    let block = BlockSize::new(block)?;
    let index = |name: &'static str, numbers: &[i64]| -> Result<Vec<u32>, LayoutError> {
        let index =
            |&found: &i64| u32::try_from(found).map_err(|_| LayoutError::Number { name, found });
        numbers.iter().map(index).collect()
    };
    let (col_ptr, row_idx) = (index("col_ptr", col_ptr)?, index("row_idx", row_idx)?);
    Ok((BlockPattern::new(shape, block, col_ptr, row_idx)?, armed != 0))
}
