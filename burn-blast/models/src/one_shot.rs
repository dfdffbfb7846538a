//! Sparsifying a model at once, without training.

use std::path::Path;

use burn::config::Config;
use burn::tensor::{Device, Tensor};
use burn_blast::calibrate::Calibration;
use burn_blast::functions;
use burn_blast::io::IoError;
use burn_blast::module::{AnyLinear, BlockSparseLinear, BlockSparseWeight};
use burn_blast::{BlockPattern, BlockSize, MatrixShape};
use burn_blast_checkpoint::atomic::AtomicFolder;
use burn_blast_checkpoint::{check_output, write_index};
use burn_blast_kernels::budget::kept_blocks;
use serde::{Deserialize, Serialize};

use crate::corpus::{Batch, Corpus, Sequences};
use crate::parts::{Part, Parts};
use crate::{Blocks, Error, Importance, Model, ModelFolder, Precision};

/// Most tokens of a sample.
const MOST: usize = 16 << 20;

/// How blocks are chosen, and whether the kept ones make up for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Method {
    /// Frobenius norm of the block.
    Magnitude,
    /// The same, each input feature weighted by the norm of its activations.
    Wanda,
    /// Blocks as with `wanda`, then least squares on the kept ones, layer after layer.
    WandaCorrected,
    /// Whole groups of hidden features, by the loss that depends on them; all layers share one budget.
    Taylor,
}

/// Removes MLP blocks of a model at once.
#[derive(Config, Debug, PartialEq)]
pub struct OneShot {
    /// Which blocks are removed.
    pub blocks: Blocks,
    /// How blocks are chosen.
    #[config(default = "Method::Taylor")]
    pub method: Method,
    /// How strongly corrected values are drawn to the old ones, relative to the mean square of the inputs.
    #[config(default = 0.01)]
    pub damping: f64,
}

impl OneShot {
    /// Sequences in a batch of a sample that suit the method: of gradients, one sequence is held at a time.
    pub fn batch(&self) -> usize {
        if self.method == Method::Taylor { 1 } else { 8 }
    }

    /// Sparsifies the MLPs of `model`. Every method except [`Method::Magnitude`] needs a `sample` of texts. Blocks that are
    /// zero are removed in any case, except by [`Method::Taylor`], which keeps whole groups. `progress` is called with the number of weights that are done, and of all. Returns the
    /// names of weights whose inputs were all zero in the sample, so that their values could not be corrected.
    ///
    /// # Errors
    /// If a setting is not valid, or a weight cannot be corrected.
    pub fn run(
        &self,
        model: &mut Model,
        sample: &[Batch],
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Vec<String>, Error> {
        let sample = self.needed(sample)?;
        let names = model.mlp_names(self.blocks.dense_last)?;
        if self.method == Method::Taylor {
            let all = sample.len() + names.len();
            let importance = Importance::collect(model, sample, |done, _| progress(done, all))?;
            let mut done = sample.len();
            groups::cut(model, &importance, &self.blocks, &mut || {
                done += 1;
                progress(done, all);
            })?;
            return Ok(Vec::new());
        }
        let mut seen =
            Seen { all: names.len(), done: 0, silent: Vec::new(), progress: &mut progress };
        seen.tell();
        // The features of the sample before a layer are carried on to the next one.
        let mut features: Vec<Tensor<3>> =
            sample.iter().map(|batch| model.embed(batch.inputs.clone())).collect();
        for index in 0..layers(&names) {
            features = self.layer(model, index, features, &mut seen)?;
        }
        Ok(seen.silent)
    }

    /// The same for a model in a folder, which is written to another one. One layer at a time is in memory, beside the
    /// features of the sample; embedding and output layer are at the beginning and the end. Each part becomes a file.
    ///
    /// # Errors
    /// As for [`run`](Self::run), or if a part cannot be read or written.
    pub fn stream(
        &self,
        folder: &ModelFolder,
        sample: &[Batch],
        to: &Destination<'_>,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Vec<String>, Error> {
        let sample = self.needed(sample)?;
        if self.method == Method::Taylor {
            let expected =
                "magnitude, wanda or wanda-corrected where one layer is in memory at a time";
            return Err(Error::setting("method", "taylor", expected));
        }
        check_output(folder.path(), true, to.folder, to.replace).map_err(IoError::from)?;
        let parts = Parts::open(folder, &to.device, to.precision)?;
        let mut skeleton = parts.skeleton()?;
        let names = skeleton.mlp_names(self.blocks.dense_last)?;
        let (pruned, all) = (layers(&names), skeleton.layers());
        let is_tied = skeleton.family().head().is_none();
        drop(skeleton);
        parts.check(all)?;
        let mut seen =
            Seen { all: names.len(), done: 0, silent: Vec::new(), progress: &mut progress };
        seen.tell();
        let mut features: Vec<Tensor<3>> = {
            let model = parts.load(Part::Embedding)?;
            sample.iter().map(|batch| model.embed(batch.inputs.clone())).collect()
        };
        let staged = AtomicFolder::new(to.folder, to.replace).map_err(Error::file(to.folder))?;
        let dtype = to.written.on(&to.device, folder.precision()?.dtype())?;
        let file = |at: usize| format!("model-{:05}-of-{:05}.safetensors", at + 1, all + 1);
        for index in 0..all {
            let part = Part::Layer(index);
            let mut model = parts.load(part)?;
            if index < pruned {
                features = self.layer(&mut model, index, features, &mut seen)?;
            }
            parts.write(&model, part, dtype, &staged.path().join(file(index)))?;
        }
        drop(features);
        let outer = parts.load(Part::Outer)?;
        parts.write(&outer, Part::Outer, dtype, &staged.path().join(file(all)))?;
        drop(outer);
        let files: Vec<String> = (0..=all).map(file).collect();
        write_index(staged.path(), &files).map_err(IoError::from)?;
        folder.write_rest(&staged, folder.config_with(None, is_tied, dtype)?)?;
        staged.finish().map_err(Error::file(to.folder))?;
        Ok(seen.silent)
    }

    /// What the method takes of a sample, if the settings are valid.
    fn needed<'a>(&self, sample: &'a [Batch]) -> Result<&'a [Batch], Error> {
        self.blocks.check()?;
        if self.method == Method::Magnitude {
            return Ok(&[]);
        }
        if sample.is_empty() {
            let what = "this method needs a sample of texts, or take magnitude".to_string();
            return Err(Error::TooShort(what));
        }
        Ok(sample)
    }

    /// Sparsifies the MLP of one layer, and carries the features of the sample before it on to the next layer.
    fn layer(
        &self,
        model: &mut Model,
        index: usize,
        features: Vec<Tensor<3>>,
        seen: &mut Seen<'_>,
    ) -> Result<Vec<Tensor<3>>, Error> {
        let attended: Vec<Tensor<3>> =
            features.into_iter().map(|x| model.attend(index, x)).collect();
        // A layer's weights are chosen together: their inputs were seen before any of them changed.
        let (input, mut hidden) = self.observe(model, index, &attended).unzip();
        let (_, out) = model.family().mlp_layers();
        for (name, linear) in model.mlps_mut(0) {
            if layer_of(&name) != Some(index) {
                continue;
            }
            // One layer reads the hidden features: their sums go with it.
            let calibration = if name.ends_with(out) { hidden.take() } else { input.clone() };
            let is_silent = |one: &Calibration| one.norms().iter().all(|norm| *norm == 0.0);
            *linear = match calibration {
                Some(one) if is_silent(&one) => {
                    seen.silent.push(name);
                    self.sparse(linear, None)?
                }
                one => self.sparse(linear, one)?,
            };
            seen.done += 1;
            seen.tell();
        }
        Ok(attended.into_iter().map(|x| model.feed(index, x)).collect())
    }

    /// What the layers before and after the activation of an MLP take, if there is a sample.
    fn observe(
        &self,
        model: &Model,
        index: usize,
        attended: &[Tensor<3>],
    ) -> Option<(Calibration, Calibration)> {
        let device = attended.first()?.device();
        let empty = |width| match self.method {
            Method::WandaCorrected => Calibration::new(width, &device),
            _ => Calibration::of_norms(width, &device),
        };
        let mut all = None;
        for x in attended {
            let inputs = model.family().mlp_inputs(index, x.clone());
            let all = all.get_or_insert_with(|| inputs.each_ref().map(|one| empty(one.dims()[2])));
            all.iter_mut().zip(inputs).for_each(|(seen, input)| seen.add(input));
        }
        all.map(|[input, hidden]| (input, hidden))
    }

    /// The layer with the share of its blocks that is kept.
    fn sparse(
        &self,
        linear: &AnyLinear,
        calibration: Option<Calibration>,
    ) -> Result<AnyLinear, Error> {
        let (weight, block) = (linear.to_dense(), BlockSize::new(self.blocks.block)?);
        let sparsity = self.blocks.sparsity;
        let norms = functions::dense_block_norms(weight.clone(), block);
        let [rows, cols] = linear.shape();
        let shape = MatrixShape::new(rows, cols)?;
        let mut scores = match &calibration {
            Some(calibration) => calibration.scores(weight.clone(), block),
            None => norms.clone(),
        };
        // A block that is zero comes after every other.
        let zeros = (0..norms.len()).filter(|&at| norms[at] == 0.0);
        let filled = norms.len() - zeros.map(|at| scores[at] = -1.0).count();
        let keep = kept_blocks(sparsity, norms.len()).min(filled);
        let pattern = BlockPattern::best(shape, block, &scores, keep);
        let values = match calibration {
            Some(calibration) if self.method == Method::WandaCorrected && pattern.nnz() > 0 => {
                calibration.correct_once(weight, &pattern, self.damping)?
            }
            _ => functions::pack(weight, &pattern),
        };
        let weight = BlockSparseWeight::new(values, pattern);
        Ok(AnyLinear::Sparse(BlockSparseLinear::new(weight, linear.bias())))
    }
}

/// A sample of `sequences` sequences from the training part of a corpus, at most `batch` in a batch.
///
/// # Errors
/// If it has no sequences, or they have no tokens.
pub fn sample(
    corpus: &Corpus,
    sequences: usize,
    context: usize,
    batch: usize,
    device: &Device,
) -> Result<Vec<Batch>, Error> {
    Error::at_least_one(&[("sequences", sequences), ("context", context), ("batch", batch)])?;
    if sequences.saturating_mul(context) > MOST {
        let expected = format!("at most {}, or tokens would not fit memory", MOST / context);
        return Err(Error::setting("sequences", sequences, &expected));
    }
    let take = |number: usize| {
        let batch = batch.min(sequences - number * batch);
        corpus.batch(Sequences { context, batch }, 0, number, device)
    };
    Ok((0..sequences.div_ceil(batch)).map(take).collect())
}

/// Where the result of [`OneShot::stream`] goes.
#[derive(Clone, Debug)]
pub struct Destination<'a> {
    /// The new folder.
    pub folder: &'a Path,
    /// Whether a checkpoint that is there may be replaced.
    pub replace: bool,
    /// Where to compute.
    pub device: Device,
    /// Data type of weights and features while computing.
    pub precision: Precision,
    /// Data type of the files.
    pub written: Precision,
}

/// What was done, and who is told.
struct Seen<'a> {
    all: usize,
    done: usize,
    silent: Vec<String>,
    progress: &'a mut dyn FnMut(usize, usize),
}

impl Seen<'_> {
    fn tell(&mut self) {
        (self.progress)(self.done, self.all);
    }
}

/// Number of the layer a weight is in.
pub(crate) fn layer_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// Number of layers, the first ones, that these weights are in.
fn layers(names: &[String]) -> usize {
    names.last().and_then(|name| layer_of(name)).map_or(0, |last| last + 1)
}

mod groups;
#[cfg(test)]
mod tests;
