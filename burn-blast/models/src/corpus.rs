//! Texts as tokens, and which of them a step sees.

use burn::config::Config;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Error, ModelFolder, Texts, Tokenizer};

/// One token in this many is held out, at the end.
const HELD_OUT: usize = 10;

/// How a text is cut into training data.
#[derive(Config, Debug, PartialEq, Copy)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct Sequences {
    /// Tokens in a sequence.
    #[config(default = 128)]
    #[cfg_attr(feature = "clap", arg(long, value_name = "TOKENS", default_value_t = Sequences::new().context))]
    pub context: usize,
    /// Sequences that pass through the model at once.
    #[config(default = 8)]
    #[cfg_attr(feature = "clap", arg(long, value_name = "SEQUENCES", default_value_t = Sequences::new().batch))]
    pub batch: usize,
}

impl Sequences {
    /// Checks that both are at least 1.
    ///
    /// # Errors
    /// If one is 0.
    pub fn check(&self) -> Result<(), Error> {
        Error::at_least_one(&[("context", self.context), ("batch", self.batch)])
    }
}

/// Tokens to train on, and tokens held out.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// To train or calibrate on.
    pub train: Vec<u32>,
    /// To evaluate on.
    pub valid: Vec<u32>,
}

/// Sequences and the token that follows each of their positions.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[batch, context]`.
    pub inputs: Tensor<2, Int>,
    /// `[batch * context]`.
    pub targets: Tensor<1, Int>,
}

impl Corpus {
    /// Sequences that an evaluation scores at most, unless asked for otherwise.
    pub const EVALUATED: usize = 160;

    /// Texts for the model of a checkpoint.
    ///
    /// # Errors
    /// As [`new`](Self::new); if the model has fewer positions than a sequence has tokens, or does not know a token
    /// of the texts.
    pub fn of(checkpoint: &ModelFolder, texts: &Texts, context: usize) -> Result<Self, Error> {
        Error::fits(context, checkpoint.config().context())?;
        let corpus = Self::new(texts, &checkpoint.tokenizer()?, context)?;
        let vocabulary = checkpoint.config().vocabulary();
        let foreign = corpus.tokens().find(|token| *token as usize >= vocabulary);
        foreign.map_or(Ok(corpus), |token| Err(Error::Token { token, vocabulary }))
    }

    /// The tokens of texts, the last tenth held out.
    ///
    /// # Errors
    /// If the tokenizer cannot handle a text, or there are too few tokens for one sequence of either part.
    pub fn new(texts: &Texts, tokenizer: &Tokenizer, context: usize) -> Result<Self, Error> {
        let mut train = texts.tokens(tokenizer)?;
        let valid = train.split_off(train.len() - train.len() / HELD_OUT);
        if valid.len() <= context || train.len() <= context {
            let tokens = train.len() + valid.len();
            let reason = format!(
                "{tokens} tokens, of which a tenth is held out, are too few for sequences of {context}; take a longer \
                 text or a shorter context"
            );
            return Err(Error::unusable(&texts.path, reason));
        }
        Ok(Self { train, valid })
    }

    /// Several texts as one, to train on and to hold out in turn.
    ///
    /// # Panics
    /// If there are none.
    pub fn joined(all: &[Self]) -> Self {
        assert!(!all.is_empty(), "there must be a text");
        let concat = |part: fn(&Self) -> &Vec<u32>| all.iter().flat_map(part).copied().collect();
        Self { train: concat(|one| &one.train), valid: concat(|one| &one.valid) }
    }

    /// A number that changes with any token, so that a resumed run can check that its corpus is unchanged.
    pub fn fingerprint(&self) -> u64 {
        // FNV-1a over tokens.
        self.tokens().fold(0xcbf2_9ce4_8422_2325, |hash, token| {
            (hash ^ u64::from(token)).wrapping_mul(0x0100_0000_01b3)
        })
    }

    fn tokens(&self) -> impl Iterator<Item = u32> {
        self.train.iter().chain(&self.valid).copied()
    }

    /// A batch of training sequences: a function of seed and number alone, so a resumed run needs no reader position.
    pub fn batch(&self, sequences: Sequences, seed: u64, number: usize, device: &Device) -> Batch {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(number as u64 + 1);
        let last = (self.train.len() - sequences.context) as u64;
        let starts: Vec<usize> =
            (0..sequences.batch).map(|_| random.random_range(0..last) as usize).collect();
        windows(&self.train, &starts, sequences.context, device)
    }

    /// The held-out batches, always the same ones: the whole part, or at most `most` sequences spread over it.
    pub fn held_out(&self, sequences: Sequences, most: usize, device: &Device) -> Vec<Batch> {
        let last = self.valid.len() - sequences.context - 1;
        let count = (self.valid.len() / sequences.context).min(most).max(1);
        let starts: Vec<usize> = (0..count).map(|at| at * last / count).collect();
        let batches = starts.chunks(sequences.batch);
        batches.map(|starts| windows(&self.valid, starts, sequences.context, device)).collect()
    }
}

fn windows(tokens: &[u32], starts: &[usize], context: usize, device: &Device) -> Batch {
    let take = |shift: usize| -> Vec<i32> {
        let rows = starts.iter().flat_map(|start| &tokens[start + shift..start + shift + context]);
        rows.map(|token| *token as i32).collect()
    };
    Batch {
        inputs: Tensor::from_data(TensorData::new(take(0), [starts.len(), context]), device),
        targets: Tensor::from_data(TensorData::new(take(1), [starts.len() * context]), device),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::*;

    fn text(context: usize) -> Sequences {
        Sequences { context, batch: 3 }
    }

    /// A temporary file with this content.
    fn file(end: &str, content: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::Builder::new().suffix(end).tempfile().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    }

    #[test]
    fn targets_are_the_inputs_one_token_later_and_a_number_is_always_the_same_batch() {
        let device = Device::flex();
        let corpus = Corpus { train: (0..200).collect(), valid: (200..260).collect() };
        let batch = corpus.batch(text(5), 7, 3, &device);
        let shifted = (batch.inputs.clone().reshape([15]) + 1).into_data();
        assert_eq!(shifted, batch.targets.into_data());
        let inputs = |number| corpus.batch(text(5), 7, number, &device).inputs.into_data();
        assert_eq!(inputs(3), batch.inputs.into_data());
        assert_ne!(inputs(4), inputs(3));
        let held_out = corpus.held_out(text(5), Corpus::EVALUATED, &device);
        let sequences: usize = held_out.iter().map(|batch| batch.inputs.dims()[0]).sum();
        assert_eq!(sequences, 12);
    }

    #[test]
    fn json_lines_are_texts_one_after_the_other() {
        let file = file(".jsonl", "{\"text\": \"abc\"}\n\n{\"text\": \"defghijkl\"}\n");
        let texts = Texts::read(file.path()).unwrap();
        let corpus = Corpus::new(&texts, &Tokenizer::Bytes, 0).unwrap();
        assert_eq!(corpus.train, b"abcdefghijk".map(u32::from));
        assert_eq!(corpus.valid, [u32::from(b'l')]);
    }

    #[test]
    fn a_token_the_model_does_not_know_is_refused() {
        let file = file(".txt", &"tokens outside the vocabulary ".repeat(20));
        let config = json!({
            "model_type": "gpt2", "vocab_size": 300, "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 16,
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        // One token a word, all of them 300.
        let tokenizer = json!({
            "model": { "type": "WordLevel", "vocab": { "a": 300 }, "unk_token": "a" },
            "pre_tokenizer": { "type": "Whitespace" },
        });
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let checkpoint = ModelFolder::open(folder.path()).unwrap();
        let texts = Texts::read(file.path()).unwrap();
        let error = Corpus::of(&checkpoint, &texts, 4).unwrap_err().to_string();
        assert!(error.contains("token 300, but the model knows only those below 300"), "{error}");
    }
}
