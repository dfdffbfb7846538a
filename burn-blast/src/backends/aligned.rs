//! Allocation of tensors aligned to cache lines, which Burn's own tensors are not. The stores of a large product can
//! then bypass the caches (`docs/adr/0009`).

use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Bytes, Element, Shape};
use burn_flex::{FlexTensor, Layout};
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty};

/// Bytes per cache line.
const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([MaybeUninit<u8>; LINE]);

/// Memory of a tensor. When the tensor is dropped, large buffers are kept for the next one.
struct AlignedBuffer(Vec<Line>);

/// Fewest lines of a buffer that is kept, 1 MiB. The allocator returns buffers above 32 MiB to the system, which then
/// provides newly zeroed pages. That took longer than the product that fills them.
const MIN_KEPT: usize = (1 << 20) / LINE;

/// Most lines kept, 256 MiB. Guess.
const MAX_KEPT: usize = (256 << 20) / LINE;

static KEPT: Mutex<Vec<Vec<Line>>> = Mutex::new(Vec::new());

/// Lines of unspecified content: a kept buffer that is at most a quarter too long, otherwise a new one.
fn allocate(count: usize) -> Vec<Line> {
    if count >= MIN_KEPT {
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Vec<Line>| (count..=count + count / 4).contains(&buffer.len());
        if let Some(at) = kept.iter().position(fits) {
            return kept.remove(at);
        }
    }
    let mut memory = Vec::with_capacity(count);
    // SAFETY: a line holds bytes that need not be initialised.
    unsafe { memory.set_len(count) };
    memory
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.0);
        if !(MIN_KEPT..=MAX_KEPT).contains(&memory.len()) {
            return;
        }
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(memory);
        // The oldest is dropped first, so sizes that are no longer used disappear.
        while kept.iter().map(Vec::len).sum::<usize>() > MAX_KEPT {
            kept.remove(0);
        }
    }
}

/// A tensor whose elements are all written by `fill`.
pub(super) fn tensor<T: Element>(
    shape: Shape,
    fill: impl FnOnce(&mut [MaybeUninit<T>]),
) -> FlexTensor {
    let len = shape.num_elements();
    let bytes = len * size_of::<T>();
    let mut memory = allocate(bytes.div_ceil(LINE));
    // SAFETY: the lines have room for `len` elements, and are aligned for them.
    fill(unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), len) });
    // SAFETY: `fill` wrote the first `bytes` bytes.
    let bytes = unsafe { Bytes::from_controller(Box::new(AlignedBuffer(memory)), bytes) };
    FlexTensor::new(bytes, Layout::contiguous(shape), T::dtype())
}

impl AllocationController for AlignedBuffer {
    fn alloc_align(&self) -> usize {
        LINE
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Native
    }

    unsafe fn memory_mut(
        &mut self,
        _: AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        // SAFETY: the bytes of all lines.
        Ok(unsafe {
            std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LINE)
        })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        // SAFETY: the bytes of all lines.
        Ok(unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LINE) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::TensorMetadata;

    #[test]
    fn large_memory_is_used_again_and_holds_what_was_written() {
        let make = |len: usize, value: f32| {
            tensor::<f32>(Shape::new([len]), |out| {
                out.iter_mut().for_each(|to| {
                    to.write(value);
                });
            })
        };
        let start = |tensor: &FlexTensor| tensor.as_slice::<f32>().unwrap().as_ptr().addr();
        let len = 3 << 20;
        let first = make(len, 1.0);
        let second = make(len, 2.0);
        assert_ne!(start(&first), start(&second));
        let old = start(&first);
        drop(first);
        // A little shorter than the old buffer.
        let third = make(len - 100, 3.0);
        assert_eq!(start(&third), old);
        let held = third.as_slice::<f32>().unwrap();
        assert!(held.len() == len - 100 && held.iter().all(|&value| value == 3.0));
        assert!(second.as_slice::<f32>().unwrap().iter().all(|&value| value == 2.0));
    }

    #[test]
    fn a_tensor_starts_at_a_line_and_holds_what_was_written() {
        for len in [0, 1, 16, 100] {
            let tensor = tensor::<f32>(Shape::new([len]), |out| {
                for (at, to) in out.iter_mut().enumerate() {
                    to.write(at as f32);
                }
            });
            assert_eq!(tensor.shape(), Shape::new([len]));
            let held = tensor.as_slice::<f32>().unwrap();
            let expected: Vec<f32> = (0..len).map(|at| at as f32).collect();
            assert_eq!(held, expected);
            assert!(len == 0 || held.as_ptr().addr().is_multiple_of(LINE));
        }
    }
}
