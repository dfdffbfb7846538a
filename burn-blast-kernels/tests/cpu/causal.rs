//! Causal attention and its gradients against plain loops in f64.

use std::mem::MaybeUninit;

use burn_blast_kernels::cpu::CausalAttention;

use super::common::numbers;

/// The result, and the gradients of query, keys and values.
type Results = [Vec<f64>; 4];

struct Case {
    sizes: CausalAttention,
    query: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn new(sizes: CausalAttention, texts: usize) -> Self {
        let CausalAttention { heads, kv_heads, head, time, span, .. } = sizes;
        let (q, kv) = (texts * heads * time * head, texts * kv_heads * span * head);
        let [query, dy] = [1, 2].map(|seed| numbers(q, seed));
        let [keys, values] = [3, 4].map(|seed| numbers(kv, seed));
        Self { sizes, query, keys, values, dy }
    }

    fn found(&self) -> Results {
        let Self { sizes, query, keys, values, dy } = self;
        let mut out = vec![MaybeUninit::new(f32::NAN); query.len()];
        sizes.write(query, keys, values, &mut out);
        // SAFETY: it was initialised with NaN.
        let y: Vec<f32> = out.into_iter().map(|y| unsafe { y.assume_init() }).collect();
        let [dquery, dkeys, dvalues] = sizes.gradients(query, keys, values, dy);
        [y, dquery, dkeys, dvalues].map(|all| all.into_iter().map(f64::from).collect())
    }

    fn expected(&self) -> Results {
        let CausalAttention { heads, kv_heads, head, time, span, window, scale } = self.sizes;
        let at = |from: &[f32], row: usize, feature: usize| f64::from(from[row * head + feature]);
        let [mut y, mut dquery, mut dkeys, mut dvalues] =
            [&self.query, &self.query, &self.keys, &self.values].map(|like| vec![0.0; like.len()]);
        for row in 0..self.query.len() / head {
            let (text_head, query) = (row / time, row % time);
            let shared = text_head / (heads / kv_heads) * span;
            let position = span - time + query;
            let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
            let seen: Vec<usize> = (first..=position).map(|key| shared + key).collect();
            let dot = |a: &[f32], b: &[f32], key: usize| -> f64 {
                (0..head).map(|f| at(a, row, f) * at(b, key, f)).sum()
            };
            let weights: Vec<f64> = seen
                .iter()
                .map(|key| (f64::from(scale) * dot(&self.query, &self.keys, *key)).exp())
                .collect();
            let total: f64 = weights.iter().sum();
            let shares: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
            let dshares: Vec<f64> =
                seen.iter().map(|key| dot(&self.dy, &self.values, *key)).collect();
            let mean: f64 = shares.iter().zip(&dshares).map(|(share, d)| share * d).sum();
            for ((key, share), dshare) in seen.iter().zip(shares).zip(dshares) {
                let dscore = f64::from(scale) * share * (dshare - mean);
                for f in 0..head {
                    y[row * head + f] += share * at(&self.values, *key, f);
                    dquery[row * head + f] += dscore * at(&self.keys, *key, f);
                    dkeys[key * head + f] += dscore * at(&self.query, row, f);
                    dvalues[key * head + f] += share * at(&self.dy, row, f);
                }
            }
        }
        [y, dquery, dkeys, dvalues]
    }

    fn check(&self) {
        let names = ["y", "dquery", "dkeys", "dvalues"];
        for ((name, found), expected) in names.iter().zip(self.found()).zip(self.expected()) {
            assert_eq!(found.len(), expected.len());
            let largest = expected.iter().fold(1e-3_f64, |all, x| all.max(x.abs()));
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // Sums of up to `span` terms; also refuses NaN.
                let close = (found - expected).abs() <= 2e-5 * largest;
                assert!(close, "{name} {at} of {:?}: {found} for {expected}", self.sizes);
            }
        }
    }
}

fn sizes(
    [heads, kv_heads, head, time, span]: [usize; 5],
    window: Option<usize>,
) -> CausalAttention {
    CausalAttention { heads, kv_heads, head, time, span, window, scale: 0.4 }
}

#[test]
fn attention_and_its_gradients_are_those_of_plain_loops() {
    for dims in [
        [1, 1, 1, 1, 1],
        [2, 1, 3, 2, 2],
        [4, 2, 8, 15, 15],
        [3, 3, 16, 31, 33],
        [6, 2, 12, 33, 33],
        [2, 1, 64, 70, 70],
        [2, 2, 32, 5, 131],
        [2, 1, 16, 64, 128],
    ] {
        for window in [None, Some(1), Some(5), Some(40), Some(500)] {
            Case::new(sizes(dims, window), 2).check();
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    // In the second, the products of a head are shared by threads too.
    for (dims, texts) in [([4, 2, 32, 130, 130], 3), ([2, 1, 64, 300, 320], 1)] {
        let case = Case::new(sizes(dims, None), texts);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| case.found())
        };
        assert!(run(1) == run(3), "{dims:?}");
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut case = Case::new(sizes([1, 1, 8, 40, 40], None), 1);
    case.query.iter_mut().for_each(|x| *x *= 3000.0);
    assert!(case.found().iter().flatten().all(|x| x.is_finite()));
}

#[test]
fn no_texts_give_nothing() {
    let case = Case::new(sizes([2, 1, 8, 4, 4], None), 0);
    assert!(case.found().iter().all(Vec::is_empty));
}

#[test]
#[should_panic(expected = "5 queries cannot be the last of 4 positions")]
fn more_queries_than_positions_are_refused() {
    Case::new(sizes([1, 1, 8, 5, 4], None), 1).found();
}
