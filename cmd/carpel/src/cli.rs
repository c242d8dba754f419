//! The command line as a whole; each command's own arguments stand in its file.

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::command::{
    attach, check, events, exec, images, import, info, inspect, logs, pods, port_forward, ps, pull, rm, rmi,
    run, start, stats, stop,
};

/// Where Carpel's daemon listens unless told otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "/run/carpel/carpel.sock";

const EXAMPLES: &str = "\
Pods and containers are named by their name, their id, or the beginning of their id, where that is
unambiguous. With `-o json` the field names are stable: programs may rely on them.

Examples:
  carpel run docker.io/library/alpine:3 echo hello    run a command in a pod and see what it says
  carpel run -d --name web -p 8080:80 nginx:1         run a server in the background
  carpel logs -f web                                  follow what it writes
  carpel exec -it web sh                              a shell beside it
  carpel rm -f web                                    stop and remove it
  carpel check                                        is this node fit to run pods?
  carpel --address /run/containerd/containerd.sock ps -a      the same of another runtime

Exit codes: 0 done, 1 failed, 2 bad usage. `run`, `exec` and `attach` end with the code of the command
they ran; their own failures are 125, and 124 says that an `exec` took too long.";

/// Runs and inspects pods through the container runtime of this node (CRI v1).
///
/// It speaks with Carpel, and as far as the calls are standard with containerd, CRI-O and every other CRI
/// runtime. On a Kubernetes node it shows the kubelet's pods too; the kubelet in turn stops pods it did not
/// ask for, those of `carpel run` among them.
#[derive(Debug, Parser)]
#[command(name = "carpel", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command knows.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The runtime's socket, with or without `unix://`
    #[arg(
        long,
        global = true,
        value_name = "SOCKET",
        env = "CARPEL_ADDRESS",
        default_value = DEFAULT_ADDRESS
    )]
    pub(crate) address: String,
    /// Tables for people or JSON for programs
    #[arg(long, short, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: Format,
}

/// The two readers of what we print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<run::Args>),
    Pods(pods::Args),
    Ps(ps::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Attach(attach::Args),
    PortForward(port_forward::Args),
    Start(start::Args),
    Stop(stop::Args),
    Rm(rm::Args),
    Inspect(inspect::Args),
    Stats(stats::Args),
    Events(events::Args),
    Images(images::Args),
    Pull(pull::Args),
    Import(import::Args),
    Rmi(rmi::Args),
    Info(info::Args),
    Check(check::Args),
}

impl Command {
    /// The exit code if the command itself fails. `run`, `exec` and `attach` must not be taken for what they ran, so
    /// theirs is the one that docker and podman use.
    pub(crate) fn code_of_failure(&self) -> u8 {
        match self {
            Self::Run(_) | Self::Exec(_) | Self::Attach(_) => 125,
            Self::Pods(_)
            | Self::Ps(_)
            | Self::Logs(_)
            | Self::PortForward(_)
            | Self::Start(_)
            | Self::Stop(_)
            | Self::Rm(_)
            | Self::Inspect(_)
            | Self::Stats(_)
            | Self::Events(_)
            | Self::Images(_)
            | Self::Pull(_)
            | Self::Import(_)
            | Self::Rmi(_)
            | Self::Info(_)
            | Self::Check(_) => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has no example", command.get_name());
            assert!(command.get_about().is_some(), "{} has no line of help", command.get_name());
        }
    }

    #[test]
    fn flags_after_the_image_are_the_commands_own() {
        let cli = Cli::try_parse_from(["carpel", "run", "--rm", "busybox", "ls", "-o", "--rm"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.image, "busybox");
        assert_eq!(run.command, ["ls", "-o", "--rm"]);
        assert_eq!(cli.global.output, Format::Table);
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in [["carpel", "-o", "json", "ps"], ["carpel", "ps", "-o", "json"]] {
            assert_eq!(Cli::try_parse_from(line).unwrap().global.output, Format::Json);
        }
    }
}
