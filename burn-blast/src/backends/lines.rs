//! Tensor memory that starts at a cache line, which Burn's own does not: a large product written to it can go past
//! the caches (`docs/adr/0009`).

use std::mem::MaybeUninit;

use burn::tensor::{Bytes, Element, Shape};
use burn_flex::{FlexTensor, Layout};
use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty};

/// Bytes of a cache line.
const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([MaybeUninit<u8>; LINE]);

struct Lines(Box<[Line]>);

/// A tensor that `fill` writes every element of.
pub(super) fn tensor<T: Element>(
    shape: Shape,
    fill: impl FnOnce(&mut [MaybeUninit<T>]),
) -> FlexTensor {
    let len = shape.num_elements();
    let bytes = len * size_of::<T>();
    let lines = bytes.div_ceil(LINE);
    let mut memory = Vec::<Line>::with_capacity(lines);
    // SAFETY: a line holds bytes that need not be initialised.
    unsafe { memory.set_len(lines) };
    // SAFETY: the lines have room for `len` elements, and are aligned for them.
    fill(unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), len) });
    // SAFETY: `fill` wrote the first `bytes` bytes.
    let bytes = unsafe { Bytes::from_controller(Box::new(Lines(memory.into())), bytes) };
    FlexTensor::new(bytes, Layout::contiguous(shape), T::dtype())
}

impl AllocationController for Lines {
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
