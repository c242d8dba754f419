//! `carpel attach`.

use carpel_proto::v1::{AttachRequest, ContainerState};

use crate::{
    client::{Client, ask},
    command::{
        exec::{exit_code, signal_code},
        logs::container_status,
    },
    output,
    resolve::Census,
    stream::{
        self, DetachKeys, TlsArgs,
        session::{self, Ending, Local},
    },
};

/// Join the streams of a running container
///
/// What the container writes from now on is shown; with -i it reads our standard input (if it was made with
/// one: `carpel run -i`), with -it it has our terminal. A reader that does not keep up misses output; what was
/// written is in `carpel logs`. It ends when the container does, with the container's exit code.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel attach web                         watch; Ctrl-C leaves, the container goes on
  carpel run -d -i -t --name box busybox:1 sh && carpel attach -it box
  carpel attach -it --detach-keys ctrl-x,x box

Ctrl-p and then Ctrl-q leave a container attached to with -it; it goes on. The exit code is then 0, 125 if the
container could not be attached to, and 128 + n if signal n ended `carpel attach` itself.")]
pub(crate) struct Args {
    /// Give the container our standard input
    #[arg(long, short)]
    interactive: bool,
    /// The container has a terminal; with -i, give it ours
    #[arg(long, short)]
    tty: bool,
    /// Keys that leave it, with commas between them; empty: none do
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::DEFAULT)]
    detach_keys: DetachKeys,
    #[command(flatten)]
    tls: TlsArgs,
    /// Container, or pod with a single container
    container: String,
}

pub(crate) async fn execute(client: &Client, args: Args) -> anyhow::Result<u8> {
    let census = Census::take(client).await?;
    let id = census.container(&args.container)?.id.clone();
    let local = Local::of(args.interactive, args.tty, args.detach_keys)?;
    let request = AttachRequest {
        container_id: id.clone(),
        stdin: args.interactive,
        tty: args.tty,
        stdout: true,
        stderr: !args.tty,
    };
    let what = format!("attach to container {}", args.container);
    let answer = ask(what, client.runtime().attach(request)).await?;
    let channels = stream::open(client, &args.tls, &answer.url).await?;
    match session::run(channels, local).await? {
        // The session's own code says only that it went well; one that was left goes on, and so may the container.
        Ending::Exited(0) => match container_status(client, &id).await? {
            Some(status) if status.state() == ContainerState::ContainerExited => {
                Ok(exit_code(status.exit_code))
            }
            Some(_) | None => Ok(0),
        },
        Ending::Exited(code) => Ok(exit_code(code)),
        Ending::Detached => {
            output::say(&format!("left {}; it goes on", args.container));
            Ok(0)
        }
        Ending::Signalled(number) => Ok(signal_code(number)),
    }
}
