//! Which way a product is computed, and why.

use std::fmt;

use crate::BlockPattern;
use crate::cost::{DeviceClass, break_even_density};

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
pub enum ProductPath {
    /// The block-sparse kernel on the packed values.
    Sparse,
    /// Burn's dense product on the unpacked weight.
    Dense,
}

/// Why a path was taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PathReason {
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
pub struct PathChoice {
    /// The path.
    pub path: ProductPath,
    /// Why.
    pub reason: PathReason,
    /// Share of blocks kept.
    pub density: f64,
    /// Rows of the input.
    pub rows: usize,
}

impl Strategy {
    /// Chooses the path for an input of `rows` rows by the cost model.
    pub fn choose(self, pattern: &BlockPattern, device: DeviceClass, rows: usize) -> PathChoice {
        self.choose_by(pattern, rows, || {
            let break_even = break_even_density(device, pattern.block(), rows);
            PathReason::CostModel { break_even }
        })
    }

    /// Chooses the path for an input of `rows` rows; `Auto` compares with the break-even point of `reason`.
    pub fn choose_by(
        self,
        pattern: &BlockPattern,
        rows: usize,
        reason: impl FnOnce() -> PathReason,
    ) -> PathChoice {
        let density = pattern.density();
        let (path, reason) = match self {
            Strategy::Sparse => (ProductPath::Sparse, PathReason::Forced),
            Strategy::Dense => (ProductPath::Dense, PathReason::Forced),
            Strategy::Auto => {
                let reason = reason();
                let wins = match reason {
                    PathReason::Forced => true,
                    PathReason::CostModel { break_even }
                    | PathReason::Measured { break_even, .. } => density <= break_even,
                };
                (if wins { ProductPath::Sparse } else { ProductPath::Dense }, reason)
            }
        };
        PathChoice { path, reason, density, rows }
    }
}

impl fmt::Display for PathChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.path {
            ProductPath::Sparse => "block-sparse kernel",
            ProductPath::Dense => "dense product on the unpacked weight",
        };
        write!(f, "{path}: {} rows, {:.1} % of blocks kept", self.rows, 100.0 * self.density)?;
        match self.reason {
            PathReason::Forced => write!(f, "; asked for by the strategy"),
            PathReason::CostModel { break_even } => {
                write!(f, "; by the cost model sparse pays up to {:.1} % kept", 100.0 * break_even)
            }
            PathReason::Measured { break_even, size: [d_input, d_output, rows] } => write!(
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

    fn choice(strategy: Strategy, device: DeviceClass, density: f64) -> PathChoice {
        let shape = MatrixShape::new(512, 512).unwrap();
        let pattern = BlockPattern::random(shape, BlockSize::new(32).unwrap(), density, 1);
        strategy.choose(&pattern, device, 256)
    }

    #[test]
    fn a_forced_strategy_is_obeyed() {
        assert_eq!(choice(Strategy::Sparse, DeviceClass::Gpu, 1.0).path, ProductPath::Sparse);
        assert_eq!(choice(Strategy::Dense, DeviceClass::Host, 0.1).path, ProductPath::Dense);
    }

    #[test]
    fn auto_takes_dense_above_break_even_and_says_why() {
        let dense = choice(Strategy::Auto, DeviceClass::Gpu, 0.9);
        assert_eq!(dense.path, ProductPath::Dense);
        assert_eq!(
            dense.to_string(),
            "dense product on the unpacked weight: 256 rows, 89.8 % of blocks kept; \
             by the cost model sparse pays up to 31.9 % kept"
        );
        assert_eq!(choice(Strategy::Auto, DeviceClass::Gpu, 0.1).path, ProductPath::Sparse);
        assert_eq!(choice(Strategy::Auto, DeviceClass::Host, 0.5).path, ProductPath::Sparse);
    }

    #[test]
    fn where_the_dense_product_has_tensor_cores_sparse_pays_later_and_more_in_large_blocks() {
        let path_on = |device, block, density| {
            let shape = MatrixShape::new(2048, 2048).unwrap();
            let pattern = BlockPattern::random(shape, BlockSize::new(block).unwrap(), density, 1);
            Strategy::Auto.choose(&pattern, device, 4096).path
        };
        let path = |block, density| path_on(DeviceClass::TensorCores, block, density);
        let table = [(16, 0.1), (32, 0.25), (64, 0.4), (128, 0.5)];
        for (block, density) in table {
            assert_eq!(path(block, density), ProductPath::Dense, "block {block}");
        }
        let table = [(16, 0.04), (32, 0.1), (64, 0.25), (128, 0.4)];
        for (block, density) in table {
            assert_eq!(path(block, density), ProductPath::Sparse, "block {block}");
        }
        // Where only the dense product has them, a larger block does not help.
        for (block, density, want) in [
            (16, 0.1, ProductPath::Dense),
            (128, 0.15, ProductPath::Dense),
            (128, 0.08, ProductPath::Sparse),
        ] {
            assert_eq!(
                path_on(DeviceClass::DenseTensorCores, block, density),
                want,
                "block {block}"
            );
        }
    }
}
