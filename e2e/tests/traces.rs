//! Traces: each call and its steps, in the caller's trace, at the collector that the configuration names.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::sync::{Arc, Mutex};

use carpel_e2e::config::container;
use carpel_e2e::daemon::Options;
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::{Request, Response, Status};

/// The caller's trace and span, as W3C Trace Context writes them.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A collector that keeps what it is sent.
#[derive(Clone, Default)]
struct Collector {
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.requests.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Serves on a thread of its own: it answers before the daemon starts, and until the test ends.
    fn serve() -> (Self, String) {
        let collector = Self::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone());
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
            })
        });
        (collector, endpoint)
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }
}

/// A request in the caller's trace.
fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{CALLER}-01").parse().unwrap());
    request
}

/// The names from the span up to the caller's, which is not among them.
fn path(spans: &[Span], span: &Span) -> String {
    let parent = spans.iter().find(|other| other.span_id == span.parent_span_id);
    match parent {
        Some(parent) => format!("{}/{}", path(spans, parent), span.name),
        None => {
            assert_eq!(hex::encode(&span.parent_span_id), CALLER, "{} belongs to no call", span.name);
            span.name.clone()
        }
    }
}

#[test]
fn a_call_and_its_steps_are_in_the_callers_trace() {
    let (collector, endpoint) = Collector::serve();
    let options = Options { config: format!("[tracing]\nendpoint = \"{endpoint}\""), ..Options::default() };
    scenario::run_without_image(options, async |daemon| {
        daemon.mirror("images.test", &scenario::images().url());
        let (mut runtime, mut images) = (daemon.client.runtime.clone(), daemon.client.images.clone());
        let image = Some(v1::ImageSpec { image: BUSYBOX.to_owned(), ..Default::default() });
        let pull = v1::PullImageRequest { image, ..Default::default() };
        images.pull_image(traced(pull)).await.unwrap();
        let config = daemon.pod("traced");
        let run = v1::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let pod = runtime.run_pod_sandbox(traced(run)).await.unwrap().into_inner().pod_sandbox_id;
        let create = v1::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(container("traced", BUSYBOX, &["sleep", "1000"])),
            sandbox_config: Some(config),
        };
        let id = runtime.create_container(traced(create)).await.unwrap().into_inner().container_id;
        let start = v1::StartContainerRequest { container_id: id.clone() };
        runtime.start_container(traced(start)).await.unwrap();
        let exec = v1::ExecSyncRequest { container_id: id.clone(), cmd: vec!["true".to_owned()], timeout: 0 };
        runtime.exec_sync(traced(exec)).await.unwrap();
        let stop = v1::StopContainerRequest { container_id: id.clone(), timeout: 0 };
        runtime.stop_container(traced(stop)).await.unwrap();
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
        runtime.stop_pod_sandbox(traced(stop)).await.unwrap();
        let remove = v1::RemovePodSandboxRequest { pod_sandbox_id: pod };
        runtime.remove_pod_sandbox(traced(remove)).await.unwrap();
    });
    // The daemon has ended: it has sent what it had.
    let requests = collector.requests.lock().unwrap().clone();
    for resource in requests.iter().flat_map(|request| &request.resource_spans) {
        let attributes = &resource.resource.as_ref().unwrap().attributes;
        let name = attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
        assert!(format!("{:?}", name.value).contains("carpeld"), "{name:?}");
    }
    let mut spans = collector.spans();
    spans.retain(|span| hex::encode(&span.trace_id) == TRACE);
    let mut seen: Vec<String> = spans.iter().map(|span| path(&spans, span)).collect();
    seen.sort();
    for wanted in [
        "PullImage",
        "PullImage/pull",
        "PullImage/pull/resolve",
        "PullImage/pull/layers",
        "PullImage/pull/commit",
        "RunPodSandbox",
        "RunPodSandbox/record",
        "RunPodSandbox/equip",
        "RunPodSandbox/equip/network.attach",
        "RunPodSandbox/set_up",
        "RunPodSandbox/set_up/shim",
        "CreateContainer",
        "CreateContainer/shim",
        "StartContainer",
        "StartContainer/shim",
        "ExecSync",
        "ExecSync/shim",
        "StopContainer",
        "StopContainer/shim",
        "StopPodSandbox",
        "StopPodSandbox/shim",
        "StopPodSandbox/network.detach",
        "RemovePodSandbox",
    ] {
        assert!(seen.iter().any(|path| path == wanted), "{wanted} is not among {seen:#?}");
    }
    // A step is over when its call is, not when the pod is: two calls lie between these.
    let span = |wanted: &str| spans.iter().find(|span| path(&spans, span) == wanted).unwrap();
    assert!(
        span("RunPodSandbox/set_up").end_time_unix_nano < span("ExecSync").start_time_unix_nano,
        "{spans:#?}"
    );
}
