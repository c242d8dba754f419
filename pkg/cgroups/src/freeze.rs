//! Stopping a cgroup's processes in their tracks, and letting them go on.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::cgroup::Cgroup;
use crate::file::{self, FileError};
use crate::path::CgroupPath;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// Why a cgroup was not frozen or thawed.
#[derive(Debug, Error)]
pub enum FreezeError {
    /// There is no freezer on this host.
    #[error("cgroup {0}: this host has no freezer")]
    NoFreezer(CgroupPath),
    /// A file refused.
    #[error("freeze or thaw cgroup {0}")]
    File(CgroupPath, #[source] FileError),
    /// A process did not come to a halt; the cgroup was thawed again.
    #[error("cgroup {0} was not frozen in {1:?}, and is thawed again")]
    Slow(CgroupPath, Duration),
}

impl Cgroup {
    /// Freezes all processes in it and below it, and waits until they stand still.
    ///
    /// # Errors
    /// See [`FreezeError`].
    pub fn freeze(&self, patience: Duration) -> Result<(), FreezeError> {
        let failed = |e| FreezeError::File(self.path().clone(), e);
        self.set_frozen(true)?;
        let since = Instant::now();
        while !self.is_frozen().map_err(failed)? {
            if since.elapsed() >= patience {
                self.set_frozen(false)?;
                return Err(FreezeError::Slow(self.path().clone(), patience));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// See [`FreezeError`].
    pub fn thaw(&self) -> Result<(), FreezeError> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), FreezeError> {
        let failed = |e| FreezeError::File(self.path().clone(), e);
        if let Some(v1) = self.tree().with_controller("freezer") {
            let dir = file::open_dir(v1.root(), self.path().as_relative()).map_err(failed)?;
            let state = if frozen { "FROZEN" } else { "THAWED" };
            return file::write(dir.as_fd(), "freezer.state", state).map_err(failed);
        }
        match self.v2_dir() {
            Some(dir) => file::write(dir, "cgroup.freeze", if frozen { "1" } else { "0" }).map_err(failed),
            None => Err(FreezeError::NoFreezer(self.path().clone())),
        }
    }

    fn is_frozen(&self) -> Result<bool, FileError> {
        if let Some(v1) = self.tree().with_controller("freezer") {
            let dir = file::open_dir(v1.root(), self.path().as_relative())?;
            return Ok(file::read(dir.as_fd(), "freezer.state")?.trim() == "FROZEN");
        }
        let Some(dir) = self.v2_dir() else { return Ok(false) };
        Ok(file::flat_value(&file::read(dir, "cgroup.events")?, "frozen") == Some(1))
    }

    /// Thaws what v1's freezer holds, if it does.
    pub(crate) fn thaw_v1(&self) -> Result<(), FileError> {
        let Some(v1) = self.tree().with_controller("freezer") else { return Ok(()) };
        let dir = match file::open_dir(v1.root(), self.path().as_relative()) {
            Ok(dir) => dir,
            Err(e) if e.is_absent() => return Ok(()),
            Err(e) => return Err(e),
        };
        if file::read(dir.as_fd(), "freezer.state")?.trim() == "THAWED" {
            return Ok(());
        }
        file::write(dir.as_fd(), "freezer.state", "THAWED")
    }
}
