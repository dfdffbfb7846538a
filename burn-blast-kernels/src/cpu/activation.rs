//! Activations and their derivatives, written so that the compiler turns loops over them into vectors.
//!
//! None uses fused multiply-adds: without the instruction they would be calls.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use macerator::{AutoArch, Simd, WithSimd};

/// A function applied to every element of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x · Φ(x)`, by the error function, as Burn's and PyTorch's default.
    Gelu,
    /// `x · sigmoid(x)`, also called swish.
    Silu,
}

impl Activation {
    /// The value at `x`.
    #[inline(always)]
    pub fn value(self, x: f32) -> f32 {
        match self {
            Activation::Relu => x.max(0.0),
            Activation::Gelu => x * normal_cdf(x),
            Activation::Silu => x * sigmoid(x),
        }
    }

    /// Value and derivative at `x`; the derivative of `Relu` is 0 at 0.
    #[inline(always)]
    pub fn with_derivative(self, x: f32) -> (f32, f32) {
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

    /// Applies the function to every element.
    pub(super) fn apply(self, elements: &mut [f32]) {
        AutoArch::new().dispatch(Each { f: self, verb: Verb::Apply(elements) });
    }

    /// `gate = f(gate) · up`.
    pub(super) fn gate(self, gate: &mut [f32], up: &[f32]) {
        AutoArch::new().dispatch(Each { f: self, verb: Verb::Gate(gate, up) });
    }

    /// From `gate` and the gradient `dh` of `h = f(gate)`: leaves `h` in `dh` and the gradient of the gate in
    /// `gate`.
    pub(super) fn backward(self, gate: &mut [f32], dh: &mut [f32]) {
        AutoArch::new().dispatch(Each { f: self, verb: Verb::Backward(gate, dh) });
    }

    /// From `gate`, `up` and the gradient `dh` of `h = f(gate) · up`: leaves `h` in `dh`, the gradient of the
    /// gate in `gate` and that of `up` in `up`.
    pub(super) fn gate_backward(self, gate: &mut [f32], up: &mut [f32], dh: &mut [f32]) {
        AutoArch::new().dispatch(Each { f: self, verb: Verb::GateBackward(gate, up, dh) });
    }
}

enum Verb<'a> {
    Apply(&'a mut [f32]),
    Gate(&'a mut [f32], &'a [f32]),
    Backward(&'a mut [f32], &'a mut [f32]),
    GateBackward(&'a mut [f32], &'a mut [f32], &'a mut [f32]),
}

/// A loop over elements, compiled for every instruction set.
struct Each<'a> {
    f: Activation,
    verb: Verb<'a>,
}

impl WithSimd for Each<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        // The choice is outside the loops, so that each is one vector loop.
        match self.f {
            Activation::Relu => self.verb.run(Activation::Relu),
            Activation::Gelu => self.verb.run(Activation::Gelu),
            Activation::Silu => self.verb.run(Activation::Silu),
        }
    }
}

impl Verb<'_> {
    #[inline(always)]
    fn run(self, f: Activation) {
        match self {
            Verb::Apply(elements) => elements.iter_mut().for_each(|x| *x = f.value(*x)),
            Verb::Gate(gate, up) => {
                gate.iter_mut().zip(up).for_each(|(g, u)| *g = f.value(*g) * u);
            }
            Verb::Backward(gate, dh) => {
                for (g, d) in gate.iter_mut().zip(dh) {
                    let (value, slope) = f.with_derivative(*g);
                    (*g, *d) = (*d * slope, value);
                }
            }
            Verb::GateBackward(gate, up, dh) => {
                for ((g, u), d) in gate.iter_mut().zip(up).zip(dh) {
                    let (value, slope) = f.with_derivative(*g);
                    (*g, *u, *d) = (*d * *u * slope, *d * value, value * *u);
                }
            }
        }
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `e^x` within two units in the last place; 0 and infinity are reached only as the smallest and largest
/// normal number. NaN stays NaN.
///
/// Range reduction by Cody and Waite, polynomial of the Cephes library's `expf`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // ln 2 in two parts: a product of the first with an integer is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding it rounds to an integer, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // Comparisons in this order keep a NaN.
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

/// `Φ(x)`, the normal distribution: relative error below 1e-6 where it is above 1e-30.
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

    fn points() -> impl Iterator<Item = f32> {
        (-4000..=4000).map(|at| at as f32 * 0.005)
    }

    #[test]
    fn exp_is_within_two_units() {
        for x in (-8700..=8800).map(|at| at as f32 * 0.01) {
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) - want).abs() <= 2.5e-7 * want, "{x}");
        }
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn silu_and_its_slope_are_right() {
        for x in points() {
            let exact = f64::from(x);
            let s = 1.0 / (1.0 + (-exact).exp());
            let (value, slope) = Activation::Silu.with_derivative(x);
            let want = exact * s;
            assert!((f64::from(value) - want).abs() <= 5e-7 * want.abs() + 1e-30, "{x}");
            assert!((f64::from(slope) - s * (1.0 + exact * (1.0 - s))).abs() <= 2e-6, "{x}");
            assert_eq!(Activation::Silu.value(x), value);
        }
    }

    /// `erf` by its series, where that converges fast enough.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn gelu_and_its_slope_are_right() {
        for x in points().filter(|x| x.abs() < 5.0) {
            let exact = f64::from(x);
            let cdf = 0.5 * (1.0 + erf(exact * std::f64::consts::FRAC_1_SQRT_2));
            let density = (-0.5 * exact * exact).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let (value, slope) = Activation::Gelu.with_derivative(x);
            assert!((f64::from(value) - exact * cdf).abs() <= 1e-6, "{x}: {value}");
            assert!((f64::from(slope) - (cdf + exact * density)).abs() <= 2e-6, "{x}");
        }
    }

    #[test]
    fn a_gate_and_its_gradients_follow_the_chain_rule() {
        for f in [Activation::Relu, Activation::Gelu, Activation::Silu] {
            let (g, u, d) = (0.7, -1.3, 0.4);
            let (value, slope) = f.with_derivative(g);
            let mut gate = [g];
            f.gate(&mut gate, &[u]);
            assert_eq!(gate[0], value * u);
            let (mut gate, mut up, mut dh) = ([g], [u], [d]);
            f.gate_backward(&mut gate, &mut up, &mut dh);
            assert_eq!((gate[0], up[0], dh[0]), (d * u * slope, d * value, value * u));
        }
    }
}
