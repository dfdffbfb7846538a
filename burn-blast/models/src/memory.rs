//! Memory of a program that computes on the host.

/// Has the allocator of the C library keep what is freed, instead of returning large pieces to the system at once, and use
/// one pool for all threads.
///
/// Burn's CPU backend allocates memory for every tensor, and the system fills new pages with zeros. Filling them took a
/// quarter of the time of training SmolLM2-135M. A program calls this once, at its start. From then on it holds as much memory as it
/// ever needed. Does nothing where the C library is not glibc.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets numbers of the allocator.
    unsafe {
        // The pools of other threads are returned whenever they are empty.
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
