//! What becomes of containers whose shim is gone. Everything here blocks.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use carpel_shim_api::record::ExitRecord;
use prost::Message;

use crate::{ContainerId, Exit, ExitReason, clock::now_ns, node::Node, owner::container::exit_of, survivors};

/// How long killed processes may take to leave their cgroup.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest exit record, in bytes.
const EXIT_MAX_BYTES: u64 = 64 << 10;
/// 128 plus SIGKILL, as a shell has it.
const KILLED_CODE: i32 = 137;

/// A container that lived when its shim was last heard of.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) id: ContainerId,
    pub(crate) cgroup_path: String,
    pub(crate) exit_record: PathBuf,
    /// Zero if it was not started.
    pub(crate) started_at_ns: i64,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Settled {
    Exited(Exit),
    /// Who is alive although killed.
    Survives(String),
}

/// Kills what is left of them, removes their cgroups, and tells how they ended: as the shim recorded,
/// else as killed. The cgroups of those that had `ended` before go too: no shim will remove them.
pub(crate) fn settle(node: &Node, lost: Vec<Lost>, ended: &[String]) -> Vec<(ContainerId, Settled)> {
    // All are killed before one is waited for.
    for container in &lost {
        kill(node, &container.cgroup_path);
    }
    for cgroup_path in ended {
        end(node, cgroup_path);
    }
    let settle_one = |lost: Lost| {
        let settled = if remove_cgroup(node, &lost.cgroup_path) {
            Settled::Exited(read_exit(&lost.exit_record).unwrap_or_else(|| killed(lost.started_at_ns)))
        } else {
            Settled::Survives(survivors::tell(node, &lost.cgroup_path))
        };
        (lost.id, settled)
    };
    lost.into_iter().map(settle_one).collect()
}

/// Kills what is in a cgroup and removes it.
pub(crate) fn end(node: &Node, cgroup_path: &str) {
    kill(node, cgroup_path);
    if !remove_cgroup(node, cgroup_path) {
        tracing::warn!(
            cgroup_path,
            survivors = survivors::tell(node, cgroup_path),
            "a cgroup survives SIGKILL"
        );
    }
}

fn kill(node: &Node, cgroup_path: &str) {
    if let Some(cgroup) = node.cgroup(cgroup_path)
        && let Err(err) = cgroup.kill()
    {
        tracing::warn!(cgroup_path, err = &err as &dyn std::error::Error, "killing a cgroup failed");
    }
}

/// Removes a cgroup without processes; `false` if there are some. One that is absent is fine.
pub(crate) fn remove_cgroup(node: &Node, cgroup_path: &str) -> bool {
    let Some(cgroup) = node.cgroup(cgroup_path) else { return true };
    match cgroup.delete(PATIENCE) {
        Ok(()) => true,
        Err(carpel_cgroups::DeleteError::Busy { .. }) => false,
        Err(err) => {
            // An empty cgroup that stays is untidy, and no reason to keep a dead container.
            tracing::warn!(cgroup_path, err = &err as &dyn std::error::Error, "removing a cgroup failed");
            !cgroup.is_populated().unwrap_or(false)
        }
    }
}

/// The shim's own word, if it had the time to write it.
pub(crate) fn read_exit(path: &Path) -> Option<Exit> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(EXIT_MAX_BYTES + 1).read_to_end(&mut bytes).ok()?;
    match ExitRecord::decode(bytes.as_slice()) {
        Ok(record) => Some(exit_of(record)),
        Err(err) => {
            tracing::warn!(path = %path.display(), %err, "an exit record does not decode");
            None
        }
    }
}

fn killed(started_at_ns: i64) -> Exit {
    Exit {
        code: KILLED_CODE,
        reason: ExitReason::Error,
        message: "the pod's shim was lost, and the container was killed".to_owned(),
        started_at_ns,
        finished_at_ns: now_ns().max(started_at_ns),
    }
}
