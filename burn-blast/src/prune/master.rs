//! Single-precision copies of weights that compute in half precision.

use burn::optim::{LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{DType, Device, Tensor};

use super::BlockOptimizer;
use super::state::loading_device;

/// An optimizer that works on single-precision copies of half-precision weights.
///
/// A bf16 weight has 8 bits of precision. Most updates of a training run are smaller than half of its last bit and
/// would be rounded away. Here the wrapped optimizer gets the copy and the gradient in f32 and keeps its moments in
/// f32; the weight is the rounded copy. The copy is made at the first step, is part of the record of the optimizer, and
/// moves with the blocks of a pruned weight. Weights in f32 go to the wrapped optimizer as they are.
///
/// Mixed precision as in Micikevicius et al. (arXiv 1710.03740), without loss scaling, since bf16 has the range of f32.
///
/// # Example
/// ```
/// use burn::optim::AdamWConfig;
/// use burn_blast::prune::{Blast, BlastConfig, MasterWeights};
///
/// let optimizer = MasterWeights::new(AdamWConfig::new().build());
/// let blast = Blast::new(optimizer, BlastConfig::new(1000));
/// # let _ = blast;
/// ```
#[derive(Clone, derive_new::new)]
pub struct MasterWeights<O> {
    /// The wrapped optimizer, for example `AdamWConfig::new().build()`.
    inner: O,
}

impl<O> std::fmt::Debug for MasterWeights<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Burn's optimizers are not `Debug`.
        f.debug_struct("MasterWeights").finish_non_exhaustive()
    }
}

/// State of [`MasterWeights`] for one parameter.
#[derive(Debug, Clone)]
pub struct MasterState<S, const D: usize> {
    /// The weight in f32, unless the weight itself is in f32.
    master: Option<Tensor<D>>,
    /// State of the wrapped optimizer.
    inner: Option<S>,
}

impl<O: Optimizer> Optimizer for MasterWeights<O> {
    type State<const D: usize> = MasterState<O::State<D>, D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let (master, inner) = state.map_or((None, None), |state| (state.master, state.inner));
        let dtype = tensor.dtype();
        if !matches!(dtype, DType::F16 | DType::BF16) {
            let (tensor, inner) = self.inner.step(lr, tensor, grad, inner);
            return (tensor, Some(MasterState { master: None, inner }));
        }
        let master = master.unwrap_or_else(|| tensor.cast(DType::F32));
        let (master, inner) = self.inner.step(lr, master, grad.cast(DType::F32), inner);
        (master.clone().cast(dtype), Some(MasterState { master: Some(master), inner }))
    }

    fn to_device<const D: usize>(state: Self::State<D>, device: &Device) -> Self::State<D> {
        MasterState {
            master: state.master.map(|master| master.to_device(device)),
            inner: state.inner.map(|inner| O::to_device(inner, device)),
        }
    }
}

impl<O: BlockOptimizer> BlockOptimizer for MasterWeights<O> {
    fn remap<const D: usize>(
        state: Self::State<D>,
        like: &Tensor<D>,
        remap: impl Fn(Tensor<D>) -> Tensor<D>,
    ) -> Self::State<D> {
        // The moments have the precision of the copy.
        let like = state.master.clone().unwrap_or_else(|| like.clone());
        MasterState {
            master: state.master.map(&remap),
            inner: state.inner.map(|inner| O::remap(inner, &like, remap)),
        }
    }

    const HAS_SECOND_MOMENT: bool = O::HAS_SECOND_MOMENT;

    fn second_moment<const D: usize>(state: &Self::State<D>) -> Option<&Tensor<D>> {
        O::second_moment(state.inner.as_ref()?)
    }
}

impl<S: RecordState, const D: usize> RecordState for MasterState<S, D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        if let Some(master) = &self.master {
            out.push_tensor(prefix, "master", master.to_data());
        }
        if let Some(inner) = &self.inner {
            out.push_scalar(prefix, "master_has_inner", true.into());
            inner.state_flatten(&inner_path(prefix), out);
        }
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let device = &loading_device(device);
        let master = src.take_tensor(prefix, "master");
        let inner = match src.take_scalar(prefix, "master_has_inner") {
            Some(_) => Some(S::state_unflatten(&inner_path(prefix), src, device)?),
            None => None,
        };
        let master = master.map(|data| Tensor::from_data(data, (device, DType::F32)));
        Some(Self { master, inner })
    }
}

fn inner_path(prefix: &str) -> String {
    format!("{prefix}.master_inner")
}
