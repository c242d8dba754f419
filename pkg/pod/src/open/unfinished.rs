//! Containers that nobody was told of: those that were being made when the daemon ended, and those
//! whose record is damaged or absent. The shim is made to let go of each before its files go.
//!
//! ```text
//!   record is Creating ──▶ its pod's shim ─┐                     shim gone: its cgroup is ended
//!   folder, no record  ──▶ every shim ─────┼─ Kill(9), Delete ─▶ folder ─▶ trash
//!   shim knows, no record ▶ that shim ─────┘   again until it has let go
//! ```
//!
//! A shim may have a container that its snapshot does not name, for it is still being made; hence every
//! shim is asked for folders without a record.

use std::{path::Path, sync::Arc, time::Duration};

use carpel_image::LayerLease;
use carpel_shim_api::message::SnapshotReply;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc;

use crate::{
    ContainerId, ShimError,
    id::is_id,
    lost,
    owner::container::{Container, end},
    pods::Shared,
    record::ContainerRecord,
    shim::Shim,
};

/// Between two tries to make a shim let go.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// A container whose record says that it was being made.
#[derive(Debug)]
pub(super) struct Unfinished {
    id: ContainerId,
    cgroup_path: String,
    /// Its layers may be mounted until the shim has let go.
    _lease: LayerLease,
}

/// Kept by whoever may still have a container of a folder without a record.
pub(super) type Holding = mpsc::Sender<()>;

/// What a shim is to let go of.
#[derive(Debug)]
pub(super) struct LetGo {
    pub(super) unfinished: Vec<Unfinished>,
    /// Not of this pod for certain: their folders go when every shim has answered.
    pub(super) debris: Arc<Vec<ContainerId>>,
    /// In the shim and not on disk.
    pub(super) unrecorded: Vec<ContainerId>,
    pub(super) holding: Holding,
}

impl Unfinished {
    pub(super) fn new(record: ContainerRecord, lease: LayerLease) -> Unfinished {
        Unfinished { id: record.id, cgroup_path: record.cgroup_path, _lease: lease }
    }
}

/// The ids of folders without a record that can be read.
pub(super) fn ids_of(folders: &[impl AsRef<Path>]) -> Vec<ContainerId> {
    let names = folders.iter().filter_map(|folder| folder.as_ref().file_name()?.to_str());
    names.filter(|name| is_id(name)).filter_map(|name| ContainerId::try_from(name.to_owned()).ok()).collect()
}

/// What a shim knows and no record does.
pub(super) fn unrecorded(
    snapshot: &SnapshotReply,
    containers: &[Container],
    unfinished: &[Unfinished],
) -> Vec<ContainerId> {
    let known = snapshot.containers.iter().map(|known| known.container_id.clone());
    let known = known.filter_map(|id| ContainerId::try_from(id).ok());
    let is_recorded = |id: &ContainerId| {
        containers.iter().any(|container| container.id() == id)
            || unfinished.iter().any(|container| container.id == *id)
    };
    known.filter(|id| !is_recorded(id)).collect()
}

/// Makes a shim let go, off the path to serving. Without a shim, what it left is ended.
pub(super) fn let_go(shared: &Arc<Shared>, shim: Option<Arc<Shim>>, wanted: LetGo) {
    let (shared, closing) = (Arc::clone(shared), shared.closing.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = let_go_of_all(&shared, shim.as_deref(), wanted) => {}
            // The next daemon finds all that is left.
            () = closing.cancelled() => {}
        }
    });
}

async fn let_go_of_all(shared: &Arc<Shared>, shim: Option<&Shim>, wanted: LetGo) {
    let LetGo { unfinished, debris, mut unrecorded, holding } = wanted;
    unrecorded.extend(debris.iter().filter(|id| !unrecorded.contains(id)).cloned().collect::<Vec<_>>());
    let of_shim = unrecorded.iter().map(|id| end_stubbornly(shim, id)).collect::<FuturesUnordered<_>>();
    let of_pod = unfinished.iter().map(|container| async {
        tracing::info!(container_id = %container.id, "a container that was being made is taken back");
        end_stubbornly(shim, &container.id).await;
        let (shared, id) = (Arc::clone(shared), container.id.clone());
        let cgroup_path = container.cgroup_path.clone();
        let removed = tokio::task::spawn_blocking(move || {
            // The shim has removed it, if there was one to do so.
            lost::end(&shared.node, &cgroup_path);
            take(&shared, &shared.layout.container(&id));
        });
        if let Err(err) = removed.await {
            tracing::warn!(%err, "taking a container's folder back was broken off");
        }
    });
    let of_pod = of_pod.collect::<FuturesUnordered<_>>();
    tokio::join!(of_shim.collect::<()>(), of_pod.collect::<()>());
    drop(holding);
}

/// Until the shim has let go of it or is gone itself.
async fn end_stubbornly(shim: Option<&Shim>, id: &ContainerId) {
    let Some(shim) = shim else { return };
    let mut is_told = false;
    loop {
        match end::end(shim, id).await {
            Ok(()) | Err(ShimError::Gone) => return,
            Err(err) if !is_told => {
                is_told = true;
                let err = &err as &dyn std::error::Error;
                tracing::warn!(container_id = %id, err, "deleting an unrecorded container failed");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Moves a container's folder into the trash. Blocks shortly.
pub(super) fn take(shared: &Shared, folder: &Path) {
    if let Err(err) = shared.trash.take(folder) {
        tracing::warn!(path = %folder.display(), %err, "removing a container's folder failed");
    }
}
