//! From a profile to a program.

use super::{Arch, BpfProgram, KernelVersion, Profile};

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// Nobody would answer.
    #[error("SCMP_ACT_NOTIFY is not supported: there is no program to notify")]
    Notify,
}

/// Compiles a profile.
pub fn compile(
    _profile: &Profile,
    _capabilities: u64,
    _arch: Arch,
    _kernel: KernelVersion,
) -> Result<BpfProgram, CompileError> {
    Err(CompileError::Notify)
}
