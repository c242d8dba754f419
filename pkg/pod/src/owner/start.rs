//! StartContainer: Created → Running, or Exited with `StartError`.

use std::sync::Arc;

use carpel_shim_api::message::Started;

use super::{Owner, Reply, answer, answer_all, container::State, not_found};
use crate::{
    ContainerId, Exit, ExitReason, ReopenLogError, ShimError, StartError, clock::now_ns, event::EventKind,
};

/// The exit code of a container whose command could not be executed, as containerd has it.
const START_ERROR_CODE: i32 = 128;

impl Owner {
    pub(super) fn start(&mut self, id: &ContainerId, reply: Reply<StartError>) {
        let shim = self.handle.shim.clone();
        let Some(container) = self.container(id) else {
            return answer(reply, Err(not_found(id).into()));
        };
        let stopping = container.stop.is_some() || container.removal.is_some();
        let pid = match (&mut container.state, &shim) {
            // A retry waits for the same answer.
            (State::Starting { waiters, .. }, _) => return waiters.push(reply),
            (State::Created { pid }, Some(_)) if !stopping => *pid,
            _ => return answer(reply, Err(StartError::NotCreated(id.clone()))),
        };
        container.state = State::Starting { pid, waiters: vec![reply], exit: None };
        let Some(shim) = shim else { return };
        let id = id.clone();
        self.work(async move {
            let result = shim.start(&id).await;
            move |owner: &mut Owner| owner.started(&id, result)
        });
    }

    fn started(&mut self, id: &ContainerId, result: Result<Started, ShimError>) {
        let Some(container) = self.container(id) else { return };
        let State::Starting { pid, waiters, exit } = &mut container.state else { return };
        let (pid, waiters, exit) = (*pid, std::mem::take(waiters), exit.take());
        let result = match result {
            Ok(Started { started_at_ns }) => {
                container.state = State::Running { pid, started_at_ns };
                self.container_changed(id, EventKind::Started);
                if let Some(exit) = exit {
                    self.exited(exit);
                }
                Ok(())
            }
            Err(err) => {
                self.start_failed(id, &err);
                Err(StartError::Shim { id: id.clone(), source: Arc::new(err) })
            }
        };
        answer_all(waiters, &result);
    }

    /// What the shim refused has ended there. If the shim did not answer or has gone, nobody knows.
    fn start_failed(&mut self, id: &ContainerId, err: &ShimError) {
        match err {
            ShimError::Refused { .. } => {
                let now = now_ns();
                let exit = Exit {
                    code: START_ERROR_CODE,
                    reason: ExitReason::StartError,
                    message: err.to_string(),
                    started_at_ns: now,
                    finished_at_ns: now,
                };
                self.set_exited(id, exit);
            }
            ShimError::Gone
            | ShimError::Timeout { .. }
            | ShimError::UnexpectedReply { .. }
            | ShimError::Version { .. }
            | ShimError::Frame { .. }
            | ShimError::Stuck { .. }
            | ShimError::Descriptors { .. } => {
                if let Some(container) = self.container(id) {
                    container.state = State::Unknown;
                }
                self.settle_unknown(id);
            }
        }
    }

    pub(super) fn reopen_log(&mut self, id: &ContainerId, reply: Reply<ReopenLogError>) {
        let shim = self.handle.shim.clone();
        let Some(container) = self.container(id) else {
            return answer(reply, Err(not_found(id).into()));
        };
        let (State::Running { .. }, Some(shim)) = (&container.state, shim) else {
            return answer(reply, Err(ReopenLogError::NotRunning(id.clone())));
        };
        let id = id.clone();
        self.work(async move {
            let result = shim.reopen_log(&id).await;
            let result = result.map_err(|err| ReopenLogError::Shim { id, source: Arc::new(err) });
            move |_: &mut Owner| answer(reply, result)
        });
    }
}
