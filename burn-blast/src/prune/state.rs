//! The state of pruning for one parameter, recorded with the optimizer.

use burn::optim::{RecordState, StateSink, StateSource};
use burn::tensor::{DType, Device, Tensor, TensorData};

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
    /// Blocks to keep at the next update, once a global ranking has resolved it.
    #[new(default)]
    pub(crate) next_keep: Option<usize>,
    /// Scores submitted to the next global ranking, by slot.
    #[new(default)]
    pub(crate) gathered: Option<Vec<f32>>,
    /// Movement of each kept block so far, `[nnz]`.
    #[new(default)]
    pub(crate) movement: Option<Tensor<1>>,
    /// Kept block numbers of a plain linear weight, which has no pattern of its own.
    #[new(default)]
    pub(crate) kept: Option<Vec<u32>>,
}

impl<S: RecordState> RecordState for BlastState<S> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_scalar(prefix, "blast_step", self.step.into());
        out.push_scalar(prefix, "blast_start_kept", self.start_kept.into());
        if let Some(next_keep) = self.next_keep {
            out.push_scalar(prefix, "blast_next_keep", next_keep.into());
        }
        if let Some(gathered) = &self.gathered {
            let data = TensorData::new(gathered.clone(), [gathered.len()]);
            out.push_tensor(prefix, "blast_gathered", data);
        }
        if let Some(movement) = &self.movement {
            out.push_tensor(prefix, "blast_movement", movement.to_data());
        }
        if let Some(kept) = &self.kept {
            let kept: Vec<i32> = kept.iter().map(|&block| block as i32).collect();
            out.push_tensor(prefix, "blast_kept", TensorData::new(kept.clone(), [kept.len()]));
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
        let start_kept = number(src, "blast_start_kept")?;
        let next_keep = number(src, "blast_next_keep");
        let gathered = src.take_tensor(prefix, "blast_gathered");
        let movement = src.take_tensor(prefix, "blast_movement");
        let kept = src.take_tensor(prefix, "blast_kept");
        let inner = match src.take_scalar(prefix, "blast_has_inner") {
            Some(_) => Some(S::state_unflatten(&inner_path(prefix), src, device)?),
            None => None,
        };
        Some(Self {
            inner,
            step,
            start_kept,
            next_keep,
            gathered: gathered.map(|data| data.iter::<f32>().collect()),
            movement: movement.map(|data| {
                let dtype: DType = data.dtype();
                Tensor::from_data(data, (device, dtype))
            }),
            kept: kept.map(|data| data.iter::<i64>().map(|block| block as u32).collect()),
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

fn inner_path(prefix: &str) -> String {
    format!("{prefix}.blast_inner")
}
