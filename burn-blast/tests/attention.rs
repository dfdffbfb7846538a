//! Causal attention on every engine, with its gradients, against the same by Burn's operations.

mod common;

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_blast::functions::causal_attention;
use common::{engines, floats, numbers};

/// By plain operations, on copies of the shared keys.
fn plain(
    query: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    window: Option<usize>,
    scale: f64,
) -> Tensor<4> {
    let ([batch, heads, time, head], [_, kv_heads, span, _]) = (query.dims(), keys.dims());
    let shared = |cache: Tensor<4>| {
        let all = cache.reshape([batch, kv_heads, 1, span * head]);
        all.repeat_dim(2, heads / kv_heads).reshape([batch, heads, span, head])
    };
    let hidden = |at: usize| {
        let (query, key) = (span - time + at / span, at % span);
        let hidden = key > query || window.is_some_and(|window| key + window <= query);
        if hidden { -1e9 } else { 0.0_f32 }
    };
    let mask: Vec<f32> = (0..time * span).map(hidden).collect();
    let mask = Tensor::<4>::from_data(TensorData::new(mask, [1, 1, time, span]), &query.device());
    let scores = query.matmul(shared(keys).swap_dims(2, 3)).mul_scalar(scale) + mask;
    burn::tensor::activation::softmax(scores, 3).matmul(shared(values))
}

#[test]
fn causal_attention_and_its_gradients_are_those_of_burn() {
    for engine in engines() {
        let device = engine.device.clone().autodiff();
        for ([batch, heads, kv_heads, head, time, span], window) in [
            ([1, 1, 1, 2, 1, 1], None),
            ([2, 6, 2, 8, 9, 9], None),
            ([1, 4, 4, 16, 33, 70], Some(40)),
            ([2, 2, 1, 8, 40, 40], Some(3)),
        ] {
            let of = |dims: [usize; 4], seed: u64| {
                let count = dims.iter().product();
                let one = TensorData::new(numbers(count, seed), dims);
                Tensor::<4>::from_data(one, &engine.device)
            };
            let query = of([batch, heads, time, head], 7);
            let [keys, values] = [8, 9].map(|seed| of([batch, kv_heads, span, head], seed));
            let run = |ours: bool| {
                let tracked = |one: &Tensor<4>| {
                    Tensor::from_inner(one.clone()).to_device(&device).require_grad()
                };
                let [query, keys, values] = [&query, &keys, &values].map(tracked);
                let attend = if ours { causal_attention } else { plain };
                let y = attend(query.clone(), keys.clone(), values.clone(), window, 0.3);
                let grads = y.clone().square().sum().backward();
                let gradients = [query, keys, values].map(|one| floats(one.grad(&grads).unwrap()));
                (floats(y.inner()), gradients)
            };
            let ((y, gradients), (want_y, want)) = (run(true), run(false));
            let without =
                causal_attention(query.clone(), keys.clone(), values.clone(), window, 0.3);
            let without = floats(without);
            let pairs = y.iter().zip(&want_y).chain(without.iter().zip(&want_y));
            let pairs = pairs.chain(gradients.iter().flatten().zip(want.iter().flatten()));
            for (found, want) in pairs {
                assert!((found - want).abs() < 2e-5, "{} {span}: {found} {want}", engine.name);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::flex();
    let refuse = |query: [usize; 4], keys: [usize; 4], window: Option<usize>, dtype: DType| {
        let zeros = |dims: [usize; 4]| Tensor::<4>::zeros(dims, (&device, dtype));
        let (query, keys, values) = (zeros(query), zeros(keys), zeros(keys));
        let call = || causal_attention(query, keys, values, window, 1.0);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).unwrap_err();
        panic
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_else(|| panic.downcast_ref::<&str>().expect("a message").to_string())
    };
    let (query, keys) = ([2, 4, 3, 8], [2, 2, 5, 8]);
    assert!(refuse(query, [1, 2, 5, 8], None, DType::F32).contains("the keys must have shape"));
    assert!(refuse(query, [2, 3, 5, 8], None, DType::F32).contains("cannot share 3 evenly"));
    assert!(
        refuse(query, [2, 2, 2, 8], None, DType::F32).contains("3 queries cannot be the last of 2")
    );
    assert!(refuse(query, keys, Some(0), DType::F32).contains("a window must have a position"));
    assert!(refuse(query, keys, None, DType::BF16).contains("is of F32, not BF16"));
}
