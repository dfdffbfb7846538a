//! Dense weights in a file, read and written by blocks.
//!
//! Packed blocks belong to the `[d_input, d_output]` matrix. PyTorch's `Linear` stores its transpose, so blocks are
//! transposed when they are read and written. Only this module does that.

use std::ops::Range;

use burn_blast_kernels::{BlockMask, BlockSize, MatrixShape, PatternError};
use rayon::prelude::*;
use safetensors::Dtype;

use crate::CheckpointError;
use crate::shard::TensorView;

/// Which of its two axes a dense matrix stores first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// `[d_output, d_input]`, as `nn.Linear` of PyTorch.
    OutIn,
    /// `[d_input, d_output]`, as `nn::Linear` of Burn and `Conv1D` of GPT-2.
    InOut,
}

/// How a file stores a dense matrix: row-major, in either orientation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenseLayout {
    rows: usize,
    cols: usize,
    /// Which axis comes first.
    pub orientation: Orientation,
}

impl DenseLayout {
    /// The layout of a tensor of this shape.
    pub fn new([rows, cols]: [usize; 2], orientation: Orientation) -> Self {
        Self { rows, cols, orientation }
    }

    /// The layout of a dense weight.
    pub fn of(shape: MatrixShape, orientation: Orientation) -> Self {
        match orientation {
            Orientation::OutIn => Self::new([shape.cols(), shape.rows()], orientation),
            Orientation::InOut => Self::new([shape.rows(), shape.cols()], orientation),
        }
    }

    /// Size of the weight.
    ///
    /// # Errors
    /// If a side cannot be indexed.
    pub fn shape(self) -> Result<MatrixShape, PatternError> {
        match self.orientation {
            Orientation::OutIn => MatrixShape::new(self.cols, self.rows),
            Orientation::InOut => MatrixShape::new(self.rows, self.cols),
        }
    }

    /// Stored rows and columns.
    pub fn dims(self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Bands of `block` stored rows.
    pub fn bands(self, block: BlockSize) -> usize {
        self.rows.div_ceil(block.get())
    }

    /// Block row and block column of each block of a band, from left to right.
    pub fn blocks_of(self, band: usize, block: BlockSize) -> impl Iterator<Item = (usize, usize)> {
        (0..self.cols.div_ceil(block.get())).map(move |at| match self.orientation {
            Orientation::OutIn => (at, band),
            Orientation::InOut => (band, at),
        })
    }

    /// Copies a block out of the matrix, in packed order; what is outside the matrix becomes zero.
    ///
    /// # Shapes
    /// - `matrix`: the whole matrix
    /// - `out`: `[b, b]`
    pub fn take<const N: usize>(
        self,
        matrix: &[[u8; N]],
        block: BlockSize,
        at: (usize, usize),
        out: &mut [[u8; N]],
    ) {
        let b = block.get();
        let (start, rows) = self.rows(block, at);
        out.fill([0; N]);
        for (inner, row) in rows.enumerate() {
            let row = &matrix[start..][row];
            match self.orientation {
                Orientation::InOut => out[inner * b..][..row.len()].copy_from_slice(row),
                Orientation::OutIn => {
                    for (value, place) in row.iter().zip(out[inner..].iter_mut().step_by(b)) {
                        *place = *value;
                    }
                }
            }
        }
    }

    /// Puts a packed block into its band of the matrix.
    ///
    /// # Shapes
    /// - `values`: `[b, b]`
    /// - `band`: `b` rows of the matrix, fewer in the last band
    pub fn put<const N: usize>(
        self,
        values: &[[u8; N]],
        block: BlockSize,
        at: (usize, usize),
        band: &mut [[u8; N]],
    ) {
        let b = block.get();
        for (inner, row) in self.rows(block, at).1.enumerate() {
            let row = &mut band[row];
            match self.orientation {
                Orientation::InOut => row.copy_from_slice(&values[inner * b..][..row.len()]),
                Orientation::OutIn => {
                    for (place, value) in row.iter_mut().zip(values[inner..].iter().step_by(b)) {
                        *place = *value;
                    }
                }
            }
        }
    }

    /// Sets a block to zero in its band of the matrix.
    pub fn clear<const N: usize>(self, block: BlockSize, at: (usize, usize), band: &mut [[u8; N]]) {
        self.rows(block, at).1.for_each(|row| band[row].fill([0; N]));
    }

    /// Where a block is in the stored matrix: the start of its band, and its rows in the band, inside the matrix.
    fn rows(
        self,
        block: BlockSize,
        (row, col): (usize, usize),
    ) -> (usize, impl Iterator<Item = Range<usize>>) {
        let b = block.get();
        let (top, left) = match self.orientation {
            Orientation::OutIn => (col * b, row * b),
            Orientation::InOut => (row * b, col * b),
        };
        let (height, width) = (b.min(self.rows - top), b.min(self.cols - left));
        let rows = (0..height).map(move |row| row * self.cols + left);
        (top * self.cols, rows.map(move |start| start..start + width))
    }
}

/// A dense weight of F32, F16 or BF16.
#[derive(Debug, Clone)]
pub struct DenseWeight<'a> {
    /// Its name in the file.
    pub name: String,
    /// Its elements.
    pub tensor: TensorView<'a>,
    /// How it is stored.
    pub layout: DenseLayout,
    /// `d_input` and `d_output`.
    pub shape: MatrixShape,
}

impl<'a> DenseWeight<'a> {
    /// A tensor as a weight; `None` if it is not a matrix of floating-point numbers of 16 or 32 bits.
    ///
    /// # Errors
    /// If a side cannot be indexed.
    pub fn of(
        name: &str,
        tensor: TensorView<'a>,
        orientation: Orientation,
    ) -> Result<Option<Self>, CheckpointError> {
        let (&[rows, cols], Dtype::F32 | Dtype::F16 | Dtype::BF16) =
            (tensor.shape(), tensor.dtype())
        else {
            return Ok(None);
        };
        let layout = DenseLayout::new([rows, cols], orientation);
        let shape = layout.shape()?;
        Ok(Some(Self { name: name.to_owned(), tensor, layout, shape }))
    }

    /// Which blocks hold anything but zeros of either sign. NaN counts as content.
    pub fn nonzero_blocks(&self, block: BlockSize) -> BlockMask {
        let kept = match self.tensor.element_size() {
            4 => self.by_block(block, |_, block: &[[u8; 4]], _: &mut ()| {
                block.iter().any(|bytes| u32::from_le_bytes(*bytes) << 1 != 0)
            }),
            _ => self.by_block(block, |_, block: &[[u8; 2]], _: &mut ()| {
                block.iter().any(|bytes| u16::from_le_bytes(*bytes) << 1 != 0)
            }),
        };
        self.tensor.release();
        let kept = kept.into_iter().enumerate().filter_map(|(number, kept)| kept.then_some(number));
        BlockMask::from_indices(self.shape, block, kept)
    }

    /// Bytes of the block at a block row and column, in packed order.
    pub fn block_bytes(&self, block: BlockSize, at: (usize, usize)) -> Vec<u8> {
        match self.tensor.element_size() {
            4 => self.block::<4>(block, at),
            _ => self.block::<2>(block, at),
        }
    }

    fn block<const N: usize>(&self, block: BlockSize, at: (usize, usize)) -> Vec<u8> {
        let mut values = vec![[0; N]; block.area()];
        self.layout.take(self.tensor.elements(), block, at, &mut values);
        values.into_flattened()
    }

    /// Calls `measure(block row, block in packed order, scratch of the thread)` for every block of elements of `N`
    /// bytes. Results are ordered by block number. A task is a band of stored rows, so that every thread reads forward.
    ///
    /// # Panics
    /// If an element has another size.
    pub fn by_block<const N: usize, S: Default, T: Send + Copy + Default>(
        &self,
        block: BlockSize,
        measure: impl Fn(usize, &[[u8; N]], &mut S) -> T + Sync,
    ) -> Vec<T> {
        let (matrix, layout) = (self.tensor.elements(), self.layout);
        let band = |band: usize| {
            let (mut taken, mut scratch) = (vec![[0; N]; block.area()], S::default());
            let one = |(row, col)| {
                layout.take(matrix, block, (row, col), &mut taken);
                measure(row, &taken, &mut scratch)
            };
            layout.blocks_of(band, block).map(one).collect::<Vec<T>>()
        };
        let bands: Vec<Vec<T>> = (0..layout.bands(block)).into_par_iter().map(band).collect();
        let cols = self.shape.block_cols(block);
        let mut numbered = vec![T::default(); self.shape.block_rows(block) * cols];
        for (band, results) in bands.into_iter().enumerate() {
            for ((row, col), result) in layout.blocks_of(band, block).zip(results) {
                numbered[row * cols + col] = result;
            }
        }
        numbered
    }
}

/// Side of the square tiles that are transposed one by one, in elements: the elements read and written by a tile stay
/// in the cache, 4 KiB each in f32. Guess.
const TILE: usize = 32;

/// A row-major matrix of `[rows, cols]`, transposed.
///
/// # Panics
/// If an element has other than 1, 2, 4 or 8 bytes.
pub fn transposed(bytes: &[u8], [rows, cols]: [usize; 2], element_size: usize) -> Vec<u8> {
    match element_size {
        1 => transposed_by::<1>(bytes, rows, cols),
        2 => transposed_by::<2>(bytes, rows, cols),
        4 => transposed_by::<4>(bytes, rows, cols),
        8 => transposed_by::<8>(bytes, rows, cols),
        _ => panic!("elements of {element_size} bytes cannot be transposed"),
    }
}

fn transposed_by<const N: usize>(bytes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let from = bytes.as_chunks::<N>().0;
    let mut transposed = vec![0; bytes.len()];
    let to = transposed.as_chunks_mut::<N>().0;
    for row_tile in (0..rows).step_by(TILE) {
        for col_tile in (0..cols).step_by(TILE) {
            for col in col_tile..cols.min(col_tile + TILE) {
                for row in row_tile..rows.min(row_tile + TILE) {
                    to[col * rows + row] = from[row * cols + col];
                }
            }
        }
    }
    transposed
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_blast_kernels::{BlockPattern, pack};

    #[test]
    fn blocks_taken_from_either_orientation_are_those_the_kernels_pack() {
        let block = BlockSize::new(8).unwrap();
        for (rows, cols) in [(16, 24), (17, 9), (8, 8), (31, 40)] {
            let shape = MatrixShape::new(rows, cols).unwrap();
            let pattern = BlockPattern::dense(shape, block);
            let numbers = (0..shape.area()).map(|number| (number as u16 + 1).to_le_bytes());
            let weight: Vec<[u8; 2]> = numbers.collect();
            let out_in = transposed(weight.as_flattened(), [rows, cols], 2);
            for (orientation, stored) in [
                (Orientation::InOut, weight.as_slice()),
                (Orientation::OutIn, out_in.as_chunks().0),
            ] {
                let layout = DenseLayout::of(shape, orientation);
                let mut taken = vec![[9; 2]; pattern.value_count()];
                for (at, out) in pattern.blocks().zip(taken.chunks_exact_mut(block.area())) {
                    layout.take(stored, block, at, out);
                }
                assert_eq!(
                    taken,
                    pack::pack(&weight, &pattern),
                    "{rows} x {cols}, {orientation:?}"
                );
            }
        }
    }

    #[test]
    fn every_element_of_a_transposed_matrix_is_in_its_place() {
        let (rows, cols) = (70, 33);
        let numbers: Vec<u16> = (0..rows * cols).map(|number| number as u16).collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let transposed = transposed(&bytes, [rows, cols], 2);
        for (at, bytes) in transposed.as_chunks::<2>().0.iter().enumerate() {
            let (col, row) = (at / rows, at % rows);
            assert_eq!(usize::from(u16::from_le_bytes(*bytes)), row * cols + col);
        }
    }
}
