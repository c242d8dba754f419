//! What is written to v1's files.

use super::{Current, LimitError, Limits, Setting, or_max};

/// What v1 shows for "no limit" of memory is near to 2⁶³; it takes -1.
const NO_LIMIT: &str = "-1";

/// The writes, in an order in which each of them is acceptable to the kernel.
pub(crate) fn settings(limits: &Limits, current: &Current) -> Result<Vec<Setting>, LimitError> {
    limits.check()?;
    let mut out = Vec::new();
    if let Some(shares) = limits.cpu_shares {
        out.push(Setting::new("cpu", "cpu.shares", shares.clamp(2, 262_144)));
    }
    bandwidth(limits, current, &mut out);
    if let Some(cpus) = &limits.cpuset_cpus {
        out.push(Setting::new("cpuset", "cpuset.cpus", cpus));
    }
    if let Some(mems) = &limits.cpuset_mems {
        out.push(Setting::new("cpuset", "cpuset.mems", mems));
    }
    memory(limits, current, &mut out);
    if let Some(pids) = limits.pids_limit {
        out.push(Setting::new("pids", "pids.max", or_max(pids, "max")));
    }
    for limit in &limits.hugepage_limits {
        // The kubelet sends a zero for every page size of the node, also to hosts that do not have
        // the controller mounted; containerd and CRI-O pass over it there, too.
        let harmless = limit.limit_bytes == 0;
        let file = format!("hugetlb.{}.limit_in_bytes", limit.page_size);
        out.push(Setting::new("hugetlb", file, limit.limit_bytes).harmless_if_absent(harmless));
        let reserved = format!("hugetlb.{}.rsvd.limit_in_bytes", limit.page_size);
        out.push(Setting::new("hugetlb", reserved, limit.limit_bytes).harmless_if_absent(true));
    }
    Ok(out)
}

/// The kernel refuses a quota/period ratio over the parent's, so the half-way state must not be
/// larger than both ends: of the two orders the one with the smaller half-way ratio is taken.
fn bandwidth(limits: &Limits, current: &Current, out: &mut Vec<Setting>) {
    let quota = limits.cpu_quota_us.map(|q| Setting::new("cpu", "cpu.cfs_quota_us", or_max(q, NO_LIMIT)));
    let period = limits.cpu_period_us.map(|p| Setting::new("cpu", "cpu.cfs_period_us", p));
    let old_period = u128::from(current.cpu_period_us.unwrap_or(100_000));
    let new_period = u128::from(limits.cpu_period_us.unwrap_or(100_000));
    let old_quota = current.cpu_quota_us.map_or(u128::from(u64::MAX), u128::from);
    let new_quota =
        limits.cpu_quota_us.and_then(|q| u64::try_from(q).ok()).map_or(u128::from(u64::MAX), u128::from);
    // old_quota / new_period <= new_quota / old_period
    let period_first = old_quota.saturating_mul(old_period) <= new_quota.saturating_mul(new_period);
    if period_first {
        out.extend(period.into_iter().chain(quota));
    } else {
        out.extend(quota.into_iter().chain(period));
    }
}

/// `memory.memsw` must never be below `memory`: whichever makes room goes first.
fn memory(limits: &Limits, current: &Current, out: &mut Vec<Setting>) {
    let memory = limits
        .memory_limit_bytes
        .map(|m| Setting::new("memory", "memory.limit_in_bytes", or_max(m, NO_LIMIT)));
    let swap_limit = match (limits.memory_limit_bytes, limits.memory_swap_limit_bytes) {
        // No limit of memory is none of both, or the kernel refuses the first.
        (Some(-1), None) if current.memory_swap_limit_bytes.is_some() => Some(-1),
        (_, swap) => swap,
    };
    let swap = swap_limit.map(|s| {
        // Without swap accounting there is no such file, and also no swap that would count here.
        let harmless = s == -1 || limits.memory_limit_bytes == Some(s);
        Setting::new("memory", "memory.memsw.limit_in_bytes", or_max(s, NO_LIMIT))
            .harmless_if_absent(harmless)
    });
    let new_memory = limits.memory_limit_bytes.map_or(0, |m| u64::try_from(m).unwrap_or(u64::MAX));
    let swap_first = new_memory > current.memory_swap_limit_bytes.unwrap_or(u64::MAX)
        || (limits.memory_limit_bytes == Some(-1) && swap_limit == Some(-1));
    if swap_first {
        out.extend(swap.into_iter().chain(memory));
    } else {
        out.extend(memory.into_iter().chain(swap));
    }
}
