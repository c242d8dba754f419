//! Loading a finished seccomp filter: seccomp(2).

use rustix::io::Errno;

use crate::clone::last_errno;

/// The size of one `struct sock_filter`, in bytes.
pub const INSTRUCTION_BYTES: usize = size_of::<libc::sock_filter>();
/// `BPF_MAXINSNS`: the longest program the kernel takes, in instructions.
pub const INSTRUCTIONS_MAX: usize = 4096;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`, which [`load`] refuses.
const NEW_LISTENER: u32 = 1 << 3;

/// A filter in the form that the kernel takes.
#[derive(Debug)]
pub struct Filter {
    instructions: Vec<libc::sock_filter>,
    flags: u32,
}

/// Why bytes are not a filter.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilterError {
    /// Not a whole number of instructions, or none, or too many.
    #[error(
        "a seccomp program of {0} bytes is not 1 to {INSTRUCTIONS_MAX} instructions of {INSTRUCTION_BYTES} bytes"
    )]
    Length(usize),
    /// A notification listener would need somebody to serve it.
    #[error("the seccomp flag NEW_LISTENER is not supported")]
    Listener,
}

impl Filter {
    /// Reads `struct sock_filter` × n in this machine's byte order. `flags` are
    /// `SECCOMP_FILTER_FLAG_*`. The kernel checks the program itself when it is loaded.
    pub fn from_bytes(bytes: &[u8], flags: u32) -> Result<Self, FilterError> {
        let count = bytes.len() / INSTRUCTION_BYTES;
        if !bytes.len().is_multiple_of(INSTRUCTION_BYTES) || !(1..=INSTRUCTIONS_MAX).contains(&count) {
            return Err(FilterError::Length(bytes.len()));
        }
        if flags & NEW_LISTENER != 0 {
            return Err(FilterError::Listener);
        }
        let instructions = bytes
            .chunks_exact(INSTRUCTION_BYTES)
            .map(|raw| libc::sock_filter {
                code: u16::from_ne_bytes([raw[0], raw[1]]),
                jt: raw[2],
                jf: raw[3],
                k: u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]),
            })
            .collect();
        Ok(Self { instructions, flags })
    }
}

/// Puts this thread under the filter for ever. Needs `no_new_privs` or `CAP_SYS_ADMIN` (EACCES).
pub fn load(filter: &Filter) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        // At most INSTRUCTIONS_MAX, which fits.
        len: filter.instructions.len() as u16,
        filter: filter.instructions.as_ptr().cast_mut(),
    };
    // SAFETY: the program points to `len` initialised instructions, which the kernel only reads, during
    // the call. No flag makes it return a descriptor.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, filter.flags, &raw const program)
    };
    match result {
        0 => Ok(()),
        -1 => Err(last_errno()),
        // With TSYNC, the id of a thread that could not follow.
        _ => Err(Errno::SRCH),
    }
}

#[cfg(test)]
mod tests {
    use super::{Filter, FilterError};

    #[test]
    fn programs_of_a_wrong_length_are_refused() {
        for length in [0, 1, 7, 9, 4097 * 8] {
            let result = Filter::from_bytes(&vec![0; length], 0);
            assert_eq!(result.err(), Some(FilterError::Length(length)));
        }
        assert!(Filter::from_bytes(&[6, 0, 0, 0, 0, 0, 0xff, 0x7f], 0).is_ok());
    }

    #[test]
    fn a_listener_is_refused() {
        assert_eq!(Filter::from_bytes(&[0; 8], 8).err(), Some(FilterError::Listener));
    }
}
