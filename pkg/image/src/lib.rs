//! Image reference to rootfs: registry client, content store, unpacking, removal.
//!
//! ```text
//! Images::pull ── resolve ── manifest, config ─┬─ layer: blob → digest → inflate → diff ID → unpack ─┬─ commit
//!                 (registry)                   ├─ layer: …      (all layers at once, each streaming) ─┤  (store)
//! Images::import ─ archive ── manifest, config ┴─ layer: …                                           ┘
//! Images::rootfs ─ the unpacked layers of an image, as paths for overlayfs, with a lease on them
//! ```
//!
//! [`Images`] is the whole crate for its users. An image that is listed is whole and durable: every layer
//! was verified, unpacked and synced before the image's record was written. What it is not: it mounts
//! nothing, runs nothing out of an image, and knows no container; whoever uses a rootfs keeps its
//! [`LayerLease`], and layers under a lease are never deleted.
#![forbid(unsafe_code)]

mod auth;
mod config;
mod digest;
mod error;
mod image;
mod images;
mod import;
mod inflate;
mod layer;
mod manifest;
mod pipe;
mod progress;
mod pull;
mod reference;
mod registry;
mod store;
mod tar;
mod unpack;

pub use auth::{Auth, AuthError, AuthFields};
pub use config::{Config, Limits, Proxies, ProxyError};
pub use digest::{Algorithm, ChainId, Digest, DigestError};
pub use error::{ErrorKind, IoFailure};
pub use image::{ConfigError, Image, ImageConfig, Platform};
pub use images::Images;
pub use import::ImportError;
pub use manifest::ManifestError;
pub use progress::{LayerProgress, LayerStage, ProgressSender, PullProgress, PullStage};
pub use pull::{LayerFailure, PullError, PullRequest};
pub use reference::{GrammarError, Reference, ReferenceError};
pub use registry::{HostsError, RegistryError};
pub use store::{
    FsUsage, LayerLease, OpenError, RemoveError, Rootfs, RootfsError, StoreError, SweepError, SweepReport,
};
