//! One-shot sparsification: scores by the effect on outputs, and corrected values.

mod common;

use burn::tensor::{Device, Tensor};
use burn_blast::calibrate::{Calibration, CalibrationError};
use burn_blast::{BlockMask, BlockPattern, BlockSize, MatrixShape, functions};
use common::{distance, engines, floats, uniform};

const B: usize = 8;
/// Ragged on both sides.
const D_INPUT: usize = 36;
const D_OUTPUT: usize = 20;
const ROWS: usize = 200;

fn block() -> BlockSize {
    BlockSize::new(B).unwrap()
}

/// Inputs whose features depend on each other: every one is a mix of a few.
fn inputs(device: &Device) -> Tensor<2> {
    let few = uniform([ROWS, 12], 1, device);
    let mix = uniform([12, D_INPUT], 2, device);
    let own = uniform([ROWS, D_INPUT], 3, device);
    few.matmul(mix) + own * 0.2
}

fn weight(device: &Device) -> Tensor<2> {
    uniform([D_INPUT, D_OUTPUT], 4, device)
}

fn calibration(device: &Device) -> Calibration {
    let mut calibration = Calibration::new(D_INPUT, device);
    let inputs = inputs(device);
    calibration.add(inputs.clone().narrow(0, 0, 150));
    calibration.add(inputs.narrow(0, 150, ROWS - 150).reshape([5, 10, D_INPUT]));
    assert_eq!(calibration.rows(), ROWS);
    calibration
}

/// Squared error of outputs, and of values as the damping weighs them.
fn objective(
    x: &Tensor<2>,
    w: &Tensor<2>,
    values: &Tensor<3>,
    pattern: &BlockPattern,
    lambda: f64,
) -> f64 {
    let off = w.clone() - functions::unpack(values.clone(), pattern);
    let outputs = floats(x.clone().matmul(off));
    let kept = functions::pack(w.clone(), pattern) - values.clone();
    let square = |numbers: Vec<f32>| numbers.iter().map(|&y| f64::from(y).powi(2)).sum::<f64>();
    square(outputs) + lambda * square(floats(kept))
}

#[test]
fn corrected_values_are_the_best_there_are() {
    for engine in engines() {
        let device = &engine.device;
        let (x, w, calibration) = (inputs(device), weight(device), calibration(device));
        let pattern = calibration.select(w.clone(), block(), 0.6);
        let damping = 0.01;
        let mean_square: f64 =
            calibration.norms().iter().map(|&norm| f64::from(norm).powi(2)).sum::<f64>()
                / D_INPUT as f64;
        let lambda = damping * mean_square;
        let values = calibration.correct(w.clone(), &pattern, damping).unwrap();
        let of = |values: &Tensor<3>| objective(&x, &w, values, &pattern, lambda);
        let best = of(&values);
        let plain = of(&functions::pack(w.clone(), &pattern));
        assert!(best < 0.7 * plain, "{}: {best} against {plain}", engine.name);
        for seed in 0..4 {
            let step = uniform(values.dims(), 50 + seed, device);
            // Only inside the weight: the padding stays zero.
            let step = functions::pack(functions::unpack(step, &pattern), &pattern);
            for scale in [0.02, -0.02] {
                let moved = of(&(values.clone() + step.clone() * scale));
                assert!(moved > best, "{}: a step to {moved} from {best}", engine.name);
            }
        }
    }
}

#[test]
fn a_removed_block_moves_into_its_twin() {
    let device = Device::flex();
    let half = uniform([ROWS, B], 1, &device);
    let mut calibration = Calibration::new(2 * B, &device);
    calibration.add(Tensor::cat(vec![half.clone(), half], 1));
    let w = uniform([2 * B, B], 2, &device);
    let mut mask = BlockMask::empty(MatrixShape::new(2 * B, B).unwrap(), block());
    mask.set(1, 0, true);
    let values = calibration.correct(w.clone(), &BlockPattern::from_mask(&mask), 1e-6).unwrap();
    let both = w.clone().narrow(0, 0, B) + w.narrow(0, B, B);
    assert!(distance(&floats(values), &floats(both)) < 1e-3);
}

#[test]
fn with_every_block_kept_nothing_changes() {
    let device = Device::flex();
    let w = weight(&device);
    let full = BlockPattern::dense(MatrixShape::new(D_INPUT, D_OUTPUT).unwrap(), block());
    let values = calibration(&device).correct(w.clone(), &full, 0.01).unwrap();
    assert!(distance(&floats(functions::unpack(values, &full)), &floats(w)) < 1e-4);
}

#[test]
fn blocks_of_loud_features_win_over_larger_weights() {
    let device = Device::flex();
    let mut calibration = Calibration::new(2 * B, &device);
    let quiet = Tensor::<2>::ones([4, B], &device) * 0.1;
    calibration.add(Tensor::cat(vec![quiet, Tensor::ones([4, B], &device)], 1));
    let heavy = Tensor::<2>::ones([B, B], &device) * 3.0;
    let w = Tensor::cat(vec![heavy, Tensor::ones([B, B], &device)], 0);
    // ‖x‖ is 0.2 and 2. A block of 8 by 8 equal weights has 8 times the norm of one.
    let scores = calibration.scores(w.clone(), block());
    assert!((scores[0] - 4.8).abs() < 1e-4 && (scores[1] - 16.0).abs() < 1e-4, "{scores:?}");
    let pattern = calibration.select(w, block(), 0.5);
    assert_eq!(pattern.blocks().collect::<Vec<_>>(), [(1, 0)]);
}

#[test]
fn the_count_is_exact_and_at_least_one() {
    let device = Device::flex();
    let (w, calibration) = (weight(&device), calibration(&device));
    let blocks = D_INPUT.div_ceil(B) * D_OUTPUT.div_ceil(B);
    for (sparsity, expected) in [(0.0, blocks), (0.6, 6), (0.8, 3), (1.0, 1)] {
        assert_eq!(calibration.select(w.clone(), block(), sparsity).nnz(), expected);
    }
}

#[test]
fn every_error_says_what_to_do() {
    let device = Device::flex();
    let (w, calibration) = (weight(&device), calibration(&device));
    let pattern = calibration.select(w.clone(), block(), 0.5);
    let refuse = |calibration: &Calibration, damping| {
        calibration.correct(w.clone(), &pattern, damping).unwrap_err().to_string()
    };
    let empty = Calibration::new(D_INPUT, &device);
    assert!(refuse(&empty, 0.01).contains("call `add`"));
    assert!(refuse(&calibration, 0.0).contains("positive number such as 0.01, but is 0"));
    let mut bad = Calibration::new(D_INPUT, &device);
    bad.add(Tensor::<2>::zeros([3, D_INPUT], &device));
    assert!(refuse(&bad, 0.01).contains("are all zero"));
    bad.add(Tensor::<2>::full([1, D_INPUT], f32::NAN, &device));
    assert!(refuse(&bad, 0.01).contains("are not all finite"));
    let singular = CalibrationError::Singular { col: 3, damping: 1e-20 }.to_string();
    assert!(singular.contains("block column 3") && singular.contains("take a larger one"));
}

#[test]
#[should_panic(expected = "the inputs have 7 features, but the layer takes 36")]
fn inputs_of_another_layer_are_refused() {
    let device = Device::flex();
    Calibration::new(D_INPUT, &device).add(Tensor::<2>::zeros([2, 7], &device));
}

#[test]
fn norms_alone_score_as_the_whole_does_and_correct_nothing() {
    for engine in engines() {
        let device = &engine.device;
        let (w, whole) = (weight(device), calibration(device));
        let mut norms = Calibration::of_norms(D_INPUT, device);
        norms.add(inputs(device));
        assert_eq!(norms.rows(), ROWS);
        let pairs =
            norms.scores(w.clone(), block()).into_iter().zip(whole.scores(w.clone(), block()));
        for (found, expected) in pairs {
            assert!((found - expected).abs() <= 1e-5 * expected, "{found} and {expected}");
        }
        let pattern = norms.select(w.clone(), block(), 0.5);
        assert_eq!(pattern, whole.select(w.clone(), block(), 0.5));
        assert_eq!(norms.correct(w, &pattern, 0.01).unwrap_err(), CalibrationError::Norms);
    }
}
