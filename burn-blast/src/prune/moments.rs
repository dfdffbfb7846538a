//! Optimizers whose state can follow the blocks.

use std::collections::BTreeMap;

use burn::optim::momentum::{Momentum, MomentumConfig, MomentumState};
use burn::optim::{
    AdaGrad, Adam, AdamW, Adan, AdaptiveMomentumState, Lamb, Lion, Optimizer, RecordState, RmsProp,
    Sgd, StateSink, StateSource,
};
use burn::tensor::Tensor;

/// An optimizer that [`Blast`](super::Blast) can wrap: its state is tensors of the shape of the parameter, and they are
/// accessible.
///
/// Implement it for your own optimizer by passing every such tensor through `remap`, which moves its blocks like the
/// blocks of the parameter.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot prune: its state cannot be moved to another number of blocks",
    note = "Blast wraps Adam, AdamW, AdaGrad, Adan, Lamb, Lion, RmsProp and Sgd; implement `BlockOptimizer` for an optimizer of your own",
    note = "Adafactor, Muon and LBFGS hold state that does not have the shape of the parameter"
)]
pub trait BlockOptimizer: Optimizer {
    /// Applies `remap` to every tensor of the state. `like` is the parameter before the move, for its shape and device.
    fn remap<const D: usize>(
        state: Self::State<D>,
        like: &Tensor<D>,
        remap: impl Fn(Tensor<D>) -> Tensor<D>,
    ) -> Self::State<D>;

    /// Whether the state has a running mean of squared gradients.
    const HAS_SECOND_MOMENT: bool = false;

    /// The running mean of squared gradients, if the state has one.
    fn second_moment<const D: usize>(_state: &Self::State<D>) -> Option<&Tensor<D>> {
        None
    }
}

fn adaptive<const D: usize>(
    mut state: AdaptiveMomentumState<D>,
    remap: impl Fn(Tensor<D>) -> Tensor<D>,
) -> AdaptiveMomentumState<D> {
    state.moment_1 = remap(state.moment_1);
    state.moment_2 = remap(state.moment_2);
    state.max_moment_2 = state.max_moment_2.map(remap);
    state
}

impl BlockOptimizer for Adam {
    fn remap<const D: usize>(
        mut state: Self::State<D>,
        _like: &Tensor<D>,
        remap: impl Fn(Tensor<D>) -> Tensor<D>,
    ) -> Self::State<D> {
        state.momentum = adaptive(state.momentum, remap);
        state
    }

    const HAS_SECOND_MOMENT: bool = true;

    fn second_moment<const D: usize>(state: &Self::State<D>) -> Option<&Tensor<D>> {
        Some(&state.momentum.moment_2)
    }
}

impl BlockOptimizer for AdamW {
    fn remap<const D: usize>(
        mut state: Self::State<D>,
        _like: &Tensor<D>,
        remap: impl Fn(Tensor<D>) -> Tensor<D>,
    ) -> Self::State<D> {
        state.momentum = adaptive(state.momentum, remap);
        state
    }

    const HAS_SECOND_MOMENT: bool = true;

    fn second_moment<const D: usize>(state: &Self::State<D>) -> Option<&Tensor<D>> {
        Some(&state.momentum.moment_2)
    }
}

impl BlockOptimizer for Adan {
    fn remap<const D: usize>(
        mut state: Self::State<D>,
        _like: &Tensor<D>,
        remap: impl Fn(Tensor<D>) -> Tensor<D>,
    ) -> Self::State<D> {
        let moments = &mut state.momentum;
        for tensor in [
            &mut moments.exp_avg,
            &mut moments.exp_avg_sq,
            &mut moments.exp_avg_diff,
            &mut moments.neg_pre_grad,
        ] {
            *tensor = remap(tensor.clone());
        }
        state
    }

    const HAS_SECOND_MOMENT: bool = true;

    fn second_moment<const D: usize>(state: &Self::State<D>) -> Option<&Tensor<D>> {
        Some(&state.momentum.exp_avg_sq)
    }
}

impl BlockOptimizer for Lamb {
    fn remap<const D: usize>(
        mut state: Self::State<D>,
        _like: &Tensor<D>,
        remap: impl Fn(Tensor<D>) -> Tensor<D>,
    ) -> Self::State<D> {
        state.moment_1 = remap(state.moment_1);
        state.moment_2 = remap(state.moment_2);
        state
    }

    const HAS_SECOND_MOMENT: bool = true;

    fn second_moment<const D: usize>(state: &Self::State<D>) -> Option<&Tensor<D>> {
        Some(&state.moment_2)
    }
}

impl BlockOptimizer for Lion {
    fn remap<const D: usize>(
        mut state: Self::State<D>,
        _like: &Tensor<D>,
        remap: impl Fn(Tensor<D>) -> Tensor<D>,
    ) -> Self::State<D> {
        state.momentum = remap(state.momentum);
        state
    }
}

impl BlockOptimizer for Sgd {
    fn remap<const D: usize>(
        mut state: Self::State<D>,
        like: &Tensor<D>,
        remap: impl Fn(Tensor<D>) -> Tensor<D>,
    ) -> Self::State<D> {
        // The velocity is private. But a momentum of 1 without any share of the new gradient returns it unchanged,
        // without leaving the device.
        let identity = MomentumConfig { momentum: 1.0, dampening: 1.0, nesterov: false };
        let velocity = |state| Momentum::new(&identity).transform(like.zeros_like(), Some(state)).0;
        state.momentum = state.momentum.map(|state| MomentumState::new(remap(velocity(state))));
        state
    }
}

impl BlockOptimizer for RmsProp {
    fn remap<const D: usize>(
        mut state: Self::State<D>,
        like: &Tensor<D>,
        remap: impl Fn(Tensor<D>) -> Tensor<D>,
    ) -> Self::State<D> {
        state.square_avg.square_avg = remap(state.square_avg.square_avg);
        state.centered.avg = remap(state.centered.avg);
        state.centered.grad_avg = state.centered.grad_avg.map(&remap);
        state.momentum = state.momentum.map(|momentum| through_record(momentum, like, remap));
        state
    }

    const HAS_SECOND_MOMENT: bool = true;

    fn second_moment<const D: usize>(state: &Self::State<D>) -> Option<&Tensor<D>> {
        Some(&state.square_avg.square_avg)
    }
}

impl BlockOptimizer for AdaGrad {
    fn remap<const D: usize>(
        state: Self::State<D>,
        like: &Tensor<D>,
        remap: impl Fn(Tensor<D>) -> Tensor<D>,
    ) -> Self::State<D> {
        through_record(state, like, remap)
    }
}

/// For state with private tensors: through the record of the state, on the host.
fn through_record<const D: usize, S: RecordState>(
    state: S,
    like: &Tensor<D>,
    remap: impl Fn(Tensor<D>) -> Tensor<D>,
) -> S {
    let device = like.device();
    let mut sink = StateSink::default();
    state.state_flatten("", &mut sink);
    let mut source = StateSource::new(sink.scalars.into_iter().collect::<BTreeMap<_, _>>());
    for (name, data) in sink.tensors {
        let dtype = data.dtype();
        let tensor = remap(Tensor::from_data(data, (&device, dtype)));
        source.insert_tensor(name, tensor.into_data());
    }
    S::state_unflatten("", &mut source, &device).expect("a state restores from its own record")
}
