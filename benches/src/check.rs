//! Compares results with elements computed in f64 on the host.
//!
//! Small results are checked completely. In a large result all elements must be finite, and a sample of rows and columns
//! must be right: enough to find a missing block, a swapped index or a wrong edge, which always affect many elements.

use anyhow::{Result, ensure};
use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::element::hash;

/// Multiplications per check: about a tenth of a second.
const MAX_TERMS: usize = 20_000_000;

/// Smallest and largest number of elements in a sample.
const ELEMENTS: [usize; 2] = [64, 4096];

/// Largest number of rows in a sample; the rows are copied to the host.
const SAMPLED_ROWS: usize = 16;

/// The elements of a result that are checked.
pub struct Sample<'a> {
    result: &'a Tensor<2>,
    rows: Vec<usize>,
    /// Checked positions, row by row.
    points: Vec<(usize, usize)>,
}

impl<'a> Sample<'a> {
    /// The sample of a result whose elements are sums of up to `terms` products. It depends only on the shape and
    /// on `terms`.
    pub fn of(result: &'a Tensor<2>, terms: usize) -> Self {
        let [rows, cols] = result.dims();
        if rows * cols * terms.max(1) <= MAX_TERMS {
            let points = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))).collect();
            return Self { result, rows: (0..rows).collect(), points };
        }
        let elements = (MAX_TERMS / terms.max(1)).clamp(ELEMENTS[0], ELEMENTS[1]);
        // Few rows where one element costs as much as a row of them.
        let max_rows = if terms >= MAX_TERMS / ELEMENTS[0] { 2 } else { SAMPLED_ROWS };
        let picked = rows.min(max_rows);
        let mut all: Vec<usize> = (0..picked).map(|at| spread(at, picked, rows)).collect();
        all.dedup();
        let count = elements.div_ceil(all.len()).min(cols);
        let column = |row: usize, at: usize| match at {
            0 => 0,
            1 => cols - 1,
            _ => (hash((row * count + at) as u64) % cols as u64) as usize,
        };
        let line = |&row: &usize| (0..count).map(move |at| (row, column(row, at)));
        let points = all.iter().flat_map(line).collect();
        Self { result, rows: all, points }
    }

    /// The values at these positions.
    ///
    /// # Errors
    /// If any element of the result, inside the sample or not, is not finite.
    pub fn values(&self) -> Result<Vec<f32>> {
        let finite =
            self.result.clone().is_finite().all().into_data().iter::<bool>().all(|all| all);
        ensure!(finite, "the result has NaN or infinite elements");
        let [all_rows, cols] = self.result.dims();
        let device = self.result.device();
        let part = if self.rows.len() == all_rows {
            self.result.clone()
        } else {
            let index: Vec<i32> = self.rows.iter().map(|&row| row as i32).collect();
            let data = TensorData::new(index, [self.rows.len()]);
            self.result.clone().select(0, Tensor::<1, Int>::from_data(data, (&device, DType::I32)))
        };
        let part: Vec<f32> = part.into_data().iter::<f32>().collect();
        let line = |row: usize| self.rows.binary_search(&row).expect("points are in these rows");
        Ok(self.points.iter().map(|&(row, col)| part[line(row) * cols + col]).collect())
    }

    /// Compares every element of the sample with `want`: the exact value and its error bound. Returns the largest error
    /// divided by its bound.
    ///
    /// # Errors
    /// If an error is above its bound, or an element is not finite.
    pub fn compare(&self, mut want: impl FnMut(usize, usize) -> (f64, f64)) -> Result<f64> {
        let mut worst = 0.0_f64;
        for (&(row, col), got) in self.points.iter().zip(self.values()?) {
            let (value, limit) = want(row, col);
            let error = (f64::from(got) - value).abs() / limit;
            // Written so that NaN fails.
            let right = error <= 1.0;
            ensure!(right, "element [{row}, {col}] is {got}, expected {value} ± {limit:.1e}");
            worst = worst.max(error);
        }
        Ok(worst)
    }
}

/// The `at`-th of `count` rows between the first and the last.
fn spread(at: usize, count: usize, rows: usize) -> usize {
    if at + 1 == count {
        return rows - 1;
    }
    // Not on a regular grid, so that errors at multiples of a tile size are found.
    let (start, end) = (at * rows / count, (at + 1) * rows / count);
    if at == 0 { 0 } else { start + (hash(at as u64) % (end - start).max(1) as u64) as usize }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn matrix(rows: usize, cols: usize) -> Tensor<2> {
        Tensor::zeros([rows, cols], &Device::flex())
    }

    #[test]
    fn a_small_result_is_checked_completely() {
        let result = matrix(3, 5);
        assert_eq!(Sample::of(&result, 100).points.len(), 15);
    }

    #[test]
    fn a_sample_of_a_large_result_has_its_corners() {
        let result = matrix(2000, 300);
        let sample = Sample::of(&result, 4096);
        let points = &sample.points;
        for corner in [(0, 0), (0, 299), (1999, 0), (1999, 299)] {
            assert!(points.contains(&corner), "{corner:?}");
        }
        assert!(points.len() < 5000 && sample.rows.len() == SAMPLED_ROWS, "{}", points.len());
        assert_eq!(sample.values().unwrap().len(), points.len());
    }

    #[test]
    fn one_wrong_element_is_named() {
        let result = matrix(3, 5).slice_assign([1..2, 2..3], Tensor::ones([1, 1], &Device::flex()));
        let error = Sample::of(&result, 1).compare(|_, _| (0.0, 1e-3)).unwrap_err().to_string();
        assert!(error.contains("[1, 2] is 1, expected 0 ± 1.0e-3"), "{error}");
        assert_eq!(Sample::of(&result, 1).compare(|_, _| (0.0, 2.0)).unwrap(), 0.5);
    }

    #[test]
    fn nan_outside_the_sample_is_found() {
        let result = matrix(2000, 300)
            .slice_assign([77..78, 7..8], Tensor::full([1, 1], f32::NAN, &Device::flex()));
        let error = Sample::of(&result, 4096).compare(|_, _| (0.0, 1.0)).unwrap_err();
        assert!(error.to_string().contains("NaN"), "{error}");
    }
}
