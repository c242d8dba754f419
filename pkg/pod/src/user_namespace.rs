//! User namespaces of pods: making one, and whether this node can give any.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use carpel_spec::config::{IdMappings, PodOrNode, SandboxConfig};
use carpel_sys::{
    mount::set_idmap,
    userns::{self, IdRange, Namespaces, UsernsError},
};
use rustix::{
    fs::CWD,
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsmount, fsopen, open_tree,
    },
};

/// Any ids: nothing is ever owned by them.
const PROBE_IDS: IdRange = IdRange { host_id: 1 << 20, length: 1 << 16 };

/// Why this node's pods have no user namespaces.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserNamespaceProblem {
    /// None can be made.
    #[error("make a user namespace")]
    Make(#[source] UsernsError),
    /// Images, or hostPath volumes, could not be the pod's.
    #[error("map the ids of {path}")]
    Root {
        path: PathBuf,
        #[source]
        source: Errno,
    },
    /// Volumes in memory, such as secrets, could not be the pod's.
    #[error("map the ids of a tmpfs")]
    Tmpfs(#[source] Errno),
}

/// Makes the user namespace that a pod asks for, and what it is to own. Blocks shortly.
pub(crate) fn make(config: &SandboxConfig) -> Result<Option<Namespaces>, UsernsError> {
    let Some(IdMappings { uids, gids }) = config.namespaces.user.mappings() else { return Ok(None) };
    let range =
        |range: carpel_spec::config::IdRange| IdRange { host_id: range.host_id, length: range.length };
    let request = userns::Request {
        uids: range(uids),
        gids: range(gids),
        network_and_uts: config.namespaces.network == PodOrNode::Pod,
        ipc: config.namespaces.ipc == PodOrNode::Pod,
    };
    userns::create(&request).map(Some)
}

/// Tries what pods with a user namespace need: one, and idmapped mounts of the file system that images are
/// on and of tmpfs (Linux 6.3). Blocks shortly.
pub(crate) fn probe(root: &Path) -> Result<(), UserNamespaceProblem> {
    let request = userns::Request { uids: PROBE_IDS, gids: PROBE_IDS, network_and_uts: false, ipc: false };
    let user = userns::create(&request).map_err(UserNamespaceProblem::Make)?.user;
    let mapped = |mount: Result<OwnedFd, Errno>| set_idmap(mount?.as_fd(), user.as_fd(), false);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    mapped(open_tree(CWD, root, flags))
        .map_err(|source| UserNamespaceProblem::Root { path: root.to_owned(), source })?;
    mapped(tmpfs()).map_err(UserNamespaceProblem::Tmpfs)
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
        assert!(matches!(problem, UserNamespaceProblem::Root { source: Errno::INVAL, .. }), "{problem:?}");
        assert!(probe(&std::env::temp_dir()).is_ok());
    }
}
