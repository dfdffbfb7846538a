//! Activations and their derivatives. They are free of branches, so that loops over them vectorise.
//!
//! Fused multiply-adds are not used: on machines without the instruction each would be a function call.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// A function applied to every element of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x · Φ(x)` with the exact error function, the default of Burn and PyTorch.
    Gelu,
    /// `x · sigmoid(x)`, also called swish.
    Silu,
}

impl Activation {
    /// `f(x)`.
    #[inline(always)]
    pub(crate) fn value(self, x: f32) -> f32 {
        match self {
            Activation::Relu => x.max(0.0),
            Activation::Gelu => x * normal_cdf(x),
            Activation::Silu => x * sigmoid(x),
        }
    }

    /// `f(x)` and its derivative. The derivative of `Relu` is 0 at 0.
    #[inline(always)]
    pub(crate) fn with_derivative(self, x: f32) -> (f32, f32) {
        match self {
            Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
            Activation::Gelu => {
                // 1 / sqrt(2 pi)
                const DENSITY_AT_0: f32 = 0.398_942_3;
                let (cdf, density) = (normal_cdf(x), DENSITY_AT_0 * exp(-0.5 * x * x));
                (x * cdf, cdf + x * density)
            }
            Activation::Silu => {
                let s = sigmoid(x);
                (x * s, s * (1.0 + x * (1.0 - s)))
            }
        }
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `e^x` with an error of at most two units in the last place. Results saturate near the smallest and largest normal
/// number instead of reaching 0 and infinity. NaN is propagated.
///
/// Range reduction by Cody and Waite; polynomial from `expf` of the Cephes library.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // ln 2 in two parts. The product of the first with an integer is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding this rounds to an integer, which ends up in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // Comparisons in this order propagate NaN.
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let rounded = x * LOG2_E + ROUND;
    let whole = rounded - ROUND;
    let r = (x - whole * LN2_HIGH) - whole * LN2_LOW;
    let series = 1.987_569_1e-4;
    let series = series * r + 1.398_199_9e-3;
    let series = series * r + 8.333_452e-3;
    let series = series * r + 4.166_579_6e-2;
    let series = series * r + 1.666_666_5e-1;
    let series = series * r + 0.5;
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    (series * (r * r) + r + 1.0) * power
}

/// Chebyshev fit of `erfc` in Press et al., Numerical Recipes, section 6.2 (1.2e-7), highest power first.
pub(crate) const ERFC_FIT: [f32; 10] = [
    0.170_872_77,
    -0.822_152_23,
    1.488_515_9,
    -1.135_204,
    0.278_868_07,
    -0.186_288_06,
    0.096_784_18,
    0.374_091_96,
    1.000_023_7,
    -1.265_512_2,
];

/// `Φ(x)`, the normal distribution. The relative error is below 1e-6 where the value is above 1e-30.
#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    let z = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let fit = ERFC_FIT[1..].iter().fold(ERFC_FIT[0], |fit, term| fit * t + term);
    let upper = 0.5 * t * exp(fit - z * z);
    if x > 0.0 { 1.0 - upper } else { upper }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference;

    #[test]
    fn exp_is_within_two_units() {
        for x in (-8700..=8800).map(|at| at as f32 * 0.01) {
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) - want).abs() <= 2.5e-7 * want, "{x}");
        }
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn values_and_slopes_are_near_the_oracle() {
        for x in (-4000..=4000).map(|at| at as f32 * 0.005) {
            let near = |f: Activation, relative: f64, absolute: f64| {
                let (value, slope) = f.with_derivative(x);
                let (want, want_slope) = reference::activation(f, f64::from(x));
                let off = (f64::from(value) - want).abs();
                assert!(off <= relative * want.abs() + absolute, "{f:?} {x}: {value}");
                assert!((f64::from(slope) - want_slope).abs() <= 2e-6, "{f:?} {x}");
                assert_eq!(f.value(x), value);
            };
            near(Activation::Silu, 5e-7, 1e-30);
            if x.abs() < 5.0 {
                near(Activation::Gelu, 0.0, 1e-6);
            }
        }
    }
}
