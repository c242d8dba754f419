//! CreateContainer, from the wish to Created.
//!
//! ```text
//!   Wanted ── look_up ──▶ LookedUp ── record ──▶ Recorded ── create ──▶ Container (Created)
//!     │ image, host         │ plan (pure), folder,   │ the shim does all but the
//!     │ devices             │ record = Creating      │ execve; record = Created
//!     ▼                     ▼                        ▼
//!   nothing to undo       nothing to undo          undo: shim forgets, folder → trash
//! ```
//!
//! It goes on when the caller has gone, and a retry of the same name and attempt joins it.

mod make;

pub(super) use make::discard_apart;

use std::sync::Arc;

use carpel_shim_api::record::ExitRecord;
use carpel_spec::config::{ContainerConfig, PidMode};

use super::{
    Owner, Reply, answer,
    container::{Container, State, exit_of},
    pod::Phase,
};
use crate::{ContainerId, CreateError, FindError, ObjectKind, event::EventKind};

/// A container that is being made.
#[derive(Debug)]
pub(super) struct Creation {
    pub(super) id: ContainerId,
    config: Arc<ContainerConfig>,
    waiters: Vec<Reply<CreateError, ContainerId>>,
    /// It ended when the shim had made it and nobody knew that yet.
    exit: Option<ExitRecord>,
}

impl Owner {
    pub(super) fn create(&mut self, config: ContainerConfig, reply: Reply<CreateError, ContainerId>) {
        let key = (config.name.clone(), config.attempt);
        if let Some(creation) = self.creations.get_mut(&key) {
            if is_same(&creation.config, &config) {
                return creation.waiters.push(reply);
            }
            let id = creation.id.clone();
            return answer(reply, Err(taken(&config, id)));
        }
        let same_name =
            |c: &&Container| c.facts.config.name == config.name && c.facts.config.attempt == config.attempt;
        if let Some(existing) = self.containers.iter().find(same_name) {
            let id = existing.id().clone();
            let same = is_same(&existing.facts.config, &config) && existing.removal.is_none();
            return answer(reply, if same { Ok(id) } else { Err(taken(&config, id)) });
        }
        match self.begin(config) {
            Err(err) => answer(reply, Err(err)),
            Ok(wanted) => {
                let (id, config) = (wanted.id.clone(), Arc::clone(&wanted.config));
                self.creations.insert(key.clone(), Creation { id, config, waiters: vec![reply], exit: None });
                self.work(async move {
                    let result = make::make(wanted).await;
                    move |owner: &mut Owner| owner.created(&key, result)
                });
            }
        }
    }

    fn begin(&self, config: ContainerConfig) -> Result<make::Wanted, CreateError> {
        let (Phase::Ready, Some(shim)) = (&self.phase, &self.handle.shim) else {
            return Err(CreateError::PodNotReady(self.id.clone()));
        };
        if config.security.privileged && !self.config.security.privileged {
            return Err(CreateError::PrivilegedNotAllowed { name: config.name, pod: self.id.clone() });
        }
        let config = self.with_whole_target(config)?;
        let id = ContainerId::random()
            .map_err(|err| CreateError::Id { name: config.name.clone(), source: Arc::new(err) })?;
        Ok(make::Wanted {
            shared: Arc::clone(&self.shared),
            pod_id: self.id.clone(),
            sandbox: Arc::clone(&self.config),
            shim: Arc::clone(shim),
            created_at_ns: self.shared.clock.next_ns(),
            selinux_level: self.record.selinux_level.clone(),
            own_level: self.shared.levels.reserve_asked(config.security.selinux.as_ref()),
            id,
            config: Arc::new(config),
        })
    }

    /// A target's id can be given shortened; it must be a running container of this pod.
    fn with_whole_target(&self, mut config: ContainerConfig) -> Result<ContainerConfig, CreateError> {
        let Some(PidMode::Target(target)) = &config.security.pid else { return Ok(config) };
        let runs = |c: &&Container| matches!(c.state, State::Running { .. });
        let hits: Vec<&Container> =
            self.containers.iter().filter(runs).filter(|c| c.id().as_str().starts_with(target)).collect();
        let kind = ObjectKind::Container;
        let problem = match hits.as_slice() {
            [hit] if !target.is_empty() => {
                config.security.pid = Some(PidMode::Target(hit.id().to_string()));
                return Ok(config);
            }
            [_, _, ..] => FindError::Ambiguous { kind, prefix: target.clone() },
            _ => FindError::NotFound { kind, id: target.clone() },
        };
        Err(CreateError::PidTarget { name: config.name.clone(), target: target.clone(), source: problem })
    }

    /// The shim told the end of a container that is not known yet.
    pub(super) fn ended_early(&mut self, exit: ExitRecord) {
        let mut creations = self.creations.values_mut();
        if let Some(creation) = creations.find(|creation| creation.id.as_str() == exit.container_id) {
            creation.exit = Some(exit);
        }
    }

    fn created(&mut self, key: &(String, u32), result: Result<Container, CreateError>) {
        let creation = self.creations.remove(key);
        let (waiters, exit) = creation.map(|c| (c.waiters, c.exit)).unwrap_or_default();
        let answered = match result {
            Ok(container) => {
                let id = container.id().clone();
                self.containers.push(container);
                self.tell(EventKind::Created, id.as_str());
                if let Some(exit) = exit {
                    self.set_exited(&id, exit_of(exit));
                }
                if self.handle.shim.is_none() {
                    // The shim went in the same moment: it is settled like all the others.
                    self.shim_gone();
                }
                Ok(id)
            }
            Err(err) => Err(err),
        };
        for waiter in waiters {
            answer(waiter, answered.clone());
        }
        self.remove_if_stopped();
    }
}

/// Labels and annotations may change between two tries of the kubelet's; what is made may not.
fn is_same(one: &ContainerConfig, other: &ContainerConfig) -> bool {
    let bare = |config: &ContainerConfig| {
        let mut bare = config.clone();
        bare.labels.clear();
        bare.annotations.clear();
        // Told whole in one of them and perhaps shortened in the other.
        if let Some(PidMode::Target(target)) = &mut bare.security.pid {
            target.truncate(8);
        }
        bare
    };
    bare(one) == bare(other)
}

fn taken(config: &ContainerConfig, id: ContainerId) -> CreateError {
    CreateError::NameTaken { name: config.name.clone(), attempt: config.attempt, id }
}
