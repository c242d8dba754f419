//! What the kernel is told about a process: LSM labels and the OOM score, through the host's procfs,
//! and its keys.

use carpel_shim_api::plan::ProcessPlan;
use carpel_sys::keyring::new_session;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

const APPARMOR: &str = "/proc/thread-self/attr/apparmor/exec";
/// Where it was before other modules could be stacked with AppArmor (Linux 5.8).
const APPARMOR_ALONE: &str = "/proc/thread-self/attr/exec";
const SELINUX: &str = "/proc/thread-self/attr/exec";
/// Of keys and keyrings that are made from then on; a kernel without keys has no such file.
const SELINUX_KEYS: &str = "/proc/thread-self/attr/keycreate";
const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// Why a process's security is not as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecurityError {
    #[error("change to AppArmor profile {profile:?} on exec")]
    AppArmor {
        profile: String,
        #[source]
        source: Errno,
    },
    #[error("change to SELinux label {label:?} on exec, and give it to keys")]
    Selinux {
        label: String,
        #[source]
        source: Errno,
    },
    #[error("set the out-of-memory score to {score}")]
    OomScore {
        score: i32,
        #[source]
        source: Errno,
    },
    #[error("make a session keyring")]
    Keyring(#[source] Errno),
}

/// Leaves the daemon's session keyring, which all containers would otherwise share. Where the kernel
/// has no keys, or whoever confines this host lets nobody have any (EPERM), there is nothing to share.
pub(crate) fn leave_keyring() -> Result<(), SecurityError> {
    match new_session() {
        Ok(()) | Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        Err(errno) => Err(SecurityError::Keyring(errno)),
    }
}

fn write(path: &str, text: &str) -> Result<(), Errno> {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes()).map(|_| ())
}

/// Asks for the labels. They take effect at execve, and are kept over all that comes before it; keys made
/// until then, the session keyring above all, have the coming label already.
pub(crate) fn label(plan: &ProcessPlan) -> Result<(), SecurityError> {
    if !plan.apparmor_profile.is_empty() {
        let text = format!("exec {}", plan.apparmor_profile);
        let written = match write(APPARMOR, &text) {
            Err(Errno::NOENT) if !std::path::Path::new(APPARMOR).exists() => write(APPARMOR_ALONE, &text),
            other => other,
        };
        written
            .map_err(|source| SecurityError::AppArmor { profile: plan.apparmor_profile.clone(), source })?;
    }
    if !plan.selinux_label.is_empty() {
        let written = write(SELINUX, &plan.selinux_label).and_then(|()| {
            match write(SELINUX_KEYS, &plan.selinux_label) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(errno),
            }
        });
        written.map_err(|source| SecurityError::Selinux { label: plan.selinux_label.clone(), source })?;
    }
    Ok(())
}

/// Sets the score. Going below what the shim was started with takes `CAP_SYS_RESOURCE`; without it
/// the process stays at the shim's, which is the lowest that can be had.
pub(crate) fn set_oom_score(plan: &ProcessPlan) -> Result<(), SecurityError> {
    let score = plan.oom_score_adj.unwrap_or(0);
    match write(OOM_SCORE_ADJ, &score.to_string()) {
        Ok(()) | Err(Errno::ACCESS) => Ok(()),
        Err(source) => Err(SecurityError::OomScore { score, source }),
    }
}
