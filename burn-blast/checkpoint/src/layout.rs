//! Blocks of a dense matrix in a file.
//!
//! Packed blocks belong to the `[d_input, d_output]` matrix. PyTorch's `Linear` stores its transpose, so blocks are
//! transposed when they are read and written. Only this module does that.

use burn_blast_kernels::{BlockSize, MatrixShape, PatternError};

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
    orientation: Orientation,
}

/// Where a block is in the stored matrix: its first row and column, and how much of it is inside the matrix.
struct Area {
    row: usize,
    col: usize,
    height: usize,
    width: usize,
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

    /// Which axis comes first.
    pub fn orientation(self) -> Orientation {
        self.orientation
    }

    /// Bands of `block` stored rows.
    pub fn bands(self, block: BlockSize) -> usize {
        self.rows.div_ceil(block.get())
    }

    /// Blocks side by side in a band.
    pub fn blocks_in_band(self, block: BlockSize) -> usize {
        self.cols.div_ceil(block.get())
    }

    /// Block row and column of a block of a band.
    pub fn block_at(self, band: usize, at: usize) -> (usize, usize) {
        match self.orientation {
            Orientation::OutIn => (at, band),
            Orientation::InOut => (band, at),
        }
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
        (row, col): (usize, usize),
        out: &mut [[u8; N]],
    ) {
        let (b, area) = (block.get(), self.area(block, (row, col)));
        if area.height < b || area.width < b {
            out.fill([0; N]);
        }
        for inner in 0..area.height {
            let start = (area.row + inner) * self.cols + area.col;
            let line = &matrix[start..start + area.width];
            match self.orientation {
                Orientation::InOut => out[inner * b..inner * b + area.width].copy_from_slice(line),
                Orientation::OutIn => {
                    for (value, place) in line.iter().zip(out[inner..].iter_mut().step_by(b)) {
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
        (row, col): (usize, usize),
        band: &mut [[u8; N]],
    ) {
        let (b, area) = (block.get(), self.area(block, (row, col)));
        for inner in 0..area.height {
            let start = inner * self.cols + area.col;
            let line = &mut band[start..start + area.width];
            match self.orientation {
                Orientation::InOut => line.copy_from_slice(&values[inner * b..][..area.width]),
                Orientation::OutIn => {
                    for (place, value) in line.iter_mut().zip(values[inner..].iter().step_by(b)) {
                        *place = *value;
                    }
                }
            }
        }
    }

    /// Sets a block to zero in its band of the matrix.
    pub fn clear<const N: usize>(self, block: BlockSize, at: (usize, usize), band: &mut [[u8; N]]) {
        let area = self.area(block, at);
        for inner in 0..area.height {
            let start = inner * self.cols + area.col;
            band[start..start + area.width].fill([0; N]);
        }
    }

    fn area(self, block: BlockSize, (row, col): (usize, usize)) -> Area {
        let b = block.get();
        let (row, col) = match self.orientation {
            Orientation::OutIn => (col * b, row * b),
            Orientation::InOut => (row * b, col * b),
        };
        let (height, width) = (b.min(self.rows - row), b.min(self.cols - col));
        Area { row, col, height, width }
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

    /// A matrix of `[d_input, d_output]` with all elements different, and the same as stored on layout.
    fn matrices(shape: MatrixShape, orientation: Orientation) -> (Vec<[u8; 2]>, Vec<[u8; 2]>) {
        let element =
            |row: usize, col: usize| ((row * shape.cols() + col + 1) as u16).to_le_bytes();
        let grid = |rows: usize, cols: usize, at: &dyn Fn(usize, usize) -> [u8; 2]| {
            (0..rows * cols).map(|index| at(index / cols, index % cols)).collect::<Vec<_>>()
        };
        let weight = grid(shape.rows(), shape.cols(), &element);
        let stored = match orientation {
            Orientation::InOut => weight.clone(),
            Orientation::OutIn => grid(shape.cols(), shape.rows(), &|row, col| element(col, row)),
        };
        (weight, stored)
    }

    #[test]
    fn blocks_taken_from_either_orientation_are_those_the_kernels_pack() {
        let block = BlockSize::new(8).unwrap();
        for (rows, cols) in [(16, 24), (17, 9), (8, 8), (31, 40)] {
            let shape = MatrixShape::new(rows, cols).unwrap();
            let pattern = BlockPattern::dense(shape, block);
            for orientation in [Orientation::OutIn, Orientation::InOut] {
                let (weight, stored) = matrices(shape, orientation);
                let layout = DenseLayout::of(shape, orientation);
                let mut taken = vec![[9; 2]; pattern.value_count()];
                for (at, out) in pattern.blocks().zip(taken.chunks_exact_mut(block.area())) {
                    layout.take(&stored, block, at, out);
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
    fn what_is_taken_out_can_be_put_back_and_cleared() {
        let block = BlockSize::new(8).unwrap();
        let shape = MatrixShape::new(19, 13).unwrap();
        for orientation in [Orientation::OutIn, Orientation::InOut] {
            let (_, stored) = matrices(shape, orientation);
            let layout = DenseLayout::of(shape, orientation);
            let mut rebuilt = Vec::new();
            for (band, rows) in stored.chunks(block.get() * layout.dims()[1]).enumerate() {
                let mut out = vec![[0; 2]; rows.len()];
                for at in 0..layout.blocks_in_band(block) {
                    let mut values = vec![[0; 2]; block.area()];
                    layout.take(&stored, block, layout.block_at(band, at), &mut values);
                    layout.put(&values, block, layout.block_at(band, at), &mut out);
                }
                rebuilt.extend(out);
            }
            assert_eq!(rebuilt, stored);
            let mut band = stored[..block.get() * layout.dims()[1]].to_vec();
            (0..layout.blocks_in_band(block))
                .for_each(|at| layout.clear(block, layout.block_at(0, at), &mut band));
            assert!(band.iter().all(|element| *element == [0; 2]));
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
