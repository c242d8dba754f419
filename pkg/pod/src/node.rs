//! What is true of this node as long as the daemon runs, looked up once.

use std::{
    fs,
    io::{self, Read},
    path::Path,
    sync::Arc,
    time::Duration,
};

use carpel_cgroups::{Cgroup, CgroupPath, Tree};
use carpel_spec::{
    NodeFacts, capability,
    input::{AppArmor, CgroupLayout, SwapLimits},
    seccomp::{Arch, KernelVersion},
};
use carpel_sys::userns;

use crate::{Config, OpenError, selinux};

/// The most that is read of a file of the kernel's, in bytes.
const KERNEL_FILE_MAX_BYTES: u64 = 1 << 20;
/// How often a daemon that ends looks whether the last shim has left its cgroup, and how long it waits between.
const LEAVE_TRIES: u32 = 10;
/// See `LEAVE_TRIES`.
const LEAVE_PAUSE: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) facts: NodeFacts,
    pub(crate) cgroups: Arc<Tree>,
    pub(crate) boot_id: String,
    /// The shims' `oom_score_adj`: one above the lowest, if the daemon may go so low.
    pub(crate) shim_oom_score_adj: i32,
    /// Whether pods can have user namespaces of their own.
    pub(crate) user_namespaces: bool,
}

impl Node {
    /// Looks. Blocks shortly.
    pub(crate) fn look(config: &Config) -> Result<Node, OpenError> {
        let cgroups = Tree::detect().map_err(OpenError::Cgroups)?;
        let boot_id = read("/proc/sys/kernel/random/boot_id").map_err(OpenError::BootId)?;
        let status = read("/proc/self/status").map_err(OpenError::Capabilities)?;
        let mut default_capabilities = 0;
        for name in &config.default_capabilities {
            default_capabilities |= capability::by_name(name).map_err(OpenError::DefaultCapability)?;
        }
        let facts = NodeFacts {
            cgroup: layout(&cgroups),
            cgroup_driver: config.cgroup_driver,
            cgroup_parent_default: config.cgroup_parent.clone(),
            scope_prefix: "carpel".to_owned(),
            swap_limits: swap_limits(&cgroups),
            default_capabilities,
            daemon_capabilities: permitted_capabilities(&status),
            default_rlimits: config.default_rlimits.clone(),
            arch: arch().ok_or(OpenError::Architecture)?,
            kernel: kernel(),
            // Profiles come and go: each container's plan gets its own.
            apparmor: AppArmor::Absent,
            selinux: selinux::look(),
            thermal_throttle_cpus: thermal_throttle_cpus(),
        };
        let own = read("/proc/self/oom_score_adj").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let user_namespaces = userns::probe(&config.root);
        if let Err(err) = &user_namespaces {
            tracing::warn!(
                err = err as &dyn std::error::Error,
                "pods cannot have user namespaces on this node"
            );
        }
        let user_namespaces = user_namespaces.is_ok();
        let shim_oom_score_adj = i32::max(own, -998);
        Ok(Node { facts, cgroups: Arc::new(cgroups), boot_id, shim_oom_score_adj, user_namespaces })
    }

    /// The cgroup that shims live in, made if it is absent; `None` if they stay in the daemon's own, or
    /// if it cannot be made: each shim tries that itself, and says why not.
    pub(crate) fn shim_home(&self, path: &str) -> Option<Cgroup> {
        let path = CgroupPath::parse(path).ok()?;
        Cgroup::ensure(&self.cgroups, &path).ok()
    }

    /// Removes the cgroup that shims live in, if none does. Blocks shortly for one that is just ending.
    pub(crate) fn leave_shim_home(&self, path: &str) {
        let Ok(path) = CgroupPath::parse(path) else { return };
        let Ok(home) = Cgroup::open(&self.cgroups, &path) else { return };
        for _ in 0..LEAVE_TRIES {
            if home.remove_if_empty() || home.is_populated().unwrap_or(false) {
                return;
            }
            std::thread::sleep(LEAVE_PAUSE);
        }
    }

    /// The cgroup that a record names; `None` if it is gone.
    pub(crate) fn cgroup(&self, path: &str) -> Option<Cgroup> {
        Cgroup::open(&self.cgroups, &CgroupPath::parse(path).ok()?).ok()
    }
}

/// The node's host name.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The node's resolver settings for pods that have none of their own. A resolver on the node's
/// loopback cannot be reached from a pod: then systemd-resolved's list of real servers is taken.
pub(crate) fn host_resolv_conf() -> String {
    let usual = read("/etc/resolv.conf").unwrap_or_default();
    if usual.lines().any(|line| line.trim() == "nameserver 127.0.0.53")
        && let Ok(real) = read("/run/systemd/resolve/resolv.conf")
    {
        return real + "\n";
    }
    usual + "\n"
}

fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(KERNEL_FILE_MAX_BYTES).read_to_string(&mut text)?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

fn layout(tree: &Tree) -> CgroupLayout {
    match (tree.is_unified(), tree.v2()) {
        (true, _) => CgroupLayout::V2,
        (false, Some(_)) => CgroupLayout::Hybrid,
        (false, None) => CgroupLayout::V1,
    }
}

/// v1 tells it at the root; cgroup2's root has no limits, so its first child is asked.
fn swap_limits(tree: &Tree) -> SwapLimits {
    let Some(memory) = tree.with_controller("memory") else { return SwapLimits::Absent };
    let at = memory.mount_point();
    let present = if memory.is_v2() {
        let mut children = fs::read_dir(at).into_iter().flatten().flatten();
        children.any(|child| child.path().join("memory.swap.max").exists())
    } else {
        at.join("memory.memsw.limit_in_bytes").exists()
    };
    if present { SwapLimits::Present } else { SwapLimits::Absent }
}

/// proc_pid_status(5), `CapPrm`, limited to the bounding set.
fn permitted_capabilities(status: &str) -> u64 {
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    set("CapPrm:").unwrap_or(0) & set("CapBnd:").unwrap_or(0) & capability::ALL
}

fn arch() -> Option<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => Some(Arch::X86_64),
        "aarch64" => Some(Arch::Aarch64),
        _ => None,
    }
}

fn kernel() -> KernelVersion {
    let uname = rustix::system::uname();
    parse_kernel(&uname.release().to_string_lossy())
}

/// `6.8.0-31-generic`. What cannot be read counts as the oldest.
fn parse_kernel(release: &str) -> KernelVersion {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    KernelVersion { major, minor }
}

fn thermal_throttle_cpus() -> u32 {
    let exists =
        |cpu: &u32| Path::new(&format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle")).exists();
    (0..8192).take_while(exists).count().try_into().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_tells_the_kernels_version() {
        for (release, major, minor) in
            [("6.8.0-31-generic", 6, 8), ("5.14", 5, 14), ("6.18.0+", 6, 18), ("strange", 0, 0), ("", 0, 0)]
        {
            assert_eq!(parse_kernel(release), KernelVersion { major, minor }, "{release}");
        }
    }

    #[test]
    fn capabilities_are_those_both_permitted_and_bounded() {
        let status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapBnd:\t0000000000000003\n";
        assert_eq!(permitted_capabilities(status), 3);
        assert_eq!(permitted_capabilities(""), 0);
    }
}
