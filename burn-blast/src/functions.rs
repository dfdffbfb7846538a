//! The operations on [`Tensor`]s. They check shapes, and dequantise inputs that have no kernel for integers.

use burn::backend::Dispatch;
use burn::tensor::{DType, Int, Tensor, TensorData};
use burn_blast_kernels::{BlockPattern, BlockSize, MatrixShape};

mod attention;

pub use attention::{cached_attention, causal_attention, masked_softmax};

pub use crate::backends::is_host;
pub use crate::feed_forward::{GatedPatterns, MlpActivation, MlpPatterns};
pub use crate::ops::BlastOps;
use crate::quantize::{dequantized, is_integer};

/// Applies `product` to `input` with its leading axes flattened, and restores the axes.
pub(crate) fn by_rows<const D: usize>(
    input: Tensor<D>,
    d_input: usize,
    d_output: usize,
    product: impl FnOnce(Tensor<2>) -> Tensor<2>,
) -> Tensor<D> {
    let mut dims = input.dims();
    assert!(
        dims[D - 1] == d_input,
        "the last axis of the input is {}, but the layer has d_input {d_input}",
        dims[D - 1]
    );
    let rows = dims[..D - 1].iter().product();
    let output = product(input.reshape([rows, d_input]));
    dims[D - 1] = d_output;
    output.reshape(dims)
}

/// `y = x · w + bias`. Values that were quantised by [`quantize`](crate::module::quantize()) are multiplied as
/// integers.
///
/// # Shapes
/// - `x`: `[m, d_input]`, `values`: `[nnz, b, b]`, or bytes of 4-bit integers, `bias`: `[d_output]`
/// - output: `[m, d_output]`
///
/// # Panics
/// If a shape or data type does not fit.
pub fn spmm(
    x: Tensor<2>,
    values: Tensor<3>,
    bias: Option<Tensor<1>>,
    pattern: &BlockPattern,
) -> Tensor<2> {
    if is_integer(values.dtype(), &values.dims(), pattern.block()) {
        let x = plain(x);
        check_cols("x", &x, pattern.shape().rows());
        let [found, ..] = values.dims();
        assert!(found == pattern.nnz(), "{found} blocks are quantised, not {}", pattern.nnz());
        let (x, values) = (x.into_dispatch(), values.into_dispatch());
        let y = Tensor::from_dispatch(Dispatch::spmm_quantized(x, values, pattern.clone()));
        let Some(bias) = bias.map(plain) else { return y };
        check_bias(&bias, y.dtype(), pattern);
        return y + bias.unsqueeze();
    }
    let (x, values) = operands(x, values, pattern);
    let (dtype, pattern) = (x.dtype(), pattern.clone());
    let (x, values) = (x.into_dispatch(), values.into_dispatch());
    Tensor::from_dispatch(match bias.map(plain) {
        None => Dispatch::spmm(x, values, pattern),
        Some(bias) => {
            check_bias(&bias, dtype, &pattern);
            Dispatch::spmm_bias(x, values, bias.into_dispatch(), pattern)
        }
    })
}

/// [`spmm`] whose backward pass also gives a gradient to `probe`: the norm of every block of the weight gradient.
///
/// # Shapes
/// As [`spmm`]; `probe`: `[block_rows, block_cols]`. Only its gradient matters.
///
/// # Panics
/// If a shape or data type does not fit.
pub fn spmm_probed(
    x: Tensor<2>,
    values: Tensor<3>,
    probe: Tensor<2>,
    pattern: &BlockPattern,
) -> Tensor<2> {
    let (x, values) = operands(x, values, pattern);
    check_dims("probe", probe.dims(), [pattern.block_rows(), pattern.block_cols()]);
    let (x, values, probe) = (x.into_dispatch(), values.into_dispatch(), probe.into_dispatch());
    Tensor::from_dispatch(Dispatch::spmm_probed(x, values, probe, pattern.clone()))
}

/// `down(activation(gate(x)) · up(x))` of packed values, without bias. Saves only `x` for the backward pass.
///
/// # Shapes
/// - `x`: `[m, d_model]`; `gate`, `up`, `down`: `[nnz, b, b]` of their patterns
/// - output: `[m, d_output]`
///
/// # Panics
/// If a shape or data type does not fit, or the block sizes differ.
pub fn gated_mlp(
    x: Tensor<2>,
    gate: Tensor<3>,
    up: Tensor<3>,
    down: Tensor<3>,
    patterns: &GatedPatterns,
) -> Tensor<2> {
    let GatedPatterns { gate: first, up: second, down: last, .. } = patterns;
    let (x, gate) = operands(x, gate, first);
    let (x, up) = operands(x, up, second);
    let down = dequantized(down, last);
    check_values(&down, last);
    check_dtypes(x.dtype(), down.dtype());
    assert!(
        first.shape() == second.shape() && first.shape().cols() == last.shape().rows(),
        "gate and up must have the same size, and d_input of down must be d_output of gate"
    );
    assert!(
        first.block() == second.block() && first.block() == last.block(),
        "the three layers must have one block size: call them one by one"
    );
    let (x, [gate, up, down]) = (x.into_dispatch(), [gate, up, down].map(Tensor::into_dispatch));
    Tensor::from_dispatch(Dispatch::gated_mlp(x, gate, up, down, patterns.clone()))
}

/// `down(activation(up(x) + up_bias)) + down_bias` of packed values. Saves only `x` for the backward pass.
///
/// # Shapes
/// - `x`: `[m, d_model]`; `up`, `down`: `[nnz, b, b]` of their patterns; biases: `[d_ff]`, `[d_output]`
/// - output: `[m, d_output]`
///
/// # Panics
/// If a shape or data type does not fit, or the block sizes differ.
pub fn mlp(
    x: Tensor<2>,
    up: Tensor<3>,
    up_bias: Tensor<1>,
    down: Tensor<3>,
    down_bias: Tensor<1>,
    patterns: &MlpPatterns,
) -> Tensor<2> {
    let MlpPatterns { up: first, down: last, .. } = patterns;
    let (x, up) = operands(x, up, first);
    let (down, up_bias, down_bias) = (dequantized(down, last), plain(up_bias), plain(down_bias));
    check_values(&down, last);
    check_dims("the first bias", up_bias.dims(), [first.shape().cols()]);
    check_dims("the second bias", down_bias.dims(), [last.shape().cols()]);
    for dtype in [down.dtype(), up_bias.dtype(), down_bias.dtype()] {
        check_dtypes(x.dtype(), dtype);
    }
    assert!(first.shape().cols() == last.shape().rows(), "d_input of down must be d_output of up");
    assert!(
        first.block() == last.block(),
        "the two layers must have one block size: call them one by one"
    );
    let (x, [up, down]) = (x.into_dispatch(), [up, down].map(Tensor::into_dispatch));
    let [up_bias, down_bias] = [up_bias, down_bias].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::mlp(x, up, up_bias, down, down_bias, patterns.clone()))
}

/// `activation(gate) · up`, element by element. On a GPU, operations of Burn are fused better.
///
/// # Panics
/// If shapes or data types differ.
pub fn gated_activation<const D: usize>(
    gate: Tensor<D>,
    up: Tensor<D>,
    activation: MlpActivation,
) -> Tensor<D> {
    assert!(gate.dims() == up.dims(), "gate {:?} and up {:?} differ", gate.dims(), up.dims());
    check_dtypes(gate.dtype(), up.dtype());
    let (gate, up) = (plain(gate).into_dispatch(), plain(up).into_dispatch());
    Tensor::from_dispatch(Dispatch::gated_activation(gate, up, activation))
}

/// `dx = dy · wᵀ`, the input gradient of [`spmm`]. Not differentiable itself.
///
/// # Shapes
/// - `dy`: `[m, d_output]`, `values`: `[nnz, b, b]`
/// - output: `[m, d_input]`
///
/// # Panics
/// If a shape or data type does not fit.
pub fn spmm_t(dy: Tensor<2>, values: Tensor<3>, pattern: &BlockPattern) -> Tensor<2> {
    let (dy, values) = (plain(dy), dequantized(values, pattern));
    check_cols("dy", &dy, pattern.shape().cols());
    check_values(&values, pattern);
    check_dtypes(dy.dtype(), values.dtype());
    let (dy, values) = (dy.into_dispatch(), values.into_dispatch());
    Tensor::from_dispatch(Dispatch::spmm_t(dy, values, pattern.clone()))
}

/// `xᵀ · dy` at the kept blocks, the weight gradient of [`spmm`]. Not differentiable itself.
///
/// # Shapes
/// - `x`: `[m, d_input]`, `dy`: `[m, d_output]`
/// - output: `[nnz, b, b]`
///
/// # Panics
/// If a shape or data type does not fit.
pub fn sddmm(x: Tensor<2>, dy: Tensor<2>, pattern: &BlockPattern) -> Tensor<3> {
    let (x, dy) = outer_operands(x, dy, pattern);
    let (x, dy) = (x.into_dispatch(), dy.into_dispatch());
    Tensor::from_dispatch(Dispatch::sddmm(x, dy, pattern.clone()))
}

/// Frobenius norm of each block. Not differentiable.
///
/// # Shapes
/// - `values`: `[nnz, b, b]`
/// - output: `[nnz]`
///
/// # Panics
/// If `values` does not fit the pattern.
pub fn block_norms(values: Tensor<3>, pattern: &BlockPattern) -> Tensor<1> {
    let values = dequantized(values, pattern);
    check_values(&values, pattern);
    Tensor::from_dispatch(Dispatch::block_norms(values.into_dispatch(), pattern.clone()))
}

/// Frobenius norm of every block of a dense weight, by block number, on the host.
///
/// # Shapes
/// - `dense`: `[d_input, d_output]`
///
/// # Panics
/// If the weight has no elements.
pub fn dense_block_norms(dense: Tensor<2>, block: BlockSize) -> Vec<f32> {
    let [rows, cols] = dense.dims();
    let shape = MatrixShape::new(rows, cols).expect("a weight has elements");
    let full = BlockPattern::dense(shape, block);
    // In half precision most blocks of a layer would have the same norm.
    let by_slot = block_norms(pack(dense, &full).cast(DType::F32), &full).into_data();
    by_block(&full, by_slot.iter())
}

/// Numbers of the kept blocks by block number, and zero for the others, from numbers by slot.
pub(crate) fn by_block(pattern: &BlockPattern, by_slot: impl IntoIterator<Item = f32>) -> Vec<f32> {
    let mut numbers = vec![0.0; pattern.block_count()];
    for ((row, col), number) in pattern.blocks().zip(by_slot) {
        numbers[row * pattern.block_cols() + col] = number;
    }
    numbers
}

/// Frobenius norm of every block of `xᵀ · dy`, kept or absent. Not differentiable.
///
/// # Shapes
/// - `x`: `[m, d_input]`, `dy`: `[m, d_output]`
/// - output: `[block_rows, block_cols]`
///
/// # Panics
/// If a shape or data type does not fit.
pub fn grad_block_norms(x: Tensor<2>, dy: Tensor<2>, pattern: &BlockPattern) -> Tensor<2> {
    let (x, dy) = outer_operands(x, dy, pattern);
    let (x, dy) = (x.into_dispatch(), dy.into_dispatch());
    Tensor::from_dispatch(Dispatch::grad_block_norms(x, dy, pattern.clone()))
}

/// Gathers the kept blocks of a dense weight.
///
/// # Shapes
/// - `dense`: `[d_input, d_output]`
/// - output: `[nnz, b, b]`
///
/// # Panics
/// If `dense` does not have the pattern's shape.
pub fn pack(dense: Tensor<2>, pattern: &BlockPattern) -> Tensor<3> {
    let dense = plain(dense);
    check_dims("the dense weight", dense.dims(), [pattern.shape().rows(), pattern.shape().cols()]);
    Tensor::from_dispatch(Dispatch::pack(dense.into_dispatch(), pattern.clone()))
}

/// Scatters packed values into a dense weight, zero elsewhere.
///
/// # Shapes
/// - `values`: `[nnz, b, b]`
/// - output: `[d_input, d_output]`
///
/// # Panics
/// If `values` does not fit the pattern.
pub fn unpack(values: Tensor<3>, pattern: &BlockPattern) -> Tensor<2> {
    let values = dequantized(values, pattern);
    check_values(&values, pattern);
    Tensor::from_dispatch(Dispatch::unpack(values.into_dispatch(), pattern.clone()))
}

/// Gathers the slots of a tensor of `[nnz, ..]` for another pattern, on the device. A block without source is zero.
pub(crate) fn gather<const D: usize>(tensor: Tensor<D>, sources: &[Option<u32>]) -> Tensor<D> {
    let mut dims = tensor.dims();
    let (device, dtype) = (tensor.device(), tensor.dtype());
    let (old, width) = (dims[0], dims[1..].iter().product::<usize>());
    dims[0] = sources.len();
    if sources.iter().all(Option::is_none) {
        return Tensor::zeros(dims, (&device, dtype));
    }
    // One row of zeros after the old slots serves every new block.
    let zero = Tensor::<2>::zeros([1, width], (&device, dtype));
    let padded = Tensor::cat(vec![tensor.reshape([old, width]), zero], 0);
    let index: Vec<i32> =
        sources.iter().map(|slot| slot.map_or(old as i32, |at| at as i32)).collect();
    let index = TensorData::new(index, [sources.len()]);
    let index = Tensor::<1, Int>::from_data(index, (&device, DType::I32));
    padded.select(0, index).reshape(dims)
}

fn operands(x: Tensor<2>, values: Tensor<3>, pattern: &BlockPattern) -> (Tensor<2>, Tensor<3>) {
    let (x, values) = (plain(x), dequantized(values, pattern));
    check_cols("x", &x, pattern.shape().rows());
    check_values(&values, pattern);
    check_dtypes(x.dtype(), values.dtype());
    (x, values)
}

fn outer_operands(x: Tensor<2>, dy: Tensor<2>, pattern: &BlockPattern) -> (Tensor<2>, Tensor<2>) {
    let (x, dy) = (plain(x), plain(dy));
    check_cols("x", &x, pattern.shape().rows());
    check_cols("dy", &dy, pattern.shape().cols());
    check_dtypes(x.dtype(), dy.dtype());
    assert!(
        x.dims()[0] == dy.dims()[0],
        "x has {} rows and dy has {}: they must come from the same call",
        x.dims()[0],
        dy.dims()[0]
    );
    (x, dy)
}

/// The tensor, dequantised if it is quantised.
fn plain<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.dtype() {
        DType::QFloat(_) => tensor.dequantize(),
        _ => tensor,
    }
}

fn check_cols(name: &str, tensor: &Tensor<2>, expected: usize) {
    let found = tensor.dims()[1];
    assert!(found == expected, "{name} has {found} columns, but the pattern needs {expected}");
}

fn check_values(values: &Tensor<3>, pattern: &BlockPattern) {
    let b = pattern.block().get();
    check_dims("the packed values", values.dims(), [pattern.nnz(), b, b]);
}

fn check_bias(bias: &Tensor<1>, dtype: DType, pattern: &BlockPattern) {
    check_dims("bias", bias.dims(), [pattern.shape().cols()]);
    check_dtypes(dtype, bias.dtype());
}

fn check_dims<const D: usize>(name: &str, found: [usize; D], expected: [usize; D]) {
    assert!(found == expected, "{name} must have shape {expected:?}, but has {found:?}");
}

fn check_dtypes(a: DType, b: DType) {
    assert!(a == b, "tensors of {a:?} and {b:?} cannot be multiplied: cast one of them");
}
