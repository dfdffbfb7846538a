//! The GPU kernels without Burn's fusion layer, against the same calls through it.

mod common;

use burn::backend::BackendTypes;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Device, TensorData};
use burn_blast::BlastOps;
use burn_blast::functions::{block_norms, grad_block_norms, sddmm, spmm, spmm_t, unpack};
use burn_cubecl::CubeBackend;
use common::{engines, floats, numbers, pattern, tensor};
use cubecl::wgpu::WgpuDevice;

type Raw = FloatTensor<CubeBackend>;

fn raw<const D: usize>(numbers: &[f32], dims: [usize; D]) -> Raw {
    let device: <CubeBackend as BackendTypes>::Device = WgpuDevice::default().into();
    CubeBackend::float_from_data(TensorData::new(numbers.to_vec(), dims), &device)
}

fn read(tensor: Raw) -> Vec<f32> {
    let data = burn::tensor::try_read_sync(CubeBackend::float_into_data(tensor)).unwrap().unwrap();
    data.iter::<f32>().collect()
}

#[test]
fn fusion_changes_no_bit() {
    if !engines().iter().any(|engine| engine.name == "wgpu") {
        return;
    }
    let device = Device::wgpu(Default::default());
    let (m, rows, cols, b) = (17, 40, 50, 16);
    let pattern = pattern(rows, cols, b, 0.5, 1);
    let w = burn_blast_kernels::pack::pack(&numbers(rows * cols, 1), &pattern);
    let (x, dy, bias) = (numbers(m * rows, 2), numbers(m * cols, 3), numbers(cols, 4));
    let values_dims = [pattern.nnz(), b, b];
    let fused = || {
        let of =
            |numbers: &[f32], width: usize| tensor::<2>(numbers, [m, width], &device, DType::F32);
        let values = tensor::<3>(&w, values_dims, &device, DType::F32);
        let bias = tensor::<1>(&bias, [cols], &device, DType::F32);
        (of(&x, rows), of(&dy, cols), values, bias)
    };
    let unfused =
        || (raw(&x, [m, rows]), raw(&dy, [m, cols]), raw(&w, values_dims), raw(&bias, [cols]));
    let (fx, fdy, fv, fb) = fused();
    let (rx, rdy, rv, rb) = unfused();
    let p = || pattern.clone();
    let pairs = [
        (
            floats(spmm(fx.clone(), fv.clone(), Some(fb), &pattern)),
            read(CubeBackend::spmm_bias(rx.clone(), rv.clone(), rb, p())),
        ),
        (
            floats(spmm_t(fdy.clone(), fv.clone(), &pattern)),
            read(CubeBackend::spmm_t(rdy.clone(), rv.clone(), p())),
        ),
        (
            floats(sddmm(fx.clone(), fdy.clone(), &pattern)),
            read(CubeBackend::sddmm(rx.clone(), rdy.clone(), p())),
        ),
        (
            floats(block_norms(fv.clone(), &pattern)),
            read(CubeBackend::block_norms(rv.clone(), p())),
        ),
        (
            floats(grad_block_norms(fx, fdy, &pattern)),
            read(CubeBackend::grad_block_norms(rx, rdy, p())),
        ),
        (floats(unpack(fv, &pattern)), read(CubeBackend::unpack(rv, p()))),
    ];
    for (at, (fused, unfused)) in pairs.into_iter().enumerate() {
        assert_eq!(fused, unfused, "operation {at}");
    }
}
