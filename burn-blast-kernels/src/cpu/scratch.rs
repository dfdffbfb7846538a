//! Buffers that are kept between calls, on a stack for each thread.

use std::cell::RefCell;

/// Largest capacity that a thread keeps between calls, in floats: 64 MiB. Guess.
const MAX_KEPT: usize = 16 << 20;

/// Bytes of a cache line. A vector that crosses cache lines costs two loads.
pub(super) const CACHE_LINE_BYTES: usize = 64;

/// Floats of a cache line.
pub(super) const CACHE_LINE_FLOATS: usize = CACHE_LINE_BYTES / size_of::<f32>();

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` on a buffer of `len` floats of unspecified content that starts at a cache line.
///
/// A task that rayon runs on this thread while `work` waits gets another buffer.
pub(super) fn with<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len + CACHE_LINE_FLOATS {
        buffer.clear();
        buffer.resize(len + CACHE_LINE_FLOATS, 0.0);
    }
    let address = buffer.as_ptr().addr();
    let start = (address.next_multiple_of(CACHE_LINE_BYTES) - address) / size_of::<f32>();
    let result = work(&mut buffer[start..start + len]);
    if buffer.capacity() <= MAX_KEPT {
        BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_never_twice_at_once() {
        let first = with(100, |a| with(50, |b| (a.as_ptr() as usize, b.as_ptr() as usize)));
        assert_ne!(first.0, first.1);
        let second = with(10, |a| a.as_ptr() as usize);
        assert!(second == first.0 || second == first.1);
    }
}
