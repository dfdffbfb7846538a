//! Weights of 8-bit integers, for inference.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::quantization::{
    BlockSize as QuantBlock, Calibration, QuantMode, QuantScheme, QuantStore, QuantValue,
    ScaleDtype, compute_q_params, compute_range, quantized_data_len,
};
use burn::tensor::{DType, Device, Tensor};
use burn_blast_kernels::{BlockPattern, BlockSize};

use crate::backends::is_host;
use crate::error::LayerError;
use crate::ops::packed;
use crate::window::{self, weights};

/// Rounds every block-sparse weight of a model to 8-bit integers, with one f32 scale per block: a quarter of the
/// bytes.
///
/// The values become tensors of Burn's own quantised type. Products with few rows read the integers; other products may
/// dequantise them first. The patterns and the other parameters of the model do not change. The weight is frozen:
/// gradients pass through it to adapters and to the layers before it, and [`Blast`](crate::prune::Blast) refuses to
/// prune it. The largest value of a block becomes ±127 steps, and each value is off by at most half a step. A weight
/// that keeps no block does not change.
///
/// # Errors
/// If the model has no block-sparse weight.
///
/// # Example
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_blast::module::{BlockSparseLinearConfig, quantize};
///
/// let device = Device::flex();
/// let layer = BlockSparseLinearConfig::new(64, 128).with_sparsity(0.75).init(&device);
/// let small = quantize(layer.clone())?;
/// assert!(small.bytes() < layer.bytes() / 3);
/// assert_eq!(small.forward(Tensor::<2>::ones([1, 64], &device)).dims(), [1, 128]);
/// # Ok::<(), burn_blast::module::LayerError>(())
/// ```
pub fn quantize<M: Module>(model: M) -> Result<M, LayerError> {
    if weights(&model).is_empty() {
        return Err(LayerError::NothingToQuantize);
    }
    Ok(model.map(&mut Int8))
}

/// One scale per block, stored as the backend of the device stores it.
fn scheme(block: BlockSize, device: &Device) -> QuantScheme {
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

/// Whether values of this type are integers with one f32 scale per block, as [`quantize`] makes them, in a file or in
/// the storage of any backend.
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
        DType::QFloat(scheme) => DType::QFloat(scheme.with_store(store(device))),
        dtype => dtype,
    }
}

/// Bytes of packed values of a type, with their scales.
pub(crate) fn value_bytes(dtype: DType, pattern: &BlockPattern) -> usize {
    match dtype {
        DType::QFloat(scheme) => quantized_data_len(&scheme, &packed(pattern)),
        dtype => pattern.value_count() * dtype.size(),
    }
}

struct Int8;

impl ModuleMapper for Int8 {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(weight) = window::values() else { return param };
        // Nothing is left to prune.
        window::request(|request| request.probe = Some(false));
        if weight.pattern.nnz() == 0 {
            return param;
        }
        param.map(|values| {
            let values = values.dequantize().cast(DType::F32);
            let scheme = scheme(weight.pattern.block(), &values.device());
            let range = compute_range(&scheme, &values, &Calibration::MinMax);
            let mut params = compute_q_params(&scheme, range);
            // A block of zeros divides by its scale like any other.
            params.scales = params.scales.clamp_min(f32::MIN_POSITIVE);
            values.quantize(&scheme, params)
        })
    }
}
