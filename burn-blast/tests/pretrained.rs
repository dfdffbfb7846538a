//! Checkpoints of Hugging Face, dense or packed, in one file or in shards.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{DType, Device, Distribution, Tensor};
use burn_blast::io::{Export, IoError, Orientation, Pretrained};
use burn_blast::module::{
    AnyLinear, BlockSparseLinear, BlockSparseLinearConfig, LoraLinear, LoraLinearConfig,
};
use burn_blast_checkpoint::atomic::AtomicFile;
use burn_blast_checkpoint::{Checkpoint, Entry, FileContent, write_safetensors};
use common::floats;
use serde_json::json;

#[derive(Module, Debug)]
struct Net {
    embedding: Embedding,
    norm: LayerNorm,
    up: BlockSparseLinear,
    down: Linear,
    any: Vec<AnyLinear>,
    adapted: LoraLinear,
}

fn sparse(d_input: usize, d_output: usize, sparsity: f64, device: &Device) -> BlockSparseLinear {
    let config = BlockSparseLinearConfig::new(d_input, d_output).with_block_size(8);
    config.with_sparsity(sparsity).init(device)
}

fn net(sparsity: f64, any: Vec<AnyLinear>, device: &Device) -> Net {
    let mut adapted = LoraLinearConfig::new(2).init(sparse(20, 12, sparsity, device));
    let b = Tensor::random([2, 12], Distribution::Default, device);
    adapted.lora_b = burn::module::Param::from_tensor(b);
    Net {
        embedding: EmbeddingConfig::new(5, 20).init(device),
        norm: LayerNormConfig::new(20).init(device),
        up: sparse(20, 33, sparsity, device),
        down: LinearConfig::new(33, 20).init(device),
        any,
        adapted,
    }
}

fn saved(device: &Device) -> Net {
    let dense = AnyLinear::Dense(LinearConfig::new(20, 20).init(device));
    net(0.5, vec![dense, AnyLinear::Sparse(sparse(20, 16, 0.5, device))], device)
}

/// A fresh model whose layers are dense or block-sparse as in the checkpoint.
fn fresh(pretrained: &Pretrained, device: &Device) -> Net {
    let any = [16, 20].iter().rev().enumerate().map(|(at, &d_output)| {
        let config = LinearConfig::new(20, d_output);
        pretrained.linear(&format!("any.{at}"), &config, device).unwrap()
    });
    net(0.0, any.collect(), device)
}

fn content(net: &Net) -> Vec<Vec<f32>> {
    let norm = |norm: &LayerNorm| floats(norm.gamma.val());
    let mut all = vec![floats(net.embedding.weight.val()), norm(&net.norm)];
    all.extend([floats(net.up.to_dense()), floats(net.down.weight.val())]);
    all.extend(net.any.iter().map(|layer| floats(layer.to_dense())));
    all.push(floats(net.adapted.base.to_dense() + net.adapted.change()));
    all
}

/// Distributes the tensors of a file over two shards with an index.
fn shard(folder: &Path) {
    let file = folder.join("model.safetensors");
    let checkpoint = Checkpoint::open(&file).unwrap();
    let metadata = checkpoint.shards[0].metadata.clone();
    let mut weight_map = BTreeMap::new();
    for (at, names) in checkpoint.names().chunks(checkpoint.names().len().div_ceil(2)).enumerate() {
        let shard = format!("model-0000{}-of-00002.safetensors", at + 1);
        let entries = names.iter().map(|name| Entry::copy(name, checkpoint.tensor(name).unwrap()));
        let content = FileContent { metadata: metadata.clone(), entries: entries.collect() };
        let mut out = AtomicFile::new(&folder.join(&shard), false).unwrap();
        write_safetensors(&mut out, &content, &mut |_| {}).unwrap();
        out.finish().unwrap();
        weight_map.extend(names.iter().map(|name| ((*name).to_owned(), shard.clone())));
    }
    let index = json!({ "metadata": {}, "weight_map": weight_map }).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    drop(checkpoint);
    fs::remove_file(file).unwrap();
}

fn export(model: &Net) -> Export<'_, Net> {
    Export::new(model).rename(|name| format!("model.{name}"))
}

fn open(path: &Path) -> Result<Pretrained, IoError> {
    Pretrained::open(path)?.rename(|name| name.strip_prefix("model.").map(str::to_owned))
}

fn nothing(_: &burn_blast_checkpoint::atomic::AtomicFolder) -> Result<(), IoError> {
    Ok(())
}

#[test]
fn a_sharded_packed_checkpoint_loads_into_a_module() {
    let device = Device::flex();
    let (folder, model) = (tempfile::tempdir().unwrap(), saved(&device));
    let path = folder.path().join("packed");
    export(&model).save(&path, nothing).unwrap();
    let names = Checkpoint::open(&path).unwrap();
    for name in ["norm.weight", "any.1.weight.values", "adapted.weight.values", "adapted.lora_a"] {
        assert!(names.tensor(&format!("model.{name}")).is_some(), "{name}");
    }
    assert_eq!(names.tensor("model.down.weight").unwrap().shape(), [20, 33]);
    shard(&path);
    let pretrained = open(&path).unwrap();
    let loaded = pretrained.load(fresh(&pretrained, &device)).unwrap();
    assert_eq!(content(&loaded), content(&model));
    assert_eq!(loaded.up.pattern(), model.up.pattern());
    assert!(matches!(loaded.any[..], [AnyLinear::Dense(_), AnyLinear::Sparse(_)]));
}

#[test]
fn a_dense_checkpoint_is_packed_and_adapters_are_merged_into_it() {
    #[derive(Module, Debug)]
    struct Plain {
        embedding: Embedding,
        norm: LayerNorm,
        up: BlockSparseLinear,
        down: Linear,
        any: Vec<AnyLinear>,
        adapted: Linear,
    }
    let device = Device::flex();
    let (folder, model) = (tempfile::tempdir().unwrap(), saved(&device));
    let path = folder.path().join("dense");
    export(&model).dense().orientation(|_| Orientation::InOut).save(&path, nothing).unwrap();
    shard(&path);
    let pretrained = open(&path).unwrap().orientation(|_| Orientation::InOut);
    let Net { embedding, norm, up, down, any, .. } = fresh(&pretrained, &device);
    let adapted = LinearConfig::new(20, 12).init(&device);
    let loaded = pretrained.load(Plain { embedding, norm, up, down, any, adapted }).unwrap();
    let mut expected = content(&model);
    assert_eq!(expected.pop().unwrap(), floats(loaded.adapted.weight.val()));
    assert_eq!(floats(loaded.up.to_dense()), expected[2]);
    assert_eq!(loaded.up.pattern(), model.up.pattern());
    assert_eq!(floats(loaded.down.weight.val()), expected[3]);
    assert!(loaded.any.iter().all(|layer| matches!(layer, AnyLinear::Dense(_))));
}

#[test]
fn numbers_are_converted_and_tensors_without_a_name_left_out() {
    let device = Device::flex();
    let (folder, model) = (tempfile::tempdir().unwrap(), sparse(20, 33, 0.5, &device));
    let path = folder.path().join("folder");
    let add = |staged: &burn_blast_checkpoint::atomic::AtomicFolder| {
        staged
            .create("config.json")
            .map(drop)
            .map_err(|cause| IoError::File { path: "config.json".into(), cause })
    };
    Export::new(&model).save(&path, add).unwrap();
    assert!(path.join("config.json").exists());
    let again = Export::new(&model).save(&path, add).unwrap_err();
    assert!(matches!(again, IoError::Checkpoint(_)), "{again}");
    let bias = |name: &str| (name != "bias").then(|| name.to_owned());
    let pretrained = Pretrained::open(&path).unwrap().rename(bias).unwrap().dtype(DType::BF16);
    let mut target = sparse(20, 33, 0.0, &device);
    let error = pretrained.load(target.clone()).unwrap_err();
    assert!(matches!(&error, IoError::Missing { name } if name == "bias"), "{error}");
    target.bias = None;
    let loaded = pretrained.load(target).unwrap();
    assert_eq!(loaded.weight.dtype(), DType::BF16);
    let both = Pretrained::open(&path).unwrap().rename(|_| Some("one".to_owned()));
    assert!(matches!(both.map(drop).unwrap_err(), IoError::Renamed { .. }));
}
