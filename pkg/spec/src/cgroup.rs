//! Where a container's cgroup is.
//!
//! ```text
//!   cgroupfs   /kubepods/burstable/pod<uid>                                  + id → <parent>/<id>
//!   systemd    /kubepods.slice/…/kubepods-burstable-pod<uid>.slice           + id → <slice>:<prefix>:<id>
//! ```

use carpel_shim_api::plan::{CgroupDriver, CgroupPlan};

use crate::error::{CgroupProblem, PathProblem, PlanError};
use crate::input::{ContainerInput, NodeFacts};
use crate::{devices::Devices, path, resources};

/// The cgroup of a container: always below the parent that the pod was given, or below the node's
/// default where it was given none.
///
/// # Errors
/// The parent is not a clean path, or is no slice where systemd makes the cgroups.
pub fn container_cgroup(
    parent: Option<&str>,
    container_id: &str,
    node: &NodeFacts,
) -> Result<String, PlanError> {
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
        CgroupDriver::Cgroupfs => Ok(format!("{}/{container_id}", clean.trim_end_matches('/'))),
        CgroupDriver::Systemd => {
            let slice = clean.rsplit('/').next().unwrap_or_default();
            if slice.len() <= ".slice".len() || !slice.ends_with(".slice") {
                return Err(problem(CgroupProblem::NotASlice));
            }
            Ok(format!("{slice}:{}:{container_id}", node.scope_prefix))
        }
    }
}

/// The cgroup with its limits and device rules.
pub(crate) fn plan_cgroup(input: &ContainerInput<'_>, devices: &Devices) -> Result<CgroupPlan, PlanError> {
    let parent = input.sandbox.cgroup_parent.as_deref();
    Ok(CgroupPlan {
        driver: input.node.cgroup_driver.into(),
        path: container_cgroup(parent, input.container_id, input.node)?,
        resources: resources::plan_resources(&input.config.resources, input.node)?,
        device_rules: devices.rules.clone(),
    })
}
