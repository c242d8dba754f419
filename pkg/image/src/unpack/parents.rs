//! Directories that a layer uses but does not describe.
//!
//! A layer with `etc/hosts` and no entry for `etc` means the `etc` of the layers below. Unpacked by itself
//! it needs a directory of its own, and in an overlay the top-most directory's owner and mode are the ones
//! seen: so they are copied from below, once the layers below are there.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, fchmod, fchown, fgetxattr,
    fstat, futimens, openat,
};
use rustix::io::Errno;

use super::OPAQUE_XATTR;
use super::place::Root;
use crate::error::IoFailure;

/// Gives each implicit directory of the layer in `directory` the owner, mode and time it has in the layers
/// below, top-most first. One that is in none of them stays root's, 0755. Blocking.
pub(crate) fn inherit_parents(
    directory: &Path,
    implicit: &BTreeSet<Vec<u8>>,
    below: &[PathBuf],
) -> Result<(), IoFailure> {
    if implicit.is_empty() || below.is_empty() {
        return Ok(());
    }
    let root = Root::open(directory)?;
    let lowers: Vec<Root> = below.iter().map(|path| Root::open(path)).collect::<Result<_, _>>()?;
    for path in implicit {
        let parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        let Some(stat) = lookup(&lowers, &parts)? else { continue };
        let Some(fd) = root.find_exact(&parts)? else { continue };
        let failed = |errno| IoFailure::new("set attributes of", shown(&parts), errno);
        fchown(&fd, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))).map_err(failed)?;
        fchmod(&fd, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(failed)?;
        let modified = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 };
        let access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        futimens(&fd, &Timestamps { last_access: access, last_modification: modified }).map_err(failed)?;
    }
    Ok(())
}

/// What one layer says of a path.
enum Seen {
    /// It has the directory.
    Directory(Stat),
    /// It hides the path, so that layers further down do not count.
    Hidden,
    /// It says nothing.
    Nothing,
}

/// The directory as an overlay of the layers would show it.
fn lookup(lowers: &[Root], parts: &[&[u8]]) -> Result<Option<Stat>, IoFailure> {
    for lower in lowers {
        match look(lower, parts)? {
            Seen::Directory(stat) => return Ok(Some(stat)),
            Seen::Hidden => return Ok(None),
            Seen::Nothing => {}
        }
    }
    Ok(None)
}

fn look(lower: &Root, parts: &[&[u8]]) -> Result<Seen, IoFailure> {
    let failed = |errno| IoFailure::new("look up", shown(parts), errno);
    let mut opaque = is_opaque(lower.fd());
    let mut at: Option<OwnedFd> = None;
    for part in parts {
        let here = at.as_ref().map_or(lower.fd(), |fd| fd.as_fd());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(here, *part, flags, Mode::empty()) {
            Ok(fd) => at = Some(fd),
            Err(Errno::NOENT) => return Ok(if opaque { Seen::Hidden } else { Seen::Nothing }),
            // A whiteout, a file or a symlink: an overlay does not look below it.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Seen::Hidden),
            Err(errno) => return Err(failed(errno)),
        }
        opaque |= at.as_ref().is_some_and(|fd| is_opaque(fd.as_fd()));
    }
    let stat = fstat(at.as_ref().map_or(lower.fd(), |fd| fd.as_fd())).map_err(failed)?;
    debug_assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::Directory);
    Ok(Seen::Directory(stat))
}

fn is_opaque(fd: impl AsFd) -> bool {
    let mut value = [0_u8; 1];
    fgetxattr(fd, OPAQUE_XATTR, &mut value[..]).is_ok_and(|length| length == 1 && &value == b"y")
}

fn shown(parts: &[&[u8]]) -> String {
    String::from_utf8_lossy(&parts.join(&b'/')).into_owned()
}
