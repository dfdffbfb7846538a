//! Files: round trips between models that keep different blocks.

mod common;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device};
use burn_blast::io;
use burn_blast::module::{BlockSparseLinear, BlockSparseLinearConfig};
use common::saved::{content, formats, net};
use common::{Zeros, cast, engines, floats};

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
    let model = cast(net(0.5, 1, &device), DType::BF16);
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
fn a_loaded_model_is_accepted_by_burns_own_loader() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bpk");
    let model = net(0.75, 1, &device);
    io::save(&model, &path).unwrap();
    assert!(net(0.0, 2, &device).try_load_file(&path).is_err());
    let loaded = io::load(net(0.0, 2, &device), &path).unwrap();
    let loaded = loaded.map(&mut Zeros).try_load_file(&path).unwrap();
    assert_eq!(content(&loaded), content(&model));
}

#[test]
fn a_safetensors_file_of_another_program_is_refused() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    // Square, so that its shape does not say how it is stored.
    let linear = LinearConfig::new(16, 16).init(&device);
    io::Export::new(&linear).write(&path).unwrap();
    let error = io::load_safetensors(linear.clone(), &path).unwrap_err();
    assert!(matches!(error, io::IoError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("io::Pretrained"), "{error}");
    let loaded = io::Pretrained::open(&path).unwrap().load(linear.clone()).unwrap();
    assert_eq!(floats(loaded.weight.val()), floats(linear.weight.val()));
    let bare = [0; 256 * 4];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![16, 16], &bare);
    let bytes = safetensors::serialize([("weight", view.unwrap())], None).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let error = io::load_safetensors(linear, &path).unwrap_err();
    assert!(matches!(error, io::IoError::Foreign { .. }), "{error}");
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
    let bytes = io::to_bytes(&cast(model.clone(), DType::F64)).unwrap();
    let fresh = BlockSparseLinearConfig::new(16, 16).with_block_size(8).init(&device);
    let loaded = io::from_bytes(fresh, bytes).unwrap();
    assert_eq!(loaded.weight.values().dtype(), DType::F32);
    assert_eq!(floats(loaded.to_dense()), floats(model.weight.val()));
}
