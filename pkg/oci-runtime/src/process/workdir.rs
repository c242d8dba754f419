//! The working directory.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{fchdir, getcwd};

use crate::root::{Absent, Links, Root};

/// Why the process is not in its working directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkdirError {
    #[error("the working directory {0:?} is not an absolute path")]
    Relative(String),
    #[error("find or make the working directory {path}")]
    Find {
        path: String,
        #[source]
        source: Errno,
    },
    #[error("enter the working directory {path}")]
    Enter {
        path: String,
        #[source]
        source: Errno,
    },
    #[error("the working directory {0} is outside the container's root")]
    Outside(String),
}

/// Makes the folder if it is absent; before the root may become read-only.
pub(crate) fn ensure(root: &Root, path: &str) -> Result<OwnedFd, WorkdirError> {
    if !path.starts_with('/') {
        return Err(WorkdirError::Relative(path.to_owned()));
    }
    root.ensure(path, Absent::Dir, Links::Follow)
        .map_err(|source| WorkdirError::Find { path: path.to_owned(), source })
}

/// Enters it, and makes sure that the kernel, too, sees a path from the root to it: one that leads
/// out of the root has none (getcwd(2); CVE-2024-21626).
pub(crate) fn enter(dir: &OwnedFd, path: &str) -> Result<(), WorkdirError> {
    let failed = |source| WorkdirError::Enter { path: path.to_owned(), source };
    fchdir(dir).map_err(failed)?;
    let real = getcwd(Vec::new()).map_err(failed)?;
    if real.as_bytes().first() == Some(&b'/') { Ok(()) } else { Err(WorkdirError::Outside(path.to_owned())) }
}
