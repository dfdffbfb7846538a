//! Norms of activations, from a model to `blast sparsify --score wanda`.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use burn_blast::module::AnyLinear;
use burn_blast_cli::args::Cli;
use burn_blast_kernels::budget::keep_top;
use burn_blast_models::{Activations, Model, ModelFolder, Precision};
use clap::Parser;
use safetensors::{Dtype, SafeTensors};

use crate::common::{self, Expected, folder, load, open};

const BLOCK: usize = 8;

/// The norms of all features by a plain sum over windows.
fn by_hand(model: &Model, text: &[u32], window: usize, layer: &str) -> Vec<f32> {
    let mut sums: Vec<f64> = Vec::new();
    for part in text.chunks(window) {
        model.observe(model.tokens(&[part]), &mut |name, input| {
            if name == layer {
                let width = input.dims()[2];
                sums.resize(width, 0.0);
                for (at, x) in common::numbers(input).into_iter().enumerate() {
                    sums[at % width] += f64::from(x) * f64::from(x);
                }
            }
        });
    }
    sums.into_iter().map(|sum| sum.sqrt() as f32).collect()
}

fn blast(words: &[&str]) -> Result<(), String> {
    let cli =
        Cli::try_parse_from([&["blast"], words].concat()).map_err(|error| error.to_string())?;
    burn_blast_cli::run(&cli).map(|_| ()).map_err(|error| error.to_string())
}

/// Scores of all blocks of `[d_input, d_output]`, row by row, as the documents define them.
fn scores(dense: Tensor<2>, norms: &[f32]) -> Vec<f32> {
    let [rows, cols] = dense.dims();
    let (grid_rows, grid_cols) = (rows.div_ceil(BLOCK), cols.div_ceil(BLOCK));
    let mut sums = vec![0.0_f64; grid_rows * grid_cols];
    for (at, w) in common::numbers(dense).into_iter().enumerate() {
        let (row, col) = (at / cols, at % cols);
        sums[row / BLOCK * grid_cols + col / BLOCK] += f64::from(w * norms[row]).powi(2);
    }
    sums.into_iter().map(|sum| sum.sqrt() as f32).collect()
}

#[test]
fn blast_keeps_the_blocks_these_norms_call_for() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let text = |path: &Path| path.to_str().unwrap().to_string();
    for name in ["llama3", "gpt2"] {
        let (model, tokens) = (load(name, Precision::F32), Expected::of(name).texts()[0].clone());
        let mut heard = Vec::new();
        let found = Activations::collect(&model, &tokens, 10, |done| heard.push(done)).unwrap();
        assert_eq!(heard, [10, 20, 24]);
        let file = path(&format!("{name}.safetensors"));
        found.save(open(name).config(), &file).unwrap();
        let out = path(name);
        let (from, to) = (text(&folder(name)), text(&out));
        let norms = text(&file);
        let settings =
            ["--block", "8", "--sparsity", "0.5", "--score", "wanda", "--activations", &norms];
        blast(&[&["sparsify", &from, &to], &settings[..]].concat()).unwrap();

        let mut dense = model.clone();
        let mut sparse =
            ModelFolder::open(&out).unwrap().load(&Device::flex(), Precision::F32).unwrap();
        let pairs = dense.mlps_mut(0).into_iter().zip(sparse.mlps_mut(0));
        let mut moved = 0;
        for ((layer, before), (_, after)) in pairs {
            let norms = &found.norms[&layer];
            let wanted = by_hand(&model, &tokens, 10, &layer);
            assert!(common::distance(norms, &wanted) < 1e-5, "{layer}");
            let AnyLinear::Sparse(after) = after else { panic!("{layer} is not packed") };
            let blocks = after.pattern();
            let kept: Vec<usize> =
                blocks.blocks().map(|(row, col)| row * blocks.block_cols() + col).collect();
            let best = |norms: &[f32]| {
                let scores = scores(before.to_dense(), norms);
                let mut best: Vec<usize> = keep_top(&scores, scores.len() / 2);
                best.sort_unstable();
                best
            };
            let mut sorted = kept.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, best(norms), "{layer}");
            moved += usize::from(sorted != best(&vec![1.0; norms.len()]));
        }
        assert!(moved > 0, "the activations must matter for the test to mean anything");
    }
}

#[test]
fn names_are_those_of_either_kind_of_checkpoint() {
    let (model, scratch) = (load("gpt2", Precision::F32), tempfile::tempdir().unwrap());
    let file = scratch.path().join("norms.safetensors");
    let found = Activations::collect(&model, &[1, 2, 3], 8, |_| ()).unwrap();
    found.save(open("gpt2").config(), &file).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let entries = SafeTensors::deserialize(&bytes).unwrap();
    for name in ["h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_fc.weight"] {
        let entry = entries.tensor(name).unwrap();
        assert_eq!(
            (entry.dtype(), entry.shape()),
            (Dtype::F32, &[found.norms["transformer.h.0.mlp.c_fc"].len()][..])
        );
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
}

#[test]
fn bad_requests_are_refused() {
    let model = load("gpt2", Precision::F32);
    let refuse = |text: &[u32], window| {
        Activations::collect(&model, text, window, |_| ()).unwrap_err().to_string()
    };
    assert_eq!(refuse(&[1], 0), "window is 0, but must be at least 1");
    assert_eq!(refuse(&[], 8), "the text is empty");
    assert!(refuse(&[999], 8).contains("gives token 999"));
    let found = Activations::collect(&model, &[1], 1, |_| ()).unwrap();
    let error = found.save(open("gpt2").config(), "no/such/folder/file").unwrap_err().to_string();
    assert!(error.starts_with("no/such/folder/file: "), "{error}");
}
