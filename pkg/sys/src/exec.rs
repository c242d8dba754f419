//! Becoming another program: execve(2).

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use rustix::io::Errno;

use crate::clone::last_errno;

/// An argument or environment list in the form that execve(2) takes, made ahead of time.
#[derive(Debug)]
pub struct CStringList {
    // The pointers go to the heap blocks of `strings`, which do not move with the struct.
    pointers: Vec<*const c_char>,
    strings: Vec<CString>,
}

impl CStringList {
    /// Takes the strings over.
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Self { pointers, strings }
    }

    /// The strings.
    pub fn as_slice(&self) -> &[CString] {
        &self.strings
    }

    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

/// Becomes the program at `path`. Returns only if that failed.
pub fn execve(path: &CStr, argv: &CStringList, envp: &CStringList) -> Errno {
    // SAFETY: all three are NUL-terminated, both lists end with a null pointer, and all of it lives
    // until the call has either failed or replaced this memory.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    last_errno()
}
