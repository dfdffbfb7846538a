//! Weights of 8- and 4-bit integers, for inference.
//!
//! Both are tensors of Burn's quantised type. 8-bit integers are what Burn means by it. Burn's CPU backend stores a 4-bit integer in a
//! byte, so two of them are one of its elements here, and what it calls scales are the words of
//! [`cpu::quantize_int4`]: only the functions of this module and the kernels read such a tensor.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::quantization::{
    BlockSize as QuantBlock, Calibration, QuantMode, QuantScheme, QuantStore, QuantValue,
    ScaleDtype, compute_q_params, compute_range, quantized_data_len,
};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};
use burn_blast_kernels::{BlockPattern, BlockSize, cpu};

use crate::backends::{has_int4, is_host};
use crate::error::LayerError;
use crate::ops::packed;
use crate::window::{self, weights};

/// Integers that [`quantize`] rounds weights to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integer {
    /// 8 bits, and one f32 scale per block: a quarter of the bytes of f32. The largest value of a block becomes ±127 steps, and
    /// each value is off by at most half a step.
    Int8,
    /// 4 bits, with a low end and a step in bf16 for each column of 32 rows of a block, or of all rows of a smaller one: 5 bits for a
    /// value in blocks of 32 and larger, 6 in blocks of 16, 8 in blocks of 8. On [`Device::flex`] alone. As the type Q4_1
    /// of llama.cpp, but that low end and step are chosen for the least sum of squares of errors.
    Int4,
}

impl Integer {
    /// Bits of a value, without scales.
    pub fn bits(self) -> u32 {
        match self {
            Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }
}

/// Rounds every block-sparse weight of a model to integers.
///
/// The values become tensors of Burn's own quantised type. Products with few rows read the integers; other products may
/// dequantise them first. The patterns and the other parameters of the model do not change. The weight is frozen:
/// gradients pass through it to adapters and to the layers before it, and [`Blast`](crate::prune::Blast) refuses to
/// prune it. A weight that keeps no block does not change.
///
/// # Errors
/// If the model has no block-sparse weight, or is on a device without these integers.
///
/// # Example
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_blast::module::{BlockSparseLinearConfig, Integer, quantize};
///
/// let device = Device::flex();
/// let layer = BlockSparseLinearConfig::new(64, 128).with_sparsity(0.75).init(&device);
/// let small = quantize(layer.clone(), Integer::Int8)?;
/// assert!(small.bytes() < layer.bytes() / 3);
/// assert!(quantize(layer, Integer::Int4)?.bytes() < small.bytes());
/// assert_eq!(small.forward(Tensor::<2>::ones([1, 64], &device)).dims(), [1, 128]);
/// # Ok::<(), burn_blast::module::LayerError>(())
/// ```
pub fn quantize<M: Module>(model: M, integer: Integer) -> Result<M, LayerError> {
    if weights(&model).is_empty() {
        return Err(LayerError::NothingToQuantize);
    }
    if integer == Integer::Int4 && !model.devices().iter().all(has_int4) {
        return Err(LayerError::NoInt4);
    }
    Ok(model.map(&mut Rounding(integer)))
}

/// One scale per block, stored as the backend of the device stores it.
fn int8_scheme(block: BlockSize, device: &Device) -> QuantScheme {
    QuantScheme::default()
        .with_value(QuantValue::Q8S)
        .with_store(store(device))
        .per_block([side(block); 2], ScaleDtype::F32)
}

/// Of `[nnz, b / 2, b]` elements of two integers each.
fn int4_scheme(block: BlockSize) -> QuantScheme {
    QuantScheme::default()
        .with_value(QuantValue::Q4S)
        .with_store(QuantStore::Native)
        .per_block(int4_block(block), ScaleDtype::F32)
}

/// Elements of two integers that share a scale.
fn int4_block(block: BlockSize) -> [u8; 2] {
    [(cpu::int4_group(block.get()) / 2) as u8, 1]
}

/// GPUs read four integers at a time.
fn store(device: &Device) -> QuantStore {
    if is_host(device) { QuantStore::Native } else { QuantStore::PackedU32(0) }
}

fn side(block: BlockSize) -> u8 {
    u8::try_from(block.get()).expect("a block is at most 128 on a side")
}

/// Whether values of this type are integers as [`quantize`] makes them, in a file or in the storage of any backend.
pub(crate) fn is_integer(dtype: DType, block: BlockSize) -> bool {
    is_int8(dtype, block) || is_int4(dtype, block)
}

/// Whether they have 4 bits.
pub(crate) fn is_int4(dtype: DType, block: BlockSize) -> bool {
    dtype == DType::QFloat(int4_scheme(block))
}

/// Shape of the values of a type.
pub(crate) fn stored_shape(dtype: DType, pattern: &BlockPattern) -> Shape {
    let mut shape = packed(pattern);
    if is_int4(dtype, pattern.block()) {
        shape[1] /= 2;
    }
    shape
}

/// The integers of a file for a device: those without 4-bit integers get floats.
pub(crate) fn readable(data: TensorData, pattern: &BlockPattern, device: &Device) -> TensorData {
    match is_int4(data.dtype(), pattern.block()) && !has_int4(device) {
        true => from_int4(data, pattern),
        false => data,
    }
}

/// Quantised values as floats.
pub(crate) fn dequantized<const D: usize>(values: Tensor<D>, pattern: &BlockPattern) -> Tensor<D> {
    match is_int4(values.dtype(), pattern.block()) {
        true => {
            let device = values.device();
            Tensor::from_data(from_int4(values.into_data(), pattern), (&device, DType::F32))
        }
        false => values.dequantize(),
    }
}

/// The elements, and their scales behind them, as floats.
fn from_int4(data: TensorData, pattern: &BlockPattern) -> TensorData {
    let (bytes, scales) = data.bytes()[..].split_at(pattern.value_count() / 2);
    let word = |bytes: &[u8; 4]| u32::from_ne_bytes(*bytes);
    let scales: Vec<u32> = scales.as_chunks::<4>().0.iter().map(word).collect();
    let values = cpu::dequantize_int4(bytemuck::cast_slice(bytes), &scales, pattern.block());
    TensorData::new(values, packed(pattern))
}

/// Floats `[nnz, b, b]` as elements of two integers each.
fn to_int4<const D: usize>(values: Tensor<D>, block: BlockSize) -> Tensor<D> {
    let (device, b) = (values.device(), block.get());
    let values = values.into_data();
    let values = values.as_slice::<f32>().expect("the caller's are f32");
    let (bytes, scales) = cpu::quantize_int4(values, block);
    let shape = [values.len() / (b * b), b / 2, b];
    let scales: &[f32] = bytemuck::cast_slice(&scales);
    let data = TensorData::quantized(bytes, shape, int4_scheme(block), scales, None);
    let dtype = data.dtype();
    Tensor::from_data(data, (&device, dtype))
}

fn to_int8<const D: usize>(values: Tensor<D>, block: BlockSize) -> Tensor<D> {
    let scheme = int8_scheme(block, &values.device());
    let range = compute_range(&scheme, &values, &Calibration::MinMax);
    let mut params = compute_q_params(&scheme, range);
    // A block of zeros divides by its scale like any other.
    params.scales = params.scales.clamp_min(f32::MIN_POSITIVE);
    values.quantize(&scheme, params)
}

/// Whether values of this type are 8-bit integers with one f32 scale per block.
pub(crate) fn is_int8(dtype: DType, block: BlockSize) -> bool {
    let DType::QFloat(found) = dtype else { return false };
    // All fields are compared: a scheme from a file may be in no valid state.
    let of_block = QuantBlock::new([side(block); 2]);
    matches!(found.value, QuantValue::Q8S | QuantValue::Q8F)
        && matches!(found.store, QuantStore::Native | QuantStore::PackedU32(0))
        && found.mode == QuantMode::Symmetric
        && found.tensor_scale().is_none()
        && found.scale_dtype() == ScaleDtype::F32
        && found.block_size() == Some(of_block)
}

/// The type that quantised values of a file take on a device. The bytes are the same for every backend.
pub(crate) fn as_loaded(dtype: DType, device: &Device) -> DType {
    match dtype {
        DType::QFloat(scheme) if scheme.value != QuantValue::Q4S => {
            DType::QFloat(scheme.with_store(store(device)))
        }
        dtype => dtype,
    }
}

/// Bytes of packed values of a type, with their scales.
pub(crate) fn value_bytes(dtype: DType, pattern: &BlockPattern) -> usize {
    match dtype {
        DType::QFloat(scheme) => quantized_data_len(&scheme, &stored_shape(dtype, pattern)),
        dtype => pattern.value_count() * dtype.size(),
    }
}

/// Rounds the values of weights.
struct Rounding(Integer);

impl ModuleMapper for Rounding {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(weight) = window::values() else { return param };
        // Nothing is left to prune.
        window::request(|request| request.probe = Some(false));
        let (pattern, integer) = (&weight.pattern, self.0);
        if pattern.nnz() == 0 {
            return param;
        }
        param.map(|values| {
            let values = dequantized(values, pattern).cast(DType::F32);
            match integer {
                Integer::Int8 => to_int8(values, pattern.block()),
                Integer::Int4 => to_int4(values, pattern.block()),
            }
        })
    }
}
