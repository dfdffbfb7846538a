//! Compaction removes dead hidden features without changing outputs.

mod common;

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use burn_blast::module::{
    BlockSparseGatedMlp, BlockSparseLinear, BlockSparseMlp, BlockSparseWeight, MlpActivation,
};
use burn_blast::tuning::Strategy;
use burn_blast::{BlockMask, BlockPattern, BlockSize, MatrixShape};
use common::{distance, engines, floats, uniform};

const B: usize = 8;
const D_MODEL: usize = 24;
/// Five blocks, the last one ragged.
const D_FF: usize = 37;
const ROWS: usize = 6;

/// A layer of every block but some columns and rows of blocks.
fn layer(
    sizes: [usize; 2],
    dead_rows: &[usize],
    dead_cols: &[usize],
    bias: bool,
    device: &Device,
) -> BlockSparseLinear {
    let [rows, cols] = sizes;
    let shape = MatrixShape::new(rows, cols).unwrap();
    let mut mask = BlockMask::full(shape, BlockSize::new(B).unwrap());
    for row in 0..rows.div_ceil(B) {
        for col in 0..cols.div_ceil(B) {
            mask.set(row, col, !dead_rows.contains(&row) && !dead_cols.contains(&col));
        }
    }
    let dense = uniform([rows, cols], (rows + cols) as u64, device);
    let weight = BlockSparseWeight::from_dense(dense, BlockPattern::from_mask(&mask));
    let bias = bias.then(|| Param::from_tensor(uniform([cols], 77, device)));
    BlockSparseLinear::new(weight, bias).with_strategy(Strategy::Sparse)
}

fn input(device: &Device) -> Tensor<2> {
    uniform([ROWS, D_MODEL], 9, device)
}

fn d_ff(layer: &BlockSparseLinear) -> usize {
    layer.pattern().shape().rows()
}

fn assert_same(name: &str, before: Tensor<2>, after: Tensor<2>) {
    let off = distance(&floats(before), &floats(after));
    assert!(off < 1e-5, "{name}: outputs differ by {off}");
}

#[test]
fn a_gated_block_loses_exactly_its_dead_features() {
    for engine in engines() {
        let device = &engine.device;
        // Block 0 has no gate, 1 no up, 3 is read by nothing; 2 and the ragged 4 live.
        let mlp = BlockSparseGatedMlp::new(
            layer([D_MODEL, D_FF], &[], &[0], false, device),
            layer([D_MODEL, D_FF], &[1], &[1], false, device),
            layer([D_FF, D_MODEL], &[3], &[2], false, device),
        );
        let compact = mlp.compact();
        assert_eq!(d_ff(&compact.down), B + D_FF % B, "{}", engine.name);
        assert_eq!(compact.gate.pattern().shape().cols(), B + D_FF % B);
        assert_eq!(compact.gate.pattern().shape().rows(), D_MODEL);
        assert!(compact.up.bytes() < mlp.up.bytes());
        assert_same(engine.name, mlp.forward(input(device)), compact.forward(input(device)));
        // Nothing is left to take.
        assert_eq!(d_ff(&compact.compact().down), d_ff(&compact.down));
    }
}

#[test]
fn features_with_a_bias_are_not_dead() {
    let device = Device::flex();
    let mlp = |bias| {
        let down = layer([D_FF, D_MODEL], &[3], &[], true, &device);
        let up = layer([D_MODEL, D_FF], &[], &[0, 2], bias, &device);
        BlockSparseMlp::new(up, down).with_activation(MlpActivation::Relu)
    };
    let check = |mlp: BlockSparseMlp, expected| {
        let compact = mlp.compact();
        assert_eq!(d_ff(&compact.down), expected);
        assert_same("plain", mlp.forward(input(&device)), compact.forward(input(&device)));
        let features = compact.up.bias.as_ref().map_or(expected, |bias| bias.val().dims()[0]);
        assert_eq!(features, expected);
    };
    check(mlp(true), D_FF - B);
    check(mlp(false), D_FF - 3 * B);
}

#[test]
fn one_block_of_features_stays_if_all_are_dead() {
    let device = Device::flex();
    let mlp = BlockSparseGatedMlp::new(
        layer([D_MODEL, D_FF], &[], &[0, 1, 2, 3, 4], false, &device),
        layer([D_MODEL, D_FF], &[], &[], false, &device),
        layer([D_FF, D_MODEL], &[], &[], false, &device),
    );
    let compact = mlp.compact();
    assert_eq!(d_ff(&compact.down), B);
    assert!(floats(compact.forward(input(&device))).iter().all(|&y| y == 0.0));
}
