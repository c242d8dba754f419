//! UpdateContainerResources: all new limits or none.

use std::sync::Arc;

use carpel_spec::config::Resources;

use super::{Owner, Reply, answer, container::State, not_found};
use crate::{ContainerId, RecordError, ShimError, UpdateError};

/// What the shim and then the disk said.
type Outcome = Result<(), ShimError>;

impl Owner {
    pub(super) fn update(&mut self, id: &ContainerId, asked: Resources, reply: Reply<UpdateError>) {
        let shim = self.handle.shim.clone();
        let planned = carpel_spec::plan_resources(&asked, &self.shared.node.facts);
        let Some(container) = self.container(id) else {
            return answer(reply, Err(not_found(id).into()));
        };
        let alive =
            matches!(container.state, State::Created { .. } | State::Starting { .. } | State::Running { .. });
        let (true, Some(shim)) = (alive, shim) else {
            return answer(reply, Err(UpdateError::NotAlive(id.clone())));
        };
        let planned = match planned {
            Ok(planned) => planned,
            Err(err) => {
                return answer(reply, Err(UpdateError::Plan { id: id.clone(), source: Arc::new(err) }));
            }
        };
        let id = id.clone();
        self.work(async move {
            let result = shim.update(&id, planned).await;
            move |owner: &mut Owner| owner.updated(id, asked, result, reply)
        });
    }

    fn updated(&mut self, id: ContainerId, asked: Resources, result: Outcome, reply: Reply<UpdateError>) {
        if let Err(err) = result {
            return answer(reply, Err(UpdateError::Shim { id, source: Arc::new(err) }));
        }
        let shared = Arc::clone(&self.shared);
        let Some(container) = self.container(&id) else {
            return answer(reply, Err(not_found(&id).into()));
        };
        merge(&mut container.facts.resources, asked);
        container.refresh();
        let write = container.write(&shared.layout);
        self.publish();
        self.work(async move {
            let written = tokio::task::spawn_blocking(move || write.make()).await;
            move |_: &mut Owner| answer(reply, recorded(id, written))
        });
    }
}

fn recorded(
    id: ContainerId,
    written: Result<Result<(), RecordError>, tokio::task::JoinError>,
) -> Result<(), UpdateError> {
    match written {
        Ok(Ok(())) => Ok(()),
        Ok(Err(err)) => Err(UpdateError::Record { id, source: Arc::new(err) }),
        // The limits are in force, and the next change writes them again.
        Err(_) => Ok(()),
    }
}

/// What was not given stays as it was. `oom_score_adj` is of processes, not of the cgroup: it stays.
fn merge(current: &mut Resources, asked: Resources) {
    fn take<T>(current: &mut Option<T>, asked: Option<T>) {
        if asked.is_some() {
            *current = asked;
        }
    }
    take(&mut current.cpu_period_us, asked.cpu_period_us);
    take(&mut current.cpu_quota_us, asked.cpu_quota_us);
    take(&mut current.cpu_shares, asked.cpu_shares);
    take(&mut current.memory_limit_bytes, asked.memory_limit_bytes);
    take(&mut current.memory_swap_limit_bytes, asked.memory_swap_limit_bytes);
    take(&mut current.cpuset_cpus, asked.cpuset_cpus.filter(|list| !list.is_empty()));
    take(&mut current.cpuset_mems, asked.cpuset_mems.filter(|list| !list.is_empty()));
    for (size, limit) in asked.hugepage_limits {
        match current.hugepage_limits.iter_mut().find(|(known, _)| *known == size) {
            Some((_, known)) => *known = limit,
            None => current.hugepage_limits.push((size, limit)),
        }
    }
    current.unified.extend(asked.unified);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays() {
        let mut current = Resources {
            cpu_shares: Some(512),
            memory_limit_bytes: Some(1 << 20),
            hugepage_limits: vec![("2MB".to_owned(), 4)],
            oom_score_adj: Some(900),
            ..Resources::default()
        };
        let asked = Resources {
            memory_limit_bytes: Some(2 << 20),
            cpuset_cpus: Some(String::new()),
            hugepage_limits: vec![("2MB".to_owned(), 8), ("1GB".to_owned(), 1)],
            oom_score_adj: Some(0),
            ..Resources::default()
        };
        merge(&mut current, asked);
        assert_eq!(current.cpu_shares, Some(512));
        assert_eq!(current.memory_limit_bytes, Some(2 << 20));
        assert_eq!(current.cpuset_cpus, None);
        assert_eq!(current.hugepage_limits, [("2MB".to_owned(), 8), ("1GB".to_owned(), 1)]);
        assert_eq!(current.oom_score_adj, Some(900));
    }
}
