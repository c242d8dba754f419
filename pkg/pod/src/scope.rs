//! Scopes: what systemd is asked for where it makes the cgroups.
//!
//! ```text
//!   <slice of the pod>/carpel-<container>.scope     asked for here, delegated
//!     hold/         `carpel-shim --hold`: the process that a scope must have; ends with the pipe's other
//!                   end, which the shim keeps until all is known of the container
//!     container/    the shim's, as with cgroupfs: limits, processes, execs
//!
//!   <slice of the shims>/<its name>.scope           once for all, joined by every later daemon
//!     hold/         as long as this daemon lives, so that the scope outlives its last shim
//!     shims/        the shims, which outlive the daemon
//! ```
//!
//! systemd collects a scope when its last process has ended. So nothing has to be taken back after a
//! failure but the hold, whose end is closed by whoever drops it, in whatever way that comes about.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use carpel_cgroups::{CgroupPath, CreateError, PathError, SeatError, Tree, seat};
use carpel_spec::{error::CgroupProblem, slice_path};
use carpel_systemd::{ConnectError, Scope, Started, Systemd, UnitError};
use rustix::process::Pid;
use thiserror::Error;
use tokio::process::Command;

use crate::{CgroupDriver, shim::program::ShimProgram};

/// The child of a scope that its first process steps aside into.
const HOLD: &str = "hold";
/// The child of the shims' scope that shims live in.
const SHIMS: &str = "shims";
/// How long a scope of the same name may take to go away.
const COLLECTED_MAX: Duration = Duration::from_secs(10);
/// Between two looks whether it has.
const COLLECTED_PAUSE: Duration = Duration::from_millis(50);
/// How many bytes of a description are given to systemd.
const DESCRIPTION_MAX_BYTES: usize = 512;

/// See the module.
#[derive(Debug)]
pub(crate) struct Scopes {
    systemd: Systemd,
    tree: Arc<Tree>,
}

/// Keeps a scope in being until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    /// The other end of what a process in the scope reads.
    end: OwnedFd,
    pid: Pid,
}

/// Where a container's scope is.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    slice: &'a str,
    unit: &'a str,
    path: CgroupPath,
}

/// systemd cannot make the cgroups.
#[derive(Debug, Error)]
pub enum DriverError {
    /// v1 or hybrid.
    #[error("the systemd cgroup driver needs cgroup v2 alone; set cgroups.driver = \"cgroupfs\"")]
    NotUnified,
    /// It is not reached.
    #[error("the systemd cgroup driver")]
    Connect(#[source] ConnectError),
    /// A configured name is no slice's.
    #[error("{key} = {name:?}")]
    Slice {
        /// In the configuration.
        key: &'static str,
        /// As given.
        name: String,
        /// Why.
        #[source]
        source: CgroupProblem,
    },
    /// There is nowhere for shims.
    #[error("make the scope that shims live in")]
    Shims(#[source] Box<ScopeError>),
}

/// A scope is not there.
#[derive(Debug, Error)]
pub enum ScopeError {
    /// The cgroup's path names no scope.
    #[error("cgroup {0:?} is in no scope")]
    NoScope(String),
    /// It is no path.
    #[error("the scope's cgroup")]
    Path(#[source] PathError),
    /// The process that it begins with.
    #[error("start the process that holds a scope")]
    Hold(#[source] io::Error),
    /// systemd refused, or did not answer.
    #[error("ask systemd")]
    Unit(#[source] Box<UnitError>),
    /// There is a unit of this name.
    #[error("unit {0} exists already")]
    Exists(String),
    /// It was made, and its cgroup is not usable.
    #[error("use the cgroup of unit {unit}")]
    Seat {
        /// The unit.
        unit: String,
        /// Why.
        #[source]
        source: Box<SeatError>,
    },
    /// The part of it that shims live in.
    #[error("make the shims' cgroup in unit {unit}")]
    Create {
        /// The unit.
        unit: String,
        /// Why.
        #[source]
        source: Box<CreateError>,
    },
    /// The daemon ends.
    #[error("waiting for a cgroup was broken off")]
    BrokenOff,
}

/// The cgroup driver for a node whose operator named none: systemd's where it is process 1, cgroup v2 is
/// alone and the system bus is there, for two must not manage one tree.
#[must_use]
pub fn preferred_cgroup_driver() -> CgroupDriver {
    let is_unified = || Tree::detect().is_ok_and(|tree| tree.is_unified());
    match carpel_systemd::is_booted() && carpel_systemd::has_bus() && is_unified() {
        true => CgroupDriver::Systemd,
        false => CgroupDriver::Cgroupfs,
    }
}

impl Scopes {
    /// Connects to systemd.
    ///
    /// # Errors
    /// There is another cgroup than v2's, or no systemd that answers.
    pub(crate) async fn open(tree: &Arc<Tree>, parent_default: &str) -> Result<Scopes, DriverError> {
        if !tree.is_unified() {
            return Err(DriverError::NotUnified);
        }
        check_slice("cgroups.parent", parent_default)?;
        let systemd = Systemd::connect().await.map_err(DriverError::Connect)?;
        Ok(Scopes { systemd, tree: Arc::clone(tree) })
    }

    /// Makes a container's scope. `path` is the container's cgroup.
    ///
    /// # Errors
    /// See [`ScopeError`]; the scope is then collected.
    pub(crate) async fn start(
        &self,
        program: &ShimProgram,
        path: &str,
        description: &str,
    ) -> Result<Hold, ScopeError> {
        let place = Place::of(path)?;
        let hold = Hold::start(program).map_err(ScopeError::Hold)?;
        let end = description.floor_char_boundary(DESCRIPTION_MAX_BYTES);
        match self.ask(place.slice, place.unit, &description[..end], &hold).await? {
            Started::New => {}
            Started::Exists => return Err(ScopeError::Exists(place.unit.to_owned())),
        }
        self.seat(&place.path, place.unit, &hold).await?;
        Ok(hold)
    }

    /// Makes the scope that shims live in, or joins the one that shims of an earlier daemon keep. Gives
    /// the shims' cgroup.
    ///
    /// # Errors
    /// See [`DriverError`].
    pub(crate) async fn start_shims(
        &self,
        program: &ShimProgram,
        slice: &str,
    ) -> Result<(Hold, CgroupPath), DriverError> {
        let path = check_slice("cgroups.shims", slice)?;
        self.hold_shims(program, slice, &path).await.map_err(|err| DriverError::Shims(Box::new(err)))
    }

    async fn hold_shims(
        &self,
        program: &ShimProgram,
        slice: &str,
        path: &str,
    ) -> Result<(Hold, CgroupPath), ScopeError> {
        let unit = format!("{}.scope", slice.trim_end_matches(".slice"));
        let path = CgroupPath::parse(path).and_then(|path| path.child(&unit)).map_err(ScopeError::Path)?;
        let hold = Hold::start(program).map_err(ScopeError::Hold)?;
        let until = Instant::now() + COLLECTED_MAX;
        loop {
            self.ask(slice, &unit, "Carpel shims", &hold).await?;
            match self.seat(&path, &unit, &hold).await {
                Ok(()) => break,
                // That of an earlier daemon goes away at this moment.
                Err(ScopeError::Seat { source, .. }) if source.is_absent() && Instant::now() < until => {
                    tokio::time::sleep(COLLECTED_PAUSE).await;
                }
                Err(err) => return Err(err),
            }
        }
        let shims = path.child(SHIMS).map_err(ScopeError::Path)?;
        let (tree, home) = (Arc::clone(&self.tree), shims.clone());
        let made = blocking(move || carpel_cgroups::Cgroup::ensure(&tree, &home).map(drop)).await?;
        made.map_err(|source| ScopeError::Create { unit, source: Box::new(source) })?;
        Ok((hold, shims))
    }

    async fn ask(
        &self,
        slice: &str,
        unit: &str,
        description: &str,
        hold: &Hold,
    ) -> Result<Started, ScopeError> {
        let pid = hold.pid.as_raw_nonzero().get().unsigned_abs();
        self.systemd
            .start_scope(Scope { unit, slice, description, pid })
            .await
            .map_err(|err| ScopeError::Unit(Box::new(err)))
    }

    async fn seat(&self, scope: &CgroupPath, unit: &str, hold: &Hold) -> Result<(), ScopeError> {
        let (tree, scope, pid) = (Arc::clone(&self.tree), scope.clone(), hold.pid);
        let seated = blocking(move || seat(&tree, &scope, HOLD, pid)).await?;
        seated.map_err(|source| ScopeError::Seat { unit: unit.to_owned(), source: Box::new(source) })
    }

    /// Has systemd forget the scope of a container that is gone. It does by itself; this waits for it.
    pub(crate) async fn remove(&self, path: &str) {
        // Made by the other driver.
        let Ok(place) = Place::of(path) else { return };
        let (tree, scope) = (Arc::clone(&self.tree), place.path.clone());
        let is_there = blocking(move || carpel_cgroups::Cgroup::open(&tree, &scope).is_ok()).await;
        if !is_there.unwrap_or(false) {
            return;
        }
        if let Err(err) = self.systemd.stop(place.unit).await {
            let err = &err as &dyn std::error::Error;
            tracing::warn!(unit = place.unit, err, "a container's scope is left to systemd");
        }
    }
}

impl Hold {
    fn start(program: &ShimProgram) -> io::Result<Hold> {
        // The runtime reaps it, whenever it ends.
        let mut child = Command::new(format!("/proc/self/fd/{}", program.exe().as_raw_fd()))
            .arg0("carpel-shim")
            .arg("--hold")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        match (child.stdin.take(), pid) {
            (Some(stdin), Some(pid)) => Ok(Hold { end: stdin.into_owned_fd()?, pid }),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// For another process to keep.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.end
    }
}

impl<'a> Place<'a> {
    /// `/a.slice/carpel-1f.scope/container`.
    fn of(container: &'a str) -> Result<Place<'a>, ScopeError> {
        let parts = || {
            let (scope, _child) = container.rsplit_once('/')?;
            let (above, unit) = scope.rsplit_once('/')?;
            let slice = above.rsplit('/').next()?;
            (unit.ends_with(".scope") && slice.ends_with(".slice")).then_some((scope, slice, unit))
        };
        let (scope, slice, unit) = parts().ok_or_else(|| ScopeError::NoScope(container.to_owned()))?;
        Ok(Place { slice, unit, path: CgroupPath::parse(scope).map_err(ScopeError::Path)? })
    }
}

/// Whether a container's cgroup is in a scope: then a hold is beside it until the container has ended.
pub(crate) fn has_hold(path: &str) -> bool {
    Place::of(path).is_ok()
}

/// The path of a slice's cgroup, by its name in the configuration.
fn check_slice(key: &'static str, name: &str) -> Result<String, DriverError> {
    slice_path(name).map_err(|source| DriverError::Slice { key, name: name.to_owned(), source })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ScopeError> {
    tokio::task::spawn_blocking(work).await.map_err(|_ends| ScopeError::BrokenOff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_path_tells_its_scope() {
        let place = Place::of("/a.slice/a-b.slice/carpel-1f.scope/container").unwrap();
        assert_eq!((place.slice, place.unit), ("a-b.slice", "carpel-1f.scope"));
        assert_eq!(place.path.to_string(), "/a.slice/a-b.slice/carpel-1f.scope");
        for other in ["", "/", "/carpel/pods/1f", "/a.slice/1f", "/a/carpel-1f.scope/container", "x.scope/c"]
        {
            assert!(Place::of(other).is_err(), "{other:?}");
            assert!(!has_hold(other), "{other:?}");
        }
    }
}
