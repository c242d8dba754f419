//! Limits as they are asked for, and what has to be written for them.

mod v1;
mod v2;
mod weight;

use thiserror::Error;

pub(crate) use v1::settings as v1_settings;
pub(crate) use v2::{settings as v2_settings, unified_settings};
pub use weight::weight_from_shares;

/// The longest list of CPUs or memory nodes, in bytes.
const LIST_MAX_BYTES: usize = 4096;
/// The most `unified` entries and the most page sizes.
const ENTRIES_MAX: usize = 128;
/// The longest value of a `unified` entry, in bytes.
const VALUE_MAX_BYTES: usize = 4096;

/// Limits. An absent field is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// v1 `cpu.shares`, 2–262144; converted for v2's `cpu.weight`.
    pub cpu_shares: Option<u64>,
    /// Microseconds per period; -1: no limit.
    pub cpu_quota_us: Option<i64>,
    /// Microseconds.
    pub cpu_period_us: Option<u64>,
    /// List format, `0-3,8`.
    pub cpuset_cpus: Option<String>,
    /// List format.
    pub cpuset_mems: Option<String>,
    /// Bytes; -1: no limit.
    pub memory_limit_bytes: Option<i64>,
    /// Memory and swap together, bytes; -1: no limit.
    pub memory_swap_limit_bytes: Option<i64>,
    /// Processes and threads; -1: no limit.
    pub pids_limit: Option<i64>,
    /// Limits of huge pages.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// cgroup2 files and what to write to them. Never one of the core's (`cgroup.*`).
    pub unified: Vec<(String, String)>,
}

/// A limit of huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugepageLimit {
    /// As in the file's name: `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes.
    pub limit_bytes: u64,
}

/// Why limits make no sense.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LimitError {
    /// Neither -1 nor a size.
    #[error("{name} is {value}: neither a limit nor -1")]
    Negative {
        /// Which limit.
        name: &'static str,
        /// What was asked for.
        value: i64,
    },
    /// Memory and swap together below memory alone.
    #[error("a memory and swap limit of {swap} bytes is below the memory limit of {memory}")]
    SwapBelowMemory {
        /// Memory, bytes.
        memory: i64,
        /// Memory and swap, bytes.
        swap: i64,
    },
    /// Swap is limited where memory is not.
    #[error("a memory and swap limit of {0} bytes without a memory limit")]
    SwapWithoutMemory(i64),
    /// Not a list of numbers and ranges.
    #[error("{name} {value:?} is not a list of numbers and ranges")]
    List {
        /// Which list.
        name: &'static str,
        /// What was asked for.
        value: String,
    },
    /// Not a page size as in a file's name.
    #[error("{0:?} is not a huge page size")]
    PageSize(String),
    /// Not the name of a controller's file.
    #[error("{0:?} is not the name of a cgroup2 controller's file")]
    UnifiedKey(String),
    /// Has a control character, or is too long.
    #[error("the value of {0} is not a line of text of at most {VALUE_MAX_BYTES} bytes")]
    UnifiedValue(String),
    /// More entries than [`ENTRIES_MAX`].
    #[error("{0} entries of {1} are over the limit of {ENTRIES_MAX}")]
    TooMany(usize, &'static str),
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The controller whose hierarchy it goes to.
    pub(crate) controller: String,
    /// The file.
    pub(crate) file: String,
    /// What to write.
    pub(crate) value: String,
    /// What its absence means.
    pub(crate) absent: Absent,
}

/// What it means that a setting's file or controller is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    /// The limit cannot be kept: an error.
    Error,
    /// Nothing is lost: without it the kernel behaves as asked.
    Harmless,
}

/// The values in force that new ones depend on. Absent: no limit, or not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) memory_swap_limit_bytes: Option<u64>,
    pub(crate) cpu_quota_us: Option<u64>,
    pub(crate) cpu_period_us: Option<u64>,
}

impl Setting {
    fn new(controller: &str, file: impl Into<String>, value: impl ToString) -> Setting {
        Setting {
            controller: controller.to_owned(),
            file: file.into(),
            value: value.to_string(),
            absent: Absent::Error,
        }
    }

    fn harmless_if_absent(mut self, harmless: bool) -> Setting {
        if harmless {
            self.absent = Absent::Harmless;
        }
        self
    }
}

impl Limits {
    /// Checks everything that can be checked without a kernel.
    ///
    /// # Errors
    /// The first field that makes no sense.
    pub fn check(&self) -> Result<(), LimitError> {
        let signed = [
            ("the CPU quota", self.cpu_quota_us),
            ("the memory limit", self.memory_limit_bytes),
            ("the memory and swap limit", self.memory_swap_limit_bytes),
            ("the process limit", self.pids_limit),
        ];
        for (name, value) in signed {
            if let Some(value) = value.filter(|v| *v < -1) {
                return Err(LimitError::Negative { name, value });
            }
        }
        check_list("the CPU list", self.cpuset_cpus.as_deref())?;
        check_list("the memory node list", self.cpuset_mems.as_deref())?;
        if let (Some(memory), Some(swap)) = (self.memory_limit_bytes, self.memory_swap_limit_bytes)
            && swap != -1
        {
            if memory == -1 {
                return Err(LimitError::SwapWithoutMemory(swap));
            }
            if swap < memory {
                return Err(LimitError::SwapBelowMemory { memory, swap });
            }
        }
        self.check_entries()
    }

    fn check_entries(&self) -> Result<(), LimitError> {
        for (count, what) in
            [(self.hugepage_limits.len(), "huge page limits"), (self.unified.len(), "unified")]
        {
            if count > ENTRIES_MAX {
                return Err(LimitError::TooMany(count, what));
            }
        }
        for limit in &self.hugepage_limits {
            let size = limit.page_size.trim_end_matches(|c: char| c.is_ascii_uppercase());
            let unit = &limit.page_size[size.len()..];
            let plain = !size.is_empty() && size.len() < 16 && size.bytes().all(|b| b.is_ascii_digit());
            if !plain || !matches!(unit, "KB" | "MB" | "GB") {
                return Err(LimitError::PageSize(limit.page_size.clone()));
            }
        }
        for (key, value) in &self.unified {
            if !is_controller_file(key) {
                return Err(LimitError::UnifiedKey(key.clone()));
            }
            if value.is_empty() || value.len() > VALUE_MAX_BYTES || value.contains(char::is_control) {
                return Err(LimitError::UnifiedValue(key.clone()));
            }
        }
        Ok(())
    }
}

/// `<controller>.<file>`, and not the core's: `cgroup.kill` or `cgroup.procs` are no limits.
fn is_controller_file(key: &str) -> bool {
    let Some((controller, rest)) = key.split_once('.') else { return false };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    key.len() <= 128
        && controller != "cgroup"
        && !controller.is_empty()
        && controller.bytes().all(|b| b.is_ascii_lowercase())
        && !rest.is_empty()
        && rest.bytes().all(plain)
        && !key.contains("..")
}

fn check_list(name: &'static str, list: Option<&str>) -> Result<(), LimitError> {
    let Some(list) = list else { return Ok(()) };
    let number = |text: &str| !text.is_empty() && text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit());
    let range = |part: &str| match part.split_once('-') {
        Some((from, to)) => number(from) && number(to),
        None => number(part),
    };
    if list.len() <= LIST_MAX_BYTES && list.split(',').all(range) {
        return Ok(());
    }
    Err(LimitError::List { name, value: list.chars().take(LIST_MAX_BYTES).collect() })
}

/// -1 becomes the word for no limit.
fn or_max(value: i64, word: &str) -> String {
    if value < 0 { word.to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests;
