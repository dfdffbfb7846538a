//! What a tile computes with: multiply-adds of `f32` on every instruction set, or dot products of pairs of `bf16` and of
//! four 8-bit integers where a processor has them.
//!
//! All work on 32-bit words. A word is an `f32`, or has several smaller elements that are neighbours along the inner
//! dimension of the product. So tiles, panels and blocks differ in the number of words along that dimension, and integers
//! have scales besides.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_mm256_stream_ps, _mm512_stream_ps};
use std::marker::PhantomData;
#[cfg(target_arch = "x86_64")]
use std::mem::transmute_copy;

use macerator::{AutoArch, Scalar, Simd, VMulAdd, Vector, WithSimd};
use macerator::{vload_low, vload_unaligned, vstore_low, vstore_unaligned};

/// Multiply-adds of the matrix unit in the time of one of the vector units, with what is around them. Guess.
const TILE_RATE: usize = 8;

/// The content of the words of an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    /// One `f32`.
    Single,
    /// Two `bf16`, the first in the lower half.
    Pair,
    /// As [`Pair`](Self::Pair), multiplied in the matrix unit.
    Tile,
    /// Four 8-bit integers, the first in the lowest byte: of the weight with their sign, of the input with 128 added.
    Quad,
}

impl Words {
    /// Words of a row of `width` elements along the inner dimension.
    #[inline(always)]
    pub(super) fn of(self, width: usize) -> usize {
        match self {
            Words::Single => width,
            Words::Pair | Words::Tile => width.div_ceil(2),
            Words::Quad => width.div_ceil(4),
        }
    }

    /// How many multiply-adds of `f32` take as long as `multiply_adds` of these words. The number of threads depends on it.
    pub(super) fn work(self, multiply_adds: usize) -> usize {
        if self == Words::Tile { multiply_adds / TILE_RATE } else { multiply_adds }
    }

    /// Words of a row of a panel. Behind integers is their scale.
    #[inline(always)]
    pub(super) fn row_len(self, b: usize) -> usize {
        self.of(b) + usize::from(self == Words::Quad)
    }

    /// Words of a block. Behind integers is what the 128 in the input add to each column, negative.
    #[inline(always)]
    pub(super) fn block_len(self, b: usize) -> usize {
        self.of(b * b) + if self == Words::Quad { b } else { 0 }
    }
}

/// The vectors of an instruction set, and one step of a sum of products of words.
///
/// The vectors exist only inside [`run`], which chooses an instruction set that this machine has. With `HALF`, only the
/// lower half of a vector is read or written.
pub(super) trait Arithmetic {
    type Vector: Copy;
    const WORDS: Words;

    /// Words of a vector.
    fn lanes() -> usize;
    fn splat(word: f32) -> Self::Vector;
    fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `sum + left · right`, for each lane.
    fn multiply_add(left: Self::Vector, right: Self::Vector, sum: Self::Vector) -> Self::Vector;
    /// `sum + scale · integers`, where `integers` are what [`multiply_add`](Self::multiply_add) sums.
    fn add_scaled(integers: Self::Vector, scale: Self::Vector, sum: Self::Vector) -> Self::Vector;
    /// # Safety
    /// The words must be readable at `ptr`.
    unsafe fn load<const HALF: bool>(ptr: *const f32) -> Self::Vector;
    /// # Safety
    /// The words must be writable at `ptr`.
    unsafe fn store<const HALF: bool>(ptr: *mut f32, vector: Self::Vector);
    /// Stores past the caches, where the machine can.
    ///
    /// # Safety
    /// As [`store`](Self::store), with `ptr` at a multiple of a cache line, and a [fence](super::microkernel::stream_fence)
    /// before another thread reads.
    unsafe fn stream(ptr: *mut f32, vector: Self::Vector);
}

/// Multiply-adds of `f32`.
pub(super) struct Singles<S>(PhantomData<S>);

impl<S: Simd> Arithmetic for Singles<S> {
    type Vector = Vector<S, f32>;
    const WORDS: Words = Words::Single;

    #[inline(always)]
    fn lanes() -> usize {
        f32::lanes::<S>()
    }

    #[inline(always)]
    fn splat(word: f32) -> Self::Vector {
        word.splat::<S>()
    }

    #[inline(always)]
    fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        a + b
    }

    #[inline(always)]
    fn multiply_add(left: Self::Vector, right: Self::Vector, sum: Self::Vector) -> Self::Vector {
        f32::vmul_add(left, right, sum)
    }

    #[inline(always)]
    fn add_scaled(_: Self::Vector, _: Self::Vector, _: Self::Vector) -> Self::Vector {
        unreachable!("sums are no integers")
    }

    #[inline(always)]
    unsafe fn load<const HALF: bool>(ptr: *const f32) -> Self::Vector {
        // SAFETY: the caller's.
        unsafe { if HALF { vload_low(ptr) } else { vload_unaligned(ptr) } }
    }

    #[inline(always)]
    unsafe fn store<const HALF: bool>(ptr: *mut f32, vector: Self::Vector) {
        // SAFETY: the caller's.
        unsafe { if HALF { vstore_low(ptr, vector) } else { vstore_unaligned(ptr, vector) } }
    }

    #[inline(always)]
    unsafe fn stream(ptr: *mut f32, vector: Self::Vector) {
        // SAFETY: the caller's; a vector of this many lanes is this register.
        unsafe {
            match Self::lanes() {
                #[cfg(target_arch = "x86_64")]
                16 => _mm512_stream_ps(ptr, transmute_copy(&vector)),
                #[cfg(target_arch = "x86_64")]
                8 => _mm256_stream_ps(ptr, transmute_copy(&vector)),
                _ => vstore_unaligned(ptr, vector),
            }
        }
    }
}

/// A loop over tiles.
pub(super) trait TileLoop {
    /// # Safety
    /// - what the loop itself asks for
    /// - its operands hold the words of `A`
    unsafe fn run<A: Arithmetic>(self);
}

/// Runs a loop in the best instruction set of this machine.
///
/// # Safety
/// As [`TileLoop::run`]. Operands of pairs and quads exist only where this machine has their dot products.
#[inline]
pub(super) unsafe fn run(words: Words, tiles: impl TileLoop) {
    match words {
        Words::Single => AutoArch::new().dispatch(InSingles(tiles)),
        // SAFETY: the caller's.
        Words::Pair => unsafe { super::dot::run_pairs(tiles) },
        // SAFETY: the caller's.
        Words::Quad => unsafe { super::dot::run_quads(tiles) },
        Words::Tile => unreachable!("the matrix unit has loops of its own"),
    }
}

struct InSingles<T>(T);

impl<T: TileLoop> WithSimd for InSingles<T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        // SAFETY: the caller's of `run`.
        unsafe { self.0.run::<Singles<S>>() };
    }
}
