//! `GetContainerEvents`: a stream that ends with the daemon only.

use carpel_pod::{Event, EventKind};
use carpel_proto::v1;
use futures::StreamExt;
use tonic::{Response, codegen::BoxStream};

use super::RuntimeServer;
use crate::show;

impl RuntimeServer {
    pub(super) fn event_stream(&self) -> Response<BoxStream<v1::ContainerEventResponse>> {
        let server = self.clone();
        let events = self.pods.events().map(move |event| Ok(server.event(&event)));
        Response::new(Box::pin(events.take_until(self.stopping.clone().cancelled_owned())))
    }

    fn event(&self, event: &Event) -> v1::ContainerEventResponse {
        let kind = match event.kind {
            EventKind::Created => v1::ContainerEventType::ContainerCreatedEvent,
            EventKind::Started => v1::ContainerEventType::ContainerStartedEvent,
            EventKind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
            EventKind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
        };
        v1::ContainerEventResponse {
            container_id: event.subject.clone(),
            container_event_type: kind.into(),
            created_at: event.at_ns,
            pod_sandbox_status: Some(show::pod_status(&event.pod)),
            containers_statuses: event
                .containers
                .iter()
                .map(|container| show::container_status(container, self.image_name(container)))
                .collect(),
        }
    }
}
