//! Deleting folders that a container wrote to, off every path.
//!
//! A folder is renamed into the trash, which takes no time whatever it holds, and is deleted there by
//! one thread. What a container made can be deep, wide and hostile: deletion is iterative, goes by
//! file descriptor, follows no link, and holds [`DEPTH_MAX`] descriptors at most: what lies deeper is
//! moved up first. Flags that forbid deletion (`chattr +i`, `+a`) are cleared.
//!
//! What cannot be deleted, such as a mount point, is stuck: it is passed over, told of once, and tried
//! again with growing pauses. It keeps nothing else from going.

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags, RenameFlags},
    io::Errno,
};
use tokio::sync::mpsc;

/// Folders that are open at the same time.
const DEPTH_MAX: usize = 64;
/// Until what is stuck is tried again for the first time; each further pause is twice as long.
const PAUSE_FIRST: Duration = Duration::from_secs(10);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// The trash folder, and the wish that it be emptied.
#[derive(Debug, Clone)]
pub(crate) struct Trash {
    folder: Arc<PathBuf>,
    wake: mpsc::Sender<()>,
    next: Arc<AtomicU64>,
}

/// Entries of the trash that could not be deleted, by name.
type Stuck = HashMap<CString, Retry>;

/// When something stuck is tried again.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    pause: Duration,
}

impl Trash {
    /// The trash at `folder`, which exists. What is left there from before is deleted too.
    pub(crate) fn open(folder: PathBuf) -> Trash {
        let start = u64::try_from(crate::clock::now_ns()).unwrap_or_default();
        // One wish that waits is enough: emptying deletes all there is.
        let (wake, wishes) = mpsc::channel(1);
        let trash = Trash { folder: Arc::new(folder), wake, next: Arc::new(AtomicU64::new(start)) };
        tokio::spawn(keep_empty(Arc::clone(&trash.folder), wishes));
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

/// Empties the trash at each wish, and when something stuck is due. Ends when the last handle is gone;
/// what is left is deleted at the next start.
async fn keep_empty(folder: Arc<PathBuf>, mut wishes: mpsc::Receiver<()>) {
    let mut stuck = Stuck::new();
    loop {
        let due = stuck.values().map(|retry| retry.at).min();
        let wish = match due {
            None => wishes.recv().await,
            // Nobody asked by its end: what is stuck is tried again.
            Some(due) => tokio::time::timeout_at(due.into(), wishes.recv()).await.unwrap_or(Some(())),
        };
        if wish.is_none() {
            return;
        }
        let (folder, mut known) = (Arc::clone(&folder), std::mem::take(&mut stuck));
        let emptied = tokio::task::spawn_blocking(move || {
            let emptied = empty(&folder, &mut known);
            (known, emptied)
        });
        // Broken off only with the runtime.
        let Ok((known, emptied)) = emptied.await else { return };
        stuck = known;
        if let Err(err) = emptied {
            tracing::warn!(%err, "emptying the trash failed");
        }
    }
}

/// Deletes all that the folder holds but what is stuck and not due.
fn empty(folder: &Path, stuck: &mut Stuck) -> io::Result<()> {
    let top = open_dir(rustix::fs::CWD, folder)?;
    let begin = Instant::now();
    let mut moved_up = 0u64;
    let is_due = |stuck: &Stuck, name: &CStr| stuck.get(name).is_none_or(|retry| retry.at <= begin);
    // What was moved up is an entry of the trash like any other, so it is come across as well.
    while let Some(name) = first_entry(&top, |name| is_due(stuck, name))? {
        match delete(&top, &name, &mut moved_up) {
            Ok(()) => {
                stuck.remove(&name);
            }
            Err(err) => {
                let known = stuck.get(&name).map(|retry| retry.pause);
                if known.is_none() {
                    let path = folder.join(name.to_string_lossy().as_ref());
                    tracing::warn!(path = %path.display(), %err, "deleting from the trash failed");
                }
                let pause = known.map_or(PAUSE_FIRST, |pause| (pause * 2).min(PAUSE_MAX));
                stuck.insert(name, Retry { at: Instant::now() + pause, pause });
            }
        }
    }
    Ok(())
}

/// The first entry that is wanted.
fn first_entry(top: &OwnedFd, wanted: impl Fn(&CStr) -> bool) -> io::Result<Option<CString>> {
    let mut entries = Dir::read_from(top)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." && wanted(name) {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// Deletes an entry of `top` with all that it holds, but for what is moved up into `top`.
fn delete(top: &OwnedFd, name: &CStr, moved_up: &mut u64) -> io::Result<()> {
    if type_of(top, name)? != FileType::Directory {
        return unlink(top, name, AtFlags::empty());
    }
    let mut stack = vec![(open_dir(top, name)?, name.to_owned())];
    while let Some((dir, name)) = stack.last() {
        match next_folder(dir)? {
            Some(child) if stack.len() < DEPTH_MAX => {
                let fd = open_dir(dir, child.as_c_str())?;
                stack.push((fd, child));
            }
            Some(child) => move_up(dir, &child, top, moved_up)?,
            None => {
                let name = name.clone();
                stack.pop();
                let parent = stack.last().map_or(top, |(parent, _)| parent);
                unlink(parent, &name, AtFlags::REMOVEDIR)?;
            }
        }
    }
    Ok(())
}

fn move_up(dir: &OwnedFd, child: &CStr, top: &OwnedFd, moved_up: &mut u64) -> io::Result<()> {
    loop {
        let target = CString::new(format!("deep-{}-{moved_up}", std::process::id()))?;
        *moved_up += 1;
        let moved = or_unflagged(dir, child, || {
            // One that is stuck since an earlier time may have the name.
            rustix::fs::renameat_with(dir, child, top, target.as_c_str(), RenameFlags::NOREPLACE)
        });
        match moved {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
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
            FileType::Unknown => type_of(dir, name)? == FileType::Directory,
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

fn type_of(parent: &OwnedFd, name: &CStr) -> rustix::io::Result<FileType> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn unlink(parent: &OwnedFd, name: &CStr, flags: AtFlags) -> io::Result<()> {
    match or_unflagged(parent, name, || rustix::fs::unlinkat(parent, name, flags)) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

/// Takes an entry away; if that is not permitted, once more without the flags that forbid it:
/// ioctl_iflags(2), `FS_IMMUTABLE_FL` and `FS_APPEND_FL`, on the entry or on its folder.
fn or_unflagged(
    parent: &OwnedFd,
    name: &CStr,
    take: impl Fn() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    let refused = match take() {
        Err(Errno::PERM) => Errno::PERM,
        other => return other,
    };
    let of_parent = clear_flags(parent);
    // Only these have flags, and only these are safe to open.
    let of_entry = match type_of(parent, name) {
        Ok(FileType::RegularFile | FileType::Directory) => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::empty()).and_then(|entry| clear_flags(&entry))
        }
        Ok(_) => Ok(false),
        Err(err) => Err(err),
    };
    // A file system without flags says so here; then they were not the reason.
    if of_parent.unwrap_or(false) || of_entry.unwrap_or(false) { take() } else { Err(refused) }
}

/// Clears what forbids deletion, and tells whether there was any of it.
fn clear_flags(file: &OwnedFd) -> rustix::io::Result<bool> {
    let forbidding = IFlags::IMMUTABLE | IFlags::APPEND;
    let flags = rustix::fs::ioctl_getflags(file)?;
    if !flags.intersects(forbidding) {
        return Ok(false);
    }
    rustix::fs::ioctl_setflags(file, flags - forbidding)?;
    Ok(true)
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
        empty(&folder, &mut Stuck::new()).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        assert!(outside.join("keep").exists());
        std::fs::remove_dir_all(&base).unwrap();
    }

    /// A mount point, which nobody can delete; unmounted at the end.
    struct Mounted(PathBuf);

    impl Mounted {
        fn on(path: PathBuf) -> Mounted {
            std::fs::create_dir_all(&path).unwrap();
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("none", &path, "tmpfs", flags, None::<&CStr>).expect("tests need root");
            Mounted(path)
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        }
    }

    #[test]
    fn what_cannot_be_deleted_keeps_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("trash");
        for name in ["a", "b", "c", "d"] {
            std::fs::create_dir_all(folder.join(name).join("upper")).unwrap();
            std::fs::write(folder.join(name).join("upper/file"), "x").unwrap();
        }
        let mounted = Mounted::on(folder.join("b/upper/mount"));
        let mut stuck = Stuck::new();
        empty(&folder, &mut stuck).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["b"]);
        assert_eq!(stuck.keys().cloned().collect::<Vec<_>>(), [c"b".to_owned()]);
        drop(mounted);
        // Not due yet.
        empty(&folder, &mut stuck).unwrap();
        assert!(folder.join("b").exists());
        stuck.values_mut().for_each(|retry| retry.at = Instant::now());
        empty(&folder, &mut stuck).unwrap();
        assert!(!folder.join("b").exists() && stuck.is_empty());
    }

    #[test]
    fn pauses_grow() {
        let base = tempfile::tempdir().unwrap();
        let _mounted = Mounted::on(base.path().join("b"));
        let mut stuck = Stuck::new();
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            empty(base.path(), &mut stuck).unwrap();
            let retry = stuck.get_mut(c"b").unwrap();
            assert!(retry.pause > last || retry.pause == PAUSE_MAX, "{:?}", retry.pause);
            last = retry.pause;
            retry.at = Instant::now();
        }
        assert_eq!(last, PAUSE_MAX);
    }

    #[test]
    fn flags_that_forbid_deletion_are_cleared() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("trash");
        let upper = folder.join("a/upper");
        std::fs::create_dir_all(upper.join("sub")).unwrap();
        for (path, flag) in
            [("file", IFlags::IMMUTABLE), ("log", IFlags::APPEND), ("sub/file", IFlags::APPEND)]
        {
            std::fs::write(upper.join(path), "x").unwrap();
            if !set_flag(&upper.join(path), flag) {
                // This file system has no flags: there is nothing to clear.
                return;
            }
        }
        assert!(set_flag(&upper.join("sub"), IFlags::IMMUTABLE) && set_flag(&upper, IFlags::IMMUTABLE));
        assert!(std::fs::remove_file(upper.join("file")).is_err());
        let mut stuck = Stuck::new();
        empty(&folder, &mut stuck).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "{stuck:?}");
    }

    fn set_flag(path: &Path, flag: IFlags) -> bool {
        let file = std::fs::File::open(path).unwrap();
        match rustix::fs::ioctl_getflags(&file) {
            Ok(flags) => match rustix::fs::ioctl_setflags(&file, flags | flag) {
                Ok(()) => true,
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::PERM) => false,
                Err(err) => panic!("{err}"),
            },
            Err(Errno::OPNOTSUPP | Errno::NOTTY) => false,
            Err(err) => panic!("{err}"),
        }
    }
}
