//! The deprecated NdArray backend, `f32` only. Burn 0.23 drops it; nothing else depends on this file.
#![allow(deprecated)]

use std::borrow::Cow;

use burn::backend::NdArray;
use burn::backend::TensorMetadata;
use burn::tensor::{Shape, TensorData};
use burn_blast_kernels::{BlockPattern, cpu, pack};
use burn_ndarray::NdArrayTensor;

use crate::ops::{BlastOps, packed};

/// The elements in row-major order, copied only if they are not stored so.
fn host(tensor: &NdArrayTensor) -> Cow<'_, [f32]> {
    match tensor {
        NdArrayTensor::F32(storage) => {
            let view = storage.view();
            match view.to_slice() {
                Some(elements) => Cow::Borrowed(elements),
                None => Cow::Owned(view.iter().copied().collect()),
            }
        }
        other => super::refuse_dtype(other.dtype()),
    }
}

fn own(data: Vec<f32>, shape: Shape) -> NdArrayTensor {
    NdArrayTensor::from_data(TensorData::new(data, shape))
}

impl BlastOps for NdArray {
    fn spmm(x: NdArrayTensor, values: NdArrayTensor, pattern: BlockPattern) -> NdArrayTensor {
        let m = x.shape()[0];
        let y = cpu::spmm(&host(&x), &host(&values), None, &pattern, m);
        own(y, Shape::new([m, pattern.shape().cols()]))
    }

    fn spmm_bias(
        x: NdArrayTensor,
        values: NdArrayTensor,
        bias: NdArrayTensor,
        pattern: BlockPattern,
    ) -> NdArrayTensor {
        let m = x.shape()[0];
        let y = cpu::spmm(&host(&x), &host(&values), Some(&host(&bias)), &pattern, m);
        own(y, Shape::new([m, pattern.shape().cols()]))
    }

    fn spmm_t(dy: NdArrayTensor, values: NdArrayTensor, pattern: BlockPattern) -> NdArrayTensor {
        let m = dy.shape()[0];
        let dx = cpu::spmm_t(&host(&dy), &host(&values), &pattern, m);
        own(dx, Shape::new([m, pattern.shape().rows()]))
    }

    fn sddmm(x: NdArrayTensor, dy: NdArrayTensor, pattern: BlockPattern) -> NdArrayTensor {
        let m = x.shape()[0];
        own(cpu::sddmm(&host(&x), &host(&dy), &pattern, m), packed(&pattern))
    }

    fn block_norms(values: NdArrayTensor, pattern: BlockPattern) -> NdArrayTensor {
        own(cpu::block_norms(&host(&values), &pattern), Shape::new([pattern.nnz()]))
    }

    fn grad_block_norms(
        x: NdArrayTensor,
        dy: NdArrayTensor,
        pattern: BlockPattern,
    ) -> NdArrayTensor {
        let m = x.shape()[0];
        let norms = cpu::grad_block_norms(&host(&x), &host(&dy), &pattern, m);
        own(norms, Shape::new([pattern.block_rows(), pattern.block_cols()]))
    }

    fn pack(dense: NdArrayTensor, pattern: BlockPattern) -> NdArrayTensor {
        own(pack::pack(&host(&dense), &pattern), packed(&pattern))
    }

    fn unpack(values: NdArrayTensor, pattern: BlockPattern) -> NdArrayTensor {
        let dense = pack::unpack(&host(&values), &pattern);
        own(dense, Shape::new([pattern.shape().rows(), pattern.shape().cols()]))
    }
}
