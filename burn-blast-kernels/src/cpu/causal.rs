//! Causal attention by the products of a block-sparse weight. Scores exist only in the blocks that some query sees, which without
//! a window is about half of them, and for one head of one text at a time in each thread.
//!
//! Scores and their shares are the values of a pattern over `[time, span]`, with features as rows of the other factors:
//! `queryᵀ`, `keysᵀ` and `valuesᵀ` are `[head, time or span]`.

use std::mem::MaybeUninit;

use macerator::{AutoArch, Simd, WithSimd};
use rayon::prelude::*;

use super::lanes::{Lanes, largest};
use super::scratch;
use super::sddmm::sddmm;
use super::softmax::shares;
use super::spmm::{spmm, spmm_t};
use super::transpose::transpose;
use crate::{BlockMask, BlockPattern, BlockSize, MatrixShape};

/// Side of a block of scores: the smallest that matrix units take, since blocks on the diagonal are half unused.
const BLOCK: usize = 32;

/// Attention of the last `time` of `span` positions to themselves and those before them.
#[derive(Debug, Clone, PartialEq)]
pub struct CausalAttention {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values. As many query heads share each.
    pub kv_heads: usize,
    /// Features of a head.
    pub head: usize,
    /// Positions of the queries: the last ones.
    pub time: usize,
    /// Positions of keys and values.
    pub span: usize,
    /// Positions that a query sees, itself and those before it; all without it.
    pub window: Option<usize>,
    /// Factor of the scores.
    pub scale: f32,
}

impl CausalAttention {
    /// `softmax(scale · query · keysᵀ) · values`, written to `out`.
    ///
    /// # Shapes
    /// - `query`, `out`: `[batch, heads, time, head]`
    /// - `keys`, `values`: `[batch, kv_heads, span, head]`
    ///
    /// # Panics
    /// If a slice has another length, or sizes do not fit each other.
    pub fn write(&self, query: &[f32], keys: &[f32], values: &[f32], out: &mut [MaybeUninit<f32>]) {
        assert_eq!(out.len(), query.len(), "out must be like query");
        self.check(query, keys, values);
        if out.is_empty() {
            return;
        }
        let pattern = self.pattern();
        let (q, kv) = (self.time * self.head, self.span * self.head);
        out.par_chunks_exact_mut(q).enumerate().for_each(|(at, out)| {
            let of = self.kv_head(at) * kv;
            let [keys, values] = [keys, values].map(|all| self.transposed(&all[of..of + kv]));
            let query = self.transposed(&query[at * q..(at + 1) * q]);
            let shares = self.shares(&query, &keys, &pattern);
            let mixed = spmm_t(&values, &shares, &pattern, self.head);
            // SAFETY: every element is written below.
            let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [f32]) };
            transpose(&mixed, out, [self.head, self.time]);
        });
    }

    /// Gradients of query, keys and values, in this order, from the gradient `dy` of the result. Shares are computed again.
    ///
    /// # Shapes
    /// - `dy`: `[batch, heads, time, head]`; others as in [`write`](Self::write)
    ///
    /// # Panics
    /// As [`write`](Self::write).
    pub fn gradients(
        &self,
        query: &[f32],
        keys: &[f32],
        values: &[f32],
        dy: &[f32],
    ) -> [Vec<f32>; 3] {
        assert_eq!(dy.len(), query.len(), "dy must be like query");
        self.check(query, keys, values);
        let (mut dquery, mut dkeys, mut dvalues) =
            (vec![0.0; query.len()], vec![0.0; keys.len()], vec![0.0; values.len()]);
        if !query.is_empty() {
            let pattern = self.pattern();
            let (q, group) = (self.time * self.head, self.heads / self.kv_heads);
            let kv = self.span * self.head;
            let heads = dquery.par_chunks_exact_mut(q).enumerate().map(|(at, dquery)| {
                let (own, of) = (at * q..(at + 1) * q, self.kv_head(at) * kv);
                let [query, dy] = [query, dy].map(|all| self.transposed(&all[own.clone()]));
                let [keys, values] = [keys, values].map(|all| self.transposed(&all[of..of + kv]));
                let head = Head { attention: self, pattern: &pattern, query, keys, values };
                head.gradients(&dy, dquery)
            });
            // The query heads that share keys are added in their order.
            let heads: Vec<[Vec<f32>; 2]> = heads.collect();
            for (which, all) in [&mut dkeys, &mut dvalues].into_iter().enumerate() {
                all.par_chunks_exact_mut(kv).zip(heads.par_chunks_exact(group)).for_each(
                    |(to, heads)| {
                        let mut sum = heads[0][which].clone();
                        for head in &heads[1..] {
                            sum.iter_mut().zip(&head[which]).for_each(|(sum, more)| *sum += more);
                        }
                        transpose(&sum, to, [self.head, self.span]);
                    },
                );
            }
        }
        [dquery, dkeys, dvalues]
    }

    /// Checks sizes and lengths.
    fn check(&self, query: &[f32], keys: &[f32], values: &[f32]) {
        let Self { heads, kv_heads, head, time, span, window, .. } = *self;
        assert!(heads > 0 && head > 0 && time > 0, "there must be heads, features and queries");
        assert!(time <= span, "{time} queries cannot be the last of {span} positions");
        assert!(window != Some(0), "a window must have a position");
        assert!(kv_heads > 0 && heads.is_multiple_of(kv_heads), "heads must share keys evenly");
        let texts = query.len() / (heads * time * head);
        assert_eq!(query.len(), texts * heads * time * head, "query must be [.., time, head]");
        for (name, cached) in [("keys", keys), ("values", values)] {
            assert_eq!(
                cached.len(),
                texts * kv_heads * span * head,
                "{name} must be [.., span, head]"
            );
        }
    }

    /// The blocks of scores that some query sees.
    fn pattern(&self) -> BlockPattern {
        let shape = MatrixShape::new(self.time, self.span).expect("there are positions");
        let block = BlockSize::new(BLOCK).expect("a block size");
        let cols = shape.block_cols(block);
        let is_seen = |at: &usize| {
            let (row, col) = (at / cols * BLOCK, at % cols * BLOCK);
            let (first, last) = (self.seen(row), self.seen((row + BLOCK).min(self.time) - 1));
            col < last.end && col + BLOCK > first.start
        };
        let seen = (0..shape.block_rows(block) * cols).filter(is_seen);
        BlockPattern::from_mask(&BlockMask::from_indices(shape, block, seen))
    }

    /// Positions that a query sees.
    fn seen(&self, query: usize) -> std::ops::Range<usize> {
        let end = self.span - self.time + query + 1;
        end.saturating_sub(self.window.unwrap_or(end))..end
    }

    fn kv_head(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }

    /// `[positions, head]` as `[head, positions]`.
    fn transposed(&self, rows: &[f32]) -> Vec<f32> {
        let mut columns = vec![0.0; rows.len()];
        transpose(rows, &mut columns, [rows.len() / self.head, self.head]);
        columns
    }

    /// `softmax(scale · query · keysᵀ)` at the blocks of the pattern, zero where a query does not see.
    fn shares(&self, query: &[f32], keys: &[f32], pattern: &BlockPattern) -> Vec<f32> {
        let mut values = sddmm(query, keys, pattern, self.head);
        scratch::with(self.span, |row| {
            let attention = self;
            AutoArch::new().dispatch(Softmax { attention, pattern, values: &mut values, row });
        });
        values
    }
}

/// Positions of a row of scores in the values of its blocks, and the first column of each.
fn segments(pattern: &BlockPattern, row: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
    let (block_row, inside) = (row / BLOCK, row % BLOCK);
    let entries = pattern.row_ptr()[block_row] as usize..pattern.row_ptr()[block_row + 1] as usize;
    entries.map(move |entry| {
        let slot = pattern.slot()[entry] as usize;
        (slot * BLOCK * BLOCK + inside * BLOCK, pattern.col_idx()[entry] as usize * BLOCK)
    })
}

struct Softmax<'a> {
    attention: &'a CausalAttention,
    pattern: &'a BlockPattern,
    values: &'a mut [f32],
    /// Room for the scores of a query.
    row: &'a mut [f32],
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { attention, pattern, values, row } = self;
        for query in 0..attention.time {
            let seen = attention.seen(query);
            let row = &mut row[..seen.len()];
            for (at, col) in segments(pattern, query) {
                let part = seen.start.max(col)..seen.end.min(col + BLOCK);
                if part.is_empty() {
                    continue;
                }
                let scores = &values[at + part.start - col..at + part.end - col];
                for (to, score) in row[part.start - seen.start..].iter_mut().zip(scores) {
                    *to = score * attention.scale;
                }
            }
            let highest = largest(row);
            shares(row, highest);
            for (at, col) in segments(pattern, query) {
                let block = &mut values[at..at + BLOCK];
                block.fill(0.0);
                let part = seen.start.max(col)..seen.end.min(col + BLOCK);
                if !part.is_empty() {
                    let from = &row[part.start - seen.start..part.end - seen.start];
                    block[part.start - col..part.end - col].copy_from_slice(from);
                }
            }
        }
    }
}

/// A query head with its keys and values, `[head, positions]`.
struct Head<'a> {
    attention: &'a CausalAttention,
    pattern: &'a BlockPattern,
    query: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Head<'_> {
    /// Writes the gradient of the query, `[time, head]`, and returns what it adds to the gradients of keys and values,
    /// `[head, span]`.
    fn gradients(&self, dy: &[f32], dquery: &mut [f32]) -> [Vec<f32>; 2] {
        let Self { attention, pattern, query, keys, values } = self;
        let head = attention.head;
        let shares = attention.shares(query, keys, pattern);
        let mut scores = sddmm(dy, values, pattern, head);
        AutoArch::new().dispatch(SoftmaxBackward {
            attention,
            pattern,
            shares: &shares,
            gradient: &mut scores,
        });
        transpose(&spmm_t(keys, &scores, pattern, head), dquery, [head, attention.time]);
        [spmm(query, &scores, None, pattern, head), spmm(dy, &shares, None, pattern, head)]
    }
}

/// Replaces the gradient of shares by the gradient of the products of queries and keys.
struct SoftmaxBackward<'a> {
    attention: &'a CausalAttention,
    pattern: &'a BlockPattern,
    shares: &'a [f32],
    gradient: &'a mut [f32],
}

impl WithSimd for SoftmaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self) {
        let Self { attention, pattern, shares, gradient } = self;
        for query in 0..attention.time {
            let mut sums = Lanes::default();
            for (at, _) in segments(pattern, query) {
                let (shares, gradient) = (&shares[at..at + BLOCK], &gradient[at..at + BLOCK]);
                for (shares, gradient) in
                    shares.chunks(sums.0.len()).zip(gradient.chunks(sums.0.len()))
                {
                    for (sum, (share, gradient)) in
                        sums.0.iter_mut().zip(shares.iter().zip(gradient))
                    {
                        *sum += share * gradient;
                    }
                }
            }
            let mean = sums.sum() as f32;
            for (at, _) in segments(pattern, query) {
                let both = gradient[at..at + BLOCK].iter_mut().zip(&shares[at..at + BLOCK]);
                both.for_each(|(gradient, share)| {
                    *gradient = share * (*gradient - mean) * attention.scale;
                });
            }
        }
    }
}
