//! Masked and read-only paths, mounted over what the container would see there.
//!
//! The sources are the runtime's own: the host's null device, taken before pivot_root and checked,
//! and one empty read-only tmpfs for all folders. Nothing of the image's can stand in for them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_sys::mount::{
    ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, AttrChange, PropagationType, set_attr,
};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use crate::devices;
use crate::mounts::{bind, clone_mount};
use crate::root::{Links, Root};
use crate::sandbox::mounts::{attach, tmpfs};

const NULL: &str = "/dev/null";

/// Why a path is not masked or not read-only.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MaskError {
    #[error("take the host's null device along")]
    TakeNull(#[source] Errno),
    #[error("the host's /dev/null is not the null device")]
    NotNull,
    #[error("mask {path}")]
    Mask {
        path: String,
        #[source]
        source: Errno,
    },
    #[error("make {path} read-only")]
    ReadOnly {
        path: String,
        #[source]
        source: Errno,
    },
}

/// What files are hidden behind.
#[derive(Debug)]
pub(crate) struct NullMount(OwnedFd);

/// Clones the mount of the host's null device. Called in the host's mount namespace.
pub(crate) fn take_null() -> Result<NullMount, MaskError> {
    let null = bind::clone_path(NULL, false).map_err(MaskError::TakeNull)?;
    if !devices::is_null(null.as_fd()).map_err(MaskError::TakeNull)? {
        return Err(MaskError::NotNull);
    }
    // Read-only keeps the inode's mode and owner, which are the host's, from being changed; a device
    // can be written to all the same.
    let change = AttrChange {
        set: ATTR_RDONLY | ATTR_NOSUID | ATTR_NOEXEC,
        propagation: Some(PropagationType::Private),
        recursive: false,
    };
    set_attr(null.as_fd(), change).map_err(MaskError::TakeNull)?;
    Ok(NullMount(null))
}

/// A mount that is attached once and cloned from then on.
struct Repeated {
    mount: OwnedFd,
    attached: bool,
}

impl Repeated {
    fn attach(&mut self, target: BorrowedFd<'_>) -> Result<(), Errno> {
        if self.attached {
            return attach(clone_mount(self.mount.as_fd())?.as_fd(), target);
        }
        self.attached = true;
        attach(self.mount.as_fd(), target)
    }
}

/// Hides paths. One that is not there needs no hiding. The empty folder has that SELinux label, unless it is
/// empty: a container may look into what it finds empty.
pub(crate) fn mask(root: &Root, null: NullMount, paths: &[String], label: &str) -> Result<(), MaskError> {
    let mut file = Repeated { mount: null.0, attached: false };
    let mut dir: Option<Repeated> = None;
    for path in paths {
        let failed = |source| MaskError::Mask { path: path.clone(), source };
        let Some(target) = find(root, path).map_err(failed)? else { continue };
        let stat = fstat(&target).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            file.attach(target.as_fd()).map_err(failed)?;
            continue;
        }
        let empty = match &mut dir {
            Some(empty) => empty,
            none => none.insert(Repeated { mount: empty_dir(label).map_err(failed)?, attached: false }),
        };
        empty.attach(target.as_fd()).map_err(failed)?;
    }
    Ok(())
}

fn empty_dir(label: &str) -> Result<OwnedFd, Errno> {
    let empty = tmpfs("masked", "4k", "0555", label, None, MountAttrFlags::empty())?;
    let set = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
    set_attr(empty.as_fd(), AttrChange { set, ..AttrChange::default() })?;
    Ok(empty)
}

/// Makes paths read-only, with all mounts below them. One that is not there needs nothing.
pub(crate) fn make_read_only(root: &Root, paths: &[String]) -> Result<(), MaskError> {
    for path in paths {
        let failed = |source| MaskError::ReadOnly { path: path.clone(), source };
        let Some(target) = find(root, path).map_err(failed)? else { continue };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let clone = open_tree(&target, "", flags).map_err(failed)?;
        let change = AttrChange { set: ATTR_RDONLY, recursive: true, propagation: None };
        set_attr(clone.as_fd(), change).map_err(failed)?;
        attach(clone.as_fd(), target.as_fd()).map_err(failed)?;
    }
    Ok(())
}

fn find(root: &Root, path: &str) -> Result<Option<OwnedFd>, Errno> {
    match root.open(path, OFlags::PATH, Links::Follow) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        other => other.map(Some),
    }
}
