//! The library reads what `blast` writes.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Distribution, Tensor};
use burn_blast::io;
use burn_blast::module::{BlockSparseLinear, BlockSparseLinearConfig};
use burn_blast_cli::args::Cli;
use burn_blast_cli::{Status, run};
use clap::Parser;

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
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let dense = Dense {
        up: LinearConfig::new(40, 72).init(&device),
        down: LinearConfig::new(72, 40).init(&device),
    };
    io::save_safetensors(&dense, path("dense.safetensors")).unwrap();
    let blast = |words: &[&str]| {
        let cli = Cli::try_parse_from(["blast"].iter().chain(words)).unwrap();
        assert_eq!(run(&cli).unwrap().1, Status::Fine);
    };
    let (input, packed, again) =
        (path("dense.safetensors"), path("packed.safetensors"), path("again.safetensors"));
    let chosen = ["--include", "^up", "--block", "16", "--sparsity", "0.6"];
    blast(&[&["sparsify", &input, &packed], &chosen[..]].concat());
    blast(&["verify", &packed]);
    blast(&["densify", &packed, &again]);

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
    blast(&["verify", &packed]);
    blast(&["diff", &packed, &again]);
}
