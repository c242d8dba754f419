//! Seccomp: profiles in, BPF programs out.
//!
//! ```text
//!   JSON ─▶ Profile ─┐
//!   default_profile ─┴─▶ compile(capabilities, arch, kernel) ─▶ BpfProgram ─▶ the shim loads it
//! ```
//!
//! A program is compiled once per profile, capability set and machine; the shim only loads bytes.
//! Nothing is loaded here, and nothing is looked up: names and numbers of system calls are in tables
//! of our own.

mod profile;

pub use profile::{
    Action, ArchMap, ArgRule, Condition, Operator, PROFILE_MAX_BYTES, Profile, ProfileError, SyscallRule,
};
mod arch;
mod argument;
mod bpf;
mod compile;
mod default;

pub use arch::Arch;
pub use bpf::{BpfProgram, Instruction};
pub use compile::{CompileError, compile};
pub use default::default_profile;

/// A kernel's version, as far as a profile may ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelVersion {
    /// `6` of 6.8.
    pub major: u32,
    /// `8` of 6.8.
    pub minor: u32,
}
