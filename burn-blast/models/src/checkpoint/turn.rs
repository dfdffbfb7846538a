//! Matrices turned on their way from a file, without a device.

use burn::tensor::TensorData;
use burn_pack::Tensor as Entry;
use burn_store::bridge;

/// Side of the square tiles that are turned one by one, in elements, so that reads and writes both stay in the cache:
/// 4 KiB of f32 on each side. Guess.
const TILE: usize = 32;

/// The transposed matrix, turned when it is read; anything but a matrix as it is.
///
/// burn-store has an adapter for it, but that turns every linear layer, those of GPT-2 too, and writes whole columns.
pub(super) fn turn(entry: Entry) -> Entry {
    let &[rows, cols] = entry.shape.as_slice() else { return entry };
    let (name, dtype) = (entry.name.clone(), entry.dtype);
    bridge::map_data(entry, name, dtype, [cols, rows].into(), move |data| {
        let bytes = data.as_bytes();
        let turned = match dtype.size() {
            1 => transposed::<1>(bytes, rows, cols),
            2 => transposed::<2>(bytes, rows, cols),
            4 => transposed::<4>(bytes, rows, cols),
            _ => transposed::<8>(bytes, rows, cols),
        };
        TensorData::from_bytes_vec(turned, [cols, rows], dtype)
    })
}

/// A row-major matrix of elements of `N` bytes, column-major.
fn transposed<const N: usize>(bytes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    let from = bytes.as_chunks::<N>().0;
    let mut turned = vec![0; bytes.len()];
    let to = turned.as_chunks_mut::<N>().0;
    for row_tile in (0..rows).step_by(TILE) {
        for col_tile in (0..cols).step_by(TILE) {
            for col in col_tile..cols.min(col_tile + TILE) {
                for row in row_tile..rows.min(row_tile + TILE) {
                    to[col * rows + row] = from[row * cols + col];
                }
            }
        }
    }
    turned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_lands_in_its_place() {
        let (rows, cols) = (70, 33);
        let numbers: Vec<u16> = (0..rows * cols).map(|number| number as u16).collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let turned = transposed::<2>(&bytes, rows, cols);
        for (at, bytes) in turned.as_chunks::<2>().0.iter().enumerate() {
            let (col, row) = (at / rows, at % rows);
            assert_eq!(usize::from(u16::from_le_bytes(*bytes)), row * cols + col);
        }
    }
}
