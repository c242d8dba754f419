//! Names in a layer: from the bytes in a tar header to an open directory beneath the layer's root.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, readlinkat, unlinkat,
};
use rustix::io::Errno;

use super::{OPAQUE_XATTR, Refusal, UnpackError, attributes, refused, shown};
use crate::error::IoFailure;
use crate::tar::Entry;

/// Symlinks followed in the parents of one entry: the kernel's own bound (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// Directories open at once while missing parents are made.
const OPEN_MAX: usize = 512;

/// A name relative to the layer's root: its components, none of them empty, `.` or `..`.
pub(super) struct Relative<'p> {
    parts: Vec<&'p [u8]>,
}

impl<'p> Relative<'p> {
    /// A leading slash is the layer's root; `..` is refused, since readers disagree what it means.
    pub(super) fn parse(path: &'p [u8], depth: usize) -> Result<Relative<'p>, Refusal> {
        let mut parts = Vec::new();
        for part in path.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(Refusal::DotDot),
                part if part.contains(&0) => return Err(Refusal::Nul),
                part if part.len() > 255 => return Err(Refusal::LongName),
                part => parts.push(part),
            }
        }
        if parts.len() > depth { Err(Refusal::Deep) } else { Ok(Relative { parts }) }
    }

    /// Parents and name; `None` for the root itself.
    pub(super) fn split(&self) -> Option<(&[&'p [u8]], &'p [u8])> {
        self.parts.split_last().map(|(name, parents)| (parents, *name))
    }

    pub(super) fn joined(&self) -> Vec<u8> {
        self.parts.join(&b'/')
    }
}

/// Why a directory cannot be entered.
pub(super) enum Fault {
    Refused(Refusal),
    Errno(&'static str, Errno),
}

impl Fault {
    pub(super) fn of(self, entry: &Entry) -> UnpackError {
        match self {
            Fault::Refused(what) => refused(entry, what),
            Fault::Errno(action, errno) => {
                UnpackError::Apply { path: shown(&entry.path), action, source: io::Error::from(errno) }
            }
        }
    }
}

/// An open directory, and the directories that were made on the way, as paths from the root.
pub(super) struct Entered {
    pub(super) fd: OwnedFd,
    pub(super) made: Vec<Vec<u8>>,
}

/// The layer's root directory.
pub(super) struct Root {
    fd: OwnedFd,
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Root {
    pub(super) fn open(directory: &Path) -> Result<Root, IoFailure> {
        let fd = rustix::fs::open(directory, FOLDER | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|errno| IoFailure::new("open", directory.display().to_string(), errno))?;
        Ok(Root { fd })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens a directory as a process would whose root this is: symlinks count from here, and `..` stops
    /// here (openat2(2), `RESOLVE_IN_ROOT`). `None` if it is not there.
    pub(super) fn find(&self, parts: &[&[u8]]) -> Result<Option<OwnedFd>, Fault> {
        self.open_with(parts, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// Opens a directory with no symlink in its path; `None` if there is none of that name.
    pub(super) fn find_exact(&self, parts: &[&[u8]]) -> Result<Option<OwnedFd>, IoFailure> {
        match self.open_with(parts, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS) {
            Ok(found) => Ok(found),
            Err(Fault::Refused(_)) => Ok(None),
            Err(Fault::Errno(action, errno)) => {
                Err(IoFailure::new(action, String::from_utf8_lossy(&parts.join(&b'/')).into_owned(), errno))
            }
        }
    }

    fn open_with(&self, parts: &[&[u8]], how: ResolveFlags) -> Result<Option<OwnedFd>, Fault> {
        let path = if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') };
        let path = CString::new(path).map_err(|_| Fault::Refused(Refusal::Nul))?;
        match openat2(&self.fd, &path, FOLDER, Mode::empty(), how) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR) => Err(Fault::Refused(Refusal::ParentNotDirectory)),
            Err(Errno::LOOP) => Err(Fault::Refused(Refusal::LinkLoop)),
            Err(Errno::NAMETOOLONG) => Err(Fault::Refused(Refusal::LongName)),
            Err(errno) => Err(Fault::Errno("open parent directory", errno)),
        }
    }

    /// Opens a directory like [`Root::find`], and makes what is missing of it.
    pub(super) fn enter(&self, parts: &[&[u8]]) -> Result<Entered, Fault> {
        match self.find(parts) {
            Ok(Some(fd)) => return Ok(Entered { fd, made: Vec::new() }),
            // Missing, or hidden by a whiteout of this same layer: the walk makes it.
            Ok(None) | Err(Fault::Refused(Refusal::ParentNotDirectory)) => {}
            Err(fault) => return Err(fault),
        }
        Walk::new(self)?.go(parts)
    }
}

/// Goes down component by component, following symlinks by hand so that their missing targets can be made
/// too: in a layer of its own, `/var/run -> /run` may come without `/run`.
struct Walk {
    /// From the root to here: an open directory and its name each. Never empty.
    stack: Vec<(OwnedFd, Vec<u8>)>,
    todo: VecDeque<Vec<u8>>,
    links: usize,
    made: Vec<Vec<u8>>,
}

impl Walk {
    fn new(root: &Root) -> Result<Walk, Fault> {
        let fd = root.fd.try_clone().map_err(|_| Fault::Errno("open parent directory", Errno::MFILE))?;
        Ok(Walk { stack: vec![(fd, Vec::new())], todo: VecDeque::new(), links: 0, made: Vec::new() })
    }

    fn go(mut self, parts: &[&[u8]]) -> Result<Entered, Fault> {
        self.todo = parts.iter().map(|part| part.to_vec()).collect();
        while let Some(part) = self.todo.pop_front() {
            match part.as_slice() {
                b"" | b"." => {}
                // The root's parent is the root, as after chroot.
                b".." if self.stack.len() > 1 => {
                    self.stack.pop();
                }
                b".." => {}
                _ => self.step(part)?,
            }
        }
        let (fd, _) = self.stack.pop().ok_or(Fault::Refused(Refusal::LinkLoop))?;
        Ok(Entered { fd, made: self.made })
    }

    fn step(&mut self, part: Vec<u8>) -> Result<(), Fault> {
        if self.stack.len() >= OPEN_MAX {
            return Err(Fault::Refused(Refusal::Deep));
        }
        let name = CString::new(part.as_slice()).map_err(|_| Fault::Refused(Refusal::Nul))?;
        let here = self
            .here()
            .try_clone_to_owned()
            .map_err(|_| Fault::Errno("open parent directory", Errno::MFILE))?;
        let peek = openat(&here, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let peek = match peek {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return self.make(here, name, part, false),
            Err(Errno::NAMETOOLONG) => return Err(Fault::Refused(Refusal::LongName)),
            Err(errno) => return Err(Fault::Errno("open parent directory", errno)),
        };
        let stat = fstat(&peek).map_err(|errno| Fault::Errno("look at parent directory", errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.push(&here, &name, part),
            FileType::Symlink => {
                self.links += 1;
                if self.links > LINKS_MAX {
                    return Err(Fault::Refused(Refusal::LinkLoop));
                }
                let target =
                    readlinkat(&peek, c"", Vec::new()).map_err(|e| Fault::Errno("read symlink", e))?;
                let target = target.into_bytes();
                if target.starts_with(b"/") {
                    self.stack.truncate(1);
                }
                for component in target.rsplit(|b| *b == b'/') {
                    self.todo.push_front(component.to_vec());
                }
                Ok(())
            }
            // A whiteout that came before: the directory replaces it and hides the one below.
            FileType::CharacterDevice if stat.st_rdev == 0 => {
                unlinkat(&here, &name, AtFlags::empty()).map_err(|e| Fault::Errno("replace whiteout", e))?;
                self.make(here, name, part, true)
            }
            _ => Err(Fault::Refused(Refusal::ParentNotDirectory)),
        }
    }

    fn make(&mut self, here: OwnedFd, name: CString, part: Vec<u8>, opaque: bool) -> Result<(), Fault> {
        mkdirat(&here, &name, Mode::RWXU).map_err(|errno| Fault::Errno("make parent directory", errno))?;
        self.push(&here, &name, part)?;
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::fchmod(self.here(), mode).map_err(|e| Fault::Errno("make parent directory", e))?;
        if opaque {
            attributes::set_xattr(self.here(), OPAQUE_XATTR, b"y")
                .map_err(|errno| Fault::Errno("mark directory opaque", errno))?;
        }
        let names: Vec<&[u8]> = self.stack[1..].iter().map(|(_, name)| name.as_slice()).collect();
        self.made.push(names.join(&b'/'));
        Ok(())
    }

    fn push(&mut self, here: &OwnedFd, name: &CString, part: Vec<u8>) -> Result<(), Fault> {
        let fd = openat(here, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|errno| Fault::Errno("open parent directory", errno))?;
        self.stack.push((fd, part));
        Ok(())
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.stack[self.stack.len() - 1].0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let parts = |path: &'static [u8]| Relative::parse(path, 4).map(|relative| relative.joined());
        assert_eq!(parts(b"./a//b/./c/"), Ok(b"a/b/c".to_vec()));
        assert_eq!(parts(b"/etc/passwd"), Ok(b"etc/passwd".to_vec()));
        assert_eq!(parts(b"./"), Ok(Vec::new()));
        assert_eq!(parts(b"a/../b"), Err(Refusal::DotDot));
        assert_eq!(parts(b".."), Err(Refusal::DotDot));
        assert_eq!(parts(b"a\0b"), Err(Refusal::Nul));
        assert_eq!(parts(b"a/b/c/d/e"), Err(Refusal::Deep));
        assert!(Relative::parse(&[b'x'; 256], 4).is_err());
        assert!(Relative::parse(&[b'x'; 255], 4).is_ok());
    }
}
