//! The daemon's life: rooms, socket, ready, drain.

use std::{
    future::Future,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use carpel_cri::{ImageServer, MESSAGE_MAX_BYTES, OperatorServer, RuntimeFacts, RuntimeServer};
use carpel_image::Images;
use carpel_network::Network;
use carpel_pod::{CgroupDriver, Pods};
use carpel_proto::{
    operator::{InfoResponse, operator_server::OperatorServer as OperatorService},
    v1::{image_service_server::ImageServiceServer, runtime_service_server::RuntimeServiceServer},
};
use carpel_streaming::Server as StreamingServer;
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::{backend::PodBackend, config::Config, listen, rooms, rpc::CallsLayer};

/// How long calls under way may take once the daemon is asked to end; the service manager's patience is
/// 90 seconds.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the devices of pods that have left may take to go.
const SETTLE: Duration = Duration::from_secs(5);

/// How long after a call freed memory is given back to the kernel; calls in between count as one.
const TRIM_AFTER: Duration = Duration::from_secs(10);

/// Runs until `stop` resolves, then drains. Pods go on.
///
/// # Errors
/// Whatever keeps the daemon from starting, in words for the operator.
pub async fn run(config: Config, stop: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
    let _root = listen::lock(&config.root)?;
    let _state = listen::lock(&config.state)?;

    let images = Images::open(rooms::image(&config)?).await.context("cannot open the image store")?;
    let network = Network::open(rooms::network(&config)?).await.context("cannot set up the pods' network")?;
    let settings = rooms::pod(&config)?;
    let systemd_cgroups = settings.cgroup_driver == CgroupDriver::Systemd;
    let pods =
        Pods::open(settings, images.clone(), network.clone()).await.context("cannot take over the pods")?;

    let facts = RuntimeFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        systemd_cgroups,
        config: config.dump()?,
    };
    let streaming =
        StreamingServer::open(rooms::streaming(&config.streaming)?, Arc::new(PodBackend(pods.clone())))
            .await
            .context("cannot serve exec, attach and port-forward")?;
    let stopping = CancellationToken::new();
    let services = Services {
        runtime: RuntimeServer::new(
            pods.clone(),
            images.clone(),
            network.clone(),
            streaming.clone(),
            facts,
            stopping.clone(),
        ),
        operator: OperatorServer::new(images.clone(), streaming, info(&config)?, stopping.clone()),
        images: ImageServer::new(images),
    };
    let outcome = serve(&config.listen, services, stop, stopping).await;
    // Pods that have just left still have a device going away in the background.
    if tokio::time::timeout(SETTLE, network.settle()).await.is_err() {
        tracing::warn!(waited_s = SETTLE.as_secs(), "devices of pods that left are still there");
    }
    pods.leave_home().await;
    outcome
}

/// What is served.
struct Services {
    runtime: RuntimeServer,
    images: ImageServer,
    operator: OperatorServer,
}

/// What `carpel info` shows of this daemon.
fn info(config: &Config) -> anyhow::Result<InfoResponse> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(InfoResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        root: config.root.display().to_string(),
        state: config.state.display().to_string(),
        shim: rooms::shim(&config.runtime)?.display().to_string(),
        network: if config.network.builtin.is_some() { "builtin" } else { "cni" }.to_owned(),
        cgroup_mode: rooms::cgroup_mode()?.to_owned(),
        // Asked of the server each time.
        streaming_certificate: Vec::new(),
    })
}

/// Serves everything on one socket: the kubelet's image endpoint is its runtime endpoint.
async fn serve(
    path: &Path,
    services: Services,
    stop: impl Future<Output = ()> + Send + 'static,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    let asked = stopping.clone();
    let stop = async move {
        stop.await;
        // Streams that never end by themselves end by this.
        asked.cancel();
    };
    let called = Arc::new(Notify::new());
    let router = Server::builder()
        .layer(CallsLayer::new(Arc::clone(&called)))
        .add_service(
            RuntimeServiceServer::new(services.runtime)
                .max_decoding_message_size(MESSAGE_MAX_BYTES)
                .max_encoding_message_size(MESSAGE_MAX_BYTES),
        )
        .add_service(
            ImageServiceServer::new(services.images)
                .max_decoding_message_size(MESSAGE_MAX_BYTES)
                .max_encoding_message_size(MESSAGE_MAX_BYTES),
        )
        .add_service(OperatorService::new(services.operator));
    // Only now: a client that meets half of the services falls back for good.
    let (listener, socket) = listen::bind(path)?;
    tracing::info!(socket = %path.display(), version = env!("CARGO_PKG_VERSION"), "ready");
    notify(&[NotifyState::Ready]);
    let trim = tokio::spawn(trim_heap(called));
    let served = tokio::spawn(router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop));
    let outcome = drained(served, stopping).await;
    trim.abort();
    socket.remove();
    outcome
}

/// Waits for the server's end; after the request to stop, no longer than [`DRAIN`].
async fn drained(
    mut served: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        ended = &mut served => return ended?.context("the server ended"),
        () = stopping.cancelled() => {}
    }
    tracing::info!("stopping; pods go on");
    notify(&[NotifyState::Stopping]);
    match tokio::time::timeout(DRAIN, &mut served).await {
        Ok(ended) => ended?.context("the server ended"),
        Err(_elapsed) => {
            tracing::info!(waited_s = DRAIN.as_secs(), "calls under way were broken off");
            served.abort();
            Ok(())
        }
    }
}

/// Takes down what the built-in bridge left on the host.
///
/// # Errors
/// Pods still use it, or the kernel refuses.
pub async fn teardown_network(config: &Config) -> anyhow::Result<()> {
    let _state = listen::lock(&config.state)?;
    let network = Network::open(rooms::network(config)?).await?;
    let known = network.known();
    anyhow::ensure!(known.is_empty(), "{} pods are still attached; remove them first", known.len());
    network.teardown_host().await?;
    Ok(())
}

/// Resolves when the process is asked to end: SIGTERM, or SIGINT from a terminal.
pub async fn terminated() {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "signals cannot be waited for");
            std::future::pending().await
        }
    }
}

/// Tells the service manager, if one listens.
fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(error = &error as &dyn std::error::Error, "the service manager was not told");
    }
}

/// An idle daemon never wakes for this.
async fn trim_heap(called: Arc<Notify>) {
    loop {
        called.notified().await;
        tokio::time::sleep(TRIM_AFTER).await;
        carpel_sys::heap::trim();
    }
}
