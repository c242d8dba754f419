//! All that the shim knows, for a daemon that has just started.

use carpel_shim_api::message::{ContainerSnapshot, ContainerState, SnapshotReply};

use crate::container::{Container, State};
use crate::pod::Pod;

impl Pod {
    pub(crate) fn snapshot(&self) -> SnapshotReply {
        let init = self.ready.as_ref().filter(|ready| !ready.init_ended).and_then(|r| r.sandbox.micro_init());
        SnapshotReply {
            ready: self.ready.is_some(),
            init_pid: init.map_or(0, |init| init.pid.as_raw_nonzero().get()),
            containers: self.containers.values().filter_map(of_container).collect(),
        }
    }
}

/// `None` for a container that is not made yet: whoever asked for it has gone, and would not know
/// whether to expect it. It is told of once it is Created.
fn of_container(container: &Container) -> Option<ContainerSnapshot> {
    let (state, started_at_ns, exit) = match &container.state {
        State::Creating { .. } | State::CreateFailed { .. } | State::Changing => return None,
        State::Created { .. } | State::Starting { .. } | State::StartFailed { .. } => {
            (ContainerState::Created, 0, None)
        }
        State::Running { started_at_ns, .. } => (ContainerState::Running, *started_at_ns, None),
        // Its event is still to come, when its log is complete.
        State::Draining { record, .. } => (ContainerState::Running, record.started_at_ns, None),
        State::Exited { record, .. } => (ContainerState::Exited, record.started_at_ns, Some(record.clone())),
    };
    Some(ContainerSnapshot {
        container_id: container.id.clone(),
        state: state.into(),
        pid: container.init().map_or(0, |init| init.pid.as_raw_nonzero().get()),
        started_at_ns,
        user: container.identity.as_ref().map(|identity| identity.user.clone()),
        exit,
    })
}
