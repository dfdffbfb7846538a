//! `blast sparsify`: dense weights in, packed ones out, in one shot.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use burn_blast_checkpoint::format::METADATA_KEY;
use burn_blast_checkpoint::{
    Checkpoint, DenseWeight, Entry, FileContent, FileMetadata, Orientation, Output, Shard, rewrite,
};
use burn_blast_kernels::budget::{Budget, LayerScores, erdos_renyi, global, kept_blocks};
use burn_blast_kernels::{BlockPattern, BlockSize};
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::Error;
use crate::activations::Activations;
use crate::progress::Progress;
use crate::report::{Layer, Total, percent, table};
use crate::score::scores;
use crate::select::{KNOWN, Rules, Selected, select};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which weights.
    pub rules: Rules,
    /// Share of blocks to remove.
    pub sparsity: f64,
    /// How that is shared.
    pub budget: Budget,
    /// Norms of input features, for the score of Wanda.
    pub activations: Option<PathBuf>,
    /// Write dense weights with zero blocks.
    pub dense: bool,
    /// Replace the output if it is there.
    pub force: bool,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The input.
    pub input: PathBuf,
    /// The output.
    pub output: PathBuf,
    /// Filters that chose the weights.
    pub include: Vec<String>,
    /// The pruned weights.
    pub layers: Vec<Layer>,
    /// Sums over them.
    pub total: Total,
    /// Weights left dense because they belong to the last layers.
    pub kept_dense: Vec<String>,
    /// Bytes of all tensors of the input.
    pub bytes_in: u64,
    /// Bytes of all tensors of the output.
    pub bytes_out: u64,
    /// What was not copied from the input's folder: files with weights in another form, and what is no file.
    pub left_out: Vec<String>,
}

/// Prunes a checkpoint.
///
/// Scores are read first, so that the size of everything is known when a file's header is written; weights are
/// then read again. With a global budget all weights are scored before the first file is written, otherwise the
/// weights of a file just before it is written.
///
/// # Errors
/// If the request or the checkpoint is not fit, or the output cannot be written.
pub fn sparsify(
    input: &Path,
    output: &Path,
    request: &Request,
    progress: &Progress,
) -> Result<Report, Error> {
    check(request)?;
    let checkpoint = Checkpoint::open(input)?;
    let staging = Output::new(&checkpoint.source, output, request.force)?;
    let Selected { weights, kept_dense } = select(&checkpoint, &request.rules)?;
    let activations = request.activations.as_deref().map(Activations::open).transpose()?;
    if let Some(activations) = &activations {
        weights.iter().try_for_each(|weight| activations.of(weight).map(drop))?;
    }
    let block = request.rules.block;
    let mut scorer = Scorer { block, activations, done: HashMap::new() };
    let kept = kept(request, &weights, &mut scorer, progress)?;

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
            let (dtype, orientation) = (weight.tensor.dtype(), weight.layout.orientation());
            let layer = Layer::new(&weight.name, &pattern, dtype, orientation, !request.dense);
            layers.insert(weight.name.clone(), layer);
            patterns.insert(weight.name.as_str(), (weight, pattern));
        }
        content(shard, patterns, request.dense)
    })?;
    let layers: Vec<Layer> = order.iter().filter_map(|name| layers.remove(*name)).collect();
    let include = match request.rules.include.as_slice() {
        [] => KNOWN.map(str::to_owned).to_vec(),
        filters => filters.iter().map(ToString::to_string).collect(),
    };
    Ok(Report {
        input: input.to_owned(),
        output: output.to_owned(),
        include,
        total: Total::of(&layers),
        layers,
        kept_dense,
        bytes_in: checkpoint.bytes(),
        bytes_out: written.bytes,
        left_out: written.left_out,
    })
}

fn check(request: &Request) -> Result<(), Error> {
    /// Densities are shares computed from shares: the last bits do not count.
    const SLACK: f64 = 1e-9;
    let range = |fine: bool, option, found, expected| match fine {
        true => Ok(()),
        false => Err(Error::Range { option, found, expected }),
    };
    let (sparsity, density) = (request.sparsity, 1.0 - request.sparsity);
    range((0.0..1.0).contains(&sparsity), "--sparsity", sparsity, "at least 0 and below 1")?;
    if let Budget::Global { min_density, max_density } = request.budget {
        let least = (0.0..=density + SLACK).contains(&min_density);
        range(least, "--min-density", min_density, "between 0 and 1 - sparsity")?;
        let most = (density - SLACK..=1.0).contains(&max_density);
        range(most, "--max-density", max_density, "between 1 - sparsity and 1")?;
    }
    Ok(())
}

/// Blocks each weight keeps.
fn kept<'a>(
    request: &Request,
    weights: &'a [DenseWeight<'a>],
    scorer: &mut Scorer,
    progress: &Progress,
) -> Result<Vec<usize>, Error> {
    let block = request.rules.block;
    let grid =
        |weight: &DenseWeight<'_>| (weight.shape.block_rows(block), weight.shape.block_cols(block));
    let grids: Vec<(usize, usize)> = weights.iter().map(grid).collect();
    let share = |sparsity: f64, (rows, cols): (usize, usize)| kept_blocks(sparsity, rows * cols);
    Ok(match request.budget {
        Budget::Uniform => grids.iter().map(|grid| share(request.sparsity, *grid)).collect(),
        Budget::ErdosRenyi => {
            let densities = erdos_renyi(&grids, 1.0 - request.sparsity);
            grids.iter().zip(densities).map(|(grid, density)| share(1.0 - density, *grid)).collect()
        }
        Budget::Global { min_density, max_density } => {
            scorer.score(weights.iter(), progress)?;
            let scored = |(weight, grid): (&DenseWeight<'_>, &(usize, usize))| LayerScores {
                scores: scorer.done[&weight.name].clone(),
                blocks: grid.0 * grid.1,
                uniform_count: share(request.sparsity, *grid),
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
        progress.begin("scoring blocks".to_string(), open.iter().map(bytes).sum());
        for weight in open {
            let features = self.activations.as_ref().map(|all| all.of(weight)).transpose()?;
            let scores = scores(weight, self.block, features.as_deref());
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
    let mut metadata = shard.metadata().clone();
    if !dense && !patterns.is_empty() {
        let out_in = patterns.values().map(|(weight, _)| weight);
        let out_in = out_in.filter(|weight| weight.layout.orientation() == Orientation::OutIn);
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
        if !self.left_out.is_empty() {
            writeln!(
                f,
                "not copied, since they hold weights or are no files: {}",
                self.left_out.join(", ")
            )?;
        }
        write!(
            f,
            "{}: {} of blocks removed, {} of tensors where the input has {}",
            self.output.display(),
            percent(self.total.sparsity),
            BinaryBytes(self.bytes_out),
            BinaryBytes(self.bytes_in)
        )
    }
}
