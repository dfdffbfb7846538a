//! Loops over elements that apply an activation, compiled for every instruction set.

use macerator::{AutoArch, Simd, WithSimd};

use crate::Activation;

/// What an activation is applied to, in place.
pub(super) enum Elements<'a> {
    /// `x = f(x)`.
    Plain(&'a mut [f32]),
    /// `gate = f(gate) · up`.
    Gated(&'a mut [f32], &'a [f32]),
    /// Backward pass of `h = f(gate)`: replaces the gradient `dh` by `h`, and `gate` by its gradient.
    PlainBackward(&'a mut [f32], &'a mut [f32]),
    /// Backward pass of `h = f(gate) · up`: replaces the gradient `dh` by `h`, and `gate` and `up` by their gradients.
    GatedBackward(&'a mut [f32], &'a mut [f32], &'a mut [f32]),
}

impl Activation {
    pub(super) fn apply(self, elements: Elements<'_>) {
        AutoArch::new().dispatch(ElementLoop { f: self, elements });
    }
}

struct ElementLoop<'a> {
    f: Activation,
    elements: Elements<'a>,
}

impl WithSimd for ElementLoop<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        // Matched outside the loops, so that each compiles to one vector loop.
        match self.f {
            Activation::Relu => self.elements.run(Activation::Relu),
            Activation::Gelu => self.elements.run(Activation::Gelu),
            Activation::Silu => self.elements.run(Activation::Silu),
        }
    }
}

impl Elements<'_> {
    #[inline(always)]
    fn run(self, f: Activation) {
        match self {
            Elements::Plain(elements) => elements.iter_mut().for_each(|x| *x = f.value(*x)),
            Elements::Gated(gate, up) => {
                gate.iter_mut().zip(up).for_each(|(g, u)| *g = f.value(*g) * u);
            }
            Elements::PlainBackward(gate, dh) => {
                for (g, d) in gate.iter_mut().zip(dh) {
                    let (value, slope) = f.with_derivative(*g);
                    (*g, *d) = (*d * slope, value);
                }
            }
            Elements::GatedBackward(gate, up, dh) => {
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
            f.apply(Elements::Gated(&mut gate, &[u]));
            assert_eq!(gate[0], value * u);
            let (mut gate, mut up, mut dh) = ([g], [u], [d]);
            f.apply(Elements::GatedBackward(&mut gate, &mut up, &mut dh));
            assert_eq!((gate[0], up[0], dh[0]), (d * u * slope, d * value, value * u));
        }
    }
}
