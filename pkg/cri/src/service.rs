//! The two services, method by method.

mod chunk;
mod container;
mod events;
mod images;
mod operator;
mod runtime;
mod sandbox;
mod stats;
mod streaming;

use std::sync::Arc;

use carpel_image::Images;
use carpel_network::Network;
use carpel_pod::{ContainerSnapshot, Pods};
use carpel_streaming::Server as StreamingServer;
use tokio_util::sync::CancellationToken;

pub use operator::OperatorServer;

/// CRI's `RuntimeService`.
#[derive(Debug, Clone)]
pub struct RuntimeServer {
    pods: Pods,
    images: Images,
    network: Network,
    streaming: StreamingServer,
    facts: Arc<RuntimeFacts>,
    stopping: CancellationToken,
}

/// What the daemon tells about itself.
#[derive(Debug, Clone)]
pub struct RuntimeFacts {
    /// SemVer of the daemon.
    pub version: String,
    /// Whether systemd makes the cgroups; else the daemon's shims do.
    pub systemd_cgroups: bool,
    /// The configuration in force, as TOML, for `crictl info`.
    pub config: String,
}

/// CRI's `ImageService`.
#[derive(Debug, Clone)]
pub struct ImageServer {
    images: Images,
}

impl RuntimeServer {
    /// Over the daemon's rooms. Event streams end when `stopping` is cancelled.
    #[must_use]
    pub fn new(
        pods: Pods,
        images: Images,
        network: Network,
        streaming: StreamingServer,
        facts: RuntimeFacts,
        stopping: CancellationToken,
    ) -> RuntimeServer {
        RuntimeServer { pods, images, network, streaming, facts: Arc::new(facts), stopping }
    }

    /// What people call a container's image: what the user wrote, else a tag of it, else its id.
    fn image_name(&self, container: &ContainerSnapshot) -> String {
        let config = &container.config;
        if !config.user_specified_image.is_empty() {
            return config.user_specified_image.clone();
        }
        match self.images.find(&container.image_id) {
            Ok(Some(image)) => image.repo_tags.first().cloned().unwrap_or_else(|| config.image.clone()),
            Ok(None) | Err(_) => config.image.clone(),
        }
    }
}

impl ImageServer {
    /// Over the image room.
    #[must_use]
    pub fn new(images: Images) -> ImageServer {
        ImageServer { images }
    }
}
