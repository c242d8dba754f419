//! Network namespaces: made and pinned by a path, entered on a thread of its own, unpinned.
//!
//! A network namespace lives as long as something refers to it. A bind mount of `/proc/thread-self/ns/net`
//! onto a file is such a reference that outlives every process (namespaces(7)), and a path that other
//! programs can open. Processes are never used to name one: a pid may belong to somebody else by now.
//!
//! A thread that changed its namespace must not go back to a pool; here it always ends.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// The `f_type` of a namespace file. statfs(2), `NSFS_MAGIC`.
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// Far more than a node's mount table has.
const MOUNTINFO_MAX_BYTES: u64 = 64 << 20;

/// Why a network namespace could not be made, entered, found or removed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}")]
pub struct NetnsError {
    /// What was attempted, as a verb phrase.
    operation: &'static str,
    /// The pin, or the folder of pins.
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetnsError {
    move |source| NetnsError { operation, path: path.into(), source }
}

/// Makes a network namespace, pins it at `pin` (which must not exist yet), runs `inside` on the thread that
/// is in it, and returns what that returned. Nothing is pinned if this fails.
pub fn create<T: Send>(pin: &Path, inside: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    on_own_thread(pin, || pin_and_run(pin, unshare, inside))
}

/// As [`create`], with a namespace that somebody made already: one that another user namespace owns.
pub fn adopt<T: Send>(
    ns: BorrowedFd<'_>,
    pin: &Path,
    inside: impl FnOnce() -> T + Send,
) -> Result<T, NetnsError> {
    let enter = || Ok(rustix::thread::move_into_link_name_space(ns, Some(LinkNameSpaceType::Network))?);
    on_own_thread(pin, || pin_and_run(pin, enter, inside))
}

fn pin_and_run<T>(
    pin: &Path,
    enter: impl FnOnce() -> io::Result<()>,
    inside: impl FnOnce() -> T,
) -> Result<T, NetnsError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(pin)
        .map_err(error("create the file that pins network namespace", pin))?;
    let pinned = enter().and_then(|()| Ok(rustix::mount::mount_bind("/proc/thread-self/ns/net", pin)?));
    if let Err(source) = pinned {
        // The file is ours and holds nothing; if even this fails, `remove` finds it by name later.
        let _ = std::fs::remove_file(pin);
        return Err(error("make and pin network namespace", pin)(source));
    }
    Ok(inside())
}

/// Runs `work` on a thread that has entered the pinned namespace `ns`.
pub fn enter<T: Send>(ns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let path = Path::new("by descriptor");
    on_own_thread(path, || {
        rustix::thread::move_into_link_name_space(ns, Some(LinkNameSpaceType::Network))
            .map_err(|errno| error("enter network namespace", path)(errno.into()))?;
        Ok(work())
    })
}

/// Opens the namespace pinned at `pin`. `None` if nothing is there, or a plain file: what a pin looks like
/// after a reboot when its folder is on a disk.
pub fn open(pin: &Path) -> Result<Option<OwnedFd>, NetnsError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let fd = match rustix::fs::open(pin, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(error("open network namespace", pin)(errno.into())),
    };
    let stat =
        rustix::fs::fstatfs(&fd).map_err(|errno| error("identify network namespace", pin)(errno.into()))?;
    Ok((stat.f_type as u64 == NSFS_MAGIC).then_some(fd))
}

/// The calling thread's network namespace.
pub fn current() -> Result<OwnedFd, NetnsError> {
    let path = Path::new("/proc/thread-self/ns/net");
    Ok(File::open(path).map_err(error("open network namespace", path))?.into())
}

/// Unpins a namespace. It lives on while processes are in it; the path is free at once. Nothing there, or a
/// file without a namespace on it, is a success.
pub fn remove(pin: &Path) -> Result<(), NetnsError> {
    // Several mounts may lie on one another when a folder was bound onto itself between two creations.
    for _ in 0..16 {
        match rustix::mount::unmount(pin, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => (),
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(errno) => return Err(error("unmount network namespace", pin)(errno.into())),
        }
    }
    match std::fs::remove_file(pin) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(error("remove the file that pinned network namespace", pin)(source))
        }
        _ => Ok(()),
    }
}

/// Whether [`share_dir`] had to bind the folder onto itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// The folder lies on a shared mount already.
    Already,
    /// The folder is a shared mount of its own since now.
    Made,
}

/// Makes `dir` and sees to it that it lies on a shared mount, so that pins appear in, and vanish from, mount
/// namespaces that have a copy of it (a plugin running in a pod). ip-netns(8) prepares `/run/netns` alike.
pub fn share_dir(dir: &Path) -> Result<Sharing, NetnsError> {
    std::fs::create_dir_all(dir).map_err(error("create folder of network namespaces", dir))?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o755))
        .map_err(error("set permissions of folder of network namespaces", dir))?;
    if lies_on_shared_mount(dir).map_err(error("find the mount of", dir))? {
        return Ok(Sharing::Already);
    }
    rustix::mount::mount_bind(dir, dir).map_err(|errno| error("bind onto itself", dir)(errno.into()))?;
    rustix::mount::mount_change(dir, MountPropagationFlags::SHARED)
        .map_err(|errno| error("share the mount of", dir)(errno.into()))?;
    Ok(Sharing::Made)
}

/// Whether [`unshare_dir`] could undo it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsharing {
    /// The folder is a plain one again.
    Done,
    /// Somebody's namespace is pinned there.
    InUse,
}

/// Undoes what [`share_dir`] made, if nothing is mounted below any more. The folder stays.
pub fn unshare_dir(dir: &Path) -> Result<Unsharing, NetnsError> {
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(Unsharing::Done),
        Err(Errno::BUSY) => Ok(Unsharing::InUse),
        Err(errno) => Err(error("unmount folder of network namespaces", dir)(errno.into())),
    }
}

/// Mount ids are the first field of a line of mountinfo, propagation is among the optional fields between the
/// sixth one and a lone `-` (proc_pid_mountinfo(5)).
fn lies_on_shared_mount(dir: &Path) -> io::Result<bool> {
    let statx = rustix::fs::statx(rustix::fs::CWD, dir, AtFlags::empty(), StatxFlags::MNT_ID)?;
    let mut mounts = String::new();
    io::Read::read_to_string(
        &mut io::Read::take(File::open("/proc/thread-self/mountinfo")?, MOUNTINFO_MAX_BYTES),
        &mut mounts,
    )?;
    let id = statx.stx_mnt_id.to_string();
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(id.as_str()));
    let mut optional = line.into_iter().flat_map(|l| l.split(' ').skip(6)).take_while(|field| *field != "-");
    Ok(optional.any(|field| field.starts_with("shared:")))
}

fn unshare() -> io::Result<()> {
    // SAFETY: CLONE_NEWNET alone takes no descriptor away from any thread; CLONE_FILES is not asked for.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}

fn on_own_thread<T: Send>(
    path: &Path,
    work: impl FnOnce() -> Result<T, NetnsError> + Send,
) -> Result<T, NetnsError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(error("start a thread for network namespace", path))?;
        match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// A fresh mount namespace for the thread of the test, so that nothing is left on the machine.
    fn in_own_mounts(test: impl FnOnce(&Path) + Send) {
        let dir = std::env::temp_dir().join(format!(
            "carpel-netns-{}-{:?}",
            std::process::id(),
            thread::current().id()
        ));
        std::fs::create_dir_all(&dir).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: CLONE_FILES is not asked for.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                rustix::mount::mount_change("/", private).unwrap();
                test(&dir);
            });
        });
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_pin_is_made_entered_and_removed_once_or_twice() {
        in_own_mounts(|dir| {
            let pin = dir.join("pod");
            let links = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
            let outside = links();
            let inside = create(&pin, links).unwrap();
            assert_ne!(inside, outside);
            assert_eq!(links(), outside, "the caller's thread moved");
            let ns = open(&pin).unwrap().expect("pinned");
            assert_eq!(enter(ns.as_fd(), links).unwrap(), inside);
            assert!(create(&pin, || ()).is_err(), "an existing pin was overwritten");
            remove(&pin).unwrap();
            remove(&pin).unwrap();
            assert!(open(&pin).unwrap().is_none() && !pin.exists());
        });
    }

    #[test]
    fn a_plain_file_is_no_namespace_and_can_be_removed() {
        in_own_mounts(|dir| {
            let pin = dir.join("stale");
            std::fs::write(&pin, "").unwrap();
            assert!(open(&pin).unwrap().is_none());
            remove(&pin).unwrap();
            assert!(!pin.exists());
        });
    }

    #[test]
    fn a_folder_is_shared_once() {
        in_own_mounts(|dir| {
            let pins = dir.join("pins");
            assert_eq!(share_dir(&pins).unwrap(), Sharing::Made);
            assert_eq!(share_dir(&pins).unwrap(), Sharing::Already);
            create(&pins.join("pod"), || ()).unwrap();
            assert_eq!(unshare_dir(&pins).unwrap(), Unsharing::InUse);
            remove(&pins.join("pod")).unwrap();
            assert_eq!(unshare_dir(&pins).unwrap(), Unsharing::Done);
        });
    }
}
