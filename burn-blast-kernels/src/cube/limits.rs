//! What a launch asks of a device, checked before it: an error of the launch itself would come out of the next
//! read, far from its cause.

use cubecl::prelude::*;

use super::call::CubeError;
use super::{sddmm, spmm};
use crate::{BlockPattern, BlockSize};

/// Most buffers of a kernel that every device must take: input, values, bias or slots, three of indices, and output.
/// CubeCL keeps one more for a kernel's sizes and has taken that off what it reports, which is 7 on WebGPU.
const BINDINGS: usize = 7;

/// The facts about a device that a launch can exceed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits<'a> {
    /// Name of the runtime.
    device: &'a str,
    /// Most units of a cube.
    max_units: usize,
    /// Most shared memory of a cube, in bytes.
    shared_bytes: usize,
    /// Most buffers of a kernel, CubeCL's own not counted.
    bindings: usize,
    /// Most cubes of a launch.
    cubes: u64,
    /// Most elements of a tensor.
    elements: u64,
}

impl<'a> Limits<'a> {
    pub fn of(client: &'a Client) -> Self {
        let properties = client.properties();
        let hardware = &properties.hardware;
        let (x, y, z) = hardware.max_cube_count;
        let wide = properties.supports_address(AddressType::U64);
        Self {
            device: client.name(),
            max_units: hardware.max_units_per_cube as usize,
            shared_bytes: hardware.max_shared_memory_size,
            bindings: hardware.max_bindings as usize,
            // CubeCL 0.11 spreads a count of 32 bits over the three dimensions.
            cubes: [x, y, z]
                .into_iter()
                .map(u64::from)
                .fold(1, u64::saturating_mul)
                .min(u32::MAX.into()),
            elements: if wide { u64::MAX } else { u32::MAX.into() },
        }
    }

    /// Whether the kernels for any device run on blocks of this size. Those for some devices only are not taken
    /// where they would not.
    pub fn check_block(&self, block: BlockSize) -> Result<(), CubeError> {
        let needed = spmm::shared_bytes(block, self.max_units)
            .max(sddmm::shared_bytes(block, self.max_units));
        let (device, block) = (self.device.to_string(), block.get());
        if needed > self.shared_bytes {
            return Err(CubeError::SharedMemory {
                block,
                needed,
                found: self.shared_bytes,
                device,
            });
        }
        if BINDINGS > self.bindings {
            return Err(CubeError::Bindings { needed: BINDINGS, found: self.bindings, device });
        }
        Ok(())
    }

    /// Whether a product takes a buffer beyond those of every kernel.
    pub fn takes_residual(&self) -> bool {
        self.bindings > BINDINGS
    }

    /// Whether indices reach this many elements of a weight.
    pub fn check_elements(&self, elements: usize) -> Result<(), CubeError> {
        let (elements, limit) = (elements as u64, self.elements);
        if elements > limit {
            return Err(CubeError::Weight { elements, limit, device: self.device.to_string() });
        }
        Ok(())
    }

    /// Whether every product of `m` rows fits the device's indices and grid.
    pub fn check_rows(&self, pattern: &BlockPattern, m: usize) -> Result<(), CubeError> {
        let shape = pattern.shape();
        let widest = shape.rows().max(shape.cols()) as u64;
        let fits = |m: usize| {
            widest.saturating_mul(m as u64) <= self.elements
                && spmm::cubes(pattern, m, self.max_units) <= self.cubes
        };
        if fits(m) {
            return Ok(());
        }
        // Between these two lies the most that fits, since neither number falls as rows grow.
        let (mut limit, mut too_many) = (0, m);
        while too_many - limit > 1 {
            let middle = limit + (too_many - limit) / 2;
            if fits(middle) { limit = middle } else { too_many = middle }
        }
        Err(CubeError::Rows { found: m, limit, device: self.device.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MatrixShape;

    /// WebGPU's defaults.
    fn webgpu() -> Limits<'static> {
        Limits {
            device: "made up",
            max_units: 256,
            shared_bytes: 16_384,
            // Eight, of which CubeCL keeps one.
            bindings: 7,
            cubes: u32::MAX.into(),
            elements: u32::MAX.into(),
        }
    }

    fn pattern(block: usize) -> BlockPattern {
        let shape = MatrixShape::new(1024, 4096).unwrap();
        BlockPattern::random(shape, BlockSize::new(block).unwrap(), 0.01, 1)
    }

    #[test]
    fn webgpu_s_defaults_are_enough() {
        for block in BlockSize::ALL {
            assert_eq!(webgpu().check_block(block), Ok(()));
            assert_eq!(webgpu().check_rows(&pattern(block.get()), 100_000), Ok(()));
        }
        assert!(!webgpu().takes_residual());
        assert!(Limits { bindings: 8, ..webgpu() }.takes_residual());
    }

    #[test]
    fn products_of_packed_values_may_have_a_dense_weight_beyond_the_indices() {
        let shape = MatrixShape::new(70_000, 70_000).unwrap();
        let pattern = BlockPattern::random(shape, BlockSize::new(128).unwrap(), 0.05, 1);
        assert_eq!(webgpu().check_elements(pattern.value_count()), Ok(()));
        assert_eq!(webgpu().check_rows(&pattern, 4096), Ok(()));
        assert!(webgpu().check_elements(shape.area()).is_err());
    }

    #[test]
    fn the_rows_named_are_the_most_that_fit() {
        for limits in [
            Limits { cubes: 1000, ..webgpu() },
            Limits { cubes: 777, max_units: 48, ..webgpu() },
            Limits { elements: 1 << 20, ..webgpu() },
        ] {
            for block in BlockSize::ALL {
                let pattern = pattern(block.get());
                let Err(CubeError::Rows { limit, .. }) = limits.check_rows(&pattern, 1 << 20)
                else {
                    panic!("2^20 rows of {block:?} must be too many for {limits:?}")
                };
                assert!(limits.check_rows(&pattern, limit).is_ok(), "{limit} of {block:?}");
                assert!(limits.check_rows(&pattern, limit + 1).is_err(), "{limit} of {block:?}");
            }
        }
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let block = |limits: Limits<'_>| {
            limits.check_block(BlockSize::new(64).unwrap()).unwrap_err().to_string()
        };
        assert_eq!(
            block(Limits { shared_bytes: 4096, ..webgpu() }),
            "blocks of 64 need 13312 bytes of shared memory, and the device (made up) has 4096: take a smaller \
             block, or Strategy::Dense"
        );
        assert_eq!(
            block(Limits { bindings: 4, ..webgpu() }),
            "the kernels bind 7 buffers, and the device (made up) allows 4: take Strategy::Dense, or another \
             adapter"
        );
        let rows =
            |limits: Limits<'_>, m| limits.check_rows(&pattern(64), m).unwrap_err().to_string();
        assert_eq!(
            rows(webgpu(), 2_000_000),
            "the device (made up) takes at most 1048575 rows of this layer at once, and the input has 2000000: \
             cut the batch"
        );
        assert_eq!(
            rows(Limits { cubes: 1000, ..webgpu() }, 65_536),
            "the device (made up) takes at most 480 rows of this layer at once, and the input has 65536: cut the \
             batch"
        );
        assert_eq!(
            Limits { elements: 1 << 20, ..webgpu() }
                .check_elements(1 << 22)
                .unwrap_err()
                .to_string(),
            "the weight has 4194304 elements, and indices of the device (made up) reach 1048576: cut the layer"
        );
    }
}
