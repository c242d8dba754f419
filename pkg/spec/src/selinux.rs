//! SELinux labels of containers and of what is mounted for them.
//!
//! ```text
//!   part    of processes: whoever says so first                        of files
//!   user    container · pod · policy                                   as the processes', else the policy's
//!   role    container · pod · policy                                   the policy's
//!   type    container · pod · policy (privileged: spc_t)               the policy's
//!   level   container · pod · chosen for the pod (privileged: none)    container · pod · chosen for the pod
//! ```
//!
//! So containers of a pod share their categories and no two pods do. Sharing a namespace of the host changes
//! nothing, as with containerd: who needs to see the host's processes asks for a type that may.

use crate::config::{SandboxConfig, SelinuxOption};
use crate::error::PlanError;
use crate::input::{ContainerInput, Selinux};

/// The longest part of a label, in bytes.
const PART_MAX_BYTES: usize = 255;
/// The largest number of a sensitivity or category: SELinux policies have 1024 categories.
const NUMBER_MAX: u16 = 1023;

/// Labels of a pod or container. An empty one is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    /// Of processes.
    pub process: String,
    /// Of files on what is mounted for it.
    pub mount: String,
}

/// Labels of what a pod's containers share. `level` is what was chosen for it.
///
/// # Errors
/// A part cannot be one, or a label was asked for where the policy has none for containers.
pub fn of_pod(config: &SandboxConfig, selinux: &Selinux, level: Option<&str>) -> Result<Labels, PlanError> {
    let asked = config.security.selinux.clone().unwrap_or_default();
    // What is the pod's own in here is no privileged process, whatever its containers may be.
    labels(&asked, selinux, level, false)
}

/// The level that a pod or container asks for; `None`: it has one that is chosen for it.
#[must_use]
pub fn asked_level(asked: Option<&SelinuxOption>) -> Option<&str> {
    asked.map(|asked| asked.level.as_str()).filter(|level| !level.is_empty())
}

/// A label without categories, which every container may use whatever its own: for files that are the pod's,
/// and are mounted into no other one.
#[must_use]
pub fn shared(label: &str) -> String {
    let mut parts: Vec<&str> = label.splitn(4, ':').collect();
    if let Some(level) = parts.get_mut(3) {
        *level = sensitivity(level);
    }
    parts.join(":")
}

/// The lowest sensitivity of a level: `s0` of `s0-s0:c0.c1023`.
#[must_use]
pub fn sensitivity(level: &str) -> &str {
    level.split([':', '-']).next().unwrap_or_default()
}

/// Labels of a container.
pub(crate) fn of_container(input: &ContainerInput<'_>) -> Result<Labels, PlanError> {
    let of_pod = input.sandbox.security.selinux.clone().unwrap_or_default();
    let own = input.config.security.selinux.clone().unwrap_or_default();
    check(&own)?;
    let asked = SelinuxOption {
        user: first(&own.user, &of_pod.user),
        role: first(&own.role, &of_pod.role),
        type_: first(&own.type_, &of_pod.type_),
        level: first(&own.level, &of_pod.level),
    };
    labels(&asked, &input.node.selinux, input.selinux_level, input.config.security.privileged)
}

fn labels(
    asked: &SelinuxOption,
    selinux: &Selinux,
    of_pod: Option<&str>,
    is_privileged: bool,
) -> Result<Labels, PlanError> {
    check(asked)?;
    let is_asked = *asked != SelinuxOption::default();
    let contexts = match selinux {
        // A label means nothing to such a kernel, and is passed over as Kubernetes documents it.
        Selinux::Absent => return Ok(Labels::default()),
        Selinux::WithoutContainers if is_asked => return Err(PlanError::SelinuxWithoutContainers),
        Selinux::WithoutContainers => return Ok(Labels::default()),
        Selinux::Enabled(contexts) => contexts,
    };
    let with_level = |default: &SelinuxOption| {
        let level = of_pod.filter(|_| !default.level.is_empty()).unwrap_or(&default.level);
        SelinuxOption { level: level.to_owned(), ..default.clone() }
    };
    let process = match (is_privileged, &contexts.privileged) {
        (true, Some(privileged)) => joined(asked, privileged),
        (true, None) if !is_asked => String::new(),
        (true, None) | (false, _) => joined(asked, &with_level(&contexts.process)),
    };
    let asked_of_files = SelinuxOption { role: String::new(), type_: String::new(), ..asked.clone() };
    Ok(Labels { process, mount: joined(&asked_of_files, &with_level(&contexts.file)) })
}

fn first(one: &str, other: &str) -> String {
    if one.is_empty() { other.to_owned() } else { one.to_owned() }
}

fn joined(asked: &SelinuxOption, default: &SelinuxOption) -> String {
    let parts = [
        first(&asked.user, &default.user),
        first(&asked.role, &default.role),
        first(&asked.type_, &default.type_),
        first(&asked.level, &default.level),
    ];
    // A policy without levels has labels of three parts.
    let count = if parts[3].is_empty() { 3 } else { 4 };
    parts[..count].join(":")
}

fn check(label: &SelinuxOption) -> Result<(), PlanError> {
    let word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    for (part, value, ok) in [
        ("user", &label.user, word(&label.user)),
        ("role", &label.role, word(&label.role)),
        ("type", &label.type_, word(&label.type_)),
        ("level", &label.level, label.level.is_empty() || is_range(&label.level)),
    ] {
        if !ok || value.len() > PART_MAX_BYTES {
            return Err(PlanError::SelinuxPart { part, value: value.clone() });
        }
    }
    Ok(())
}

/// `s0`, `s0:c1,c2`, `s0-s0:c0.c1023`. The policy may say less; it never says more.
fn is_range(text: &str) -> bool {
    let (low, high) = text.split_once('-').map_or((text, None), |(low, high)| (low, Some(high)));
    is_level(low) && high.is_none_or(is_level)
}

fn is_level(text: &str) -> bool {
    let number = |text: &str, letter: char| -> Option<u16> {
        let digits = text.strip_prefix(letter).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
        digits.parse().ok().filter(|number| *number <= NUMBER_MAX)
    };
    let (sensitivity, categories) = text.split_once(':').map_or((text, None), |(s, c)| (s, Some(c)));
    let is_category = |text: &str| match text.split_once('.') {
        None => number(text, 'c').is_some(),
        Some((from, to)) => {
            matches!((number(from, 'c'), number(to, 'c')), (Some(from), Some(to)) if from <= to)
        }
    };
    number(sensitivity, 's').is_some() && categories.is_none_or(|list| list.split(',').all(is_category))
}
