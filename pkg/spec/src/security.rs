//! What keeps a container in: capabilities, seccomp, AppArmor, hidden paths.

use carpel_shim_api::plan::Capabilities;

use crate::config::{ContainerSecurity, SecurityProfile};
use crate::error::PlanError;
use crate::input::{AppArmor, ContainerInput, NodeFacts, SeccompInput};
use crate::seccomp::{self, BpfProgram, Profile};
use crate::{capability, path};

/// The most masked or read-only paths.
const PATHS_MAX: usize = 1024;

/// Side channels that are hidden beside what the kubelet lists: energy counters
/// (GHSA-7ww5-4wqc-m92c) and interrupt counts.
const MASKED_ALWAYS: [&str; 2] = ["/proc/interrupts", "/sys/devices/virtual/powercap"];

/// Which seccomp program a container needs: equal needs have equal programs, so this is the key to
/// cache them by (for `Localhost`, together with the file's content).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SeccompNeed {
    /// None.
    Unconfined,
    /// The built-in profile, for a container with these capabilities.
    Default {
        /// What is granted.
        capabilities: u64,
    },
    /// The profile in a file of the node, for a container with these capabilities.
    Localhost {
        /// The file.
        path: String,
        /// What is granted.
        capabilities: u64,
    },
}

/// Which seccomp program a container needs. A privileged container needs none, whatever it asks for.
///
/// # Errors
/// A capability is unknown.
pub fn seccomp_need(security: &ContainerSecurity, node: &NodeFacts) -> Result<SeccompNeed, PlanError> {
    if security.privileged {
        return Ok(SeccompNeed::Unconfined);
    }
    let capabilities = granted(security, node)?;
    Ok(match &security.seccomp {
        SecurityProfile::Unconfined => SeccompNeed::Unconfined,
        SecurityProfile::RuntimeDefault => SeccompNeed::Default { capabilities },
        SecurityProfile::Localhost(path) => SeccompNeed::Localhost { path: path.clone(), capabilities },
    })
}

/// Compiles what is needed; `None`: unconfined. `content` is that of the file of
/// [`SeccompNeed::Localhost`].
///
/// # Errors
/// The content is missing or is no profile, or the profile asks for what is not supported.
pub fn compile_seccomp(
    need: &SeccompNeed,
    content: Option<&[u8]>,
    node: &NodeFacts,
) -> Result<Option<BpfProgram>, PlanError> {
    let (path, capabilities, profile) = match need {
        SeccompNeed::Unconfined => return Ok(None),
        SeccompNeed::Default { capabilities } => {
            ("runtime/default", capabilities, seccomp::default_profile())
        }
        SeccompNeed::Localhost { path, capabilities } => {
            let content = content.ok_or_else(|| PlanError::SeccompMissing { path: path.clone() })?;
            let profile = Profile::parse(content)
                .map_err(|source| PlanError::SeccompProfile { path: path.clone(), source })?;
            (path.as_str(), capabilities, profile)
        }
    };
    let compiled = seccomp::compile(&profile, *capabilities, node.arch, node.kernel);
    compiled.map(Some).map_err(|source| PlanError::SeccompCompile { path: path.to_owned(), source })
}

/// The finished program of a container; `None`: unconfined.
pub(crate) fn seccomp(input: &ContainerInput<'_>) -> Result<Option<BpfProgram>, PlanError> {
    let need = seccomp_need(&input.config.security, input.node)?;
    match input.seccomp {
        SeccompInput::Compiled(_) if need == SeccompNeed::Unconfined => Ok(None),
        SeccompInput::Compiled(program) => Ok(Some(program.clone())),
        SeccompInput::BuiltIn => compile_seccomp(&need, None, input.node),
        SeccompInput::Localhost(content) => compile_seccomp(&need, Some(content), input.node),
    }
}

/// What the container is granted.
pub(crate) fn granted(security: &ContainerSecurity, node: &NodeFacts) -> Result<u64, PlanError> {
    let (add, drop) = (&security.add_capabilities, &security.drop_capabilities);
    let granted = capability::granted(node.default_capabilities, add, drop, node.daemon_capabilities)
        .map_err(|(action, source)| PlanError::Capability { action, source })?;
    Ok(if security.privileged { node.daemon_capabilities } else { granted })
}

/// Capability sets: inheritable and ambient are empty (CVE-2022-24769), so that an execve as another
/// user than root leaves nothing but what a file's own capabilities give.
pub(crate) fn capabilities(granted: u64) -> Capabilities {
    Capabilities { bounding: granted, effective: granted, permitted: granted, inheritable: 0, ambient: 0 }
}

/// The AppArmor profile to change to; empty: none. What was asked for by name is never left out, but
/// for a privileged container: that has none, whatever it asks for.
pub(crate) fn apparmor_profile(security: &ContainerSecurity, node: &NodeFacts) -> Result<String, PlanError> {
    if security.privileged {
        return Ok(String::new());
    }
    let (profile, loaded) = match (&security.apparmor, &node.apparmor) {
        (SecurityProfile::Unconfined, _)
        | (SecurityProfile::RuntimeDefault, AppArmor::Absent)
        | (SecurityProfile::RuntimeDefault, AppArmor::Enabled { default_profile: None, .. }) => {
            return Ok(String::new());
        }
        (SecurityProfile::Localhost(profile), AppArmor::Absent) => {
            return Err(PlanError::AppArmorAbsent { profile: profile.clone() });
        }
        (SecurityProfile::RuntimeDefault, AppArmor::Enabled { default_profile: Some(profile), loaded })
        | (SecurityProfile::Localhost(profile), AppArmor::Enabled { loaded, .. }) => (profile, loaded),
    };
    if !loaded.contains(profile) {
        return Err(PlanError::AppArmorNotLoaded { profile: profile.clone() });
    }
    Ok(profile.clone())
}

/// Hidden paths: those asked for and ours. None where nothing at all was asked for, which is how CRI
/// tells an unmasked `/proc` (`procMount: Unmasked`), and none for a privileged container.
pub(crate) fn masked_paths(security: &ContainerSecurity, node: &NodeFacts) -> Result<Vec<String>, PlanError> {
    let mut paths = cleaned("masked path", &security.masked_paths)?;
    if security.privileged || (paths.is_empty() && security.readonly_paths.is_empty()) {
        return Ok(Vec::new());
    }
    let thermal = (0..node.thermal_throttle_cpus)
        .map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"));
    for path in MASKED_ALWAYS.map(str::to_owned).into_iter().chain(thermal) {
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Paths that cannot be written to; none for a privileged container.
pub(crate) fn readonly_paths(security: &ContainerSecurity) -> Result<Vec<String>, PlanError> {
    let paths = cleaned("read-only path", &security.readonly_paths)?;
    Ok(if security.privileged { Vec::new() } else { paths })
}

fn cleaned(field: &'static str, asked: &[String]) -> Result<Vec<String>, PlanError> {
    if asked.len() > PATHS_MAX {
        return Err(PlanError::TooMany {
            what: "masked or read-only paths",
            count: asked.len(),
            max: PATHS_MAX,
        });
    }
    let mut paths = Vec::with_capacity(asked.len());
    for text in asked {
        let path = path::below_root(field, text)?;
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    Ok(paths)
}
