//! What a device offers, and which class of kernel a product gets there.

use std::collections::BTreeSet;

use cubecl::features::MmaConfig;
use cubecl::ir::{AddressType, DeviceProperties, ElemType, FloatKind};
use cubecl::prelude::Client;

use super::tile::{INSTRUCTION_COLS, INSTRUCTION_DEPTH, INSTRUCTION_ROWS, PLANE, WIDE};
use super::{sddmm, spmm};
use crate::BlockSize;
use crate::cost::DeviceClass;
use crate::cube::call::storage_type;
use crate::cube::cmma::base::{self as cmma, MatrixKind};
use crate::cube::tf32::tf32_allowed;

/// The facts about a device that decide on a kernel, for one data type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    /// `m16n8k16` on this type with sums in f32.
    pub mma: bool,
    /// Loads of instruction fragments from shared memory.
    pub ldmatrix: bool,
    /// Cooperative matrices that multiply this type, with sums in f32.
    pub cmma: Option<MatrixKind>,
    /// Copies to shared memory that run on their own.
    pub copy_async: bool,
    /// Units of a plane; zero if that varies.
    pub plane: usize,
    /// Most units of a cube.
    pub max_units: usize,
    /// Most shared memory of a cube, in bytes.
    pub shared_bytes: usize,
    /// Most buffers of a kernel, CubeCL's own not counted.
    pub bindings: usize,
    /// Cubes that run side by side at the least: the number of multiprocessors, 1 if unknown.
    pub compute_units: usize,
}

/// Kinds of kernel, by what they ask of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Register tiles; runs everywhere.
    Unit,
    /// Tensor cores.
    Mma {
        /// With copies that run ahead.
        pipelined: bool,
    },
    /// Tensor cores through cooperative matrices.
    Cmma(MatrixKind),
}

/// Units of a plane that the kernels on cooperative matrices are laid out for.
const CMMA_PLANES: [usize; 2] = [32, 64];
/// Side and contraction of the cooperative matrices of 16-bit types, best first.
const HALF_SHAPES: &[[usize; 2]] = &[[16, 16], [8, 8]];
/// Those of TF32.
const TF32_SHAPES: &[[usize; 2]] = &[[16, 8]];

impl Offer {
    /// What a device with these properties offers for `dtype`. f32 has cooperative matrices only with `tf32`.
    pub fn of(properties: &DeviceProperties, dtype: ElemType, tf32: bool) -> Self {
        let (features, hardware) = (&properties.features, &properties.hardware);
        let mma = config(dtype, [INSTRUCTION_ROWS, INSTRUCTION_COLS, INSTRUCTION_DEPTH]);
        let fixed = hardware.plane_size_min == hardware.plane_size_max;
        Self {
            mma: features.matmul.mma.contains(&mma),
            ldmatrix: features.matmul.ldmatrix.contains(&dtype),
            cmma: matrix_kind(&features.matmul.cmma, dtype, tf32),
            copy_async: features.copy_async,
            plane: if fixed { hardware.plane_size_min as usize } else { 0 },
            max_units: hardware.max_units_per_cube as usize,
            shared_bytes: hardware.max_shared_memory_size,
            bindings: hardware.max_bindings as usize,
            compute_units: hardware.num_streaming_multiprocessors.unwrap_or(1) as usize,
        }
    }

    fn has_cores(&self) -> bool {
        self.mma || self.cmma.is_some()
    }
}

/// `a` and `b` of this type, sums in f32.
fn config(element: ElemType, [m, n, k]: [usize; 3]) -> MmaConfig {
    let [m, n, k] = [m, n, k].map(|side| side as u32);
    let cd_type = ElemType::Float(FloatKind::F32);
    MmaConfig { a_type: element, b_type: element, cd_type, m, n, k }
}

/// The best of the listed cooperative matrices for tensors of `dtype`; for f32 those of TF32, if that is allowed.
fn matrix_kind(listed: &BTreeSet<MmaConfig>, dtype: ElemType, tf32: bool) -> Option<MatrixKind> {
    let (element, shapes) = match dtype {
        ElemType::Float(FloatKind::F16 | FloatKind::BF16) => (dtype, HALF_SHAPES),
        ElemType::Float(FloatKind::F32) if tf32 => (ElemType::Float(FloatKind::TF32), TF32_SHAPES),
        _ => return None,
    };
    let kinds = shapes.iter().map(|&[side, depth]| MatrixKind { side, depth, element });
    kinds
        .into_iter()
        .find(|kind| listed.contains(&config(element, [kind.side, kind.side, kind.depth])))
}

/// What the cost model has to know about products of this type on the device. Burn's dense product in f32 is TF32
/// wherever the device has it; the sparse one only if [`allow_tf32`](crate::cube::allow_tf32) says so.
pub fn device_class(client: &Client, dtype: ElemType) -> DeviceClass {
    let Ok(dtype) = storage_type(dtype) else { return DeviceClass::Gpu };
    let [dense, sparse] =
        [true, tf32_allowed()].map(|tf32| Offer::of(client.properties(), dtype, tf32));
    cost_class(&dense, &sparse)
}

/// The same by what is offered to either product. The sparse one has tensor cores if blocks of any size take them, in
/// a weight whose sides all kernels take.
fn cost_class(dense: &Offer, sparse: &Offer) -> DeviceClass {
    let taken = |block| class(sparse, block, [WIDE; 2], AddressType::U32) != Class::Unit;
    match (dense.has_cores(), BlockSize::ALL.into_iter().any(taken)) {
        (_, true) => DeviceClass::TensorCores,
        (true, false) => DeviceClass::DenseTensorCores,
        (false, false) => DeviceClass::Gpu,
    }
}

/// The class of kernel for a product whose tensors have lines of `sides` elements, with indices of this
/// width. Copies that run ahead take 32 bits: with 64, CubeCL 0.11 writes a `cp.async` that does not assemble.
pub(crate) fn class(
    offer: &Offer,
    block: BlockSize,
    sides: [usize; 2],
    address: AddressType,
) -> Class {
    let aligned = sides.iter().all(|side| side.is_multiple_of(WIDE));
    let cores = offer.mma && offer.ldmatrix && offer.plane == PLANE && offer.max_units >= 256;
    let pipelined = offer.copy_async && address == AddressType::U32;
    if cores && aligned && block.get() >= 32 && has_room(offer, block, pipelined) {
        return Class::Mma { pipelined };
    }
    let fits = |matrix| {
        let product = |transposed| cmma::candidates(offer, matrix, block, transposed, [1, 1]);
        [false, true].into_iter().all(|transposed| !product(transposed).is_empty())
            && cmma::sampled(offer, matrix, block).is_some()
    };
    match offer.cmma {
        Some(matrix)
            if by_fours(sides)
                && block.get() >= 16
                && CMMA_PLANES.contains(&offer.plane)
                && fits(matrix) =>
        {
            Class::Cmma(matrix)
        }
        _ => Class::Unit,
    }
}

/// Whether all three products have a tile on `mma` that fits the device's shared memory.
fn has_room(offer: &Offer, block: BlockSize, pipelined: bool) -> bool {
    let product = |transposed| spmm::candidates(offer, block, transposed, 1, 1, pipelined);
    [false, true].into_iter().all(|transposed| !product(transposed).is_empty())
        && sddmm::select(offer, block, pipelined).is_some()
}

fn by_fours(sides: [usize; 2]) -> bool {
    sides.iter().all(|side| side.is_multiple_of(cmma::WIDTH))
}

#[cfg(test)]
pub(in crate::cube) mod tests {
    use super::*;
    use crate::cube::cmma::base::tests::{F16_BY_8, F16_BY_16, TF32};

    /// Ampere for f16 as CubeCL describes it.
    pub const AMPERE: Offer = Offer {
        mma: true,
        ldmatrix: true,
        cmma: Some(F16_BY_16),
        copy_async: true,
        plane: 32,
        max_units: 1024,
        shared_bytes: 166_912,
        bindings: 1024,
        compute_units: 108,
    };

    /// Ampere for f32 where TF32 is allowed.
    pub const AMPERE_F32: Offer = Offer { mma: false, ldmatrix: false, cmma: Some(TF32), ..AMPERE };

    /// Apple's GPUs for f16, as CubeCL's Metal runtime describes them.
    pub const APPLE: Offer = Offer {
        mma: false,
        ldmatrix: false,
        cmma: Some(F16_BY_8),
        copy_async: false,
        plane: 32,
        max_units: 1024,
        shared_bytes: 32_768,
        bindings: 30,
        compute_units: 1,
    };

    /// A driver of Vulkan with 16 x 16 x 16 and planes of 64 units.
    const VULKAN: Offer = Offer { cmma: Some(F16_BY_16), plane: 64, ..APPLE };

    #[test]
    fn the_class_follows_the_table() {
        let piped = Class::Mma { pipelined: true };
        let plain = Class::Mma { pipelined: false };
        let (by_16, by_8) = (Class::Cmma(F16_BY_16), Class::Cmma(F16_BY_8));
        let tf32 = Class::Cmma(TF32);
        let none = Offer { cmma: None, ..AMPERE };
        let exact = Offer { cmma: None, ..AMPERE_F32 };
        let rows = [
            ("all there", AMPERE, 64, [512, 1024], piped),
            ("no cp.async", Offer { copy_async: false, ..AMPERE }, 64, [512, 1024], plain),
            ("no instruction", Offer { mma: false, ..none }, 64, [512, 1024], Class::Unit),
            ("no ldmatrix", Offer { ldmatrix: false, ..none }, 64, [512, 1024], Class::Unit),
            ("planes of 64", Offer { plane: 64, ..none }, 64, [512, 1024], Class::Unit),
            ("planes that vary", Offer { plane: 0, ..AMPERE }, 64, [512, 1024], Class::Unit),
            ("small cubes", Offer { max_units: 128, ..none }, 64, [512, 1024], Class::Unit),
            ("16 KiB", Offer { shared_bytes: 16_384, ..AMPERE }, 64, [512, 1024], Class::Unit),
            (
                "16 KiB, Metal",
                Offer { shared_bytes: 16_384, ..APPLE },
                64,
                [512, 1024],
                Class::Unit,
            ),
            (
                "cubes of 128, Metal",
                Offer { max_units: 128, ..APPLE },
                64,
                [512, 1024],
                Class::Unit,
            ),
            ("block 8", AMPERE, 8, [512, 1024], Class::Unit),
            ("block 16", AMPERE, 16, [512, 1024], by_16),
            ("no ldmatrix, but wmma", Offer { ldmatrix: false, ..AMPERE }, 64, [512, 1024], by_16),
            ("Metal", APPLE, 64, [512, 1024], by_8),
            ("Metal, block 16", APPLE, 16, [512, 1024], by_8),
            ("Metal, block 8", APPLE, 8, [512, 1024], Class::Unit),
            ("Metal, ragged by four", APPLE, 64, [516, 1028], by_8),
            ("Metal, ragged by two", APPLE, 64, [514, 1028], Class::Unit),
            ("Vulkan", VULKAN, 128, [512, 1024], by_16),
            (
                "Vulkan, planes that vary",
                Offer { plane: 0, ..VULKAN },
                64,
                [512, 1024],
                Class::Unit,
            ),
            ("Vulkan, planes of 8", Offer { plane: 8, ..VULKAN }, 64, [512, 1024], Class::Unit),
            ("block 32", AMPERE, 32, [512, 1024], piped),
            ("block 128", AMPERE, 128, [512, 1024], piped),
            ("a ragged block", AMPERE, 64, [520, 1032], piped),
            ("lines of x not at 16 bytes", none, 64, [516, 1024], Class::Unit),
            ("lines of y not at 16 bytes", none, 64, [512, 1028], Class::Unit),
            ("lines at 8 bytes", AMPERE, 64, [516, 1028], by_16),
            ("f32", exact, 64, [512, 1024], Class::Unit),
            ("f32, TF32 allowed", AMPERE_F32, 64, [512, 1024], tf32),
            ("f32, TF32 allowed, block 8", AMPERE_F32, 8, [512, 1024], Class::Unit),
            ("f32, TF32 allowed, block 16", AMPERE_F32, 16, [512, 1024], tf32),
            ("f32, TF32 allowed, block 128", AMPERE_F32, 128, [512, 1024], tf32),
            ("f32, TF32 allowed, ragged by four", AMPERE_F32, 64, [516, 1028], tf32),
            ("f32, TF32 allowed, ragged by two", AMPERE_F32, 64, [512, 1026], Class::Unit),
        ];
        for (name, offer, block, sides, want) in rows {
            let block = BlockSize::new(block).unwrap();
            assert_eq!(class(&offer, block, sides, AddressType::U32), want, "{name}");
        }
        let block = BlockSize::new(64).unwrap();
        assert_eq!(class(&AMPERE, block, [512, 1024], AddressType::U64), plain, "64-bit indices");
    }

    #[test]
    fn the_cost_model_hears_of_cores_that_only_the_dense_product_has() {
        let exact = Offer { cmma: None, ..AMPERE_F32 };
        let varying = Offer { plane: 0, ..VULKAN };
        let table = [
            ("Ampere", AMPERE, AMPERE, DeviceClass::TensorCores),
            ("Metal", APPLE, APPLE, DeviceClass::TensorCores),
            ("f32, TF32 allowed", AMPERE_F32, AMPERE_F32, DeviceClass::TensorCores),
            ("f32", AMPERE_F32, exact, DeviceClass::DenseTensorCores),
            ("Vulkan, planes that vary", varying, varying, DeviceClass::DenseTensorCores),
            ("none", exact, exact, DeviceClass::Gpu),
        ];
        for (name, dense, sparse, want) in table {
            assert_eq!(cost_class(&dense, &sparse), want, "{name}");
        }
    }

    #[test]
    fn matrices_follow_the_type_the_device_and_for_f32_the_switch() {
        let float = ElemType::Float;
        let (f16, f32, tf32) =
            (float(FloatKind::F16), float(FloatKind::F32), float(FloatKind::TF32));
        let cuda = BTreeSet::from([config(f16, [16; 3]), config(tf32, [16, 16, 8])]);
        let metal = BTreeSet::from([config(f16, [8; 3]), config(f32, [8; 3])]);
        let table = [
            ("f16 on CUDA", &cuda, f16, false, Some(F16_BY_16)),
            ("f16 on Metal", &metal, f16, true, Some(F16_BY_8)),
            ("bf16 where it is not listed", &metal, float(FloatKind::BF16), true, None),
            ("f32 on CUDA", &cuda, f32, false, None),
            ("f32 on CUDA, TF32 allowed", &cuda, f32, true, Some(TF32)),
            ("f32 on Metal, TF32 allowed", &metal, f32, true, None),
            ("f64", &cuda, float(FloatKind::F64), true, None),
        ];
        for (name, listed, dtype, allowed, want) in table {
            assert_eq!(matrix_kind(listed, dtype, allowed), want, "{name}");
        }
    }
}
