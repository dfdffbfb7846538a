//! Batches at once. Most of what Burn does on a host, it does on one thread.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread::{ScopedJoinHandle, available_parallelism, scope};

use burn::tensor::Device;
use burn_blast::functions::is_host;

/// Most items at once: each holds its own features and gradients. More threads than these are used inside products.
const MOST: usize = 4;

/// Items that [`in_threads`] should be given at once where the work of each is on a device.
pub(crate) fn at_once(device: &Device) -> usize {
    if is_host(device) { available_parallelism().map_or(1, NonZero::get).min(MOST) } else { 1 }
}

/// The results of items, in their order, each computed in a thread of its own.
pub(crate) fn in_threads<T: Sync, R: Send>(
    items: &[T],
    compute: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    if let [item] = items {
        return vec![compute(item)];
    }
    scope(|scope| {
        let start = |item| {
            let compute = &compute;
            scope.spawn(move || compute(item))
        };
        let running: Vec<_> = items.iter().map(start).collect();
        let result = |thread: ScopedJoinHandle<'_, R>| {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        running.into_iter().map(result).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_panics_are_passed_on() {
        assert_eq!(in_threads(&[3, 1, 2], |item| item * 10), [30, 10, 20]);
        assert_eq!(in_threads(&[5], |item| item + 1), [6]);
        assert!(in_threads::<u32, u32>(&[], |item| *item).is_empty());
        let broken = std::panic::catch_unwind(|| in_threads(&[1, 2], |item| assert_eq!(*item, 1)));
        assert!(broken.is_err());
    }
}
