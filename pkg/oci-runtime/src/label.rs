//! SELinux labels of files that exist: volumes that a container is to have for its own.
//!
//! A container's new file systems are mounted with a label, a volume's files are given one each, for good.
//! Every file is held by a descriptor before it is labelled, and what a symbolic link leads to never is.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags, fsetxattr, fstat, getxattr, openat, openat2,
    setxattr, stat,
};
use rustix::io::Errno;

/// Where a file's label is: security(7) of xattr(7).
const ATTRIBUTE: &str = "security.selinux";
/// The longest label that is compared before it is written.
const LABEL_MAX_BYTES: usize = 1024;
/// The deepest folder that is labelled: each level holds a descriptor.
const DEPTH_MAX: usize = 256;
/// The most files of one volume.
const FILES_MAX: u64 = 10_000_000;
/// What the node itself lives of: giving it to a container would lock the node's own programs out. As the
/// selinux library of containerd and CRI-O has it.
const PROTECTED: [&str; 25] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/tmp",
];

/// Why a volume was not labelled. What was labelled before stays so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelabelError {
    #[error("the volume {path} is {protected}, which is the node's own: it is not given an SELinux label")]
    Protected { path: String, protected: &'static str },
    #[error(
        "the volume {path} is deeper than {DEPTH_MAX} folders, or has more than {FILES_MAX} files: it is not given an SELinux label"
    )]
    TooLarge { path: String },
    #[error("give SELinux label {label:?} to the files of the volume {path}")]
    Files {
        path: String,
        label: String,
        #[source]
        source: Errno,
    },
}

/// How a walk ended early.
enum Stop {
    TooLarge,
    /// This file system has no labels of its own.
    Unsupported,
    Failed(Errno),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOTSUP => Self::Unsupported,
            other => Self::Failed(other),
        }
    }
}

/// Labels a volume, a folder with all below it or a file, but nothing that is mounted below. One on a file
/// system that has no labels is left as it is. The volume itself comes last: its label tells of a whole one.
pub(crate) fn relabel(volume: BorrowedFd<'_>, path: &str, label: &str) -> Result<(), RelabelError> {
    let failed = |source| RelabelError::Files { path: path.to_owned(), label: label.to_owned(), source };
    let own = fstat(volume).map_err(failed)?;
    let is_own = |name: &&str| stat(*name).is_ok_and(|s| (s.st_dev, s.st_ino) == (own.st_dev, own.st_ino));
    if let Some(protected) = PROTECTED.into_iter().find(is_own) {
        return Err(RelabelError::Protected { path: path.to_owned(), protected });
    }
    let is_dir = FileType::from_raw_mode(own.st_mode) == FileType::Directory;
    let below = if is_dir { relabel_below(volume, label) } else { Ok(()) };
    match below.and_then(|()| set(volume, label).map_err(Stop::from)) {
        Ok(()) | Err(Stop::Unsupported) => Ok(()),
        Err(Stop::TooLarge) => Err(RelabelError::TooLarge { path: path.to_owned() }),
        Err(Stop::Failed(errno)) => Err(failed(errno)),
    }
}

fn relabel_below(top: BorrowedFd<'_>, label: &str) -> Result<(), Stop> {
    let mut files: u64 = 0;
    let mut folders = vec![list(top)?];
    while let Some(folder) = folders.last_mut() {
        let Some(entry) = folder.read() else {
            folders.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
        let file = match openat2(folder.fd()?, name, flags, Mode::empty(), within) {
            Ok(file) => file,
            // Removed meanwhile; a mount.
            Err(Errno::NOENT | Errno::XDEV) => continue,
            Err(errno) => return Err(errno.into()),
        };
        files += 1;
        let is_dir = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Directory;
        if files > FILES_MAX || (is_dir && folders.len() >= DEPTH_MAX) {
            return Err(Stop::TooLarge);
        }
        set(file.as_fd(), label)?;
        if is_dir {
            folders.push(list(file.as_fd())?);
        }
    }
    Ok(())
}

fn list(folder: BorrowedFd<'_>) -> Result<Dir, Errno> {
    Dir::new(open_dir(folder)?)
}

fn open_dir(folder: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Labels the file that a descriptor holds, whatever it is: a symbolic link itself too. One that has the label
/// is not written to.
fn set(file: BorrowedFd<'_>, label: &str) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut current = [0u8; LABEL_MAX_BYTES];
    if let Ok(length) = getxattr(path.as_str(), ATTRIBUTE, &mut current[..])
        && current[..length].strip_suffix(b"\0").unwrap_or(&current[..length]) == label.as_bytes()
    {
        return Ok(());
    }
    setxattr(path.as_str(), ATTRIBUTE, label.as_bytes(), XattrFlags::empty())
}

/// Labels the root folder of a file system that is mounted, perhaps nowhere; one that has no labels is left.
pub(crate) fn set_on_root(mount: BorrowedFd<'_>, label: &str) -> Result<(), Errno> {
    match fsetxattr(open_dir(mount)?, ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        Err(Errno::NOTSUP) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
