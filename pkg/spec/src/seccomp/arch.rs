//! Architectures, as the kernel tells them apart in `struct seccomp_data`.

/// An architecture that this crate can compile filters for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 64-bit x86. Also runs x86 and, if the kernel was built so, x32.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}
