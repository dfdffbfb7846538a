//! What happens to a sum before it is rounded and stored. All of it in f32.
//!
//! The activations are those of the host ([`Activation`]): the same formulas, with the device's `exp`.

use core::f32::consts::FRAC_1_SQRT_2;

use cubecl::prelude::*;

use crate::cpu::Activation;

/// `f(gate) · up` of every element.
#[cube]
pub(super) fn gate_value<N: Size>(
    gate: Vector<f32, N>,
    up: Vector<f32, N>,
    #[comptime] f: Activation,
) -> Vector<f32, N> {
    let mut y = gate;
    let width = N::value();
    #[unroll]
    for at in 0..width {
        y.insert(at, value(gate.extract(at), f));
    }
    y * up
}

#[cube]
fn value(x: f32, #[comptime] f: Activation) -> f32 {
    match comptime!(f) {
        Activation::Relu => max(x, 0.0),
        Activation::Gelu => x * normal_cdf(x),
        Activation::Silu => x * sigmoid(x),
    }
}

/// `exp` is kept finite: not every device's arithmetic knows infinity.
#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + min(-x, 88.0).exp())
}

/// `Φ(x)` by the host's fit of `erfc`; the source is named there.
#[cube]
fn normal_cdf(x: f32) -> f32 {
    let z = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let fit = 0.170_872_77f32;
    let fit = fit * t - 0.822_152_23;
    let fit = fit * t + 1.488_515_9;
    let fit = fit * t - 1.135_204;
    let fit = fit * t + 0.278_868_07;
    let fit = fit * t - 0.186_288_06;
    let fit = fit * t + 0.096_784_18;
    let fit = fit * t + 0.374_091_96;
    let fit = fit * t + 1.000_023_7;
    let fit = fit * t - 1.265_512_2;
    let upper = 0.5 * t * (fit - z * z).exp();
    select(x > 0.0, 1.0 - upper, upper)
}
