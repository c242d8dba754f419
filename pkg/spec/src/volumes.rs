//! Volumes that an image declares for itself.
//!
//! A path that an image calls a `VOLUME` is to be writable and to begin with what the image has
//! there. The writable layer does both at no cost, and lives exactly as long as the container, which
//! is what Kubernetes promises of such a path. So they are ignored — but where the root file system
//! is read-only: there each gets an empty folder of its own, which the caller makes before the
//! container is created and removes with it.

use std::collections::BTreeSet;

use crate::error::PlanError;
use crate::input::ContainerInput;
use crate::path;

/// The most volumes of an image.
const VOLUMES_MAX: usize = 128;

/// A folder for the caller to make, mode 0755, owned by root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePlan {
    /// Where it is in the container, absolute and clean.
    pub container_path: String,
    /// Where it is to be made on the host.
    pub host_path: String,
}

/// Folders that the container needs for its image's volumes. Paths at or below which something is
/// mounted already need none: a volume of the image's is not made inside one of the client's, nor in
/// `/dev`, `/proc` and `/sys`, which are no part of an image.
pub(crate) fn plan_volumes(
    input: &ContainerInput<'_>,
    mounted: &[String],
) -> Result<Vec<VolumePlan>, PlanError> {
    let volumes = &input.image.volumes;
    if volumes.len() > VOLUMES_MAX {
        let (what, count, max) = ("image volumes", volumes.len(), VOLUMES_MAX);
        return Err(PlanError::TooMany { what, count, max });
    }
    let mut paths = BTreeSet::new();
    for volume in volumes {
        // Checked even where they are ignored: whether an image is good must not depend on how it is run.
        let path = path::below_root("image volume", volume)?;
        let covered = mounted.iter().any(|folder| path::is_within(&path, folder));
        if input.config.security.readonly_rootfs && !covered {
            paths.insert(path);
        }
    }
    let folder = match paths.is_empty() {
        true => String::new(),
        false => path::below_root("volumes folder", input.volumes_dir)?,
    };
    let plan =
        |(index, container_path)| VolumePlan { host_path: format!("{folder}/{index}"), container_path };
    Ok(paths.into_iter().enumerate().map(plan).collect())
}
