//! The choice between the sparse and the dense product, with the reason.

use std::fmt;

use crate::BlockPattern;
use crate::cost::{DeviceClass, break_even_density};

/// How a layer chooses between the sparse and the dense product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The path that is expected to be faster, by measurement or by the cost model.
    #[default]
    Auto,
    /// Always the sparse product.
    Sparse,
    /// Always the dense product on the unpacked weight.
    Dense,
}

/// How a product is computed.
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
    /// The strategy prescribes it.
    Forced,
    /// The values are quantised, and only the sparse product reads integers.
    Quantized,
    /// The density was compared with the break-even density of the cost model.
    CostModel {
        /// Largest density at which the sparse product is expected to be as fast.
        break_even: f64,
    },
    /// The density was compared with a break-even density that was measured on this device.
    Measured {
        /// Largest density at which the sparse product was as fast.
        break_even: f64,
        /// `d_input`, `d_output` and rows of the measured product that is nearest to this one.
        size: [usize; 3],
    },
}

/// The path for one input size, with the reason.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathChoice {
    /// The path.
    pub path: ProductPath,
    /// Why it is taken.
    pub reason: PathReason,
    /// Density of the weight.
    pub density: f64,
    /// Rows of the input.
    pub rows: usize,
}

impl Strategy {
    /// Chooses the path for an input of `rows` rows. [`Auto`](Self::Auto) uses the cost model.
    pub fn choose(self, pattern: &BlockPattern, device: DeviceClass, rows: usize) -> PathChoice {
        self.choose_by(pattern, rows, || {
            let break_even = break_even_density(device, pattern.block(), rows);
            PathReason::CostModel { break_even }
        })
    }

    /// Chooses the path for an input of `rows` rows. [`Auto`](Self::Auto) compares with the break-even density in
    /// `reason`.
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
                    PathReason::Forced | PathReason::Quantized => true,
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
            PathReason::Forced => write!(f, "; prescribed by the strategy"),
            PathReason::Quantized => write!(f, "; only the sparse product reads quantised values"),
            PathReason::CostModel { break_even } => {
                write!(f, "; break-even at {:.1} % kept by the cost model", 100.0 * break_even)
            }
            PathReason::Measured { break_even, size: [d_input, d_output, rows] } => write!(
                f,
                "; break-even at {:.1} % kept, as measured at {d_input} x {d_output} and {rows} rows",
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
        assert!(matches!(dense.reason, PathReason::CostModel { .. }));
        let text = dense.to_string();
        assert!(text.starts_with("dense product") && text.contains("31.9 %"), "{text}");
        assert_eq!(choice(Strategy::Auto, DeviceClass::Gpu, 0.1).path, ProductPath::Sparse);
        assert_eq!(choice(Strategy::Auto, DeviceClass::Host, 0.5).path, ProductPath::Sparse);
    }

    #[test]
    fn tensor_cores_lower_the_break_even_density_most_for_small_blocks() {
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
        // If only the dense product uses them, larger blocks do not help.
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
