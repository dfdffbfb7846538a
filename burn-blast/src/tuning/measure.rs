//! Measuring break-even points in the process that uses them.

use std::collections::BTreeSet;
use std::time::Instant;

use burn::backend::ExecutionError;
use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape, Strategy};

use super::{BreakEven, TuningError, TuningTable};
use crate::module::BlockSparseLinear;
use crate::window::weights;

/// Densities that are timed.
const DENSITIES: [f64; 5] = [0.05, 0.1, 0.25, 0.5, 1.0];

/// The density whose weight is unpacked for the dense product.
const UNPACKED: usize = 2;

/// Calls of each kind that do not count. They compile and tune kernels and fill memory pools.
const WARM_UP: usize = 2;

/// Rounds that are timed.
const ROUNDS: usize = 5;

/// Least seconds of a sample. Shorter calls are repeated.
const SAMPLE: f64 = 1e-3;

/// Most calls per sample.
const REPEATS: f64 = 64.0;

impl TuningTable {
    /// Times the forward product of every size of block-sparse weight in a model on a device, for the given numbers of
    /// rows. Sparse and dense products alternate.
    ///
    /// The dense product includes unpacking the weight, as [`Strategy::Dense`] does. The blocks that the model keeps do
    /// not matter: random patterns of 5 to 100 % of the blocks are timed, so one table holds for a whole training run.
    /// For each size and number of rows, six kinds of call run seven times each, short ones many times over. This needs
    /// memory for about four dense weights. `device` and `backend` of the table hold what Burn prints of the device:
    /// set them before you [`save`](super::TuningTables::save) the table.
    ///
    /// # Errors
    /// If the model has no block-sparse weight, or only quantised ones, no number of rows is above 0, or the device
    /// fails.
    ///
    /// # Example
    /// ```
    /// use burn::tensor::Device;
    /// use burn_blast::module::BlockSparseLinearConfig;
    /// use burn_blast::tuning::{self, TuningTable};
    ///
    /// let device = Device::flex();
    /// let model = BlockSparseLinearConfig::new(64, 128).init(&device);
    /// // One row in generation, 256 in training.
    /// let table = TuningTable::measure(&model, &[1, 256], &device)?;
    /// let model = tuning::apply(model, &table);
    /// println!("{}", model.path(256));
    /// # Ok::<(), tuning::TuningError>(())
    /// ```
    pub fn measure<M: Module>(
        model: &M,
        rows: &[usize],
        device: &Device,
    ) -> Result<Self, TuningError> {
        let device = device.clone().inner();
        let rows: BTreeSet<usize> = rows.iter().copied().filter(|&rows| rows > 0).collect();
        let mut sizes: Vec<(MatrixShape, BlockSize, DType)> = Vec::new();
        for weight in weights(model).into_iter().filter(|weight| weight.dtype.is_float()) {
            let size = (weight.pattern.shape(), weight.pattern.block(), weight.dtype);
            if !sizes.contains(&size) {
                sizes.push(size);
            }
        }
        if sizes.is_empty() || rows.is_empty() {
            return Err(TuningError::NothingToMeasure);
        }
        let mut entries = Vec::new();
        for (shape, block, dtype) in sizes {
            let layers = DENSITIES.map(|density| layer(shape, block, dtype, density, &device));
            for &rows in &rows {
                let (break_even_density, at_least) =
                    break_even(&points(&layers, rows, dtype, &device)?);
                entries.push(BreakEven {
                    block: block.get(),
                    dtype: dtype.name().to_owned(),
                    d_input: shape.rows(),
                    d_output: shape.cols(),
                    rows,
                    break_even_density,
                    at_least,
                });
            }
        }
        let name = format!("{device:?}");
        Ok(Self { device: name.clone(), backend: name, features: Vec::new(), entries })
    }
}

fn layer(
    shape: MatrixShape,
    block: BlockSize,
    dtype: DType,
    density: f64,
    device: &Device,
) -> BlockSparseLinear {
    // Ones, so that no random numbers of the device are used up.
    let dense = Tensor::<2>::ones([shape.rows(), shape.cols()], (device, dtype));
    let pattern = BlockPattern::random(shape, block, density, 0);
    BlockSparseLinear::from_dense(dense, pattern).with_strategy(Strategy::Sparse)
}

/// Each density, with the ratio of sparse to dense seconds.
fn points(
    layers: &[BlockSparseLinear; DENSITIES.len()],
    rows: usize,
    dtype: DType,
    device: &Device,
) -> Result<Vec<(f64, f64)>, ExecutionError> {
    let dense = layers[UNPACKED].clone().with_strategy(Strategy::Dense);
    let calls: Vec<&BlockSparseLinear> = std::iter::once(&dense).chain(layers.iter()).collect();
    let x = Tensor::<2>::ones([rows, dense.pattern().shape().rows()], (device, dtype));
    let seconds = |layer: &BlockSparseLinear, repeats: usize| {
        device.sync()?;
        let start = Instant::now();
        for _ in 0..repeats {
            drop(layer.forward(x.clone()));
        }
        device.sync()?;
        Ok::<_, ExecutionError>(start.elapsed().as_secs_f64() / repeats as f64)
    };
    let mut repeats = vec![1; calls.len()];
    for _ in 0..WARM_UP {
        for (repeats, layer) in repeats.iter_mut().zip(&calls) {
            *repeats = (SAMPLE / seconds(layer, 1)?).ceil().clamp(1.0, REPEATS) as usize;
        }
    }
    let mut ratios = vec![Vec::new(); layers.len()];
    for _ in 0..ROUNDS {
        let mut round = Vec::new();
        for (layer, &repeats) in calls.iter().zip(&repeats) {
            round.push(seconds(layer, repeats)?);
        }
        for (ratios, sparse) in ratios.iter_mut().zip(&round[1..]) {
            ratios.push(sparse / round[0]);
        }
    }
    let median = |mut ratios: Vec<f64>| {
        ratios.sort_by(f64::total_cmp);
        ratios[ROUNDS / 2]
    };
    let density = |layer: &BlockSparseLinear| layer.pattern().density();
    let mut points: Vec<(f64, f64)> =
        layers.iter().map(density).zip(ratios.into_iter().map(median)).collect();
    // In a small grid 5 % may be no block at all, or the same blocks as 10 %.
    points.dedup_by_key(|point| point.0);
    points.retain(|point| point.0 > 0.0);
    Ok(points)
}

/// The largest density at which the sparse product is as fast as the dense one, and whether no larger density was
/// measured. `points` are rising densities, each with the ratio of sparse to dense seconds.
///
/// The time of the sparse product grows about linearly with the density, and the dense time is constant. So the
/// break-even point is interpolated linearly between the two measured densities around it, and never extrapolated.
pub fn break_even(points: &[(f64, f64)]) -> (f64, bool) {
    let Some(last) = points.iter().rposition(|point| point.1 <= 1.0) else { return (0.0, false) };
    let (density, ratio) = points[last];
    match points.get(last + 1) {
        None => (density, density < 1.0),
        Some(&(above, slower)) => {
            (density + (above - density) * (1.0 - ratio) / (slower - ratio), false)
        }
    }
}
