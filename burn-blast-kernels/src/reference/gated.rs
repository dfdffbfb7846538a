//! Activations and gated blocks in f64, with error bounds.
//!
//! A function multiplies the error of its argument by its slope, at most 1.2 for these activations; a product multiplies
//! it by the other factor. Both are bounded by absolute sums, because `|f(x)| <= |x|`.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::Exact;
use crate::Activation;

/// Roundings that an activation in f32 may add, in units of its argument: the steps of its polynomial, and an `exp` with
/// the error that WGSL allows.
const ACTIVATION_ROUNDINGS: usize = 16;

/// Value and derivative of an activation. The derivative of `Relu` is 0 at 0.
pub fn activation(f: Activation, x: f64) -> (f64, f64) {
    match f {
        Activation::Relu => (x.max(0.0), f64::from(u8::from(x > 0.0))),
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
        Activation::Gelu => {
            let cdf = 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2));
            let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
            (x * cdf, cdf + x * density)
        }
    }
}

/// `f(sum)` of each element.
pub fn activate(sums: &[Exact], f: Activation) -> Vec<Exact> {
    sums.iter()
        .map(|sum| Exact {
            value: activation(f, sum.value).0,
            abs_sum: sum.abs_sum,
            terms: 2 * (sum.terms + 2) + ACTIVATION_ROUNDINGS,
        })
        .collect()
}

/// `h = f(gate) · up` from the exact products.
pub fn gated_hidden(gate: &[Exact], up: &[Exact], f: Activation) -> Vec<Exact> {
    activate(gate, f)
        .into_iter()
        .zip(up)
        .map(|(activated, up)| Exact {
            value: activated.value * up.value,
            abs_sum: activated.abs_sum * up.abs_sum,
            terms: activated.terms + up.terms + 4,
        })
        .collect()
}

/// Gradients of gate and up from the exact products and the gradient `dh` of `h = f(gate) · up`.
pub fn gated_gradients(gate: &[Exact], up: &[Exact], dh: &[f32], f: Activation) -> [Vec<Exact>; 2] {
    let all = || gate.iter().zip(up).zip(dh).map(|((gate, up), &dh)| (gate, up, f64::from(dh)));
    let dgate = all().map(|(gate, up, dh)| Exact {
        value: dh * up.value * activation(f, gate.value).1,
        abs_sum: dh.abs() * up.abs_sum * (1.0 + gate.abs_sum),
        terms: 2 * (gate.terms + up.terms + 4) + ACTIVATION_ROUNDINGS,
    });
    let dup = all().map(|(gate, _, dh)| Exact {
        value: dh * activation(f, gate.value).0,
        abs_sum: dh.abs() * gate.abs_sum,
        terms: 2 * (gate.terms + 2) + ACTIVATION_ROUNDINGS,
    });
    [dgate.collect(), dup.collect()]
}

/// The error function: by its power series near 0, by the continued fraction of `erfc` elsewhere.
fn erf(x: f64) -> f64 {
    let z = x.abs();
    if z > 3.0 {
        let fraction = (1..80).rev().fold(z, |tail, n| z + f64::from(n) / 2.0 / tail);
        let upper = (-z * z).exp() / PI.sqrt() / fraction;
        return (1.0 - upper).copysign(x);
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / PI.sqrt()
}
