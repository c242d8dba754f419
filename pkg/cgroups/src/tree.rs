//! Which cgroup hierarchies this host has, found once.
//!
//! | layout | how it looks |
//! |---|---|
//! | unified | `/sys/fs/cgroup` is cgroup2 |
//! | legacy | a v1 hierarchy for each controller or for several (`cpu,cpuacct`), and named ones |
//! | hybrid | legacy, and a cgroup2 mount beside it that has few or no controllers |

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use crate::file;

/// The most that is read of `/proc/self/mountinfo`, in bytes.
const MOUNTINFO_MAX_BYTES: u64 = 64 << 20;
/// The most hierarchies that are looked at: the kernel has 14 controllers.
const HIERARCHIES_MAX: usize = 32;
/// statfs(2) `f_type` of cgroup2.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// The hierarchies of this host.
#[derive(Debug)]
pub struct Tree {
    pub(crate) hierarchies: Vec<Hierarchy>,
}

/// One hierarchy.
#[derive(Debug)]
pub struct Hierarchy {
    pub(crate) kind: Kind,
    pub(crate) mount_point: PathBuf,
    pub(crate) root: OwnedFd,
}

/// What a hierarchy carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// cgroup2 with these controllers, possibly none.
    V2(Vec<String>),
    /// A v1 hierarchy of these controllers; none if it has only a name.
    V1 {
        /// Its controllers.
        controllers: Vec<String>,
        /// `systemd` of `name=systemd`.
        name: Option<String>,
    },
}

/// Why the hierarchies could not be found.
#[derive(Debug, Error)]
pub enum DetectError {
    /// `/proc/self/mountinfo` could not be read.
    #[error("read /proc/self/mountinfo")]
    Mountinfo(#[source] std::io::Error),
    /// A mount point could not be opened.
    #[error("open the cgroup hierarchy at {path}")]
    Open {
        /// The mount point.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: Errno,
    },
    /// The list of controllers could not be read.
    #[error("read the controllers of the cgroup hierarchy at {path}")]
    Controllers {
        /// The mount point.
        path: PathBuf,
        /// Why.
        #[source]
        source: file::FileError,
    },
    /// There is no cgroup mount.
    #[error("no cgroup hierarchy is mounted")]
    None,
}

/// A cgroup mount as mountinfo tells it.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    device: String,
    root: String,
    mount_point: PathBuf,
    kind: Kind,
}

impl Tree {
    /// Looks at what is mounted.
    ///
    /// # Errors
    /// Nothing is mounted, or what is mounted cannot be opened.
    pub fn detect() -> Result<Tree, DetectError> {
        let usual = Path::new("/sys/fs/cgroup");
        // The common case needs no look at the mount table, which is long on a busy node.
        if rustix::fs::statfs(usual).is_ok_and(|s| u64::try_from(s.f_type) == Ok(CGROUP2_SUPER_MAGIC)) {
            return Tree::unified_at(usual);
        }
        let mountinfo = File::open("/proc/self/mountinfo").map_err(DetectError::Mountinfo)?;
        let reader = BufReader::new(mountinfo.take(MOUNTINFO_MAX_BYTES));
        let mut mounts = Vec::new();
        for line in reader.split(b'\n') {
            let line = line.map_err(DetectError::Mountinfo)?;
            if let Some(mount) = std::str::from_utf8(&line).ok().and_then(parse_mount) {
                keep_best(&mut mounts, mount);
            }
        }
        let hierarchies = mounts.into_iter().map(open_mount).collect::<Result<Vec<_>, _>>()?;
        if hierarchies.is_empty() {
            return Err(DetectError::None);
        }
        Ok(Tree { hierarchies })
    }

    /// A tree with one cgroup2 hierarchy, mounted there.
    pub(crate) fn unified_at(mount_point: &Path) -> Result<Tree, DetectError> {
        let mount = Mount {
            device: String::new(),
            root: "/".to_owned(),
            mount_point: mount_point.to_owned(),
            kind: Kind::V2(Vec::new()),
        };
        Ok(Tree { hierarchies: vec![open_mount(mount)?] })
    }

    /// All of them.
    #[must_use]
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// Whether cgroup2 is all there is.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.hierarchies.iter().all(Hierarchy::is_v2)
    }

    /// The cgroup2 hierarchy, with or without controllers.
    #[must_use]
    pub fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.is_v2())
    }

    /// The hierarchy that a controller is in (`memory`; v2's `io` is v1's `blkio`).
    #[must_use]
    pub fn with_controller(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.controllers().iter().any(|c| c == controller))
    }
}

impl Hierarchy {
    /// Whether it is cgroup2.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        matches!(self.kind, Kind::V2(_))
    }

    /// What it carries.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Its controllers; none for one that has only a name.
    #[must_use]
    pub fn controllers(&self) -> &[String] {
        match &self.kind {
            Kind::V2(controllers) | Kind::V1 { controllers, .. } => controllers,
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// The folder at the mount point.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

fn open_mount(mount: Mount) -> Result<Hierarchy, DetectError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&mount.mount_point, flags, Mode::empty())
        .map_err(|source| DetectError::Open { path: mount.mount_point.clone(), source })?;
    let kind = match mount.kind {
        Kind::V2(_) => {
            let text = file::read(root.as_fd(), "cgroup.controllers")
                .map_err(|source| DetectError::Controllers { path: mount.mount_point.clone(), source })?;
            Kind::V2(text.split_whitespace().map(str::to_owned).collect())
        }
        v1 @ Kind::V1 { .. } => v1,
    };
    Ok(Hierarchy { kind, mount_point: mount.mount_point, root })
}

/// Keeps one mount of each hierarchy: that of its root rather than of a folder in it.
fn keep_best(mounts: &mut Vec<Mount>, new: Mount) {
    match mounts.iter().position(|m| m.device == new.device) {
        Some(at) if mounts[at].root != "/" && new.root == "/" => mounts[at] = new,
        None if mounts.len() < HIERARCHIES_MAX => mounts.push(new),
        Some(_) | None => {}
    }
}

/// Reads a line of proc_pid_mountinfo(5); `None` if it is no cgroup mount.
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let (fs_type, _source, options) = (right.next()?, right.next()?, right.next()?);
    let kind = match fs_type {
        "cgroup2" => Kind::V2(Vec::new()),
        "cgroup" => v1_kind(options),
        _ => return None,
    };
    let mut left = left.split(' ').skip(2);
    let (device, root, mount_point) = (left.next()?, left.next()?, left.next()?);
    Some(Mount {
        device: device.to_owned(),
        root: root.to_owned(),
        mount_point: PathBuf::from(unescape(mount_point)),
        kind,
    })
}

/// Controllers are options like others; these are the others that a v1 hierarchy may have.
fn v1_kind(options: &str) -> Kind {
    const NOT_CONTROLLERS: &[&str] =
        &["rw", "ro", "xattr", "noprefix", "clone_children", "none", "all", "cpuset_v2_mode", "favordynmods"];
    let mut controllers = Vec::new();
    let mut name = None;
    for option in options.split(',') {
        if let Some(given) = option.strip_prefix("name=") {
            name = Some(given.to_owned());
        } else if !option.is_empty() && !option.contains('=') && !NOT_CONTROLLERS.contains(&option) {
            controllers.push(option.to_owned());
        }
    }
    Kind::V1 { controllers, name }
}

/// Undoes mountinfo's `\040` for blanks and the like.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let octal = (byte == b'\\')
            .then(|| text.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()))
            .flatten();
        out.push(octal.unwrap_or(byte));
        at += if octal.is_some() { 4 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(controllers: &[&str], name: Option<&str>) -> Kind {
        Kind::V1 {
            controllers: controllers.iter().map(|c| (*c).to_owned()).collect(),
            name: name.map(str::to_owned),
        }
    }

    #[test]
    fn mountinfo_tells_what_a_hierarchy_carries() {
        let cases = [
            (
                "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct",
                Some(v1(&["cpu", "cpuacct"], None)),
            ),
            (
                "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd",
                Some(v1(&[], Some("systemd"))),
            ),
            (
                "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate",
                Some(Kind::V2(vec![])),
            ),
            ("22 1 0:20 / /proc rw - proc proc rw", None),
            ("", None),
            ("1 2 3 - cgroup", None),
        ];
        for (line, kind) in cases {
            assert_eq!(parse_mount(line).map(|m| m.kind), kind, "{line}");
        }
    }

    #[test]
    fn the_mount_of_the_root_wins_over_a_folder_of_it() {
        let mut mounts = Vec::new();
        for line in [
            "1 2 0:30 /docker/x /mnt/a\\040b rw - cgroup cgroup rw,memory",
            "1 2 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
            "1 2 0:30 /y /elsewhere rw - cgroup cgroup rw,memory",
        ] {
            keep_best(&mut mounts, parse_mount(line).unwrap());
        }
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].mount_point, Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(unescape("/mnt/a\\040b\\"), "/mnt/a b\\");
    }

    #[test]
    fn this_host_has_a_memory_controller_somewhere() {
        let tree = Tree::detect().unwrap();
        assert!(tree.with_controller("memory").is_some());
        assert_eq!(tree.is_unified(), tree.hierarchies().len() == 1 && tree.v2().is_some());
    }
}
