//! Which way a product is computed, and why.

use std::fmt;

use crate::BlockPattern;
pub use crate::cost::DeviceClass as Device;
use crate::cost::break_even_density;

/// How a layer chooses between its kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The path expected to be fastest: never slower than dense, as far as the cost model is right.
    #[default]
    Auto,
    /// Always the block-sparse kernel.
    Sparse,
    /// Always Burn's dense product on the unpacked weight.
    Dense,
}

/// A way to compute the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The block-sparse kernel on the packed values.
    Sparse,
    /// Burn's dense product on the unpacked weight.
    Dense,
}

/// Why a path was taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reason {
    /// The strategy asked for it.
    Forced,
    /// The cost model compared the density with its break-even point.
    CostModel {
        /// Largest density at which sparse is expected to win.
        break_even: f64,
    },
    /// A measurement on this device gave the break-even point.
    Measured {
        /// Largest density at which sparse won.
        break_even: f64,
        /// `d_input`, `d_output` and rows of what was measured, the nearest to this product.
        size: [usize; 3],
    },
}

/// The path taken for one input size, with the figures behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The path.
    pub path: Path,
    /// Why.
    pub reason: Reason,
    /// Share of blocks kept.
    pub density: f64,
    /// Rows of the input.
    pub rows: usize,
}

impl Strategy {
    /// Chooses the path for an input of `rows` rows by the cost model.
    pub fn choose(self, pattern: &BlockPattern, device: Device, rows: usize) -> Choice {
        self.choose_by(pattern, rows, || {
            let break_even = break_even_density(device, pattern.block(), rows);
            Reason::CostModel { break_even }
        })
    }

    /// Chooses the path for an input of `rows` rows; `Auto` compares with the break-even point of `reason`.
    pub fn choose_by(
        self,
        pattern: &BlockPattern,
        rows: usize,
        reason: impl FnOnce() -> Reason,
    ) -> Choice {
        let density = pattern.density();
        let (path, reason) = match self {
            Strategy::Sparse => (Path::Sparse, Reason::Forced),
            Strategy::Dense => (Path::Dense, Reason::Forced),
            Strategy::Auto => {
                let reason = reason();
                let wins = match reason {
                    Reason::Forced => true,
                    Reason::CostModel { break_even } | Reason::Measured { break_even, .. } => {
                        density <= break_even
                    }
                };
                (if wins { Path::Sparse } else { Path::Dense }, reason)
            }
        };
        Choice { path, reason, density, rows }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.path {
            Path::Sparse => "block-sparse kernel",
            Path::Dense => "dense product on the unpacked weight",
        };
        write!(f, "{path}: {} rows, {:.1} % of blocks kept", self.rows, 100.0 * self.density)?;
        match self.reason {
            Reason::Forced => write!(f, "; asked for by the strategy"),
            Reason::CostModel { break_even } => {
                write!(f, "; by the cost model sparse pays up to {:.1} % kept", 100.0 * break_even)
            }
            Reason::Measured { break_even, size: [d_input, d_output, rows] } => write!(
                f,
                "; as measured at {d_input} x {d_output} and {rows} rows, sparse pays up to {:.1} % kept",
                100.0 * break_even
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockSize, MatrixShape};

    fn choice(strategy: Strategy, device: Device, density: f64) -> Choice {
        let shape = MatrixShape::new(512, 512).unwrap();
        let pattern = BlockPattern::random(shape, BlockSize::new(32).unwrap(), density, 1);
        strategy.choose(&pattern, device, 256)
    }

    #[test]
    fn a_forced_strategy_is_obeyed() {
        assert_eq!(choice(Strategy::Sparse, Device::Gpu, 1.0).path, Path::Sparse);
        assert_eq!(choice(Strategy::Dense, Device::Host, 0.1).path, Path::Dense);
    }

    #[test]
    fn auto_takes_dense_above_break_even_and_says_why() {
        let dense = choice(Strategy::Auto, Device::Gpu, 0.9);
        assert_eq!(dense.path, Path::Dense);
        assert_eq!(
            dense.to_string(),
            "dense product on the unpacked weight: 256 rows, 89.8 % of blocks kept; \
             by the cost model sparse pays up to 31.9 % kept"
        );
        assert_eq!(choice(Strategy::Auto, Device::Gpu, 0.1).path, Path::Sparse);
        assert_eq!(choice(Strategy::Auto, Device::Host, 0.5).path, Path::Sparse);
    }

    #[test]
    fn where_the_dense_product_has_tensor_cores_sparse_pays_later_and_more_in_large_blocks() {
        let path_on = |device, block, density| {
            let shape = MatrixShape::new(2048, 2048).unwrap();
            let pattern = BlockPattern::random(shape, BlockSize::new(block).unwrap(), density, 1);
            Strategy::Auto.choose(&pattern, device, 4096).path
        };
        let path = |block, density| path_on(Device::TensorCores, block, density);
        let table = [(16, 0.1), (32, 0.25), (64, 0.4), (128, 0.5)];
        for (block, density) in table {
            assert_eq!(path(block, density), Path::Dense, "block {block}");
        }
        let table = [(16, 0.04), (32, 0.1), (64, 0.25), (128, 0.4)];
        for (block, density) in table {
            assert_eq!(path(block, density), Path::Sparse, "block {block}");
        }
        // Where only the dense product has them, a larger block does not help.
        for (block, density, want) in
            [(16, 0.1, Path::Dense), (128, 0.15, Path::Dense), (128, 0.08, Path::Sparse)]
        {
            assert_eq!(path_on(Device::DenseTensorCores, block, density), want, "block {block}");
        }
    }
}
