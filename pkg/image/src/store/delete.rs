//! Deleting a directory tree of any depth with few open descriptors and no recursion.
//!
//! Everything is relative to a directory descriptor and follows no link. A directory that lies deeper than
//! [`DEPTH_MAX`] is moved up beside the tree's root first and deleted after it, so that a million nested
//! directories need no more memory or descriptors than thirty.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use crate::error::IoFailure;

const DEPTH_MAX: usize = 32;

/// One directory being emptied.
struct Level {
    name: CString,
    fd: OwnedFd,
    entries: Dir,
}

/// What is told of each object deleted, while it is still there.
type Count<'c> = &'c mut dyn FnMut(&Stat);

/// Deletes `name` in `folder`, whatever it is. Absent is fine.
pub(crate) fn tree(folder: impl AsFd, name: &OsStr) -> Result<(), IoFailure> {
    remove(folder.as_fd(), name, None)
}

/// Like [`tree`], and shows each object to `count` just before it goes.
pub(crate) fn tree_counted(folder: impl AsFd, name: &OsStr, count: Count<'_>) -> Result<(), IoFailure> {
    remove(folder.as_fd(), name, Some(count))
}

fn remove(folder: BorrowedFd<'_>, name: &OsStr, mut count: Option<Count<'_>>) -> Result<(), IoFailure> {
    let mut pending = vec![c_name(name.as_bytes())?];
    let mut hoisted = 0_u64;
    while let Some(next) = pending.pop() {
        delete_one(folder, &next, &mut count, &mut |from, child| {
            let fresh = c_name(format!("{}.deep-{hoisted}", name.to_string_lossy()).as_bytes())?;
            hoisted += 1;
            renameat(from, child, folder, &fresh).map_err(|errno| failure("move up", child, errno))?;
            pending.push(fresh);
            Ok(())
        })?;
    }
    Ok(())
}

/// Deletes one tree down to [`DEPTH_MAX`], giving deeper directories to `hoist`.
fn delete_one(
    folder: BorrowedFd<'_>,
    name: &CStr,
    count: &mut Option<Count<'_>>,
    hoist: &mut dyn FnMut(&OwnedFd, &CStr) -> Result<(), IoFailure>,
) -> Result<(), IoFailure> {
    let Some(top) = enter(folder, name, count)? else { return Ok(()) };
    let mut stack = vec![top];
    while let Some(level) = stack.last_mut() {
        let next = level.entries.next().transpose().map_err(|e| failure("list", &level.name, e))?;
        let Some(entry) = next else {
            if let Some(done) = stack.pop() {
                let parent = stack.last().map_or(folder, |above| above.fd.as_fd());
                unlinkat(parent, &done.name, AtFlags::REMOVEDIR)
                    .map_err(|errno| failure("delete", &done.name, errno))?;
            }
            continue;
        };
        let child = entry.file_name();
        if child == c"." || child == c".." {
            continue;
        }
        if stack.len() < DEPTH_MAX {
            if let Some(deeper) = enter(stack[stack.len() - 1].fd.as_fd(), child, count)? {
                stack.push(deeper);
            }
        } else {
            let level = &stack[stack.len() - 1];
            let before = look(level.fd.as_fd(), child, count);
            match unlinkat(&level.fd, child, AtFlags::empty()) {
                Ok(()) => tell(count, before.as_ref()),
                Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => hoist(&level.fd, child)?,
                Err(errno) => return Err(failure("delete", child, errno)),
            }
        }
    }
    Ok(())
}

/// Deletes `name` if it is no directory, and opens it if it is one.
fn enter(
    folder: BorrowedFd<'_>,
    name: &CStr,
    count: &mut Option<Count<'_>>,
) -> Result<Option<Level>, IoFailure> {
    let before = look(folder, name, count);
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) => {
            tell(count, before.as_ref());
            return Ok(None);
        }
        Err(Errno::NOENT) => return Ok(None),
        // Linux says EISDIR, whatever the file system (unlink(2)).
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(failure("delete", name, errno)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(folder, name, flags, Mode::empty()).map_err(|errno| failure("open", name, errno))?;
    let entries = Dir::read_from(&fd).map_err(|errno| failure("list", name, errno))?;
    tell(count, before.as_ref());
    Ok(Some(Level { name: name.to_owned(), fd, entries }))
}

/// The object as it is, if somebody counts.
fn look(folder: BorrowedFd<'_>, name: &CStr, count: &Option<Count<'_>>) -> Option<Stat> {
    count.as_ref().and_then(|_| statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok())
}

fn tell(count: &mut Option<Count<'_>>, stat: Option<&Stat>) {
    if let (Some(count), Some(stat)) = (count, stat) {
        count(stat);
    }
}

fn c_name(bytes: &[u8]) -> Result<CString, IoFailure> {
    CString::new(bytes)
        .map_err(|error| IoFailure::new("name", String::from_utf8_lossy(bytes).into_owned(), error))
}

fn failure(action: &'static str, name: &CStr, errno: Errno) -> IoFailure {
    IoFailure::new(action, name.to_string_lossy().into_owned(), errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_and_wide_trees_go_and_link_targets_stay() {
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("canary");
        std::fs::write(&outside, "here").unwrap();
        let top = std::fs::File::open(home.path()).unwrap();
        let mut at: OwnedFd = top.try_clone().unwrap().into();
        for depth in 0..3000 {
            let name = if depth == 0 { "tree" } else { "d" };
            rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            at = openat(&at, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            rustix::fs::symlinkat("/", &at, "link").unwrap();
            rustix::fs::linkat(&top, "canary", &at, "hard", AtFlags::empty()).unwrap();
        }
        for n in 0..500 {
            std::fs::write(home.path().join("tree").join(format!("f{n}")), "x").unwrap();
        }
        tree(&top, OsStr::new("tree")).unwrap();
        assert_eq!(std::fs::read(&outside).unwrap(), b"here");
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
        tree(&top, OsStr::new("tree")).unwrap();
    }
}
