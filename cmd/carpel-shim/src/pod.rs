//! The pod: all that the shim holds, and its loop.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use carpel_cgroups::Tree;
use carpel_oci_runtime::sandbox::Sandbox;
use carpel_shim_api::LISTENER_FD;
use carpel_shim_api::message::{Event, Failure, Reply, event, reply};
use carpel_shim_api::record::EXITS_DIR;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use thiserror::Error;

use crate::connection::{Connection, ConnectionError};
use crate::container::{Caller, Container};
use crate::log::Stream;
use crate::poller::{EventFlags, KEY_MAX, Poller, Source};
use crate::remove::Ending;
use crate::undo::Undone;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// What is read of a container's output at a time.
const OUTPUT_BYTES: usize = 32 << 10;
/// Without a sandbox and without a connection for so long, nobody will come any more.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// Why a shim cannot work.
#[derive(Debug, Error)]
pub enum RunError {
    /// The pod's folder, or the folder of exit records in it.
    #[error("open the pod's folder {}: {source}", path.display())]
    PodDir {
        /// The folder.
        path: PathBuf,
        /// What the kernel answered.
        source: Errno,
    },
    /// Descriptor 3 is no socket.
    #[error("take the listening socket from file descriptor {LISTENER_FD}: {0}")]
    Listener(Errno),
    /// Signals could not be taken as events.
    #[error("read signals from a file descriptor: {0}")]
    Signals(Errno),
    /// epoll refused.
    #[error("wait for events: {0}")]
    Poll(Errno),
}

/// A pod that is set up.
pub(crate) struct Ready {
    pub(crate) sandbox: Sandbox,
    pub(crate) tree: Arc<Tree>,
    /// The micro-init has ended, and with it all that is in the shared PID namespace.
    pub(crate) init_ended: bool,
}

/// Everything.
pub(crate) struct Pod {
    pub(crate) dir: PathBuf,
    pub(crate) exits: OwnedFd,
    pub(crate) poller: Poller,
    pub(crate) ready: Option<Ready>,
    pub(crate) containers: BTreeMap<u32, Container>,
    /// What is left of containers that could not be made.
    pub(crate) undone: Vec<Undone>,
    /// Who waits for all containers to be dead.
    pub(crate) stopping: Vec<Caller>,
    pub(crate) ending: Ending,
    /// When something is to be looked at again that tells nobody when it changes.
    pub(crate) tick: Option<Instant>,
    /// For output on its way through; its pages are used only as far as output was read at once.
    pub(crate) buffer: Vec<u8>,
    dir_fd: OwnedFd,
    listener: OwnedFd,
    signals: SignalFd,
    connections: BTreeMap<u32, Connection>,
    last_key: u32,
}

/// Serves until the pod is shut down.
///
/// # Errors
/// See [`RunError`]. Containers that run are then killed by the kernel.
pub fn run(dir: PathBuf) -> Result<(), RunError> {
    let mut pod = Pod::open(dir)?;
    loop {
        let events = pod.poller.wait(pod.timeout()).map_err(RunError::Poll)?;
        for (source, flags) in events {
            pod.on_event(source, flags);
        }
        pod.on_tick();
        if pod.is_over() {
            return Ok(());
        }
    }
}

impl Pod {
    fn open(dir: PathBuf) -> Result<Pod, RunError> {
        let failed = |source| RunError::PodDir { path: dir.clone(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir_fd = rustix::fs::open(&dir, flags, Mode::empty()).map_err(failed)?;
        match rustix::fs::mkdirat(&dir_fd, EXITS_DIR, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed(e)),
        }
        let exits = rustix::fs::openat(&dir_fd, EXITS_DIR, flags | OFlags::NOFOLLOW, Mode::empty())
            .map_err(failed)?;
        let listener = carpel_sys::fd::copy_inherited(LISTENER_FD).map_err(RunError::Listener)?;
        rustix::net::sockopt::socket_acceptconn(&listener).map_err(RunError::Listener)?;
        rustix::fs::fcntl_setfl(&listener, OFlags::NONBLOCK).map_err(RunError::Listener)?;
        let signals = signals().map_err(|e| RunError::Signals(Errno::from_raw_os_error(e as i32)))?;
        let poller = Poller::new().map_err(RunError::Poll)?;
        poller.add(&listener, Source::Listener, EventFlags::IN).map_err(RunError::Poll)?;
        poller.add(&signals, Source::Signals, EventFlags::IN).map_err(RunError::Poll)?;
        Ok(Pod {
            dir,
            exits,
            poller,
            ready: None,
            containers: BTreeMap::new(),
            undone: Vec::new(),
            stopping: Vec::new(),
            ending: Ending::No,
            tick: Some(Instant::now() + ABANDONED_AFTER),
            buffer: vec![0; OUTPUT_BYTES],
            dir_fd,
            listener,
            signals,
            connections: BTreeMap::new(),
            last_key: 0,
        })
    }

    fn on_event(&mut self, source: Source, flags: EventFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => self.on_signals(),
            Source::Connection(key) => self.on_connection(key, flags),
            Source::Init(key) => self.on_init_report(key),
            Source::Exec(key, exec) => self.on_exec_report(key, exec),
            Source::Leaf(key, exec) => self.on_leaf_event(key, exec),
            Source::Stdout(key) => self.on_output(key, Stream::Stdout, flags),
            Source::Stderr(key) => self.on_output(key, Stream::Stderr, flags),
            Source::Stdin(key) => self.with_streams(key, |streams, poller| streams.resume_input(poller)),
            Source::ClientStdin(key, client) => {
                self.with_streams(key, |streams, poller| streams.forward_input(client, poller));
            }
            Source::ClientStdout(key, client) => self.with_streams(key, |streams, poller| {
                streams.lose_client_output(client, Stream::Stdout, poller);
            }),
            Source::ClientStderr(key, client) => self.with_streams(key, |streams, poller| {
                streams.lose_client_output(client, Stream::Stderr, poller);
            }),
        }
    }

    fn with_streams(&mut self, key: u32, act: impl FnOnce(&mut crate::stdio::Streams, &Poller)) {
        if let Some(container) = self.containers.get_mut(&key) {
            act(&mut container.streams, &self.poller);
        }
    }

    fn on_output(&mut self, key: u32, stream: Stream, flags: EventFlags) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        if flags.contains(EventFlags::OUT) {
            container.streams.resume_input(&self.poller);
        }
        container.streams.pump(stream, &mut self.buffer, &self.poller);
        self.finish_if_drained(key);
    }

    /// A number that was never used for a container, connection or exec.
    pub(crate) fn next_key(&mut self) -> Option<u32> {
        if self.last_key == KEY_MAX {
            return None;
        }
        self.last_key += 1;
        Some(self.last_key)
    }

    /// Has the loop look again at what tells nobody, not later than so.
    pub(crate) fn tick_at(&mut self, when: Instant) {
        self.tick = Some(self.tick.map_or(when, |tick| tick.min(when)));
    }

    fn timeout(&self) -> Option<Duration> {
        self.tick.map(|tick| tick.saturating_duration_since(Instant::now()))
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        if self.tick.is_none_or(|tick| now < tick) {
            return;
        }
        self.tick = None;
        if self.ready.is_none() && self.connections.is_empty() {
            self.ending = Ending::Now;
        }
        self.look_again(now);
    }

    fn is_over(&self) -> bool {
        match self.ending {
            Ending::No | Ending::Stopping { .. } => false,
            Ending::Flushing { until } => {
                Instant::now() >= until || !self.connections.values().any(Connection::is_writing)
            }
            Ending::Now => true,
        }
    }

    // === Signals ===

    fn on_signals(&mut self) {
        // Which one it was does not matter: children are looked for, and the others change nothing.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        self.reap();
    }

    // === Connections ===

    fn accept(&mut self) {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                // EAGAIN; or no descriptors left, and then the caller finds a closed socket later.
                Err(_) => return,
            };
            if self.connections.len() >= CONNECTIONS_MAX || !is_trusted(socket.as_fd()) {
                continue;
            }
            let Some(key) = self.next_key() else { continue };
            if self.poller.add(&socket, Source::Connection(key), EventFlags::IN).is_ok() {
                self.connections.insert(key, Connection::new(socket));
            }
        }
    }

    fn on_connection(&mut self, key: u32, flags: EventFlags) {
        if let Err(_gone) = self.serve(key, flags) {
            self.disconnect(key);
        } else {
            self.watch_connection(key);
        }
    }

    fn serve(&mut self, key: u32, flags: EventFlags) -> Result<(), ConnectionError> {
        let Some(connection) = self.connections.get_mut(&key) else { return Ok(()) };
        if flags.intersects(EventFlags::OUT) {
            connection.flush()?;
        }
        let mut received = Ok(());
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            received = connection.receive();
        }
        // What came before the end is still carried out: a peer may send and go.
        while let Some(connection) = self.connections.get_mut(&key).filter(|c| c.is_read()) {
            let Some(incoming) = connection.next_request()? else { break };
            self.on_request(Caller { connection: key, request: incoming.id }, incoming);
        }
        received
    }

    /// Has the poller tell what the connection is ready for.
    fn watch_connection(&mut self, key: u32) {
        let Some(connection) = self.connections.get(&key) else { return };
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, connection.is_read());
        flags.set(EventFlags::OUT, connection.is_writing());
        if self.poller.modify(connection, Source::Connection(key), flags).is_err() {
            self.disconnect(key);
        }
    }

    fn disconnect(&mut self, key: u32) {
        if let Some(connection) = self.connections.remove(&key) {
            self.poller.remove(connection);
        }
        if self.connections.is_empty() {
            if self.ready.is_none() {
                self.tick_at(Instant::now() + ABANDONED_AFTER);
            }
            self.leave_if_forgotten();
        }
    }

    /// Whether the pod's folder was removed under us: then nobody will ever ask again.
    pub(crate) fn is_forgotten(&self) -> bool {
        rustix::fs::fstat(&self.dir_fd).is_ok_and(|stat| stat.st_nlink == 0)
    }

    pub(crate) fn greet(&mut self, connection: u32) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.greeted = true;
        }
    }

    pub(crate) fn reply(&mut self, caller: Caller, body: reply::Body) {
        self.reply_with(caller, body, Vec::new());
    }

    pub(crate) fn fail(&mut self, caller: Caller, failure: Failure) {
        self.reply(caller, reply::Body::Failure(failure));
    }

    /// Answers. A caller that is gone is no error: what it asked for was done.
    pub(crate) fn reply_with(&mut self, caller: Caller, body: reply::Body, fds: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&caller.connection) else { return };
        match connection.reply(caller.request, &Reply { body: Some(body) }, fds) {
            Ok(()) => self.watch_connection_if_writing(caller.connection),
            Err(_gone) => self.disconnect(caller.connection),
        }
    }

    /// Tells everybody who wants to know.
    pub(crate) fn publish(&mut self, body: event::Body) {
        let event = Event { body: Some(body) };
        let keys: Vec<u32> =
            self.connections.iter().filter(|(_, c)| c.greeted).map(|(key, _)| *key).collect();
        for key in keys {
            let Some(connection) = self.connections.get_mut(&key) else { continue };
            match connection.event(&event) {
                Ok(()) => self.watch_connection_if_writing(key),
                Err(_gone) => self.disconnect(key),
            }
        }
    }

    /// The usual answer was sent at once, and the poller needs to know nothing.
    fn watch_connection_if_writing(&mut self, key: u32) {
        if self.connections.get(&key).is_some_and(Connection::is_writing) {
            self.watch_connection(key);
        }
    }
}

/// Children's ends as events; and what would end the shim is passed over.
fn signals() -> Result<SignalFd, nix::errno::Errno> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Only root and the shim's own user may ask for anything.
fn is_trusted(socket: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}
