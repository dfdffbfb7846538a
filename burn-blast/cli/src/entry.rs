//! One tensor to be written, made while it is written: no more than one band of blocks is in memory.

use std::io::{self, Write};

use burn_blast_kernels::stored::layout;
use burn_blast_kernels::{BlockMask, BlockPattern};
use safetensors::Dtype;

use crate::disk::Disk;
use crate::packed::Packed;
use crate::shard::Tensor;
use crate::weight::{Weight, as_elements};

/// A tensor of an output file.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    content: Content<'a>,
}

/// Where its bytes come from.
#[derive(Debug, Clone)]
enum Content<'a> {
    Copy(Tensor<'a>),
    Numbers(Vec<i32>),
    Pack(Weight<'a>, BlockPattern),
    Mask(Weight<'a>, BlockPattern),
    Unpack(Packed<'a>),
}

impl<'a> Entry<'a> {
    /// A tensor as it is in the input.
    pub fn copy(name: &str, tensor: Tensor<'a>) -> Self {
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        Self { name: name.to_owned(), dtype, shape, content: Content::Copy(tensor) }
    }

    /// The four tensors of a packed weight.
    pub fn packed(weight: Weight<'a>, pattern: BlockPattern) -> [Self; 4] {
        let (base, dtype, b) = (weight.name.clone(), weight.tensor.dtype(), pattern.block().get());
        let numbers = |part: &str, numbers: Vec<i32>| Self {
            name: format!("{base}.{part}"),
            dtype: Dtype::I32,
            shape: vec![numbers.len()],
            content: Content::Numbers(numbers),
        };
        // Indices are below `i32::MAX / 2` by the limits of `MatrixShape`.
        let signed = |index: &[u32]| index.iter().map(|&at| at as i32).collect();
        let indices = [
            numbers("layout", layout(&pattern, false).to_vec()),
            numbers("row_idx", signed(pattern.row_idx())),
            numbers("col_ptr", signed(pattern.col_ptr())),
        ];
        let (name, shape) = (format!("{base}.values"), vec![pattern.nnz(), b, b]);
        let values = Self { name, dtype, shape, content: Content::Pack(weight, pattern) };
        let [layout, row_idx, col_ptr] = indices;
        [values, layout, row_idx, col_ptr]
    }

    /// A dense weight whose dropped blocks are zero.
    pub fn masked(weight: Weight<'a>, pattern: BlockPattern) -> Self {
        let (dtype, shape) = (weight.tensor.dtype(), weight.tensor.shape().to_vec());
        Self { name: weight.name.clone(), dtype, shape, content: Content::Mask(weight, pattern) }
    }

    /// The dense weight of a packed one.
    pub fn unpacked(packed: Packed<'a>) -> Self {
        let (dtype, shape) = (packed.values.dtype(), packed.disk().dims().to_vec());
        Self { name: packed.name.clone(), dtype, shape, content: Content::Unpack(packed) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Bytes of its content.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Copy(tensor) => tensor.bytes().len(),
            _ => self.shape.iter().product::<usize>() * (self.dtype.bitsize() / 8),
        }
    }

    /// Writes its content.
    ///
    /// # Errors
    /// If `out` does.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.content {
            Content::Copy(tensor) => {
                out.write_all(tensor.bytes())?;
                tensor.release();
                Ok(())
            }
            Content::Numbers(numbers) => {
                numbers.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))
            }
            Content::Pack(weight, pattern) => {
                match weight.float.size() {
                    4 => pack::<4>(weight, pattern, out)?,
                    _ => pack::<2>(weight, pattern, out)?,
                }
                weight.tensor.release();
                Ok(())
            }
            Content::Mask(weight, pattern) => {
                match weight.float.size() {
                    4 => mask::<4>(weight, pattern, out)?,
                    _ => mask::<2>(weight, pattern, out)?,
                }
                weight.tensor.release();
                Ok(())
            }
            Content::Unpack(packed) => {
                match packed.element_size() {
                    8 => unpack::<8>(packed, out)?,
                    4 => unpack::<4>(packed, out)?,
                    _ => unpack::<2>(packed, out)?,
                }
                packed.values.release();
                Ok(())
            }
        }
    }
}

/// The kept blocks, slot by slot.
fn pack<const N: usize>(
    weight: &Weight<'_>,
    pattern: &BlockPattern,
    out: &mut dyn Write,
) -> io::Result<()> {
    let matrix = as_elements::<N>(weight.tensor.bytes());
    let mut values = vec![[0; N]; pattern.block().area()];
    for at in pattern.blocks() {
        weight.disk.take(matrix, pattern.block(), at, &mut values);
        out.write_all(values.as_flattened())?;
    }
    Ok(())
}

/// The matrix with dropped blocks cleared, band by band.
fn mask<const N: usize>(
    weight: &Weight<'_>,
    pattern: &BlockPattern,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (matrix, disk, block) =
        (as_elements::<N>(weight.tensor.bytes()), weight.disk, pattern.block());
    let kept = BlockMask::from(pattern);
    for (band, lines) in matrix.chunks(block.get() * disk.dims()[1]).enumerate() {
        let mut lines = lines.to_vec();
        for at in 0..disk.blocks_in_band(block) {
            let (row, col) = disk.block_at(band, at);
            if !kept.get(row, col) {
                disk.clear(block, (row, col), &mut lines);
            }
        }
        out.write_all(lines.as_flattened())?;
    }
    Ok(())
}

/// The matrix with kept blocks in place and zeros elsewhere, band by band.
fn unpack<const N: usize>(packed: &Packed<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (disk, block): (Disk, _) = (packed.disk(), packed.pattern.block());
    let [rows, cols] = disk.dims();
    let slots = packed.pattern.slots_by_index();
    for band in 0..disk.bands(block) {
        let height = block.get().min(rows - band * block.get());
        let mut lines = vec![[0; N]; height * cols];
        for at in 0..disk.blocks_in_band(block) {
            let (row, col) = disk.block_at(band, at);
            if let Some(slot) = slots[row * packed.pattern.block_cols() + col] {
                let values = as_elements(packed.slot(slot as usize));
                disk.put(values, block, (row, col), &mut lines);
            }
        }
        out.write_all(lines.as_flattened())?;
    }
    Ok(())
}
