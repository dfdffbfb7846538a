//! Checks of what a launch asks of a device, before it: an error of the launch itself would come out of the next
//! read, far from its cause.

use cubecl::features::TypeUsage;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::caps::{Caps, storage_type};
use super::context::Context;
use super::dispatch::{BINDINGS, Op, Plan, Problem, plan};
use super::error::CubeError;
use super::sddmm;
use super::tf32::tf32_allowed;
use super::tile::unit;
use crate::{BlockPattern, BlockSize};

impl<'a> Context<'a> {
    /// Checks that there are kernels for `dtype` on this device. `Flex32` runs as `F32`, which it is stored as.
    ///
    /// # Errors
    /// If the type is not f32, f16 or bf16; if the device cannot store it, has too little of what every kernel needs,
    /// or has indices that do not reach all packed values.
    pub fn new(
        client: &'a Client,
        pattern: &'a BlockPattern,
        dtype: ElemType,
    ) -> Result<Self, CubeError> {
        let dtype = storage_type(dtype)?;
        let usage = client.properties().type_usage(dtype);
        if !usage.is_superset(TypeUsage::Buffer | TypeUsage::Conversion) {
            return Err(CubeError::DeviceType { found: dtype, device: client.name().into() });
        }
        let caps = Caps::new(client.properties(), dtype, tf32_allowed());
        check_block(&caps, client.name(), pattern.block())?;
        check_elements(&caps, client.name(), pattern.value_count())?;
        Ok(Self { client, pattern, dtype, caps })
    }

    /// Checks that launches on `m` rows fit the device.
    ///
    /// # Errors
    /// If they need more cubes or wider indices than the device has.
    pub fn for_rows(self, m: usize) -> Result<Self, CubeError> {
        check_rows(&self.caps, self.client.name(), self.pattern, m)?;
        Ok(self)
    }

    /// Checks that the dense weight fits the device, for [`pack`](super::pack) and [`unpack`](super::unpack).
    ///
    /// # Errors
    /// If it needs wider indices than the device has.
    pub fn for_dense(self) -> Result<Self, CubeError> {
        check_elements(&self.caps, self.client.name(), self.pattern.shape().area())?;
        Ok(self)
    }

    /// How an operation on `m` rows runs here. With `autotune`, the tile height of a product may differ.
    pub fn plan(&self, op: Op, m: usize) -> Plan {
        plan(op, &self.caps, &Problem { pattern: self.pattern, m })
    }
}

/// Whether the kernels for any device run on blocks of this size. The others are not selected where they would not.
fn check_block(caps: &Caps, device: &str, block: BlockSize) -> Result<(), CubeError> {
    let (max_units, found) = (caps.max_units, caps.shared_bytes);
    let needed =
        unit::shared_bytes(block, max_units).max(sddmm::unit::base::shared_bytes(block, max_units));
    let (device, block) = (device.to_string(), block.get());
    if needed > found {
        return Err(CubeError::SharedMemory { block, needed, found, device });
    }
    if BINDINGS > caps.bindings {
        return Err(CubeError::Bindings { needed: BINDINGS, found: caps.bindings, device });
    }
    Ok(())
}

/// Whether indices reach this many elements of a weight.
fn check_elements(caps: &Caps, device: &str, elements: usize) -> Result<(), CubeError> {
    let (elements, limit) = (elements as u64, caps.elements);
    if elements > limit {
        return Err(CubeError::Weight { elements, limit, device: device.to_string() });
    }
    Ok(())
}

/// Whether every product of `m` rows fits the indices and the grid of the device.
fn check_rows(
    caps: &Caps,
    device: &str,
    pattern: &BlockPattern,
    m: usize,
) -> Result<(), CubeError> {
    let shape = pattern.shape();
    let widest = shape.rows().max(shape.cols()) as u64;
    let fits = |m: usize| {
        widest.saturating_mul(m as u64) <= caps.elements
            && cubes(pattern, m, caps.max_units) <= caps.cubes
    };
    if fits(m) {
        return Ok(());
    }
    // The most that fits is between these two, since neither number falls as rows grow.
    let (mut limit, mut too_many) = (0, m);
    while too_many - limit > 1 {
        let middle = limit + (too_many - limit) / 2;
        if fits(middle) { limit = middle } else { too_many = middle }
    }
    Err(CubeError::Rows { found: m, limit, device: device.to_string() })
}

/// Cubes of the larger of the two products of `m` rows, in the shortest tile that tuning may select; tiles on tensor
/// cores are no shorter. Never falls as `m` grows.
fn cubes(pattern: &BlockPattern, m: usize, max_units: usize) -> u64 {
    let columns = pattern.block_rows().max(pattern.block_cols());
    let cubes = |m: usize| {
        let tile = unit::select(pattern.block(), false, m, max_units);
        let tile = unit::shorter(pattern.block(), tile, max_units).unwrap_or(tile);
        m.div_ceil(tile.rows) as u64 * (columns * tile.col_tiles()) as u64
    };
    // The tile becomes taller with more rows, and then there may be fewer.
    cubes(m).max(cubes(m.min(unit::LOW)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MatrixShape;
    use crate::cube::caps::tests::WEBGPU;

    const DEVICE: &str = "made up";

    fn pattern(block: usize) -> BlockPattern {
        let shape = MatrixShape::new(1024, 4096).unwrap();
        BlockPattern::random(shape, BlockSize::new(block).unwrap(), 0.01, 1)
    }

    #[test]
    fn webgpu_s_defaults_are_enough() {
        for block in BlockSize::ALL {
            assert_eq!(check_block(&WEBGPU, DEVICE, block), Ok(()));
            assert_eq!(check_rows(&WEBGPU, DEVICE, &pattern(block.get()), 100_000), Ok(()));
        }
    }

    #[test]
    fn products_of_packed_values_may_have_a_dense_weight_beyond_the_indices() {
        let shape = MatrixShape::new(70_000, 70_000).unwrap();
        let pattern = BlockPattern::random(shape, BlockSize::new(128).unwrap(), 0.05, 1);
        assert_eq!(check_elements(&WEBGPU, DEVICE, pattern.value_count()), Ok(()));
        assert_eq!(check_rows(&WEBGPU, DEVICE, &pattern, 4096), Ok(()));
        assert!(check_elements(&WEBGPU, DEVICE, shape.area()).is_err());
    }

    #[test]
    fn the_rows_named_are_the_most_that_fit() {
        for caps in [
            Caps { cubes: 1000, ..WEBGPU },
            Caps { cubes: 777, max_units: 48, ..WEBGPU },
            Caps { elements: 1 << 20, ..WEBGPU },
        ] {
            for block in BlockSize::ALL {
                let pattern = pattern(block.get());
                let rows = |m| check_rows(&caps, DEVICE, &pattern, m);
                let Err(CubeError::Rows { limit, .. }) = rows(1 << 20) else {
                    panic!("2^20 rows of {block:?} must be too many for {caps:?}")
                };
                assert!(rows(limit).is_ok(), "{limit} of {block:?}");
                assert!(rows(limit + 1).is_err(), "{limit} of {block:?}");
            }
        }
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let block = |caps| check_block(&caps, DEVICE, BlockSize::new(64).unwrap()).unwrap_err();
        let rows = |caps, m| check_rows(&caps, DEVICE, &pattern(64), m).unwrap_err();
        let device = || DEVICE.to_string();
        let (small, bound) =
            (Caps { shared_bytes: 4096, ..WEBGPU }, Caps { bindings: 4, ..WEBGPU });
        let (few, narrow) = (Caps { cubes: 1000, ..WEBGPU }, Caps { elements: 1 << 20, ..WEBGPU });
        let table = [
            (
                block(small),
                CubeError::SharedMemory {
                    block: 64,
                    needed: 16_384,
                    found: 4096,
                    device: device(),
                },
                "take a smaller block",
            ),
            (
                block(bound),
                CubeError::Bindings { needed: 7, found: 4, device: device() },
                "another adapter",
            ),
            (
                rows(WEBGPU, 2_000_000),
                CubeError::Rows { found: 2_000_000, limit: 1_048_575, device: device() },
                "the batch",
            ),
            (
                rows(few, 65_536),
                CubeError::Rows { found: 65_536, limit: 960, device: device() },
                "the batch",
            ),
            (
                check_elements(&narrow, DEVICE, 1 << 22).unwrap_err(),
                CubeError::Weight { elements: 1 << 22, limit: 1 << 20, device: device() },
                "the layer",
            ),
        ];
        for (found, want, advice) in table {
            assert_eq!(found, want);
            assert!(found.to_string().contains(advice), "{found}");
        }
    }

    #[test]
    fn cubes_never_fall_as_rows_grow() {
        for block in BlockSize::ALL {
            let pattern = BlockPattern::dense(MatrixShape::new(256, 384).unwrap(), block);
            for max_units in [4, 32, 64, 1024] {
                let counts: Vec<u64> = (1..600).map(|m| cubes(&pattern, m, max_units)).collect();
                assert!(counts.is_sorted(), "{block:?}, {max_units}");
            }
        }
    }
}
