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
use crate::{Blocks, Error, Model, ModelFolder, Precision};

/// Sequences that go through the model at once.
const BATCH: usize = 8;

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
}

/// Removes MLP blocks of a model at once.
#[derive(Config, Debug, PartialEq)]
pub struct OneShot {
    /// Which blocks are removed.
    pub blocks: Blocks,
    /// How blocks are chosen.
    #[config(default = "Method::WandaCorrected")]
    pub method: Method,
    /// How strongly corrected values are drawn to the old ones, relative to the mean square of the inputs.
    #[config(default = 0.01)]
    pub damping: f64,
}

impl OneShot {
    /// Sparsifies the MLPs of `model`. Every method except [`Method::Magnitude`] needs a `sample` of texts. Blocks that are
    /// zero are removed in any case. `progress` is called with the number of weights that are done, and of all. Returns the
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

/// A sample of `sequences` sequences from the training part of a corpus.
///
/// # Errors
/// If it has no sequences, or they have no tokens.
pub fn sample(
    corpus: &Corpus,
    sequences: usize,
    context: usize,
    device: &Device,
) -> Result<Vec<Batch>, Error> {
    Error::at_least_one(&[("sequences", sequences), ("context", context)])?;
    let batch = |number: usize| {
        let batch = BATCH.min(sequences - number * BATCH);
        corpus.batch(Sequences { context, batch }, 0, number, device)
    };
    Ok((0..sequences.div_ceil(BATCH)).map(batch).collect())
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
fn layer_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// Number of layers, the first ones, that these weights are in.
fn layers(names: &[String]) -> usize {
    names.last().and_then(|name| layer_of(name)).map_or(0, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::nn;

    use super::*;
    use crate::fine_tune::tests::{config, corpus};
    use crate::{ModelConfig, fine_tune};

    #[test]
    fn every_method_removes_its_share_and_least_squares_stays_closest() {
        let (device, mut config) = (Device::flex(), config());
        config["hidden_size"] = 32.into();
        config["intermediate_size"] = 64.into();
        let dense = ModelConfig::parse(&config).unwrap().init_normal(&device, 2).unwrap();
        // Least squares is about texts like the sample.
        let like: Vec<u32> = b"the lazy fox jumps over a brown dog".map(u32::from).to_vec();
        let tokens = dense.tokens(&[&like]);
        let (features, _) = dense.trace(tokens.clone());
        let mut distances = Vec::new();
        for method in [Method::Magnitude, Method::Wanda, Method::WandaCorrected] {
            let sample = match method {
                Method::Magnitude => Vec::new(),
                _ => sample(&corpus(), 8, 32, &device).unwrap(),
            };
            let mut sparse = dense.clone();
            let blocks = Blocks::new(8).with_sparsity(0.5).with_dense_last(1);
            let one_shot = OneShot::new(blocks).with_method(method);
            one_shot.run(&mut sparse, &sample, |_, _| {}).unwrap();
            let all = sparse.mlps_mut(0).into_iter().map(|(_, linear)| linear.sparsity());
            assert_eq!(all.collect::<Vec<_>>(), [0.5, 0.5, 0.5, 0.0, 0.0, 0.0], "{method:?}");
            let (ours, _) = sparse.trace(tokens.clone());
            let distance = fine_tune::hidden_states(ours, features.clone());
            distances.push(distance.into_scalar::<f32>());
        }
        assert!(distances[2] < distances[0] && distances[2] < distances[1], "{distances:?}");
    }

    #[test]
    fn features_that_are_carried_on_are_those_of_a_whole_pass() {
        let gpt2 = serde_json::json!({
            "model_type": "gpt2", "vocab_size": 256, "n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64,
        });
        for config in [config(), gpt2] {
            let device = Device::flex();
            let model = ModelConfig::parse(&config).unwrap().init_normal(&device, 2).unwrap();
            let text: Vec<u32> = b"the lazy fox".map(u32::from).to_vec();
            let tokens = model.tokens(&[&text]);
            let (whole, _) = model.trace(tokens.clone());
            let mut x = model.embed(tokens.clone());
            let mut inputs = Vec::new();
            for (index, expected) in whole.iter().enumerate() {
                x = model.attend(index, x);
                inputs.extend(model.family().mlp_inputs(index, x.clone()));
                x = model.feed(index, x);
                assert_eq!(x.to_data(), expected.to_data(), "layer {index}");
            }
            let mut at_once = Vec::new();
            model.observe(tokens, &mut |name, input| {
                // It takes what the gate takes.
                if !name.ends_with("up_proj") {
                    at_once.push(input);
                }
            });
            assert_eq!(inputs.len(), at_once.len());
            for (input, other) in inputs.iter().zip(&at_once) {
                assert_eq!(input.to_data(), other.to_data());
            }
        }
    }

    /// The tensors of a folder, by name, and its configuration.
    fn content(folder: &Path) -> (Vec<(String, Vec<u8>)>, String) {
        let checkpoint = burn_blast_checkpoint::Checkpoint::open(folder).unwrap();
        let bytes = |name: &str| checkpoint.tensor(name).unwrap().bytes().to_vec();
        let all = checkpoint.names().into_iter().map(|name| (name.to_owned(), bytes(name)));
        (all.collect(), std::fs::read_to_string(folder.join("config.json")).unwrap())
    }

    #[test]
    fn part_by_part_the_files_hold_the_same() {
        let device = Device::flex();
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        for (name, precision) in [
            ("llama3", Precision::F32),
            ("tied", Precision::F32),
            ("gemma3", Precision::F32),
            ("gpt2", Precision::F32),
            ("packed", Precision::F32),
            ("tied", Precision::BF16),
        ] {
            let folder = ModelFolder::open(models.join(name)).unwrap();
            let sample = sample(&corpus(), 3, 16, &device).unwrap();
            for method in [Method::Magnitude, Method::WandaCorrected] {
                let blocks = Blocks::new(8).with_sparsity(0.5).with_dense_last(1);
                let one_shot = OneShot::new(blocks).with_method(method);
                let scratch = tempfile::tempdir().unwrap();
                let [whole, parts] = ["whole", "parts"].map(|name| scratch.path().join(name));
                let mut model = folder.load(&device, precision).unwrap();
                one_shot.run(&mut model, &sample, |_, _| {}).unwrap();
                let model = model.with_precision(folder.precision().unwrap()).unwrap();
                folder.save(&model, &whole, crate::Form::Packed).unwrap();
                let to = Destination {
                    folder: &parts,
                    replace: false,
                    device: device.clone(),
                    precision,
                    written: Precision::File,
                };
                let mut steps = Vec::new();
                let silent = one_shot.stream(&folder, &sample, &to, |done, _| steps.push(done));
                assert!(silent.unwrap().is_empty());
                assert_eq!(steps, (0..steps.len()).collect::<Vec<_>>());
                let (found, expected) = (content(&parts), content(&whole));
                assert_eq!(found.1, expected.1, "{name}");
                let names = |all: &[(String, Vec<u8>)]| -> Vec<String> {
                    all.iter().map(|(name, _)| name.clone()).collect()
                };
                assert_eq!(names(&found.0), names(&expected.0), "{name}");
                assert!(found.0 == expected.0, "{name}, {method:?}");
                let again = ModelFolder::open(&parts).unwrap().load(&device, precision).unwrap();
                let tokens = again.tokens(&[&[1, 2, 3, 4]]);
                let scores = model.with_precision(precision).unwrap().forward(tokens.clone(), None);
                assert_eq!(again.forward(tokens, None).to_data(), scores.to_data(), "{name}");
            }
        }
    }

    #[test]
    fn a_layer_that_the_settings_do_not_have_is_named() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/llama3");
        let scratch = tempfile::tempdir().unwrap();
        let (at, out) = (scratch.path().join("at"), scratch.path().join("out"));
        std::fs::create_dir(&at).unwrap();
        let weights = "model.safetensors";
        std::fs::copy(models.join(weights), at.join(weights)).unwrap();
        let config = std::fs::read_to_string(models.join("config.json")).unwrap();
        let config = config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
        std::fs::write(at.join("config.json"), config).unwrap();
        let to = Destination {
            folder: &out,
            replace: false,
            device: Device::flex(),
            precision: Precision::F32,
            written: Precision::File,
        };
        let one_shot = OneShot::new(Blocks::new(8)).with_method(Method::Magnitude);
        let folder = ModelFolder::open(&at).unwrap();
        let error = one_shot.stream(&folder, &[], &to, |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("model.layers.1."), "{error}");
        assert!(!out.exists());
    }

    #[test]
    fn zero_blocks_are_removed_and_a_dead_mlp_does_not_stop_the_run() {
        let device = Device::flex();
        let start = ModelConfig::parse(&config()).unwrap().init_normal(&device, 2).unwrap();
        let sample = sample(&corpus(), 4, 16, &device).unwrap();
        for method in [Method::Magnitude, Method::Wanda, Method::WandaCorrected] {
            let mut model = start.clone();
            let half = OneShot::new(Blocks::new(8).with_sparsity(0.5).with_dense_last(1));
            half.with_method(Method::Magnitude).run(&mut model, &[], |_, _| {}).unwrap();
            for (name, linear) in model.mlps_mut(0) {
                if name == "model.layers.1.mlp.gate_proj" {
                    *linear = AnyLinear::Dense(nn::Linear {
                        weight: Param::from_tensor(Tensor::zeros(linear.shape(), &device)),
                        bias: None,
                    });
                }
            }
            let mut steps = Vec::new();
            let little = OneShot::new(Blocks::new(8).with_sparsity(0.25)).with_method(method);
            let silent = little.run(&mut model, &sample, |done, all| steps.push((done, all)));
            let silent = silent.unwrap();
            let expected: &[&str] = match method {
                Method::Magnitude => &[],
                _ => &["model.layers.1.mlp.down_proj"],
            };
            assert_eq!(silent, expected, "{method:?}");
            let all = model.mlps_mut(0).into_iter().map(|(_, linear)| linear.sparsity());
            assert_eq!(all.collect::<Vec<_>>(), [0.5, 0.5, 0.5, 1.0, 0.25, 0.25], "{method:?}");
            assert_eq!(steps, (0..=6).map(|done| (done, 6)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_sample_has_as_many_sequences_as_were_asked_for() {
        for sequences in [3, 8, 12] {
            let sample = sample(&corpus(), sequences, 32, &Device::flex()).unwrap();
            let found: usize = sample.iter().map(|batch| batch.inputs.dims()[0]).sum();
            assert_eq!(found, sequences);
        }
    }
}
