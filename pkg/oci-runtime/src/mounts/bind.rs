//! Folders and files of the host in a container.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;

use carpel_shim_api::plan::{BindSource, MountPlan, Propagation};
use carpel_sys::mount::{AttrChange, PropagationType, set_attr};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, statx};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::label::{self, RelabelError};
use crate::mountinfo::{Mount, fs_type_of};
use crate::sandbox::user_namespace::UserNamespace;

/// Why a source could not be cloned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    #[error("the source {0:?} is not an absolute path")]
    Relative(String),
    #[error("make the source folder {path}")]
    MakeDir {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("open the source {path}")]
    Source {
        path: String,
        #[source]
        source: Errno,
    },
    #[error("the source {path} is on the host's mount {point}, which is not {wanted}")]
    Propagation { path: String, point: String, wanted: &'static str },
    #[error(transparent)]
    Relabel(RelabelError),
    #[error("set the propagation of {path}")]
    SetPropagation {
        path: String,
        #[source]
        source: Errno,
    },
    #[error("{path} is to show the container's ids, but the pod has no user namespace")]
    NoUserNamespace { path: String },
    #[error(transparent)]
    Idmap(IdmapError),
    #[error("set the attributes of {path}")]
    Attributes {
        path: String,
        #[source]
        source: Errno,
    },
}

/// Clones a source. Symbolic links in its path are the host's and are followed. `host` is read if the
/// mount asks for propagation, `label` if it asks for that.
pub(crate) fn prepare(
    mount: &MountPlan,
    source: &BindSource,
    label: &str,
    host: &[Mount],
    user_namespace: Option<&UserNamespace>,
) -> Result<OwnedFd, BindError> {
    let path = source.path.as_str();
    if !path.starts_with('/') {
        return Err(BindError::Relative(path.to_owned()));
    }
    let named = |source| BindError::Source { path: path.to_owned(), source };
    let clone = match clone_path(path, source.recursive) {
        Err(Errno::NOENT) if source.create_dir => {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
            made.map_err(|source| BindError::MakeDir { path: path.to_owned(), source })?;
            clone_path(path, source.recursive).map_err(named)?
        }
        other => other.map_err(named)?,
    };
    if mount.relabel && !label.is_empty() {
        label::relabel(clone.as_fd(), path, label).map_err(BindError::Relabel)?;
    }
    if mount.idmapped {
        let user_namespace =
            user_namespace.ok_or_else(|| BindError::NoUserNamespace { path: path.to_owned() })?;
        map_volume(clone.as_fd(), path, source.recursive, user_namespace).map_err(BindError::Idmap)?;
    }
    let propagation = match mount.propagation() {
        Propagation::Inherit | Propagation::Private => Some(PropagationType::Private),
        Propagation::Slave => {
            check_host(path, host, "shared nor a slave", |m| m.shared || m.slave)?;
            Some(PropagationType::Slave)
        }
        // The clone is a peer of the host's mount already.
        Propagation::Shared => {
            check_host(path, host, "shared", |m| m.shared)?;
            None
        }
    };
    if propagation.is_some() {
        let change = AttrChange { propagation, recursive: source.recursive, set: 0 };
        set_attr(clone.as_fd(), change)
            .map_err(|source| BindError::SetPropagation { path: path.to_owned(), source })?;
    }
    for (set, recursive) in [(mount.attributes, false), (mount.attributes_recursive, true)] {
        if set != 0 {
            set_attr(clone.as_fd(), AttrChange { set, recursive, propagation: None })
                .map_err(|source| BindError::Attributes { path: path.to_owned(), source })?;
        }
    }
    Ok(clone)
}

/// Has a volume show the container's ids, and what is mounted below it too if all of that can. Else that
/// keeps the host's, which are nobody's in the container: a folder of the host that has a procfs below it
/// is still of use.
fn map_volume(
    clone: BorrowedFd<'_>,
    path: &str,
    recursive: bool,
    user_namespace: &UserNamespace,
) -> Result<(), IdmapError> {
    match user_namespace.map(clone, recursive) {
        Err(Errno::INVAL | Errno::PERM) if recursive => map_one(clone, path, user_namespace),
        Ok(()) => Ok(()),
        Err(source) => Err(IdmapError::new(path, source)),
    }
}

/// Has a mount that is attached nowhere show the container's ids.
pub(crate) fn map_one(
    clone: BorrowedFd<'_>,
    path: &str,
    user_namespace: &UserNamespace,
) -> Result<(), IdmapError> {
    user_namespace.map(clone, false).map_err(|source| IdmapError::new(path, source))
}

/// Why a path cannot show the container's ids.
#[derive(Debug, thiserror::Error)]
#[error("map the ids of {path}, which is on file system {fs_type}")]
pub(crate) struct IdmapError {
    path: String,
    fs_type: String,
    #[source]
    source: Errno,
}

impl IdmapError {
    fn new(path: &str, source: Errno) -> Self {
        let file = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let fs_type = file.map_or_else(|_| "unknown".to_owned(), |file| fs_type_of(file.as_fd()));
        Self { path: path.to_owned(), fs_type, source }
    }
}

/// Clones the mount of a path of this namespace, from that path on.
pub(crate) fn clone_path(path: &str, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags)
}

fn check_host(
    path: &str,
    host: &[Mount],
    wanted: &'static str,
    is_so: impl FnOnce(&Mount) -> bool,
) -> Result<(), BindError> {
    let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .map_err(|source| BindError::Source { path: path.to_owned(), source })?;
    let on = host.iter().find(|mount| mount.id == stat.stx_mnt_id);
    match on {
        Some(mount) if is_so(mount) => Ok(()),
        _ => {
            let point = on.map_or_else(|| "?".to_owned(), |mount| mount.point.clone());
            Err(BindError::Propagation { path: path.to_owned(), point, wanted })
        }
    }
}
