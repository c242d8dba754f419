//! The client of a pod's shim: each request of the protocol as a function.
//!
//! One connection for each pod, and a new one in its place if it breaks while the shim lives. Requests are pipelined: none waits for another's reply, so a slow
//! `Create` holds up nothing here. What the shim tells by itself goes two ways: exits of containers
//! to the pod's owner, exits of execs to whoever waits for them.
//!
//! Not here: any decision about a pod. See [`carpel_shim_api`] for the protocol.

pub(crate) mod connection;
pub(crate) mod program;

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use carpel_shim_api::{
    VERSION, VERSION_OLDEST,
    message::{
        Attach, ContainerRef, Create, Created, Exec, ExecRef, FailureKind, Hello, HelloReply, Kill, PullDown,
        Resize, SandboxReply, Snapshot, SnapshotReply, Started, Update, reply, request,
    },
    plan::{Resources, SandboxPlan},
    record::ExitRecord,
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::ContainerId;
use connection::{Connection, Pending};

/// Longest wait for a reply that only takes the shim's memory.
const QUICK: Duration = Duration::from_secs(10);
/// Longest wait for a container to be made: its mounts may be slow. The kubelet waits two minutes.
const CREATE: Duration = Duration::from_secs(100);
/// Longest wait for an execve or an exec's process.
const SPAWN: Duration = Duration::from_secs(60);

/// Why a shim did not do what it was asked for.
#[derive(Debug, Error)]
pub enum ShimError {
    /// Its process has ended, or the connection was closed and there is no new one yet.
    #[error("the pod's shim is gone")]
    Gone,
    /// No reply in time. It may still do it.
    #[error("the pod's shim did not answer {request} within {after:?}")]
    Timeout {
        /// The request's name.
        request: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// It said why not; nothing of it is left.
    #[error("{message}")]
    Refused {
        /// What sort of failure.
        kind: FailureKind,
        /// What failed, on what, and why.
        message: String,
    },
    /// The reply belongs to another request: the shim is defective.
    #[error("the pod's shim answered {request} with something else")]
    UnexpectedReply {
        /// The request's name.
        request: &'static str,
    },
    /// No version of the protocol in common.
    #[error("the pod's shim speaks version {theirs}, not {VERSION_OLDEST} to {VERSION}")]
    Version {
        /// Its version.
        theirs: u32,
    },
    /// The request does not fit into a frame.
    #[error("send {request} to the pod's shim")]
    Frame {
        /// The request's name.
        request: &'static str,
        /// Why.
        source: carpel_shim_api::frame::FrameError,
    },
    /// It does not read, and too much waits for it already. Nothing was sent.
    #[error("{request} was not sent to the pod's shim: it does not read, {bytes} bytes wait for it")]
    Stuck {
        /// The request's name.
        request: &'static str,
        /// What waits.
        bytes: usize,
    },
    /// It did it, and the file descriptors of the reply were lost: this process has too many open.
    #[error("file descriptors of the pod's shim's answer to {request} were lost: too many open files")]
    Descriptors {
        /// The request's name.
        request: &'static str,
    },
}

/// Why there is no new connection.
#[derive(Debug, Error)]
pub(crate) enum RenewError {
    #[error("connect to the pod's shim again")]
    Connect(#[source] io::Error),
    #[error("meet the pod's shim again")]
    Meet(#[source] ShimError),
}

/// What a shim tells by itself.
#[derive(Debug)]
pub(crate) enum ShimEvent {
    /// A container ended; its exit record is on disk.
    Exited(ExitRecord),
    /// A connection has ended. The last event of it.
    Gone,
}

/// A connection to a shim, and its typed requests.
#[derive(Debug)]
pub(crate) struct Shim {
    // Locked to look and to replace only.
    connection: Mutex<Arc<Connection>>,
    events: mpsc::UnboundedSender<ShimEvent>,
    renewing: AtomicBool,
}

/// As long as it lives, no other renewal begins.
#[derive(Debug)]
pub(crate) struct Renewal {
    shim: Arc<Shim>,
}

/// Waits for an exec's end.
#[derive(Debug)]
pub(crate) struct ExecExit {
    receiver: oneshot::Receiver<i32>,
    code: Option<i32>,
}

/// A process that a shim started.
#[derive(Debug)]
pub(crate) struct Execed {
    pub(crate) pid: i32,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) exit: ExecExit,
}

impl Shim {
    /// Takes over a connected socket. Events go to `events`.
    pub(crate) fn new(
        socket: std::os::unix::net::UnixStream,
        events: mpsc::UnboundedSender<ShimEvent>,
    ) -> io::Result<Arc<Shim>> {
        let connection = Mutex::new(Arc::new(Connection::new(socket, events.clone())?));
        Ok(Arc::new(Shim { connection, events, renewing: AtomicBool::new(false) }))
    }

    fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.connection.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins to replace a closed connection; `None` if it is not closed, or being replaced.
    pub(crate) fn renewal(self: &Arc<Self>) -> Option<Renewal> {
        let begins = self.connection().is_closed() && !self.renewing.swap(true, Ordering::AcqRel);
        begins.then(|| Renewal { shim: Arc::clone(self) })
    }

    fn send(&self, name: &'static str, body: request::Body, fds: Vec<OwnedFd>) -> Result<Pending, ShimError> {
        self.connection().send(name, body, fds)
    }

    #[tracing::instrument(name = "shim", skip_all, fields(request = name))]
    async fn done(&self, name: &'static str, body: request::Body, limit: Duration) -> Result<(), ShimError> {
        match self.send(name, body, Vec::new())?.reply(limit).await?.body {
            reply::Body::Done(_) => Ok(()),
            _ => Err(ShimError::UnexpectedReply { request: name }),
        }
    }

    /// Greets and sets the pod up, in one round trip.
    #[tracing::instrument(name = "shim", skip_all, fields(request = "Sandbox"))]
    pub(crate) async fn set_up(
        &self,
        plan: SandboxPlan,
        namespaces: Vec<OwnedFd>,
    ) -> Result<(HelloReply, SandboxReply), ShimError> {
        let hello = self.send("Hello", request::Body::Hello(our_versions()), Vec::new())?;
        let sandbox = self.send("Sandbox", request::Body::Sandbox(plan), namespaces)?;
        let hello = check_hello(hello.reply(QUICK).await?.body)?;
        match sandbox.reply(QUICK).await?.body {
            reply::Body::Sandbox(sandbox) => Ok((hello, sandbox)),
            _ => Err(ShimError::UnexpectedReply { request: "Sandbox" }),
        }
    }

    /// Greets and asks for all that the shim knows, in one round trip.
    pub(crate) async fn meet(&self, limit: Duration) -> Result<(HelloReply, SnapshotReply), ShimError> {
        meet(&self.connection(), limit).await
    }

    #[tracing::instrument(name = "shim", skip_all, fields(request = "Create"))]
    pub(crate) async fn create(&self, create: Create, hold: Option<OwnedFd>) -> Result<Created, ShimError> {
        let fds = hold.into_iter().collect();
        let pending = self.send("Create", request::Body::Create(create), fds)?;
        match pending.reply(CREATE).await?.body {
            reply::Body::Created(created) => Ok(created),
            _ => Err(ShimError::UnexpectedReply { request: "Create" }),
        }
    }

    #[tracing::instrument(name = "shim", skip_all, fields(request = "Start"))]
    pub(crate) async fn start(&self, id: &ContainerId) -> Result<Started, ShimError> {
        let pending = self.send("Start", request::Body::Start(container(id)), Vec::new())?;
        match pending.reply(SPAWN).await?.body {
            reply::Body::Started(started) => Ok(started),
            _ => Err(ShimError::UnexpectedReply { request: "Start" }),
        }
    }

    pub(crate) async fn kill(&self, id: &ContainerId, signal: i32, all: bool) -> Result<(), ShimError> {
        let kill = Kill { container_id: id.to_string(), signal, all };
        self.done("Kill", request::Body::Kill(kill), QUICK).await
    }

    pub(crate) async fn delete(&self, id: &ContainerId) -> Result<(), ShimError> {
        self.done("Delete", request::Body::Delete(container(id)), SPAWN).await
    }

    /// Starts a process in a container. The exit is waited for from before the start on, so that it
    /// cannot be missed.
    #[tracing::instrument(name = "shim", skip_all, fields(request = "Exec"))]
    pub(crate) async fn exec(&self, exec: Exec, limit: Duration) -> Result<Execed, ShimError> {
        let exec_id = exec.exec_id.clone();
        // One and the same for the start and the exit: where it is replaced, both are lost.
        let connection = self.connection();
        let container_id = exec.container_id.clone();
        let receiver = connection.expect_exec(&container_id, &exec_id);
        let started = match connection.send("Exec", request::Body::Exec(exec), Vec::new()) {
            Ok(pending) => pending.reply(limit.min(SPAWN)).await,
            Err(err) => Err(err),
        };
        match started {
            Ok(answer) => match answer.body {
                reply::Body::ExecStarted(started) => {
                    Ok(Execed { pid: started.pid, fds: answer.fds, exit: ExecExit { receiver, code: None } })
                }
                _ => Err(ShimError::UnexpectedReply { request: "Exec" }),
            },
            Err(err) => {
                connection.forget_exec(&exec_id);
                if matches!(err, ShimError::Descriptors { .. }) {
                    // It runs, and nobody can read it.
                    let exec = ExecRef { container_id, exec_id };
                    let _ = connection.send("KillExec", request::Body::KillExec(exec), Vec::new());
                }
                Err(err)
            }
        }
    }

    pub(crate) async fn kill_exec(&self, id: &ContainerId, exec_id: &str) -> Result<(), ShimError> {
        let exec = ExecRef { container_id: id.to_string(), exec_id: exec_id.to_owned() };
        match self.done("KillExec", request::Body::KillExec(exec), QUICK).await {
            Err(ShimError::Refused { kind: FailureKind::NotFound, .. }) => Ok(()),
            other => other,
        }
    }

    /// Asks for an exec to be killed and does not wait for it: for callers that are being dropped.
    pub(crate) fn kill_exec_and_forget(&self, id: &ContainerId, exec_id: &str) {
        let exec = ExecRef { container_id: id.to_string(), exec_id: exec_id.to_owned() };
        // A shim that is gone has taken its execs along.
        let _ = self.send("KillExec", request::Body::KillExec(exec), Vec::new());
    }

    pub(crate) async fn resize(
        &self,
        id: &ContainerId,
        exec_id: &str,
        width: u32,
        height: u32,
    ) -> Result<(), ShimError> {
        let resize = Resize { container_id: id.to_string(), exec_id: exec_id.to_owned(), width, height };
        self.done("Resize", request::Body::Resize(resize), QUICK).await
    }

    pub(crate) async fn reopen_log(&self, id: &ContainerId) -> Result<(), ShimError> {
        self.done("ReopenLog", request::Body::ReopenLog(container(id)), QUICK).await
    }

    pub(crate) async fn update(&self, id: &ContainerId, resources: Resources) -> Result<(), ShimError> {
        let update = Update { container_id: id.to_string(), resources };
        self.done("Update", request::Body::Update(update), QUICK).await
    }

    pub(crate) async fn attach(&self, attach: Attach) -> Result<Vec<OwnedFd>, ShimError> {
        let answer = self.send("Attach", request::Body::Attach(attach), Vec::new())?.reply(QUICK).await?;
        match answer.body {
            reply::Body::Attached(_) => Ok(answer.fds),
            _ => Err(ShimError::UnexpectedReply { request: "Attach" }),
        }
    }

    pub(crate) async fn shutdown(&self, limit: Duration) -> Result<(), ShimError> {
        self.done("Shutdown", request::Body::Shutdown(PullDown {}), limit).await
    }
}

impl Renewal {
    /// Greets on a new socket, takes it into use, and gives what the shim knows. Execs whose end went
    /// with the old connection are killed: their callers were told that they failed.
    pub(crate) async fn try_with(
        &self,
        socket: std::os::unix::net::UnixStream,
        limit: Duration,
    ) -> Result<SnapshotReply, RenewError> {
        let connection = Connection::new(socket, self.shim.events.clone()).map_err(RenewError::Connect)?;
        let (_, snapshot) = meet(&connection, limit).await.map_err(RenewError::Meet)?;
        let mut current = self.shim.connection.lock().unwrap_or_else(PoisonError::into_inner);
        for exec in current.take_orphans() {
            // If it cannot be sent, this connection has ended too, and the shim perhaps.
            let _ = connection.send("KillExec", request::Body::KillExec(exec), Vec::new());
        }
        *current = Arc::new(connection);
        Ok(snapshot)
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.shim.renewing.store(false, Ordering::Release);
    }
}

impl ExecExit {
    pub(crate) async fn wait(&mut self) -> Result<i32, ShimError> {
        if let Some(code) = self.code {
            return Ok(code);
        }
        let code = (&mut self.receiver).await.map_err(|_| ShimError::Gone)?;
        self.code = Some(code);
        Ok(code)
    }
}

async fn meet(connection: &Connection, limit: Duration) -> Result<(HelloReply, SnapshotReply), ShimError> {
    let hello = connection.send("Hello", request::Body::Hello(our_versions()), Vec::new())?;
    let snapshot = connection.send("Snapshot", request::Body::Snapshot(Snapshot {}), Vec::new())?;
    let hello = check_hello(hello.reply(limit).await?.body)?;
    match snapshot.reply(limit).await?.body {
        reply::Body::Snapshot(snapshot) => Ok((hello, snapshot)),
        _ => Err(ShimError::UnexpectedReply { request: "Snapshot" }),
    }
}

fn container(id: &ContainerId) -> ContainerRef {
    ContainerRef { container_id: id.to_string() }
}

fn our_versions() -> Hello {
    Hello { version: VERSION, version_oldest: VERSION_OLDEST }
}

fn check_hello(body: reply::Body) -> Result<HelloReply, ShimError> {
    match body {
        reply::Body::Hello(hello) if (VERSION_OLDEST..=VERSION).contains(&hello.version) => Ok(hello),
        reply::Body::Hello(hello) => Err(ShimError::Version { theirs: hello.version }),
        _ => Err(ShimError::UnexpectedReply { request: "Hello" }),
    }
}
