//! Buffer arguments: checked sizes, and buffers that more than one launch binds.

use cubecl::prelude::*;
use cubecl::server::BufferBinding;

/// Panics if a buffer does not have the size of its shape, or is an alias of another argument: aliases are named by the
/// position of that argument, which differs between the kernels that a call may launch.
pub(super) fn check_len(name: &str, arg: &BufferArg, shape: &[usize]) {
    assert!(
        matches!(arg, BufferArg::Handle { .. }),
        "`{name}` must be a buffer, not an alias of another argument: pass its handle"
    );
    let expected: usize = shape.iter().product();
    assert_eq!(arg.len(), expected, "`{name}` must hold {shape:?}, got {} elements", arg.len());
}

/// A buffer that several launches bind.
#[derive(Clone)]
pub(super) struct SharedBuffer {
    binding: BufferBinding,
    len: usize,
}

impl SharedBuffer {
    /// # Panics
    /// If the argument is an alias, which [`check_len`] refuses.
    pub(super) fn new(arg: BufferArg) -> Self {
        let len = arg.len();
        match arg {
            BufferArg::Handle { handle } => Self { binding: handle.handle, len },
            BufferArg::Alias { .. } => unreachable!("aliases are refused"),
        }
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The argument of one launch.
    pub(super) fn arg(&self) -> BufferArg {
        // SAFETY: the length is the one of the argument that the buffer was made from.
        unsafe { BufferArg::from_raw_parts_binding(self.binding.clone(), self.len) }
    }
}

/// An uninitialised f32 buffer for the partial sums of split-K.
pub(super) fn partial_sums(client: &Client, len: usize) -> SharedBuffer {
    let handle = client.empty(len * size_of::<f32>());
    // SAFETY: the buffer was created with this length.
    SharedBuffer::new(unsafe { BufferArg::from_raw_parts(handle, len) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "`values` must be a buffer, not an alias")]
    fn an_alias_is_refused() {
        check_len("values", &BufferArg::alias(0, 4), &[4]);
    }
}
