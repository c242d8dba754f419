//! The JSON form of a profile: that of the OCI runtime specification (config-linux.md "Seccomp"), and
//! what Docker adds to it: `archMap`, `includes`, `excludes`, and `name` for a single system call.
//!
//! Fields that mean nothing to a filter (`comment`, `errno` beside `errnoRet`) are passed over.

use serde::{Deserialize, Serialize};

/// The largest profile that is read, in bytes.
pub const PROFILE_MAX_BYTES: usize = 1 << 20;
/// The most rules of a profile.
const RULES_MAX: usize = 4096;
/// The most system calls of a rule.
const NAMES_MAX: usize = 2048;
/// The most comparisons of a rule.
const COMPARISONS_MAX: usize = 12;
/// A system call has six arguments.
pub(crate) const ARGS_MAX: usize = 6;

/// Why a text is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Too long.
    #[error("it has {len} bytes, at most {PROFILE_MAX_BYTES} are read")]
    TooLarge {
        /// How long it is.
        len: usize,
    },
    /// Not JSON, or not of this form.
    #[error("parse it as JSON")]
    Json(#[source] serde_json::Error),
    /// Too many of something.
    #[error("it has {count} {what}, at most {max} are possible")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A rule without a system call.
    #[error("rule {index} names no system call")]
    NoNames {
        /// Which rule, from 0.
        index: usize,
    },
    /// A rule that compares an argument that does not exist.
    #[error("rule {index} compares argument {argument}, but a system call has arguments 0 to 5")]
    Argument {
        /// Which rule, from 0.
        index: usize,
        /// Which argument.
        argument: u32,
    },
    /// A kernel version that is none.
    #[error("rule {index}: minKernel {text:?} is not of the form 4.8")]
    MinKernel {
        /// Which rule, from 0.
        index: usize,
        /// As given.
        text: String,
    },
}

/// A seccomp profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// For system calls that no rule matches.
    pub default_action: Action,
    /// With `SCMP_ACT_ERRNO` and `SCMP_ACT_TRACE`: the number; absent: EPERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// `SCMP_ARCH_*` for which the rules hold beside the machine's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// Further architectures, by the machine's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arch_map: Vec<ArchMap>,
    /// `SECCOMP_FILTER_FLAG_*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Where a program listens for notifications. Not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_path: Option<String>,
    /// The rules. The first that matches decides.
    #[serde(default, deserialize_with = "null_is_default")]
    pub syscalls: Vec<SyscallRule>,
}

/// Which other architectures a machine of one architecture runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchMap {
    /// The machine's own.
    pub architecture: String,
    /// The others.
    #[serde(default, deserialize_with = "null_is_default")]
    pub sub_architectures: Vec<String>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyscallRule {
    /// System calls that it is about.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// One more of them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What happens.
    pub action: Action,
    /// With `SCMP_ACT_ERRNO` and `SCMP_ACT_TRACE`: the number; absent: EPERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// All must hold.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<ArgRule>,
    /// The rule counts only if all of this holds.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Condition::is_empty")]
    pub includes: Condition,
    /// The rule does not count if any of this holds.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Condition::is_empty")]
    pub excludes: Condition,
}

/// When a rule counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Capabilities of the container, with `CAP_`.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<String>,
    /// The machine's architecture, by Go's name: `amd64`, `arm64`, …
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub arches: Vec<String>,
    /// The oldest kernel: `4.8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_kernel: Option<String>,
}

impl Condition {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What happens to a system call. seccomp(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Action {
    /// The thread dies by SIGSYS.
    #[serde(rename = "SCMP_ACT_KILL_THREAD", alias = "SCMP_ACT_KILL")]
    KillThread,
    /// The process dies by SIGSYS.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    /// SIGSYS is sent.
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// It fails with a number.
    #[default]
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// A tracer is asked.
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    /// It is allowed, and logged.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    /// It is allowed.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    /// A program of the node is asked. Not supported.
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

/// A comparison of an argument, all of its 64 bits, unsigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArgRule {
    /// 0–5.
    pub index: u32,
    /// What it is compared with; the mask of `SCMP_CMP_MASKED_EQ`.
    #[serde(default)]
    pub value: u64,
    /// With `SCMP_CMP_MASKED_EQ`: what the masked argument is compared with.
    #[serde(default)]
    pub value_two: u64,
    /// How.
    pub op: Operator,
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// Argument ≠ value.
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    /// Argument < value.
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    /// Argument ≤ value.
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    /// Argument = value.
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    /// Argument ≥ value.
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    /// Argument > value.
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    /// Argument & value = second value.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

impl Profile {
    /// Reads a profile's file.
    ///
    /// # Errors
    /// The text is too long, is not JSON of this form, or has a rule that cannot be one.
    pub fn parse(content: &[u8]) -> Result<Self, ProfileError> {
        if content.len() > PROFILE_MAX_BYTES {
            return Err(ProfileError::TooLarge { len: content.len() });
        }
        let profile: Self = serde_json::from_slice(content).map_err(ProfileError::Json)?;
        profile.check()?;
        Ok(profile)
    }

    /// Whether all rules can be ones; a profile need not come from [`Profile::parse`].
    pub(super) fn check(&self) -> Result<(), ProfileError> {
        let rules = self.syscalls.len();
        if rules > RULES_MAX {
            return Err(ProfileError::TooMany { what: "rules", count: rules, max: RULES_MAX });
        }
        self.syscalls.iter().enumerate().try_for_each(|(index, rule)| check(index, rule))
    }
}

fn check(index: usize, rule: &SyscallRule) -> Result<(), ProfileError> {
    if rule.names.is_empty() && rule.name.is_empty() {
        return Err(ProfileError::NoNames { index });
    }
    for (what, count, max) in [
        ("system calls in a rule", rule.names.len(), NAMES_MAX),
        ("comparisons in a rule", rule.args.len(), COMPARISONS_MAX),
    ] {
        if count > max {
            return Err(ProfileError::TooMany { what, count, max });
        }
    }
    if let Some(arg) = rule.args.iter().find(|arg| arg.index as usize >= ARGS_MAX) {
        return Err(ProfileError::Argument { index, argument: arg.index });
    }
    for text in [&rule.includes.min_kernel, &rule.excludes.min_kernel].into_iter().flatten() {
        if min_kernel(text).is_none() {
            return Err(ProfileError::MinKernel { index, text: text.clone() });
        }
    }
    Ok(())
}

/// `4.8` as a version.
pub(crate) fn min_kernel(text: &str) -> Option<super::KernelVersion> {
    let number = |part: &str| -> Option<u32> {
        let plain = (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        if plain { part.parse().ok() } else { None }
    };
    let (major, minor) = text.split_once('.')?;
    Some(super::KernelVersion { major: number(major)?, minor: number(minor)? })
}

/// Go writes an absent list or struct as `null`.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
