//! A dense weight of a checkpoint, read by blocks.

use burn_blast_kernels::{BlockMask, BlockSize, MatrixShape};
use rayon::prelude::*;
use safetensors::Dtype;

use crate::CheckpointError;
use crate::layout::{DenseLayout, Orientation};
use crate::shard::TensorView;

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
            let one = |at| {
                let (row, col) = layout.block_at(band, at);
                layout.take(matrix, block, (row, col), &mut taken);
                measure(row, &taken, &mut scratch)
            };
            (0..layout.blocks_in_band(block)).map(one).collect::<Vec<T>>()
        };
        let bands: Vec<Vec<T>> = (0..layout.bands(block)).into_par_iter().map(band).collect();
        let cols = self.shape.block_cols(block);
        let mut numbered = vec![T::default(); self.shape.block_rows(block) * cols];
        for (band, results) in bands.into_iter().enumerate() {
            for (at, result) in results.into_iter().enumerate() {
                let (row, col) = layout.block_at(band, at);
                numbered[row * cols + col] = result;
            }
        }
        numbered
    }
}
