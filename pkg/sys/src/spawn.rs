//! Starting a program of ours from a process with many threads: clone3(2) in the manner of vfork.
//!
//! ```text
//!  this thread: block signals ─ clone3(VM|VFORK|PIDFD) ─ … suspended … ─ restore signals ─ pidfd
//!  child, on a stack of its own:  setsid, signals, fds 0–3, cloexec, execveat
//! ```
//!
//! The child shares this process's memory until execveat, so that no page table is copied, however
//! large the daemon is; it therefore runs nothing but system calls. A failure's number comes back
//! through that memory: the caller gets a running program or an error, never something between.

use std::arch::asm;
use std::ffi::{CStr, c_void};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::clone::{Process, last_errno};
use crate::exec::CStringList;
use crate::{clone, signal};

/// What a program is started with.
#[derive(Debug)]
pub struct Program<'a> {
    /// The program itself, see [`crate::memfd`].
    pub exe: BorrowedFd<'a>,
    /// Its arguments, its name first.
    pub argv: &'a CStringList,
    /// Its environment, nothing of this process's.
    pub envp: &'a CStringList,
    /// Becomes fd 3.
    pub listener: BorrowedFd<'a>,
    /// Becomes fd 2; 0 and 1 are `/dev/null`.
    pub log: BorrowedFd<'a>,
    /// The folder of a cgroup v2 to be born in; else this process's own.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Why a program was not started. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// `/dev/null` could not be opened or a descriptor not be copied.
    #[error("prepare the file descriptors of a new process")]
    Descriptors(#[source] Errno),
    /// No process was made.
    #[error("clone3 a new process")]
    Clone(#[source] Errno),
    /// It was made but did not become the program.
    #[error("execute the program")]
    Exec(#[source] Errno),
}

/// The first descriptor number for copies, above all that the child puts in place.
const COPIES_FROM: RawFd = 10;
/// The child calls a handful of system call wrappers, nothing deep.
const STACK_BYTES: usize = 64 << 10;
const CHILD_FAILED_STATUS: i32 = 127;

/// All that the child reads and writes, in the memory that both share.
struct Shared<'a> {
    exe: RawFd,
    null: RawFd,
    log: RawFd,
    listener: RawFd,
    argv: &'a CStringList,
    envp: &'a CStringList,
    errno: i32,
}

/// Starts `program` as the leader of a new session, with default signals, the root folder as its
/// current one, and no descriptor but 0 to 3. The new process is not waited for: the caller reaps it.
pub fn spawn_shim(program: &Program<'_>) -> Result<Process, SpawnError> {
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let null = null.map_err(SpawnError::Descriptors)?;
    // Copies with high numbers: putting one in its place must not overwrite another.
    let copy = |fd: BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, COPIES_FROM).map_err(SpawnError::Descriptors);
    let (exe, null) = (copy(program.exe)?, copy(null.as_fd())?);
    let (log, listener) = (copy(program.log)?, copy(program.listener)?);
    let mut shared = Shared {
        exe: exe.as_raw_fd(),
        null: null.as_raw_fd(),
        log: log.as_raw_fd(),
        listener: listener.as_raw_fd(),
        argv: program.argv,
        envp: program.envp,
        errno: 0,
    };
    let process = vfork(&mut shared, program.cgroup).map_err(SpawnError::Clone)?;
    if shared.errno == 0 {
        return Ok(process);
    }
    // The child has already ended; an error here could only say that someone else reaped it.
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED) {}
    Err(SpawnError::Exec(Errno::from_raw_os_error(shared.errno)))
}

fn vfork(shared: &mut Shared<'_>, cgroup: Option<BorrowedFd<'_>>) -> Result<Process, Errno> {
    let mut stack: Vec<u128> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
    // SAFETY: all-zero is a valid clone_args: it is plain integers, and zero means "not asked for".
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    args.stack = stack.as_mut_ptr() as u64;
    args.stack_size = STACK_BYTES as u64;
    if let Some(cgroup) = cgroup {
        // CLONE_INTO_CGROUP is bit 33: libc's constant has the type of clone(2)'s 32-bit flags.
        args.flags |= 1 << 33;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is initialised; its stack is aligned, large enough and unused by anybody else.
    // CLONE_VFORK suspends this thread until the child has executed or ended, so that `shared`, the
    // stack and what they point to outlive the child's use of them and are not touched meanwhile.
    unsafe { clone3_process(args, child, ptr::from_mut(shared).cast()) }
}

/// Makes a process that shares this one's memory, by [`clone3_call`]; its descriptor and SIGCHLD at its end are asked
/// for here.
///
/// # Safety
/// As for [`clone3_call`].
pub(crate) unsafe fn clone3_process(
    mut args: libc::clone_args,
    entry: extern "C" fn(*mut c_void) -> !,
    data: *mut c_void,
) -> Result<Process, Errno> {
    let mut pidfd: RawFd = -1;
    args.flags |= libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // No handler of this process may run in the child: it would act on this process's memory.
    let blocked = signal::block_all()?;
    // SAFETY: the caller's.
    let result = unsafe { clone3_call(&raw const args, entry, data) };
    blocked.restore();
    if result < 0 {
        return Err(Errno::from_raw_os_error(-i32::try_from(result).unwrap_or(-libc::EIO)));
    }
    let pid = i32::try_from(result).ok().and_then(Pid::from_raw).ok_or(Errno::IO)?;
    // SAFETY: CLONE_PIDFD made the kernel store a new descriptor, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Process { pid, pidfd })
}

/// clone3(2) whose child calls `entry(data)` on the stack that `args` gives. The result is the
/// kernel's: the child's id or a negative error number.
///
/// # Safety
/// `args` is a valid `clone_args` with `CLONE_VM` and a stack that outlives the child, its end aligned to
/// 16 bytes; `entry` may be called with `data` there and calls nothing that needs this thread's locks.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3_call(
    args: *const libc::clone_args,
    entry: extern "C" fn(*mut c_void) -> !,
    data: *mut c_void,
) -> i64 {
    let result: i64;
    // SAFETY: the child starts after `syscall` with an empty stack and all other registers kept; it
    // jumps away and never gets to the code behind this block. For the parent it is a plain system
    // call, which overwrites rax, rcx and r11 alone.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") data,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// As for x86_64.
///
/// # Safety
/// As for x86_64.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3_call(
    args: *const libc::clone_args,
    entry: extern "C" fn(*mut c_void) -> !,
    data: *mut c_void,
) -> i64 {
    let result: i64;
    // SAFETY: as for x86_64; the system call overwrites x0 alone.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk 1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") args => result,
            in("x1") size_of::<libc::clone_args>(),
            in("x20") data,
            in("x21") entry,
            lateout("x30") _,
        );
    }
    result
}

/// The child's whole life. Nothing here may allocate, lock or panic.
extern "C" fn child(data: *mut c_void) -> ! {
    // SAFETY: `vfork` passes a pointer to its `Shared`, which lives and is not used by the suspended
    // thread until this process has ended or executed.
    let shared = unsafe { &mut *data.cast::<Shared<'_>>() };
    signal::reset();
    shared.errno = become_program(shared).raw_os_error();
    clone::exit(CHILD_FAILED_STATUS)
}

/// Returns only on failure.
fn become_program(shared: &Shared<'_>) -> Errno {
    // SAFETY: all of these are plain system calls on this process alone. The descriptors are open
    // copies made by `spawn_shim`, the paths and lists are NUL-terminated and outlive the calls.
    unsafe {
        let placed = libc::setsid() != -1
            && libc::chdir(c"/".as_ptr()) != -1
            && libc::dup2(shared.null, 0) != -1
            && libc::dup2(shared.null, 1) != -1
            && libc::dup2(shared.log, 2) != -1
            && libc::dup2(shared.listener, 3) != -1
            && libc::syscall(libc::SYS_close_range, 4, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) != -1;
        if placed {
            libc::syscall(
                libc::SYS_execveat,
                shared.exe,
                EMPTY.as_ptr(),
                shared.argv.as_ptr(),
                shared.envp.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
    }
    last_errno()
}

const EMPTY: &CStr = c"";

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::io::Errno;
    use rustix::pipe::{PipeFlags, pipe_with};
    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::{Program, SpawnError, spawn_shim};
    use crate::exec::CStringList;
    use crate::memfd::sealed_program;

    fn list(strings: &[&str]) -> CStringList {
        CStringList::new(strings.iter().map(|string| CString::new(*string).expect("no NUL")).collect())
    }

    fn start(exe: &OwnedFd, script: &str) -> (Result<i32, SpawnError>, String) {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("pipe");
        let listener = File::open("/proc/version").expect("open");
        let (argv, envp) = (list(&["busybox", "sh", "-c", script]), list(&["A=b"]));
        let program = Program {
            exe: exe.as_fd(),
            argv: &argv,
            envp: &envp,
            listener: listener.as_fd(),
            log: writer.as_fd(),
            cgroup: None,
        };
        let status = spawn_shim(&program).map(|process| {
            let id = WaitId::PidFd(process.pidfd.as_fd());
            let ended = waitid(id, WaitIdOptions::EXITED).expect("wait").expect("ended");
            ended.exit_status().expect("exited")
        });
        drop(writer);
        let mut output = String::new();
        File::from(reader).read_to_string(&mut output).expect("read");
        (status, output)
    }

    #[test]
    fn a_sealed_program_gets_its_descriptors_and_nothing_else() {
        let mut busybox = File::open("/bin/busybox").expect("busybox-static is installed");
        let exe = sealed_program("busybox", &mut busybox).expect("seal");
        let script =
            "ls /proc/self/fd >&2; head -c5 <&3 >&2; echo \" $A\" >&2; readlink /proc/$$/exe >&2; exit 7";
        let (status, output) = start(&exe, script);
        assert_eq!(status.expect("spawned"), 7);
        let lines: Vec<&str> = output.lines().collect();
        // The fourth beside 0 to 3 is the folder that ls itself reads.
        assert_eq!(lines[..4], ["0", "1", "2", "3"]);
        assert_eq!(lines[5], "Linux b");
        assert!(lines[6].starts_with("/memfd:busybox"), "{output}");
    }

    #[test]
    fn what_cannot_be_executed_is_told() {
        let exe: OwnedFd = File::open("/proc/version").expect("open").into();
        let (status, _) = start(&exe, "");
        assert!(matches!(status, Err(SpawnError::Exec(Errno::ACCESS))), "{status:?}");
    }
}
