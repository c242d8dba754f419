//! The pod's user namespace, and what it means for files and processes.
//!
//! A process of the shim's that enters it has every capability over what the namespace owns and none
//! over what is the host's, and cannot come back. So whatever needs the host's privileges is done before:
//! mounts are prepared, device nodes made, limits raised. It is not seen into by the container's
//! processes: not being dumpable, it belongs to the host's user namespace until it executes a program
//! (ptrace(2)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_shim_api::plan::{IdMappings, IdRange};
use carpel_shim_api::record::User;
use carpel_sys::mount::set_idmap;
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::{
    LinkNameSpaceType, move_into_link_name_space, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// The pod's user namespace.
#[derive(Debug)]
pub(crate) struct UserNamespace {
    fd: OwnedFd,
    ids: IdMappings,
}

/// An id that means nothing in the user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} {id} is not mapped by the pod's user namespace, which has 0 to {last}")]
pub(crate) struct Unmapped {
    what: &'static str,
    id: u32,
    last: u32,
}

impl UserNamespace {
    pub(crate) fn new(fd: OwnedFd, ids: IdMappings) -> Self {
        Self { fd, ids }
    }

    /// The container's root, as the host sees it.
    pub(crate) fn root(&self) -> (Uid, Gid) {
        (Uid::from_raw(self.ids.uids.host_id), Gid::from_raw(self.ids.gids.host_id))
    }

    /// An owner of a file of the image, as the host sees it.
    pub(crate) fn host_ids(&self, uid: u32, gid: u32) -> Result<(Uid, Gid), Unmapped> {
        let uid = host_id("user", self.ids.uids, uid)?;
        let gid = host_id("group", self.ids.gids, gid)?;
        Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    /// Refuses a user that no process in there can be.
    pub(crate) fn check(&self, user: &User) -> Result<(), Unmapped> {
        self.host_ids(user.uid, user.gid)?;
        user.groups.iter().try_for_each(|group| host_id("group", self.ids.gids, *group).map(|_| ()))
    }

    /// The user and group of somebody who owns nothing: `wanted`, or the last ones that there are.
    pub(crate) fn nobody(&self, wanted: u32) -> u32 {
        wanted.min(self.ids.uids.length.saturating_sub(1)).min(self.ids.gids.length.saturating_sub(1))
    }

    /// Has a mount that is attached nowhere show the container's ids.
    pub(crate) fn map(&self, mount: BorrowedFd<'_>, recursive: bool) -> Result<(), Errno> {
        set_idmap(mount, self.fd.as_fd(), recursive)
    }

    /// Moves this process there for good, as its root. Disarms the signal of the parent's death.
    pub(crate) fn enter(&self) -> Result<(), Errno> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::User))?;
        become_root()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Becomes root of the user namespace that this process has just entered. Before that it is nobody in
/// there, and whatever it made would be the host's.
pub(crate) fn become_root() -> Result<(), Errno> {
    let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

fn host_id(what: &'static str, range: IdRange, id: u32) -> Result<u32, Unmapped> {
    let unmapped = Unmapped { what, id, last: range.length.saturating_sub(1) };
    if id >= range.length {
        return Err(unmapped);
    }
    range.host_id.checked_add(id).ok_or(unmapped)
}
