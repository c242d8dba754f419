//! The cgroup tree as a container sees it.
//!
//! With cgroup v2 alone it is that file system. Else it is a read-only tmpfs with a folder for each
//! v1 hierarchy, `unified` for a cgroup2 without controllers, and a link for each controller that
//! shares its hierarchy with others (`cpu -> cpu,cpuacct`): cgroups(7), as systemd lays it out. The
//! process's cgroup namespace makes its own cgroup the root of each.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_shim_api::plan::{FilesystemSource, MountPlan};
use carpel_sys::mount::{ATTR_RDONLY, AttrChange, set_attr};
use rustix::fs::symlinkat;
use rustix::io::Errno;

use crate::mountinfo::Mount;
use crate::mounts::filesystem::{self, FilesystemError, make_named};
use crate::root::{Absent, ensure_beneath};
use crate::sandbox::mounts::attach;

const HOST_ROOT: &str = "/sys/fs/cgroup";
/// Options in the mount table that are not the hierarchy's identity.
const OTHER_OPTIONS: [&str; 6] = ["rw", "ro", "xattr", "noprefix", "clone_children", "favordynmods"];

/// The host's hierarchies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hierarchies {
    /// cgroup v2 alone.
    Unified,
    /// v1, and v2 beside it.
    Several(Vec<Hierarchy>),
}

/// One of several.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// The folder's name.
    name: String,
    fs_type: &'static str,
    options: Vec<String>,
}

/// Why the tree is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupMountError {
    #[error("hierarchy {name}")]
    Hierarchy {
        name: String,
        #[source]
        source: FilesystemError,
    },
    #[error(transparent)]
    Tree(FilesystemError),
    #[error("make the mount point of hierarchy {name}")]
    Target {
        name: String,
        #[source]
        source: Errno,
    },
    #[error("attach hierarchy {name}")]
    Attach {
        name: String,
        #[source]
        source: Errno,
    },
    #[error("attach the tree")]
    AttachTree(#[source] Errno),
    #[error("set the tree's attributes")]
    Attributes(#[source] Errno),
}

impl Hierarchies {
    /// Reads them off the host's mounts.
    pub(crate) fn of(host: &[Mount]) -> Self {
        if host.iter().any(|mount| mount.point == HOST_ROOT && mount.fs_type == "cgroup2") {
            return Self::Unified;
        }
        let mut several: Vec<Hierarchy> = Vec::new();
        for mount in host {
            let name = mount.point.strip_prefix(HOST_ROOT).and_then(|rest| rest.strip_prefix('/'));
            let Some(name) = name.filter(|name| !name.contains('/')) else { continue };
            let hierarchy = match mount.fs_type.as_str() {
                "cgroup" => Hierarchy { name: name.to_owned(), fs_type: "cgroup", options: identity(mount) },
                "cgroup2" => Hierarchy { name: name.to_owned(), fs_type: "cgroup2", options: Vec::new() },
                _ => continue,
            };
            // A later mount at the same place hides the earlier one.
            several.retain(|other| other.name != hierarchy.name);
            several.push(hierarchy);
        }
        Self::Several(several)
    }
}

/// The options that name an existing v1 hierarchy.
fn identity(mount: &Mount) -> Vec<String> {
    let all = mount.super_options.split(',');
    let own = all.filter(|o| !OTHER_OPTIONS.contains(o) && !o.starts_with("release_agent="));
    let mut options: Vec<String> = own.map(str::to_owned).collect();
    if options.iter().all(|option| option.starts_with("name=")) {
        // A hierarchy without controllers has to say so.
        options.insert(0, "none".to_owned());
    }
    options
}

/// Mounts the tree at `target`; gives the tree's own mount. What is made for it alone has that SELinux label,
/// unless it is empty.
pub(crate) fn mount(
    hierarchies: &Hierarchies,
    plan: &MountPlan,
    label: &str,
    target: BorrowedFd<'_>,
) -> Result<OwnedFd, CgroupMountError> {
    let several = match hierarchies {
        Hierarchies::Unified => {
            let tree = make_named("cgroup2", std::iter::empty()).map_err(CgroupMountError::Tree)?;
            change(tree.as_fd(), plan.attributes | plan.attributes_recursive)?;
            attach(tree.as_fd(), target).map_err(CgroupMountError::AttachTree)?;
            return Ok(tree);
        }
        Hierarchies::Several(several) => several,
    };
    let attributes = plan.attributes | plan.attributes_recursive;
    let options = ["mode=755", "size=64k"].map(str::to_owned).to_vec();
    let tree = FilesystemSource { fs_type: "tmpfs".to_owned(), options };
    let tree = filesystem::make(&tree, label).map_err(CgroupMountError::Tree)?;
    attach(tree.as_fd(), target).map_err(CgroupMountError::AttachTree)?;
    for hierarchy in several {
        let name = || hierarchy.name.clone();
        let options = hierarchy.options.iter().map(String::as_str);
        let mount = make_named(hierarchy.fs_type, options)
            .map_err(|source| CgroupMountError::Hierarchy { name: name(), source })?;
        change(mount.as_fd(), attributes)?;
        let target = ensure_beneath(tree.as_fd(), &hierarchy.name, Absent::Dir)
            .map_err(|source| CgroupMountError::Target { name: name(), source })?;
        attach(mount.as_fd(), target.as_fd())
            .map_err(|source| CgroupMountError::Attach { name: name(), source })?;
        let controllers = hierarchy.options.iter().filter(|_| hierarchy.options.len() > 1);
        for controller in controllers.filter(|o| *o != "none" && !o.contains('=')) {
            match symlinkat(hierarchy.name.as_str(), &tree, controller.as_str()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(source) => return Err(CgroupMountError::Target { name: name(), source }),
            }
        }
    }
    // The folders are made; nobody needs to write there any more, whatever the hierarchies allow.
    change(tree.as_fd(), attributes | ATTR_RDONLY)?;
    Ok(tree)
}

fn change(mount: BorrowedFd<'_>, set: u64) -> Result<(), CgroupMountError> {
    set_attr(mount, AttrChange { set, ..AttrChange::default() }).map_err(CgroupMountError::Attributes)
}

#[cfg(test)]
mod tests {
    use super::Hierarchies;
    use crate::mountinfo::Mount;

    fn mount(point: &str, fs_type: &str, super_options: &str) -> Mount {
        Mount {
            id: 1,
            point: point.to_owned(),
            shared: false,
            slave: false,
            fs_type: fs_type.to_owned(),
            super_options: super_options.to_owned(),
        }
    }

    #[test]
    fn each_hierarchy_is_named_by_its_controllers_or_its_name() {
        let host = [
            mount("/sys/fs/cgroup", "tmpfs", "rw"),
            mount("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"),
            mount("/sys/fs/cgroup/systemd", "cgroup", "rw,xattr,release_agent=/x,name=systemd"),
            mount("/sys/fs/cgroup/unified", "cgroup2", "rw,nsdelegate"),
            mount("/elsewhere", "cgroup", "rw,memory"),
        ];
        let Hierarchies::Several(several) = Hierarchies::of(&host) else { panic!("not unified") };
        let seen: Vec<_> = several.iter().map(|h| (h.name.as_str(), h.options.join(" "))).collect();
        let expected = [
            ("cpu,cpuacct", "cpu cpuacct".to_owned()),
            ("systemd", "none name=systemd".to_owned()),
            ("unified", String::new()),
        ];
        assert_eq!(seen, expected);
        let unified = [mount("/sys/fs/cgroup", "cgroup2", "rw")];
        assert_eq!(Hierarchies::of(&unified), Hierarchies::Unified);
    }
}
