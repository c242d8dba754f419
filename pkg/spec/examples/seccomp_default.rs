//! Writes the built-in seccomp profile's program for this machine to a file, as `struct sock_filter`s:
//! `cargo run -p carpel-spec --example seccomp_default FILE`.

use carpel_spec::capability::CONTAINERD_DEFAULT;
use carpel_spec::seccomp::{Arch, KernelVersion, compile, default_profile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args_os().nth(1).ok_or("usage: seccomp_default FILE")?;
    let arch = if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 };
    let kernel = KernelVersion { major: 5, minor: 14 };
    let program = compile(&default_profile(), CONTAINERD_DEFAULT, arch, kernel)?;
    std::fs::write(file, program.to_ne_bytes())?;
    Ok(())
}
