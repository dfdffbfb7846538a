//! Files: round trips whatever is kept, every refusal by its words, damage without a panic.

mod common;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device};
use burn_blast::{BlockSparseLinear, BlockSparseLinearConfig, io};
use common::{engines, floats};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

#[derive(Module, Debug)]
struct Net {
    first: Linear,
    a: BlockSparseLinear,
    b: BlockSparseLinear,
}

fn net(sparsity: f64, seed: u64, device: &Device) -> Net {
    device.seed(seed);
    let layer = |d_input, d_output| {
        BlockSparseLinearConfig::new(d_input, d_output)
            .with_block_size(8)
            .with_sparsity(sparsity)
            .with_seed(seed)
            .init(device)
    };
    Net { first: LinearConfig::new(4, 20).init(device), a: layer(20, 33), b: layer(33, 16) }
}

fn content(model: &Net) -> Vec<Vec<f32>> {
    vec![
        floats(model.first.weight.val()),
        floats(model.a.to_dense()),
        floats(model.a.bias.as_ref().unwrap().val()),
        floats(model.b.to_dense()),
    ]
}

type Save = fn(&Net, &Path) -> Result<(), io::IoError>;
type Load = fn(Net, &Path) -> Result<Net, io::IoError>;

fn formats() -> [(&'static str, Save, Load); 2] {
    [
        ("burnpack", |model, path| io::save(model, path), |model, path| io::load(model, path)),
        (
            "safetensors",
            |model, path| io::save_safetensors(model, path),
            |model, path| io::load_safetensors(model, path),
        ),
    ]
}

#[test]
fn a_model_loads_into_one_that_keeps_other_blocks() {
    for engine in engines() {
        for (format, save, load) in formats() {
            for (saved, fresh) in [(0.75, 0.0), (0.0, 0.75), (0.5, 0.5), (1.0, 0.5)] {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("model");
                let model = net(saved, 1, &engine.device);
                save(&model, &path).unwrap();
                let loaded = load(net(fresh, 2, &engine.device), &path).unwrap();
                let case = format!("{format} on {}, {fresh} from {saved}", engine.name);
                assert_eq!(loaded.a.pattern(), model.a.pattern(), "{case}");
                assert_eq!(content(&loaded), content(&model), "{case}");
                // Saving over a file replaces it.
                save(&net(0.25, 3, &engine.device), &path).unwrap();
            }
        }
    }
}

#[test]
fn burnpack_keeps_identities_so_that_an_optimizer_still_fits() {
    let device = Device::flex();
    let model = net(0.5, 1, &device);
    let loaded = io::from_bytes(net(0.0, 2, &device), io::to_bytes(&model).unwrap()).unwrap();
    assert_eq!(loaded.a.weight.id(), model.a.weight.id());
}

#[test]
fn half_precision_stays_half_precision() {
    let device = Device::flex();
    let cast = |model: Net| {
        struct Cast;
        impl burn::module::ModuleMapper for Cast {
            fn map_float<const D: usize>(
                &mut self,
                param: burn::module::Param<burn::tensor::Tensor<D>>,
            ) -> burn::module::Param<burn::tensor::Tensor<D>> {
                param.map(|tensor| tensor.cast(DType::BF16))
            }
        }
        model.map(&mut Cast)
    };
    let model = cast(net(0.5, 1, &device));
    for (format, save, load) in formats() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        save(&model, &path).unwrap();
        let loaded = load(net(0.0, 2, &device), &path).unwrap();
        assert_eq!(loaded.a.weight.values().dtype(), DType::BF16, "{format}");
        assert_eq!(content(&loaded), content(&model), "{format}");
    }
}

#[test]
fn a_dense_checkpoint_is_packed_where_it_holds_anything() {
    #[derive(Module, Debug)]
    struct Dense {
        first: Linear,
        a: Linear,
        b: Linear,
    }
    let device = Device::flex();
    let sparse = net(0.5, 1, &device);
    let dense = Dense {
        first: sparse.first.clone(),
        a: sparse.a.clone().into_linear(),
        b: sparse.b.clone().into_linear(),
    };
    let loaded = io::from_bytes(net(0.0, 2, &device), io::to_bytes(&dense).unwrap()).unwrap();
    assert_eq!(loaded.a.pattern(), sparse.a.pattern());
    assert_eq!(content(&loaded), content(&sparse));
}

#[test]
fn a_sized_model_is_accepted_by_burns_own_loader() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bpk");
    let model = net(0.75, 1, &device);
    io::save(&model, &path).unwrap();
    assert!(net(0.0, 2, &device).try_load_file(&path).is_err());
    let sized = io::size_to(net(0.0, 2, &device), &path).unwrap();
    let loaded = sized.try_load_file(&path).unwrap();
    assert_eq!(content(&loaded), content(&model));
}

fn refusal(result: Result<Net, io::IoError>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn a_dense_file_is_not_sized_to() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dense.bpk");
    let linear = LinearConfig::new(16, 16).init(&device);
    io::save(&linear, &path).unwrap();
    let fresh = || BlockSparseLinearConfig::new(16, 16).with_block_size(8).init(&device);
    let error = io::size_to(fresh(), &path).unwrap_err().to_string();
    assert_eq!(error, "the file has no tensor \"weight.values\": it was saved from another model");
    assert!(io::load(fresh(), &path).is_ok());
}

#[test]
fn a_linear_layer_in_column_layout_loads() {
    #[derive(Module, Debug)]
    struct Columns {
        a: BlockSparseLinear,
        b: Linear,
    }
    let device = Device::flex();
    let model = || Columns {
        a: BlockSparseLinearConfig::new(8, 12).with_block_size(8).init(&device),
        b: LinearConfig::new(12, 20).with_layout(burn::nn::LinearLayout::Col).init(&device),
    };
    let saved = model();
    let loaded = io::from_bytes(model(), io::to_bytes(&saved).unwrap()).unwrap();
    assert_eq!(floats(loaded.b.weight.val()), floats(saved.b.weight.val()));
    assert_eq!(floats(loaded.a.to_dense()), floats(saved.a.to_dense()));
}

#[test]
fn double_precision_is_loaded_as_single() {
    let device = Device::flex();
    let model = LinearConfig::new(16, 16).init(&device);
    struct Cast;
    impl burn::module::ModuleMapper for Cast {
        fn map_float<const D: usize>(
            &mut self,
            param: burn::module::Param<burn::tensor::Tensor<D>>,
        ) -> burn::module::Param<burn::tensor::Tensor<D>> {
            param.map(|tensor| tensor.cast(DType::F64))
        }
    }
    let bytes = io::to_bytes(&model.clone().map(&mut Cast)).unwrap();
    let fresh = BlockSparseLinearConfig::new(16, 16).with_block_size(8).init(&device);
    let loaded = io::from_bytes(fresh, bytes).unwrap();
    assert_eq!(loaded.weight.values().dtype(), DType::F32);
    assert_eq!(floats(loaded.to_dense()), floats(model.weight.val()));
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
    assert_eq!(
        from(io::to_bytes(&less).unwrap()),
        "the file has no tensor \"b.weight.layout\": it was saved from another model"
    );
    let more = More { net: model.clone() };
    assert_eq!(
        from(io::to_bytes(&more).unwrap()),
        "the file has no tensor \"a.weight.layout\": it was saved from another model"
    );
    let result = io::from_bytes(less, io::to_bytes(&model).unwrap());
    assert_eq!(
        result.map(|_| ()).unwrap_err().to_string(),
        "the file has a tensor \"b.bias\" that the model does not know: it was saved from another model"
    );
    let mut other = model.clone();
    other.a = BlockSparseLinearConfig::new(24, 33).with_block_size(8).init(&device);
    assert_eq!(
        from(io::to_bytes(&other).unwrap()),
        "layer \"a.weight\": the weight is [24, 33], but the model's is [20, 33]: the file was saved from a model of another size"
    );
    let mut other = model.clone();
    other.first = LinearConfig::new(5, 20).init(&device);
    assert_eq!(
        from(io::to_bytes(&other).unwrap()),
        "tensor \"first.weight\" has shape [5, 20], but the model needs [4, 20]: it was saved from a model of another size"
    );
    assert!(from(b"not a model".to_vec()).starts_with("this is not a readable burnpack file: "));
    assert!(from(Vec::new()).starts_with("this is not a readable burnpack file: "));
    let missing = refusal(io::load(fresh(), "/nowhere/model.bpk"));
    assert!(missing.starts_with("/nowhere/model.bpk: "), "{missing}");
    let folder = tempfile::tempdir().unwrap();
    let unwritable = io::save(&model, folder.path().join("no/model.bpk")).unwrap_err();
    assert!(unwritable.to_string().contains("no/model.bpk: "), "{unwritable}");
}

/// The model's file with one index tensor changed.
fn tampered(name: &str, change: impl Fn(&mut Vec<i32>)) -> Vec<u8> {
    let bytes = io::to_bytes(&net(0.5, 1, &Device::flex())).unwrap();
    let reader = burn_pack::Reader::from_bytes(burn::tensor::Bytes::from_bytes_vec(bytes)).unwrap();
    let tensors = reader
        .into_tensors()
        .unwrap()
        .into_iter()
        .map(|tensor| {
            let (path, dtype, mut shape, id, mut bytes) = tensor.into_parts().unwrap();
            if path == name {
                let data = burn::tensor::TensorData::from_bytes(bytes, shape, dtype);
                let mut numbers: Vec<i32> = data.iter::<i32>().collect();
                change(&mut numbers);
                shape = [numbers.len()].into();
                bytes = burn::tensor::Bytes::from_elems(numbers);
            }
            burn_pack::Tensor::new(path, dtype, shape, id, bytes)
        })
        .collect();
    burn_pack::Writer::new(tensors).into_bytes().unwrap().to_vec()
}

#[test]
fn every_bad_index_is_refused_with_a_reason() {
    let load = |bytes| refusal(io::from_bytes(net(0.0, 2, &Device::flex()), bytes));
    let cases: [(Vec<u8>, &str); 6] = [
        (
            tampered("a.weight.layout", |layout| layout[0] = 7),
            "layer \"a.weight\": the weight is stored in format version 7, this burn-blast reads version 1: update burn-blast or save the model again",
        ),
        (
            tampered("a.weight.layout", |layout| layout.truncate(3)),
            "layer \"a.weight\": the layout tensor has 3 numbers instead of 5: this is not a burn-blast weight",
        ),
        (
            tampered("a.weight.layout", |layout| layout[1] = 12),
            "layer \"a.weight\": block size 12 is not supported: use 8, 16, 32, 64 or 128",
        ),
        (
            tampered("a.weight.row_idx", |rows| rows[0] = 3),
            "layer \"a.weight\": block row 3 in block column 0 is outside the grid of 3 block rows: \
             the pattern was made for a larger weight or another block size",
        ),
        (
            tampered("a.weight.row_idx", |rows| rows[0] = -1),
            "layer \"a.weight\": row_idx holds -1, which is not an index: the file is damaged",
        ),
        (
            tampered("a.weight.col_ptr", |ptr| *ptr.last_mut().unwrap() += 1),
            "layer \"a.weight\": column pointers end at 9, but 8 block rows are listed: the file is damaged or truncated",
        ),
    ];
    for (bytes, message) in cases {
        assert_eq!(load(bytes), message);
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
    for (format, save, load) in formats() {
        let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
        save(&model, &good).unwrap();
        let bytes = std::fs::read(&good).unwrap();
        // Most of a file is values, where damage cannot be seen: aim at the header, too.
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
                    let y = model.b.forward(model.a.forward(model.first.forward(x)));
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
    let loss = model.b.forward(model.a.forward(model.first.forward(x))).sum();
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
