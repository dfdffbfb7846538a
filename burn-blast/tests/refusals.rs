//! Files: every refusal with its message, and damage without a panic.

mod common;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Bytes, DType, Device};
use burn_blast::io;
use burn_blast::module::{BlockSparseLinear, BlockSparseLinearConfig, Integer, quantize};
use common::saved::{Load, Net, Save, formats, net};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn refusal(result: Result<Net, io::IoError>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn every_foreign_file_is_refused_with_a_reason() {
    #[derive(Module, Debug)]
    struct Less {
        first: Linear,
        a: BlockSparseLinear,
    }
    #[derive(Module, Debug)]
    struct More {
        net: Net,
    }
    let device = Device::flex();
    let fresh = || net(0.0, 2, &device);
    let model = net(0.5, 1, &device);
    let from = |bytes: Vec<u8>| refusal(io::from_bytes(fresh(), bytes));

    let less = Less { first: model.first.clone(), a: model.a.clone() };
    let error = from(io::to_bytes(&less).unwrap());
    assert!(error.contains("no tensor \"b.weight.layout\""), "{error}");
    let more = More { net: model.clone() };
    let error = from(io::to_bytes(&more).unwrap());
    assert!(error.contains("no tensor \"first.weight\""), "{error}");
    let result = io::from_bytes(less, io::to_bytes(&model).unwrap());
    let error = result.map(|_| ()).unwrap_err();
    assert!(matches!(&error, io::IoError::Unknown { name } if name == "b.bias"), "{error}");
    let mut other = model.clone();
    other.a = BlockSparseLinearConfig::new(24, 33).with_block_size(8).init(&device);
    let error = from(io::to_bytes(&other).unwrap());
    assert!(error.contains("the weight is [24, 33], but the model's is [20, 33]"), "{error}");
    let mut other = model.clone();
    other.first = LinearConfig::new(5, 20).init(&device);
    let error = from(io::to_bytes(&other).unwrap());
    assert!(error.contains("has shape [5, 20], but the model needs [4, 20]"), "{error}");
    assert!(from(b"not a model".to_vec()).starts_with("this is not a readable burnpack file: "));
    assert!(from(Vec::new()).starts_with("this is not a readable burnpack file: "));
    let missing = refusal(io::load(fresh(), "/nowhere/model.bpk"));
    assert!(missing.starts_with("/nowhere/model.bpk: "), "{missing}");
    let folder = tempfile::tempdir().unwrap();
    let unwritable = io::save(&model, folder.path().join("no/model.bpk")).unwrap_err();
    assert!(unwritable.to_string().contains("no/model.bpk: "), "{unwritable}");
}

type Parts = (burn::tensor::DType, burn::tensor::Shape, Option<u64>, Vec<u8>);

/// The model's file with the parts of one tensor changed.
fn rewritten(name: &str, change: impl Fn(&mut Parts)) -> Vec<u8> {
    let bytes = io::to_bytes(&net(0.5, 1, &Device::flex())).unwrap();
    let reader = burn_pack::Reader::from_bytes(Bytes::from_bytes_vec(bytes)).unwrap();
    let tensors = reader
        .into_tensors()
        .unwrap()
        .into_iter()
        .map(|tensor| {
            let (path, dtype, shape, id, bytes) = tensor.into_parts().unwrap();
            let mut parts = (dtype, shape, id, bytes.to_vec());
            if path == name {
                change(&mut parts);
            }
            let (dtype, shape, id, bytes) = parts;
            burn_pack::Tensor::new(path, dtype, shape, id, Bytes::from_bytes_vec(bytes))
        })
        .collect();
    burn_pack::Writer::new(tensors).into_bytes().unwrap().to_vec()
}

/// The model's file with one index tensor changed.
fn tampered(name: &str, change: impl Fn(&mut Vec<i32>)) -> Vec<u8> {
    rewritten(name, |(_, shape, _, bytes)| {
        let mut numbers: Vec<i32> = integers(bytes);
        change(&mut numbers);
        *shape = [numbers.len()].into();
        *bytes = numbers.into_iter().flat_map(i32::to_le_bytes).collect();
    })
}

fn integers(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks_exact(4).map(|bytes| i32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn every_tensor_of_the_wrong_kind_is_refused_with_a_reason() {
    for (tensor, dtype, kind) in [
        ("first.weight", DType::I32, "floating-point"),
        ("a.weight.values", DType::I32, "floating-point"),
        ("a.weight.row_idx", DType::F32, "integer"),
    ] {
        let bytes = rewritten(tensor, |parts| parts.0 = dtype);
        let error = io::from_bytes(net(0.0, 2, &Device::flex()), bytes).map(|_| ()).unwrap_err();
        let io::IoError::Kind { name, found, expected } = &error else { panic!("{error}") };
        assert_eq!(
            (name.as_str(), *found == format!("{dtype:?}"), *expected),
            (tensor, true, kind)
        );
    }
}

#[test]
fn every_bad_index_is_refused_with_a_reason() {
    let load = |bytes| refusal(io::from_bytes(net(0.0, 2, &Device::flex()), bytes));
    let cases: [(Vec<u8>, &str); 6] = [
        (tampered("a.weight.layout", |layout| layout[0] = 7), "format version 7"),
        (tampered("a.weight.layout", |layout| layout.truncate(3)), "has 3 numbers instead of 5"),
        (tampered("a.weight.layout", |layout| layout[1] = 12), "block size 12 is not supported"),
        (
            tampered("a.weight.row_idx", |rows| rows[0] = 3),
            "block row 3 in block column 0 is outside the grid of 3 block rows",
        ),
        (tampered("a.weight.row_idx", |rows| rows[0] = -1), "row_idx holds -1"),
        (
            tampered("a.weight.col_ptr", |ptr| *ptr.last_mut().unwrap() += 1),
            "column pointers end at 9, but 8 block rows are listed",
        ),
    ];
    for (bytes, phrase) in cases {
        let error = load(bytes);
        assert!(error.starts_with("layer \"a.weight\": ") && error.contains(phrase), "{error}");
    }
}

#[test]
fn damaged_files_give_errors_and_never_panics() {
    const MUTATIONS: usize = 5_000;
    let device = Device::flex();
    let model = net(0.5, 1, &device);
    let folder = tempfile::tempdir().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let fresh = net(0.0, 2, &device);
    let integers: [(&str, Save, Load); 2] = [
        (
            "burnpack of 8 bits",
            |model, path| io::save(&quantize(model.clone(), Integer::Int8).unwrap(), path),
            |model, path| io::load(model, path),
        ),
        (
            "burnpack of 4 bits",
            |model, path| io::save(&quantize(model.clone(), Integer::Int4).unwrap(), path),
            |model, path| io::load(model, path),
        ),
    ];
    for (format, save, load) in formats().into_iter().chain(integers) {
        let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
        save(&model, &good).unwrap();
        let bytes = std::fs::read(&good).unwrap();
        // Most of a file is values, where damage cannot be detected, so the header is damaged too.
        let header = bytes.len().min(4096);
        let (mut refused, mut loaded) = (0, 0);
        for at in 0..MUTATIONS {
            let mut bytes = bytes.clone();
            match at % 4 {
                0 => bytes.truncate(rng.random_range(0..bytes.len())),
                1 => {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] ^= 1 << rng.random_range(0..8);
                }
                2 => {
                    let at = rng.random_range(0..header);
                    bytes[at] = rng.random();
                }
                _ => {
                    let (from, to) = (rng.random_range(0..header), rng.random_range(0..header));
                    let run = 8.min(header - from.max(to));
                    bytes.copy_within(from..from + run, to);
                }
            }
            std::fs::write(&bad, bytes).unwrap();
            match load(fresh.clone(), &bad) {
                Ok(model) => {
                    let x = burn::tensor::Tensor::<2>::ones([1, 4], &device);
                    let y = model.forward(x);
                    assert_eq!(y.dims(), [1, 16]);
                    loaded += 1;
                }
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
        println!("{format}: {refused} refused, {loaded} loaded with other values");
        // More than the truncated quarter.
        assert!(refused > MUTATIONS / 3, "{format}: {refused}");
    }
}

#[test]
fn an_optimizer_of_another_model_is_refused() {
    use burn::optim::{AdamWConfig, GradientsParams};
    use burn_blast::prune::{Blast, BlastConfig};
    let device = Device::flex().autodiff();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optim.bpk");
    let attach = |model: Net| {
        Blast::new(AdamWConfig::new().build(), BlastConfig::new(100)).attach(model).unwrap()
    };
    let (model, mut optim) = attach(net(0.0, 1, &device));
    let x = burn::tensor::Tensor::<2>::ones([2, 4], &device);
    let loss = model.forward(x).sum();
    let grads = GradientsParams::from_grads(loss.backward(), &model);
    let model = optim.step(1e-3, model, grads);
    io::save_optimizer(&optim, &path).unwrap();

    let (other, optim) = attach(net(0.0, 2, &device));
    let error = io::load_optimizer(optim, &other, &path).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("the optimizer file holds state for a parameter ("), "{error}");

    // Damage is an error, too.
    let good = std::fs::read(&path).unwrap();
    let (bad, mut rng) = (folder.path().join("bad.bpk"), ChaCha8Rng::seed_from_u64(4));
    for _ in 0..500 {
        let mut bytes = good.clone();
        let at = rng.random_range(0..bytes.len().min(4096));
        bytes[at] = rng.random();
        std::fs::write(&bad, bytes).unwrap();
        let (_, optim) = attach(model.clone());
        let _ = io::load_optimizer(optim, &model, &bad);
    }

    // The same parameters with another number of blocks: saved at another step.
    let bytes = io::to_bytes(&model).unwrap();
    let mut other = io::from_bytes(net(0.0, 3, &device), bytes.clone()).unwrap();
    let sparse = io::to_bytes(&net(0.5, 4, &device)).unwrap();
    let id = other.a.weight.id();
    other.a = io::from_bytes(net(0.0, 5, &device), sparse).unwrap().a;
    let (other, optim) = attach(other);
    assert_ne!(other.a.weight.id(), id);
    assert!(io::load_optimizer(optim, &other, &path).is_err());

    let (model, optim) = attach(model);
    assert!(io::load_optimizer(optim, &model, &path).is_ok());
    std::fs::write(&path, b"junk").unwrap();
    let (model, optim) = attach(model);
    let error = io::load_optimizer(optim, &model, &path).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("this is not a readable burnpack file: "), "{error}");
}
