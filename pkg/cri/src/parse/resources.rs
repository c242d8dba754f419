//! `LinuxContainerResources`: zero and empty mean "not given", except where noted.

use carpel_proto::v1;
use carpel_spec::config::Resources;

use super::{Invalid, invalid, line};

/// The limits of a container or of a pod's sum.
///
/// An `oom_score_adj` of zero is a value like any other: the kubelet sends it for guaranteed system pods.
pub(crate) fn resources(from: &v1::LinuxContainerResources, field: &str) -> Result<Resources, Invalid> {
    let non_negative = |value: i64, name: &str| {
        u64::try_from(value)
            .map(|value| Some(value).filter(|&value| value != 0))
            .map_err(|_| invalid(format!("{field}.{name}"), format!("{value} is negative")))
    };
    let or_unlimited = |value: i64, name: &str| match value {
        0 => Ok(None),
        -1.. => Ok(Some(value)),
        _ => Err(invalid(format!("{field}.{name}"), format!("{value} is below -1"))),
    };
    let text = |value: &str, name: &str| {
        let value = line(value, &format!("{field}.{name}"))?;
        Ok(Some(value).filter(|value| !value.is_empty()))
    };
    let oom_score_adj = i32::try_from(from.oom_score_adj)
        .ok()
        .filter(|value| (-1000..=1000).contains(value))
        .ok_or_else(|| {
            invalid(format!("{field}.oom_score_adj"), format!("{} is not in -1000..1000", from.oom_score_adj))
        })?;
    let mut hugepage_limits = Vec::with_capacity(from.hugepage_limits.len());
    for limit in &from.hugepage_limits {
        hugepage_limits.push((line(&limit.page_size, &format!("{field}.hugepage_limits"))?, limit.limit));
    }
    let mut unified = std::collections::BTreeMap::new();
    for (key, value) in &from.unified {
        let name = format!("{field}.unified");
        unified.insert(line(key, &name)?, line(value, &name)?);
    }
    Ok(Resources {
        cpu_period_us: non_negative(from.cpu_period, "cpu_period")?,
        cpu_quota_us: or_unlimited(from.cpu_quota, "cpu_quota")?,
        cpu_shares: non_negative(from.cpu_shares, "cpu_shares")?,
        memory_limit_bytes: or_unlimited(from.memory_limit_in_bytes, "memory_limit_in_bytes")?,
        memory_swap_limit_bytes: or_unlimited(from.memory_swap_limit_in_bytes, "memory_swap_limit_in_bytes")?,
        oom_score_adj: Some(oom_score_adj),
        cpuset_cpus: text(&from.cpuset_cpus, "cpuset_cpus")?,
        cpuset_mems: text(&from.cpuset_mems, "cpuset_mems")?,
        hugepage_limits,
        unified,
    })
}
