//! Loops over elements that apply an activation, compiled for every instruction set.

use std::mem::MaybeUninit;

use macerator::{AutoArch, Simd, WithSimd};
use rayon::prelude::*;

use super::tasks::threads_for;
use super::{HostFloat, scratch};
use crate::Activation;

/// Elements that are converted to `f32` at once.
const PIECE: usize = 4096;

/// Multiply-adds in the time of one activation, to decide on the number of threads. Guess.
const WORK: usize = 16;

/// `f(gate) · up`, element by element.
///
/// # Panics
/// If the lengths differ.
pub fn gated_activation_into<T: HostFloat>(
    f: Activation,
    gate: &[T],
    up: &[T],
    out: &mut [MaybeUninit<T>],
) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "gate, up and out differ in length");
    let pieces = (gate.par_chunks(PIECE), up.par_chunks(PIECE), out.par_chunks_mut(PIECE));
    let at_once = if threads_for(WORK * gate.len()) == 1 { usize::MAX } else { 1 };
    pieces.into_par_iter().with_min_len(at_once).for_each(|(gate, up, out)| {
        scratch::with(2 * out.len(), |buffer| {
            let (wide_gate, wide_up) = buffer.split_at_mut(out.len());
            T::values(gate).widen_at(0, wide_gate);
            T::values(up).widen_at(0, wide_up);
            f.apply(Elements::Gated(wide_gate, wide_up));
            T::write(wide_gate, out);
        });
    });
}

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
    fn pieces_are_activated_in_their_storage_type() {
        use half::{bf16, f16};
        fn check<T: HostFloat>(len: usize, error: f32) {
            let numbers = |seed: usize| {
                let number = |at: usize| ((at * 37 + seed) % 101) as f32 / 25.0 - 2.0;
                T::narrow((0..len).map(number).collect())
            };
            let (gate, up) = (numbers(1), numbers(50));
            let mut out = vec![MaybeUninit::new(T::narrow(vec![f32::NAN])[0]); len];
            gated_activation_into(Activation::Silu, &gate, &up, &mut out);
            // SAFETY: it was initialised with NaN.
            let out: Vec<T> = out.into_iter().map(|y| unsafe { y.assume_init() }).collect();
            let exact = T::widen(&gate)
                .iter()
                .zip(&*T::widen(&up))
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect::<Vec<_>>();
            for (got, want) in T::widen(&out).iter().zip(exact) {
                assert!((got - want).abs() <= error * want.abs().max(1.0), "{got} for {want}");
            }
        }
        for len in [0, 1, 17, PIECE, 3 * PIECE + 5, 200_000] {
            check::<f32>(len, 1e-6);
            check::<f16>(len, 1e-3);
            check::<bf16>(len, 8e-3);
        }
    }

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
