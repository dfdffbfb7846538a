//! Burn's own CPU backend. Inputs are borrowed slices, outputs owned buffers, without copies for `f32`.

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::ops::QTensorOps;
use burn::tensor::{DType, Element, Shape, bf16, f16};
use burn_blast_kernels::cpu::{self, HostFloat, Mlp, MlpLayer, Values};
use burn_blast_kernels::{BlockPattern, pack};
use burn_flex::{FlexQTensor, FlexTensor, Layout};

use super::aligned;
use crate::attention::{Reach, Seen};
use crate::feed_forward::{GatedPatterns, MlpActivation, MlpPatterns};
use crate::int4::is_int4;
use crate::ops::{BlastOps, packed};

/// Runs `$body` with `$float` bound to the storage type of `$tensor`.
macro_rules! by_dtype {
    ($tensor:expr, $float:ident => $body:expr) => {
        match $tensor.dtype() {
            DType::F32 | DType::Flex32 => {
                type $float = f32;
                $body
            }
            DType::F16 => {
                type $float = f16;
                $body
            }
            DType::BF16 => {
                type $float = bf16;
                $body
            }
            other => super::refuse_dtype(other),
        }
    };
}

/// The elements of a contiguous tensor of a known element type.
fn slice<T: Element + bytemuck::Pod>(tensor: &FlexTensor) -> &[T] {
    tensor.as_slice().expect("a contiguous tensor of the matched data type")
}

fn own<T: HostFloat + Element + bytemuck::Pod>(data: Vec<T>, shape: Shape) -> FlexTensor {
    let bytes = burn::tensor::Bytes::from_elems(data);
    FlexTensor::new(bytes, Layout::contiguous(shape), T::dtype())
}

fn rows(tensor: &FlexTensor) -> usize {
    tensor.shape()[0]
}

fn product(
    x: FlexTensor,
    values: FlexTensor,
    bias: Option<FlexTensor>,
    pattern: BlockPattern,
) -> FlexTensor {
    let (m, bias) = (rows(&x), bias.map(|tensor| tensor.to_contiguous()));
    let (x, values) = (x.to_contiguous(), values.to_contiguous());
    by_dtype!(x, T => {
        let bias = bias.as_ref().map(slice::<T>);
        let values = T::values(slice(&values));
        aligned::tensor(Shape::new([m, pattern.shape().cols()]), |y| {
            cpu::spmm_into(slice::<T>(&x), values, bias, &pattern, y);
        })
    })
}

/// Sizes of causal attention from the shapes of queries and keys.
fn causal(query: Shape, keys: Shape, reach: Reach) -> cpu::CausalAttention {
    let ([_, heads, time, head], [_, kv_heads, span, _]) = (query.dims(), keys.dims());
    let Reach { window, scale } = reach;
    cpu::CausalAttention { heads, kv_heads, head, time, span, window, scale: scale as f32 }
}

/// Quantised values, whose integers are `stored`.
fn integers<'a>(
    values: &'a FlexQTensor,
    stored: &'a FlexTensor,
    pattern: &BlockPattern,
) -> Values<'a> {
    match is_int4(values.dtype(), &values.shape()) {
        true => Values::Int4 { bytes: slice(stored), block: pattern.block() },
        false => Values::Int8 { values: slice(stored), scales: values.scales() },
    }
}

impl BlastOps for Flex {
    fn spmm(x: FlexTensor, values: FlexTensor, pattern: BlockPattern) -> FlexTensor {
        product(x, values, None, pattern)
    }

    fn spmm_bias(
        x: FlexTensor,
        values: FlexTensor,
        bias: FlexTensor,
        pattern: BlockPattern,
    ) -> FlexTensor {
        product(x, values, Some(bias), pattern)
    }

    fn spmm_quantized(x: FlexTensor, values: FlexQTensor, pattern: BlockPattern) -> FlexTensor {
        let m = rows(&x);
        let (x, stored) = (x.to_contiguous(), values.tensor().to_contiguous());
        let values = integers(&values, &stored, &pattern);
        by_dtype!(x, T => {
            aligned::tensor(Shape::new([m, pattern.shape().cols()]), |y| {
                cpu::spmm_into(slice::<T>(&x), values, None, &pattern, y);
            })
        })
    }

    fn spmm_t_quantized(dy: FlexTensor, values: FlexQTensor, pattern: BlockPattern) -> FlexTensor {
        if !is_int4(values.dtype(), &values.shape()) {
            return Self::spmm_t(dy.clone(), Self::dequantize(values, dy.dtype().into()), pattern);
        }
        let m = rows(&dy);
        let (dy, stored) = (dy.to_contiguous(), values.tensor().to_contiguous());
        let values = integers(&values, &stored, &pattern);
        by_dtype!(dy, T => {
            aligned::tensor(Shape::new([m, pattern.shape().rows()]), |dx| {
                cpu::spmm_t_into(slice::<T>(&dy), values, &pattern, dx);
            })
        })
    }

    fn spmm_t(dy: FlexTensor, values: FlexTensor, pattern: BlockPattern) -> FlexTensor {
        let m = rows(&dy);
        let (dy, values) = (dy.to_contiguous(), values.to_contiguous());
        by_dtype!(dy, T => {
            let values = T::values(slice(&values));
            aligned::tensor(Shape::new([m, pattern.shape().rows()]), |dx| {
                cpu::spmm_t_into(slice::<T>(&dy), values, &pattern, dx);
            })
        })
    }

    fn masked_softmax(x: FlexTensor, mask: FlexTensor) -> FlexTensor {
        let (x, mask, shape) = (x.to_contiguous(), mask.to_contiguous(), x.shape());
        let width = shape[1];
        aligned::tensor(shape, |out| {
            cpu::masked_softmax_into(slice(&x), slice(&mask), width, out);
        })
    }

    fn softmax_backward(y: FlexTensor, dy: FlexTensor) -> FlexTensor {
        let (y, dy, shape) = (y.to_contiguous(), dy.to_contiguous(), y.shape());
        let width = shape[1];
        aligned::tensor(shape, |out| {
            cpu::softmax_backward_into(slice(&y), slice(&dy), width, out);
        })
    }

    fn cached_attention(
        query: FlexTensor,
        keys: FlexTensor,
        values: FlexTensor,
        seen: Seen,
    ) -> FlexTensor {
        let [query, keys, values] = [query, keys, values].map(|tensor| tensor.to_contiguous());
        let (shape, cached) = (query.shape(), keys.shape());
        let sizes = cpu::CachedAttention {
            heads: shape[1],
            kv_heads: cached[1],
            head: shape[2],
            capacity: cached[2],
            seen: seen.positions,
            scale: seen.scale as f32,
        };
        by_dtype!(query, T => {
            aligned::tensor(shape, |out| {
                sizes.write(slice::<T>(&query), slice(&keys), slice(&values), out);
            })
        })
    }

    fn causal_attention(
        query: FlexTensor,
        keys: FlexTensor,
        values: FlexTensor,
        reach: Reach,
    ) -> FlexTensor {
        let [query, keys, values] = [query, keys, values].map(|tensor| tensor.to_contiguous());
        let sizes = causal(query.shape(), keys.shape(), reach);
        aligned::tensor(query.shape(), |out| {
            sizes.write(slice(&query), slice(&keys), slice(&values), out);
        })
    }

    fn causal_attention_backward(
        query: FlexTensor,
        keys: FlexTensor,
        values: FlexTensor,
        dy: FlexTensor,
        reach: Reach,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let shapes = [query.shape(), keys.shape(), values.shape()];
        let sizes = causal(query.shape(), keys.shape(), reach);
        let all = [query, keys, values, dy].map(|tensor| tensor.to_contiguous());
        let [query, keys, values, dy] = all.each_ref().map(slice::<f32>);
        let gradients = sizes.gradients(query, keys, values, dy);
        let mut tensors = gradients.into_iter().zip(shapes).map(|(data, shape)| own(data, shape));
        let mut next = || tensors.next().expect("there are three");
        (next(), next(), next())
    }

    fn gated_activation(gate: FlexTensor, up: FlexTensor, activation: MlpActivation) -> FlexTensor {
        let (gate, up, shape) = (gate.to_contiguous(), up.to_contiguous(), gate.shape());
        by_dtype!(gate, T => {
            aligned::tensor(shape, |out| {
                cpu::gated_activation_into(activation.into(), slice::<T>(&gate), slice(&up), out);
            })
        })
    }

    fn sddmm(x: FlexTensor, dy: FlexTensor, pattern: BlockPattern) -> FlexTensor {
        let m = rows(&x);
        let (x, dy) = (x.to_contiguous(), dy.to_contiguous());
        by_dtype!(x, T => {
            aligned::tensor(packed(&pattern), |dw| {
                cpu::sddmm_into(slice::<T>(&x), slice(&dy), &pattern, m, dw);
            })
        })
    }

    fn block_norms(values: FlexTensor, pattern: BlockPattern) -> FlexTensor {
        let values = values.to_contiguous();
        by_dtype!(values, T => {
            own(cpu::block_norms(slice::<T>(&values), &pattern), Shape::new([pattern.nnz()]))
        })
    }

    fn grad_block_norms(x: FlexTensor, dy: FlexTensor, pattern: BlockPattern) -> FlexTensor {
        let m = rows(&x);
        let (x, dy) = (x.to_contiguous(), dy.to_contiguous());
        by_dtype!(x, T => {
            let norms = cpu::grad_block_norms(slice::<T>(&x), slice(&dy), &pattern, m);
            own(norms, Shape::new([pattern.block_rows(), pattern.block_cols()]))
        })
    }

    fn pack(dense: FlexTensor, pattern: BlockPattern) -> FlexTensor {
        let dense = dense.to_contiguous();
        by_dtype!(dense, T => own(pack::pack(slice::<T>(&dense), &pattern), packed(&pattern)))
    }

    fn unpack(values: FlexTensor, pattern: BlockPattern) -> FlexTensor {
        let values = values.to_contiguous();
        by_dtype!(values, T => {
            let shape = Shape::new([pattern.shape().rows(), pattern.shape().cols()]);
            aligned::tensor(shape, |dense| pack::unpack_into(slice::<T>(&values), &pattern, dense))
        })
    }

    fn gated_mlp(
        x: FlexTensor,
        gate: FlexTensor,
        up: FlexTensor,
        down: FlexTensor,
        patterns: GatedPatterns,
    ) -> FlexTensor {
        let m = rows(&x);
        let [x, gate, up, down] = [x, gate, up, down].map(|tensor| tensor.to_contiguous());
        by_dtype!(x, T => {
            let mlp = gated::<T>(&gate, &up, &down, &patterns);
            aligned::tensor(Shape::new([m, patterns.down.shape().cols()]), |y| {
                cpu::mlp_into(slice::<T>(&x), &mlp, y);
            })
        })
    }

    fn gated_mlp_backward(
        x: FlexTensor,
        gate: FlexTensor,
        up: FlexTensor,
        down: FlexTensor,
        dy: FlexTensor,
        patterns: GatedPatterns,
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        let m = rows(&x);
        let [x, gate, up, down, dy] = [x, gate, up, down, dy].map(|tensor| tensor.to_contiguous());
        by_dtype!(x, T => {
            let mlp = gated::<T>(&gate, &up, &down, &patterns);
            let gradients = cpu::mlp_backward(slice::<T>(&x), slice(&dy), &mlp, m);
            let dx = own(gradients.input, Shape::new([m, patterns.gate.shape().rows()]));
            let dup = gradients.up.expect("a gated block has up");
            let values = |values, pattern| own(values, packed(pattern));
            let dgate = values(gradients.gate, &patterns.gate);
            (dx, dgate, values(dup, &patterns.up), values(gradients.down, &patterns.down))
        })
    }

    fn mlp(
        x: FlexTensor,
        up: FlexTensor,
        up_bias: FlexTensor,
        down: FlexTensor,
        down_bias: FlexTensor,
        patterns: MlpPatterns,
    ) -> FlexTensor {
        let m = rows(&x);
        let [x, up, up_bias, down, down_bias] =
            [x, up, up_bias, down, down_bias].map(|tensor| tensor.to_contiguous());
        by_dtype!(x, T => {
            let [up_bias, down_bias] = [&up_bias, &down_bias].map(|bias| T::widen(slice(bias)));
            let mlp = Mlp {
                down_bias: Some(&down_bias),
                ..plain::<T>(&up, &up_bias, &down, &patterns)
            };
            aligned::tensor(Shape::new([m, patterns.down.shape().cols()]), |y| {
                cpu::mlp_into(slice::<T>(&x), &mlp, y);
            })
        })
    }

    fn mlp_backward(
        x: FlexTensor,
        up: FlexTensor,
        up_bias: FlexTensor,
        down: FlexTensor,
        dy: FlexTensor,
        patterns: MlpPatterns,
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        let m = rows(&x);
        let [x, up, up_bias, down, dy] =
            [x, up, up_bias, down, dy].map(|tensor| tensor.to_contiguous());
        by_dtype!(x, T => {
            let bias = T::widen(slice(&up_bias));
            let mlp = plain::<T>(&up, &bias, &down, &patterns);
            let gradients = cpu::mlp_backward(slice::<T>(&x), slice(&dy), &mlp, m);
            let dbias = gradients.gate_bias.expect("the first layer has a bias");
            (
                own(gradients.input, Shape::new([m, patterns.up.shape().rows()])),
                own(gradients.gate, packed(&patterns.up)),
                own(dbias, Shape::new([patterns.up.shape().cols()])),
                own(gradients.down, packed(&patterns.down)),
            )
        })
    }
}

/// A block of two layers, but for the bias of the second.
fn plain<'a, T: HostFloat + Element + bytemuck::Pod>(
    up: &'a FlexTensor,
    up_bias: &'a [f32],
    down: &'a FlexTensor,
    patterns: &'a MlpPatterns,
) -> Mlp<'a> {
    Mlp {
        gate: MlpLayer::new(T::values(slice(up)), &patterns.up),
        up: None,
        down: MlpLayer::new(T::values(slice(down)), &patterns.down),
        activation: patterns.activation.into(),
        gate_bias: Some(up_bias),
        down_bias: None,
    }
}

fn gated<'a, T: HostFloat + Element + bytemuck::Pod>(
    gate: &'a FlexTensor,
    up: &'a FlexTensor,
    down: &'a FlexTensor,
    patterns: &'a GatedPatterns,
) -> Mlp<'a> {
    let layer = |values: &'a FlexTensor, pattern| MlpLayer::new(T::values(slice(values)), pattern);
    Mlp {
        gate: layer(gate, &patterns.gate),
        up: Some(layer(up, &patterns.up)),
        down: layer(down, &patterns.down),
        activation: patterns.activation.into(),
        gate_bias: None,
        down_bias: None,
    }
}
