//! Patterns: what is refused, with which message, and properties of packing and masks.

mod common;

use burn_blast_kernels::{
    BlockMask, BlockPattern, BlockSize, MatrixShape, PatternError, cpu, pack,
};
use common::{numbers, random, values};
use proptest::prelude::*;

fn shape(rows: usize, cols: usize) -> MatrixShape {
    MatrixShape::new(rows, cols).unwrap()
}

fn block(size: usize) -> BlockSize {
    BlockSize::new(size).unwrap()
}

#[test]
fn every_refusal_names_what_is_wrong() {
    use PatternError as E;
    let build = |col_ptr: &[u32], row_idx: &[u32]| {
        BlockPattern::new(shape(32, 32), block(16), col_ptr.into(), row_idx.into()).unwrap_err()
    };
    let max = 1_073_741_823;
    let cases = [
        (BlockSize::new(24).unwrap_err(), E::BlockSize { found: 24 }, "use 8, 16, 32, 64 or 128"),
        (
            MatrixShape::new(0, 4).unwrap_err(),
            E::Shape { rows: 0, cols: 4, max },
            "between 1 and 1073741823",
        ),
        (
            build(&[0, 1], &[0]),
            E::ColPtrLen { found: 2, expected: 3, cols: 2 },
            "another weight shape or block size",
        ),
        (build(&[1, 1, 1], &[0]), E::ColPtrStart { found: 1 }, "1 instead of 0"),
        (
            build(&[0, 2, 1], &[0]),
            E::ColPtrDecreases { col: 1, from: 2, to: 1 },
            "from 2 to 1 at block column 1",
        ),
        (build(&[0, 1, 2], &[0]), E::ColPtrEnd { found: 2, expected: 1 }, "truncated"),
        (
            build(&[0, 1, 2], &[0, 2]),
            E::RowOutOfGrid { row: 2, col: 1, rows: 2 },
            "outside the grid of 2 block rows",
        ),
        (
            build(&[0, 2, 2], &[1, 1]),
            E::RowOrder { row: 1, previous: 1, col: 0 },
            "must increase strictly",
        ),
    ];
    for (got, want, phrase) in cases {
        assert_eq!(got, want);
        assert!(got.to_string().contains(phrase), "{got}");
    }
}

#[test]
fn the_drawn_example_has_the_drawn_views() {
    let pattern =
        BlockPattern::new(shape(48, 48), block(16), vec![0, 2, 2, 4], vec![0, 2, 0, 2]).unwrap();
    assert_eq!(pattern.row_ptr(), [0, 2, 2, 4]);
    assert_eq!(pattern.col_idx(), [0, 2, 0, 2]);
    assert_eq!(pattern.slot(), [0, 2, 1, 3]);
    assert_eq!(pattern.work_order().cols_by_length, [0, 2, 1]);
    assert_eq!(pattern.work_order().col_of_slot, [0, 0, 2, 2]);
}

#[test]
fn a_damaged_row_is_found_before_it_is_used() {
    let huge = BlockPattern::new(shape(32, 32), block(16), vec![0, 0, 1], vec![u32::MAX]);
    assert!(matches!(huge, Err(PatternError::RowOutOfGrid { row: u32::MAX, .. })));
}

#[test]
fn the_id_follows_the_content() {
    let pattern = |seed| random([256, 256, 16], 0.3, seed);
    assert_eq!(pattern(1).id(), pattern(1).id());
    assert_eq!(pattern(1), pattern(1));
    assert_ne!(pattern(1).id(), pattern(2).id());
    assert_ne!(pattern(1), pattern(2));
}

#[test]
fn attached_values_live_with_the_pattern() {
    let pattern = BlockPattern::dense(shape(16, 16), block(16));
    let first = pattern.attached(|_: &String| true, || "made".to_string());
    let again = pattern.clone().attached(|_: &String| true, || unreachable!());
    assert!(std::sync::Arc::ptr_eq(&first, &again));
}

#[test]
fn balanced_patterns_spread_their_blocks_evenly() {
    for (density, seed) in [(0.25, 3), (0.2, 4), (0.9, 5), (0.0, 6), (1.0, 7)] {
        let pattern = BlockPattern::random_balanced(shape(256, 128), block(16), density, seed);
        assert_eq!(pattern.nnz(), (density * 128.0_f64).round() as usize);
        let columns = pattern.col_ptr().windows(2).map(|pair| pair[1] - pair[0]);
        let most = columns.clone().max().unwrap();
        assert!(most - columns.min().unwrap() <= 1, "{density}");
        let mut rows = [0; 16];
        pattern.row_idx().iter().for_each(|&row| rows[row as usize] += 1);
        assert!(rows.iter().max().unwrap() - rows.iter().min().unwrap() <= 2, "{density} {rows:?}");
    }
}

prop_compose! {
    fn any_pattern()(
        size in prop::sample::select(vec![8_usize, 16, 32]),
        rows in 1_usize..100,
        cols in 1_usize..100,
        density in 0.0_f64..=1.0,
        seed in any::<u64>(),
    ) -> BlockPattern {
        random([rows, cols, size], density, seed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_random_pattern_has_the_exact_count(pattern in any_pattern(), density in 0.0_f64..=1.0) {
        let made = BlockPattern::random(pattern.shape(), pattern.block(), density, 1);
        prop_assert_eq!(made.nnz(), (density * made.block_count() as f64).round() as usize);
    }

    #[test]
    fn mask_and_pattern_are_two_views_of_one_thing(pattern in any_pattern()) {
        let mask = BlockMask::from(&pattern);
        prop_assert_eq!(mask.count(), pattern.nnz());
        prop_assert_eq!(BlockPattern::from_mask(&mask), pattern);
    }

    #[test]
    fn unpack_then_pack_gives_the_values_back(pattern in any_pattern()) {
        let packed = values(&pattern, 1);
        prop_assert_eq!(pack::pack(&pack::unpack(&packed, &pattern), &pattern), packed);
    }

    #[test]
    fn pack_then_unpack_is_the_masked_weight(pattern in any_pattern()) {
        let dense = numbers(pattern.shape().area(), 2);
        let masked = pack::unpack(&pack::pack(&dense, &pattern), &pattern);
        let mask = BlockMask::from(&pattern);
        let (b, cols) = (pattern.block().get(), pattern.shape().cols());
        for (at, (&got, &was)) in masked.iter().zip(&dense).enumerate() {
            let keep = mask.get(at / cols / b, at % cols / b);
            prop_assert_eq!(got, if keep { was } else { 0.0 });
        }
    }

    #[test]
    fn the_detector_finds_exactly_the_packed_blocks(pattern in any_pattern()) {
        let ones = vec![1.0; pattern.shape().area()];
        let dense = pack::unpack(&pack::pack(&ones, &pattern), &pattern);
        let found = pack::nonzero_blocks(&dense, pattern.shape(), pattern.block());
        prop_assert_eq!(found, BlockMask::from(&pattern));
    }

    #[test]
    fn transposing_the_weight_swaps_the_two_products(pattern in any_pattern()) {
        let (rows, cols) = (pattern.shape().rows(), pattern.shape().cols());
        let dense = pack::unpack(&values(&pattern, 3), &pattern);
        let mut transposed = vec![0.0; dense.len()];
        for k in 0..rows {
            for n in 0..cols {
                transposed[n * rows + k] = dense[k * cols + n];
            }
        }
        let mut mask = BlockMask::empty(shape(cols, rows), pattern.block());
        pattern.blocks().for_each(|(row, col)| mask.set(col, row, true));
        let other = BlockPattern::from_mask(&mask);
        let dy = numbers(3 * cols, 4);
        let by_rows = cpu::spmm_t(&dy, &pack::pack(&dense, &pattern), &pattern, 3);
        let by_cols = cpu::spmm(&dy, &pack::pack(&transposed, &other), None, &other, 3);
        for (a, b) in by_rows.iter().zip(&by_cols) {
            prop_assert!((a - b).abs() < 1e-4, "{} {}", a, b);
        }
    }

    #[test]
    fn the_product_is_linear_in_the_input(pattern in any_pattern(), factor in -2.0_f32..2.0) {
        let rows = pattern.shape().rows();
        let w = values(&pattern, 5);
        let (x, z) = (numbers(2 * rows, 6), numbers(2 * rows, 7));
        let mixed: Vec<f32> = x.iter().zip(&z).map(|(x, z)| x + factor * z).collect();
        let product = |x: &[f32]| cpu::spmm(x, &w, None, &pattern, 2);
        let (px, pz, pm) = (product(&x), product(&z), product(&mixed));
        for ((px, pz), pm) in px.iter().zip(&pz).zip(&pm) {
            prop_assert!((px + factor * pz - pm).abs() < 1e-3);
        }
    }
}
