//! Attention of one position of each text to the keys and values in a cache.
//!
//! In decoding, a product of Burn copies the part of the cache that it sees, once for the keys and once for the values of
//! every layer: at some hundred positions more than all weights of a small model. This reads the cache where it is.

use std::mem::MaybeUninit;
use std::ops::Range;

use macerator::{AutoArch, Simd, WithSimd};

use super::lanes::{LANES, largest};
use super::softmax::shares;
use super::tasks::{SharedOut, run_tasks, threads_for};
use super::{HostFloat, Values, scratch};

/// Positions whose keys or values are converted, or stay in the first-level cache, at a time.
const POSITIONS: usize = 64;

/// Sizes of a cache of keys and values, and what is seen of it.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedAttention {
    /// Heads of the query.
    pub heads: usize,
    /// Heads of keys and values; as many queries share each.
    pub kv_heads: usize,
    /// Features of a head.
    pub head: usize,
    /// Positions that the cache has room for.
    pub capacity: usize,
    /// Positions that the query sees.
    pub seen: Range<usize>,
    /// Factor of the scores.
    pub scale: f32,
}

impl CachedAttention {
    /// Writes `softmax(scale · query · keysᵀ) · values` over the seen positions to `out`. Sums are in f32.
    ///
    /// # Shapes
    /// - `query`, `out`: `[batch, heads, head]`
    /// - `keys`, `values`: `[batch, kv_heads, capacity, head]`
    ///
    /// # Panics
    /// If a slice has another length, heads cannot be shared evenly, or no position inside the cache is seen.
    pub fn write<T: HostFloat>(
        &self,
        query: &[T],
        keys: &[T],
        values: &[T],
        out: &mut [MaybeUninit<T>],
    ) {
        let Self { heads, kv_heads, head, capacity, ref seen, .. } = *self;
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "heads must share keys evenly");
        assert!(!seen.is_empty() && seen.end <= capacity, "positions in the cache must be seen");
        assert_eq!(query.len(), out.len(), "out must be like query");
        if query.is_empty() {
            return;
        }
        assert!(query.len().is_multiple_of(heads * head), "query must be [batch, heads, head]");
        let batch = query.len() / (heads * head);
        let cached = batch * kv_heads * capacity * head;
        assert_eq!((keys.len(), values.len()), (cached, cached), "a cache has another size");
        let sharing = heads / kv_heads;
        let query = T::widen(query);
        let (keys, values, out) = (T::values(keys), T::values(values), SharedOut::new(out));
        let threads = threads_for(2 * batch * heads * head * seen.len());
        run_tasks((0..batch * kv_heads).collect(), threads, |group| {
            let first = group * sharing * head;
            let lengths = [sharing * seen.len(), sharing * head, POSITIONS * head];
            scratch::with(lengths.iter().sum(), |room| {
                let (scores, room) = room.split_at_mut(lengths[0]);
                let (sums, room) = room.split_at_mut(lengths[1]);
                let start = (group * capacity + seen.start) * head;
                let query = &query[first..first + sums.len()];
                let one = Group { query, head, scale: self.scale, keys, values, start };
                one.compute(scores, sums, room);
                // SAFETY: the heads of this group, which no other task writes.
                let out = unsafe { out.uninit(first, sums.len()) };
                T::write(sums, out);
            });
        });
    }
}

/// The queries that share keys.
struct Group<'a> {
    /// `[sharing, head]`.
    query: &'a [f32],
    head: usize,
    scale: f32,
    keys: Values<'a>,
    values: Values<'a>,
    /// Element of the cache at which its first seen position starts.
    start: usize,
}

impl Group<'_> {
    /// Writes the mixed values `[sharing, head]` to `sums`. `scores` is `[sharing, seen]`, `room` has [`POSITIONS`] positions.
    fn compute(&self, scores: &mut [f32], sums: &mut [f32], room: &mut [f32]) {
        let seen = scores.len() / (self.query.len() / self.head);
        let pieces = |at: usize| at..seen.min(at + POSITIONS);
        for positions in (0..seen).step_by(POSITIONS).map(pieces) {
            let keys = self.piece(self.keys, &positions, room);
            let Self { query, head, scale, .. } = *self;
            AutoArch::new().dispatch(Scores { query, keys, head, scale, positions, scores });
        }
        for row in scores.chunks_exact_mut(seen) {
            AutoArch::new().dispatch(Shares(row));
        }
        sums.fill(0.0);
        for positions in (0..seen).step_by(POSITIONS).map(pieces) {
            let values = self.piece(self.values, &positions, room);
            AutoArch::new().dispatch(Mix { scores, values, head: self.head, positions, sums });
        }
    }

    /// Some positions of the cache in f32: where they are, or converted to `room`.
    fn piece<'b>(
        &self,
        cache: Values<'b>,
        positions: &Range<usize>,
        room: &'b mut [f32],
    ) -> &'b [f32] {
        let (start, len) = (self.start + positions.start * self.head, positions.len() * self.head);
        if let Values::F32(cache) = cache {
            return &cache[start..start + len];
        }
        let room = &mut room[..len];
        cache.widen_at(start, room);
        room
    }
}

/// Writes the scores of some positions.
struct Scores<'a> {
    query: &'a [f32],
    keys: &'a [f32],
    head: usize,
    scale: f32,
    positions: Range<usize>,
    /// `[sharing, seen]`.
    scores: &'a mut [f32],
}

impl WithSimd for Scores<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { query, keys, head, scale, positions, scores } = self;
        let seen = scores.len() / (query.len() / head);
        for (query, scores) in query.chunks_exact(head).zip(scores.chunks_exact_mut(seen)) {
            let scores = &mut scores[positions.clone()];
            for (key, score) in keys.chunks_exact(head).zip(scores) {
                *score = scale * dot(query, key);
            }
        }
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += a * b;
    }
    // By halves, which a vector unit adds at once.
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The softmax of a row, in place.
struct Shares<'a>(&'a mut [f32]);

impl WithSimd for Shares<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let highest = largest(self.0);
        shares(self.0, highest);
    }
}

/// Adds the values of some positions, each times its share.
struct Mix<'a> {
    /// `[sharing, seen]`.
    scores: &'a [f32],
    values: &'a [f32],
    head: usize,
    positions: Range<usize>,
    /// `[sharing, head]`.
    sums: &'a mut [f32],
}

impl WithSimd for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { scores, values, head, positions, sums } = self;
        let seen = scores.len() / (sums.len() / head);
        for (scores, sums) in scores.chunks_exact(seen).zip(sums.chunks_exact_mut(head)) {
            let shares = &scores[positions.clone()];
            for (part, sums) in sums.chunks_mut(LANES).enumerate() {
                let mut lanes = [0.0; LANES];
                for (share, value) in shares.iter().zip(values.chunks_exact(head)) {
                    let value = &value[part * LANES..][..sums.len()];
                    // A part of known length stays in a register.
                    match <&[f32; LANES]>::try_from(value) {
                        Ok(value) => {
                            for (lane, value) in lanes.iter_mut().zip(value) {
                                *lane += share * value;
                            }
                        }
                        Err(_) => {
                            for (lane, value) in lanes.iter_mut().zip(value) {
                                *lane += share * value;
                            }
                        }
                    }
                }
                for (sum, lane) in sums.iter_mut().zip(lanes) {
                    *sum += lane;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn numbers(len: usize, salt: usize) -> Vec<f32> {
        (0..len).map(|at| ((at * 7919 + salt * 104_729) % 2003) as f32 / 500.0 - 2.0).collect()
    }

    /// The outputs, and how far each may be off in units of the last place of a sum.
    fn oracle(
        sizes: &CachedAttention,
        query: &[f32],
        keys: &[f32],
        values: &[f32],
    ) -> Vec<(f64, f64)> {
        let CachedAttention { heads, kv_heads, head, capacity, ref seen, scale } = *sizes;
        let wide = |slice: &[f32]| slice.iter().copied().map(f64::from).collect::<Vec<_>>();
        let mut out = Vec::new();
        for (at, query) in query.chunks(head).enumerate() {
            let group = at / heads * kv_heads + at % heads / (heads / kv_heads);
            let row = |cache: &[f32], position: usize| {
                wide(&cache[(group * capacity + position) * head..][..head])
            };
            let score = |position| {
                let products = wide(query).into_iter().zip(row(keys, position));
                products.map(|(q, k)| q * k).sum::<f64>() * f64::from(scale)
            };
            let scores: Vec<f64> = seen.clone().map(score).collect();
            let highest = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - highest).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut sums = vec![(0.0, 0.0); head];
            for (position, weight) in seen.clone().zip(weights) {
                for (sum, value) in sums.iter_mut().zip(row(values, position)) {
                    sum.0 += weight / total * value;
                    sum.1 += weight / total * value.abs();
                }
            }
            out.extend(sums);
        }
        out
    }

    fn check<T: HostFloat>(
        sizes: &CachedAttention,
        batch: usize,
        round: impl Fn(f32) -> T,
        unit: f64,
    ) {
        let CachedAttention { heads, kv_heads, head, capacity, ref seen, .. } = *sizes;
        let stored = |numbers: Vec<f32>| numbers.into_iter().map(&round).collect::<Vec<T>>();
        let hidden = |mut cache: Vec<f32>| {
            for (row, features) in cache.chunks_mut(head).enumerate() {
                if !seen.contains(&(row % capacity)) {
                    features.fill(f32::NAN);
                }
            }
            cache
        };
        let cached = batch * kv_heads * capacity * head;
        let query = stored(numbers(batch * heads * head, 1));
        let keys = stored(hidden(numbers(cached, 2)));
        let values = stored(hidden(numbers(cached, 3)));
        let mut out = vec![round(f32::NAN); query.len()];
        // SAFETY: of the same layout; what is not written stays a number that is none.
        let room =
            unsafe { &mut *(std::ptr::from_mut(out.as_mut_slice()) as *mut [MaybeUninit<T>]) };
        sizes.write(&query, &keys, &values, room);
        let wide = |slice: &[T]| T::widen(slice).into_owned();
        let expected = oracle(sizes, &wide(&query), &wide(&keys), &wide(&values));
        // A score is a sum of `head` products of at most 4, and its error is a relative error of a share.
        let f32_unit = f64::from(f32::EPSILON);
        let score = f32_unit * 4.0 * f64::from(sizes.scale) * (head * (head + 8)) as f64;
        let slack = score + f32_unit * (seen.len() + 8) as f64;
        for (found, (sum, size)) in wide(&out).into_iter().zip(expected) {
            let bound = slack * size + unit * sum.abs() + 1e-30;
            assert!((f64::from(found) - sum).abs() <= bound, "{sizes:?}: {found} {sum} {bound}");
        }
    }

    #[test]
    fn it_is_near_the_oracle_and_reads_what_is_seen_only() {
        for (heads, kv_heads, head) in
            [(1, 1, 1), (2, 2, 8), (6, 2, 17), (9, 3, 64), (4, 1, 80), (8, 8, 15)]
        {
            for (capacity, seen) in
                [(1, 0..1), (4, 1..3), (64, 0..63), (64, 0..64), (80, 3..68), (256, 0..131)]
            {
                for batch in [1, 3] {
                    let scale = (head as f32).sqrt().recip();
                    let seen = seen.clone();
                    let sizes = CachedAttention { heads, kv_heads, head, capacity, seen, scale };
                    check(&sizes, batch, |x| x, 0.0);
                    check(&sizes, batch, bf16::from_f32, 1.0 / 256.0);
                    check(&sizes, batch, f16::from_f32, 1.0 / 2048.0);
                }
            }
        }
    }

    #[test]
    fn many_positions_are_shared_among_threads() {
        let sizes = CachedAttention {
            heads: 8,
            kv_heads: 4,
            head: 64,
            capacity: 3000,
            seen: 0..2900,
            scale: 0.125,
        };
        check(&sizes, 2, |x| x, 0.0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let good =
            CachedAttention { heads: 4, kv_heads: 2, head: 8, capacity: 4, seen: 0..3, scale: 1.0 };
        let panics = |sizes: CachedAttention, query: usize, cached: usize| {
            std::panic::catch_unwind(move || {
                let mut out = vec![MaybeUninit::uninit(); query];
                let (query, cache) = (vec![1.0; query], vec![1.0; cached]);
                sizes.write(&query, &cache, &cache, &mut out);
            })
            .is_err()
        };
        assert!(!panics(good.clone(), 32, 64));
        assert!(!panics(good.clone(), 0, 0));
        assert!(panics(good.clone(), 32, 63));
        assert!(panics(good.clone(), 31, 64));
        for bad in [
            CachedAttention { kv_heads: 3, ..good.clone() },
            CachedAttention { kv_heads: 0, ..good.clone() },
            CachedAttention { seen: 2..2, ..good.clone() },
            CachedAttention { seen: 0..5, ..good.clone() },
        ] {
            assert!(panics(bad.clone(), 32, 64), "{bad:?}");
        }
    }
}
