//! The owner of a pod: the one task that changes it.
//!
//! ```text
//!   commands ─┐                              ┌─▶ catalog, events (published copy)
//!   shim ─────┤── owner: decides, never ─────┼─▶ replies
//!   deadlines ┤   waits                      └─▶ work: futures beside it …
//!   work ─────┘◀────────────── steps ─────────────────┘ … whose ends come back as steps
//! ```
//!
//! Whatever takes time (the shim, the disk, the network) is a future in `work`; its end is a [`Step`],
//! a change that is made here like any other. So nothing queues behind anything: a stop that waits
//! for its grace is a deadline, not a held lock.

pub(crate) mod container;
mod create;
mod exit;
mod limits;
mod pod;
mod relink;
mod remove;
mod start;
mod stop;

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use carpel_shim_api::message::SnapshotReply;
use carpel_spec::config::{ContainerConfig, Resources, SandboxConfig};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tracing::{Instrument, Span};

use crate::{
    ContainerId, CreateError, FindError, ObjectKind, PodId, PodSnapshot, PodState, RemoveContainerError,
    RemovePodError, ReopenLogError, StartError, StopContainerError, StopPodError, UpdateError,
    event::EventKind,
    pods::Shared,
    record::PodRecord,
    selinux::Level,
    shim::{Shim, ShimEvent, program::ShimProcess},
};
use container::Container;
use pod::Phase;

/// Commands that wait for an owner. It takes them at once, so this is only for the moment.
const COMMANDS_MAX: usize = 64;

/// How to reach a pod's owner.
#[derive(Debug, Clone)]
pub(crate) struct PodHandle {
    pub(crate) commands: mpsc::Sender<Asked>,
    /// The pod's shim; absent once it has gone.
    pub(crate) shim: Option<Arc<Shim>>,
}

/// A command, and the trace that it belongs to.
pub(crate) struct Asked {
    pub(crate) command: Command,
    pub(crate) span: Span,
}

/// What an owner is asked for. Each is answered exactly once.
#[derive(Debug)]
pub(crate) enum Command {
    StopPod(Reply<StopPodError>),
    RemovePod(Reply<RemovePodError>),
    Create { config: Box<ContainerConfig>, reply: Reply<CreateError, ContainerId> },
    Start { id: ContainerId, reply: Reply<StartError> },
    StopContainer { id: ContainerId, grace: Duration, reply: Reply<StopContainerError> },
    RemoveContainer { id: ContainerId, reply: Reply<RemoveContainerError> },
    Update { id: ContainerId, resources: Resources, reply: Reply<UpdateError> },
    ReopenLog { id: ContainerId, reply: Reply<ReopenLogError> },
}

/// Where an answer goes. The asker may have gone; the work is done all the same.
pub(crate) type Reply<E, T = ()> = oneshot::Sender<Result<T, E>>;

/// A change that is due when some work has ended.
pub(crate) type Step = Box<dyn FnOnce(&mut Owner) + Send>;

/// The connection to a pod's shim, and its process.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) shim: Arc<Shim>,
    pub(crate) process: ShimProcess,
    pub(crate) init_pid: Option<i32>,
    pub(crate) events: mpsc::UnboundedReceiver<ShimEvent>,
}

/// What an owner is started from: the same after `run` and after a restart of the daemon.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) record: PodRecord,
    pub(crate) link: Option<Link>,
    pub(crate) first: FirstWord,
    pub(crate) containers: Vec<Container>,
}

/// What a shim has told about the containers that are there before their owner.
#[derive(Debug)]
pub(crate) enum FirstWord {
    /// There are none: the pod is new, and everybody is told of it.
    NewPod,
    /// There is no shim.
    None,
    /// All.
    Snapshot(SnapshotReply),
    /// Nothing yet: it is to be asked until it answers.
    Awaited,
}

/// See the module.
pub(crate) struct Owner {
    shared: Arc<Shared>,
    id: PodId,
    config: Arc<SandboxConfig>,
    record: PodRecord,
    phase: Phase,
    handle: PodHandle,
    process: Option<ShimProcess>,
    init_pid: Option<i32>,
    /// In the order of their creation.
    containers: Vec<Container>,
    /// Being made, by name and attempt.
    creations: HashMap<(String, u32), create::Creation>,
    removals: Vec<Reply<RemovePodError>>,
    _selinux_level: Option<Level>,
    work: FuturesUnordered<BoxFuture<'static, Step>>,
    /// The pod is removed.
    ended: bool,
}

impl Owner {
    /// Publishes a pod and starts its owner.
    pub(crate) fn spawn(shared: Arc<Shared>, seed: Seed) {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let mut owner = Owner {
            id: seed.record.id.clone(),
            _selinux_level: seed.record.selinux_level.as_deref().map(|level| shared.levels.reserve(level)),
            config: Arc::new(seed.record.config.clone()),
            phase: Phase::of_record(seed.record.phase),
            record: seed.record,
            handle: PodHandle { commands, shim: None },
            process: None,
            init_pid: None,
            containers: seed.containers,
            creations: HashMap::new(),
            removals: Vec::new(),
            work: FuturesUnordered::new(),
            ended: false,
            shared,
        };
        let (nobody, mut events) = mpsc::unbounded_channel();
        drop(nobody);
        let is_new = matches!(seed.first, FirstWord::NewPod);
        if let Some(link) = seed.link {
            events = link.events;
            owner.handle.shim = Some(link.shim);
            owner.init_pid = link.init_pid;
            let process = link.process.clone();
            owner.process = Some(link.process);
            // As long as the pod lives, so not in the span of the call that made it: that would not end.
            owner.work_in(Span::none(), async move {
                process.ended().await;
                Owner::shim_gone
            });
            match seed.first {
                FirstWord::NewPod | FirstWord::None => {}
                FirstWord::Snapshot(snapshot) => owner.apply_snapshot(snapshot),
                FirstWord::Awaited => owner.ask_shim(),
            }
        } else {
            owner.shim_gone();
        }
        owner.publish();
        if is_new {
            let id = owner.id.clone();
            owner.tell(EventKind::Created, id.as_str());
            owner.tell(EventKind::Started, id.as_str());
        }
        tokio::spawn(owner.live(inbox, events));
    }

    async fn live(
        mut self,
        mut inbox: mpsc::Receiver<Asked>,
        mut events: mpsc::UnboundedReceiver<ShimEvent>,
    ) {
        let closing = self.shared.closing.clone();
        while !self.ended {
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                () = closing.cancelled() => return,
                Some(event) = events.recv() => self.shim_event(event),
                Some(step) = self.work.next(), if !self.work.is_empty() => step(&mut self),
                () = sleep_until(deadline) => self.deadlines_passed(),
                Some(asked) = inbox.recv() => asked.span.in_scope(|| self.command(asked.command)),
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::StopPod(reply) => self.stop_pod(reply),
            Command::RemovePod(reply) => self.remove_pod(reply),
            Command::Create { config, reply } => self.create(*config, reply),
            Command::Start { id, reply } => self.start(&id, reply),
            Command::StopContainer { id, grace, reply } => self.stop_container(&id, grace, reply),
            Command::RemoveContainer { id, reply } => self.remove_container(&id, reply),
            Command::Update { id, resources, reply } => self.update(&id, resources, reply),
            Command::ReopenLog { id, reply } => self.reopen_log(&id, reply),
        }
    }

    fn shim_event(&mut self, event: ShimEvent) {
        match event {
            ShimEvent::Exited(record) => self.exited(record),
            ShimEvent::Gone => self.connection_lost(),
        }
    }

    /// Lets something go on beside the owner, in the trace of whoever asks now; the step that it ends with
    /// is made here.
    fn work<S>(&mut self, work: impl Future<Output = S> + Send + 'static)
    where
        S: FnOnce(&mut Owner) + Send + 'static,
    {
        self.work_in(Span::current(), work);
    }

    /// [`Owner::work`] in another trace.
    fn work_in<S>(&mut self, span: Span, work: impl Future<Output = S> + Send + 'static)
    where
        S: FnOnce(&mut Owner) + Send + 'static,
    {
        self.work.push(Box::pin(async move {
            let step = work.instrument(span.clone()).await;
            Box::new(move |owner: &mut Owner| span.in_scope(|| step(owner))) as Step
        }));
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.containers.iter().filter_map(|container| Some(container.stop.as_ref()?.phase.deadline())).min()
    }

    fn container(&mut self, id: &ContainerId) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.id() == id)
    }

    /// Publishes the pod as it is now.
    fn publish(&mut self) -> Arc<PodSnapshot> {
        let pod = Arc::new(self.snapshot());
        let containers: Vec<_> = self.containers.iter().map(|c| Arc::clone(&c.snapshot)).collect();
        self.shared.catalog.publish(Arc::clone(&pod), self.handle.clone(), &containers);
        pod
    }

    /// Publishes the pod, and tells what happened to it or to one of its containers.
    fn tell(&mut self, kind: EventKind, subject: &str) {
        let pod = self.publish();
        let containers = self.containers.iter().map(|c| Arc::clone(&c.snapshot)).collect();
        self.shared.events.publish(kind, subject.to_owned(), crate::clock::now_ns(), pod, containers);
    }

    /// After a change of a container: its new copy, and the event.
    fn container_changed(&mut self, id: &ContainerId, kind: EventKind) {
        if let Some(container) = self.container(id) {
            container.refresh();
        }
        self.tell(kind, id.as_str());
    }

    fn snapshot(&self) -> PodSnapshot {
        let network_own = self.record.netns.is_some();
        PodSnapshot {
            id: self.id.clone(),
            config: Arc::clone(&self.config),
            state: match self.phase {
                Phase::Ready => PodState::Ready,
                Phase::Stopping { .. } | Phase::NotReady { .. } => PodState::NotReady,
            },
            created_at_ns: self.record.created_at_ns,
            ips: if network_own { self.record.ips.clone() } else { Vec::new() },
            netns: self.record.netns.clone(),
            shim_pid: self.process.as_ref().map(ShimProcess::pid),
            init_pid: self.init_pid,
            cgroup_parent: self.cgroup_parent(),
            containers: self.containers.iter().map(|container| container.id().clone()).collect(),
        }
    }

    /// As a path; empty for one that an earlier daemon took, and this one's cgroup driver does not.
    fn cgroup_parent(&self) -> String {
        let parent = self.config.cgroup_parent.as_deref();
        carpel_spec::parent_cgroup(parent, &self.shared.node.facts).unwrap_or_default()
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Answers. Nobody may be there any more to hear it, which is no error.
fn answer<T, E>(reply: Reply<E, T>, result: Result<T, E>) {
    let _ = reply.send(result);
}

fn answer_all<E: Clone>(replies: impl IntoIterator<Item = Reply<E>>, result: &Result<(), E>) {
    for reply in replies {
        answer(reply, result.clone());
    }
}

fn not_found(id: &ContainerId) -> FindError {
    FindError::NotFound { kind: ObjectKind::Container, id: id.to_string() }
}
