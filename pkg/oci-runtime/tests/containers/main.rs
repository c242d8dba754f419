//! Real containers in real namespaces, from a busybox root. Needs root and a static busybox.
//!
//! Each case runs in a child process that plays the shim and ends with the case; what it leaves
//! behind is looked for afterwards. Arguments select cases by a part of their names.

mod attacks;
mod dirty;
mod exec;
mod features;
mod harness;
mod isolation;
mod pods;
mod userns;
mod volumes;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut cases = Vec::new();
    cases.extend_from_slice(features::CASES);
    cases.extend_from_slice(isolation::CASES);
    cases.extend_from_slice(pods::CASES);
    cases.extend_from_slice(exec::CASES);
    cases.extend_from_slice(attacks::CASES);
    cases.extend_from_slice(dirty::CASES);
    cases.extend_from_slice(volumes::CASES);
    cases.extend_from_slice(userns::CASES);
    harness::run_all(&cases)
}
