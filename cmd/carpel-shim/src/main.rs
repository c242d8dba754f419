//! Supervises one pod: makes its containers, reaps them, writes their logs.
//!
//! `carpel-shim --pod-dir DIR`, with the listening socket as file descriptor 3.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

/// sysexits.h, `EX_USAGE`.
const USAGE_STATUS: u8 = 64;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(flag), Some(dir), None) = (args.next(), args.next(), args.next()) else { return usage() };
    if flag != "--pod-dir" {
        return usage();
    }
    // It runs from a memory file, whose name is what `ps` and `top` would show. A failure spoils only that.
    let _shown_as_memfd = rustix::thread::set_name(c"carpel-shim");
    match carpel_shim::run(PathBuf::from(dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    complain("usage: carpel-shim --pod-dir DIR, with a listening socket as file descriptor 3");
    ExitCode::from(USAGE_STATUS)
}

#[allow(clippy::print_stderr)] // A program's own last word, to the descriptor that the daemon gave it.
fn complain(text: &str) {
    eprintln!("carpel-shim: {text}");
}
