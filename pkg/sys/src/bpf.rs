//! bpf(2): loading a program that decides about devices, and putting it on a cgroup.
//!
//! Only what cgroup2 needs instead of v1's `devices.allow`. Not here: making the program.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// One instruction, as the kernel lays it out (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination in the low four bits, source in the high four.
    pub registers: u8,
    /// Of a jump, in instructions; of a load, in bytes.
    pub offset: i16,
    /// Constant operand.
    pub immediate: i32,
}

/// Commands of bpf(2).
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const CGROUP_DEVICE_PROGRAM: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const CGROUP_DEVICE_ATTACH: u32 = 6;
/// `BPF_F_ALLOW_MULTI` and `BPF_F_REPLACE`.
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;
/// The kernel's own limit of programs on one cgroup (`BPF_CGROUP_MAX_PROGS`).
const PROGRAMS_MAX: usize = 64;
/// The verifier wants a licence; this program calls no helper that needs one.
const LICENSE: &std::ffi::CStr = c"Apache-2.0";

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads, up to the log.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct ByIdAttr {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Loads a program of the type that is asked about every open and mknod of a device.
///
/// # Errors
/// The verifier's refusal (`EINVAL`, `EACCES`), or no right to load programs (`EPERM`).
pub fn load_cgroup_device(code: &[Instruction]) -> Result<OwnedFd, Errno> {
    let mut attr = LoadAttr {
        prog_type: CGROUP_DEVICE_PROGRAM,
        insn_cnt: u32::try_from(code.len()).map_err(|_| Errno::TOOBIG)?,
        insns: code.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        ..LoadAttr::default()
    };
    // SAFETY: `attr` has the layout of this command's part of the union; `insns` points to
    // `insn_cnt` instructions of the kernel's layout (repr(C), eight bytes) and `license` to a
    // NUL-terminated text, and both outlive the call, which only reads them; log_level is zero, so
    // that no log is written.
    let fd = unsafe { bpf(PROG_LOAD, &mut attr) }?;
    // SAFETY: a successful load returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes `program` the only device program of a cgroup2 folder.
///
/// One that is there already is replaced in one step, so there is no moment without one.
///
/// # Errors
/// The folder is no cgroup2 (`EBADF`), no right (`EPERM`), a kernel without it (`EINVAL`).
pub fn replace_cgroup_device(cgroup: BorrowedFd<'_>, program: &OwnedFd) -> Result<(), Errno> {
    let old = cgroup_device_programs(cgroup)?;
    let replaced = match old.first() {
        Some(id) => Some(program_by_id(*id)?),
        None => None,
    };
    let mut attr = AttachAttr {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program.as_fd()),
        attach_type: CGROUP_DEVICE_ATTACH,
        attach_flags: ALLOW_MULTI | if replaced.is_some() { REPLACE } else { 0 },
        replace_bpf_fd: replaced.as_ref().map_or(0, |fd| number(fd.as_fd())),
    };
    // SAFETY: `attr` has the layout of this command's part of the union and holds no pointer; the
    // descriptors are borrowed and stay open during the call.
    unsafe { bpf(PROG_ATTACH, &mut attr) }.map(|_| ())
}

/// The ids of the device programs on a cgroup2 folder.
///
/// # Errors
/// As [`replace_cgroup_device`].
pub fn cgroup_device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = vec![0u32; PROGRAMS_MAX];
    let mut attr = QueryAttr {
        target_fd: number(cgroup),
        attach_type: CGROUP_DEVICE_ATTACH,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: u32::try_from(PROGRAMS_MAX).unwrap_or(u32::MAX),
        ..QueryAttr::default()
    };
    // SAFETY: `attr` has the layout of this command's part of the union; `prog_ids` points to room
    // for `prog_cnt` numbers, which lives on past the call, and the kernel writes no more than that.
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

fn program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    let mut attr = ByIdAttr { prog_id: id, ..ByIdAttr::default() };
    // SAFETY: `attr` has the layout of this command's part of the union and holds no pointer.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) }?;
    // SAFETY: success returns a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor as `union bpf_attr` wants it; an open one is never negative.
fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// The system call.
///
/// # Safety
/// `attr` must have the layout of the part of `union bpf_attr` that `command` uses, and every
/// pointer in it must be valid for what the command does with it.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> Result<libc::c_int, Errno> {
    // SAFETY: the caller vouches for `attr`, whose size is passed along; the kernel treats what lies
    // beyond a shorter one as zero and writes nothing there.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    }
    Ok(libc::c_int::try_from(result).unwrap_or(libc::c_int::MAX))
}
