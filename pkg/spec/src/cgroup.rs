//! Where a container's cgroup is.
//!
//! ```text
//!   cgroupfs   /kubepods/burstable/pod<uid>              + id → <parent>/<id>
//!   systemd    …/kubepods-burstable-pod<uid>.slice       + id → <slice>/<prefix>-<id>.scope/container
//! ```
//!
//! A scope is delegated by systemd, which leaves alone what is below it; the container is in a child,
//! so that its limits are never systemd's to set.

use carpel_shim_api::plan::CgroupPlan;

use crate::error::{CgroupProblem, PathProblem, PlanError};
use crate::input::{CgroupDriver, ContainerInput, NodeFacts};
use crate::{devices::Devices, path, resources};

/// A container's part of its scope.
const SCOPE_CHILD: &str = "container";
/// The longest name of a unit, in bytes: systemd's `UNIT_NAME_MAX`.
const UNIT_MAX_BYTES: usize = 255;

/// The cgroup of a container: always below the parent that the pod was given, or below the node's
/// default where it was given none.
///
/// # Errors
/// The parent is not a clean path, is no slice where systemd makes the cgroups, or is one where it does not.
pub fn container_cgroup(
    parent: Option<&str>,
    container_id: &str,
    node: &NodeFacts,
) -> Result<String, PlanError> {
    let parent = parent_cgroup(parent, node)?;
    Ok(match node.cgroup_driver {
        CgroupDriver::Cgroupfs => format!("{}/{container_id}", parent.trim_end_matches('/')),
        CgroupDriver::Systemd => {
            format!("{parent}/{}-{container_id}.scope/{SCOPE_CHILD}", node.scope_prefix)
        }
    })
}

/// The cgroup that the containers of a pod are below, as a path.
///
/// # Errors
/// As for [`container_cgroup`].
pub fn parent_cgroup(parent: Option<&str>, node: &NodeFacts) -> Result<String, PlanError> {
    let asked = parent.filter(|parent| !parent.is_empty()).unwrap_or(&node.cgroup_parent_default);
    let problem = |problem| PlanError::CgroupParent { parent: asked.to_owned(), problem };
    let rooted = if asked.starts_with('/') { asked.to_owned() } else { format!("/{asked}") };
    let clean = path::clean(&rooted).map_err(|cause| match cause {
        PathProblem::TooLong => problem(CgroupProblem::TooLong),
        PathProblem::NotAbsolute
        | PathProblem::ParentComponent
        | PathProblem::ControlByte
        | PathProblem::Root
        | PathProblem::NotUtf8 => problem(CgroupProblem::Grammar),
    })?;
    if clean.chars().any(|c| c.is_control() || c == ':') {
        return Err(problem(CgroupProblem::Grammar));
    }
    match node.cgroup_driver {
        CgroupDriver::Cgroupfs if clean.ends_with(".slice") => Err(problem(CgroupProblem::Slice)),
        CgroupDriver::Cgroupfs => Ok(clean),
        // The name tells where it is: `kubepods-pod1.slice`, or the kubelet's whole path to it.
        CgroupDriver::Systemd => slice_path(clean.rsplit('/').next().unwrap_or_default()).map_err(problem),
    }
}

/// Where a slice's cgroup is: `a-b.slice` is in `a.slice`, so it is `/a.slice/a-b.slice`.
/// systemd.slice(5).
///
/// # Errors
/// It is not the name of a slice, or of the root slice.
pub fn slice_path(unit: &str) -> Result<String, CgroupProblem> {
    let stem = unit.strip_suffix(".slice").ok_or(CgroupProblem::NotASlice)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '\\');
    let is_valid = unit.len() <= UNIT_MAX_BYTES
        && stem.chars().all(is_plain)
        && stem.split('-').all(|part| !part.is_empty());
    if !is_valid {
        return Err(CgroupProblem::NotASlice);
    }
    let ends = stem.match_indices('-').map(|(end, _)| end).chain([stem.len()]);
    Ok(ends.map(|end| format!("/{}.slice", &stem[..end])).collect())
}

/// The cgroup with its limits and device rules.
pub(crate) fn plan_cgroup(input: &ContainerInput<'_>, devices: &Devices) -> Result<CgroupPlan, PlanError> {
    let parent = input.sandbox.cgroup_parent.as_deref();
    Ok(CgroupPlan {
        path: container_cgroup(parent, input.container_id, input.node)?,
        resources: resources::plan_resources(&input.config.resources, input.node)?,
        device_rules: devices.rules.clone(),
    })
}
