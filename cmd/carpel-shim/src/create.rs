//! Create and Start: the verbs that end when the init process has said so.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_cgroups::Cgroup;
use carpel_oci_runtime::cgroup::Membership;
use carpel_oci_runtime::create::{self as runtime, CreateError, Progress, StartProgress};
use carpel_shim_api::message::{Create, Created, Failure, FailureKind, Started, reply};
use carpel_shim_api::plan::PidNamespace;

use crate::container::{Caller, Container, State};
use crate::failure::{failure, of_create, of_start, plain};
use crate::pod::{Pod, Ready};
use crate::poller::{EventFlags, Source};
use crate::request::{Answer, check_id, wrong_state};
use crate::resources::{cgroup_path, device_rules, limits};
use crate::stdio::{Streams, now_ns};

/// Containers of one pod at a time.
const CONTAINERS_MAX: usize = 512;

impl Pod {
    /// Makes a container: everything up to the init process's execve. `hold` is kept open until the
    /// container has ended.
    pub(crate) fn create(
        &mut self,
        caller: Caller,
        request: Create,
        hold: Option<OwnedFd>,
    ) -> Result<Answer, Failure> {
        check_id(&request.container_id, "a container's")?;
        if self.is_stopping() {
            return Err(plain(FailureKind::WrongState, "the pod is being stopped"));
        }
        if self.containers.values().any(|c| c.id == request.container_id) {
            let message = format!("container {} exists already", request.container_id);
            return Err(plain(FailureKind::AlreadyExists, message));
        }
        if self.containers.len() >= CONTAINERS_MAX {
            let message = format!("the pod has {CONTAINERS_MAX} containers already");
            return Err(plain(FailureKind::Exhausted, message));
        }
        let key = self.next_key().ok_or_else(|| plain(FailureKind::Exhausted, "no more keys"))?;
        let Some(ready) = &self.ready else {
            return Err(plain(FailureKind::WrongState, "the pod is not set up"));
        };
        let target = self.pid_target(&request)?;
        let invalid = |e: &(dyn std::error::Error + 'static)| failure(FailureKind::Invalid, e);
        let path = cgroup_path(&request.plan.cgroup).map_err(|e| invalid(&e))?;
        let rules = device_rules(&request.plan.cgroup.device_rules).map_err(|e| invalid(&e))?;
        let limits = limits(&request.plan.cgroup.resources);
        limits.check().map_err(|e| invalid(&e))?;
        let (mut streams, stdio) =
            Streams::make(key, &request).map_err(|e| failure(FailureKind::Internal, &e))?;
        let cgroup = Cgroup::create(&ready.tree, &path, &limits, Some(&rules))
            .map_err(|e| failure(FailureKind::Internal, &e))?;
        let begun = begin(ready, &request, &cgroup, target, stdio).and_then(|begun| {
            let watched =
                streams.watch(&self.poller).map_err(|e| failure(FailureKind::Internal, &e)).and_then(|()| {
                    self.poller
                        .add(&begun.creating, Source::Init(key), EventFlags::IN)
                        .map_err(|e| failure(FailureKind::Internal, &e))
                });
            watched.map(|()| begun)
        });
        let begun = match begun {
            Ok(begun) => begun,
            Err(failure) => {
                streams.close(&self.poller);
                self.undo(cgroup, failure, caller);
                return Ok(Answer::Later);
            }
        };
        let container = Container {
            id: request.container_id,
            process: request.plan.process,
            cgroup,
            hold,
            identity: None,
            streams,
            execs: BTreeMap::new(),
            state: State::Creating { process: begun.process, creating: begun.creating, caller },
            killed_at: None,
            removal: None,
        };
        self.containers.insert(key, container);
        Ok(Answer::Later)
    }

    /// The pidfd of the container whose PID namespace is joined.
    fn pid_target(&self, request: &Create) -> Result<Option<BorrowedFd<'_>>, Failure> {
        if request.plan.pid_namespace() != PidNamespace::Target {
            return Ok(None);
        }
        let id = &request.plan.pid_target;
        let target = self.containers.values().find(|c| c.id == *id);
        let target = target.ok_or_else(|| crate::request::no_container(id))?;
        match (&target.state, target.init()) {
            (State::Running { .. }, Some(init)) => Ok(Some(init.pidfd.as_fd())),
            _ => Err(wrong_state(target, "the target of a PID namespace")),
        }
    }

    /// Releases a container's init process.
    pub(crate) fn start(&mut self, caller: Caller, id: &str) -> Result<Answer, Failure> {
        let (key, container) = self.find(id)?;
        let (process, created) = match std::mem::replace(&mut container.state, State::Changing) {
            State::Created { process, created } => (process, created),
            other => {
                container.state = other;
                return Err(wrong_state(container, "started"));
            }
        };
        match created.start() {
            Ok(starting) => {
                let watched = self.poller.add(&starting, Source::Init(key), EventFlags::IN);
                if let Some(container) = self.containers.get_mut(&key) {
                    container.state = State::Starting { process, starting, caller };
                }
                if let Err(e) = watched {
                    // Nobody would hear it report: it is as good as failed.
                    self.fail_start(key, failure(FailureKind::Internal, &e));
                }
            }
            Err(error) => {
                kill(&process);
                let failure = of_start(&error);
                container.state = State::StartFailed { process, failure, caller };
            }
        }
        Ok(Answer::Later)
    }

    /// An init process has something to say, or has closed its end.
    pub(crate) fn on_init_report(&mut self, key: u32) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        match std::mem::replace(&mut container.state, State::Changing) {
            State::Creating { process, creating, caller } => {
                self.poller.remove(&creating);
                match creating.on_readable() {
                    Ok(Progress::Pending(creating)) => {
                        // Watched before without a complaint, so watched again.
                        let _same = self.poller.add(&creating, Source::Init(key), EventFlags::IN);
                        container.state = State::Creating { process, creating, caller };
                    }
                    Ok(Progress::Moved(process, creating)) => self.go_on_with(key, process, creating, caller),
                    Ok(Progress::Created(created)) => self.on_created(key, process, created, caller),
                    Err(error) => {
                        kill(&process);
                        let failure = of_create(&error);
                        container.state = State::CreateFailed { process, failure, caller };
                    }
                }
            }
            State::Starting { process, starting, caller } => {
                self.poller.remove(&starting);
                match starting.on_readable() {
                    Ok(StartProgress::Pending(starting)) => {
                        let _same = self.poller.add(&starting, Source::Init(key), EventFlags::IN);
                        container.state = State::Starting { process, starting, caller };
                    }
                    Ok(StartProgress::Started) => self.on_started(key, process, caller),
                    Err(error) => {
                        kill(&process);
                        let failure = of_start(&error);
                        container.state = State::StartFailed { process, failure, caller };
                    }
                }
            }
            other => container.state = other,
        }
    }

    /// Another process is the init process from now on.
    pub(crate) fn go_on_with(
        &mut self,
        key: u32,
        process: carpel_sys::clone::Process,
        creating: runtime::Creating,
        caller: Caller,
    ) {
        // Watched before without a complaint, so watched again.
        let _same = self.poller.add(&creating, Source::Init(key), EventFlags::IN);
        if let Some(container) = self.containers.get_mut(&key) {
            container.state = State::Creating { process, creating, caller };
        }
    }

    fn on_created(
        &mut self,
        key: u32,
        process: carpel_sys::clone::Process,
        mut created: runtime::Created,
        caller: Caller,
    ) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        if let Some(console) = created.console.take()
            && let Err(error) = container.streams.set_console(console, &self.poller)
        {
            kill(&process);
            let failure = failure(FailureKind::Internal, &error);
            container.state = State::CreateFailed { process, failure, caller };
            return;
        }
        let pid = process.pid.as_raw_nonzero().get();
        container.identity = Some(created.identity.clone());
        let user = Some(created.identity.user.clone());
        container.state = State::Created { process, created };
        self.reply(caller, reply::Body::Created(Created { pid, user }));
    }

    /// The program runs.
    pub(crate) fn on_started(&mut self, key: u32, process: carpel_sys::clone::Process, caller: Caller) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let started_at_ns = now_ns();
        container.state = State::Running { process, started_at_ns };
        self.reply(caller, reply::Body::Started(Started { started_at_ns }));
    }

    fn fail_start(&mut self, key: u32, failure: Failure) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        match std::mem::replace(&mut container.state, State::Changing) {
            State::Starting { process, caller, .. } => {
                kill(&process);
                container.state = State::StartFailed { process, failure, caller };
            }
            other => container.state = other,
        }
    }
}

fn begin(
    ready: &Ready,
    request: &Create,
    cgroup: &Cgroup,
    pid_target: Option<BorrowedFd<'_>>,
    stdio: carpel_oci_runtime::stdio::Stdio,
) -> Result<runtime::Begun, Failure> {
    let seat = Membership { cgroup, leaf: None };
    let wanted = runtime::Request { plan: &request.plan, cgroup: seat, stdio, pid_target };
    runtime::begin(&ready.sandbox, wanted).map_err(|e: CreateError| of_create(&e))
}

/// Ends a process that is about to be reaped. One that has ended is fine.
pub(crate) fn kill(process: &carpel_sys::clone::Process) {
    let _ended = carpel_sys::signal::send(process.pidfd.as_fd(), 9);
}
