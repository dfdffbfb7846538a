//! The product of a single row with a weight, as in decoding.
//!
//! Such a product reads each weight once. The tiles of the other products read blocks of few bits from a buffer in f32, which
//! costs more than the weights themselves; this converts them in registers.

mod int4;

use half::bf16;

use super::operand::SparseOperand;
use super::output::add_bias;
use super::tasks::{SharedOut, run_tasks, task_count};
use super::{HostFloat, Values};
use crate::pattern::equal_work;

/// Largest side of a block.
const MAX_SIDE: usize = 128;

/// `out[outer] = x[inner] · weight + bias` on `threads`, if this is faster than tiles are. Returns whether it did.
pub(super) fn product<T: HostFloat>(
    x: &[f32],
    weight: SparseOperand<'_>,
    bias: Option<&[f32]>,
    out: SharedOut<T>,
    threads: usize,
) -> bool {
    let fits = match weight.values {
        // Measured on Zen 4, 2048 x 8192, GB/s by tiles and here: 22 and 18 in blocks of 32, 23 and 22 of 64, 18 and 22 of 128.
        Values::F32(_) => weight.b >= 128,
        Values::Bf16(_) | Values::Int8 { .. } | Values::Int4 { .. } => true,
        Values::F16(_) => false,
    };
    if !fits || !weight.is_forward() {
        return false;
    }
    let column = best_column();
    let rounded = matches!(weight.values, Values::Int4 { .. }).then(|| int4::Row::new(x, weight.b));
    run_tasks(equal_work(weight.starts, task_count(threads)), threads, |cols| {
        let mut sums = [0.0; MAX_SIDE];
        for col in cols {
            let sums = &mut sums[..weight.b];
            match &rounded {
                Some(row) => row.column(&weight, col, sums),
                // SAFETY: the function is of this processor's instruction set.
                None => unsafe { column(x, &weight, col, sums) },
            }
            let first = col * weight.b;
            let width = weight.b.min(weight.outer - first);
            let sums = &mut sums[..width];
            add_bias(sums, bias.map_or(&[], |bias| &bias[first..first + width]));
            // SAFETY: columns of this task are written by no other.
            T::write(sums, unsafe { out.uninit(first, width) });
        }
    });
    true
}

/// Writes the sums of a block column.
type Column = unsafe fn(&[f32], &SparseOperand<'_>, usize, &mut [f32]);

/// [`column`] in the best instruction set of this machine that has fused multiply-adds.
fn best_column() -> Column {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
        {
            return column_avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return column_avx2;
        }
    }
    // NEON always has them.
    column::<{ cfg!(target_arch = "aarch64") }>
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn column_avx512(x: &[f32], weight: &SparseOperand<'_>, col: usize, sums: &mut [f32]) {
    column::<true>(x, weight, col, sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn column_avx2(x: &[f32], weight: &SparseOperand<'_>, col: usize, sums: &mut [f32]) {
    column::<true>(x, weight, col, sums);
}

/// The sums of a block column. With `FMA`, by fused multiply-adds.
#[inline(always)]
fn column<const FMA: bool>(x: &[f32], weight: &SparseOperand<'_>, col: usize, sums: &mut [f32]) {
    match weight.b {
        8 => sized::<FMA, 8>(x, weight, col, sums),
        16 => sized::<FMA, 16>(x, weight, col, sums),
        32 => sized::<FMA, 32>(x, weight, col, sums),
        64 => sized::<FMA, 64>(x, weight, col, sums),
        _ => sized::<FMA, 128>(x, weight, col, sums),
    }
}

#[inline(always)]
fn sized<const FMA: bool, const B: usize>(
    x: &[f32],
    weight: &SparseOperand<'_>,
    col: usize,
    sums: &mut [f32],
) {
    let sums: &mut [f32; B] = sums.try_into().expect("a column is as wide as a block");
    sums.fill(0.0);
    for entry in weight.entries(col) {
        let (block, slot) = weight.entry(entry);
        let x = &x[block * B..x.len().min((block + 1) * B)];
        let place = slot * B * B..(slot + 1) * B * B;
        match weight.values {
            Values::F32(values) => add_block::<_, FMA, B>(x, &values[place], 1.0, sums),
            Values::Bf16(values) => add_block::<_, FMA, B>(x, &values[place], 1.0, sums),
            Values::Int8 { values, scales } => {
                add_block::<_, FMA, B>(x, &values[place], scales[slot], sums);
            }
            Values::F16(_) | Values::Int4 { .. } => unreachable!("others take them"),
        }
    }
}

/// Adds `scale · x · block` to the sums. `x` ends with the input; nothing beyond it is read.
#[inline(always)]
fn add_block<E: Narrow, const FMA: bool, const B: usize>(
    x: &[f32],
    block: &[E],
    scale: f32,
    sums: &mut [f32; B],
) {
    let (rows, _) = block.as_chunks::<B>();
    let ((fours, rest), (row_fours, _)) = (x.as_chunks::<4>(), rows.as_chunks::<4>());
    // Several sums for each column, so that a multiply-add does not wait for the one before: four where registers have room.
    let [mut first, mut second, mut third, mut fourth] = [[0.0; B]; 4];
    for (x, rows) in fours.iter().zip(row_fours) {
        add_row::<_, FMA, B>(x[0], &rows[0], &mut first);
        add_row::<_, FMA, B>(x[1], &rows[1], &mut second);
        let (third, fourth) =
            if B <= 32 { (&mut third, &mut fourth) } else { (&mut first, &mut second) };
        add_row::<_, FMA, B>(x[2], &rows[2], third);
        add_row::<_, FMA, B>(x[3], &rows[3], fourth);
    }
    for (x, row) in rest.iter().zip(&rows[4 * fours.len()..]) {
        add_row::<_, FMA, B>(*x, row, &mut first);
    }
    for at in 0..B {
        let sum = (first[at] + second[at]) + (third[at] + fourth[at]);
        sums[at] = multiply_add::<FMA>(scale, sum, sums[at]);
    }
}

#[inline(always)]
fn add_row<E: Narrow, const FMA: bool, const B: usize>(x: f32, row: &[E; B], sums: &mut [f32; B]) {
    for at in 0..B {
        sums[at] = multiply_add::<FMA>(x, row[at].widen(), sums[at]);
    }
}

#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// A type of values.
trait Narrow: Copy {
    fn widen(self) -> f32;
}

impl Narrow for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Narrow for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Narrow for i8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockPattern, BlockSize, MatrixShape};

    /// Both ways are within rounding of the exact sums: in blocks of every size, ragged on both sides, in empty columns.
    #[test]
    fn columns_are_near_the_oracle_with_and_without_fused_multiply_adds() {
        for b in [8, 16, 32, 64, 128] {
            for density in [0.0, 0.4, 1.0] {
                let shape = MatrixShape::new(3 * b + 5, 2 * b + 3).unwrap();
                let pattern = BlockPattern::random(shape, BlockSize::new(b).unwrap(), density, 7);
                let number = |at: usize| ((at * 7919) % 255) as i32 - 127;
                let integers: Vec<i8> =
                    (0..pattern.value_count()).map(|at| number(at) as i8).collect();
                let scales: Vec<f32> = (0..pattern.nnz()).map(|at| 0.5 + at as f32).collect();
                let halves: Vec<bf16> =
                    integers.iter().map(|value| bf16::from_f32(f32::from(*value))).collect();
                let floats: Vec<f32> = halves.iter().map(|value| value.to_f32()).collect();
                let x: Vec<f32> = (0..shape.rows()).map(|at| number(at) as f32 / 64.0).collect();
                for values in [
                    Values::Int8 { values: &integers, scales: &scales },
                    Values::Bf16(&halves),
                    Values::F32(&floats),
                ] {
                    let weight = SparseOperand::forward(values, &pattern);
                    for col in 0..pattern.block_cols() {
                        let (mut exact, mut size) = (vec![0.0; b], vec![0.0; b]);
                        for entry in weight.entries(col) {
                            let (block, slot) = weight.entry(entry);
                            let rows = x[block * b..].iter().take(b).enumerate();
                            for (row, x) in rows {
                                for at in 0..b {
                                    let value = floats[(slot * b + row) * b + at];
                                    let product = f64::from(*x)
                                        * f64::from(value)
                                        * f64::from(weight.scale(entry));
                                    exact[at] += product;
                                    size[at] += product.abs();
                                }
                            }
                        }
                        for column in [column::<false>, column::<true>] {
                            let mut sums = vec![f32::NAN; b];
                            column(&x, &weight, col, &mut sums);
                            for at in 0..b {
                                let unit = f64::from(f32::EPSILON) * (b + 4) as f64;
                                let apart = (f64::from(sums[at]) - exact[at]).abs();
                                assert!(apart <= unit * size[at], "{b} {density}: {apart}");
                            }
                        }
                    }
                }
            }
        }
    }
}
