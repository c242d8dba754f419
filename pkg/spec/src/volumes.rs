//! Volumes that an image declares for itself.
//!
//! A path that an image calls a `VOLUME` is to be writable and to begin with what the image has
//! there. The writable layer does both at no cost, and lives exactly as long as the container, which
//! is what Kubernetes promises of such a path. So they are ignored — but where the root file system
//! is read-only: there each is a part of the root bound onto itself, a mount that stays writable.

use std::collections::BTreeSet;

use carpel_shim_api::plan::{MountPlan, Propagation, RootfsSource, mount_plan::Source};

use crate::error::PlanError;
use crate::input::ContainerInput;
use crate::path;

/// The most volumes of an image.
const VOLUMES_MAX: usize = 128;

/// Mounts for the image's volumes, sorted by path. Paths at or below which something is mounted need
/// none: a volume of the image's is not made inside one of the client's, nor in `/dev`, `/proc` and
/// `/sys`, which are no part of an image. They have the attributes of the root itself, as they would
/// where it is writable.
pub(crate) fn plan_volumes(
    input: &ContainerInput<'_>,
    mounts: &[MountPlan],
) -> Result<Vec<MountPlan>, PlanError> {
    let volumes = &input.image.volumes;
    if volumes.len() > VOLUMES_MAX {
        let (what, count, max) = ("image volumes", volumes.len(), VOLUMES_MAX);
        return Err(PlanError::TooMany { what, count, max });
    }
    let mut paths = BTreeSet::new();
    for volume in volumes {
        // Checked even where they are ignored: whether an image is good must not depend on how it is run.
        let path = path::below_root("image volume", volume)?;
        let covered = mounts.iter().any(|mount| path::is_within(&path, &mount.destination));
        if input.config.security.readonly_rootfs && !covered {
            paths.insert(path);
        }
    }
    Ok(paths.into_iter().map(onto_itself).collect())
}

fn onto_itself(path: String) -> MountPlan {
    MountPlan {
        destination: path.clone(),
        source: Some(Source::Rootfs(RootfsSource { path })),
        attributes: 0,
        attributes_recursive: 0,
        propagation: Propagation::Private.into(),
        optional: false,
        idmapped: false,
        relabel: false,
    }
}
