//! The built-in profile: `RuntimeDefault`.
//!
//! It allows what containerd's and moby's default profiles allow, which is what images have come to
//! rely on. What is not allowed fails with EPERM; what is newer than this list, with ENOSYS.
//!
//! Differences that were chosen:
//!
//! * The kernel's keyrings (`keyctl` and so on) stay forbidden as with containerd: they are not divided
//!   by namespaces.
//! * `io_uring_*` stays forbidden, as in both since 2023: its operations pass no filter.
//! * `socket` refuses AF_ALG (CVE-2026-31431) and AF_VSOCK, which no namespace confines: by the low word
//!   of its argument, which is all that the kernel looks at. Comparing all 64 bits, as those profiles
//!   do, lets `socket(AF_ALG | 1 << 32)` through (the mistake of CVE-2019-7303). `socketcall`, 32-bit
//!   x86's old way to the same, hides its arguments behind a pointer that no filter can follow. It is
//!   allowed, because glibc's i386 still uses it: closing that way takes AppArmor or SELinux.

use super::profile::{Action, ArchMap, ArgRule, Condition, Operator, Profile, SyscallRule};

/// Address families, include/linux/socket.h.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// All that the kernel takes of an `int`.
const LOW_WORD: u64 = 0xffff_ffff;
/// include/uapi/linux/sched.h: NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET.
const CLONE_NEW_NAMESPACES: u64 = 0x7e02_0000;
const ENOSYS: u32 = 38;

/// include/uapi/linux/personality.h: PER_LINUX, PER_LINUX32, both with UNAME26, and "tell me".
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Allowed to everybody, by what they are about.
const ALLOWED: [&str; 13] = [
    // opening, reading, writing
    "close close_range copy_file_range creat dup dup2 dup3 fadvise64 fadvise64_64 fallocate fcntl fcntl64 \
     fdatasync flock fsync ftruncate ftruncate64 ioctl _llseek lseek open openat openat2 pipe pipe2 pread64 \
     preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile sendfile64 splice \
     sync sync_file_range syncfs tee truncate truncate64 vmsplice write writev",
    // names and folders
    "access chdir faccessat faccessat2 fchdir getcwd getdents getdents64 link linkat mkdir mkdirat mknod \
     mknodat name_to_handle_at readlink readlinkat rename renameat renameat2 rmdir symlink symlinkat umask \
     unlink unlinkat",
    // owners, modes, times, sizes
    "chmod chown chown32 fchmod fchmodat fchmodat2 fchown fchown32 fchownat file_getattr file_setattr fstat \
     fstat64 fstatat64 fstatfs fstatfs64 futimesat lchown lchown32 listmount lstat lstat64 newfstatat stat \
     stat64 statfs statfs64 statmount statx utime utimensat utimensat_time64 utimes",
    // extended attributes
    "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat \
     llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    // waiting for files
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old \
     eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel \
     io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect poll ppoll \
     ppoll_time64 pselect6 pselect6_time64 select",
    // memory
    "brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 \
     mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free \
     pkey_mprotect process_mrelease remap_file_pages",
    // processes and threads
    "arch_prctl execve execveat exit exit_group fork get_robust_list get_thread_area getpgid getpgrp getpid \
     getppid getsid gettid pidfd_open prctl process_vm_readv process_vm_writev ptrace restart_syscall rseq \
     set_robust_list set_thread_area set_tid_address setpgid setsid uretprobe vfork wait4 waitid waitpid",
    // who one is, and what one gives up
    "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid \
     getresgid32 getresuid getresuid32 getuid getuid32 landlock_add_rule landlock_create_ruleset \
     landlock_restrict_self seccomp setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups \
     setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid \
     setuid32",
    // scheduling, limits, the machine
    "getcpu getpriority getrandom getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_getaffinity \
     sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler \
     sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
     sched_setscheduler sched_yield setpriority setrlimit sysinfo times ugetrlimit uname",
    // signals
    "kill pause pidfd_send_signal rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
     rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4 \
     sigprocmask sigreturn tgkill tkill",
    // time; that of the clock, and of whoever reads it
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
     clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time \
     timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 \
     timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64",
    // sockets, but for making one
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg \
     recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    // between processes
    "futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake ipc mq_getsetattr mq_notify mq_open \
     mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv \
     msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget",
];

/// Allowed on one architecture only, by Go's name of it.
const BY_ARCH: [(&str, &str); 2] = [
    ("amd64", "modify_ldt"),
    ("arm64", "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2"),
];

/// Allowed to who has a capability.
const BY_CAPABILITY: [(&str, &str); 13] = [
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr \
         perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
];

/// The profile of `RuntimeDefault`.
pub fn default_profile() -> Profile {
    let mut syscalls: Vec<SyscallRule> = ALLOWED.iter().map(|names| allow(names)).collect();
    syscalls.extend(BY_ARCH.iter().map(|(arch, names)| {
        let includes = Condition { arches: vec![(*arch).to_owned()], ..Condition::default() };
        SyscallRule { includes, ..allow(names) }
    }));
    syscalls.extend(BY_CAPABILITY.iter().map(|(cap, names)| with_capability(cap, allow(names))));
    syscalls.push(with_capability("CAP_SYSLOG", allow("syslog")));
    syscalls.extend(PERSONALITIES.map(|persona| allow_if("personality", Operator::Equal, persona, 0)));
    syscalls.extend([AF_ALG, AF_VSOCK].map(|family| {
        let rule = allow_if("socket", Operator::MaskedEqual, LOW_WORD, family);
        SyscallRule { action: Action::Errno, ..rule }
    }));
    syscalls.push(allow("socket"));
    // Threads and processes for everybody, namespaces for who may. clone3's flags are behind a pointer:
    // ENOSYS makes the C library go back to clone.
    syscalls.push(allow_if("clone", Operator::MaskedEqual, CLONE_NEW_NAMESPACES, 0));
    syscalls.push(SyscallRule { action: Action::Errno, errno_ret: Some(ENOSYS), ..allow("clone3") });
    Profile {
        default_action: Action::Errno,
        default_errno_ret: None,
        architectures: Vec::new(),
        arch_map: vec![
            arch_map("SCMP_ARCH_X86_64", &["SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
            arch_map("SCMP_ARCH_AARCH64", &["SCMP_ARCH_ARM"]),
        ],
        flags: Vec::new(),
        listener_path: None,
        syscalls,
    }
}

fn allow(names: &str) -> SyscallRule {
    let names = names.split_ascii_whitespace().map(str::to_owned).collect();
    SyscallRule { names, action: Action::Allow, ..SyscallRule::default() }
}

fn allow_if(name: &str, op: Operator, value: u64, value_two: u64) -> SyscallRule {
    SyscallRule { args: vec![ArgRule { index: 0, value, value_two, op }], ..allow(name) }
}

fn with_capability(cap: &str, rule: SyscallRule) -> SyscallRule {
    SyscallRule { includes: Condition { caps: vec![cap.to_owned()], ..Condition::default() }, ..rule }
}

fn arch_map(architecture: &str, others: &[&str]) -> ArchMap {
    let sub_architectures = others.iter().map(|other| (*other).to_owned()).collect();
    ArchMap { architecture: architecture.to_owned(), sub_architectures }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{capability, seccomp::arch};

    #[test]
    fn every_name_is_a_system_call_and_stands_once() {
        let all = ALLOWED.iter().chain(BY_ARCH.iter().map(|(_, names)| names));
        let mut names: Vec<&str> = all.flat_map(|names| names.split_ascii_whitespace()).collect();
        let by_capability = BY_CAPABILITY.iter().flat_map(|(_, names)| names.split_ascii_whitespace());
        for name in names.iter().copied().chain(by_capability) {
            assert!(arch::is_known(name), "{name}");
        }
        names.sort_unstable();
        assert!(names.is_sorted_by(|a, b| a < b), "some name stands twice");
    }

    #[test]
    fn every_capability_exists() {
        assert!(BY_CAPABILITY.iter().all(|(cap, _)| capability::by_name(cap).is_ok()));
    }
}
