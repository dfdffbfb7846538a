//! The state of pruning for one parameter, recorded with the optimizer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::optim::{RecordState, StateSink, StateSource};
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::functions::gather;

/// State of [`Blast`](super::Blast) for one parameter, which includes the state of the wrapped optimizer.
#[derive(Debug, Clone, derive_new::new)]
#[new(visibility = "pub(crate)")]
pub struct BlastState<S> {
    /// State of the wrapped optimizer.
    #[new(default)]
    pub(crate) inner: Option<S>,
    /// Optimizer steps this parameter has seen.
    #[new(default)]
    pub(crate) step: usize,
    /// Blocks kept before the first step.
    pub(crate) start_kept: usize,
    /// What the next update does, once the rankings of other layers have resolved it.
    #[new(default)]
    pub(crate) next: Option<Next>,
    /// Scores submitted to the next update, by slot.
    #[new(default)]
    pub(crate) gathered: Option<Vec<f32>>,
    /// Gradient norms submitted to the next update, by block number.
    #[new(default)]
    pub(crate) gathered_norms: Option<Vec<f32>>,
    /// Sum or mean of each kept block's score over the steps so far, `[nnz]`, if the score has one.
    #[new(default)]
    pub(crate) running: Option<Tensor<1>>,
    /// Step at which each kept block was added, by slot; zero for those of the start. Recorded only with a grace time.
    #[new(default)]
    pub(crate) added_at: Option<Vec<u32>>,
    /// Step of the whole run, and before the first step since the state was loaded, the one it was saved at. A layer that
    /// idled before the run was saved knows by it how far the others were.
    #[new(default)]
    pub(crate) run_step: Arc<AtomicUsize>,
    /// Kept block numbers of a plain linear weight, which has no pattern of its own.
    #[new(default)]
    pub(crate) kept: Option<Vec<u32>>,
}

/// What an update does to a layer, if that depends on other layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// The layer keeps so many blocks, of its own choice.
    Count(usize),
    /// The layer keeps the blocks of these numbers.
    Blocks(Vec<u32>),
}

impl<S> BlastState<S> {
    /// Follows the blocks to their new slots: the old slot of each, or none if the block is new.
    pub(crate) fn move_blocks(&mut self, sources: &[Option<u32>], with_grace: bool) {
        self.running = self.running.take().map(|running| gather(running, sources));
        let before = self.added_at.take().unwrap_or_default();
        let added_at = |source: &Option<u32>| match source {
            // A record may hold any number of steps.
            Some(slot) => before.get(*slot as usize).copied().unwrap_or(0),
            None => self.step as u32,
        };
        self.added_at = with_grace.then(|| sources.iter().map(added_at).collect());
    }

    /// Gives the blocks that were added within `grace` steps before an update the best score of the layer.
    pub(crate) fn protect(&self, scores: &mut [f32], update: usize, grace: usize) {
        let Some(added_at) = &self.added_at else { return };
        let best = scores.iter().copied().filter(|score| !score.is_nan()).reduce(f32::max);
        for (score, &added) in scores.iter_mut().zip(added_at) {
            if added > 0 && update < added as usize + grace {
                *score = best.unwrap_or(*score);
            }
        }
    }
}

impl<S: RecordState> RecordState for BlastState<S> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_scalar(prefix, "blast_step", self.step.into());
        out.push_scalar(prefix, "blast_run_step", self.run_step.load(Relaxed).into());
        out.push_scalar(prefix, "blast_start_kept", self.start_kept.into());
        match &self.next {
            Some(Next::Count(count)) => {
                out.push_scalar(prefix, "blast_next_keep", (*count).into());
            }
            Some(Next::Blocks(blocks)) => {
                out.push_tensor(prefix, "blast_next_blocks", numbers(blocks));
            }
            None => {}
        }
        for (leaf, floats) in
            [("blast_gathered", &self.gathered), ("blast_gathered_norms", &self.gathered_norms)]
        {
            if let Some(floats) = floats {
                let data = TensorData::new(floats.clone(), [floats.len()]);
                out.push_tensor(prefix, leaf, data);
            }
        }
        if let Some(running) = &self.running {
            out.push_tensor(prefix, "blast_running", running.to_data());
        }
        for (leaf, whole) in [("blast_kept", &self.kept), ("blast_added_at", &self.added_at)] {
            if let Some(whole) = whole {
                out.push_tensor(prefix, leaf, numbers(whole));
            }
        }
        if let Some(inner) = &self.inner {
            out.push_scalar(prefix, "blast_has_inner", true.into());
            inner.state_flatten(&inner_path(prefix), out);
        }
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let device = &loading_device(device);
        let number = |src: &mut StateSource, leaf: &str| {
            src.take_scalar(prefix, leaf).and_then(|scalar| usize::try_from(scalar).ok())
        };
        let step = number(src, "blast_step")?;
        let run_step = number(src, "blast_run_step").unwrap_or(step);
        let start_kept = number(src, "blast_start_kept")?;
        let mut whole = |leaf: &str| {
            let data = src.take_tensor(prefix, leaf)?;
            Some(data.iter::<i64>().map(|number| number as u32).collect())
        };
        let (kept, next_blocks) = (whole("blast_kept"), whole("blast_next_blocks"));
        let added_at = whole("blast_added_at");
        let next_count = number(src, "blast_next_keep").map(Next::Count);
        let mut floats =
            |leaf: &str| Some(src.take_tensor(prefix, leaf)?.iter::<f32>().collect::<Vec<f32>>());
        let (gathered, gathered_norms) = (floats("blast_gathered"), floats("blast_gathered_norms"));
        let running = src.take_tensor(prefix, "blast_running");
        let inner = match src.take_scalar(prefix, "blast_has_inner") {
            Some(_) => Some(S::state_unflatten(&inner_path(prefix), src, device)?),
            None => None,
        };
        Some(Self {
            inner,
            step,
            start_kept,
            next: next_blocks.map(Next::Blocks).or(next_count),
            gathered,
            gathered_norms,
            running: running.map(|data| {
                let dtype: DType = data.dtype();
                Tensor::from_data(data, (device, dtype))
            }),
            added_at,
            run_step: Arc::new(run_step.into()),
            kept,
        })
    }
}

/// The device that state is loaded on. Burn passes its default device, which may be a GPU that is not there, and moves
/// the state to the right device at the next step. So it is loaded on the host.
pub(super) fn loading_device(_default: &Device) -> Device {
    #[cfg(feature = "flex")]
    return Device::flex();
    #[cfg(not(feature = "flex"))]
    _default.clone()
}

fn numbers(whole: &[u32]) -> TensorData {
    let whole: Vec<i32> = whole.iter().map(|&number| number as i32).collect();
    let count = whole.len();
    TensorData::new(whole, [count])
}

fn inner_path(prefix: &str) -> String {
    format!("{prefix}.blast_inner")
}
