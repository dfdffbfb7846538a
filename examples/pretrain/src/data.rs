//! Batches: which bytes of the corpus each step sees.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::args::Config;

/// Validation batches of one evaluation; always the same ones.
pub const VALIDATION_BATCHES: usize = 16;

/// Sequences and the byte that follows each of their positions.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Bytes, `[batch, context]`.
    pub inputs: Tensor<2, Int>,
    /// The byte after each of them, `[batch * context]`.
    pub targets: Tensor<1, Int>,
}

/// The batch of one training step: a function of seed and step alone, so both runs see the same and a resumed run
/// needs no reader position.
pub fn training_batch(train: &[u8], config: &Config, step: usize, device: &Device) -> Batch {
    let starts = training_starts(train.len(), config, step);
    windows(train, &starts, config.context, device)
}

/// The validation batches, spread evenly over `valid`.
pub fn validation_batches(valid: &[u8], config: &Config, device: &Device) -> Vec<Batch> {
    let windows_total = VALIDATION_BATCHES * config.batch;
    let last_start = valid.len() - config.context - 1;
    let starts: Vec<usize> =
        (0..windows_total).map(|window| window * last_start / windows_total).collect();
    starts
        .chunks(config.batch)
        .map(|starts| windows(valid, starts, config.context, device))
        .collect()
}

fn training_starts(length: usize, config: &Config, step: usize) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(config.seed);
    random.set_stream(step as u64 + 1);
    (0..config.batch)
        .map(|_| random.random_range(0..(length - config.context) as u64) as usize)
        .collect()
}

fn windows(bytes: &[u8], starts: &[usize], context: usize, device: &Device) -> Batch {
    let take = |shift: usize| -> Vec<i32> {
        let rows = starts.iter().flat_map(|start| &bytes[start + shift..start + shift + context]);
        rows.map(|byte| i32::from(*byte)).collect()
    };
    Batch {
        inputs: Tensor::from_data(TensorData::new(take(0), [starts.len(), context]), device),
        targets: Tensor::from_data(TensorData::new(take(1), [starts.len() * context]), device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_always_draws_the_same_windows_and_another_step_others() {
        let config = Config::default();
        assert_eq!(training_starts(10_000, &config, 3), training_starts(10_000, &config, 3));
        assert_ne!(training_starts(10_000, &config, 3), training_starts(10_000, &config, 4));
        let other = Config { seed: 1, ..config.clone() };
        assert_ne!(training_starts(10_000, &config, 3), training_starts(10_000, &other, 3));
    }

    #[test]
    fn every_window_fits_even_in_the_shortest_corpus() {
        let config = Config { context: 4, ..Config::default() };
        for step in 0..100 {
            assert!(training_starts(5, &config, step).iter().all(|start| *start == 0));
        }
    }

    #[cfg(feature = "flex")]
    #[test]
    fn targets_are_the_inputs_one_byte_later() {
        let bytes: Vec<u8> = (0..200).collect();
        let config = Config { batch: 2, context: 5, ..Config::default() };
        let device = Device::flex();
        let batch = training_batch(&bytes, &config, 0, &device);
        let inputs = (batch.inputs.reshape([10]) + 1).into_data();
        assert_eq!(
            inputs.try_to_vec::<i32>().unwrap(),
            batch.targets.into_data().try_to_vec::<i32>().unwrap()
        );
        assert_eq!(validation_batches(&bytes, &config, &device).len(), VALIDATION_BATCHES);
    }
}
