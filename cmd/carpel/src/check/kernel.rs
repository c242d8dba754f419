//! Version and system calls.

use std::path::Path;

use carpel_sys::userns::{self, ProbeError};
use rustix::{
    io::Errno,
    mount::{FsOpenFlags, fsopen},
    process::{PidfdFlags, geteuid, getpid, pidfd_open},
    system::uname,
};

use super::{
    config::NodeConfig,
    finding::{Finding, read, read_number, told},
    storage::existing,
};

/// The oldest kernel that has every call the shim makes (RHEL 9's).
const OLDEST: (u32, u32) = (5, 14);

/// From here on nothing is done in a second-best way.
const FULL: (u32, u32) = (6, 8);

pub(super) fn examine(config: &NodeConfig) -> Vec<Finding> {
    let release = uname().release().to_string_lossy().into_owned();
    vec![permission(), version(&release), overlay(), pidfd(), user_namespaces(&config.root), inotify()]
}

fn permission() -> Finding {
    let (name, root) = ("permission", geteuid().is_root());
    // CAP_SYS_ADMIN is bit 21; capabilities(7).
    let capable = read("/proc/self/status").as_deref().and_then(effective_capabilities);
    match (root, capable.is_some_and(|mask| mask & (1 << 21) != 0)) {
        (true, true) => Finding::ok(name, "root"),
        (true, false) => Finding::missing(
            name,
            "root without CAP_SYS_ADMIN",
            "run on the node itself or in a privileged pod",
        ),
        (false, _) => Finding::warning(
            name,
            "not root: what follows is what a user can see",
            "run `sudo carpel check`; the daemon itself needs root",
        ),
    }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn version(release: &str) -> Finding {
    let name = "kernel";
    match parse_version(release) {
        Some(version) if version >= FULL => Finding::ok(name, release),
        Some(version) if version >= OLDEST => Finding::warning(
            name,
            release,
            format!("works; from {}.{} on, starting pods is faster and hardening complete", FULL.0, FULL.1),
        ),
        Some(_) => {
            Finding::missing(name, release, format!("Carpel needs Linux {}.{} or newer", OLDEST.0, OLDEST.1))
        }
        None => Finding::warning(name, release, "the version is not readable; other checks tell more"),
    }
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The mount API and overlayfs in one: opening the filesystem loads its module.
fn overlay() -> Finding {
    let name = "overlayfs";
    let advice = "load the module: `modprobe overlay`, and at boot by a line `overlay` in /etc/modules-load.d/carpel.conf";
    match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Finding::ok(name, "available, by fsopen"),
        Err(Errno::NODEV) => Finding::missing(name, "not in this kernel", advice),
        Err(Errno::NOSYS) => Finding::missing(
            name,
            "the kernel has no fsopen",
            "Carpel needs Linux 5.14 or newer, without a filter",
        ),
        Err(error) => {
            let listed = read("/proc/filesystems").is_some_and(|all| {
                all.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay")
            });
            if listed {
                Finding::ok(name, "listed by the kernel")
            } else {
                Finding::warning(name, format!("cannot try: {}", told(error)), advice)
            }
        }
    }
}

/// clone3 (5.3) came with the rest of the pidfd calls (5.1 to 5.4); what filters one filters the other.
fn pidfd() -> Finding {
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => Finding::ok("pidfd", "available"),
        Err(error) => Finding::missing(
            "pidfd",
            told(error),
            "Carpel needs clone3 and pidfd_open: Linux 5.14, and no seccomp filter that forbids them",
        ),
    }
}

/// As the daemon finds it out when it starts.
fn user_namespaces(root: &Path) -> Finding {
    let name = "user namespaces";
    let problem = match userns::probe(&existing(root)) {
        Ok(()) => return Finding::ok(name, format!("available, with mapped ids at {}", root.display())),
        Err(problem) => problem,
    };
    let advice = match &problem {
        _ if !geteuid().is_root() => "run `sudo carpel check`",
        ProbeError::Make(_) => {
            "pods with `hostUsers: false` fail; others run. To have them: sysctl -w user.max_user_namespaces=15000"
        }
        ProbeError::Folder { .. } => {
            "pods with `hostUsers: false` fail; others run. To have them: put `root` on a file system that can map \
             ids, such as ext4, xfs or btrfs"
        }
        ProbeError::Tmpfs(_) => "pods with `hostUsers: false` need Linux 6.3 for their volumes; others run",
    };
    Finding::warning(name, format!("{:#}", anyhow::Error::from(problem)), advice)
}

fn inotify() -> Finding {
    let name = "inotify";
    let instances = read_number("/proc/sys/fs/inotify/max_user_instances").unwrap_or(0);
    let watches = read_number("/proc/sys/fs/inotify/max_user_watches").unwrap_or(0);
    let found = format!("{instances} instances, {watches} watches");
    if instances >= 512 && watches >= 65_536 {
        return Finding::ok(name, found);
    }
    Finding::warning(
        name,
        found,
        "on busy nodes programs in pods run out of them: \
         sysctl -w fs.inotify.max_user_instances=8192 fs.inotify.max_user_watches=524288",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    #[test]
    fn kernel_versions() {
        for (release, status) in [
            ("6.8.0-45-generic", Verdict::Ok),
            ("10.0", Verdict::Ok),
            ("5.14.0-362.el9", Verdict::Warning),
            ("5.4.0", Verdict::Missing),
            ("4.18.0", Verdict::Missing),
            ("custom", Verdict::Warning),
        ] {
            assert_eq!(version(release).status, status, "{release}");
        }
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }
}
