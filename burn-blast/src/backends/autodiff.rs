//! Backward rules. The gradient of each operation is again an operation of [`BlastOps`]:
//!
//! - `spmm` and its variants: `dx = spmm_t(dy)`, `dvalues = sddmm(x, dy)`, `dbias = Σ_m dy`, and, when probed,
//!   `dprobe = grad_block_norms(x, dy)`
//! - `spmm_int8`: `dx = spmm_t(dy)` with the dequantised values, which get no gradient
//! - `gated_mlp` and `mlp`: backward operations of their own, which re-compute the hidden features
//! - `pack` and `unpack`: each other
//!
//! `spmm_t`, `sddmm` and the norms are used in backward passes only, which Burn does not differentiate. They are not
//! tracked.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::{FloatTensor, QuantizedTensor};
use burn::backend::{AutodiffBackend, Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape};
use burn_blast_kernels::BlockPattern;

use crate::feed_forward::{GatedPatterns, MlpPatterns};
use crate::ops::BlastOps;

#[derive(Debug)]
struct Spmm;

/// What a product saves for its backward pass: input, values and pattern.
type Saved<B> = (FloatTensor<B>, FloatTensor<B>, BlockPattern);

fn backward_spmm<B: BlastOps, const N: usize>(
    ops: Ops<Saved<B>, N>,
    grads: &mut Gradients,
    bias_at: Option<usize>,
    probe_at: Option<usize>,
) {
    let (x, values, pattern) = ops.state;
    let dy = grads.consume::<B>(&ops.node);
    let parent = |at: Option<usize>| at.and_then(|at| ops.parents[at].clone());
    if let Some(node) = parent(Some(0)) {
        grads.register::<B>(node.id, B::spmm_t(dy.clone(), values, pattern.clone()));
    }
    if let Some(node) = parent(Some(1)) {
        grads.register::<B>(node.id, B::sddmm(x.clone(), dy.clone(), pattern.clone()));
    }
    if let Some(node) = parent(bias_at) {
        grads.register::<B>(node.id, rows_summed::<B>(dy.clone(), &pattern));
    }
    if let Some(node) = parent(probe_at) {
        // The probe is in f32 for every weight: in half precision most norms would tie.
        let single = |tensor| B::float_cast(tensor, FloatDType::F32);
        grads.register::<B>(node.id, B::grad_block_norms(single(x), single(dy), pattern));
    }
}

/// Gradient of the bias of a layer from the gradient of its output.
fn rows_summed<B: Backend>(dy: FloatTensor<B>, pattern: &BlockPattern) -> FloatTensor<B> {
    B::float_reshape(B::float_sum_dim(dy, 0), Shape::new([pattern.shape().cols()]))
}

impl<B: BlastOps> Backward<B, 2> for Spmm {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward_spmm::<B, 2>(ops, grads, None, None);
    }
}

#[derive(Debug)]
struct SpmmBias;

impl<B: BlastOps> Backward<B, 3> for SpmmBias {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward_spmm::<B, 3>(ops, grads, Some(2), None);
    }
}

#[derive(Debug)]
struct SpmmProbed;

impl<B: BlastOps> Backward<B, 3> for SpmmProbed {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward_spmm::<B, 3>(ops, grads, None, Some(2));
    }
}

/// Registers a product of the given parents with its rule.
macro_rules! tracked {
    ($rule:expr, [$($parent:expr),*], $x:expr, $values:expr, $pattern:expr, $product:expr) => {
        match $rule.prepare::<C>([$($parent.node()),*]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (x, values) = ($x.into_primitive(), $values.into_primitive());
                let y = $product(x.clone(), values.clone(), $pattern.clone());
                prep.finish((x, values, $pattern), y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish($product($x.into_primitive(), $values.into_primitive(), $pattern))
            }
        }
    };
}

#[derive(Debug)]
struct SpmmInt8;

impl<B: BlastOps> Backward<B, 1> for SpmmInt8 {
    type State = (QuantizedTensor<B>, BlockPattern);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (values, pattern) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |dy| {
            let values = B::dequantize(values, dy.dtype().into());
            B::spmm_t(dy, values, pattern)
        });
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
struct Pack;

impl<B: BlastOps> Backward<B, 1> for Pack {
    type State = BlockPattern;

    fn backward(self, ops: Ops<BlockPattern, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        unary::<B, _>(ops.parents, ops.node, grads, |grad| B::unpack(grad, ops.state));
    }
}

#[derive(Debug)]
struct Unpack;

impl<B: BlastOps> Backward<B, 1> for Unpack {
    type State = BlockPattern;

    fn backward(self, ops: Ops<BlockPattern, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        unary::<B, _>(ops.parents, ops.node, grads, |grad| B::pack(grad, ops.state));
    }
}

impl<B: Backend + BlastOps, C: CheckpointStrategy> BlastOps for Autodiff<B, C> {
    fn spmm(
        x: FloatTensor<Self>,
        values: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        tracked!(Spmm, [x, values], x, values, pattern, B::spmm)
    }

    fn spmm_bias(
        x: FloatTensor<Self>,
        values: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        let inner = bias.clone().into_primitive();
        let product = |x, values, pattern| B::spmm_bias(x, values, inner, pattern);
        tracked!(SpmmBias, [x, values, bias], x, values, pattern, product)
    }

    fn spmm_probed(
        x: FloatTensor<Self>,
        values: FloatTensor<Self>,
        probe: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        tracked!(SpmmProbed, [x, values, probe], x, values, pattern, B::spmm)
    }

    fn spmm_int8(
        x: FloatTensor<Self>,
        values: QuantizedTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        match SpmmInt8.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::spmm_int8(x.into_primitive(), values.clone(), pattern.clone());
                prep.finish((values, pattern), y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::spmm_int8(x.into_primitive(), values, pattern))
            }
        }
    }

    fn spmm_t(
        dy: FloatTensor<Self>,
        values: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        Self::from_inner(B::spmm_t(dy.into_primitive(), values.into_primitive(), pattern))
    }

    fn sddmm(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        Self::from_inner(B::sddmm(x.into_primitive(), dy.into_primitive(), pattern))
    }

    fn block_norms(values: FloatTensor<Self>, pattern: BlockPattern) -> FloatTensor<Self> {
        Self::from_inner(B::block_norms(values.into_primitive(), pattern))
    }

    fn grad_block_norms(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        Self::from_inner(B::grad_block_norms(x.into_primitive(), dy.into_primitive(), pattern))
    }

    fn pack(dense: FloatTensor<Self>, pattern: BlockPattern) -> FloatTensor<Self> {
        match Pack.prepare::<C>([dense.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(pattern.clone(), B::pack(dense.into_primitive(), pattern))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::pack(dense.into_primitive(), pattern)),
        }
    }

    fn unpack(values: FloatTensor<Self>, pattern: BlockPattern) -> FloatTensor<Self> {
        match Unpack.prepare::<C>([values.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(pattern.clone(), B::unpack(values.into_primitive(), pattern))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::unpack(values.into_primitive(), pattern)),
        }
    }

    fn gated_mlp(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        patterns: GatedPatterns,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gate.node(), up.node(), down.node()];
        let [x, gate, up, down] = [x, gate, up, down].map(|tensor| tensor.into_primitive());
        let product = |x, gate, up, down| B::gated_mlp(x, gate, up, down, patterns.clone());
        match GatedMlp.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = product(x.clone(), gate.clone(), up.clone(), down.clone());
                prep.finish(([x, gate, up, down], patterns), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(product(x, gate, up, down)),
        }
    }

    fn mlp(
        x: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        down: FloatTensor<Self>,
        down_bias: FloatTensor<Self>,
        patterns: MlpPatterns,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), up.node(), up_bias.node(), down.node(), down_bias.node()];
        let saved = [x, up, up_bias, down].map(|tensor| tensor.into_primitive());
        let [x, up, up_bias, down] = saved.clone();
        let y = B::mlp(x, up, up_bias, down, down_bias.into_primitive(), patterns.clone());
        match Mlp.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((saved, patterns), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
