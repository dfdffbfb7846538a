//! Every operation on every backend against the f64 oracle.

mod common;

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_blast::functions::{
    block_norms, cached_attention, grad_block_norms, masked_softmax, pack, sddmm, spmm, spmm_t,
    unpack,
};
use burn_blast::{BlockPattern, BlockSize, MatrixShape};
use burn_blast_kernels::pack as host;
use burn_blast_kernels::reference::{self, Exact, Rounding};
use common::{Engine, dtypes, engines, floats, numbers, tensor, uniform};

fn rounding(dtype: DType) -> Rounding {
    match dtype {
        DType::F16 => Rounding::F16,
        DType::BF16 => Rounding::BF16,
        _ => Rounding::F32,
    }
}

/// Patterns of one block size: whole and ragged, with none, one, some and all blocks.
fn patterns(block: usize, slow: bool) -> Vec<BlockPattern> {
    let size = BlockSize::new(block).unwrap();
    let sides: &[(usize, usize)] = if slow {
        &[(2 * block + 3, 2 * block - 1), (1, 1)]
    } else {
        &[
            (2 * block, 3 * block),
            (3 * block - 3, 2 * block + 5),
            (block / 2 + 1, block + 1),
            (1, 1),
        ]
    };
    let mut patterns = Vec::new();
    for &(rows, cols) in sides {
        let shape = MatrixShape::new(rows, cols).unwrap();
        for density in [0.0, 0.4, 1.0] {
            patterns.push(BlockPattern::random(shape, size, density, 3));
        }
        // One block, in the last column: every other row and column is empty.
        let mut col_ptr = vec![0; shape.block_cols(size) + 1];
        *col_ptr.last_mut().unwrap() = 1;
        patterns.push(BlockPattern::new(shape, size, col_ptr, vec![0]).unwrap());
    }
    patterns
}

fn check(engine: &Engine, pattern: &BlockPattern, m: usize, dtype: DType) {
    let device = &engine.device;
    let (rows, cols, b) = (pattern.shape().rows(), pattern.shape().cols(), pattern.block().get());
    let dense = tensor(&numbers(rows * cols, 1), [rows, cols], device, dtype);
    let values = pack(dense.clone(), pattern);
    let x = tensor(&numbers(m * rows, 2), [m, rows], device, dtype);
    let dy = tensor(&numbers(m * cols, 3), [m, cols], device, dtype);
    let bias = tensor(&numbers(cols, 4), [cols], device, dtype);
    // What the device holds after rounding to its data type.
    let w = host::pack(&floats(dense), pattern);
    let (hx, hdy, hbias) = (floats(x.clone()), floats(dy.clone()), floats(bias.clone()));
    assert_eq!(floats(values.clone()), w, "pack");

    let expect = |verb: &str, got: Vec<f32>, want: Vec<Exact>| {
        if let Err(message) = rounding(dtype).check(&got, &want) {
            panic!("{verb} on {}, {dtype:?}, {pattern:?}, {m} rows: {message}", engine.name);
        }
    };
    let y = spmm(x.clone(), values.clone(), None, pattern);
    assert_eq!(y.dims(), [m, cols]);
    expect("spmm", floats(y), reference::spmm(&hx, &w, None, pattern));
    let y = spmm(x.clone(), values.clone(), Some(bias), pattern);
    expect("spmm + bias", floats(y), reference::spmm(&hx, &w, Some(&hbias), pattern));
    let dx = spmm_t(dy.clone(), values.clone(), pattern);
    expect("spmm_t", floats(dx), reference::spmm_t(&hdy, &w, pattern));
    let dw = sddmm(x.clone(), dy.clone(), pattern);
    assert_eq!(dw.dims(), [pattern.nnz(), b, b]);
    expect("sddmm", floats(dw), reference::sddmm(&hx, &hdy, pattern));
    let norms = block_norms(values.clone(), pattern);
    expect("block_norms", floats(norms), reference::block_norms(&w, pattern));
    let norms = grad_block_norms(x, dy, pattern);
    expect("grad_block_norms", floats(norms), reference::grad_block_norms(&hx, &hdy, pattern));
    assert_eq!(floats(unpack(values, pattern)), host::unpack(&w, pattern), "unpack");
}

fn grid(block: usize) {
    for engine in engines() {
        let mut cases = 0;
        for dtype in dtypes(&engine) {
            for pattern in patterns(block, engine.slow) {
                let rows: &[usize] = if engine.slow {
                    &[0, 1, 17, 33]
                } else if dtype == DType::F32 {
                    &[0, 1, 2, 15, 16, 17, 33, 70]
                } else {
                    &[1, 17, 70]
                };
                for &m in rows {
                    check(&engine, &pattern, m, dtype);
                    cases += 1;
                }
            }
        }
        println!("block {block} on {}: {cases} cases", engine.name);
        assert!(cases > 0, "no case ran on {}", engine.name);
    }
}

#[test]
fn every_operation_is_right_at_block_8() {
    grid(8);
}

#[test]
fn every_operation_is_right_at_block_16() {
    grid(16);
}

#[test]
fn every_operation_is_right_at_block_32() {
    grid(32);
}

#[test]
fn every_operation_is_right_at_block_64() {
    grid(64);
}

#[test]
fn every_operation_is_right_at_block_128() {
    grid(128);
}

#[test]
fn views_with_strides_are_read_as_what_they_show() {
    for engine in engines() {
        let pattern = common::pattern(32, 48, 16, 0.5, 1);
        let device = &engine.device;
        let transposed = uniform([32, 5], 1, device).transpose();
        let straight = tensor(&floats(transposed.clone()), [5, 32], device, DType::F32);
        let values = uniform([pattern.nnz(), 16, 16], 2, device);
        let of_view = spmm(transposed, values.clone(), None, &pattern);
        assert_eq!(floats(of_view), floats(spmm(straight, values, None, &pattern)));
    }
}

#[test]
fn every_misuse_says_what_is_wrong() {
    let device = Device::flex();
    let pattern = common::pattern(32, 48, 16, 1.0, 1);
    let x = |dtype| Tensor::<2>::zeros([4, 32], (&device, dtype));
    let values = |dtype| Tensor::<3>::zeros([6, 16, 16], (&device, dtype));
    let (f32, f64) = (DType::F32, DType::F64);
    for (x, values, bias, message) in [
        (
            Tensor::zeros([4, 31], &device),
            values(f32),
            None,
            "x has 31 columns, but the pattern needs 32",
        ),
        (
            x(f32),
            Tensor::zeros([5, 16, 16], &device),
            None,
            "the packed values must have shape [6, 16, 16], but has [5, 16, 16]",
        ),
        (
            x(f32),
            values(f32),
            Some(Tensor::<1>::zeros([47], &device)),
            "bias must have shape [48], but has [47]",
        ),
        (
            x(DType::F16),
            values(f32),
            None,
            "tensors of F16 and F32 cannot be multiplied: cast one of them",
        ),
        (
            x(f64),
            values(f64),
            None,
            "block-sparse kernels do not support F64 on this backend: cast to F32 (F16 and BF16 where the device has them)",
        ),
    ] {
        let call = std::panic::AssertUnwindSafe(|| spmm(x, values, bias, &pattern));
        let panic = std::panic::catch_unwind(call).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().unwrap(), message);
    }
}

#[test]
fn a_masked_softmax_and_its_gradient_are_those_of_burn() {
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        for (rows, period, width) in [(1, 1, 1), (6, 3, 5), (8, 8, 17), (66, 33, 33)] {
            let of = |count: usize, seed: u64, dims: [usize; 2]| {
                tensor(&numbers(count, seed), dims, &engine.device, DType::F32)
            };
            let mask: Vec<f32> = (0..period * width)
                .map(|at| if at % width > at / width { -1e9 } else { 0.0 })
                .collect();
            let mask = tensor(&mask, [period, width], &engine.device, DType::F32);
            let [x, dy] = [5, 6].map(|seed| of(rows * width, seed, [rows, width]));
            let run = |softmax: &dyn Fn(Tensor<2>, Tensor<2>) -> Tensor<2>| {
                let x = Tensor::from_inner(x.clone()).to_device(&device).require_grad();
                let constant = |one: &Tensor<2>| Tensor::from_inner(one.clone()).to_device(&device);
                let y = softmax(x.clone(), constant(&mask));
                let grads = (y.clone() * constant(&dy)).sum().backward();
                [floats(y.inner()), floats(x.grad(&grads).unwrap())]
            };
            let found = run(&masked_softmax);
            let expected = run(&|x, mask| {
                let mask = mask.repeat_dim(0, rows / period);
                burn::tensor::activation::softmax(x + mask, 1)
            });
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                let apart = (found - expected).abs();
                assert!(apart < 2e-6, "{} {rows} x {width}: {found} {expected}", engine.name);
            }
        }
    }
}

/// Attention of single queries by plain operations.
fn attention(query: Tensor<3>, keys: Tensor<4>, values: Tensor<4>, scale: f64) -> Tensor<3> {
    let ([batch, heads, head], [_, kv_heads, seen, _]) = (query.dims(), keys.dims());
    let shared = |cache: Tensor<4>| {
        let sharing = heads / kv_heads;
        let all = cache.reshape([batch, kv_heads, 1, seen * head]).repeat_dim(2, sharing);
        all.reshape([batch, heads, seen, head])
    };
    let (keys, values) = (shared(keys), shared(values));
    let scores = query.unsqueeze_dim::<4>(2).matmul(keys.swap_dims(2, 3)).mul_scalar(scale);
    burn::tensor::activation::softmax(scores, 3).matmul(values).reshape([batch, heads, head])
}

#[test]
fn attention_to_a_cache_and_its_gradient_are_those_of_burn() {
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        for ([batch, heads, kv_heads, head], capacity, seen) in
            [([1, 1, 1, 2], 1, 0..1), ([2, 6, 2, 8], 9, 2..7), ([1, 4, 4, 16], 70, 0..66)]
        {
            let of = |dims: [usize; 4], seed: u64| {
                let count = dims.iter().product();
                Tensor::<1>::from_data(TensorData::from(&numbers(count, seed)[..]), &engine.device)
                    .reshape(dims)
            };
            let query = of([1, batch, heads, head], 7).reshape([batch, heads, head]);
            let [keys, values] = [8, 9].map(|seed| of([batch, kv_heads, capacity, head], seed));
            let run = |ours: bool| {
                let tracked =
                    |one: Tensor<4>| Tensor::from_inner(one).to_device(&device).require_grad();
                let query = Tensor::from_inner(query.clone()).to_device(&device).require_grad();
                let (keys, values) = (tracked(keys.clone()), tracked(values.clone()));
                let y = if ours {
                    cached_attention(query.clone(), keys.clone(), values.clone(), seen.clone(), 0.3)
                } else {
                    let part = |one: &Tensor<4>| one.clone().slice_dim(2, seen.clone());
                    attention(query.clone(), part(&keys), part(&values), 0.3)
                };
                let grads = y.clone().square().sum().backward();
                let [dk, dv] = [keys, values].map(|one| floats(one.grad(&grads).unwrap()));
                [floats(y.inner()), floats(query.grad(&grads).unwrap()), dk, dv]
            };
            let plain =
                cached_attention(query.clone(), keys.clone(), values.clone(), seen.clone(), 0.3);
            let (found, expected) = (run(true), run(false));
            let pairs = found.iter().flatten().zip(expected.iter().flatten());
            for (found, expected) in pairs.chain(floats(plain).iter().zip(&expected[0])) {
                let apart = (found - expected).abs();
                assert!(apart < 1e-5, "{} {heads} {capacity}: {found} {expected}", engine.name);
            }
        }
    }
}

#[test]
fn a_cache_that_does_not_fit_is_refused() {
    let device = Device::flex();
    let refuse = |keys: [usize; 4], values: [usize; 4], seen: std::ops::Range<usize>| {
        let zeros = |dims: [usize; 4]| Tensor::<4>::zeros(dims, &device);
        let (keys, values) = (zeros(keys), zeros(values));
        let query = Tensor::<3>::zeros([2, 4, 8], &device);
        let call = || cached_attention(query, keys, values, seen, 1.0);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).unwrap_err();
        panic.downcast_ref::<String>().unwrap().clone()
    };
    let cache = [2, 2, 5, 8];
    assert!(refuse([1, 2, 5, 8], cache, 0..1).contains("the keys must have shape [2, 2, 5, 8]"));
    assert!(refuse(cache, [2, 2, 4, 8], 0..1).contains("the values must have shape"));
    assert!(refuse([2, 3, 5, 8], [2, 3, 5, 8], 0..1).contains("4 heads cannot share 3 evenly"));
    assert!(refuse(cache, cache, 3..6).contains("positions 3..6 are not in a cache of 5"));
    assert!(refuse(cache, cache, 3..3).contains("positions 3..3 are not in a cache of 5"));
}

#[test]
fn a_mask_that_does_not_fit_is_refused() {
    let device = Device::flex();
    let refuse = |rows: [usize; 2], mask: [usize; 2], dtype: DType| {
        let zeros = |dims: [usize; 2]| Tensor::<2>::zeros(dims, (&device, dtype));
        let (x, mask) = (zeros(rows), zeros(mask));
        let panic = std::panic::catch_unwind(|| masked_softmax(x, mask)).unwrap_err();
        panic.downcast_ref::<String>().unwrap().clone()
    };
    assert!(refuse([4, 3], [2, 4], DType::F32).contains("a mask of 4 does not fit rows of 3"));
    assert!(refuse([4, 3], [3, 3], DType::F32).contains("a mask of 3 rows does not fit 4 rows"));
    assert!(refuse([4, 3], [2, 3], DType::BF16).contains("is of F32, not BF16"));
}
