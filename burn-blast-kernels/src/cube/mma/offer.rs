//! What a device offers, and which class of kernel a product gets there.

use cubecl::features::MmaConfig;
use cubecl::ir::{AddressType, DeviceProperties, ElemType, FloatKind};

use super::tile::{INSTRUCTION_COLS, INSTRUCTION_DEPTH, INSTRUCTION_ROWS, PLANE, WIDE};
use crate::BlockSize;

/// The facts about a device that decide on a kernel, for one data type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offer {
    /// `m16n8k16` on this type with sums in f32.
    pub mma: bool,
    /// Loads of instruction fragments from shared memory.
    pub ldmatrix: bool,
    /// Copies to shared memory that run on their own.
    pub copy_async: bool,
    /// Units of a plane; zero if that varies.
    pub plane: usize,
    /// Most units of a cube.
    pub max_units: usize,
    /// Most shared memory of a cube, in bytes.
    pub shared_bytes: usize,
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
}

impl Offer {
    /// What a device with these properties offers for `dtype`.
    pub fn of(properties: &DeviceProperties, dtype: ElemType) -> Self {
        let config = MmaConfig {
            a_type: dtype,
            b_type: dtype,
            cd_type: ElemType::Float(FloatKind::F32),
            m: INSTRUCTION_ROWS as u32,
            n: INSTRUCTION_COLS as u32,
            k: INSTRUCTION_DEPTH as u32,
        };
        let (features, hardware) = (&properties.features, &properties.hardware);
        let fixed = hardware.plane_size_min == hardware.plane_size_max;
        Self {
            mma: features.matmul.mma.contains(&config),
            ldmatrix: features.matmul.ldmatrix.contains(&dtype),
            copy_async: features.copy_async,
            plane: if fixed { hardware.plane_size_min as usize } else { 0 },
            max_units: hardware.max_units_per_cube as usize,
            shared_bytes: hardware.max_shared_memory_size,
            compute_units: hardware.num_streaming_multiprocessors.unwrap_or(1) as usize,
        }
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
    if cores && aligned && block.get() >= 32 {
        Class::Mma { pipelined: offer.copy_async && address == AddressType::U32 }
    } else {
        Class::Unit
    }
}

#[cfg(test)]
pub(in crate::cube) mod tests {
    use super::*;

    /// Ampere as CubeCL describes it.
    pub const AMPERE: Offer = Offer {
        mma: true,
        ldmatrix: true,
        copy_async: true,
        plane: 32,
        max_units: 1024,
        shared_bytes: 166_912,
        compute_units: 108,
    };

    #[test]
    fn the_class_follows_the_table() {
        let piped = Class::Mma { pipelined: true };
        let plain = Class::Mma { pipelined: false };
        let rows = [
            ("all there", AMPERE, 64, [512, 1024], piped),
            ("no cp.async", Offer { copy_async: false, ..AMPERE }, 64, [512, 1024], plain),
            ("no instruction", Offer { mma: false, ..AMPERE }, 64, [512, 1024], Class::Unit),
            ("no ldmatrix", Offer { ldmatrix: false, ..AMPERE }, 64, [512, 1024], Class::Unit),
            ("planes of 64", Offer { plane: 64, ..AMPERE }, 64, [512, 1024], Class::Unit),
            ("planes that vary", Offer { plane: 0, ..AMPERE }, 64, [512, 1024], Class::Unit),
            ("small cubes", Offer { max_units: 128, ..AMPERE }, 64, [512, 1024], Class::Unit),
            ("block 8", AMPERE, 8, [512, 1024], Class::Unit),
            ("block 16", AMPERE, 16, [512, 1024], Class::Unit),
            ("block 32", AMPERE, 32, [512, 1024], piped),
            ("block 128", AMPERE, 128, [512, 1024], piped),
            ("a ragged block", AMPERE, 64, [520, 1032], piped),
            ("lines of x not at 16 bytes", AMPERE, 64, [516, 1024], Class::Unit),
            ("lines of y not at 16 bytes", AMPERE, 64, [512, 1028], Class::Unit),
        ];
        for (name, offer, block, sides, want) in rows {
            let block = BlockSize::new(block).unwrap();
            assert_eq!(class(&offer, block, sides, AddressType::U32), want, "{name}");
        }
        let block = BlockSize::new(64).unwrap();
        assert_eq!(class(&AMPERE, block, [512, 1024], AddressType::U64), plain, "64-bit indices");
    }
}
