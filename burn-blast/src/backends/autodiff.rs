//! Backward rules. The gradient of each operation is again an operation of [`BlastOps`]:
//!
//! - `spmm` and its variants: `dx = spmm_t(dy)`, `dvalues = sddmm(x, dy)`, `dbias = Σ_m dy`, and, when probed,
//!   `dprobe = grad_block_norms(x, dy)`
//! - `spmm_quantized`: `dx = spmm_t_quantized(dy)`; the values get no gradient
//! - `gated_mlp` and `mlp`: backward operations of their own, which re-compute the hidden features
//! - `masked_softmax`: from its result alone
//! - `causal_attention`: a backward operation of its own, which computes the shares again
//! - `pack` and `unpack`: each other
//!
//! `spmm_t`, `sddmm` and the norms are used in backward passes only, which Burn does not differentiate. They are not
//! tracked.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind, unary};
use burn::backend::tensor::{FloatTensor, QuantizedTensor};
use burn::backend::{AutodiffBackend, Backend};
use burn::tensor::{FloatDType, Shape};
use burn_blast_kernels::BlockPattern;

use crate::attention::Reach;
use crate::feed_forward::{GatedPatterns, MlpPatterns};
use crate::ops::BlastOps;

/// A tensor on the tape over `B`.
type Tracked<B> = FloatTensor<Autodiff<B>>;

/// Registers the result of an operation with its rule and what its backward pass needs.
fn record<B: Backend, C: CheckpointStrategy, R: Backward<B, N>, const N: usize>(
    rule: R,
    parents: [NodeGuard; N],
    saved: R::State,
    result: FloatTensor<B>,
) -> Tracked<B> {
    match rule.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(saved, result),
        OpsKind::UnTracked(prep) => prep.finish(result),
    }
}

/// A product. Its parents are input and values, and a bias, or a probe if it is `probed`.
#[derive(Debug)]
struct Spmm {
    probed: bool,
}

impl<B: BlastOps, const N: usize> Backward<B, N> for Spmm {
    /// Input, values and pattern.
    type State = (FloatTensor<B>, FloatTensor<B>, BlockPattern);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (x, values, pattern) = ops.state;
        let dy = grads.consume::<B>(&ops.node);
        let parent = |at: usize| ops.parents.get(at).cloned().flatten();
        if let Some(node) = parent(0) {
            grads.register::<B>(node.id, B::spmm_t(dy.clone(), values, pattern.clone()));
        }
        if let Some(node) = parent(1) {
            grads.register::<B>(node.id, B::sddmm(x.clone(), dy.clone(), pattern.clone()));
        }
        let Some(node) = parent(2) else { return };
        let gradient = if self.probed {
            // The probe is in f32 for every weight: in half precision most norms would tie.
            let single = |tensor| B::float_cast(tensor, FloatDType::F32);
            B::grad_block_norms(single(x), single(dy), pattern)
        } else {
            rows_summed::<B>(dy, &pattern)
        };
        grads.register::<B>(node.id, gradient);
    }
}

/// Gradient of the bias of a layer from the gradient of its output.
fn rows_summed<B: Backend>(dy: FloatTensor<B>, pattern: &BlockPattern) -> FloatTensor<B> {
    B::float_reshape(B::float_sum_dim(dy, 0), Shape::new([pattern.shape().cols()]))
}

#[derive(Debug)]
struct SpmmQuantized;

impl<B: BlastOps> Backward<B, 1> for SpmmQuantized {
    type State = (QuantizedTensor<B>, BlockPattern);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (values, pattern) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |dy| B::spmm_t_quantized(dy, values, pattern));
    }
}

#[derive(Debug)]
struct GatedMlp;

impl<B: BlastOps> Backward<B, 4> for GatedMlp {
    /// Input, the values of the three layers, and their patterns.
    type State = ([FloatTensor<B>; 4], GatedPatterns);

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let ([x, gate, up, down], patterns) = ops.state;
        let dy = grads.consume::<B>(&ops.node);
        let (dx, dgate, dup, ddown) = B::gated_mlp_backward(x, gate, up, down, dy, patterns);
        for (parent, gradient) in ops.parents.into_iter().zip([dx, dgate, dup, ddown]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct Mlp;

impl<B: BlastOps> Backward<B, 5> for Mlp {
    /// Input, the values and bias of the first layer, the values of the second, and their patterns.
    type State = ([FloatTensor<B>; 4], MlpPatterns);

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
        let ([x, up, up_bias, down], patterns) = ops.state;
        let dy = grads.consume::<B>(&ops.node);
        let [first @ .., down_bias] = ops.parents;
        if let Some(node) = down_bias {
            grads.register::<B>(node.id, rows_summed::<B>(dy.clone(), &patterns.down));
        }
        let (dx, dup, dbias, ddown) = B::mlp_backward(x, up, up_bias, down, dy, patterns);
        for (parent, gradient) in first.into_iter().zip([dx, dup, dbias, ddown]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct MaskedSoftmax;

impl<B: BlastOps> Backward<B, 1> for MaskedSoftmax {
    /// The result.
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let y = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |dy| B::softmax_backward(y, dy));
    }
}

#[derive(Debug)]
struct CausalAttention;

impl<B: BlastOps> Backward<B, 3> for CausalAttention {
    /// Query, keys and values, and what queries see.
    type State = ([FloatTensor<B>; 3], Reach);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let ([query, keys, values], reach) = ops.state;
        let dy = grads.consume::<B>(&ops.node);
        let (dquery, dkeys, dvalues) = B::causal_attention_backward(query, keys, values, dy, reach);
        for (parent, gradient) in ops.parents.into_iter().zip([dquery, dkeys, dvalues]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
enum Repack {
    Pack,
    Unpack,
}

impl<B: BlastOps> Backward<B, 1> for Repack {
    type State = BlockPattern;

    fn backward(self, ops: Ops<BlockPattern, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        unary::<B, _>(ops.parents, ops.node, grads, |grad| match self {
            Repack::Pack => B::unpack(grad, ops.state),
            Repack::Unpack => B::pack(grad, ops.state),
        });
    }
}

impl<B: Backend + BlastOps, C: CheckpointStrategy> BlastOps for Autodiff<B, C> {
    fn spmm(x: Tracked<B>, values: Tracked<B>, pattern: BlockPattern) -> Tracked<B> {
        let parents = [x.node(), values.node()];
        let (x, values) = (x.into_primitive(), values.into_primitive());
        let y = B::spmm(x.clone(), values.clone(), pattern.clone());
        record::<B, C, _, 2>(Spmm { probed: false }, parents, (x, values, pattern), y)
    }

    fn spmm_bias(
        x: Tracked<B>,
        values: Tracked<B>,
        bias: Tracked<B>,
        pattern: BlockPattern,
    ) -> Tracked<B> {
        let parents = [x.node(), values.node(), bias.node()];
        let [x, values, bias] = [x, values, bias].map(|tensor| tensor.into_primitive());
        let y = B::spmm_bias(x.clone(), values.clone(), bias, pattern.clone());
        record::<B, C, _, 3>(Spmm { probed: false }, parents, (x, values, pattern), y)
    }

    fn spmm_probed(
        x: Tracked<B>,
        values: Tracked<B>,
        probe: Tracked<B>,
        pattern: BlockPattern,
    ) -> Tracked<B> {
        let parents = [x.node(), values.node(), probe.node()];
        let (x, values) = (x.into_primitive(), values.into_primitive());
        let y = B::spmm(x.clone(), values.clone(), pattern.clone());
        record::<B, C, _, 3>(Spmm { probed: true }, parents, (x, values, pattern), y)
    }

    fn spmm_quantized(
        x: Tracked<B>,
        values: QuantizedTensor<B>,
        pattern: BlockPattern,
    ) -> Tracked<B> {
        let (x, node) = x.into_parts();
        let y = B::spmm_quantized(x, values.clone(), pattern.clone());
        record::<B, C, _, 1>(SpmmQuantized, [node], (values, pattern), y)
    }

    fn spmm_t(dy: Tracked<B>, values: Tracked<B>, pattern: BlockPattern) -> Tracked<B> {
        Self::from_inner(B::spmm_t(dy.into_primitive(), values.into_primitive(), pattern))
    }

    fn spmm_t_quantized(
        dy: Tracked<B>,
        values: QuantizedTensor<B>,
        pattern: BlockPattern,
    ) -> Tracked<B> {
        Self::from_inner(B::spmm_t_quantized(dy.into_primitive(), values, pattern))
    }

    fn sddmm(x: Tracked<B>, dy: Tracked<B>, pattern: BlockPattern) -> Tracked<B> {
        Self::from_inner(B::sddmm(x.into_primitive(), dy.into_primitive(), pattern))
    }

    fn block_norms(values: Tracked<B>, pattern: BlockPattern) -> Tracked<B> {
        Self::from_inner(B::block_norms(values.into_primitive(), pattern))
    }

    fn grad_block_norms(x: Tracked<B>, dy: Tracked<B>, pattern: BlockPattern) -> Tracked<B> {
        Self::from_inner(B::grad_block_norms(x.into_primitive(), dy.into_primitive(), pattern))
    }

    fn pack(dense: Tracked<B>, pattern: BlockPattern) -> Tracked<B> {
        let (dense, node) = dense.into_parts();
        let values = B::pack(dense, pattern.clone());
        record::<B, C, _, 1>(Repack::Pack, [node], pattern, values)
    }

    fn unpack(values: Tracked<B>, pattern: BlockPattern) -> Tracked<B> {
        let (values, node) = values.into_parts();
        let dense = B::unpack(values, pattern.clone());
        record::<B, C, _, 1>(Repack::Unpack, [node], pattern, dense)
    }

    fn masked_softmax(x: Tracked<B>, mask: Tracked<B>) -> Tracked<B> {
        let (x, node) = x.into_parts();
        let y = B::masked_softmax(x, mask.into_primitive());
        record::<B, C, _, 1>(MaskedSoftmax, [node], y.clone(), y)
    }

    fn softmax_backward(y: Tracked<B>, dy: Tracked<B>) -> Tracked<B> {
        Self::from_inner(B::softmax_backward(y.into_primitive(), dy.into_primitive()))
    }

    fn causal_attention(
        query: Tracked<B>,
        keys: Tracked<B>,
        values: Tracked<B>,
        reach: Reach,
    ) -> Tracked<B> {
        let parents = [query.node(), keys.node(), values.node()];
        let saved = [query, keys, values].map(|tensor| tensor.into_primitive());
        let [query, keys, values] = saved.clone();
        let y = B::causal_attention(query, keys, values, reach);
        record::<B, C, _, 3>(CausalAttention, parents, (saved, reach), y)
    }

    fn gated_mlp(
        x: Tracked<B>,
        gate: Tracked<B>,
        up: Tracked<B>,
        down: Tracked<B>,
        patterns: GatedPatterns,
    ) -> Tracked<B> {
        let parents = [x.node(), gate.node(), up.node(), down.node()];
        let saved = [x, gate, up, down].map(|tensor| tensor.into_primitive());
        let [x, gate, up, down] = saved.clone();
        let y = B::gated_mlp(x, gate, up, down, patterns.clone());
        record::<B, C, _, 4>(GatedMlp, parents, (saved, patterns), y)
    }

    fn mlp(
        x: Tracked<B>,
        up: Tracked<B>,
        up_bias: Tracked<B>,
        down: Tracked<B>,
        down_bias: Tracked<B>,
        patterns: MlpPatterns,
    ) -> Tracked<B> {
        let parents = [x.node(), up.node(), up_bias.node(), down.node(), down_bias.node()];
        let saved = [x, up, up_bias, down].map(|tensor| tensor.into_primitive());
        let [x, up, up_bias, down] = saved.clone();
        let y = B::mlp(x, up, up_bias, down, down_bias.into_primitive(), patterns.clone());
        record::<B, C, _, 5>(Mlp, parents, (saved, patterns), y)
    }
}
