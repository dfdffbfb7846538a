//! A packed checkpoint of this library, made dense again by `blast`.

use std::path::Path;

use burn::tensor::Device;
use burn_blast::module::{AnyLinear, BlockSparseLinear, BlockSparseWeight};
use burn_blast::{BlockMask, BlockPattern};
use burn_blast_cli::args::Cli;
use burn_blast_models::{Form, Model, ModelFolder, Precision};
use clap::Parser;

use crate::common::{self, Expected, load, numbers, open};

/// Packs the MLPs and leaves out every other block of them.
fn thin(model: &mut Model) {
    for (_, linear) in model.mlps_mut(0) {
        linear.pack(8).unwrap();
        let AnyLinear::Sparse(layer) = linear else { panic!("packed just now") };
        let full = BlockMask::from(layer.pattern());
        let every_other: Vec<usize> = full.indices().step_by(2).collect();
        let mask = BlockMask::from_indices(full.shape(), full.block(), every_other);
        let weight =
            BlockSparseWeight::from_dense(layer.to_dense(), BlockPattern::from_mask(&mask));
        *layer = BlockSparseLinear::new(weight, layer.bias.clone());
    }
}

fn open_model(folder: &Path) -> Model {
    ModelFolder::open(folder).unwrap().load(&Device::flex(), Precision::F32).unwrap()
}

#[test]
fn the_dense_copy_gives_the_same_scores() {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["llama3", "gpt2"] {
        let (packed, dense) = (scratch.path().join(name), scratch.path().join(format!("{name}-d")));
        let mut model = load(name, Precision::F32);
        thin(&mut model);
        open(name).save(&model, &packed, Form::Packed).unwrap();
        let words = ["blast", "densify", packed.to_str().unwrap(), dense.to_str().unwrap()];
        burn_blast_cli::run(&Cli::try_parse_from(words).unwrap()).unwrap();
        let tokens = model.tokens(&[&Expected::of(name).texts()[0]]);
        let scores = |model: &Model| numbers(model.forward(tokens.clone(), None));
        let (packed, mut dense) = (open_model(&packed), open_model(&dense));
        assert!(
            dense.linears_mut().iter().all(|(_, linear)| matches!(linear, AnyLinear::Dense(_)))
        );
        assert!(common::distance(&scores(&dense), &scores(&packed)) < 1e-5, "{name}");
        assert_eq!(scores(&packed), scores(&model), "{name}");
    }
}
