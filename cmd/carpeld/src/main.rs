//! `carpeld`: the Carpel daemon.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program may print")]

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use carpeld::{
    config::{Config, DEFAULT_TOML, Overrides},
    daemon, telemetry,
};
use clap::{Args, Parser, Subcommand};

/// The Carpel daemon: runs Kubernetes pods on this node and answers CRI v1 on a unix socket.
///
/// The kubelet finds it by `--container-runtime-endpoint unix:///run/carpel/carpel.sock`, `crictl` by
/// `--runtime-endpoint`. Pods outlive the daemon: it may be stopped, killed and upgraded at any time.
#[derive(Parser)]
#[command(name = "carpeld", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct RunArgs {
    /// Configuration file [default: /etc/carpel/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of durable state (images, records); beats `root` of the configuration
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Folder of volatile state (sockets), on tmpfs; beats `state`
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The CRI socket; beats `listen`
    #[arg(long, value_name = "SOCKET")]
    listen: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Take down what the built-in bridge left on the host (bridge, firewall table), with no pod running
    TeardownNetwork(RunArgs),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print every key with its default and what it means
    Default,
    /// Say whether the configuration is valid
    Check(RunArgs),
    /// Print the configuration in force: files, drop-ins and command line together
    Dump(RunArgs),
}

impl RunArgs {
    fn load(self) -> anyhow::Result<Config> {
        let overrides = Overrides { root: self.root, state: self.state, listen: self.listen };
        Ok(Config::load(self.config.as_deref(), &overrides)?)
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The alternate form prints the causes too.
            let text = format!("carpeld: {error:#}\n");
            let _unwritable = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Some(Command::Config(ConfigCommand::Default)) => print!("{DEFAULT_TOML}"),
        Some(Command::Config(ConfigCommand::Check(args))) => {
            args.load()?;
            println!("the configuration is valid");
        }
        Some(Command::Config(ConfigCommand::Dump(args))) => print!("{}", args.load()?.dump()?),
        Some(Command::TeardownNetwork(args)) => {
            runtime()?.block_on(daemon::teardown_network(&args.load()?))?
        }
        None => {
            let config = cli.run.load()?;
            runtime()?.block_on(async {
                let telemetry = telemetry::start(&config)?;
                let outcome = daemon::run(config, daemon::terminated()).await;
                telemetry.flush();
                outcome
            })?;
        }
    }
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    carpel_sys::heap::limit_arenas();
    carpel_sys::rlimit::raise_open_files().context("cannot raise the limit of open files")?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")
}
