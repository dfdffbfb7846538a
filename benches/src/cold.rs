//! Empties the caches between calls, as the rest of a model does between two uses of a layer.

use std::collections::HashMap;
use std::fs;
use std::hint::black_box;

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

/// Bytes read where the size of the caches is not known. Guess: twice the largest cache of desktop processors.
const UNKNOWN: usize = 256 << 20;

/// Smallest and largest number of bytes read on a host.
const HOST: [usize; 2] = [64 << 20, 4 << 30];

/// Elements per array, 128 MiB: every WebGPU adapter can bind it.
const DEVICE_ELEMENTS: usize = 32 << 20;

/// Arrays; 512 MiB together, twice the largest last-level cache of a GPU (256 MiB, MI300X).
const DEVICE_ARRAYS: usize = 4;

/// A function that reads arrays larger than the caches, in the memory of the host or of a GPU. It only reads, so nothing is
/// written back while the next call is timed.
pub fn flush(host: bool, device: &Device) -> Box<dyn Fn() -> Result<()>> {
    if host {
        let bytes = caches().map_or(UNKNOWN, |bytes| (2 * bytes).clamp(HOST[0], HOST[1]));
        let array = vec![1; bytes / size_of::<u64>()];
        return Box::new(move || {
            black_box(sum(&array));
            Ok(())
        });
    }
    let array = |_| Tensor::<1>::ones([DEVICE_ELEMENTS], device);
    let arrays: Vec<_> = (0..DEVICE_ARRAYS).map(array).collect();
    Box::new(move || {
        for array in &arrays {
            black_box(array.clone().sum().into_data());
            array.device().sync()?;
        }
        Ok(())
    })
}

/// Sum of an array, read by every thread.
pub fn sum(array: &[u64]) -> u64 {
    // Chunks that stay in one core's second-level cache while it asks for the next.
    const CHUNK: usize = (1 << 20) / size_of::<u64>();
    let chunk_sum =
        |chunk: &[u64]| chunk.iter().fold(0_u64, |sum, &number| sum.wrapping_add(number));
    array.par_chunks(CHUNK).map(chunk_sum).reduce(|| 0, u64::wrapping_add)
}

/// Bytes of the data caches of all cores together, on Linux.
fn caches() -> Option<usize> {
    let mut caches = HashMap::new();
    for cpu in fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        let Ok(indices) = fs::read_dir(cpu.path().join("cache")) else { continue };
        for index in indices.flatten() {
            let field = |name: &str| fs::read_to_string(index.path().join(name)).ok();
            let (Some(level), Some(kind), Some(shared), Some(size)) =
                (field("level"), field("type"), field("shared_cpu_list"), field("size"))
            else {
                continue;
            };
            if kind.trim() != "Instruction" {
                caches.insert((level, shared), kibibytes(&size)?);
            }
        }
    }
    (!caches.is_empty()).then(|| caches.values().sum())
}

fn kibibytes(size: &str) -> Option<usize> {
    Some(size.trim().strip_suffix('K')?.parse::<usize>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_read() {
        assert_eq!(sum(&vec![3; 1_000_003]), 3_000_009);
    }

    #[test]
    fn sizes_are_read_in_bytes() {
        assert_eq!(kibibytes("2048K\n"), Some(2 << 20));
        assert_eq!(kibibytes("2M"), None);
    }
}
