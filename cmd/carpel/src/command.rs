//! One file per command: its arguments, its help, its flow.

pub(crate) mod attach;
pub(crate) mod check;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod logs;
pub(crate) mod pods;
pub(crate) mod port_forward;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;

use crate::{
    cli::{Cli, Command},
    client::Client,
};

/// What this program itself refuses, although the runtime might do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("container {0} is running")]
    ContainerRuns(String),
    #[error("pod {0} has running containers")]
    PodRuns(String),
    #[error("image {image:?} is used by {users} containers")]
    ImageUsed { image: String, users: usize },
    #[error("there is no image {0:?} on this node")]
    NoImage(String),
    #[error("nothing is named that could be removed")]
    NothingNamed,
    #[error("there is a pod {0:?} already")]
    NameTaken(String),
}

impl Refused {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::ContainerRuns(_) | Self::PodRuns(_) => "stop it first, or remove it by force with -f",
            Self::ImageUsed { .. } => "remove the containers first, or use -f",
            Self::NoImage(_) => "`carpel images` shows what there is, `carpel pull` fetches one",
            Self::NothingNamed => "name pods or containers, or say --all",
            Self::NameTaken(_) => "choose another --name, or remove that pod with `carpel rm`",
        };
        Some(hint.to_owned())
    }
}

/// Carries out a command line. The number is the exit code.
pub(crate) async fn execute(cli: Cli) -> anyhow::Result<u8> {
    let format = cli.global.output;
    // The node's check-up is for nodes on which nothing runs yet.
    if let Command::Check(args) = cli.command {
        return check::execute(&args, format).await;
    }
    let client = Client::connect(&cli.global.address).await?;
    match cli.command {
        Command::Run(args) => run::execute(&client, *args, format).await,
        Command::Pods(args) => pods::execute(&client, &args, format).await,
        Command::Ps(args) => ps::execute(&client, &args, format).await,
        Command::Logs(args) => logs::execute(&client, &args).await,
        Command::Exec(args) => exec::execute(&client, args, format).await,
        Command::Attach(args) => attach::execute(&client, args).await,
        Command::PortForward(args) => port_forward::execute(&client, &args).await,
        Command::Start(args) => start::execute(&client, &args).await,
        Command::Stop(args) => stop::execute(&client, &args).await,
        Command::Rm(args) => rm::execute(&client, &args).await,
        Command::Inspect(args) => inspect::execute(&client, &args).await,
        Command::Stats(args) => stats::execute(&client, &args, format).await,
        Command::Events(args) => events::execute(&client, &args, format).await,
        Command::Images(args) => images::execute(&client, &args, format).await,
        Command::Pull(args) => pull::execute(&client, &args, format).await,
        Command::Import(args) => import::execute(&client, &args, format).await,
        Command::Rmi(args) => rmi::execute(&client, &args).await,
        Command::Info(args) => info::execute(&client, &args, format).await,
        Command::Check(args) => check::execute(&args, format).await,
    }
}
