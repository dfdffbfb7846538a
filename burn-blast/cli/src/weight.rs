//! A dense weight of a checkpoint: what it holds, and what its blocks are worth.

use burn_blast_kernels::cpu::block_norm;
use burn_blast_kernels::{BlockMask, BlockSize, MatrixShape};
use half::slice::HalfBitsSliceExt;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

use crate::Error;
use crate::disk::{Disk, Orientation};
use crate::shard::Tensor;

/// Floating-point types a weight can have to be pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    /// 32 bits.
    F32,
    /// 16 bits, 10 of them mantissa.
    F16,
    /// 16 bits, 7 of them mantissa.
    BF16,
}

/// A dense weight.
#[derive(Debug, Clone)]
pub struct Weight<'a> {
    /// Its name in the file.
    pub name: String,
    /// Its elements.
    pub tensor: Tensor<'a>,
    /// Their type.
    pub float: Float,
    /// How it lies on disk.
    pub disk: Disk,
    /// `d_input` and `d_output`.
    pub shape: MatrixShape,
}

impl Float {
    /// The type of this name in a file, if it is one of the three.
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::BF16),
            _ => None,
        }
    }

    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

impl<'a> Weight<'a> {
    /// A tensor as a weight; `None` if it is not a matrix of floating-point numbers of 16 or 32 bits.
    ///
    /// # Errors
    /// If a side cannot be indexed.
    pub fn of(
        name: &str,
        tensor: Tensor<'a>,
        orientation: Orientation,
    ) -> Result<Option<Self>, Error> {
        let (&[rows, cols], Some(float)) = (tensor.shape(), Float::of(tensor.dtype())) else {
            return Ok(None);
        };
        let disk = Disk::new([rows, cols], orientation);
        let shape = disk.shape()?;
        Ok(Some(Self { name: name.to_owned(), tensor, float, disk, shape }))
    }

    /// Frobenius norm of each block by its number. With activations, one for each input feature, every row of
    /// the weight counts as many times as much as its feature (the score of Wanda, arXiv 2306.11695, over a block).
    ///
    /// # Shapes
    /// - `activations`: `[d_input]`
    /// - output: `[block_rows, block_cols]`
    pub fn scores(&self, block: BlockSize, activations: Option<&[f32]>) -> Vec<f32> {
        let bytes = self.tensor.bytes();
        let scores = match self.float {
            Float::F32 => self.block_scores(as_elements(bytes), block, activations, |from, to| {
                for (bytes, value) in from.iter().zip(to) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }),
            Float::BF16 => self.block_scores(as_elements(bytes), block, activations, |from, to| {
                for (bytes, value) in from.iter().zip(to) {
                    *value = bf16::from_le_bytes(*bytes).to_f32();
                }
            }),
            // The processor converts a whole slice at once, one by one it has to be asked each time.
            Float::F16 => self.block_scores(as_elements(bytes), block, activations, |from, to| {
                let bits: Vec<u16> = from.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
                bits.reinterpret_cast::<f16>().convert_to_f32_slice(to);
            }),
        };
        self.tensor.release();
        scores
    }

    /// Which blocks hold anything but zeros of either sign. NaN counts as content.
    pub fn nonzero_blocks(&self, block: BlockSize) -> BlockMask {
        let bytes = self.tensor.bytes();
        let kept = match self.float {
            Float::F32 => self.bands(as_elements(bytes), block, |block: &[[u8; 4]]| {
                block.iter().any(|bytes| u32::from_le_bytes(*bytes) << 1 != 0)
            }),
            Float::F16 | Float::BF16 => {
                self.bands(as_elements(bytes), block, |block: &[[u8; 2]]| {
                    block.iter().any(|bytes| u16::from_le_bytes(*bytes) << 1 != 0)
                })
            }
        };
        self.tensor.release();
        let kept = kept.into_iter().enumerate().filter_map(|(number, kept)| kept.then_some(number));
        BlockMask::from_indices(self.shape, block, kept)
    }

    fn block_scores<const N: usize>(
        &self,
        matrix: &[[u8; N]],
        block: BlockSize,
        activations: Option<&[f32]>,
        widen: impl Fn(&[[u8; N]], &mut [f32]) + Sync,
    ) -> Vec<f32> {
        let b = block.get();
        self.numbered(matrix, block, |row, taken, wide: &mut Vec<f32>| {
            wide.resize(block.area(), 0.0);
            widen(taken, wide);
            if let Some(activations) = activations {
                let features = &activations[row * b..activations.len().min((row + 1) * b)];
                for (line, feature) in wide.chunks_exact_mut(b).zip(features) {
                    line.iter_mut().for_each(|value| *value *= feature);
                }
            }
            block_norm(wide)
        })
    }

    fn bands<const N: usize>(
        &self,
        matrix: &[[u8; N]],
        block: BlockSize,
        look: impl Fn(&[[u8; N]]) -> bool + Sync,
    ) -> Vec<bool> {
        self.numbered(matrix, block, |_, taken, _: &mut ()| look(taken))
    }

    /// Calls `measure(block row, block in packed order, scratch of the thread)` for every block; results by
    /// block number. A task is a band of disk rows, so that every thread reads forward.
    fn numbered<const N: usize, S: Default, T: Send + Copy + Default>(
        &self,
        matrix: &[[u8; N]],
        block: BlockSize,
        measure: impl Fn(usize, &[[u8; N]], &mut S) -> T + Sync,
    ) -> Vec<T> {
        let (disk, wide) = (self.disk, self.disk.blocks_in_band(block));
        let band = |band: usize| {
            let (mut taken, mut scratch) = (vec![[0; N]; block.area()], S::default());
            let one = |at| {
                let (row, col) = disk.block_at(band, at);
                disk.take(matrix, block, (row, col), &mut taken);
                measure(row, &taken, &mut scratch)
            };
            (0..wide).map(one).collect::<Vec<T>>()
        };
        let bands: Vec<Vec<T>> = (0..disk.bands(block)).into_par_iter().map(band).collect();
        let cols = self.shape.block_cols(block);
        let mut numbered = vec![T::default(); self.shape.block_rows(block) * cols];
        for (band, results) in bands.into_iter().enumerate() {
            for (at, result) in results.into_iter().enumerate() {
                let (row, col) = disk.block_at(band, at);
                numbered[row * cols + col] = result;
            }
        }
        numbered
    }
}

/// Elements of `N` bytes at any alignment.
///
/// # Panics
/// If the length is not a multiple of `N`; that of a tensor with such elements is.
pub(crate) fn as_elements<const N: usize>(bytes: &[u8]) -> &[[u8; N]] {
    let (elements, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty(), "a tensor has whole elements");
    elements
}
