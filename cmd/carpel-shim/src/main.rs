//! Supervises one pod: makes its containers, reaps them, writes their logs.
//!
//! `carpel-shim --pod-dir DIR`, with the listening socket as file descriptor 3; or `carpel-shim --hold`, see
//! [`carpel_shim::hold`].
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

/// sysexits.h, `EX_USAGE`.
const USAGE_STATUS: u8 = 64;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let dir = match (args.next(), args.next(), args.next()) {
        (Some(flag), Some(dir), None) if flag == "--pod-dir" => dir,
        (Some(flag), None, None) if flag == "--hold" => {
            carpel_shim::hold();
            return ExitCode::SUCCESS;
        }
        _ => return usage(),
    };
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
    complain("usage: carpel-shim --pod-dir DIR, with a listening socket as file descriptor 3, or --hold");
    ExitCode::from(USAGE_STATUS)
}

#[allow(clippy::print_stderr)] // A program's own last word, to the descriptor that the daemon gave it.
fn complain(text: &str) {
    eprintln!("carpel-shim: {text}");
}
