//! Inputs made from good ones, where there is no fuzzer.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What readers of text and numbers stumble over.
const TOKENS: [&[u8]; 24] = [
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"\"\"",
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"Infinity",
    b"18446744073709551615",
    b"9007199254740993",
    b"0.5",
    b"../",
    b"\\u0000",
    b"\\ud83d",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"\n",
    b"{\"text\": ",
];

/// Changes of one to a few places.
#[derive(Debug)]
pub struct Mutator {
    random: ChaCha8Rng,
}

impl Mutator {
    /// The same changes for the same seed.
    pub fn new(seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// An input made from one of the seeds.
    ///
    /// # Panics
    /// If there is none.
    pub fn next(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds.choose(&mut self.random).expect("a target has seeds").clone();
        for _ in 0..self.random.random_range(1..=4) {
            self.change(&mut input, seeds);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let random = &mut self.random;
        let at = random.random_range(0..=input.len());
        // Numbers and headers are at the start.
        let at = if random.random_bool(0.5) { at.min(512) } else { at };
        let length = random.random_range(0..=(input.len() - at).min(32));
        match random.random_range(0..6) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => input[at] = random.random(),
            2 => {
                let token = TOKENS.choose(random).expect("there are some");
                input.splice(at..at + length.min(8), token.iter().copied());
            }
            3 => input.truncate(at),
            4 => drop(input.drain(at..at + length)),
            _ => {
                let other = seeds.choose(random).expect("a target has seeds");
                let from = random.random_range(0..=other.len());
                let to = (from + random.random_range(0..=64)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
}
