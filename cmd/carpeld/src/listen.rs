//! The CRI socket, and the lock that keeps two daemons off the same state.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;
use tokio::net::UnixListener;

/// Why the daemon cannot take its place.
#[derive(Debug, Error)]
pub enum ListenError {
    /// A folder could not be made.
    #[error("cannot make the folder {path}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The lock file could not be opened.
    #[error("cannot open the lock {path}")]
    Lock {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another daemon holds the lock.
    #[error("another carpeld already works on {folder}; give this one its own --root, --state and --listen")]
    Taken {
        /// The shared folder.
        folder: PathBuf,
    },
    /// The socket could not be made.
    #[error("cannot listen on {path}")]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The file of a socket that is listened on.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path, file: &Path) -> io::Result<SocketFile> {
        let file = fs::symlink_metadata(file)?;
        Ok(SocketFile { path: path.to_owned(), device: file.dev(), inode: file.ino() })
    }

    /// Removes it, unless another daemon has put its own in its place.
    pub fn remove(self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket stays behind");
        }
    }
}

/// Holds a folder for this daemon alone, as long as it lives.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Makes `folder` (mode 0700) if need be and locks it.
///
/// # Errors
/// [`ListenError::Taken`] if another daemon lives there.
pub fn lock(folder: &Path) -> Result<FolderLock, ListenError> {
    make_folder(folder)?;
    let path = folder.join("lock");
    let failed = |source| ListenError::Lock { path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(FolderLock { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ListenError::Taken { folder: folder.to_owned() }),
        Err(error) => Err(failed(error.into())),
    }
}

/// Listens on `path`, replacing a socket that a dead daemon left. Only root may connect.
///
/// # Errors
/// See [`ListenError`]. The caller holds the state folder's lock, so a socket that is there is stale.
pub fn bind(path: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
    let failed = |source| ListenError::Bind { path: path.to_owned(), source };
    if let Some(folder) = path.parent()
        && !folder.exists()
    {
        make_folder(folder)?;
    }
    // A fresh name and a rename: a client never meets a moment without a socket, nor one with wide permissions.
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o600)).map_err(failed)?;
    let socket = SocketFile::of(path, &fresh).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)?;
    Ok((listener, socket))
}

fn make_folder(path: &Path) -> Result<(), ListenError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| ListenError::Folder { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_daemons_do_not_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        let first = lock(&folder).unwrap();
        assert!(matches!(lock(&folder), Err(ListenError::Taken { .. })));
        drop(first);
        lock(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_only_root_may_connect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/carpel.sock");
        drop(bind(&path).unwrap());
        let (listener, socket) = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (connected, accepted) = tokio::join!(tokio::net::UnixStream::connect(&path), listener.accept());
        connected.unwrap();
        accepted.unwrap();
        let (_listener, next) = bind(&path).unwrap();
        socket.remove();
        assert!(path.exists(), "it is the next daemon's");
        next.remove();
        assert!(!path.exists());
    }
}
