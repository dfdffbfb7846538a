//! Sparsifying a checkpoint without training.

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use burn_blast::calibrate::Calibration;
use burn_blast::module::AnyLinear;
use burn_blast::module::{BlockSparseLinear, BlockSparseWeight};
use burn_blast::{BlockPattern, BlockSize, MatrixShape, functions};
use burn_blast_kernels::budget::kept_blocks;
use burn_blast_models::{Checkpoint, Form, Model, Precision};

use crate::args::{Method, OneShotArgs, TextArgs};
use crate::data::{Batch, Corpus};
use crate::run::{check_blocks, mlp_names};

/// Sequences that go through the model at once.
const BATCH: usize = 8;

/// Sequences to calibrate on, tokens in each, and the damping, unless asked for otherwise.
const SEQUENCES: usize = 64;
const CONTEXT: usize = 128;
const DAMPING: f64 = 0.01;

/// Sparsifies, writes, and prints what was kept.
///
/// # Errors
/// If a setting is not valid, or a file cannot be read or written.
pub fn run(args: &OneShotArgs) -> Result<()> {
    check_blocks(&args.blocks)?;
    check_used(args)?;
    ensure!(!args.out.exists(), "{} exists: choose another OUT, or remove it", args.out.display());
    let checkpoint = Checkpoint::open(&args.model)?;
    let device = args.backend.open()?;
    let mut model = checkpoint.load(&device, Precision::F32)?;
    let sample = match args.method {
        Method::Magnitude => Vec::new(),
        _ => sample(args, &checkpoint, &device)?,
    };
    let names = mlp_names(&mut model, args.blocks.keep_last)?;
    // A layer's weights are chosen together: their inputs were seen before any of them changed.
    for layer in names.chunk_by(|one, two| layer_of(one) == layer_of(two)) {
        let calibrations = observe(&model, layer, &sample, &device);
        for ((name, linear), calibration) in model
            .mlps_mut(args.blocks.keep_last)
            .into_iter()
            .filter(|(name, _)| layer.contains(name))
            .zip(calibrations)
        {
            *linear = sparse(linear, calibration.as_ref(), args)
                .with_context(|| format!("{name} cannot be sparsified"))?;
        }
    }
    checkpoint.save(&model, &args.out, Form::Packed)?;
    println!("{} is written", args.out.display());
    Ok(())
}

/// Refuses options that the method does not use.
fn check_used(args: &OneShotArgs) -> Result<()> {
    let calibrates = args.method != Method::Magnitude;
    for (option, given) in [
        ("--corpus", args.corpus.is_some()),
        ("--sequences", args.sequences.is_some()),
        ("--context", args.context.is_some()),
    ] {
        ensure!(
            calibrates || !given,
            "{option} has no effect with --method magnitude: leave it out, or take another method"
        );
    }
    ensure!(
        args.method == Method::WandaCorrected || args.damping.is_none(),
        "--damping has no effect without --method wanda-corrected: leave it out, or take that method"
    );
    Ok(())
}

/// Path of the layer a weight is in.
fn layer_of(name: &str) -> &str {
    name.split_once(".mlp.").map_or(name, |(layer, _)| layer)
}

fn sample(args: &OneShotArgs, checkpoint: &Checkpoint, device: &Device) -> Result<Vec<Batch>> {
    let path = args.corpus.as_ref().context("this method needs a text: name it with --corpus")?;
    let sequences = args.sequences.unwrap_or(SEQUENCES);
    let context = args.context.unwrap_or(CONTEXT);
    ensure!(sequences > 0 && context > 0, "--sequences and --context must be at least 1");
    let corpus = Corpus::of(checkpoint, path, context)?;
    let batch = |number: usize| {
        let batch = BATCH.min(sequences - number * BATCH);
        let text = TextArgs { corpus: path.clone(), context, batch };
        corpus.batch(&text, 0, number, device)
    };
    Ok((0..sequences.div_ceil(BATCH)).map(batch).collect())
}

/// What the named weights of a layer take, by the model as it is now: the layers before are sparse already.
fn observe(
    model: &Model,
    names: &[String],
    sample: &[Batch],
    device: &Device,
) -> Vec<Option<Calibration>> {
    let mut all: Vec<Option<Calibration>> = vec![None; names.len()];
    for batch in sample {
        model.observe(batch.inputs.clone(), &mut |name, input| {
            if let Some(at) = names.iter().position(|wanted| wanted == name) {
                let width = input.dims()[2];
                all[at].get_or_insert_with(|| Calibration::new(width, device)).add(input);
            }
        });
    }
    all
}

/// The layer with the share of its blocks that stays.
fn sparse(
    linear: &AnyLinear,
    calibration: Option<&Calibration>,
    args: &OneShotArgs,
) -> Result<AnyLinear> {
    let (weight, block) = (linear.to_dense(), BlockSize::new(args.blocks.block)?);
    let pattern = match calibration {
        Some(calibration) => calibration.select(weight.clone(), block, args.blocks.sparsity),
        None => {
            let norms = functions::dense_block_norms(weight.clone(), block);
            let [rows, cols] = linear.shape();
            let keep = kept_blocks(args.blocks.sparsity, norms.len());
            BlockPattern::best(MatrixShape::new(rows, cols)?, block, &norms, keep)
        }
    };
    let values = match calibration {
        Some(calibration) if args.method == Method::WandaCorrected => {
            calibration.correct(weight, &pattern, args.damping.unwrap_or(DAMPING))?
        }
        _ => functions::pack(weight, &pattern),
    };
    let weight = BlockSparseWeight::new(values, pattern);
    Ok(AnyLinear::Sparse(BlockSparseLinear::new(weight, linear.bias())))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::args::SparsityArgs;
    use crate::data::tests::file;
    use crate::loss;

    fn args(folder: &Path, out: &str, method: Method, corpus: Option<&Path>) -> OneShotArgs {
        OneShotArgs {
            model: folder.join("dense"),
            out: folder.join(out),
            blocks: SparsityArgs { sparsity: 0.5, block: 8, keep_last: 1 },
            method,
            corpus: corpus.map(Path::to_path_buf),
            sequences: corpus.map(|_| 8),
            context: corpus.map(|_| 32),
            damping: None,
            backend: burn_blast_models::Backend::Flex,
        }
    }

    #[test]
    fn every_method_removes_its_share_and_least_squares_stays_closest() {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "model_type": "llama", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2,
        });
        let checkpoint = Checkpoint::new(config).unwrap();
        let dense = checkpoint.config().init_normal(&Device::flex(), 2).unwrap();
        checkpoint.save(&dense, folder.path().join("dense"), Form::Dense).unwrap();
        let text = file(".txt", &"pack my box with five dozen liquor jugs. ".repeat(40));
        // Least squares is about texts like the sample.
        let like: Vec<u32> = b"five dozen jugs with my liquor box".map(u32::from).to_vec();
        let tokens = dense.tokens(&[&like]);
        let (features, _) = dense.trace(tokens.clone());
        let mut distances = Vec::new();
        for (name, method) in [
            ("magnitude", Method::Magnitude),
            ("wanda", Method::Wanda),
            ("corrected", Method::WandaCorrected),
        ] {
            let text = (method != Method::Magnitude).then_some(text.path());
            let args = args(folder.path(), name, method, text);
            run(&args).unwrap();
            let mut sparse =
                Checkpoint::open(&args.out).unwrap().load(&Device::flex(), Precision::F32).unwrap();
            let all = sparse.mlps_mut(0).into_iter().map(|(_, linear)| linear.sparsity());
            assert_eq!(all.collect::<Vec<_>>(), [0.5, 0.5, 0.5, 0.0, 0.0, 0.0], "{name}");
            let (ours, _) = sparse.trace(tokens.clone());
            distances.push(loss::features(ours, features.clone()).into_scalar::<f32>());
        }
        assert!(distances[2] < distances[0] && distances[2] < distances[1], "{distances:?}");
    }

    #[test]
    fn the_sample_has_as_many_sequences_as_were_asked_for() {
        let text = file(".txt", &"pack my box with five dozen liquor jugs. ".repeat(40));
        let checkpoint = Checkpoint::new(crate::train::tests::config()).unwrap();
        for sequences in [3, 8, 12] {
            let mut args = args(Path::new(""), "out", Method::Wanda, Some(text.path()));
            args.sequences = Some(sequences);
            let sample = sample(&args, &checkpoint, &Device::flex()).unwrap();
            let found: usize = sample.iter().map(|batch| batch.inputs.dims()[0]).sum();
            assert_eq!(found, sequences);
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_before_anything_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let refuse = |args: &OneShotArgs| format!("{:#}", run(args).unwrap_err());
        let mut bad = args(folder.path(), "out", Method::Magnitude, None);
        bad.blocks.sparsity = 1.5;
        assert!(refuse(&bad).contains("--sparsity must be at least 0 and below 1"));
        let mut unused = args(folder.path(), "out", Method::Magnitude, Some(Path::new("text")));
        assert!(refuse(&unused).starts_with("--corpus has no effect with --method magnitude"));
        unused.method = Method::Wanda;
        unused.damping = Some(0.1);
        let error = refuse(&unused);
        assert!(error.starts_with("--damping has no effect without --method wanda-corrected"));
        let there = args(folder.path(), "", Method::Magnitude, None);
        assert!(refuse(&there).contains("exists: choose another OUT"));
        let missing = args(folder.path(), "out", Method::Magnitude, None);
        assert!(refuse(&missing).contains("config.json"));
    }
}
