//! Deleting folders that a container wrote to, off every path.
//!
//! A folder is renamed into the trash, which takes no time whatever it holds, and is deleted there by
//! one thread. What a container made can be deep, wide and hostile: deletion is iterative, goes by
//! file descriptor, follows no link, and holds [`DEPTH_MAX`] descriptors at most: what lies deeper is
//! moved up first.

use std::{
    ffi::CString,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};
use tokio::sync::mpsc;

/// Folders that are open at the same time.
const DEPTH_MAX: usize = 64;

/// The trash folder, and the wish that it be emptied.
#[derive(Debug, Clone)]
pub(crate) struct Trash {
    folder: Arc<PathBuf>,
    wake: mpsc::Sender<()>,
    next: Arc<AtomicU64>,
}

impl Trash {
    /// The trash at `folder`, which exists. What is left there from before is deleted too.
    pub(crate) fn open(folder: PathBuf) -> Trash {
        let start = u64::try_from(crate::clock::now_ns()).unwrap_or_default();
        // One wish that waits is enough: emptying deletes all there is.
        let (wake, mut wishes) = mpsc::channel(1);
        let trash =
            Trash { folder: Arc::new(folder), wake: wake.clone(), next: Arc::new(AtomicU64::new(start)) };
        let folder = Arc::clone(&trash.folder);
        tokio::spawn(async move {
            // Ends when the last handle is gone; what is left is deleted at the next start.
            while let Some(()) = wishes.recv().await {
                let folder = Arc::clone(&folder);
                let emptied = tokio::task::spawn_blocking(move || empty(&folder)).await;
                if let Ok(Err(err)) = emptied {
                    tracing::warn!(%err, "emptying the trash failed");
                }
            }
        });
        trash.wish();
        trash
    }

    fn wish(&self) {
        // Full means that a wish waits already.
        let _ = self.wake.try_send(());
    }

    /// Moves a file or folder into the trash; one that is absent is no error. Blocks shortly.
    pub(crate) fn take(&self, path: &Path) -> io::Result<()> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        match std::fs::rename(path, self.folder.join(name)) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(err) => Err(err),
            Ok(()) => {
                self.wish();
                Ok(())
            }
        }
    }
}

/// Deletes all that the folder holds.
fn empty(folder: &Path) -> io::Result<()> {
    let top = open_dir(rustix::fs::CWD, folder)?;
    let mut moved_up = 0u64;
    // What was moved up appears in the top folder again, hence the second look.
    while empty_once(&top, &mut moved_up)? {}
    Ok(())
}

/// Deletes what is in `top`, and tells whether something was moved up into it.
fn empty_once(top: &OwnedFd, moved_up: &mut u64) -> io::Result<bool> {
    let before = *moved_up;
    let mut stack = vec![(open_dir(top, c".")?, CString::default())];
    while let Some((dir, name)) = stack.last() {
        match next_folder(dir)? {
            Some(child) if stack.len() < DEPTH_MAX => {
                let fd = open_dir(dir, child.as_c_str())?;
                stack.push((fd, child));
            }
            Some(child) => {
                let target = CString::new(format!("deep-{}-{moved_up}", std::process::id()))?;
                *moved_up += 1;
                rustix::fs::renameat(dir, child.as_c_str(), top, target.as_c_str())?;
            }
            None => {
                let name = name.clone();
                stack.pop();
                if let Some((parent, _)) = stack.last() {
                    unlink(parent, &name, AtFlags::REMOVEDIR)?;
                }
            }
        }
    }
    Ok(*moved_up > before)
}

/// Deletes all that is no folder, and names the first folder.
fn next_folder(dir: &OwnedFd) -> io::Result<Option<CString>> {
    let mut entries = Dir::read_from(dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let is_folder = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
            known => known == FileType::Directory,
        };
        if is_folder {
            return Ok(Some(name.to_owned()));
        }
        unlink(dir, name, AtFlags::empty())?;
    }
    Ok(None)
}

fn open_dir(parent: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn unlink(parent: &OwnedFd, name: &std::ffi::CStr, flags: AtFlags) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_and_linked_trees_go_and_nothing_else() {
        let base = std::env::temp_dir().join(format!("carpel-trash-{}", std::process::id()));
        let (folder, outside) = (base.join("trash"), base.join("outside"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("keep"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, folder.join("link")).unwrap();
        let mut at = open_dir(rustix::fs::CWD, folder.as_path()).unwrap();
        for _ in 0..500 {
            rustix::fs::mkdirat(
                &at,
                "a-long-name-so-that-the-path-is-over-its-limit",
                Mode::from_raw_mode(0o700),
            )
            .unwrap();
            at = open_dir(&at, "a-long-name-so-that-the-path-is-over-its-limit").unwrap();
        }
        for index in 0..300 {
            std::fs::write(folder.join(format!("file{index}")), "y").unwrap();
        }
        empty(&folder).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        assert!(outside.join("keep").exists());
        std::fs::remove_dir_all(&base).unwrap();
    }
}
