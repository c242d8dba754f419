//! The mounts of a container, in the order in which they are made.
//!
//! ```text
//!   image volumes                        where the root is read-only
//!   /proc  /dev  /sys                    always there, unless the client mounts over one
//!   /dev/pts  /dev/mqueue  /dev/shm      not below a /dev of the client's
//!   /sys/fs/cgroup
//!   /etc/resolv.conf  /etc/hostname  (/etc/hosts)      the pod's files
//!   the client's
//! ```
//!
//! All are sorted by depth, parents first, and are otherwise in the order above: a mount can hide
//! what is above it in the tree only if somebody asked for exactly that. Image volumes come before all
//! others whatever their depth: they are parts of the root, and where the image's symbolic links lead
//! them elsewhere, they still hide no other mount and are no part of one. What stands at `/dev/shm` holds
//! a place in that order: with `ContainerPlan::pod_shm` the shim mounts the pod's there, which it knows.

use carpel_shim_api::plan::{
    BindSource, FilesystemSource, LayersSource, MountPlan, Propagation, mount_plan::Source,
};

use crate::config::{MountAccess, MountConfig, MountPropagation, MountSource, PodOrNode, UserMode};
use crate::error::{MountProblem, PlanError};
use crate::input::ContainerInput;
use crate::path;
use crate::seccomp::KernelVersion;
use crate::volumes::{onto_itself, plan_volumes};

/// mount_setattr(2) `MOUNT_ATTR_RDONLY`.
pub(crate) const RDONLY: u64 = 0x1;
/// mount_setattr(2) `MOUNT_ATTR_NOSUID`.
pub(crate) const NOSUID: u64 = 0x2;
/// mount_setattr(2) `MOUNT_ATTR_NODEV`.
pub(crate) const NODEV: u64 = 0x4;
/// mount_setattr(2) `MOUNT_ATTR_NOEXEC`.
pub(crate) const NOEXEC: u64 = 0x8;
/// mount_setattr(2) `MOUNT_ATTR_STRICTATIME`.
pub(crate) const STRICTATIME: u64 = 0x20;

/// `gid=5` of devpts: the group that terminals belong to, everywhere.
const TTY_GID: u32 = 5;
/// The most mounts of a container.
const MOUNTS_MAX: usize = 4096;
/// Since when a mount can be made read-only with all below it: mount_setattr(2).
const RECURSIVE_READ_ONLY_SINCE: KernelVersion = KernelVersion { major: 5, minor: 12 };

/// Files below `/proc` that something may be mounted on: what lxcfs supplies, and two that are
/// written at a restore. Anything else there could fake what a program trusts (CVE-2019-16884).
const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// What a container's mount namespace holds.
pub(crate) struct Mounts {
    /// In the order in which they are made.
    pub(crate) mounts: Vec<MountPlan>,
    /// What must be there in the root: image volumes that need no mount.
    pub(crate) folders: Vec<String>,
    /// Propagation of the container's `/`.
    pub(crate) rootfs_propagation: Propagation,
    /// The pod's `/dev/shm` is mounted, because the client mounts nothing of its own over it.
    pub(crate) pod_shm: bool,
}

/// Mounts of a container.
pub(crate) fn plan_mounts(input: &ContainerInput<'_>) -> Result<Mounts, PlanError> {
    let asked = &input.config.mounts;
    if asked.len() > MOUNTS_MAX {
        return Err(PlanError::TooMany { what: "mounts", count: asked.len(), max: MOUNTS_MAX });
    }
    let mut of_client = Vec::with_capacity(asked.len());
    for (index, config) in asked.iter().enumerate() {
        let mount = client_mount(input, index, config)?;
        // A later mount at the same place is what the container would see; the earlier one is left out.
        of_client.retain(|earlier: &MountPlan| earlier.destination != mount.destination);
        of_client.push(mount);
    }
    let is_mounted = |path: &str| of_client.iter().any(|mount| mount.destination == path);
    let replaced = |mount: &MountPlan| {
        let destination = mount.destination.as_str();
        is_mounted(destination) || (destination.starts_with("/dev/") && is_mounted("/dev"))
    };
    let pod_shm = !is_mounted("/dev/shm") && !is_mounted("/dev");
    let mut mounts: Vec<MountPlan> =
        kernel_mounts(input).into_iter().chain(pod_files(input)?).filter(|mount| !replaced(mount)).collect();
    mounts.append(&mut of_client);
    mounts.sort_by_key(depth);
    let volumes = plan_volumes(input, &mounts)?.into_iter();
    let (mut in_order, folders) = if input.config.security.readonly_rootfs {
        (volumes.map(onto_itself).collect(), Vec::new())
    } else {
        (Vec::new(), volumes.collect())
    };
    in_order.sort_by_key(depth);
    in_order.append(&mut mounts);
    Ok(Mounts { mounts: in_order, folders, rootfs_propagation: rootfs_propagation(asked), pod_shm })
}

fn depth(mount: &MountPlan) -> usize {
    mount.destination.matches('/').count()
}

/// File systems of the kernel. Read-only where they would let the container change the host.
fn kernel_mounts(input: &ContainerInput<'_>) -> Vec<MountPlan> {
    let strict = NOSUID | NODEV | NOEXEC;
    let of_the_host = if input.config.security.privileged { strict } else { strict | RDONLY };
    let optional = |mount: MountPlan| MountPlan { optional: true, ..mount };
    let sandbox = &input.sandbox.namespaces;
    let sys = match (sandbox.user, sandbox.network) {
        // A sysfs is the network namespace's owner's to mount: the host's is seen as it is, without what
        // is mounted on it.
        (UserMode::Pod(_), PodOrNode::Node) => {
            let source = BindSource { path: "/sys".to_owned(), recursive: false, create_dir: false };
            MountPlan { source: Some(Source::Bind(source)), ..bind("/sys", "/sys", of_the_host) }
        }
        // With the host's network this is the host's view of it, as everywhere else; still read-only.
        _ => filesystem("/sys", "sysfs", &[], of_the_host),
    };
    // The group tty, unless the pod has no such group.
    let tty = sandbox.user.mappings().is_none_or(|mappings| mappings.gids.length > TTY_GID);
    let devpts: &[&str] = &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    vec![
        filesystem("/proc", "proc", &[], strict),
        filesystem("/dev", "tmpfs", &["mode=755", "size=65536k"], NOSUID | STRICTATIME),
        filesystem("/dev/pts", "devpts", &devpts[..if tty { 4 } else { 3 }], NOSUID | NOEXEC),
        optional(filesystem("/dev/mqueue", "mqueue", &[], strict)),
        filesystem("/dev/shm", "tmpfs", &["mode=1777", "size=65536k"], strict),
        sys,
        filesystem("/sys/fs/cgroup", "cgroup", &[], of_the_host),
    ]
}

/// The pod's files; read-only where the root file system is.
fn pod_files(input: &ContainerInput<'_>) -> Result<Vec<MountPlan>, PlanError> {
    let strict = NOSUID | NODEV | NOEXEC;
    let attributes = if input.config.security.readonly_rootfs { strict | RDONLY } else { strict };
    let files = [
        ("/etc/resolv.conf", Some(&input.pod_files.resolv_conf)),
        ("/etc/hostname", Some(&input.pod_files.hostname)),
        ("/etc/hosts", input.pod_files.hosts.as_ref()),
    ];
    let mut mounts = Vec::with_capacity(files.len());
    for (destination, source) in files {
        if let Some(source) = source {
            mounts.push(bind(destination, &path::below_root("pod file", source)?, attributes));
        }
    }
    Ok(mounts)
}

fn client_mount(
    input: &ContainerInput<'_>,
    index: usize,
    config: &MountConfig,
) -> Result<MountPlan, PlanError> {
    let destination = path::below_root("container_path", &config.container_path)?;
    let refused = |problem| Err(PlanError::Mount { path: destination.clone(), problem });
    let recursive_read_only = config.access == MountAccess::RecursiveReadOnly;
    if config.propagation == MountPropagation::Bidirectional && !input.config.security.privileged {
        return refused(MountProblem::BidirectionalUnprivileged);
    }
    if recursive_read_only && config.propagation != MountPropagation::Private {
        return refused(MountProblem::RecursiveReadOnlyPropagation);
    }
    if recursive_read_only && input.node.kernel < RECURSIVE_READ_ONLY_SINCE {
        return refused(MountProblem::RecursiveReadOnlyKernel);
    }
    if config.id_mappings.is_some() && config.id_mappings != input.sandbox.namespaces.user.mappings() {
        return refused(MountProblem::Idmap);
    }
    let source = match &config.source {
        MountSource::Host(source) => {
            let source = path::host("host_path", source)?;
            if !may_mount_on_proc(&destination, &source) {
                return refused(MountProblem::Proc);
            }
            Source::Bind(BindSource { path: source, recursive: true, create_dir: true })
        }
        MountSource::Image { sub_path, .. } => {
            if path::is_within(&destination, "/proc") {
                return refused(MountProblem::Proc);
            }
            return image_mount(input, index, config, destination, sub_path);
        }
    };
    Ok(MountPlan {
        destination,
        source: Some(source),
        attributes: if config.access == MountAccess::ReadWrite { 0 } else { RDONLY },
        attributes_recursive: if recursive_read_only { RDONLY } else { 0 },
        propagation: propagation(config.propagation).into(),
        optional: false,
        idmapped: config.id_mappings.is_some(),
        relabel: config.selinux_relabel,
    })
}

fn image_mount(
    input: &ContainerInput<'_>,
    index: usize,
    config: &MountConfig,
    destination: String,
    sub_path: &str,
) -> Result<MountPlan, PlanError> {
    let refused = |problem| Err(PlanError::Mount { path: destination.clone(), problem });
    if config.access == MountAccess::ReadWrite || config.propagation != MountPropagation::Private {
        return refused(MountProblem::ImageAccess);
    }
    let climbs = sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..");
    if climbs || sub_path.contains('\0') {
        return refused(MountProblem::SubPath);
    }
    let Some(lowers) = input.image_mounts.get(&index).filter(|lowers| !lowers.is_empty()) else {
        return Err(PlanError::ImageMountMissing { path: destination });
    };
    let lowers =
        lowers.iter().map(|lower| path::below_root("image layer", lower)).collect::<Result<_, _>>()?;
    Ok(MountPlan {
        destination,
        source: Some(Source::Layers(LayersSource { lowers, sub_path: sub_path.to_owned() })),
        attributes: RDONLY | NOSUID | NODEV,
        attributes_recursive: 0,
        propagation: Propagation::Private.into(),
        optional: false,
        idmapped: false,
        relabel: false,
    })
}

/// Whether a host path may be mounted there, as far as `/proc` is concerned.
fn may_mount_on_proc(destination: &str, source: &str) -> bool {
    match destination {
        "/proc" => source == "/proc",
        below if path::is_within(below, "/proc") => PROC_FILES.contains(&below),
        _ => true,
    }
}

fn propagation(asked: MountPropagation) -> Propagation {
    match asked {
        MountPropagation::Private => Propagation::Private,
        MountPropagation::HostToContainer => Propagation::Slave,
        MountPropagation::Bidirectional => Propagation::Shared,
    }
}

/// A mount can receive and send no more than the `/` that it is below.
fn rootfs_propagation(asked: &[MountConfig]) -> Propagation {
    let any = |wanted: MountPropagation| asked.iter().any(|mount| mount.propagation == wanted);
    if any(MountPropagation::Bidirectional) {
        Propagation::Shared
    } else if any(MountPropagation::HostToContainer) {
        Propagation::Slave
    } else {
        Propagation::Private
    }
}

fn filesystem(destination: &str, fs_type: &str, options: &[&str], attributes: u64) -> MountPlan {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    MountPlan {
        destination: destination.to_owned(),
        source: Some(Source::Filesystem(FilesystemSource { fs_type: fs_type.to_owned(), options })),
        attributes,
        attributes_recursive: 0,
        propagation: Propagation::Inherit.into(),
        optional: false,
        idmapped: false,
        relabel: false,
    }
}

fn bind(destination: &str, source: &str, attributes: u64) -> MountPlan {
    let source = BindSource { path: source.to_owned(), recursive: true, create_dir: false };
    MountPlan {
        destination: destination.to_owned(),
        source: Some(Source::Bind(source)),
        attributes,
        attributes_recursive: 0,
        propagation: Propagation::Private.into(),
        optional: false,
        idmapped: false,
        relabel: false,
    }
}
