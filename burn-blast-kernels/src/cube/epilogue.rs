//! What happens to a sum before it is rounded and stored, all in f32.
//!
//! The parts are compile-time parameters, so a product without them pays nothing. The activations have the formulas
//! of the host ([`Activation`]), with the `exp` of the device.

use core::f32::consts::FRAC_1_SQRT_2;

use cubecl::prelude::*;

use super::buffer::check_len;
use crate::Activation;
use crate::activation::ERFC_FIT;

/// What a product adds before it stores: `y = f(x · w + bias) + residual`.
#[derive(Default)]
pub struct Epilogue {
    /// `[d_output]`.
    pub bias: Option<BufferArg>,
    /// Applied to every sum with its bias.
    pub activation: Option<Activation>,
    /// `[m, d_output]`, as the result, with which it shares no memory.
    pub residual: Option<BufferArg>,
}

impl Epilogue {
    /// The bias alone, if there is one.
    pub fn bias(bias: Option<BufferArg>) -> Self {
        Self { bias, ..Self::default() }
    }

    /// # Panics
    /// If a buffer does not fit an output of `[m, output]`.
    pub(super) fn check(&self, m: usize, output: usize) {
        if let Some(bias) = &self.bias {
            check_len("bias", bias, &[output]);
        }
        if let Some(residual) = &self.residual {
            check_len("residual", residual, &[m, output]);
        }
    }
}

/// `f(x)` of every element; `x` without an activation.
#[cube]
pub(super) fn activate<N: Size>(
    x: Vector<f32, N>,
    #[comptime] f: Option<Activation>,
) -> Vector<f32, N> {
    let mut y = x;
    if comptime!(f.is_some()) {
        let width = N::value();
        #[unroll]
        for at in 0..width {
            y.insert(at, value(x.extract(at), comptime!(f.unwrap())));
        }
    }
    y
}

/// `f(gate) · up` of every element.
#[cube]
pub(super) fn gate_value<N: Size>(
    gate: Vector<f32, N>,
    up: Vector<f32, N>,
    #[comptime] f: Activation,
) -> Vector<f32, N> {
    activate(gate, comptime!(Some(f))) * up
}

/// From the gradient `dh` of `h = f(gate) · up`: the gradients of `gate` and `up`, and `h`.
#[cube]
pub(super) fn gate_gradients<N: Size>(
    gate: Vector<f32, N>,
    up: Vector<f32, N>,
    dh: Vector<f32, N>,
    #[comptime] f: Activation,
) -> (Vector<f32, N>, Vector<f32, N>, Vector<f32, N>) {
    let mut activated = Vector::<f32, N>::zeroed();
    let mut slopes = Vector::<f32, N>::zeroed();
    let width = N::value();
    #[unroll]
    for at in 0..width {
        let (value, slope) = value_and_slope(gate.extract(at), f);
        activated.insert(at, value);
        slopes.insert(at, slope);
    }
    (dh * up * slopes, dh * activated, activated * up)
}

#[cube]
fn value(x: f32, #[comptime] f: Activation) -> f32 {
    match comptime!(f) {
        Activation::Relu => max(x, 0.0),
        Activation::Gelu => x * normal_cdf(x),
        Activation::Silu => x * sigmoid(x),
    }
}

/// The derivative of `Relu` is 0 at 0.
#[cube]
fn value_and_slope(x: f32, #[comptime] f: Activation) -> (f32, f32) {
    match comptime!(f) {
        Activation::Relu => {
            let value = max(x, 0.0);
            let slope = f32::cast_from(x > 0.0);
            (value, slope)
        }
        Activation::Gelu => {
            let cdf = normal_cdf(x);
            let power = 0.5 * x * x;
            // 1 / sqrt(2 pi)
            let density = 0.398_942_3 * (-power).exp();
            let value = x * cdf;
            let slope = cdf + x * density;
            (value, slope)
        }
        Activation::Silu => {
            let s = sigmoid(x);
            let value = x * s;
            let slope = s * (1.0 + x * (1.0 - s));
            (value, slope)
        }
    }
}

/// `exp` is kept finite: not every device has infinity.
#[cube]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + min(-x, 88.0).exp())
}

/// `Φ(x)` by the fit of `erfc` that the host uses.
#[cube]
fn normal_cdf(x: f32) -> f32 {
    let z = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let mut fit = ERFC_FIT[0].runtime();
    #[unroll]
    for at in 0..comptime!(ERFC_FIT.len() - 1) {
        fit = fit * t + comptime!(ERFC_FIT[at + 1]);
    }
    let upper = 0.5 * t * (fit - z * z).exp();
    select(x > 0.0, 1.0 - upper, upper)
}
