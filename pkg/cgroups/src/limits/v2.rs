//! What is written to cgroup2's files.

use super::{Current, LimitError, Limits, Setting, or_max, weight_from_shares};

const NO_LIMIT: &str = "max";

/// The writes, in an order in which each of them is acceptable to the kernel.
pub(crate) fn settings(limits: &Limits, current: &Current) -> Result<Vec<Setting>, LimitError> {
    limits.check()?;
    let mut out = Vec::new();
    if let Some(shares) = limits.cpu_shares {
        out.push(Setting::new("cpu", "cpu.weight", weight_from_shares(shares)));
    }
    if let Some(value) = bandwidth(limits, current) {
        out.push(Setting::new("cpu", "cpu.max", value));
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        out.push(Setting::new("cpuset", "cpuset.cpus", cpus));
    }
    if let Some(mems) = &limits.cpuset_mems {
        out.push(Setting::new("cpuset", "cpuset.mems", mems));
    }
    // Swap first: it only shrinks what may be used beside memory, and needs no order otherwise.
    if let Some(swap) = swap(limits, current)? {
        let harmless = matches!(swap.as_str(), "0" | NO_LIMIT);
        out.push(Setting::new("memory", "memory.swap.max", swap).harmless_if_absent(harmless));
    }
    if let Some(memory) = limits.memory_limit_bytes {
        out.push(Setting::new("memory", "memory.max", or_max(memory, NO_LIMIT)));
    }
    if let Some(pids) = limits.pids_limit {
        out.push(Setting::new("pids", "pids.max", or_max(pids, NO_LIMIT)));
    }
    for limit in &limits.hugepage_limits {
        let harmless = limit.limit_bytes == 0; // as on v1
        let file = format!("hugetlb.{}.max", limit.page_size);
        out.push(Setting::new("hugetlb", file, limit.limit_bytes).harmless_if_absent(harmless));
        let reserved = format!("hugetlb.{}.rsvd.max", limit.page_size);
        out.push(Setting::new("hugetlb", reserved, limit.limit_bytes).harmless_if_absent(true));
    }
    Ok(out)
}

/// What is asked for by a file's name.
pub(crate) fn unified_settings(limits: &Limits) -> Vec<Setting> {
    let controller = |key: &str| key.split('.').next().unwrap_or_default().to_owned();
    limits.unified.iter().map(|(key, value)| Setting::new(&controller(key), key, value)).collect()
}

/// `cpu.max` is `<quota> <period>`; a quota alone keeps the period.
fn bandwidth(limits: &Limits, current: &Current) -> Option<String> {
    match (limits.cpu_quota_us, limits.cpu_period_us) {
        (None, None) => None,
        (Some(quota), None) => Some(or_max(quota, NO_LIMIT)),
        (Some(quota), Some(period)) => Some(format!("{} {period}", or_max(quota, NO_LIMIT))),
        (None, Some(period)) => {
            let quota = current.cpu_quota_us.map_or(NO_LIMIT.to_owned(), |q| q.to_string());
            Some(format!("{quota} {period}"))
        }
    }
}

/// cgroup2 limits swap by itself, the OCI field means both together. A memory limit that changes
/// alone leaves the swap limit as it is.
fn swap(limits: &Limits, current: &Current) -> Result<Option<String>, LimitError> {
    let Some(both) = limits.memory_swap_limit_bytes else { return Ok(None) };
    if both == -1 {
        return Ok(Some(NO_LIMIT.to_owned()));
    }
    let known = current.memory_limit_bytes.and_then(|m| i64::try_from(m).ok());
    let Some(memory) = limits.memory_limit_bytes.or(known) else {
        return Err(LimitError::SwapWithoutMemory(both));
    };
    if both < memory {
        return Err(LimitError::SwapBelowMemory { memory, swap: both });
    }
    Ok(Some((both - memory).to_string()))
}
