//! StopPodSandbox and RemovePodSandbox.
//!
//! ```text
//!   Ready ── stop ──▶ Stopping: Shutdown → shim ended → containers settled → network detached ──▶ NotReady
//!     └──── shim lost ───────────────────────────────▶ NotReady ── stop ──▶ …                        │
//!                                                                 remove: files, name, the owner ◀───┘
//! ```

use std::{sync::Arc, time::Duration};

use carpel_network::DetachError;
use tracing::Span;

use super::{Owner, Reply, answer_all};
use crate::{
    RecordError, RemovePodError, StopPodError,
    event::EventKind,
    record::{self, PodPhase},
};

/// How long a shim may take to kill its containers and to end, before it is killed itself.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
/// How long it may take to end after it said so.
const END_MAX: Duration = Duration::from_secs(3);

/// Where a pod is in its life.
#[derive(Debug)]
pub(super) enum Phase {
    Ready,
    Stopping {
        waiters: Vec<Reply<StopPodError>>,
        /// Of who asked first: its steps are begun by the shim's end, which belongs to no call.
        span: Span,
    },
    /// Nothing runs, unless it survives SIGKILL.
    NotReady {
        /// The network is given back.
        detached: bool,
    },
}

impl Phase {
    pub(super) fn of_record(phase: PodPhase) -> Phase {
        match phase {
            PodPhase::Ready => Phase::Ready,
            // Whether the network is there, the network room knows: to detach again is no error.
            PodPhase::Creating | PodPhase::NotReady => Phase::NotReady { detached: false },
        }
    }
}

impl Owner {
    pub(super) fn stop_pod(&mut self, reply: Reply<StopPodError>) {
        match &mut self.phase {
            Phase::Stopping { waiters, .. } => waiters.push(reply),
            Phase::Ready => {
                self.phase = Phase::Stopping { waiters: vec![reply], span: Span::current() };
                self.publish();
                self.shut_down();
            }
            Phase::NotReady { detached: true } => super::answer(reply, Ok(())),
            Phase::NotReady { detached: false } => {
                self.phase = Phase::Stopping { waiters: vec![reply], span: Span::current() };
                if self.process.is_some() {
                    self.shut_down();
                } else {
                    self.shim_gone();
                }
            }
        }
    }

    /// Lets the shim kill all and end; its end leads on. One that does not answer is killed, and its
    /// containers are then ended without it.
    fn shut_down(&mut self) {
        let (Some(shim), Some(process)) = (self.handle.shim.clone(), self.process.clone()) else {
            return self.shim_gone();
        };
        self.work(async move {
            if let Err(err) = shim.shutdown(SHUTDOWN_MAX).await {
                let err = &err as &dyn std::error::Error;
                tracing::warn!(shim_pid = process.pid(), err, "a shim is killed: it does not shut down");
                process.kill();
            } else if tokio::time::timeout(END_MAX, process.ended()).await.is_err() {
                process.kill();
            }
            |_: &mut Owner| {}
        });
    }

    /// No container is left, but for `survivors` if that is not empty.
    pub(super) fn all_settled(&mut self, survivors: String) {
        let Phase::Stopping { waiters, span } = &mut self.phase else { return self.remove_if_stopped() };
        if !survivors.is_empty() {
            let waiters = std::mem::take(waiters);
            self.phase = Phase::NotReady { detached: false };
            let err = StopPodError::Unkillable { id: self.id.clone(), survivors };
            return self.stop_failed(waiters, err);
        }
        let (network, id, span) = (self.shared.network.clone(), self.id.clone(), span.clone());
        self.work_in(span, async move {
            let result = network.detach(id.as_str()).await;
            move |owner: &mut Owner| owner.detached(result)
        });
    }

    fn detached(&mut self, result: Result<(), DetachError>) {
        let Phase::Stopping { waiters, .. } = &mut self.phase else { return };
        let waiters = std::mem::take(waiters);
        self.phase = Phase::NotReady { detached: result.is_ok() };
        self.shared.usage.close(self.id.as_str());
        if self.record.phase == PodPhase::Ready {
            self.record.phase = PodPhase::NotReady;
            let id = self.id.clone();
            self.tell(EventKind::Stopped, id.as_str());
        } else {
            self.publish();
        }
        if let Err(err) = result {
            let err = StopPodError::Network { id: self.id.clone(), source: Arc::new(err) };
            return self.stop_failed(waiters, err);
        }
        let (path, record) = (self.shared.layout.pod_record(&self.id), self.record.clone());
        self.work(async move {
            let written = tokio::task::spawn_blocking(move || record::write(&path, &record)).await;
            move |owner: &mut Owner| owner.stop_recorded(waiters, written.unwrap_or(Ok(())))
        });
    }

    /// A full disk does not keep a pod from being stopped: without the record, the next daemon finds
    /// no shim and comes to the same.
    fn stop_recorded(&mut self, waiters: Vec<Reply<StopPodError>>, written: Result<(), RecordError>) {
        if let Err(err) = written {
            let err = &err as &dyn std::error::Error;
            tracing::warn!(pod_id = %self.id, err, "recording a stopped pod failed");
        }
        answer_all(waiters, &Ok(()));
        self.remove_if_stopped();
    }

    fn stop_failed(&mut self, waiters: Vec<Reply<StopPodError>>, err: StopPodError) {
        let removals = std::mem::take(&mut self.removals);
        answer_all(removals, &Err(RemovePodError::Stop(err.clone())));
        answer_all(waiters, &Err(err));
    }

    pub(super) fn write_record(&mut self) {
        let (path, record) = (self.shared.layout.pod_record(&self.id), self.record.clone());
        self.work(async move {
            let written = tokio::task::spawn_blocking(move || record::write(&path, &record)).await;
            if let Ok(Err(err)) = written {
                tracing::warn!(err = &err as &dyn std::error::Error, "recording a pod failed");
            }
            |_: &mut Owner| {}
        });
    }

    pub(super) fn remove_pod(&mut self, reply: Reply<RemovePodError>) {
        self.removals.push(reply);
        match &self.phase {
            // The stop's end leads on.
            Phase::Stopping { .. } => {}
            Phase::NotReady { detached: true } => self.remove_if_stopped(),
            Phase::Ready | Phase::NotReady { detached: false } => {
                let (nobody, _) = tokio::sync::oneshot::channel();
                self.stop_pod(nobody);
            }
        }
    }

    /// If somebody wants it removed and nothing of it is in use any more.
    pub(super) fn remove_if_stopped(&mut self) {
        let stopped = matches!(self.phase, Phase::NotReady { detached: true });
        let idle = self.creations.is_empty() && self.containers.iter().all(|c| c.has_exited());
        if self.removals.is_empty() || !stopped || !idle {
            return;
        }
        // Whoever asks from now on meets the answer to these.
        let removals = std::mem::take(&mut self.removals);
        let shared = Arc::clone(&self.shared);
        let id = self.id.clone();
        let containers: Vec<_> = self.containers.iter().map(|c| c.id().clone()).collect();
        self.work(async move {
            let removed = tokio::task::spawn_blocking(move || {
                for container in &containers {
                    take(&shared, &shared.layout.container(container))?;
                }
                take(&shared, &shared.layout.pod_dir(&id))?;
                record::remove(&shared.layout.pod_record(&id))
            });
            let removed = removed.await.unwrap_or(Ok(()));
            move |owner: &mut Owner| owner.removed(removals, removed)
        });
    }

    fn removed(&mut self, removals: Vec<Reply<RemovePodError>>, removed: Result<(), RecordError>) {
        let removals = removals.into_iter().chain(std::mem::take(&mut self.removals));
        if let Err(err) = removed {
            let err = RemovePodError::Record { id: self.id.clone(), source: Arc::new(err) };
            return answer_all(removals, &Err(err));
        }
        for container in std::mem::take(&mut self.containers) {
            self.shared.usage.forget(container.id());
            self.tell(EventKind::Deleted, container.id().as_str());
        }
        let id = self.id.clone();
        self.tell(EventKind::Deleted, id.as_str());
        self.shared.catalog.remove(&self.id);
        // Last: from here on a pod of this name is a new one.
        self.shared.names.release(&self.config.metadata, &self.id);
        self.ended = true;
        answer_all(removals, &Ok(()));
    }
}

fn take(shared: &crate::pods::Shared, path: &std::path::Path) -> Result<(), RecordError> {
    let failed = |source| RecordError { action: "remove", path: path.to_owned(), source };
    // The pod's own folder is on another file system than the trash: it holds a few small files.
    if path.starts_with(&shared.config.state) {
        return match std::fs::remove_dir_all(path) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(failed(err)),
            Ok(()) | Err(_) => Ok(()),
        };
    }
    shared.trash.take(path).map_err(failed)
}
