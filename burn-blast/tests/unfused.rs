//! The GPU kernels without Burn's fusion layer, against the same calls through it.

mod common;

use burn::backend::BackendTypes;
use burn::backend::ops::{FloatTensorOps, QTensorOps};
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Device, TensorData};
use burn_blast::BlockPattern;
use burn_blast::functions::{
    BlastOps, GatedPatterns, MlpPatterns, block_norms, gated_mlp, grad_block_norms, mlp, sddmm,
    spmm, spmm_t, unpack,
};
use burn_blast::module::{BlockSparseLinear, Integer, MlpActivation, quantize};
use burn_cubecl::CubeBackend;
use common::{engines, floats, numbers, pattern, tensor, uniform};
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

fn gpu() -> Option<Device> {
    engines().into_iter().find(|engine| engine.name == "wgpu").map(|engine| engine.device)
}

#[test]
fn fusion_changes_no_bit() {
    let Some(device) = gpu() else { return };
    let (m, rows, cols, b) = (17, 40, 50, 16);
    let pattern = pattern(rows, cols, b, 0.5, 1);
    let w = burn_blast_kernels::pack::pack(&numbers(rows * cols, 1), &pattern);
    let (x, dy, bias) = (numbers(m * rows, 2), numbers(m * cols, 3), numbers(cols, 4));
    let values_dims = [pattern.nnz(), b, b];
    let fx = tensor::<2>(&x, [m, rows], &device, DType::F32);
    let fdy = tensor::<2>(&dy, [m, cols], &device, DType::F32);
    let fv = tensor::<3>(&w, values_dims, &device, DType::F32);
    let fb = tensor::<1>(&bias, [cols], &device, DType::F32);
    let (rx, rdy, rv) = (raw(&x, [m, rows]), raw(&dy, [m, cols]), raw(&w, values_dims));
    let rb = raw(&bias, [cols]);
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

#[test]
fn fusion_changes_no_bit_of_products_with_integers() {
    let Some(device) = gpu() else { return };
    let pattern = pattern(40, 50, 16, 0.5, 1);
    let dense = uniform([40, 50], 1, &device);
    let layer =
        quantize(BlockSparseLinear::from_dense(dense, pattern.clone()), Integer::Int8).unwrap();
    for m in [3, 33] {
        let x = numbers(m * 40, 2);
        let fused = layer.forward(tensor::<2>(&x, [m, 40], &device, DType::F32));
        let raw_device: <CubeBackend as BackendTypes>::Device = WgpuDevice::default().into();
        let values = CubeBackend::q_from_data(layer.weight.values().into_data(), &raw_device);
        let unfused = CubeBackend::spmm_quantized(raw(&x, [m, 40]), values, pattern.clone());
        assert_eq!(floats(fused), read(unfused), "{m} rows");
    }
}

#[test]
fn fusion_changes_no_bit_of_the_block_of_two_layers() {
    let Some(device) = gpu().map(Device::autodiff) else { return };
    let (d_model, d_ff, b) = (40, 50, 16);
    let (up, down) = (pattern(d_model, d_ff, b, 0.5, 1), pattern(d_ff, d_model, b, 0.5, 2));
    let patterns =
        MlpPatterns { up: up.clone(), down: down.clone(), activation: MlpActivation::Gelu };
    let packed =
        |of: &BlockPattern| burn_blast_kernels::pack::pack(&numbers(of.shape().area(), 4), of);
    let (w, v) = (packed(&up), packed(&down));
    let (first, second) = (numbers(d_ff, 5), numbers(d_model, 6));
    for m in [3, 33] {
        let (x, dy) = (numbers(m * d_model, 2), numbers(m * d_model, 3));
        let fx = tensor::<2>(&x, [m, d_model], &device, DType::F32).require_grad();
        let values = [(&w, &up), (&v, &down)].map(|(values, of)| {
            tensor::<3>(values, [of.nnz(), b, b], &device, DType::F32).require_grad()
        });
        let biases = [&first, &second]
            .map(|bias| tensor::<1>(bias, [bias.len()], &device, DType::F32).require_grad());
        let y = {
            let ([up, down], [up_bias, down_bias]) = (values.clone(), biases.clone());
            mlp(fx.clone(), up, up_bias, down, down_bias, &patterns)
        };
        // The gradient of `y` is `dy`.
        let loss = y.clone() * tensor::<2>(&dy, [m, d_model], &device, DType::F32);
        let grads = loss.sum().backward();
        let mut fused = vec![floats(y), floats(fx.grad(&grads).unwrap())];
        fused.extend(values.map(|values| floats(values.grad(&grads).unwrap())));
        fused.push(floats(biases[0].grad(&grads).unwrap()));

        let rx = || raw(&x, [m, d_model]);
        let (rw, rv) = (|| raw(&w, [up.nnz(), b, b]), || raw(&v, [down.nnz(), b, b]));
        let (rf, rs) = (|| raw(&first, [d_ff]), || raw(&second, [d_model]));
        let y = CubeBackend::mlp(rx(), rw(), rf(), rv(), rs(), patterns.clone());
        let rdy = raw(&dy, [m, d_model]);
        let (dx, dw, dbias, dv) =
            CubeBackend::mlp_backward(rx(), rw(), rf(), rv(), rdy, patterns.clone());
        assert_eq!(fused, [y, dx, dw, dv, dbias].map(read), "{m} rows");
    }
}

#[test]
fn fusion_changes_no_bit_of_the_gated_block() {
    let Some(device) = gpu().map(Device::autodiff) else { return };
    let (m, d_model, d_ff, b) = (17, 40, 50, 16);
    let layer = |rows, cols, seed| pattern(rows, cols, b, 0.5, seed);
    let (gate, down) = (layer(d_model, d_ff, 1), layer(d_ff, d_model, 3));
    // Gate and up apart, then with one pattern.
    for up in [layer(d_model, d_ff, 2), gate.clone()] {
        let activation = MlpActivation::Gelu;
        let patterns = GatedPatterns { gate: gate.clone(), up, down: down.clone(), activation };
        let all = [&patterns.gate, &patterns.up, &patterns.down];
        let dims = all.map(|pattern| [pattern.nnz(), b, b]);
        let weights = all.map(|pattern| {
            let dense = numbers(pattern.shape().area(), 4 + pattern.nnz() as u64);
            burn_blast_kernels::pack::pack(&dense, pattern)
        });
        let (x, dy) = (numbers(m * d_model, 2), numbers(m * d_model, 3));

        let fx = tensor::<2>(&x, [m, d_model], &device, DType::F32).require_grad();
        let values = [0, 1, 2]
            .map(|at| tensor::<3>(&weights[at], dims[at], &device, DType::F32).require_grad());
        let [fg, fu, fd] = values.clone();
        let y = gated_mlp(fx.clone(), fg, fu, fd, &patterns);
        // The gradient of `y` is `dy`.
        let loss = y.clone() * tensor::<2>(&dy, [m, d_model], &device, DType::F32);
        let grads = loss.sum().backward();
        let mut fused = vec![floats(y), floats(fx.grad(&grads).unwrap())];
        fused.extend(values.map(|values| floats(values.grad(&grads).unwrap())));

        let rx = || raw(&x, [m, d_model]);
        let [rg, ru, rd] = [0, 1, 2].map(|at| {
            let weights = &weights;
            move || raw(&weights[at], dims[at])
        });
        let y = CubeBackend::gated_mlp(rx(), rg(), ru(), rd(), patterns.clone());
        let rdy = raw(&dy, [m, d_model]);
        let (dx, dgate, dup, ddown) =
            CubeBackend::gated_mlp_backward(rx(), rg(), ru(), rd(), rdy, patterns.clone());
        assert_eq!(fused, [y, dx, dgate, dup, ddown].map(read));
    }
}
