//! Writes a checkpoint of made-up numbers, to try and time `blast` without downloading a model:
//! `cargo run --release -p burn-blast-cli --example synthetic_checkpoint -- llama FOLDER LAYERS D_MODEL D_FF SHARDS`

#[path = "../tests/blast/common/synthetic.rs"]
mod synthetic;

use std::path::Path;

use safetensors::Dtype;
use synthetic::{Family, Model};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [family, folder, numbers @ ..] = words.as_slice() else { return usage() };
    let family = match family.as_str() {
        "llama" => Family::Llama,
        "gpt2" => Family::Gpt2,
        _ => return usage(),
    };
    let numbers: Result<Vec<usize>, _> = numbers.iter().map(|word| word.parse()).collect();
    let Ok(&[layers, d_model, d_ff, shards]) = numbers.as_deref() else { return usage() };
    let model = Model { family, dtype: Dtype::BF16, layers, d_model, d_ff, vocab: 1024, shards };
    model.write(Path::new(folder));
}

fn usage() {
    eprintln!("give llama or gpt2, FOLDER LAYERS D_MODEL D_FF SHARDS");
}
