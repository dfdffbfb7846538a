//! Blocks of a dense matrix as it lies on disk.
//!
//! Packed blocks are those of the `[d_input, d_output]` matrix. PyTorch's `Linear` stores the transpose, so its
//! blocks are turned on the way in and out. This is the only place that knows.

use burn_blast_kernels::{BlockSize, MatrixShape, PatternError};

/// Which of its two axes a dense matrix stores first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// `[d_output, d_input]`, as `nn.Linear` of PyTorch.
    OutIn,
    /// `[d_input, d_output]`, as `nn::Linear` of Burn and `Conv1D` of GPT-2.
    InOut,
}

/// A dense matrix on disk, row-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    rows: usize,
    cols: usize,
    orientation: Orientation,
}

/// Where a block lies on disk: its first row and column there, and how much of it is inside the matrix.
struct Area {
    row: usize,
    col: usize,
    height: usize,
    width: usize,
}

impl Disk {
    /// The matrix a tensor of this shape holds.
    pub fn new([rows, cols]: [usize; 2], orientation: Orientation) -> Self {
        Self { rows, cols, orientation }
    }

    /// The matrix on disk of a weight.
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

    /// Rows and columns on disk.
    pub fn dims(self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    /// Which axis comes first.
    pub fn orientation(self) -> Orientation {
        self.orientation
    }

    /// Bands of `block` disk rows.
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

#[cfg(test)]
mod tests {
    use super::*;
    use burn_blast_kernels::{BlockPattern, pack};

    /// A matrix of `[d_input, d_output]` with all elements different, and the same as stored on disk.
    fn matrices(shape: MatrixShape, orientation: Orientation) -> (Vec<[u8; 2]>, Vec<[u8; 2]>) {
        let element =
            |row: usize, col: usize| ((row * shape.cols() + col + 1) as u16).to_le_bytes();
        let grid = |rows: usize, cols: usize, at: &dyn Fn(usize, usize) -> [u8; 2]| {
            (0..rows * cols).map(|index| at(index / cols, index % cols)).collect::<Vec<_>>()
        };
        let weight = grid(shape.rows(), shape.cols(), &element);
        let disk = match orientation {
            Orientation::InOut => weight.clone(),
            Orientation::OutIn => grid(shape.cols(), shape.rows(), &|row, col| element(col, row)),
        };
        (weight, disk)
    }

    #[test]
    fn blocks_taken_from_either_orientation_are_those_the_kernels_pack() {
        let block = BlockSize::new(8).unwrap();
        for (rows, cols) in [(16, 24), (17, 9), (8, 8), (31, 40)] {
            let shape = MatrixShape::new(rows, cols).unwrap();
            let pattern = BlockPattern::dense(shape, block);
            for orientation in [Orientation::OutIn, Orientation::InOut] {
                let (weight, stored) = matrices(shape, orientation);
                let disk = Disk::of(shape, orientation);
                let mut taken = vec![[9; 2]; pattern.value_count()];
                for (at, out) in pattern.blocks().zip(taken.chunks_exact_mut(block.area())) {
                    disk.take(&stored, block, at, out);
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
            let disk = Disk::of(shape, orientation);
            let mut rebuilt = Vec::new();
            for (band, lines) in stored.chunks(block.get() * disk.dims()[1]).enumerate() {
                let mut out = vec![[0; 2]; lines.len()];
                for at in 0..disk.blocks_in_band(block) {
                    let mut values = vec![[0; 2]; block.area()];
                    disk.take(&stored, block, disk.block_at(band, at), &mut values);
                    disk.put(&values, block, disk.block_at(band, at), &mut out);
                }
                rebuilt.extend(out);
            }
            assert_eq!(rebuilt, stored);
            let mut band = stored[..block.get() * disk.dims()[1]].to_vec();
            (0..disk.blocks_in_band(block))
                .for_each(|at| disk.clear(block, disk.block_at(0, at), &mut band));
            assert!(band.iter().all(|element| *element == [0; 2]));
        }
    }
}
