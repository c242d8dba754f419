//! One container as the shim holds it.
//!
//! ```text
//!  Creating ──▶ Created ──▶ Starting ──▶ Running
//!      │           │            │           │        the init process is reaped
//!      ▼           └────────────┴─────┬─────┘
//!   (gone)                         Draining ──▶ Exited
//!                                  output read to its end, record written, event sent
//! ```

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Instant;

use carpel_cgroups::Cgroup;
use carpel_oci_runtime::create::{Created, Creating, Starting};
use carpel_oci_runtime::user::Identity;
use carpel_shim_api::message::Failure;
use carpel_shim_api::plan::ProcessPlan;
use carpel_shim_api::record::ExitRecord;
use carpel_sys::clone::Process;

use crate::exec::Exec;
use crate::stdio::Streams;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The connection's key.
    pub(crate) connection: u32,
    /// The request's id on it.
    pub(crate) request: u32,
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    /// What an exec takes over where it says nothing of its own.
    pub(crate) process: ProcessPlan,
    pub(crate) cgroup: Cgroup,
    /// Closed once all is known of the container: until then whoever reads the other end keeps the
    /// cgroup in being, with its counters.
    pub(crate) hold: Option<OwnedFd>,
    /// Who its init process was made to run as, and so every exec of its own kind. `None` until it is
    /// created.
    pub(crate) identity: Option<Identity>,
    pub(crate) streams: Streams,
    pub(crate) execs: BTreeMap<u32, Exec>,
    pub(crate) state: State,
    /// How many OOM kills there had been when its init process, alive and well, was sent SIGKILL from here.
    pub(crate) killed_at: Option<u64>,
    /// Who wants it deleted, once it has exited or its cgroup lets go.
    pub(crate) removal: Option<Removal>,
}

/// Where a container is in its life.
#[derive(Debug)]
pub(crate) enum State {
    /// The init process makes its mounts.
    Creating { process: Process, creating: Creating, caller: Caller },
    /// It failed, and is to be reaped; then nothing is left.
    CreateFailed { process: Process, failure: Failure, caller: Caller },
    /// It waits before its execve.
    Created { process: Process, created: Created },
    /// It was told to execve.
    Starting { process: Process, starting: Starting, caller: Caller },
    /// execve failed, and it is to be reaped.
    StartFailed { process: Process, failure: Failure, caller: Caller },
    /// It runs.
    Running { process: Process, started_at_ns: i64 },
    /// It was reaped. Its output is read to the end, or until the deadline, if somebody who is not
    /// of the container holds a pipe open, or until so many bytes more, if it writes into it.
    Draining { record: ExitRecord, start_failure: Option<(Failure, Caller)>, until: Instant, left: usize },
    /// All that will ever be known.
    Exited { record: ExitRecord, saved: bool },
    /// Between two states. Never seen from outside of a transition.
    Changing,
}

/// A removal under way.
#[derive(Debug)]
pub(crate) struct Removal {
    pub(crate) caller: Caller,
    /// When to give up on a cgroup that stays busy.
    pub(crate) until: Instant,
}

impl Container {
    /// The init process, while it is there.
    pub(crate) fn init(&self) -> Option<&Process> {
        match &self.state {
            State::Creating { process, .. }
            | State::CreateFailed { process, .. }
            | State::Created { process, .. }
            | State::Starting { process, .. }
            | State::StartFailed { process, .. }
            | State::Running { process, .. } => Some(process),
            State::Draining { .. } | State::Exited { .. } | State::Changing => None,
        }
    }

    /// Whether its end is still to come.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, State::Exited { .. })
    }

    /// The state's name, for messages.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.state {
            State::Creating { .. } | State::CreateFailed { .. } => "being created",
            State::Created { .. } => "created",
            State::Starting { .. } | State::StartFailed { .. } => "being started",
            State::Running { .. } => "running",
            State::Draining { .. } | State::Exited { .. } => "exited",
            State::Changing => "changing",
        }
    }
}
