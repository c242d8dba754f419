//! New file systems of a container's own: proc, sysfs, tmpfs, devpts, mqueue …

use std::os::fd::{AsFd, OwnedFd};

use carpel_shim_api::plan::FilesystemSource;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use crate::label;

/// Why a file system was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesystemError {
    #[error("the kernel has no file system {fs_type:?}")]
    Unknown {
        fs_type: String,
        #[source]
        source: Errno,
    },
    #[error("{fs_type} option {option:?}")]
    Option {
        fs_type: String,
        option: String,
        #[source]
        source: Errno,
    },
    #[error("label the root of a {fs_type}")]
    Label {
        fs_type: String,
        #[source]
        source: Errno,
    },
    #[error("make a {fs_type}")]
    Make {
        fs_type: String,
        #[source]
        source: Errno,
    },
}

/// Makes one, attached nowhere. What it shows is of this process's namespaces. Its files have that SELinux
/// label, unless it is empty or the kernel says itself how they are labelled (proc, sysfs, cgroup).
pub(crate) fn make(source: &FilesystemSource, label: &str) -> Result<OwnedFd, FilesystemError> {
    let fs_type = source.fs_type.as_str();
    let context = match fs_type {
        "tmpfs" | "devpts" if !label.is_empty() => Some(format!("context={label}")),
        _ => None,
    };
    let options = source.options.iter().map(String::as_str).chain(context.as_deref());
    make_named(fs_type, options)
}

/// Makes an mqueue, attached nowhere, which is that of this process's IPC namespace. That one has made it already, so
/// that it is too late for an option: its root is given the label, unless that is empty.
pub(crate) fn make_mqueue(source: &FilesystemSource, label: &str) -> Result<OwnedFd, FilesystemError> {
    let mount = make(source, "")?;
    if !label.is_empty() {
        label::set_on_root(mount.as_fd(), label)
            .map_err(|errno| FilesystemError::Label { fs_type: source.fs_type.clone(), source: errno })?;
    }
    Ok(mount)
}

pub(crate) fn make_named<'a>(
    fs_type: &str,
    options: impl Iterator<Item = &'a str>,
) -> Result<OwnedFd, FilesystemError> {
    let failed = |source| FilesystemError::Make { fs_type: fs_type.to_owned(), source };
    let context = fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|source| FilesystemError::Unknown { fs_type: fs_type.to_owned(), source })?;
    // What the mount table shows as the source. Some file systems take none.
    let _shown_only = fsconfig_set_string(context.as_fd(), "source", fs_type);
    for option in options {
        let set = match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context.as_fd(), key, value),
            None => fsconfig_set_flag(context.as_fd(), option),
        };
        set.map_err(|source| FilesystemError::Option {
            fs_type: fs_type.to_owned(),
            option: option.to_owned(),
            source,
        })?;
    }
    fsconfig_create(context.as_fd()).map_err(failed)?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(failed)
}

/// The `/dev` of a plan that has none.
pub(crate) fn default_dev() -> FilesystemSource {
    let options = ["size=64k", "mode=755"].map(str::to_owned).to_vec();
    FilesystemSource { fs_type: "tmpfs".to_owned(), options }
}
