//! Norms of the MLPs' input features, for tools that rank weights by them.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Tensor};
use burn_blast_checkpoint::atomic::AtomicFile;
use burn_blast_checkpoint::{Entry, FileContent, write_safetensors};
use safetensors::Dtype;

use crate::generate::{check_tokens, to_host};
use crate::{Error, Model, ModelConfig};

/// Euclidean norms of the input features of every linear layer of the MLPs over a text, `sqrt(Σ x²)`: the file that
/// `blast sparsify --score wanda` takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Activations {
    /// By the name of a layer as in [`Model::linears_mut`], `d_input` each.
    pub norms: BTreeMap<String, Vec<f32>>,
}

impl Activations {
    /// Runs the model on a text, `window` tokens at a time, each window by itself.
    ///
    /// `progress` is called with the number of tokens done after each window.
    ///
    /// # Errors
    /// If there is no text or no window, the text has tokens the model does not know, or the device fails.
    pub fn collect(
        model: &Model,
        text: &[u32],
        window: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<Self, Error> {
        Error::at_least_one(&[("window", window)])?;
        if text.is_empty() {
            return Err(Error::TooShort("the text is empty".to_string()));
        }
        check_tokens(model, text)?;
        // Summed in f64 over windows: squares of a long text outgrow the bits of f32.
        let mut sums = BTreeMap::<String, Vec<f64>>::new();
        let mut done = 0;
        for part in text.chunks(window) {
            let mut squares = Vec::new();
            model.observe(model.tokens(&[part]), &mut |name, input| {
                squares.push((name.to_string(), square_sums(input)));
            });
            for (name, squares) in squares {
                let squares = to_host(squares)?;
                let sum = sums.entry(name).or_insert_with(|| vec![0.0; squares.len()]);
                sum.iter_mut().zip(squares).for_each(|(sum, square)| *sum += f64::from(square));
            }
            done += part.len();
            progress(done);
        }
        let root = |sums: Vec<f64>| sums.into_iter().map(|sum| sum.sqrt() as f32).collect();
        Ok(Self { norms: sums.into_iter().map(|(name, sums)| (name, root(sums))).collect() })
    }

    /// Writes a safetensors file with an entry for each weight, under its name in the checkpoint.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, config: &ModelConfig, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let entries = self.norms.iter().flat_map(|(layer, norms)| {
            let names = config.family().weight_names(layer).into_iter();
            names.map(move |name| {
                Entry::new(name, Dtype::F32, vec![norms.len()], move |out| {
                    norms.iter().try_for_each(|norm| out.write_all(&norm.to_le_bytes()))
                })
            })
        });
        let content = FileContent { metadata: BTreeMap::new(), entries: entries.collect() };
        let write = || {
            let mut file = AtomicFile::new(path, true)?;
            write_safetensors(&mut file, &content, &mut |_| {})?;
            file.finish()
        };
        write().map_err(Error::file(path))
    }
}

/// Sum of the squares of each feature.
///
/// # Shapes
/// - `input`: `[batch, time, d_input]`
/// - output: `[d_input]`
fn square_sums(input: Tensor<3>) -> Tensor<1> {
    let [batch, time, width] = input.dims();
    let rows = input.cast(DType::F32).reshape([batch * time, width]);
    rows.square().sum_dim(0).reshape([width])
}
