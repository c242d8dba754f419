//! Volumes that an image declares for itself.
//!
//! A path that an image calls a `VOLUME` is to be there, to be writable and to begin with what the image has
//! there. containerd gives each a folder of its own on the host and copies into it what the image has. Here it is a
//! part of the writable layer, as CRI-O has it: nothing is copied, owners and modes are the image's, what is
//! written counts as the container's use of disk, and goes with the container, which is what Kubernetes promises
//! of such a path. So where the image has nothing there a folder is made, and no more, but where the root file
//! system is read-only: there each is a part of the root bound onto itself, a mount that stays writable.
//!
//! What cannot live on an overlayfs (another overlayfs: Docker in a container) needs an emptyDir there.

use std::collections::BTreeSet;

use carpel_shim_api::plan::{MountPlan, Propagation, RootfsSource, mount_plan::Source};

use crate::error::PlanError;
use crate::input::ContainerInput;
use crate::path;

/// The most volumes of an image.
const VOLUMES_MAX: usize = 128;

/// The image's volumes as paths inside the container, sorted. Those at or below which something is mounted are left
/// out: a volume of the image's is not made inside one of the client's, nor in `/dev`, `/proc` and `/sys`, which are
/// no part of an image.
pub(crate) fn plan_volumes(
    input: &ContainerInput<'_>,
    mounts: &[MountPlan],
) -> Result<BTreeSet<String>, PlanError> {
    let volumes = &input.image.volumes;
    if volumes.len() > VOLUMES_MAX {
        let (what, count, max) = ("image volumes", volumes.len(), VOLUMES_MAX);
        return Err(PlanError::TooMany { what, count, max });
    }
    let mut paths = BTreeSet::new();
    for volume in volumes {
        // `VOLUME data` is kept as it was written, and is `/data` to containerd too.
        let path = path::below_root("image volume", &format!("/{}", volume.trim_start_matches('/')))?;
        if !mounts.iter().any(|mount| path::is_within(&path, &mount.destination)) {
            paths.insert(path);
        }
    }
    Ok(paths)
}

/// A volume where the root is read-only. It has the attributes of the root itself, as it would where that is writable.
pub(crate) fn onto_itself(path: String) -> MountPlan {
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
