//! `carpel info`.

use std::collections::BTreeMap;

use carpel_proto::{
    operator,
    v1::{
        CgroupDriver, FilesystemUsage, ImageFsInfoRequest, RuntimeConfigRequest, StatusRequest,
        VersionRequest,
    },
};
use serde::Serialize;
use tonic::Code;

use crate::{
    age::{self, rfc3339},
    cli::Format,
    client::{CallError, Client, ask},
    output, size,
    table::Table,
};

/// Show the runtime: version, state, features, where it keeps things
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel info
  carpel info -o json | jq -e '.conditions | all(.status)'     is it ready?
  carpel --address /run/containerd/containerd.sock info        of another runtime")]
pub(crate) struct Args {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InfoView {
    runtime_name: String,
    runtime_version: String,
    cri_version: String,
    conditions: Vec<ConditionView>,
    /// `cgroupfs` or `systemd`; null if the runtime does not tell.
    cgroup_driver: Option<&'static str>,
    handlers: Vec<HandlerView>,
    image_filesystems: Vec<FilesystemView>,
    /// Of Carpel only.
    daemon: Option<DaemonView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConditionView {
    #[serde(rename = "type")]
    kind: String,
    status: bool,
    reason: String,
    message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HandlerView {
    name: String,
    features: BTreeMap<&'static str, bool>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FilesystemView {
    mountpoint: String,
    used_bytes: Option<u64>,
    inodes_used: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DaemonView {
    pid: u32,
    #[serde(skip)]
    started_at_ns: i64,
    started_at: Option<String>,
    root: String,
    state: String,
    shim: String,
    network: String,
    cgroup_mode: String,
}

pub(crate) async fn execute(client: &Client, _args: &Args, format: Format) -> anyhow::Result<u8> {
    let view = collect(client).await?;
    match format {
        Format::Table => output::print(view.text())?,
        Format::Json => output::print_json(&view)?,
    }
    Ok(0)
}

async fn collect(client: &Client) -> Result<InfoView, CallError> {
    let mut runtime = client.runtime();
    let version = ask("read the version", runtime.version(VersionRequest { version: "v1".into() })).await?;
    let status = ask("read the status", runtime.status(StatusRequest { verbose: false })).await?;
    let config =
        if_offered(ask("read the configuration", runtime.runtime_config(RuntimeConfigRequest {})).await)?;
    let usage = ask("read the use of disk", client.images().image_fs_info(ImageFsInfoRequest {})).await?;
    let daemon = if_offered(ask("read the daemon", client.operator().info(operator::InfoRequest {})).await)?;
    let conditions = status.status.unwrap_or_default().conditions.into_iter();
    let driver = config.and_then(|config| config.linux).map(|linux| match linux.cgroup_driver() {
        CgroupDriver::Systemd => "systemd",
        CgroupDriver::Cgroupfs => "cgroupfs",
    });
    Ok(InfoView {
        runtime_name: version.runtime_name,
        runtime_version: version.runtime_version,
        cri_version: version.runtime_api_version,
        conditions: conditions
            .map(|one| ConditionView {
                kind: one.r#type,
                status: one.status,
                reason: one.reason,
                message: one.message,
            })
            .collect(),
        cgroup_driver: driver,
        handlers: status.runtime_handlers.into_iter().map(handler).collect(),
        image_filesystems: usage.image_filesystems.into_iter().map(filesystem).collect(),
        daemon: daemon.map(|info| DaemonView {
            pid: info.pid,
            started_at_ns: info.started_at,
            started_at: rfc3339(info.started_at),
            root: info.root,
            state: info.state,
            shim: info.shim,
            network: info.network,
            cgroup_mode: info.cgroup_mode,
        }),
    })
}

/// Nothing where the runtime does not know the call.
fn if_offered<T>(answer: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match answer {
        Err(error) if error.code() == Code::Unimplemented => Ok(None),
        answer => answer.map(Some),
    }
}

fn handler(handler: carpel_proto::v1::RuntimeHandler) -> HandlerView {
    let features = handler.features.unwrap_or_default();
    HandlerView {
        name: handler.name,
        features: BTreeMap::from([
            ("recursiveReadOnlyMounts", features.recursive_read_only_mounts),
            ("userNamespaces", features.user_namespaces),
        ]),
    }
}

fn filesystem(usage: FilesystemUsage) -> FilesystemView {
    FilesystemView {
        mountpoint: usage.fs_id.unwrap_or_default().mountpoint,
        used_bytes: usage.used_bytes.map(|used| used.value),
        inodes_used: usage.inodes_used.map(|used| used.value),
    }
}

impl InfoView {
    fn text(&self) -> String {
        let mut table = Table::new(["RUNTIME", &format!("{} {}", self.runtime_name, self.runtime_version)]);
        let mut row = |key: &str, value: String| table.row([key.to_owned(), value]);
        row("CRI", self.cri_version.clone());
        for condition in &self.conditions {
            let state = if condition.status {
                "yes".to_owned()
            } else {
                format!("no: {} {}", condition.reason, condition.message)
            };
            row(&condition.kind, state);
        }
        row("Cgroup driver", self.cgroup_driver.unwrap_or("not told").to_owned());
        let handlers: Vec<&str> = self
            .handlers
            .iter()
            .map(|handler| handler.name.as_str())
            .filter(|name| !name.is_empty())
            .collect();
        row("Other handlers", handlers.join(", "));
        for usage in &self.image_filesystems {
            let used = usage.used_bytes.map_or("?".to_owned(), size::human);
            row("Images", format!("{used} in {}", usage.mountpoint));
        }
        if let Some(daemon) = &self.daemon {
            let running = age::span(age::since(daemon.started_at_ns, age::now_ns()));
            row("Daemon", format!("process {}, for {running}", daemon.pid));
            row("Root", daemon.root.clone());
            row("State", daemon.state.clone());
            row("Shim", daemon.shim.clone());
            row("Network", daemon.network.clone());
            row("Cgroups", daemon.cgroup_mode.clone());
        }
        table.render()
    }
}
