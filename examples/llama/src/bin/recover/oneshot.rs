//! Sparsifying a checkpoint without training.

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use burn_blast::calibrate::Calibration;
use burn_blast::prune::keep_top;
use burn_blast::{
    BlockMask, BlockPattern, BlockSize, BlockSparseLinear, BlockSparseWeight, MatrixShape,
    functions,
};
use llama::{Checkpoint, Form, Linear, Model, Precision, open_device};

use crate::args::{Method, OneShotArgs};
use crate::data::{Batch, Corpus};
use crate::run::check_blocks;

/// Sequences that go through the model at once.
const BATCH: usize = 8;

/// Sparsifies, writes, and prints what was kept.
///
/// # Errors
/// If a setting is not valid, or a file cannot be read or written.
pub fn run(args: &OneShotArgs) -> Result<()> {
    check_blocks(&args.blocks)?;
    ensure!(!args.out.exists(), "{} exists: choose another OUT, or remove it", args.out.display());
    let checkpoint = Checkpoint::open(&args.model)?;
    let device = open_device(args.backend)?;
    let mut model = checkpoint.load(&device, Precision::F32)?;
    let sample = match args.method {
        Method::Magnitude => Vec::new(),
        _ => sample(args, &checkpoint, &device)?,
    };
    let names: Vec<String> =
        model.mlps_mut(args.blocks.keep_last).into_iter().map(|(name, _)| name).collect();
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

/// Path of the layer a weight is in.
fn layer_of(name: &str) -> &str {
    name.split_once(".mlp.").map_or(name, |(layer, _)| layer)
}

fn sample(args: &OneShotArgs, checkpoint: &Checkpoint, device: &Device) -> Result<Vec<Batch>> {
    let path = args.corpus.as_ref().context("this method needs a text: name it with --corpus")?;
    ensure!(args.sequences > 0 && args.context > 0, "--sequences and --context must be at least 1");
    let corpus = Corpus::read(path, &checkpoint.tokenizer()?, args.context)?;
    let text = crate::args::TextArgs { corpus: path.clone(), context: args.context, batch: BATCH };
    let batches = args.sequences.div_ceil(BATCH);
    Ok((0..batches).map(|number| corpus.batch(&text, 0, number, device)).collect())
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
    linear: &Linear,
    calibration: Option<&Calibration>,
    args: &OneShotArgs,
) -> Result<Linear> {
    let (weight, block) = (linear.to_dense(), BlockSize::new(args.blocks.block)?);
    let pattern = match calibration {
        Some(calibration) => calibration.select(weight.clone(), block, args.blocks.sparsity),
        None => largest(&weight, block, args.blocks.sparsity)?,
    };
    let values = match calibration {
        Some(calibration) if args.method == Method::WandaCorrected => {
            calibration.correct(weight, &pattern, args.damping)?
        }
        _ => functions::pack(weight, &pattern),
    };
    let weight = BlockSparseWeight::new(values, pattern);
    Ok(Linear::Sparse(BlockSparseLinear::new(weight, linear.bias())))
}

/// The pattern of the blocks with the largest norms.
fn largest(
    weight: &burn::tensor::Tensor<2>,
    block: BlockSize,
    sparsity: f64,
) -> Result<BlockPattern> {
    let [rows, cols] = weight.dims();
    let shape = MatrixShape::new(rows, cols)?;
    let full = BlockPattern::dense(shape, block);
    let norms = functions::block_norms(functions::pack(weight.clone(), &full), &full).into_data();
    let mut scores = vec![0.0; full.block_count()];
    for ((row, col), norm) in full.blocks().zip(norms.iter::<f32>()) {
        scores[row * full.block_cols() + col] = norm;
    }
    let keep = (((1.0 - sparsity) * scores.len() as f64).round() as usize).max(1);
    let mask = BlockMask::from_indices(shape, block, keep_top(&scores, keep));
    Ok(BlockPattern::from_mask(&mask))
}
