//! A tensor to be written. Its bytes are made while they are written: no more than one band of blocks is in memory.

use std::io::{self, Write};

use burn_blast_kernels::{BlockMask, BlockPattern};
use safetensors::Dtype;

use crate::dense::DenseWeight;
use crate::format::{self, VALUES};
use crate::packed::PackedWeight;
use crate::shard::{TensorView, as_elements};

/// Writes the bytes of a tensor, little-endian and row-major.
type WriteBytes<'a> = Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'a>;

/// A tensor of an output file.
pub struct Entry<'a> {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    write: WriteBytes<'a>,
}

impl<'a> Entry<'a> {
    /// A tensor whose content `write` writes: the bytes of all elements of `shape`, little-endian and row-major.
    pub fn new(
        name: impl Into<String>,
        dtype: Dtype,
        shape: Vec<usize>,
        write: impl Fn(&mut dyn Write) -> io::Result<()> + 'a,
    ) -> Self {
        Self { name: name.into(), dtype, shape, write: Box::new(write) }
    }

    /// A tensor as it is in the input.
    pub fn copy(name: &str, tensor: TensorView<'a>) -> Self {
        Self::new(name, tensor.dtype(), tensor.shape().to_vec(), move |out| {
            out.write_all(tensor.bytes())?;
            tensor.release();
            Ok(())
        })
    }

    /// The four tensors of a packed weight.
    pub fn packed(weight: DenseWeight<'a>, pattern: BlockPattern) -> [Self; 4] {
        let (base, dtype, b) = (weight.name.clone(), weight.tensor.dtype(), pattern.block().get());
        let indices = format::indices(&pattern, false).map(|(tensor, numbers)| {
            Self::new(format::leaf(&base, tensor), Dtype::I32, vec![numbers.len()], move |out| {
                numbers.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))
            })
        });
        let (name, shape) = (format::leaf(&base, VALUES), vec![pattern.nnz(), b, b]);
        let values = Self::new(name, dtype, shape, move |out| {
            for at in pattern.blocks() {
                out.write_all(&weight.block_bytes(pattern.block(), at))?;
            }
            weight.tensor.release();
            Ok(())
        });
        let [layout, row_idx, col_ptr] = indices;
        [values, layout, row_idx, col_ptr]
    }

    /// A dense weight whose dropped blocks are zero.
    pub fn masked(weight: DenseWeight<'a>, pattern: BlockPattern) -> Self {
        let (dtype, shape) = (weight.tensor.dtype(), weight.tensor.shape().to_vec());
        Self::new(weight.name.clone(), dtype, shape, move |out| {
            match weight.tensor.element_size() {
                4 => mask::<4>(&weight, &pattern, out)?,
                _ => mask::<2>(&weight, &pattern, out)?,
            }
            weight.tensor.release();
            Ok(())
        })
    }

    /// The dense weight of a packed one.
    pub fn unpacked(packed: PackedWeight<'a>) -> Self {
        let (dtype, shape) = (packed.values.dtype(), packed.layout().dims().to_vec());
        Self::new(packed.name.clone(), dtype, shape, move |out| {
            match packed.values.element_size() {
                8 => unpack::<8>(&packed, out)?,
                4 => unpack::<4>(&packed, out)?,
                _ => unpack::<2>(&packed, out)?,
            }
            packed.values.release();
            Ok(())
        })
    }

    /// Bytes of its content.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }

    /// Writes its content.
    ///
    /// # Errors
    /// If `out` or the source of the content does.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        (self.write)(out)
    }
}

/// The matrix with dropped blocks cleared, band by band.
fn mask<const N: usize>(
    weight: &DenseWeight<'_>,
    pattern: &BlockPattern,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (matrix, layout, block) = (weight.tensor.elements::<N>(), weight.layout, pattern.block());
    let kept = BlockMask::from(pattern);
    for (band, rows) in matrix.chunks(block.get() * layout.dims()[1]).enumerate() {
        let mut rows = rows.to_vec();
        for (row, col) in layout.blocks_of(band, block) {
            if !kept.get(row, col) {
                layout.clear(block, (row, col), &mut rows);
            }
        }
        out.write_all(rows.as_flattened())?;
    }
    Ok(())
}

/// The matrix with kept blocks in place and zeros elsewhere, band by band.
fn unpack<const N: usize>(packed: &PackedWeight<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (layout, block) = (packed.layout(), packed.pattern.block());
    let [rows, cols] = layout.dims();
    let slots = packed.pattern.slots_by_index();
    for band in 0..layout.bands(block) {
        let height = block.get().min(rows - band * block.get());
        let mut out_rows = vec![[0; N]; height * cols];
        for (row, col) in layout.blocks_of(band, block) {
            if let Some(slot) = slots[row * packed.pattern.block_cols() + col] {
                let values = as_elements(packed.slot(slot as usize));
                layout.put(values, block, (row, col), &mut out_rows);
            }
        }
        out.write_all(out_rows.as_flattened())?;
    }
    Ok(())
}
