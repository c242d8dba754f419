//! Sysctls of the pod's IPC and UTS namespaces.
//!
//! Only exact names of settings that belong to a namespace the pod has of its own: any other would
//! change the host. They are written through a procfs that is mounted nowhere, so that no mount over
//! `/proc/sys` can lead the write astray. Network sysctls are the network room's.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use carpel_shim_api::plan::{SandboxPlan, Sysctl};
use rustix::fs::{Mode, OFlags, Uid, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::thread::set_thread_res_uid;

use crate::sandbox::user_namespace::UserNamespace;

/// The longest value, bytes.
const VALUE_MAX_BYTES: usize = 1024;

/// Settings of the IPC namespace (ipc_namespaces(7)) and their files below `/proc/sys`.
const IPC: [(&str, &str); 16] = [
    ("fs.mqueue.msg_default", "fs/mqueue/msg_default"),
    ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
    ("fs.mqueue.msgsize_default", "fs/mqueue/msgsize_default"),
    ("fs.mqueue.msgsize_max", "fs/mqueue/msgsize_max"),
    ("fs.mqueue.queues_max", "fs/mqueue/queues_max"),
    ("kernel.msg_next_id", "kernel/msg_next_id"),
    ("kernel.msgmax", "kernel/msgmax"),
    ("kernel.msgmnb", "kernel/msgmnb"),
    ("kernel.msgmni", "kernel/msgmni"),
    ("kernel.sem", "kernel/sem"),
    ("kernel.sem_next_id", "kernel/sem_next_id"),
    ("kernel.shm_next_id", "kernel/shm_next_id"),
    ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
    ("kernel.shmall", "kernel/shmall"),
    ("kernel.shmmax", "kernel/shmmax"),
    ("kernel.shmmni", "kernel/shmmni"),
];
/// The setting of the UTS namespace beside the host name.
const UTS: (&str, &str) = ("kernel.domainname", "kernel/domainname");

/// Why a sysctl was refused or not written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Not a setting of a namespace of the pod's own.
    #[error("sysctl {0:?} is not one of a namespace of the pod's own")]
    Key(String),
    /// A value that could be more than one value.
    #[error(
        "the value of sysctl {0} is empty, longer than {VALUE_MAX_BYTES} bytes, or has a NUL, line end or +"
    )]
    Value(String),
    /// No procfs.
    #[error("make a procfs to write sysctls to")]
    Procfs(#[source] Errno),
    /// The kernel has no such setting.
    #[error("open sysctl {key}")]
    Open {
        /// The sysctl.
        key: String,
        /// What the kernel answered.
        #[source]
        source: Errno,
    },
    /// The shim could not be who the setting belongs to for a moment, or not itself again.
    #[error("become the owner of sysctl {key}, and come back")]
    User {
        /// The sysctl.
        key: String,
        /// What the kernel answered.
        #[source]
        source: Errno,
    },
    /// The kernel refused the value.
    #[error("set sysctl {key}")]
    Write {
        /// The sysctl.
        key: String,
        /// What the kernel answered.
        #[source]
        source: std::io::Error,
    },
}

fn path(plan: &SandboxPlan, key: &str) -> Option<&'static str> {
    let ipc = IPC.iter().filter(|_| !plan.host_ipc);
    let uts = [UTS];
    let mut known = ipc.chain(uts.iter().filter(|_| !plan.host_uts));
    known.find(|(name, _)| *name == key).map(|(_, path)| *path)
}

/// Refuses what must not be written, before anything is changed.
pub(crate) fn check(plan: &SandboxPlan) -> Result<(), SysctlError> {
    for Sysctl { key, value } in &plan.sysctls {
        if path(plan, key).is_none() {
            return Err(SysctlError::Key(key.clone()));
        }
        let bad = |byte: &u8| matches!(byte, 0 | b'\n' | b'\r' | b'+');
        if value.is_empty() || value.len() > VALUE_MAX_BYTES || value.as_bytes().iter().any(bad) {
            return Err(SysctlError::Value(key.clone()));
        }
    }
    Ok(())
}

/// Writes them. The process is in the pod's namespaces, whose settings procfs then shows.
pub(crate) fn apply(plan: &SandboxPlan, user: Option<&UserNamespace>) -> Result<(), SysctlError> {
    if plan.sysctls.is_empty() {
        return Ok(());
    }
    let procfs = detached_procfs().map_err(SysctlError::Procfs)?;
    for Sysctl { key, value } in &plan.sysctls {
        let path = path(plan, key).ok_or_else(|| SysctlError::Key(key.clone()))?;
        match (write(&procfs, path, key, value), user) {
            (Err(SysctlError::Open { source: Errno::ACCESS, .. }), Some(user)) => {
                as_root_of(user, key, || write(&procfs, path, key, value))?;
            }
            (written, _) => written?,
        }
    }
    Ok(())
}

fn write(procfs: &OwnedFd, path: &str, key: &str, value: &str) -> Result<(), SysctlError> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(procfs, format!("sys/{path}"), flags, Mode::empty())
        .map_err(|source| SysctlError::Open { key: key.to_owned(), source })?;
    let written = std::fs::File::from(file).write_all(value.as_bytes());
    written.map_err(|source| SysctlError::Write { key: key.to_owned(), source })
}

/// Settings of an IPC namespace belong to the root of the user namespace that owns it, and no capability
/// stands in for that (the kernel's `ipc_permissions`, ipc/ipc_sysctl.c, from Linux 5.19 on).
fn as_root_of(
    user: &UserNamespace,
    key: &str,
    write: impl FnOnce() -> Result<(), SysctlError>,
) -> Result<(), SysctlError> {
    let become_user = |uid: Uid| {
        set_thread_res_uid(None, Some(uid), None)
            .map_err(|source| SysctlError::User { key: key.to_owned(), source })
    };
    become_user(user.root().0)?;
    let written = write();
    become_user(Uid::ROOT)?;
    written
}

fn detached_procfs() -> Result<rustix::fd::OwnedFd, Errno> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

#[cfg(test)]
mod tests {
    use carpel_shim_api::plan::{SandboxPlan, Sysctl};

    use super::check;

    fn plan(key: &str, value: &str) -> SandboxPlan {
        let sysctls = vec![Sysctl { key: key.to_owned(), value: value.to_owned() }];
        SandboxPlan { sysctls, ..SandboxPlan::default() }
    }

    #[test]
    fn only_exact_names_of_own_namespaces_pass() {
        assert!(check(&plan("kernel.sem", "250 32000 32 128")).is_ok());
        for key in [
            "",
            "kernel.hostname",
            "kernel/sem",
            "kernel.sem/../core_pattern",
            "kernel.core_pattern",
            "net.core.somaxconn",
            "Kernel.sem",
            "kernel.sem ",
            "kernel..sem",
            "vm.swappiness",
        ] {
            assert!(check(&plan(key, "1")).is_err(), "{key}");
        }
        let host = SandboxPlan { host_ipc: true, host_uts: true, ..plan("kernel.sem", "1") };
        assert!(check(&host).is_err());
        let host = SandboxPlan { host_uts: true, ..plan("kernel.domainname", "1") };
        assert!(check(&host).is_err());
    }

    #[test]
    fn values_that_could_smuggle_another_setting_are_refused() {
        for value in ["", "1+kernel.core_pattern=|/x", "1\n2", "1\r", "1\0", &"1".repeat(1025)] {
            assert!(check(&plan("kernel.shm_rmid_forced", value)).is_err(), "{value:?}");
        }
    }
}
