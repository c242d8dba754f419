//! RemoveContainer: killed if need be, forgotten by the shim, its files into the trash.

use std::sync::Arc;

use super::{Owner, Reply, answer, answer_all, container::State};
use crate::{
    ContainerId, RecordError, RemoveContainerError, ShimError, event::EventKind, lost, pods::Shared,
};

impl Owner {
    pub(super) fn remove_container(&mut self, id: &ContainerId, reply: Reply<RemoveContainerError>) {
        let Some(container) = self.container(id) else { return answer(reply, Ok(())) };
        if let Some(waiters) = &mut container.removal {
            return waiters.push(reply);
        }
        container.removal = Some(vec![reply]);
        match container.state {
            State::Exited(_) => self.delete(id),
            // Its end leads on.
            State::Created { .. } | State::Starting { .. } | State::Running { .. } | State::Unknown => {
                self.kill(id);
            }
        }
    }

    /// Deletes a container that has exited.
    pub(super) fn delete(&mut self, id: &ContainerId) {
        let Some(container) = self.container(id) else { return };
        let cgroup_path = container.facts.cgroup_path.clone();
        let shim = self.handle.shim.clone();
        let shared = Arc::clone(&self.shared);
        let id = id.clone();
        self.work(async move {
            let forgotten = match &shim {
                Some(shim) => shim.delete(&id).await,
                None => Err(ShimError::Gone),
            };
            let result = match forgotten {
                Ok(()) => clean(shared, &id, cgroup_path, Left::Files).await,
                Err(ShimError::Gone) => clean(shared, &id, cgroup_path, Left::CgroupAndFiles).await,
                Err(err) => Err(RemoveContainerError::Shim { id: id.clone(), source: Arc::new(err) }),
            };
            move |owner: &mut Owner| owner.deleted(&id, result)
        });
    }

    fn deleted(&mut self, id: &ContainerId, result: Result<(), RemoveContainerError>) {
        let Some(index) = self.containers.iter().position(|container| container.id() == id) else { return };
        let waiters = self.containers[index].removal.take().unwrap_or_default();
        if result.is_ok() {
            // With it goes its hold on the image's layers.
            self.containers.remove(index);
            self.shared.usage.forget(id);
            self.tell(EventKind::Deleted, id.as_str());
        }
        answer_all(waiters, &result);
        self.remove_if_stopped();
    }
}

/// What is left of a container to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Files,
    /// There was no shim to remove it.
    CgroupAndFiles,
}

async fn clean(
    shared: Arc<Shared>,
    id: &ContainerId,
    cgroup_path: String,
    left: Left,
) -> Result<(), RemoveContainerError> {
    if let Some(scopes) = &shared.scopes {
        scopes.remove(&cgroup_path).await;
    }
    let folder = shared.layout.container(id);
    let work = move || {
        if left == Left::CgroupAndFiles {
            lost::remove_cgroup(&shared.node, &cgroup_path);
        }
        shared.trash.take(&folder)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Err(source)) => {
            let source = Arc::new(RecordError { action: "remove", path: id.as_str().into(), source });
            Err(RemoveContainerError::Record { id: id.clone(), source })
        }
        // The runtime ends: the next daemon goes on.
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}
