//! Limits: from CRI's numbers to the plan's, checked.

use std::collections::BTreeSet;

use carpel_shim_api::plan::{HugepageLimit, Resources, Sysctl};

use crate::config;
use crate::error::{PlanError, ResourceProblem};
use crate::input::{CgroupLayout, NodeFacts, SwapLimits};

/// cgroup v1 `cpu.shares`: kernel/sched/core.c `MIN_SHARES`, `MAX_SHARES`.
const CPU_SHARES_RANGE: (u64, u64) = (2, 262_144);
/// kernel/sched/core.c: a period lasts 1 ms to 1 s.
const CPU_PERIOD_RANGE_US: (u64, u64) = (1_000, 1_000_000);
/// kernel/sched/core.c: a quota is at least 1 ms.
const CPU_QUOTA_MIN_US: i64 = 1_000;
/// The most entries of `unified` and of huge page limits.
const ENTRIES_MAX: usize = 128;
/// The longest value of a `unified` file.
const UNIFIED_VALUE_MAX_BYTES: usize = 4096;
/// The longest name of a `unified` file: `NAME_MAX`.
const UNIFIED_KEY_MAX_BYTES: usize = 255;

/// Limits of a new container, or changed ones of an old. What is absent stays absent.
///
/// A memory limit without a swap limit also limits memory and swap together to the same number, as
/// containerd does: swap is something to be asked for.
///
/// # Errors
/// A number is out of the kernel's range, a list or page size is malformed, a `unified` name is not
/// that of a file in the cgroup's own folder, or `unified` is used without cgroup v2.
pub fn plan_resources(asked: &config::Resources, node: &NodeFacts) -> Result<Resources, PlanError> {
    check_cpu(asked)?;
    let memory_swap_limit_bytes = swap_limit(asked, node)?;
    Ok(Resources {
        cpu_shares: asked.cpu_shares.map(|shares| shares.clamp(CPU_SHARES_RANGE.0, CPU_SHARES_RANGE.1)),
        cpu_quota_us: asked.cpu_quota_us,
        cpu_period_us: asked.cpu_period_us,
        cpuset_cpus: cpuset("cpuset_cpus", asked.cpuset_cpus.as_deref())?,
        cpuset_mems: cpuset("cpuset_mems", asked.cpuset_mems.as_deref())?,
        memory_limit_bytes: asked.memory_limit_bytes,
        memory_swap_limit_bytes,
        pids_limit: None,
        hugepage_limits: hugepages(&asked.hugepage_limits)?,
        unified: unified(asked, node)?,
    })
}

/// A container's `oom_score_adj`, checked.
pub(crate) fn oom_score_adj(asked: &config::Resources) -> Result<Option<i32>, PlanError> {
    match asked.oom_score_adj {
        Some(score) if !(-1000..=1000).contains(&score) => Err(range("oom_score_adj", score)),
        score => Ok(score),
    }
}

fn range(field: &'static str, value: impl ToString) -> PlanError {
    PlanError::Resource { field, value: value.to_string(), problem: ResourceProblem::Range }
}

fn check_cpu(asked: &config::Resources) -> Result<(), PlanError> {
    let period_fits = |period: u64| (CPU_PERIOD_RANGE_US.0..=CPU_PERIOD_RANGE_US.1).contains(&period);
    match (asked.cpu_period_us, asked.cpu_quota_us) {
        (Some(period), _) if !period_fits(period) => Err(range("cpu_period", period)),
        (_, Some(quota)) if quota != -1 && quota < CPU_QUOTA_MIN_US => Err(range("cpu_quota", quota)),
        (_, _) => Ok(()),
    }
}

/// Memory and swap together. 0 cannot be told from "not given" on CRI's wire.
fn swap_limit(asked: &config::Resources, node: &NodeFacts) -> Result<Option<i64>, PlanError> {
    const FIELD: &str = "memory_swap_limit_in_bytes";
    for (field, limit) in
        [("memory_limit_in_bytes", asked.memory_limit_bytes), (FIELD, asked.memory_swap_limit_bytes)]
    {
        if let Some(limit) = limit.filter(|limit| *limit < -1) {
            return Err(range(field, limit));
        }
    }
    if let (Some(memory), Some(both)) = (asked.memory_limit_bytes, asked.memory_swap_limit_bytes)
        && both != -1
        && (memory == -1 || both < memory)
    {
        let problem = ResourceProblem::SwapBelowMemory;
        return Err(PlanError::Resource { field: FIELD, value: both.to_string(), problem });
    }
    match node.swap_limits {
        SwapLimits::Present => Ok(asked.memory_swap_limit_bytes.or(asked.memory_limit_bytes)),
        SwapLimits::Absent => Ok(None),
    }
}

/// The kernel's list format, cpuset(7): numbers and ranges between commas.
fn cpuset(field: &'static str, list: Option<&str>) -> Result<Option<String>, PlanError> {
    let Some(list) = list.filter(|list| !list.is_empty()) else { return Ok(None) };
    let number = |text: &str| -> Option<u32> {
        let plain = (1..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        if plain { text.parse().ok() } else { None }
    };
    let entry = |text: &str| match text.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
        None => number(text).is_some(),
    };
    if list.len() <= UNIFIED_VALUE_MAX_BYTES && list.split(',').all(entry) {
        return Ok(Some(list.to_owned()));
    }
    Err(PlanError::Resource { field, value: list.to_owned(), problem: ResourceProblem::List })
}

fn hugepages(asked: &[(String, u64)]) -> Result<Vec<HugepageLimit>, PlanError> {
    too_many("huge page limits", asked.len())?;
    let mut seen = BTreeSet::new();
    let mut limits = Vec::with_capacity(asked.len());
    for (size, limit_bytes) in asked {
        let problem =
            |problem| PlanError::Resource { field: "hugepage_limits", value: size.clone(), problem };
        let digits = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit));
        let number = |digits: &str| {
            (1..=10).contains(&digits.len())
                && !digits.starts_with('0')
                && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !digits.is_some_and(number) {
            return Err(problem(ResourceProblem::PageSize));
        }
        if !seen.insert(size) {
            return Err(problem(ResourceProblem::Duplicate));
        }
        limits.push(HugepageLimit { page_size: size.clone(), limit_bytes: *limit_bytes });
    }
    Ok(limits)
}

/// Files of the cgroup's own folder only (GHSA-5g49-rx9x-qfc6): `controller.setting`, no separators.
fn unified(asked: &config::Resources, node: &NodeFacts) -> Result<Vec<Sysctl>, PlanError> {
    if asked.unified.is_empty() {
        return Ok(Vec::new());
    }
    if node.cgroup != CgroupLayout::V2 {
        return Err(PlanError::UnifiedWithoutV2);
    }
    too_many("unified cgroup settings", asked.unified.len())?;
    let mut files = Vec::with_capacity(asked.unified.len());
    for (key, value) in &asked.unified {
        let problem = |problem| PlanError::Resource { field: "unified", value: key.clone(), problem };
        if !is_cgroup_file(key) {
            return Err(problem(ResourceProblem::UnifiedKey));
        }
        let text = |c: char| c == '\n' || c == '\t' || !c.is_control();
        if value.len() > UNIFIED_VALUE_MAX_BYTES || !value.chars().all(text) {
            return Err(problem(ResourceProblem::UnifiedValue));
        }
        files.push(Sysctl { key: key.clone(), value: value.clone() });
    }
    Ok(files)
}

/// `memory.high`, `hugetlb.2MB.max`; not `cgroup.procs` and its like, which are no limits.
fn is_cgroup_file(key: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let limit = !key.starts_with("cgroup.") || matches!(key, "cgroup.max.depth" | "cgroup.max.descendants");
    key.len() <= UNIFIED_KEY_MAX_BYTES && key.contains('.') && key.split('.').all(part) && limit
}

fn too_many(what: &'static str, count: usize) -> Result<(), PlanError> {
    if count > ENTRIES_MAX {
        return Err(PlanError::TooMany { what, count, max: ENTRIES_MAX });
    }
    Ok(())
}
