//! Left-overs: what an earlier daemon did not bring to an end.
//!
//! Only what is certainly nobody's is touched: a folder of a pod that no record knows of, an
//! attachment of such a pod, a container whose pod is not recorded.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;

use super::{Records, is_nobody, unfinished::take};
use crate::{
    PodId,
    id::is_id,
    lost,
    owner::{FirstWord, Owner, Seed},
    pods::Shared,
    record::{ContainerRecord, PodPhase, PodRecord},
    run::{connect, remove_files},
    shim::{Shim, program::ShimProcess},
};

/// How long a stray shim may take to end, before it is killed.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// What no record knows of.
#[derive(Debug, Default)]
pub(super) struct LeftOvers {
    /// Folders of pods, by their ids.
    folders: Vec<PodId>,
    /// Pods with something left in the network room.
    networks: Vec<String>,
    /// Folders of containers.
    debris: Vec<PathBuf>,
}

/// Looks, before anything new can be made.
pub(super) fn find(shared: &Shared, records: &Records) -> LeftOvers {
    let known: HashSet<&str> = records.pods.iter().map(|record| record.id.as_str()).collect();
    let folders = std::fs::read_dir(shared.layout.pod_dirs()).into_iter().flatten().flatten();
    let folders = folders.filter_map(|entry| PodId::try_from(entry.file_name().into_string().ok()?).ok());
    let networks = shared.network.known().into_iter();
    LeftOvers {
        folders: folders.filter(|id| !known.contains(id.as_str())).collect(),
        networks: networks.filter(|id| is_id(id) && !known.contains(id.as_str())).collect(),
        debris: records.debris.clone(),
    }
}

/// Takes it all back. Off the path to serving.
/// Folders of containers wait until every shim has let go of what it may have of them.
pub(super) async fn take_back(
    shared: &Arc<Shared>,
    left: LeftOvers,
    orphans: Vec<ContainerRecord>,
    mut all_let_go: mpsc::Receiver<()>,
) {
    if let Err(err) = shared.images.sweep().await {
        tracing::warn!(err = &err as &dyn std::error::Error, "sweeping images failed");
    }
    for id in left.folders {
        tracing::info!(pod_id = %id, "a pod without a record is taken back");
        end_shim(&shared.layout.pod_dir(&id)).await;
        let shared = Arc::clone(shared);
        let removed = tokio::task::spawn_blocking(move || remove_files(&shared, &id));
        if let Err(err) = removed.await {
            tracing::warn!(%err, "taking a pod's folder back was broken off");
        }
    }
    for pod in left.networks {
        tracing::info!(pod_id = pod, "the network of a pod without a record is taken back");
        if let Err(err) = shared.network.detach(&pod).await {
            tracing::warn!(pod_id = pod, err = &err as &dyn std::error::Error, "detaching failed");
        }
    }
    // Nothing is sent: the end comes when the last pod has dropped its side.
    while all_let_go.recv().await.is_some() {}
    let shared = Arc::clone(shared);
    let cleaned = tokio::task::spawn_blocking(move || {
        let of_orphans = orphans.into_iter().map(|orphan| {
            lost::end(&shared.node, &orphan.cgroup_path);
            shared.layout.container(&orphan.id)
        });
        for folder in of_orphans.chain(left.debris) {
            take(&shared, &folder);
        }
    });
    if let Err(err) = cleaned.await {
        tracing::warn!(%err, "taking containers' folders back was broken off");
    }
}

/// Takes back a pod that was being made. If its network cannot be given back, it is listed.
pub(super) async fn take_pod_back(shared: &Arc<Shared>, mut record: PodRecord) {
    tracing::info!(pod_id = %record.id, "a pod that was being made is taken back");
    end_shim(&shared.layout.pod_dir(&record.id)).await;
    if let Err(err) = shared.network.detach(record.id.as_str()).await {
        tracing::warn!(pod_id = %record.id, err = &err as &dyn std::error::Error, "detaching failed");
        record.phase = PodPhase::NotReady;
        shared.names.adopt(record.id.clone(), Arc::new(record.config.clone()));
        let seed = Seed { record, link: None, first: FirstWord::None, containers: Vec::new() };
        return Owner::spawn(Arc::clone(shared), seed);
    }
    let (shared, id) = (Arc::clone(shared), record.id);
    if let Err(err) = tokio::task::spawn_blocking(move || remove_files(&shared, &id)).await {
        tracing::warn!(%err, "taking a pod's files back was broken off");
    }
}

/// Ends the shim of a folder, if there is one, with all that it runs.
async fn end_shim(folder: &Path) {
    let at = folder.to_owned();
    let socket = match tokio::task::spawn_blocking(move || connect(&at)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(err)) if is_nobody(&err) => return,
        Ok(Err(err)) => return tracing::warn!(path = %folder.display(), %err, "reaching a shim failed"),
        Err(err) => return tracing::warn!(path = %folder.display(), %err, "reaching a shim failed"),
    };
    let (sender, _events) = mpsc::unbounded_channel();
    let Ok(shim) = Shim::new(socket, sender) else { return };
    let met = shim.meet(SHUTDOWN_MAX).await;
    let process = met.ok().and_then(|(hello, _)| ShimProcess::adopt(hello.pid, folder));
    if let Err(err) = shim.shutdown(SHUTDOWN_MAX).await {
        tracing::warn!(path = %folder.display(), err = &err as &dyn std::error::Error, "ending a shim failed");
    }
    let Some(process) = process else { return };
    if tokio::time::timeout(SHUTDOWN_MAX, process.ended()).await.is_err() {
        process.kill();
    }
}
