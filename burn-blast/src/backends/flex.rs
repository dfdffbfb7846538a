//! Burn's own CPU backend. Inputs are borrowed slices, outputs owned buffers, without copies for `f32`.

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::tensor::{FloatTensor, QuantizedTensor};
use burn::tensor::{DType, Element, Shape, bf16, f16};
use burn_blast_kernels::cpu::{self, HostFloat, Mlp, MlpLayer, Values};
use burn_blast_kernels::{BlockPattern, pack};
use burn_flex::{FlexTensor, Layout};

use super::aligned;
use crate::feed_forward::{GatedPatterns, MlpPatterns};
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

/// A contiguous tensor of a known element type.
struct Host(FlexTensor);

impl Host {
    fn new(tensor: FlexTensor) -> Self {
        Self(tensor.to_contiguous())
    }

    fn slice<T: Element + bytemuck::Pod>(&self) -> &[T] {
        self.0.as_slice().expect("a contiguous tensor of the matched data type")
    }
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
    let (m, bias) = (rows(&x), bias.map(Host::new));
    let (x, values) = (Host::new(x), Host::new(values));
    by_dtype!(x.0, T => {
        let bias = bias.as_ref().map(Host::slice::<T>);
        let values = T::values(values.slice());
        aligned::tensor(Shape::new([m, pattern.shape().cols()]), |y| {
            cpu::spmm_into(x.slice::<T>(), values, bias, &pattern, y);
        })
    })
}

impl BlastOps for Flex {
    fn spmm(
        x: FloatTensor<Self>,
        values: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        product(x, values, None, pattern)
    }

    fn spmm_bias(
        x: FloatTensor<Self>,
        values: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        product(x, values, Some(bias), pattern)
    }

    fn spmm_int8(
        x: FloatTensor<Self>,
        values: QuantizedTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        let m = rows(&x);
        let (x, integers) = (Host::new(x), Host::new(values.tensor().clone()));
        let values = Values::Int8 { values: integers.slice(), scales: values.scales() };
        by_dtype!(x.0, T => {
            aligned::tensor(Shape::new([m, pattern.shape().cols()]), |y| {
                cpu::spmm_into(x.slice::<T>(), values, None, &pattern, y);
            })
        })
    }

    fn spmm_t(
        dy: FloatTensor<Self>,
        values: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        let m = rows(&dy);
        let (dy, values) = (Host::new(dy), Host::new(values));
        by_dtype!(dy.0, T => {
            let values = T::values(values.slice());
            aligned::tensor(Shape::new([m, pattern.shape().rows()]), |dx| {
                cpu::spmm_t_into(dy.slice::<T>(), values, &pattern, dx);
            })
        })
    }

    fn sddmm(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        let m = rows(&x);
        let (x, dy) = (Host::new(x), Host::new(dy));
        by_dtype!(x.0, T => {
            aligned::tensor(packed(&pattern), |dw| {
                cpu::sddmm_into(x.slice::<T>(), dy.slice(), &pattern, m, dw);
            })
        })
    }

    fn block_norms(values: FloatTensor<Self>, pattern: BlockPattern) -> FloatTensor<Self> {
        let values = Host::new(values);
        by_dtype!(values.0, T => {
            own(cpu::block_norms(values.slice::<T>(), &pattern), Shape::new([pattern.nnz()]))
        })
    }

    fn grad_block_norms(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        pattern: BlockPattern,
    ) -> FloatTensor<Self> {
        let m = rows(&x);
        let (x, dy) = (Host::new(x), Host::new(dy));
        by_dtype!(x.0, T => {
            let norms = cpu::grad_block_norms(x.slice::<T>(), dy.slice(), &pattern, m);
            own(norms, Shape::new([pattern.block_rows(), pattern.block_cols()]))
        })
    }

    fn pack(dense: FloatTensor<Self>, pattern: BlockPattern) -> FloatTensor<Self> {
        let dense = Host::new(dense);
        by_dtype!(dense.0, T => own(pack::pack(dense.slice::<T>(), &pattern), packed(&pattern)))
    }

    fn unpack(values: FloatTensor<Self>, pattern: BlockPattern) -> FloatTensor<Self> {
        let values = Host::new(values);
        by_dtype!(values.0, T => {
            let shape = Shape::new([pattern.shape().rows(), pattern.shape().cols()]);
            aligned::tensor(shape, |dense| pack::unpack_into(values.slice::<T>(), &pattern, dense))
        })
    }

    fn gated_mlp(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        patterns: GatedPatterns,
    ) -> FloatTensor<Self> {
        let m = rows(&x);
        let [x, gate, up, down] = [x, gate, up, down].map(Host::new);
        by_dtype!(x.0, T => {
            let mlp = gated::<T>(&gate, &up, &down, &patterns);
            aligned::tensor(Shape::new([m, patterns.down.shape().cols()]), |y| {
                cpu::mlp_into(x.slice::<T>(), &mlp, y);
            })
        })
    }

    fn gated_mlp_backward(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        patterns: GatedPatterns,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let m = rows(&x);
        let [x, gate, up, down, dy] = [x, gate, up, down, dy].map(Host::new);
        by_dtype!(x.0, T => {
            let mlp = gated::<T>(&gate, &up, &down, &patterns);
            let gradients = cpu::mlp_backward(x.slice::<T>(), dy.slice(), &mlp, m);
            let dx = own(gradients.input, Shape::new([m, patterns.gate.shape().rows()]));
            let dup = gradients.up.expect("a gated block has up");
            let values = |values, pattern| own(values, packed(pattern));
            let dgate = values(gradients.gate, &patterns.gate);
            (dx, dgate, values(dup, &patterns.up), values(gradients.down, &patterns.down))
        })
    }

    fn mlp(
        x: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        down: FloatTensor<Self>,
        down_bias: FloatTensor<Self>,
        patterns: MlpPatterns,
    ) -> FloatTensor<Self> {
        let m = rows(&x);
        let [x, up, up_bias, down, down_bias] = [x, up, up_bias, down, down_bias].map(Host::new);
        by_dtype!(x.0, T => {
            let [up_bias, down_bias] = [&up_bias, &down_bias].map(|bias| T::widen(bias.slice()));
            let mlp = Mlp {
                down_bias: Some(&down_bias),
                ..plain::<T>(&up, &up_bias, &down, &patterns)
            };
            aligned::tensor(Shape::new([m, patterns.down.shape().cols()]), |y| {
                cpu::mlp_into(x.slice::<T>(), &mlp, y);
            })
        })
    }

    fn mlp_backward(
        x: FloatTensor<Self>,
        up: FloatTensor<Self>,
        up_bias: FloatTensor<Self>,
        down: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        patterns: MlpPatterns,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let m = rows(&x);
        let [x, up, up_bias, down, dy] = [x, up, up_bias, down, dy].map(Host::new);
        by_dtype!(x.0, T => {
            let bias = T::widen(up_bias.slice());
            let mlp = plain::<T>(&up, &bias, &down, &patterns);
            let gradients = cpu::mlp_backward(x.slice::<T>(), dy.slice(), &mlp, m);
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
    up: &'a Host,
    up_bias: &'a [f32],
    down: &'a Host,
    patterns: &'a MlpPatterns,
) -> Mlp<'a> {
    Mlp {
        gate: MlpLayer::new(T::values(up.slice()), &patterns.up),
        up: None,
        down: MlpLayer::new(T::values(down.slice()), &patterns.down),
        activation: patterns.activation.into(),
        gate_bias: Some(up_bias),
        down_bias: None,
    }
}

fn gated<'a, T: HostFloat + Element + bytemuck::Pod>(
    gate: &'a Host,
    up: &'a Host,
    down: &'a Host,
    patterns: &'a GatedPatterns,
) -> Mlp<'a> {
    let layer = |values: &'a Host, pattern| MlpLayer::new(T::values(values.slice()), pattern);
    Mlp {
        gate: layer(gate, &patterns.gate),
        up: Some(layer(up, &patterns.up)),
        down: layer(down, &patterns.down),
        activation: patterns.activation.into(),
        gate_bias: None,
        down_bias: None,
    }
}
