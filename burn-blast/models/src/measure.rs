//! Models side by side: tokens per second, bytes, loss.

use std::time::Instant;

use burn::module::Module;
use burn_blast::module::{AnyLinear, BlockSparseLinear, Integer};
use serde::Serialize;

use crate::{Error, Model, next_scores};

/// Seconds of one round, at batch 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// Of the prompt as a whole.
    pub prefill: f64,
    /// Of each token after it.
    pub decode: Vec<f64>,
}

impl Round {
    /// Runs a prompt of `prefill` tokens, then `decode` tokens one by one. The text is always the same and means
    /// nothing.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run(model: &Model, prefill: usize, decode: usize) -> Result<Self, Error> {
        let vocabulary = model.vocabulary();
        let text: Vec<u32> =
            (0..prefill + decode).map(|at| (at * 31 % vocabulary) as u32).collect();
        let (prompt, rest) = text.split_at(prefill);
        let mut cache = model.cache();
        // Scores come back to the host, so the device is done when the clock is read.
        let mut seconds = |tokens: &[u32]| -> Result<f64, Error> {
            let clock = Instant::now();
            next_scores(model, tokens, &mut cache)?;
            Ok(clock.elapsed().as_secs_f64())
        };
        let prefill = seconds(prompt)?;
        let decode = rest.chunks(1).map(&mut seconds).collect::<Result<_, _>>()?;
        Ok(Self { prefill, decode })
    }
}

/// What is timed.
#[derive(burn::config::Config, Debug, PartialEq)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct Timing {
    /// Tokens of the prompt.
    #[config(default = 256)]
    #[cfg_attr(feature = "clap", arg(long, value_name = "TOKENS", default_value_t = Timing::new().prefill, help_heading = "Timing"))]
    pub prefill: usize,
    /// Tokens after it, one at a time, in each round.
    #[config(default = 32)]
    #[cfg_attr(feature = "clap", arg(long, value_name = "TOKENS", default_value_t = Timing::new().decode, help_heading = "Timing"))]
    pub decode: usize,
    /// Rounds that count, through all models in turn.
    #[config(default = 5)]
    #[cfg_attr(feature = "clap", arg(long, default_value_t = Timing::new().rounds, help_heading = "Timing"))]
    pub rounds: usize,
    /// Rounds before them, in which caches fill and kernels are compiled and tuned.
    #[config(default = 2)]
    #[cfg_attr(feature = "clap", arg(skip = Timing::new().warm_up))]
    pub warm_up: usize,
}

impl Timing {
    /// Checks that there is something to time, and that a model of `limit` positions has room for it.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self, limit: usize) -> Result<(), Error> {
        let Self { prefill, decode, rounds, .. } = *self;
        Error::at_least_one(&[("prefill", prefill), ("decode", decode), ("rounds", rounds)])?;
        Error::fits(prefill + decode, limit)
    }

    /// Times every model in every round, so that a slow minute slows each. The rounds of each model.
    ///
    /// # Errors
    /// If there is nothing to time, a model has too few positions, or the device fails.
    pub fn run(&self, models: &[(&Model, usize)]) -> Result<Vec<Vec<Round>>, Error> {
        let Self { prefill, decode, rounds, warm_up } = *self;
        models.iter().try_for_each(|(_, limit)| self.check(*limit))?;
        let mut all = vec![Vec::new(); models.len()];
        for round in 0..warm_up + rounds {
            for ((model, _), done) in models.iter().zip(&mut all) {
                let seconds = Round::run(model, prefill, decode)?;
                if round >= warm_up {
                    done.push(seconds);
                }
            }
        }
        Ok(all)
    }

    /// Tokens per second of the prompt and after it, over rounds.
    ///
    /// # Panics
    /// If there are no rounds.
    pub fn rates(&self, rounds: &[Round]) -> (Quartiles, Quartiles) {
        let prefill = rounds.iter().map(|round| self.prefill as f64 / round.prefill);
        let decode =
            rounds.iter().map(|round| self.decode as f64 / round.decode.iter().sum::<f64>());
        (Quartiles::of(prefill.collect()), Quartiles::of(decode.collect()))
    }
}

/// How much of the linear layers is stored.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LinearStorage {
    /// Linear layers.
    pub linears: usize,
    /// Of these, block-sparse ones that lack blocks.
    pub sparse: usize,
    /// Share of their weights that is removed.
    pub sparsity: f64,
    /// Bytes of the weights, with indices.
    pub bytes: usize,
    /// Bits of the integers that some of them are, the fewest.
    pub integer_bits: Option<u32>,
}

impl Model {
    /// What the linear layers store.
    pub fn storage(&mut self) -> LinearStorage {
        let linears = self.linears_mut();
        let sparse: Vec<&BlockSparseLinear> =
            linears.iter().filter_map(|(_, linear)| linear.as_sparse()).collect();
        LinearStorage {
            linears: linears.len(),
            sparse: sparse.iter().filter(|layer| layer.sparsity() > 0.0).count(),
            sparsity: sparsity(linears.iter().map(|(_, linear)| &**linear)),
            bytes: linears.iter().map(|(_, linear)| linear.bytes()).sum(),
            integer_bits: sparse
                .iter()
                .filter_map(|layer| layer.weight.integer())
                .map(Integer::bits)
                .min(),
        }
    }

    /// Share of the MLP weights that is removed, without the last `dense_last` layers.
    pub fn mlp_sparsity(&mut self, dense_last: usize) -> f64 {
        sparsity(self.mlps_mut(dense_last).iter().map(|(_, linear)| &**linear))
    }

    /// Bytes of all parameters, block indices included.
    pub fn bytes(&mut self) -> usize {
        let width = self.dtype().size();
        let numbers = self.num_params();
        let [packed, counted] = self
            .linears_mut()
            .into_iter()
            .filter_map(|(_, linear)| linear.as_sparse())
            .map(|layer| [layer.bytes(), layer.weight.values().shape().num_elements() * width])
            .fold([0; 2], |[sum, counted], [bytes, numbers]| [sum + bytes, counted + numbers]);
        numbers * width - counted + packed
    }
}

fn sparsity<'a>(linears: impl Iterator<Item = &'a AnyLinear>) -> f64 {
    let (mut removed, mut all) = (0.0, 0.0);
    for linear in linears {
        let size = linear.shape().iter().product::<usize>() as f64;
        removed += linear.sparsity() * size;
        all += size;
    }
    removed / all
}

/// Quartiles, between neighbours by proportion.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quartiles {
    /// A quarter of the numbers is below.
    pub lower: f64,
    /// Half of them are.
    pub median: f64,
    /// Three quarters are.
    pub upper: f64,
}

impl Quartiles {
    /// Of at least one number.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (values.len() - 1) as f64;
            let (low, high) = (values[place.floor() as usize], values[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        Self { lower: at(0.25), median: at(0.5), upper: at(0.75) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_neighbours() {
        let of = |values: &[f64]| {
            let Quartiles { lower, median, upper } = Quartiles::of(values.to_vec());
            [lower, median, upper]
        };
        assert_eq!(of(&[4.0, 1.0, 3.0, 2.0]), [1.75, 2.5, 3.25]);
        assert_eq!(of(&[5.0, 1.0, 4.0, 2.0, 3.0]), [2.0, 3.0, 4.0]);
        assert_eq!(of(&[7.0]), [7.0; 3]);
    }
}
