//! A connection that broke while the shim lives.
//!
//! ```text
//!   connection ends ─▶ process ended?  ── yes ─▶ nothing here: its end is seen elsewhere
//!                        │ no
//!                        dial, Hello, Snapshot ─▶ the containers as the shim has them
//!                          └─ failed ─▶ a pause, and again, as long as the process lives
//! ```
//!
//! A shim is never killed for this: what went wrong may be the daemon's own lack of file descriptors
//! or of time, and the containers know nothing of it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use carpel_shim_api::message::{FailureKind, SnapshotReply};

use super::{Owner, create::discard_apart};
use crate::{
    ContainerId, ShimError,
    pods::Shared,
    run::connect,
    shim::{RenewError, Renewal, Shim},
};

/// Until the first try: most shims that close a connection end.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause; it is doubled each time.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a shim may take to answer a try.
const MEET_MAX: Duration = Duration::from_secs(10);
/// Until it is looked again at what was neither there nor gone.
const FORGET_PAUSE: Duration = Duration::from_secs(5);
/// How long a container that nobody knows may take to die.
const FORGET_MAX: Duration = Duration::from_secs(30);
/// Between two tries to kill it.
const KILL_PAUSE: Duration = Duration::from_millis(50);
/// signal(7).
const SIGKILL: i32 = 9;

impl Owner {
    /// A connection to the shim has ended: if the shim lives, it gets another.
    pub(super) fn connection_lost(&mut self) {
        let (Some(process), Some(shim)) = (self.process.clone(), self.handle.shim.clone()) else { return };
        let Some(renewal) = shim.renewal() else { return };
        let folder = self.shared.layout.pod_dir(&self.id);
        let pod_id = self.id.clone();
        self.work(async move {
            let again = dial_until_met(&renewal, &folder, pod_id.as_str());
            let snapshot = tokio::select! {
                biased;
                () = process.ended() => None,
                snapshot = again => Some(snapshot),
            };
            move |owner: &mut Owner| {
                drop(renewal);
                if let Some(snapshot) = snapshot {
                    owner.relinked(snapshot);
                }
            }
        });
    }

    fn relinked(&mut self, snapshot: SnapshotReply) {
        tracing::warn!(pod_id = %self.id, "the connection to a shim broke and was made anew");
        // Requests whose answers were lost may have been carried out.
        let known = snapshot.containers.iter();
        let known = known.filter_map(|known| ContainerId::try_from(known.container_id.clone()).ok());
        let making = self.creations.values().map(|creation| creation.id.clone());
        let ids = known.chain(making).collect();
        self.forget_lost(ids);
        // Those that are made by now were made before the connection broke: the snapshot has them all.
        // The ends of the others are kept for when they are told of.
        for exit in snapshot.containers.iter().filter_map(|known| known.exit.clone()) {
            self.ended_early(exit);
        }
        self.apply_snapshot(snapshot);
        // It may have broken again, and that was told before the renewal was over.
        self.connection_lost();
    }

    /// Has the shim forget those that are neither here nor being made or removed.
    fn forget_lost(&mut self, ids: Vec<ContainerId>) {
        let Some(shim) = self.handle.shim.clone() else { return };
        let mut unclear = Vec::new();
        for id in ids {
            let is_made = self.creations.values().any(|creation| creation.id == id);
            match self.container(&id).map(|container| container.removal.is_some()) {
                Some(false) => {}
                Some(true) => unclear.push(id),
                None if is_made => unclear.push(id),
                None => drop(tokio::spawn(forget(Arc::clone(&self.shared), Arc::clone(&shim), id))),
            }
        }
        if !unclear.is_empty() {
            self.work(async move {
                tokio::time::sleep(FORGET_PAUSE).await;
                move |owner: &mut Owner| owner.forget_lost(unclear)
            });
        }
    }
}

/// Tries until the shim has answered.
async fn dial_until_met(renewal: &Renewal, folder: &Path, pod_id: &str) -> SnapshotReply {
    let mut pause = PAUSE_MIN;
    loop {
        tokio::time::sleep(pause).await;
        match dial(renewal, folder.to_owned()).await {
            Ok(snapshot) => return snapshot,
            Err(err) => {
                tracing::warn!(pod_id, err = &err as &dyn std::error::Error, "a living shim is not reached");
            }
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn dial(renewal: &Renewal, folder: PathBuf) -> Result<SnapshotReply, RenewError> {
    let socket = tokio::task::spawn_blocking(move || connect(&folder)).await;
    let socket = socket.map_err(std::io::Error::other).flatten().map_err(RenewError::Connect)?;
    renewal.try_with(socket, MEET_MAX).await
}

/// Deletes a container in the shim; one that lives is killed. Its folder was thrown away when nobody
/// answered, and the shim may have made it anew in the midst of its mounts.
async fn forget(shared: Arc<Shared>, shim: Arc<Shim>, id: ContainerId) {
    let end = tokio::time::Instant::now() + FORGET_MAX;
    let mut forgotten = shim.delete(&id).await;
    while matches!(forgotten, Err(ShimError::Refused { kind: FailureKind::WrongState, .. }))
        && tokio::time::Instant::now() < end
    {
        // It may have ended just now: then the next try to delete tells.
        if let Err(err) = shim.kill(&id, SIGKILL, true).await {
            tracing::debug!(container_id = %id, err = &err as &dyn std::error::Error, "killing failed");
        }
        tokio::time::sleep(KILL_PAUSE).await;
        forgotten = shim.delete(&id).await;
    }
    match forgotten {
        Ok(()) | Err(ShimError::Refused { kind: FailureKind::NotFound, .. }) => {}
        Err(err) => {
            let err = &err as &dyn std::error::Error;
            tracing::warn!(container_id = %id, err, "deleting a container that nobody knows failed");
        }
    }
    // Also if the answer was lost: if it is not forgotten, the next connection leads here again.
    discard_apart(&shared, id).await;
}
