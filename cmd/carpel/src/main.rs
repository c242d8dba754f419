//! `carpel`: the operator's command. A client of CRI v1 on a unix socket, and the node's check-up.
//!
//! ```text
//!  cli ─► command/* ─► client ──► unix socket: CRI v1 of any runtime; carpel.v1.Operator where there is one
//!             │    ├─► follow ──► log files of containers, as the CRI writes them
//!             │    └─► stream ──► WebSocket: exec, attach, port-forward, with our own terminal
//!             └─► check/* ──────► this node: /proc, /sys, a network namespace of its own
//! ```
//!
//! It keeps nothing between two calls, and decides nothing that a runtime should: what the socket answers is
//! the truth. Standard output carries data only; everything said to a person goes to standard error.
#![forbid(unsafe_code)]
// clap shows these comments as help: their brackets are not links.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

mod age;
mod check;
mod cli;
mod client;
mod command;
mod failure;
mod follow;
mod image_names;
mod log_format;
mod output;
mod progress;
mod protojson;
mod resolve;
mod size;
mod stream;
mod table;
mod view;

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Parser;

use crate::cli::Cli;

/// What a task that is stuck in writing to a terminal may hold up the end of the program.
const LAST_WORDS: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    stream::restore_on_panic();
    let cli = Cli::parse();
    let code_of_failure = cli.command.code_of_failure();
    let outcome = runtime().and_then(|runtime| {
        let outcome = runtime.block_on(command::execute(cli));
        runtime.shutdown_timeout(LAST_WORDS);
        outcome
    });
    match outcome {
        Ok(code) => ExitCode::from(code),
        // Whoever read our output has enough of it, as `head` does.
        Err(error) if error.is::<output::Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            failure::report(&error);
            ExitCode::from(code_of_failure)
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}
