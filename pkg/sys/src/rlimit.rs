//! Resource limits by the kernel's numbers: prlimit(2).

use std::ptr;

use rustix::{
    io::Errno,
    process::{Resource, getrlimit, setrlimit},
};

use crate::clone::last_errno;

/// Soft and hard limit; `u64::MAX` is infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What is enforced.
    pub soft: u64,
    /// How far the soft limit may be raised.
    pub hard: u64,
}

/// Sets a limit of this process. EPERM: over the hard limit without `CAP_SYS_RESOURCE`. EINVAL: no
/// such resource, or soft over hard.
pub fn set(resource: u32, limit: Limit) -> Result<(), Errno> {
    let raw = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
    // SAFETY: pid 0 is this process; the new limit is initialised and only read; no old one is asked for.
    let result = unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const raw, ptr::null_mut::<libc::rlimit64>())
    };
    if result == -1 { Err(last_errno()) } else { Ok(()) }
}

/// Raises this process's soft limit of open files to the hard one: whoever does not use select(2) has
/// no need of the low one. Children inherit it.
pub fn raise_open_files() -> Result<(), Errno> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)
}

/// A limit of this process. EINVAL: no such resource.
pub fn get(resource: u32) -> Result<Limit, Errno> {
    let mut raw = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: pid 0 is this process; nothing is set; the kernel writes the old limit to a live struct.
    let result = unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, ptr::null::<libc::rlimit64>(), &raw mut raw)
    };
    if result == -1 { Err(last_errno()) } else { Ok(Limit { soft: raw.rlim_cur, hard: raw.rlim_max }) }
}
