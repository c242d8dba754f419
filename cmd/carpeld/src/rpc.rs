//! Around every call: a span that continues the caller's trace, its deadline, and a net under panics.
//!
//! A panic in a handler would tear down its whole connection, and with it the kubelet's other calls.
//! Here it becomes `Internal` for the one call.

mod deadline;

use std::{
    any::Any,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures::FutureExt;
use http::{HeaderMap, Request, Response};
use opentelemetry::propagation::Extractor;
use tokio::sync::Notify;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Puts [`Calls`] around a service.
#[derive(Debug, Clone)]
pub struct CallsLayer {
    called: Arc<Notify>,
}

impl CallsLayer {
    /// `called` is notified of each call.
    #[must_use]
    pub fn new(called: Arc<Notify>) -> CallsLayer {
        CallsLayer { called }
    }
}

/// A service with a span, a deadline and a net around each call.
#[derive(Debug, Clone)]
pub struct Calls<S> {
    inner: S,
    called: Arc<Notify>,
}

impl<S> Layer<S> for CallsLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { inner, called: Arc::clone(&self.called) }
    }
}

impl<S, B> Service<Request<B>> for Calls<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.called.notify_one();
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let span = span(&method, request.headers());
        let started = Instant::now();
        let limit = deadline::of(request.headers());
        let passed = deadline::passed(limit.map(tokio::time::sleep));
        let call = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let answered = async move {
            let answer = tokio::select! {
                biased;
                answer = call => answer.unwrap_or_else(|panic| {
                    tracing::error!(panic = panic_text(&*panic), "a call panicked");
                    Ok(Status::internal(format!("{method} failed by a defect of the daemon; see its log"))
                        .into_http())
                }),
                () = passed => {
                    let limit = limit.unwrap_or_default();
                    Ok(Status::deadline_exceeded(format!("{method} was not done within the caller's {limit:?}"))
                        .into_http())
                }
            };
            tracing::debug!(method, elapsed_us = started.elapsed().as_micros(), "call answered");
            answer
        };
        Box::pin(answered.instrument(span))
    }
}

/// The span of one call, child of the one that the caller sends along (W3C `traceparent`).
fn span(method: &str, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!("cri", otel.name = method, rpc.system = "grpc", rpc.method = method);
    let parent =
        opentelemetry::global::get_text_map_propagator(|propagator| propagator.extract(&Headers(headers)));
    // Without an exporter there is no trace to continue.
    let _continued = span.set_parent(parent);
    span
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is not text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_one_calls_failure() {
        let service = tower::service_fn(|request: Request<()>| async move {
            assert!(request.uri().path() != "/runtime.v1.RuntimeService/Version", "boom");
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
        let mut calls = CallsLayer::new(Arc::new(Notify::new())).layer(service);
        for (path, status) in [("Version", Some("13")), ("Status", None), ("Version", Some("13"))] {
            let request =
                Request::builder().uri(format!("/runtime.v1.RuntimeService/{path}")).body(()).unwrap();
            let response = calls.call(request).await.unwrap();
            assert_eq!(response.headers().get("grpc-status").map(|value| value.to_str().unwrap()), status);
        }
    }

    #[tokio::test]
    async fn a_deadline_that_passed_is_called_so() {
        let service = tower::service_fn(|_: Request<()>| async {
            std::future::pending::<Result<Response<Body>, std::convert::Infallible>>().await
        });
        let mut calls = CallsLayer::new(Arc::new(Notify::new())).layer(service);
        let request = Request::builder().uri("/x/Version").header("grpc-timeout", "1m").body(()).unwrap();
        let response = calls.call(request).await.unwrap();
        assert_eq!(response.headers().get("grpc-status").unwrap(), "4");
    }
}
