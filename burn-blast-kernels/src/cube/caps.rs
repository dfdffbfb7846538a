//! What a device offers.

use std::collections::BTreeSet;

use cubecl::features::MmaConfig;
use cubecl::ir::{AddressType, DeviceProperties, ElemType, FloatKind};

use super::error::CubeError;

/// Rows, columns and contraction of the `mma` instruction that the tensor-core kernels use.
pub(super) const MMA: [usize; 3] = [16, 8, 16];
/// Side and contraction of the cooperative matrices of 16-bit types, best first.
const HALF_MATRICES: &[[usize; 2]] = &[[16, 16], [8, 8]];
/// Side and contraction of the cooperative matrices of TF32.
const TF32_MATRICES: &[[usize; 2]] = &[[16, 8]];

/// Capabilities of a device for kernels on one data type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caps {
    /// Storage type of the tensors.
    pub dtype: ElemType,
    /// The instruction [`MMA`] on this type with sums in f32.
    pub mma: bool,
    /// Loads of instruction fragments from shared memory.
    pub ldmatrix: bool,
    /// Cooperative matrices that multiply this type, with sums in f32.
    pub cmma: Option<MatrixKind>,
    /// Asynchronous copies to shared memory.
    pub copy_async: bool,
    /// Units of a plane, unless that varies.
    pub plane: Option<usize>,
    /// Most units of a cube.
    pub max_units: usize,
    /// Most shared memory of a cube, in bytes.
    pub shared_bytes: usize,
    /// Most elements of a vector.
    pub vector: usize,
    /// Most buffers of a kernel, not counting the one that CubeCL adds.
    pub bindings: usize,
    /// Number of multiprocessors, where the device reports it.
    pub compute_units: Option<usize>,
    /// Most cubes of a launch.
    pub cubes: u64,
    /// Most elements of a tensor.
    pub elements: u64,
    /// Bytes of the last-level cache, where the device reports them.
    pub cache: Option<usize>,
}

/// The cooperative matrices of one instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct MatrixKind {
    /// Rows and columns of its result, in f32.
    pub side: usize,
    /// Its contraction.
    pub depth: usize,
    /// Type of the factors, to which tensors are converted on their way to shared memory: TF32 for f32, otherwise
    /// their own.
    pub element: ElemType,
}

impl MatrixKind {
    /// Whether the factors are f32 rounded to TF32.
    pub(super) fn is_tf32(&self) -> bool {
        self.element == ElemType::Float(FloatKind::TF32)
    }
}

impl Caps {
    /// The capabilities of a device with these properties. f32 has cooperative matrices only with `tf32`.
    pub(super) fn new(properties: &DeviceProperties, dtype: ElemType, tf32: bool) -> Self {
        let (features, hardware) = (&properties.features, &properties.hardware);
        let fixed = hardware.plane_size_min == hardware.plane_size_max;
        let (x, y, z) = hardware.max_cube_count;
        let wide = properties.supports_address(AddressType::U64);
        Self {
            dtype,
            mma: features.matmul.mma.contains(&config(dtype, MMA)),
            ldmatrix: features.matmul.ldmatrix.contains(&dtype),
            cmma: matrix_kind(&features.matmul.cmma, dtype, tf32),
            copy_async: features.copy_async,
            plane: fixed.then_some(hardware.plane_size_min as usize),
            max_units: hardware.max_units_per_cube as usize,
            shared_bytes: hardware.max_shared_memory_size,
            vector: hardware.max_vector_size,
            bindings: hardware.max_bindings as usize,
            compute_units: hardware
                .num_streaming_multiprocessors
                .filter(|&count| count > 1)
                .map(|count| count as usize),
            // CubeCL 0.11 spreads a count of 32 bits over the three dimensions.
            cubes: [x, y, z]
                .into_iter()
                .map(u64::from)
                .fold(1, u64::saturating_mul)
                .min(u32::MAX.into()),
            elements: if wide { u64::MAX } else { u32::MAX.into() },
            cache: hardware.last_level_cache_size,
        }
    }

    /// Whether any instruction multiplies matrices of this type.
    pub(super) fn has_tensor_cores(&self) -> bool {
        self.mma || self.cmma.is_some()
    }
}

/// The type that tensors of `dtype` are stored as. `Flex32` is stored as `F32`.
///
/// # Errors
/// If there are no kernels for the type.
pub(super) fn storage_type(dtype: ElemType) -> Result<ElemType, CubeError> {
    match dtype {
        ElemType::Float(FloatKind::F32 | FloatKind::F16 | FloatKind::BF16) => Ok(dtype),
        ElemType::Float(FloatKind::Flex32) => Ok(ElemType::Float(FloatKind::F32)),
        found => Err(CubeError::DataType { found }),
    }
}

/// `a` and `b` of this type, sums in f32.
fn config(element: ElemType, [m, n, k]: [usize; 3]) -> MmaConfig {
    let [m, n, k] = [m, n, k].map(|side| side as u32);
    let cd_type = ElemType::Float(FloatKind::F32);
    MmaConfig { a_type: element, b_type: element, cd_type, m, n, k }
}

/// The best of the listed cooperative matrices for tensors of `dtype`; for f32 the ones of TF32, if that is allowed.
fn matrix_kind(listed: &BTreeSet<MmaConfig>, dtype: ElemType, tf32: bool) -> Option<MatrixKind> {
    let (element, matrices) = match dtype {
        ElemType::Float(FloatKind::F16 | FloatKind::BF16) => (dtype, HALF_MATRICES),
        ElemType::Float(FloatKind::F32) if tf32 => {
            (ElemType::Float(FloatKind::TF32), TF32_MATRICES)
        }
        _ => return None,
    };
    let kinds = matrices.iter().map(|&[side, depth]| MatrixKind { side, depth, element });
    kinds
        .into_iter()
        .find(|kind| listed.contains(&config(element, [kind.side, kind.side, kind.depth])))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const F16: ElemType = ElemType::Float(FloatKind::F16);
    const F32: ElemType = ElemType::Float(FloatKind::F32);
    /// 16 x 16 x 16 in f16, as in CUDA and Vulkan.
    pub(crate) const F16_BY_16: MatrixKind = MatrixKind { side: 16, depth: 16, element: F16 };
    /// 8 x 8 x 8 in f16, as in Metal.
    pub(crate) const F16_BY_8: MatrixKind = MatrixKind { side: 8, depth: 8, element: F16 };
    /// 16 x 16 x 8 in TF32, as in CUDA.
    pub(crate) const TF32: MatrixKind =
        MatrixKind { side: 16, depth: 8, element: ElemType::Float(FloatKind::TF32) };

    /// Ampere for f16 as CubeCL describes it.
    pub(crate) const AMPERE: Caps = Caps {
        dtype: F16,
        mma: true,
        ldmatrix: true,
        cmma: Some(F16_BY_16),
        copy_async: true,
        plane: Some(32),
        max_units: 1024,
        shared_bytes: 166_912,
        vector: 1024,
        bindings: 1024,
        compute_units: Some(108),
        cubes: u32::MAX as u64,
        elements: u64::MAX,
        cache: None,
    };

    /// Ampere for f32 where TF32 is allowed.
    pub(crate) const AMPERE_F32: Caps =
        Caps { dtype: F32, mma: false, ldmatrix: false, cmma: Some(TF32), ..AMPERE };

    /// Apple's GPUs for f16, as CubeCL's Metal runtime describes them.
    pub(crate) const APPLE: Caps = Caps {
        mma: false,
        ldmatrix: false,
        cmma: Some(F16_BY_8),
        copy_async: false,
        shared_bytes: 32_768,
        vector: 4,
        bindings: 30,
        compute_units: None,
        ..AMPERE
    };

    /// A Vulkan driver with 16 x 16 x 16 and planes of 64 units.
    pub(crate) const VULKAN: Caps = Caps { cmma: Some(F16_BY_16), plane: Some(64), ..APPLE };

    /// The defaults of WebGPU for f32. It promises eight buffers, of which CubeCL takes one.
    pub(crate) const WEBGPU: Caps = Caps {
        dtype: F32,
        cmma: None,
        plane: None,
        max_units: 256,
        shared_bytes: 16_384,
        bindings: 7,
        elements: u32::MAX as u64,
        ..APPLE
    };

    #[test]
    fn matrices_follow_the_type_the_device_and_for_f32_the_switch() {
        let float = ElemType::Float;
        let cuda = BTreeSet::from([config(F16, [16; 3]), config(TF32.element, [16, 16, 8])]);
        let metal = BTreeSet::from([config(F16, [8; 3]), config(F32, [8; 3])]);
        let table = [
            ("f16 on CUDA", &cuda, F16, false, Some(F16_BY_16)),
            ("f16 on Metal", &metal, F16, true, Some(F16_BY_8)),
            ("bf16 where it is not listed", &metal, float(FloatKind::BF16), true, None),
            ("f32 on CUDA", &cuda, F32, false, None),
            ("f32 on CUDA, TF32 allowed", &cuda, F32, true, Some(TF32)),
            ("f32 on Metal, TF32 allowed", &metal, F32, true, None),
            ("f64", &cuda, float(FloatKind::F64), true, None),
        ];
        for (name, listed, dtype, allowed, want) in table {
            assert_eq!(matrix_kind(listed, dtype, allowed), want, "{name}");
        }
    }

    #[test]
    fn flex32_is_stored_as_f32_and_f64_is_refused_with_advice() {
        assert_eq!(storage_type(ElemType::Float(FloatKind::Flex32)), Ok(F32));
        let error = storage_type(ElemType::Float(FloatKind::F64)).unwrap_err();
        assert!(error.to_string().contains("cast the weight and its input"), "{error}");
    }
}
