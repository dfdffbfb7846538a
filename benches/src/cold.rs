//! Empties the caches between calls, as the rest of a model does between two uses of a layer.

use std::collections::HashMap;
use std::fs;
use std::hint::black_box;

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

/// Bytes walked where the caches' size is not known. Guess: twice the largest caches of desktop parts.
const UNKNOWN: usize = 256 << 20;

/// Least and most bytes walked on a host.
const HOST: [usize; 2] = [64 << 20, 4 << 30];

/// Elements of each of [`DEVICE_ARRAYS`], 128 MiB: within what every WebGPU adapter binds.
const DEVICE_ELEMENTS: usize = 32 << 20;

/// Together 512 MiB, twice the largest last-level cache of a GPU (256 MiB, MI300X).
const DEVICE_ARRAYS: usize = 4;

/// Something larger than the caches that is only ever read, so that nothing has to be written back while the
/// next call is timed.
pub enum Walk {
    /// In the host's memory.
    Host(Vec<u64>),
    /// On a GPU.
    Device(Vec<Tensor<1>>),
}

impl Walk {
    /// Fills the arrays.
    pub fn new(host: bool, device: &Device) -> Self {
        if host {
            return Self::Host(vec![1; host_bytes() / size_of::<u64>()]);
        }
        let array = |_| Tensor::ones([DEVICE_ELEMENTS], device);
        Self::Device((0..DEVICE_ARRAYS).map(array).collect())
    }

    /// Reads everything once.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Host(array) => {
                black_box(sum(array));
            }
            Self::Device(arrays) => {
                for array in arrays {
                    black_box(array.clone().sum().into_data());
                    array.device().sync()?;
                }
            }
        }
        Ok(())
    }
}

/// Sum of an array, read by every thread.
pub fn sum(array: &[u64]) -> u64 {
    // Pieces that stay in one core's second-level cache while it asks for the next.
    const PIECE: usize = (1 << 20) / size_of::<u64>();
    let piece = |piece: &[u64]| piece.iter().fold(0_u64, |sum, &number| sum.wrapping_add(number));
    array.par_chunks(PIECE).map(piece).reduce(|| 0, u64::wrapping_add)
}

fn host_bytes() -> usize {
    caches().map_or(UNKNOWN, |bytes| (2 * bytes).clamp(HOST[0], HOST[1]))
}

/// Bytes of all data caches of all cores together; only Linux tells.
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
    fn every_number_is_read() {
        assert_eq!(sum(&vec![3; 1_000_003]), 3_000_009);
    }

    #[test]
    fn sizes_are_read_in_bytes() {
        assert_eq!(kibibytes("2048K\n"), Some(2 << 20));
        assert_eq!(kibibytes("2M"), None);
    }
}
