//! Weights of 8- and 4-bit integers, for inference.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::quantization::{
    BlockSize as QuantBlock, Calibration, QuantMode, QuantScheme, QuantStore, QuantValue,
    ScaleDtype, compute_q_params, compute_range, quantized_data_len,
};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData, f16};
use burn_blast_kernels::{BlockPattern, BlockSize, cpu};

use crate::backends::{has_int4, is_host};
use crate::error::LayerError;
use crate::int4::{before_int4, int4_scheme, int4_shape, is_int4};
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
/// prune it. A weight that keeps no block does not change. All values must be finite. Burn counts the parameters of a weight of 4-bit
/// integers by its bytes.
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

/// GPUs read four integers at a time.
fn store(device: &Device) -> QuantStore {
    if is_host(device) { QuantStore::Native } else { QuantStore::PackedU32(0) }
}

fn side(block: BlockSize) -> u8 {
    u8::try_from(block.get()).expect("a block is at most 128 on a side")
}

/// Whether values of this type and shape are integers as [`quantize`] makes them, in a file or in the storage of any backend.
pub(crate) fn is_integer(dtype: DType, shape: &[usize], block: BlockSize) -> bool {
    match *shape {
        [_, rows, cols] if [rows, cols] == [block.get(); 2] => is_int8(dtype, block),
        [_, 1, len] => len == cpu::int4_block_len(block) && before_int4(dtype).is_some(),
        _ => false,
    }
}

/// Shape of the values of a pattern, if they have this type and shape now.
pub(crate) fn stored_shape(dtype: DType, shape: &[usize], pattern: &BlockPattern) -> Shape {
    if is_int4(dtype, shape) { int4_shape(pattern) } else { packed(pattern) }
}

/// The integers of a file for a device: those without 4-bit integers get floats.
pub(crate) fn readable(data: TensorData, pattern: &BlockPattern, device: &Device) -> TensorData {
    match is_int4(data.dtype(), data.shape()) && !has_int4(device) {
        true => from_int4(data, pattern),
        false => data,
    }
}

/// Values as floats.
pub(crate) fn dequantized<const D: usize>(values: Tensor<D>, pattern: &BlockPattern) -> Tensor<D> {
    let dtype = values.dtype();
    if is_int4(dtype, &values.dims()) {
        let device = values.device();
        let data = from_int4(values.into_data(), pattern);
        let float = data.dtype();
        return Tensor::from_data(data, (&device, float));
    }
    if matches!(dtype, DType::QFloat(_)) { values.dequantize() } else { values }
}

/// The bytes, which the scale follows, as floats of the type before.
fn from_int4(data: TensorData, pattern: &BlockPattern) -> TensorData {
    let float = before_int4(data.dtype()).expect("the caller asked for 4-bit integers");
    let len = data.shape().num_elements();
    let mut values = cpu::dequantize_int4(bytemuck::cast_slice(&data.bytes()[..len]), pattern);
    if float == DType::F16 {
        // The low end of a range is rounded to bf16, which may be beyond.
        let largest = f16::MAX.to_f32();
        values.iter_mut().for_each(|value| *value = value.clamp(-largest, largest));
    }
    TensorData::new(values, packed(pattern)).convert_dtype(float)
}

/// Floats of a type as the bytes of 4-bit integers.
fn to_int4<const D: usize>(values: Tensor<D>, pattern: &BlockPattern) -> Tensor<D> {
    let (device, float) = (values.device(), values.dtype());
    let values = values.into_data().convert::<f32>();
    let values = values.as_slice::<f32>().expect("converted to f32 just above");
    let bytes = cpu::quantize_int4(values, pattern);
    let data = TensorData::quantized(bytes, int4_shape(pattern), int4_scheme(float), &[1.0], None);
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
        DType::QFloat(scheme) => match before_int4(dtype) {
            Some(_) => quantized_data_len(&scheme, &int4_shape(pattern)),
            None => quantized_data_len(&scheme, &packed(pattern)),
        },
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
            let values = dequantized(values, pattern).cast(weight.float);
            match integer {
                Integer::Int8 => to_int8(values.cast(DType::F32), pattern.block()),
                Integer::Int4 => to_int4(values, pattern),
            }
        })
    }
}
