//! `blast sparsify`: dense weights in, packed ones out, in one shot.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use burn_blast_checkpoint::format::METADATA_KEY;
use burn_blast_checkpoint::{
    Checkpoint, DenseWeight, Entry, FileContent, FileMetadata, Orientation, Output, Shard, rewrite,
};
use burn_blast_kernels::budget::{Budget, LayerScores, erdos_renyi, global, kept_blocks};
use burn_blast_kernels::{BlockPattern, BlockSize};
use serde::Serialize;

use crate::args::SparsifyArgs;
use crate::error::Error;
use crate::progress::Progress;
use crate::report::{Layer, Rewrite, Total, percent, shortfall, table};
use crate::score::{Activations, scores};
use crate::select::{KNOWN, Selected, select};

/// What was done.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    rewrite: Rewrite,
    /// Filters that chose the weights.
    include: Vec<String>,
    /// Share of blocks that was to be removed.
    asked: f64,
    /// The pruned weights.
    layers: Vec<Layer>,
    /// Sums over them.
    total: Total,
    /// Weights left dense because they belong to the last layers.
    kept_dense: Vec<String>,
}

/// Prunes a checkpoint.
///
/// Scores are read first, so that the size of everything is known when a file's header is written; weights are
/// then read again. With a global budget all weights are scored before the first file is written, otherwise the
/// weights of a file just before it is written.
pub fn sparsify(args: &SparsifyArgs, progress: &Progress) -> Result<Report, Error> {
    let (block, budget) = args.check()?;
    let (input, output) = (&args.input, &args.out.output);
    let checkpoint = Checkpoint::open(input)?;
    let staging = Output::new(&checkpoint.source, output, args.out.force)?;
    let Selected { weights, kept_dense } = select(&checkpoint, args, block)?;
    let activations = args.activations.as_deref().map(Activations::open).transpose()?;
    if let Some(activations) = &activations {
        weights.iter().try_for_each(|weight| activations.of(weight).map(drop))?;
    }
    let mut scorer = Scorer { block, activations, done: HashMap::new() };
    let asked = args.blocks.blocks(None).sparsity;
    let kept = kept(asked, budget, &weights, &mut scorer, progress)?;

    let order: Vec<&str> = weights.iter().map(|weight| weight.name.as_str()).collect();
    let (mut layers, mut pruned) = (HashMap::new(), HashMap::new());
    for (weight, kept) in weights.iter().zip(kept) {
        pruned.insert(weight.name.as_str(), (weight, kept));
    }
    let written = rewrite(&checkpoint, staging, progress, |shard| {
        let mine = shard.tensors().filter_map(|(name, _)| pruned.get(name).copied());
        let mine: Vec<(&DenseWeight<'_>, usize)> = mine.collect();
        scorer.score(mine.iter().map(|(weight, _)| *weight), progress)?;
        let mut patterns = HashMap::new();
        for (weight, kept) in mine {
            let pattern = BlockPattern::best(weight.shape, block, &scorer.take(weight), kept);
            let (dtype, orientation) = (weight.tensor.dtype(), weight.layout.orientation);
            let layer = Layer::new(&weight.name, &pattern, dtype, orientation, !args.dense);
            layers.insert(weight.name.clone(), layer);
            patterns.insert(weight.name.as_str(), (weight, pattern));
        }
        content(shard, patterns, args.dense)
    })?;
    let layers: Vec<Layer> = order.iter().filter_map(|name| layers.remove(*name)).collect();
    let include = match args.include.as_slice() {
        [] => KNOWN.map(str::to_owned).to_vec(),
        filters => filters.iter().map(ToString::to_string).collect(),
    };
    Ok(Report {
        rewrite: Rewrite::new(input, output, &checkpoint, written),
        include,
        asked,
        total: Total::of(&layers),
        layers,
        kept_dense,
    })
}

/// Blocks each weight keeps.
fn kept<'a>(
    sparsity: f64,
    budget: Budget,
    weights: &'a [DenseWeight<'a>],
    scorer: &mut Scorer,
    progress: &Progress,
) -> Result<Vec<usize>, Error> {
    let block = scorer.block;
    let grid =
        |weight: &DenseWeight<'_>| (weight.shape.block_rows(block), weight.shape.block_cols(block));
    let grids: Vec<(usize, usize)> = weights.iter().map(grid).collect();
    let share = |sparsity: f64, (rows, cols): (usize, usize)| kept_blocks(sparsity, rows * cols);
    Ok(match budget {
        Budget::Uniform => grids.iter().map(|grid| share(sparsity, *grid)).collect(),
        Budget::ErdosRenyi => {
            let densities = erdos_renyi(&grids, 1.0 - sparsity);
            grids.iter().zip(densities).map(|(grid, density)| share(1.0 - density, *grid)).collect()
        }
        Budget::Global { min_density, max_density } => {
            scorer.score(weights.iter(), progress)?;
            let scored = |(weight, grid): (&DenseWeight<'_>, &(usize, usize))| LayerScores {
                scores: scorer.done[&weight.name].clone(),
                blocks: grid.0 * grid.1,
                uniform_count: share(sparsity, *grid),
            };
            let layers: Vec<LayerScores> = weights.iter().zip(&grids).map(scored).collect();
            global(&layers, min_density, max_density)
        }
    })
}

/// Scores of weights by block number, each read once.
struct Scorer {
    block: BlockSize,
    activations: Option<Activations>,
    done: HashMap<String, Vec<f32>>,
}

impl Scorer {
    /// Scores the weights that have not been scored yet.
    fn score<'a>(
        &mut self,
        weights: impl Iterator<Item = &'a DenseWeight<'a>>,
        progress: &Progress,
    ) -> Result<(), Error> {
        let open: Vec<_> = weights.filter(|weight| !self.done.contains_key(&weight.name)).collect();
        let bytes = |weight: &&DenseWeight<'_>| weight.tensor.bytes().len() as u64;
        progress.begin("scoring blocks", open.iter().map(bytes).sum());
        for weight in open {
            let features = self.activations.as_ref().map(|all| all.of(weight)).transpose()?;
            let scores = scores(weight, self.block, features.as_deref());
            if let Some(block) = scores.iter().position(|score| !score.is_finite()) {
                weight.tensor.check_finite(&weight.name)?;
                return Err(Error::Score { name: weight.name.clone(), block });
            }
            self.done.insert(weight.name.clone(), scores);
            progress.advance(bytes(&weight));
        }
        Ok(())
    }

    /// The scores of a weight, which are not needed again.
    fn take(&mut self, weight: &DenseWeight<'_>) -> Vec<f32> {
        self.done.remove(&weight.name).expect("scored just before")
    }
}

/// The file that takes the place of `shard`.
fn content<'a>(
    shard: &'a Shard,
    mut patterns: HashMap<&str, (&DenseWeight<'a>, BlockPattern)>,
    dense: bool,
) -> Result<FileContent<'a>, Error> {
    let mut metadata = shard.metadata.clone();
    if !dense && !patterns.is_empty() {
        let out_in = patterns.values().map(|(weight, _)| weight);
        let out_in = out_in.filter(|weight| weight.layout.orientation == Orientation::OutIn);
        let out_in: BTreeSet<String> = out_in.map(|weight| weight.name.clone()).collect();
        let text = match FileMetadata::read(shard)? {
            // Burn's own file stays one.
            Some(before) if before.out_in.is_none() && out_in.is_empty() => before.text(),
            before => {
                let before = before.and_then(|before| before.out_in).unwrap_or_default();
                FileMetadata::new(before.into_iter().chain(out_in).collect()).text()
            }
        };
        metadata.insert(METADATA_KEY.to_owned(), text);
    }
    let mut entries = Vec::new();
    for (name, tensor) in shard.tensors() {
        match patterns.remove(name) {
            None => entries.push(Entry::copy(name, tensor)),
            Some((weight, pattern)) if dense => {
                entries.push(Entry::masked(weight.clone(), pattern));
            }
            Some((weight, pattern)) => entries.extend(Entry::packed(weight.clone(), pattern)),
        }
    }
    Ok(FileContent { metadata, entries })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", table(&self.layers))?;
        if !self.kept_dense.is_empty() {
            writeln!(f, "last layers left dense: {}", self.kept_dense.join(", "))?;
        }
        let removed = percent(self.total.sparsity);
        let shortfall = shortfall(
            self.total.sparsity,
            self.asked,
            self.layers.iter().map(|layer| layer.blocks),
        );
        self.rewrite.write(f, format_args!("{removed} of blocks removed{shortfall}"))
    }
}
