//! `carpel exec`.

mod sync;

use carpel_proto::v1::ExecRequest;

use crate::{
    cli::Format,
    client::{Client, ask},
    resolve::Census,
    stream::{
        self, DetachKeys, TlsArgs,
        session::{self, Ending, Local},
    },
};

/// Run a command in a running container
///
/// Its output comes as it is written, and its exit code is that of `carpel exec`. With -i the command reads our
/// standard input to its end; with -it it has our terminal: every key is its own, Ctrl-C too, and it hears of
/// the window's size. Without -t, Ctrl-C ends `carpel exec`, and the runtime is told that nobody listens any
/// more (Carpel's daemon then ends the command).
///
/// --sync asks for an answer at the end instead of a stream: the runtime ends the command when the time of
/// --timeout is up, and keeps some megabytes of its output at most. `-o json` is such an answer too.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel exec web nginx -t
  carpel exec -it web sh                    a shell, if the image has one; `exit` or Ctrl-D leaves it
  carpel exec web sh -c 'ps | wc -l'
  tar c site | carpel exec -i web tar x -C /srv
  carpel exec web tail -f /var/log/app.log  until Ctrl-C
  carpel exec --timeout 5 web/sidecar /bin/probe || echo \"failed with $?\"

The exit code is 124 if the time was up, 125 if the command could not be run at all, and 128 + n if signal n
ended `carpel exec` itself.")]
pub(crate) struct Args {
    /// Give the command our standard input
    #[arg(long, short, conflicts_with_all = ["sync", "timeout"])]
    interactive: bool,
    /// Give the command a terminal; with -i, ours
    #[arg(long, short, conflicts_with_all = ["sync", "timeout"])]
    tty: bool,
    /// Show the output when the command has ended; needs no streaming
    #[arg(long)]
    sync: bool,
    /// Kill the command after so many seconds; implies --sync
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Container, or pod with a single container
    container: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(crate) async fn execute(client: &Client, args: Args, format: Format) -> anyhow::Result<u8> {
    let census = Census::take(client).await?;
    let id = census.container(&args.container)?.id.clone();
    if args.sync || args.timeout.is_some() || format == Format::Json {
        anyhow::ensure!(!args.interactive && !args.tty, "a session of -i or -t cannot be shown as JSON");
        return sync::execute(client, id, args, format).await;
    }
    // No keys leave an exec: its command can be ended from inside, or by closing the terminal.
    let local = Local::of(args.interactive, args.tty, DetachKeys::none())?;
    let request = ExecRequest {
        container_id: id,
        cmd: args.command,
        tty: args.tty,
        stdin: args.interactive,
        stdout: true,
        stderr: !args.tty,
    };
    let what = format!("run the command in container {}", args.container);
    let answer = ask(what, client.runtime().exec(request)).await?;
    let channels = stream::open(client, &args.tls, &answer.url).await?;
    match session::run(channels, local).await? {
        Ending::Exited(code) => Ok(exit_code(code)),
        Ending::Detached => Ok(0),
        Ending::Signalled(number) => Ok(signal_code(number)),
    }
}

/// A container's exit code as our own; what does not fit is a failure too.
pub(crate) fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(255)
}

/// The exit code of a program that a signal ended, as shells count.
pub(crate) fn signal_code(number: i32) -> u8 {
    exit_code(128 + number)
}
