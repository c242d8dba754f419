//! The built-in profile.

use super::{Action, Profile};

/// The profile of `RuntimeDefault`.
pub fn default_profile() -> Profile {
    Profile {
        default_action: Action::Errno,
        default_errno_ret: None,
        architectures: Vec::new(),
        arch_map: Vec::new(),
        flags: Vec::new(),
        listener_path: None,
        syscalls: Vec::new(),
    }
}
