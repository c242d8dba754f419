//! The C library's heap.
//!
//! glibc gives each thread an arena of its own and keeps freed pages; for a daemon that serves short
//! bursts this is most of its memory. musl has neither call: both functions then do nothing.

/// Holds the heap to two arenas. Call it before threads start. mallopt(3), `M_ARENA_MAX`.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes no pointers and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives freed pages back to the kernel. malloc_trim(3).
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointers and is thread-safe.
    unsafe {
        libc::malloc_trim(0);
    }
}
