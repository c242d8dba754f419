//! Asks systemd for transient scopes, over D-Bus.
//!
//! ```text
//!   start_scope ─▶ StartTransientUnit ─▶ a job ─▶ JobRemoved(done) ─▶ the cgroup is there
//!   stop        ─▶ StopUnit ─▶ a job ─▶ JobRemoved ─▶ ResetFailedUnit      absent is fine
//! ```
//!
//! One connection is kept; a broken one is made anew by the next call. Each call has a deadline, the
//! wait for its job included: a bus or a systemd that does not answer holds nobody up for longer.
//!
//! Not here: which scopes there are and what lives in them; cgroup files. Sources:
//! org.freedesktop.systemd1(5), systemd.scope(5), and CGROUP_DELEGATION of systemd's documentation.
#![forbid(unsafe_code)]

mod error;
mod jobs;
mod link;
mod manager;

use std::{path::Path, sync::Arc, time::Duration};

pub use error::{ConnectError, UnitError};
use error::{Doing, within};
use link::Link;
use tokio::sync::Mutex;
use zbus::Variant;

/// The longest that a call takes, its job included.
pub const CALL_MAX: Duration = Duration::from_secs(10);
/// The folder by which sd_booted(3) tells that systemd is process 1.
const BOOTED: &str = "/run/systemd/system";
/// The system bus, by the D-Bus specification ("System message bus").
const BUS: &str = "/var/run/dbus/system_bus_socket";

/// systemd, as process 1 of this machine. A cheap handle.
#[derive(Debug, Clone)]
pub struct Systemd {
    bus: Bus,
    link: Arc<Mutex<Option<Arc<Link>>>>,
}

/// Which bus.
#[derive(Debug, Clone)]
enum Bus {
    System,
    /// By its address.
    At(String),
}

/// A scope that is to be.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The unit's name, ending in `.scope`.
    pub unit: &'a str,
    /// The slice's unit name; systemd makes one that is absent.
    pub slice: &'a str,
    /// For people: what `systemctl status` shows.
    pub description: &'a str,
    /// The process that it begins with. It is moved; a scope without a process ends.
    pub pid: u32,
}

/// What became of the wish for a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It was made, and the process is in it.
    New,
    /// There is a unit of this name. Nothing was changed.
    Exists,
}

/// Whether systemd is process 1.
#[must_use]
pub fn is_booted() -> bool {
    Path::new(BOOTED).is_dir()
}

/// Whether the system bus is there.
#[must_use]
pub fn has_bus() -> bool {
    Path::new(BUS).exists()
}

impl Systemd {
    /// Connects to the system bus, and looks whether systemd is there.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect() -> Result<Systemd, ConnectError> {
        if !is_booted() {
            return Err(ConnectError::NotBooted);
        }
        Systemd::connect_to(Bus::System).await
    }

    /// Connects to a bus by its address, for tests.
    #[doc(hidden)]
    pub async fn connect_at(address: &str) -> Result<Systemd, ConnectError> {
        Systemd::connect_to(Bus::At(address.to_owned())).await
    }

    async fn connect_to(bus: Bus) -> Result<Systemd, ConnectError> {
        let systemd = Systemd { bus, link: Arc::default() };
        tokio::time::timeout(CALL_MAX, systemd.link()).await.unwrap_or(Err(ConnectError::Timeout))?;
        Ok(systemd)
    }

    /// The connection that there is, or a new one.
    async fn link(&self) -> Result<Arc<Link>, ConnectError> {
        let mut kept = self.link.lock().await;
        if let Some(link) = kept.as_ref().filter(|link| !link.is_closed()) {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(match &self.bus {
            Bus::System => Link::open(zbus::connection::Builder::system()).await?,
            Bus::At(address) => Link::open(zbus::connection::Builder::address(address.as_str())).await?,
        });
        *kept = Some(Arc::clone(&link));
        Ok(link)
    }

    /// What was answered as an error. A connection that cannot be written to is given up, though its end
    /// was not read yet.
    async fn refused(&self, doing: Doing<'_>, link: &Arc<Link>, err: zbus::Error) -> UnitError {
        if matches!(err, zbus::Error::InputOutput(_)) {
            let mut kept = self.link.lock().await;
            kept.take_if(|kept| Arc::ptr_eq(kept, link));
        }
        doing.refused(err)
    }

    /// Has systemd make a scope whose cgroup is delegated to us: systemd then leaves alone what is below
    /// it, also when it is reloaded. It is collected as soon as no process is in it.
    ///
    /// # Errors
    /// See [`UnitError`]. The scope may still come to be, and ends with its process.
    pub async fn start_scope(&self, scope: Scope<'_>) -> Result<Started, UnitError> {
        let doing = Doing { operation: "start", unit: scope.unit, slice: scope.slice };
        within(CALL_MAX, doing, async {
            let link = self.link().await.map_err(|source| doing.connect(source))?;
            let mut ends = link.jobs().of_unit(scope.unit);
            let answer =
                link.manager().start_transient_unit(scope.unit, "fail", &properties(scope), &[]).await;
            let job = match answer {
                Ok(job) => job,
                Err(err) if error::is(&err, "org.freedesktop.systemd1.UnitExists") => {
                    return Ok(Started::Exists);
                }
                Err(err) => return Err(self.refused(doing, &link, err).await),
            };
            let result = link.wait(&mut ends, &job).await.ok_or_else(|| doing.lost())?;
            if result == "done" { Ok(Started::New) } else { Err(doing.job(result)) }
        })
        .await
    }

    /// Stops a unit, which kills what is left in it, and forgets that it failed. One that is absent is
    /// fine.
    ///
    /// # Errors
    /// See [`UnitError`].
    pub async fn stop(&self, unit: &str) -> Result<(), UnitError> {
        let doing = Doing { operation: "stop", unit, slice: "" };
        within(CALL_MAX, doing, async {
            let link = self.link().await.map_err(|source| doing.connect(source))?;
            let mut ends = link.jobs().of_unit(unit);
            match link.manager().stop_unit(unit, "replace").await {
                Ok(job) => {
                    let result = link.wait(&mut ends, &job).await.ok_or_else(|| doing.lost())?;
                    // "canceled": somebody else's wish for the same took its place.
                    if !matches!(result.as_str(), "done" | "canceled") {
                        return Err(doing.job(result));
                    }
                }
                Err(err) if error::is(&err, NO_SUCH_UNIT) => return Ok(()),
                Err(err) => return Err(self.refused(doing, &link, err).await),
            }
            match link.manager().reset_failed_unit(unit).await {
                Ok(()) => Ok(()),
                Err(err) if error::is(&err, NO_SUCH_UNIT) => Ok(()),
                Err(err) => Err(self.refused(doing, &link, err).await),
            }
        })
        .await
    }
}

/// The answer about a unit that was collected, or never was.
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

fn properties(scope: Scope<'_>) -> [(&'static str, Variant<'_>); 7] {
    [
        ("Description", scope.description.into()),
        ("Slice", scope.slice.into()),
        ("PIDs", vec![scope.pid].into()),
        ("Delegate", true.into()),
        // Else it would be ordered against targets, and be stopped before the kubelet stops its pods.
        ("DefaultDependencies", false.into()),
        ("CollectMode", "inactive-or-failed".into()),
        // systemd's default is a share of the machine's; limits of a container are set below the scope.
        ("TasksMax", u64::MAX.into()),
    ]
}
