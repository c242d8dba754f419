//! How far a pull has come, for people who wait.

use std::time::Duration;

use tokio::sync::watch;

use crate::digest::Digest;

/// Where a caller of [`Images::pull`](crate::Images::pull) wants to see progress: the latest state only,
/// never a queue.
pub type ProgressSender = watch::Sender<PullProgress>;

/// State of one pull.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PullProgress {
    /// The normalised reference that is pulled.
    pub reference: String,
    /// What it does now.
    pub stage: PullStage,
    /// Its layers, bottom first; empty until the manifest is known.
    pub layers: Vec<LayerProgress>,
    /// Time since the pull began, as of this snapshot.
    pub elapsed: Duration,
}

/// The steps of a pull.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullStage {
    /// Asking registries for the manifest and the config.
    #[default]
    Resolving,
    /// Downloading and unpacking layers.
    Fetching,
    /// Making it durable.
    Committing,
    /// Done.
    Done,
}

/// State of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerProgress {
    /// Digest of the layer as the registry stores it.
    pub digest: Digest,
    /// What it does now.
    pub stage: LayerStage,
    /// Compressed bytes that have arrived.
    pub bytes: u64,
    /// Compressed bytes there are.
    pub total: u64,
}

/// The steps of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerStage {
    /// Waiting for its turn.
    Waiting,
    /// Downloading and unpacking at once.
    Fetching,
    /// Unpacked.
    Done,
    /// Was there before.
    Present,
}
