//! `carpel stats`.

use std::{collections::HashMap, time::Duration};

use carpel_proto::v1::{
    ContainerStats, CpuUsage, ListContainerStatsRequest, ListPodSandboxStatsRequest, MemoryUsage,
    PodSandboxStats,
};
use serde::Serialize;

use crate::{
    cli::Format,
    client::{CallError, Client, ask},
    output,
    resolve::Census,
    size,
    table::{Table, short_id},
};

/// Between two measurements of CPU time, where the runtime itself tells no rate.
const SAMPLE: Duration = Duration::from_secs(1);

/// Show what containers or pods use
///
/// CPU is in percent of one core. Memory is the working set: what counts when the kubelet evicts.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  carpel stats                 every running container
  carpel stats web             the containers of one pod, or one container
  carpel stats --pods          whole pods, with their network
  watch carpel stats           again and again")]
pub(crate) struct Args {
    /// Pods in place of containers
    #[arg(long)]
    pods: bool,
    /// Only these pods or containers
    targets: Vec<String>,
}

/// What a container or pod uses. CPU is in billionths of a core.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct UsageView {
    id: String,
    name: String,
    pod_name: String,
    cpu_nano_cores: Option<u64>,
    cpu_nanoseconds: Option<u64>,
    memory_working_set_bytes: Option<u64>,
    memory_usage_bytes: Option<u64>,
    /// Null without a limit.
    memory_limit_bytes: Option<u64>,
    /// Of a container.
    writable_layer_bytes: Option<u64>,
    /// Of a pod, of its primary interface; likewise the next two.
    rx_bytes: Option<u64>,
    tx_bytes: Option<u64>,
    processes: Option<u64>,
}

pub(crate) async fn execute(client: &Client, args: &Args, format: Format) -> anyhow::Result<u8> {
    let census = Census::take(client).await?;
    let mut wanted = Vec::new();
    for text in &args.targets {
        wanted.push(if args.pods {
            census.pod(text)?.id.clone()
        } else {
            census.target(text)?.id().to_owned()
        });
    }
    let mut usages = measure(client, &census, args.pods, &wanted).await?;
    if usages.iter().any(|usage| usage.cpu_nano_cores.is_none() && usage.cpu_nanoseconds.is_some()) {
        let before: HashMap<String, u64> =
            usages.iter().filter_map(|usage| Some((usage.id.clone(), usage.cpu_nanoseconds?))).collect();
        tokio::time::sleep(SAMPLE).await;
        usages = measure(client, &census, args.pods, &wanted).await?;
        for usage in &mut usages {
            let spent =
                usage.cpu_nanoseconds.zip(before.get(&usage.id)).map(|(now, then)| now.saturating_sub(*then));
            // The sample is a second long, so nanoseconds spent are billionths of a core.
            usage.cpu_nano_cores = usage.cpu_nano_cores.or(spent);
        }
    }
    match format {
        Format::Table => output::print(table(&usages, args.pods))?,
        Format::Json => output::print_json(&usages)?,
    }
    Ok(0)
}

async fn measure(
    client: &Client,
    census: &Census,
    pods: bool,
    wanted: &[String],
) -> Result<Vec<UsageView>, CallError> {
    let mut runtime = client.runtime();
    let mut usages: Vec<UsageView> = if pods {
        let call = runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest::default());
        let stats = ask("measure pods", call).await?.stats;
        stats
            .into_iter()
            .map(of_pod)
            .filter(|usage| wanted.is_empty() || wanted.contains(&usage.id))
            .collect()
    } else {
        let call = runtime.list_container_stats(ListContainerStatsRequest::default());
        let stats = ask("measure containers", call).await?.stats;
        let pod_of = |id: &str| {
            let container = census.containers.iter().find(|container| container.id == id);
            container.map_or("", |container| container.pod_sandbox_id.as_str())
        };
        let usages = stats.into_iter().map(|stats| {
            let mut usage = of_container(stats);
            census.pod_name(pod_of(&usage.id)).clone_into(&mut usage.pod_name);
            usage
        });
        let named = |usage: &UsageView| wanted.iter().any(|id| *id == usage.id || id == pod_of(&usage.id));
        usages.filter(|usage| wanted.is_empty() || named(usage)).collect()
    };
    usages.sort_by(|a, b| (&a.pod_name, &a.name, &a.id).cmp(&(&b.pod_name, &b.name, &b.id)));
    Ok(usages)
}

fn usage(cpu: Option<CpuUsage>, memory: Option<MemoryUsage>) -> UsageView {
    let cpu = cpu.unwrap_or_default();
    let memory = memory.unwrap_or_default();
    let working_set = memory.working_set_bytes.map(|bytes| bytes.value);
    let available = memory.available_bytes.map(|bytes| bytes.value).filter(|bytes| *bytes > 0);
    UsageView {
        id: String::new(),
        name: String::new(),
        pod_name: String::new(),
        cpu_nano_cores: cpu.usage_nano_cores.map(|rate| rate.value),
        cpu_nanoseconds: cpu.usage_core_nano_seconds.map(|time| time.value),
        memory_working_set_bytes: working_set,
        memory_usage_bytes: memory.usage_bytes.map(|bytes| bytes.value),
        memory_limit_bytes: working_set.zip(available).map(|(used, free)| used.saturating_add(free)),
        writable_layer_bytes: None,
        rx_bytes: None,
        tx_bytes: None,
        processes: None,
    }
}

fn of_container(stats: ContainerStats) -> UsageView {
    let attributes = stats.attributes.unwrap_or_default();
    UsageView {
        id: attributes.id,
        name: attributes.metadata.unwrap_or_default().name,
        writable_layer_bytes: stats
            .writable_layer
            .and_then(|layer| layer.used_bytes)
            .map(|bytes| bytes.value),
        ..usage(stats.cpu, stats.memory)
    }
}

fn of_pod(stats: PodSandboxStats) -> UsageView {
    let attributes = stats.attributes.unwrap_or_default();
    let name = attributes.metadata.unwrap_or_default().name;
    let linux = stats.linux.unwrap_or_default();
    let network = linux.network.and_then(|network| network.default_interface).unwrap_or_default();
    UsageView {
        id: attributes.id,
        pod_name: name.clone(),
        name,
        rx_bytes: network.rx_bytes.map(|bytes| bytes.value),
        tx_bytes: network.tx_bytes.map(|bytes| bytes.value),
        processes: linux.process.and_then(|process| process.process_count).map(|count| count.value),
        ..usage(linux.cpu, linux.memory)
    }
}

fn table(usages: &[UsageView], pods: bool) -> String {
    let bytes = |amount: Option<u64>| amount.map(size::human).unwrap_or_default();
    let percent =
        |rate: Option<u64>| rate.map(|rate| format!("{:.1} %", rate as f64 / 1e7)).unwrap_or_default();
    if pods {
        let mut table =
            Table::new(["POD ID", "NAME", "CPU", "MEMORY", "LIMIT", "RECEIVED", "SENT", "PROCESSES"]);
        for usage in usages {
            table.row([
                short_id(&usage.id),
                usage.name.clone(),
                percent(usage.cpu_nano_cores),
                bytes(usage.memory_working_set_bytes),
                bytes(usage.memory_limit_bytes),
                bytes(usage.rx_bytes),
                bytes(usage.tx_bytes),
                usage.processes.map(|count| count.to_string()).unwrap_or_default(),
            ]);
        }
        return table.render();
    }
    let mut table = Table::new(["CONTAINER ID", "NAME", "POD", "CPU", "MEMORY", "LIMIT", "DISK"]);
    for usage in usages {
        table.row([
            short_id(&usage.id),
            usage.name.clone(),
            usage.pod_name.clone(),
            percent(usage.cpu_nano_cores),
            bytes(usage.memory_working_set_bytes),
            bytes(usage.memory_limit_bytes),
            bytes(usage.writable_layer_bytes),
        ]);
    }
    table.render()
}
