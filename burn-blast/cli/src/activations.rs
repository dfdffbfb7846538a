//! Norms of input features, for the score of Wanda.
//!
//! The file is safetensors with one entry per weight, under the weight's own name: F32 of `[d_input]`, the
//! Euclidean norm of each input feature over all tokens of the calibration data, `sqrt(Σ x²)`.

use std::path::Path;

use burn_blast_checkpoint::{DenseWeight, Shard};
use safetensors::Dtype;

use crate::Error;

/// An opened file of activations.
#[derive(Debug)]
pub struct Activations(Shard);

impl Activations {
    /// Opens a file.
    ///
    /// # Errors
    /// If it is not a safetensors file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self(Shard::open(path)?))
    }

    /// The norms of a weight's input features.
    ///
    /// # Errors
    /// If they are missing, of another type or length, or not norms.
    pub fn of(&self, weight: &DenseWeight<'_>) -> Result<Vec<f32>, Error> {
        let refuse = |reason: String| {
            let (path, name) = (self.0.path().to_owned(), weight.name.clone());
            Error::Activations { path, name, reason }
        };
        let d_input = weight.shape.rows();
        let Some(tensor) = self.0.tensor(&weight.name) else {
            return Err(refuse(
                "is missing: collect it, or leave the weight out with --exclude".to_string(),
            ));
        };
        if tensor.shape() != [d_input] || tensor.dtype() != Dtype::F32 {
            let found = tensor.describe();
            return Err(refuse(format!(
                "is {found}, but must be F32 of [{d_input}], one for each input feature"
            )));
        }
        let norms = tensor.elements().iter().map(|bytes| f32::from_le_bytes(*bytes));
        let norms: Vec<f32> = norms.collect();
        match norms.iter().position(|norm| !norm.is_finite() || *norm < 0.0) {
            Some(at) => Err(refuse(format!("holds {} at {at}, which is not a norm", norms[at]))),
            None => Ok(norms),
        }
    }
}
