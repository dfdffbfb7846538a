//! Files between `blast` and the libraries: each reads what the other writes.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Distribution, Tensor};
use burn_blast::module::{AnyLinear, BlockSparseLinear, BlockSparseLinearConfig};
use burn_blast::{BlockMask, io};
use burn_blast_kernels::budget::keep_top;
use burn_blast_models::one_shot::{Method, OneShot};
use burn_blast_models::{Activations, Blocks, Form, Model, ModelFolder, Precision};
use safetensors::{Dtype, SafeTensors};

use crate::common::Place;
use crate::reference::{Expected, distance, folder, load, numbers, open};

const BLOCK: usize = 8;

fn model(place: &Place, name: &str) -> Model {
    ModelFolder::open(place.path(name)).unwrap().load(&Device::flex(), Precision::F32).unwrap()
}

/// The norms of all features by a plain sum over windows.
fn by_hand(model: &Model, text: &[u32], window: usize, layer: &str) -> Vec<f32> {
    let mut sums: Vec<f64> = Vec::new();
    for part in text.chunks(window) {
        model.observe(model.tokens(&[part]), &mut |name, input| {
            if name == layer {
                let width = input.dims()[2];
                sums.resize(width, 0.0);
                for (at, x) in numbers(input).into_iter().enumerate() {
                    sums[at % width] += f64::from(x) * f64::from(x);
                }
            }
        });
    }
    sums.into_iter().map(|sum| sum.sqrt() as f32).collect()
}

/// Scores of all blocks of `[d_input, d_output]`, row by row, as the documents define them.
fn scores(dense: Tensor<2>, norms: &[f32]) -> Vec<f32> {
    let [rows, cols] = dense.dims();
    let (grid_rows, grid_cols) = (rows.div_ceil(BLOCK), cols.div_ceil(BLOCK));
    let mut sums = vec![0.0_f64; grid_rows * grid_cols];
    for (at, w) in numbers(dense).into_iter().enumerate() {
        let (row, col) = (at / cols, at % cols);
        sums[row / BLOCK * grid_cols + col / BLOCK] += f64::from(w * norms[row]).powi(2);
    }
    sums.into_iter().map(|sum| sum.sqrt() as f32).collect()
}

#[test]
fn blast_keeps_the_blocks_these_norms_call_for() {
    let place = Place::new();
    for name in ["llama3", "gpt2"] {
        let (mut dense, tokens) =
            (load(name, Precision::F32), Expected::of(name).texts()[0].clone());
        let mut heard = Vec::new();
        let found = Activations::collect(&dense, &tokens, 10, |done| heard.push(done)).unwrap();
        assert_eq!(heard, [10, 20, 24]);
        found.save(open(name).config(), place.path("norms")).unwrap();
        let options = "--block 8 --sparsity 0.5 --score wanda --activations norms";
        place.fine(&format!("sparsify {} {name} {options}", folder(name).display()));

        let (mut sparse, before) = (model(&place, name), dense.clone());
        let pairs = dense.mlps_mut(0).into_iter().zip(sparse.mlps_mut(0));
        let mut moved = 0;
        for ((layer, dense), (_, after)) in pairs {
            let norms = &found.norms[&layer];
            assert!(distance(norms, &by_hand(&before, &tokens, 10, &layer)) < 1e-5, "{layer}");
            let AnyLinear::Sparse(after) = after else { panic!("{layer} is not packed") };
            let kept: Vec<usize> = BlockMask::from(after.pattern()).indices().collect();
            let best = |norms: &[f32]| {
                let scores = scores(dense.to_dense(), norms);
                let mut best: Vec<usize> = keep_top(&scores, scores.len() / 2);
                best.sort_unstable();
                best
            };
            assert_eq!(kept, best(norms), "{layer}");
            moved += usize::from(kept != best(&vec![1.0; norms.len()]));
        }
        assert!(moved > 0, "the activations must matter for the test to mean anything");
    }
}

#[test]
fn names_are_those_of_either_kind_of_checkpoint() {
    let (model, scratch) = (load("gpt2", Precision::F32), Place::new());
    let file = scratch.path("norms.safetensors");
    let found = Activations::collect(&model, &[1, 2, 3], 8, |_| ()).unwrap();
    found.save(open("gpt2").config(), &file).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let entries = SafeTensors::deserialize(&bytes).unwrap();
    for name in ["h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_fc.weight"] {
        let entry = entries.tensor(name).unwrap();
        assert_eq!(
            (entry.dtype(), entry.shape()),
            (Dtype::F32, &[found.norms["transformer.h.0.mlp.c_fc"].len()][..])
        );
    }
    assert_eq!(std::fs::read_dir(scratch.path(".")).unwrap().count(), 1);
}

#[test]
fn the_dense_copy_gives_the_same_scores() {
    let place = Place::new();
    for name in ["llama3", "gpt2"] {
        let mut thinned = load(name, Precision::F32);
        let half = OneShot::new(Blocks::new(8).with_sparsity(0.5)).with_method(Method::Magnitude);
        half.run(&mut thinned, &[], |_, _| {}).unwrap();
        open(name).save(&thinned, place.path(name), Form::Packed).unwrap();
        place.fine(&format!("densify {name} {name}-dense"));
        let tokens = thinned.tokens(&[&Expected::of(name).texts()[0]]);
        let scores = |model: &Model| numbers(model.forward(tokens.clone(), None));
        let (packed, mut dense) = (model(&place, name), model(&place, &format!("{name}-dense")));
        assert!(
            dense.linears_mut().iter().all(|(_, linear)| matches!(linear, AnyLinear::Dense(_)))
        );
        assert!(distance(&scores(&dense), &scores(&packed)) < 1e-5, "{name}");
        assert_eq!(scores(&packed), scores(&thinned), "{name}");
    }
}

#[derive(Module, Debug)]
struct Dense {
    up: Linear,
    down: Linear,
}

#[derive(Module, Debug)]
struct Sparse {
    up: BlockSparseLinear,
    down: Linear,
}

#[test]
fn a_model_loads_what_the_command_line_packed() {
    let device = Device::flex();
    let place = Place::new();
    let [input, packed, again] =
        ["dense", "packed", "again"].map(|name| place.path(&format!("{name}.safetensors")));
    let dense = Dense {
        up: LinearConfig::new(40, 72).init(&device),
        down: LinearConfig::new(72, 40).init(&device),
    };
    io::save_safetensors(&dense, &input).unwrap();
    let options = "--include ^up --block 16 --sparsity 0.6";
    place.fine(&format!("sparsify dense.safetensors packed.safetensors {options}"));
    place.fine("verify packed.safetensors");
    place.fine("densify packed.safetensors again.safetensors");

    let fresh = || Sparse {
        up: BlockSparseLinearConfig::new(40, 72).with_block_size(16).init(&device),
        down: LinearConfig::new(72, 40).init(&device),
    };
    let sparse = io::load_safetensors(fresh(), &packed).unwrap();
    // 3 x 5 blocks, of which 6 stay.
    assert_eq!(sparse.up.weight.pattern().nnz(), 6);
    let pruned = sparse.up.weight.to_dense();
    let mask = pruned.clone().not_equal_elem(0.0).float();
    pruned.to_data().assert_eq(&(dense.up.weight.val() * mask).to_data(), true);
    // The other way: dense zero blocks are found, and make the same layer.
    let unpacked = io::load_safetensors(fresh(), &again).unwrap();
    assert_eq!(unpacked.up.weight.pattern(), sparse.up.weight.pattern());
    let x = Tensor::<2>::random([3, 40], Distribution::Default, &device);
    let (one, two) = (sparse.up.forward(x.clone()), unpacked.up.forward(x));
    one.to_data().assert_eq(&two.to_data(), true);
    let down = |down: &Linear| down.weight.val().to_data();
    down(&sparse.down).assert_eq(&down(&dense.down), true);

    // What training saves, the command line reads.
    io::save_safetensors(&sparse, &packed).unwrap();
    place.fine("verify packed.safetensors");
    place.fine("diff packed.safetensors again.safetensors");
}
