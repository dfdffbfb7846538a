//! Partition of a call into tasks for the threads.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::amx;
use super::arithmetic::Words;

/// Fewest multiply-adds for which a call uses several threads: about 50 µs of one core, several times the cost of waking
/// the others. Guess.
const MIN_PARALLEL_WORK: usize = 1 << 21;

/// Floats in the panels of one chunk of rows, unless [`MIN_CHUNK_ROWS`] needs more: most of a second-level cache of 1 to
/// 2 MB.
const CHUNK_FLOATS: usize = 192 << 10;

/// Fewest rows of a chunk, whatever cache they need. Each chunk reads all weights again, and transposes them for the
/// input gradient. On an AVX-512 Xeon with 1 MB of second-level cache, 256 rows were up to a tenth faster than 192, and
/// again as much faster than the 96 and 48 rows that fit at widths of 2048 and 8192.
const MIN_CHUNK_ROWS: usize = 256;

/// The same for the matrix unit, which is faster and so waits longer for converted blocks: 512 rows were up to a sixth faster on a
/// Xeon with 2 MB of second-level cache.
const MIN_TILE_CHUNK_ROWS: usize = 512;

/// A multiple of every tile height, so that only the last chunk has a remainder: in the vector units, and in the matrix unit.
const CHUNK_STEPS: [usize; 2] = [12, amx::SQUARE];

/// Threads worth using for `work` multiply-adds.
pub(super) fn threads_for(work: usize) -> usize {
    if work < MIN_PARALLEL_WORK { 1 } else { rayon::current_num_threads() }
}

/// Tasks of equal work to create for `threads` threads: several each, so that one slow core does not delay the call.
pub(super) fn task_count(threads: usize) -> usize {
    if threads == 1 { 1 } else { 8 * threads }
}

/// Chunks of `m` rows of `width` elements, one task each, or `None` if there are too few rows for that.
///
/// The number of chunks is a multiple of the threads, or so large that it does not matter.
pub(super) fn row_chunks(
    m: usize,
    width: usize,
    words: Words,
    threads: usize,
) -> Option<Vec<Range<usize>>> {
    let is_tile = words == Words::Tile;
    let fewest = if is_tile { MIN_TILE_CHUNK_ROWS } else { MIN_CHUNK_ROWS };
    if m < fewest * threads {
        return None;
    }
    let fitting = (CHUNK_FLOATS / width).max(fewest);
    let count = m.div_ceil(fitting).next_multiple_of(threads);
    let rows = m.div_ceil(count).next_multiple_of(CHUNK_STEPS[usize::from(is_tile)]);
    Some((0..m).step_by(rows).map(|start| start..m.min(start + rows)).collect())
}

/// Runs every task; on this thread if `threads` is 1.
pub(super) fn run_tasks<T: Send>(tasks: Vec<T>, threads: usize, run: impl Fn(T) + Send + Sync) {
    if threads == 1 {
        tasks.into_iter().for_each(run);
    } else {
        tasks.into_par_iter().with_max_len(1).for_each(run);
    }
}

/// An output buffer shared by tasks that write disjoint parts of it.
#[derive(Clone, Copy)]
pub(super) struct SharedOut<T = f32>(*mut T);

// SAFETY: every user hands each task a disjoint set of elements and joins before the buffer is read.
unsafe impl<T: Send> Send for SharedOut<T> {}
unsafe impl<T: Send> Sync for SharedOut<T> {}

impl<T> SharedOut<T> {
    /// A buffer of which every element is written before it is read.
    pub(super) fn new(out: &mut [MaybeUninit<T>]) -> Self {
        Self(out.as_mut_ptr().cast())
    }

    pub(super) fn initialised(out: &mut [T]) -> Self {
        Self(out.as_mut_ptr())
    }

    /// # Safety
    /// The range must be inside the buffer, initialised, and used by this task only.
    pub(super) unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a mut [T]
    where
        T: 'a,
    {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }

    /// # Safety
    /// The range must be inside the buffer, and used by this task only.
    pub(super) unsafe fn uninit<'a>(self, at: usize, len: usize) -> &'a mut [MaybeUninit<T>]
    where
        T: 'a,
    {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at).cast(), len) }
    }

    /// # Safety
    /// `at` must be inside the buffer the pointer was made from.
    pub(super) unsafe fn at(self, at: usize) -> *mut T {
        // SAFETY: the caller's.
        unsafe { self.0.add(at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_row_once() {
        for threads in [1, 2, 3, 16] {
            for m in [1, 47, 96, 100, 257, 1024, 5000] {
                let Some(chunks) = row_chunks(m, 2048, Words::Single, threads) else {
                    assert!(m < MIN_CHUNK_ROWS * threads);
                    continue;
                };
                assert!(chunks.iter().all(|rows| !rows.is_empty()));
                let covered: Vec<usize> = chunks.into_iter().flatten().collect();
                assert_eq!(covered, (0..m).collect::<Vec<_>>(), "{m} rows, {threads} threads");
            }
        }
    }
}
