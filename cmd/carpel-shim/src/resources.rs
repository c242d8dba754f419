//! The plan's words for cgroups as those of the cgroup room.

use carpel_cgroups::{Access, CgroupPath, DeviceKind, DeviceRule, HugepageLimit, Limits, PathError};
use carpel_shim_api::plan::{self, CgroupPlan, Resources};
use thiserror::Error;

/// Why a plan's cgroup makes no sense.
#[derive(Debug, Error)]
pub(crate) enum ResourcesError {
    #[error("the container's cgroup")]
    Path(#[source] PathError),
    #[error("device rule {0} is of kind {1}: neither a, b nor c")]
    DeviceKind(usize, u32),
}

pub(crate) fn cgroup_path(plan: &CgroupPlan) -> Result<CgroupPath, ResourcesError> {
    CgroupPath::parse(&plan.path).map_err(ResourcesError::Path)
}

pub(crate) fn limits(resources: &Resources) -> Limits {
    let hugepage_limits = resources.hugepage_limits.iter();
    Limits {
        cpu_shares: resources.cpu_shares,
        cpu_quota_us: resources.cpu_quota_us,
        cpu_period_us: resources.cpu_period_us,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        memory_limit_bytes: resources.memory_limit_bytes,
        memory_swap_limit_bytes: resources.memory_swap_limit_bytes,
        pids_limit: resources.pids_limit,
        hugepage_limits: hugepage_limits
            .map(|l| HugepageLimit { page_size: l.page_size.clone(), limit_bytes: l.limit_bytes })
            .collect(),
        unified: resources.unified.iter().map(|s| (s.key.clone(), s.value.clone())).collect(),
    }
}

pub(crate) fn device_rules(rules: &[plan::DeviceRule]) -> Result<Vec<DeviceRule>, ResourcesError> {
    let convert = |(number, rule): (usize, &plan::DeviceRule)| {
        let kind = match char::from_u32(rule.kind) {
            Some('a') => DeviceKind::All,
            Some('b') => DeviceKind::Block,
            Some('c') => DeviceKind::Char,
            _ => return Err(ResourcesError::DeviceKind(number, rule.kind)),
        };
        Ok(DeviceRule {
            allow: rule.allow,
            kind,
            major: rule.major,
            minor: rule.minor,
            access: Access::none().with_mknod(rule.mknod).with_read(rule.read).with_write(rule.write),
        })
    };
    rules.iter().enumerate().map(convert).collect()
}
