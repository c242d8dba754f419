//! Whether a node can give pods user namespaces: found out by trying.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsmount, fsopen, open_tree,
};

use super::{IdRange, Request, UsernsError, create};
use crate::mount::set_idmap;

/// Any ids: nothing is ever owned by them.
const IDS: IdRange = IdRange { host_id: 1 << 20, length: 1 << 16 };

/// Why pods cannot have user namespaces.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// None can be made.
    #[error("make a user namespace")]
    Make(#[source] UsernsError),
    /// Images, or hostPath volumes, could not be the pod's.
    #[error("map the ids of {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// EINVAL: its file system cannot.
        #[source]
        source: Errno,
    },
    /// Volumes in memory, such as secrets, could not be the pod's.
    #[error("map the ids of a tmpfs")]
    Tmpfs(#[source] Errno),
}

/// Tries what pods with a user namespace need: one, and idmapped mounts of the file system that the folder of images
/// is on and of tmpfs (Linux 6.3). Blocks shortly.
///
/// # Errors
/// See [`ProbeError`].
pub fn probe(folder: &Path) -> Result<(), ProbeError> {
    let request = Request { uids: IDS, gids: IDS, network_and_uts: false, ipc: false };
    let user = create(&request).map_err(ProbeError::Make)?.user;
    let mapped = |mount: Result<OwnedFd, Errno>| set_idmap(mount?.as_fd(), user.as_fd(), false);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    mapped(open_tree(CWD, folder, flags))
        .map_err(|source| ProbeError::Folder { path: folder.to_owned(), source })?;
    mapped(tmpfs()).map_err(ProbeError::Tmpfs)
}

fn tmpfs() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_cannot_map_ids_is_named() {
        let problem = probe(Path::new("/proc")).unwrap_err();
        assert!(matches!(problem, ProbeError::Folder { source: Errno::INVAL, .. }), "{problem:?}");
        assert!(probe(&std::env::temp_dir()).is_ok());
    }
}
