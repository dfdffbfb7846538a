//! When to be sparse, as measured on a device.
//!
//! Installed for a device, advice replaces the cost model that [`Strategy::Auto`](crate::Strategy::Auto) else goes by;
//! the [path of a layer](crate::BlockSparseLinear::path) names the measurement it rests on.
//! [`DeviceAdvice::measure`] takes the sizes of a model and measures them on the spot; `blast-bench advise` writes the
//! break-even points of a benchmark run to a file.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use burn_blast::advice::Advice;
//!
//! let advice = Advice::load("advice.json")?;
//! advice.device("flex")?.install(&Device::flex());
//! # Ok::<(), burn_blast::advice::AdviceError>(())
//! ```

mod measure;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use burn::tensor::{DType, Device};
use burn_blast_kernels::{BlockPattern, PathReason};
use serde::{Deserialize, Serialize};

pub use measure::{MeasureError, break_even};

/// Version of the file.
pub const VERSION: u32 = 1;

/// Largest factor between a size and the measured one that still speaks for it. Guess.
const NEAR: f64 = 4.0;

/// Advice for every device that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// [`VERSION`].
    pub version: u32,
    /// One for each device, backend and set of features.
    pub devices: Vec<DeviceAdvice>,
}

/// Advice for one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceAdvice {
    /// Name of the processor or GPU.
    pub device: String,
    /// Burn's backend.
    pub backend: String,
    /// Features that change what is compared.
    pub features: Vec<String>,
    /// One for each size, block, type and number of rows.
    pub entries: Vec<Entry>,
}

/// Where one size breaks even.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Side of a block.
    pub block: usize,
    /// Storage type: `f32`, `f16`, `bf16`.
    pub dtype: String,
    /// Contraction size.
    pub d_input: usize,
    /// Output size.
    pub d_output: usize,
    /// Rows of the input.
    pub rows: usize,
    /// Largest share of blocks kept at which the sparse product is as fast as the dense one: 1 if it wins with
    /// every block kept, 0 if it never wins.
    pub break_even_density: f64,
    /// Whether no larger share was measured: the product may pay above it too.
    pub at_least: bool,
}

/// Why advice was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdviceError {
    /// The file cannot be read.
    #[error("the advice {} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not advice.
    #[error("{} is no advice: {source}; write it with `blast-bench advise`", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The file is of another version.
    #[error(
        "the advice is of version {found}, this burn-blast reads version {VERSION}: write it again with `blast-bench advise`"
    )]
    Version {
        /// Version found.
        found: u32,
    },
    /// No device of the file has the backend.
    #[error("the advice has no device with backend {backend:?}, only {known:?}")]
    Backend {
        /// Backend asked for.
        backend: String,
        /// Those that are there.
        known: Vec<String>,
    },
}

impl Advice {
    /// Reads a file that `blast-bench advise` wrote.
    ///
    /// # Errors
    /// If it cannot be read, is no advice, or is of another version.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, AdviceError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|source| AdviceError::Read { path: path.into(), source })?;
        let advice: Self = serde_json::from_str(&text)
            .map_err(|source| AdviceError::Form { path: path.into(), source })?;
        match advice.version {
            VERSION => Ok(advice),
            found => Err(AdviceError::Version { found }),
        }
    }

    /// The first device with a backend.
    ///
    /// # Errors
    /// If there is none.
    pub fn device(&self, backend: &str) -> Result<&DeviceAdvice, AdviceError> {
        self.devices.iter().find(|device| device.backend == backend).ok_or_else(|| {
            AdviceError::Backend {
                backend: backend.to_owned(),
                known: self.devices.iter().map(|device| device.backend.clone()).collect(),
            }
        })
    }
}

static INSTALLED: RwLock<Vec<(Device, Arc<DeviceAdvice>)>> = RwLock::new(Vec::new());

impl DeviceAdvice {
    /// Lets every `Strategy::Auto` on `device` go by this advice from now on, in place of any before.
    pub fn install(&self, device: &Device) {
        let device = device.clone().inner();
        let mut installed = INSTALLED.write().unwrap_or_else(PoisonError::into_inner);
        installed.retain(|(known, _)| *known != device);
        installed.push((device, Arc::new(self.clone())));
    }

    /// The break-even point of the nearest size that was measured with this block and type, if any is near.
    fn reason(&self, pattern: &BlockPattern, dtype: DType, rows: usize) -> Option<PathReason> {
        let dtype = dtype.name();
        let wanted = [pattern.shape().rows(), pattern.shape().cols(), rows];
        let size = |entry: &Entry| [entry.d_input, entry.d_output, entry.rows];
        let apart = |entry: &&Entry| {
            let factors =
                size(entry).into_iter().zip(wanted).map(|(a, b)| (a as f64 / b as f64).ln());
            factors.map(f64::abs).fold(0.0, f64::max)
        };
        let alike = |entry: &&Entry| entry.block == pattern.block().get() && entry.dtype == dtype;
        let nearest = self
            .entries
            .iter()
            .filter(alike)
            .filter(|entry| apart(entry) <= NEAR.ln())
            .min_by(|a, b| apart(a).total_cmp(&apart(b)))?;
        // Above a share that won, with nothing measured beyond it, nothing is known.
        let known = !nearest.at_least || pattern.density() <= nearest.break_even_density;
        let break_even = nearest.break_even_density;
        known.then(|| PathReason::Measured { break_even, size: size(nearest) })
    }
}

/// What is known of a product on a device by measurement.
pub(crate) fn measured(
    device: &Device,
    pattern: &BlockPattern,
    dtype: DType,
    rows: usize,
) -> Option<PathReason> {
    let installed = INSTALLED.read().unwrap_or_else(PoisonError::into_inner);
    let device = device.clone().inner();
    let (_, advice) = installed.iter().find(|(known, _)| *known == device)?;
    advice.reason(pattern, dtype, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockSize, MatrixShape};

    fn entry(rows: usize, break_even_density: f64) -> Entry {
        Entry {
            block: 32,
            dtype: "f32".to_owned(),
            d_input: 512,
            d_output: 1024,
            rows,
            break_even_density,
            at_least: false,
        }
    }

    fn advice() -> DeviceAdvice {
        DeviceAdvice {
            device: "a processor".to_owned(),
            backend: "flex".to_owned(),
            features: Vec::new(),
            entries: vec![entry(1, 0.9), entry(256, 0.4)],
        }
    }

    fn pattern(rows: usize, cols: usize, block: usize) -> BlockPattern {
        let shape = MatrixShape::new(rows, cols).unwrap();
        BlockPattern::random(shape, BlockSize::new(block).unwrap(), 0.5, 1)
    }

    #[test]
    fn the_nearest_size_speaks_and_a_far_one_does_not() {
        let found = |shape: [usize; 2], block, dtype, rows| {
            advice().reason(&pattern(shape[0], shape[1], block), dtype, rows)
        };
        let measured =
            |break_even, rows| Some(PathReason::Measured { break_even, size: [512, 1024, rows] });
        assert_eq!(found([512, 1024], 32, DType::F32, 2), measured(0.9, 1));
        assert_eq!(found([512, 2048], 32, DType::F32, 200), measured(0.4, 256));
        assert_eq!(found([512, 1024], 32, DType::F32, 4096), None);
        assert_eq!(found([512, 1024], 64, DType::F32, 1), None);
        assert_eq!(found([512, 1024], 32, DType::F16, 1), None);
    }

    #[test]
    fn nothing_is_known_above_the_largest_share_that_was_measured() {
        let half = pattern(512, 1024, 32);
        let reason = |break_even_density| {
            let entries = vec![Entry { at_least: true, ..entry(1, break_even_density) }];
            DeviceAdvice { entries, ..advice() }.reason(&half, DType::F32, 1)
        };
        assert!(reason(0.6).is_some());
        assert_eq!(reason(0.1), None);
    }

    #[test]
    fn every_error_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("advice.json");
        let message = |path: &Path| Advice::load(path).unwrap_err().to_string();
        assert!(message(&path).contains("cannot be read"));
        std::fs::write(&path, "{").unwrap();
        assert!(message(&path).contains("write it with `blast-bench advise`"));
        let mut all = Advice { version: 9, devices: vec![advice()] };
        std::fs::write(&path, serde_json::to_string(&all).unwrap()).unwrap();
        assert!(message(&path).contains("version 9"));
        all.version = VERSION;
        std::fs::write(&path, serde_json::to_string(&all).unwrap()).unwrap();
        let loaded = Advice::load(&path).unwrap();
        assert_eq!(loaded.device("flex").unwrap(), &advice());
        let error = loaded.device("cuda").unwrap_err().to_string();
        assert!(error.contains("\"cuda\"") && error.contains("\"flex\""), "{error}");
    }
}
