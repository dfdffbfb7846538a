//! Loops over elements that apply an activation, compiled for every instruction set.

use macerator::{AutoArch, Simd, WithSimd};

use crate::Activation;

impl Activation {
    /// `elements = f(elements)`.
    pub(super) fn apply(self, elements: &mut [f32]) {
        AutoArch::new().dispatch(ElementLoop { f: self, body: Body::Apply(elements) });
    }

    /// `gate = f(gate) · up`.
    pub(super) fn gate(self, gate: &mut [f32], up: &[f32]) {
        AutoArch::new().dispatch(ElementLoop { f: self, body: Body::Gate(gate, up) });
    }

    /// Backward pass of `h = f(gate)`: replaces the gradient `dh` by `h`, and `gate` by its gradient.
    pub(super) fn backward(self, gate: &mut [f32], dh: &mut [f32]) {
        AutoArch::new().dispatch(ElementLoop { f: self, body: Body::Backward(gate, dh) });
    }

    /// Backward pass of `h = f(gate) · up`: replaces the gradient `dh` by `h`, and `gate` and `up` by their gradients.
    pub(super) fn gate_backward(self, gate: &mut [f32], up: &mut [f32], dh: &mut [f32]) {
        AutoArch::new().dispatch(ElementLoop { f: self, body: Body::GateBackward(gate, up, dh) });
    }
}

enum Body<'a> {
    Apply(&'a mut [f32]),
    Gate(&'a mut [f32], &'a [f32]),
    Backward(&'a mut [f32], &'a mut [f32]),
    GateBackward(&'a mut [f32], &'a mut [f32], &'a mut [f32]),
}

struct ElementLoop<'a> {
    f: Activation,
    body: Body<'a>,
}

impl WithSimd for ElementLoop<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        // Matched outside the loops, so that each compiles to one vector loop.
        match self.f {
            Activation::Relu => self.body.run(Activation::Relu),
            Activation::Gelu => self.body.run(Activation::Gelu),
            Activation::Silu => self.body.run(Activation::Silu),
        }
    }
}

impl Body<'_> {
    #[inline(always)]
    fn run(self, f: Activation) {
        match self {
            Body::Apply(elements) => elements.iter_mut().for_each(|x| *x = f.value(*x)),
            Body::Gate(gate, up) => {
                gate.iter_mut().zip(up).for_each(|(g, u)| *g = f.value(*g) * u);
            }
            Body::Backward(gate, dh) => {
                for (g, d) in gate.iter_mut().zip(dh) {
                    let (value, slope) = f.with_derivative(*g);
                    (*g, *d) = (*d * slope, value);
                }
            }
            Body::GateBackward(gate, up, dh) => {
                for ((g, u), d) in gate.iter_mut().zip(up).zip(dh) {
                    let (value, slope) = f.with_derivative(*g);
                    (*g, *u, *d) = (*d * *u * slope, *d * value, value * *u);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
