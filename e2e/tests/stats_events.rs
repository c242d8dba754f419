//! Statistics of containers and pods, events, and what the daemon says of itself.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::collections::BTreeMap;
use std::time::Duration;

use carpel_e2e::client::{Client, Pod, code, eventually};
use carpel_e2e::config::{container, resources};
use carpel_e2e::daemon::{Network, Options};
use carpel_e2e::kernel::CgroupDriver;
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1;
use carpel_proto::v1::ContainerEventType as Event;
use tonic::Code;

async fn stats(client: &Client, id: &str) -> v1::ContainerStats {
    let request = v1::ContainerStatsRequest { container_id: id.to_owned() };
    client.runtime.clone().container_stats(request).await.unwrap().into_inner().stats.unwrap()
}

fn value(value: Option<v1::UInt64Value>) -> u64 {
    value.expect("the figure is there").value
}

#[test]
fn containers_are_measured() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("stats")).await;
        let script = "dd if=/dev/zero of=/file bs=1048576 count=8 2>/dev/null; while :; do :; done";
        let mut config = container("busy", BUSYBOX, &["sh", "-c", script]);
        config.labels = BTreeMap::from([("who".to_owned(), "busy".to_owned())]);
        resources(&mut config).memory_limit_in_bytes = 128 << 20;
        let busy = daemon.client.launch(&pod, config.clone()).await;
        let idle = daemon.client.launch(&pod, container("idle", BUSYBOX, &["sleep", "1000"])).await;
        eventually("the file is written", async || {
            (daemon.client.sh(&busy, "stat -c %s /file").await == (8 << 20).to_string()).then_some(())
        })
        .await;

        let first = stats(&daemon.client, &busy).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let second = stats(&daemon.client, &busy).await;
        let attributes = second.attributes.clone().unwrap();
        assert_eq!(
            (&attributes.id, &attributes.metadata, &attributes.labels),
            (&busy, &config.metadata, &config.labels)
        );
        let cpu = |stats: &v1::ContainerStats| value(stats.cpu.unwrap().usage_core_nano_seconds);
        assert!(cpu(&second) > cpu(&first), "a busy loop uses time");
        assert!(second.cpu.as_ref().unwrap().timestamp > first.cpu.as_ref().unwrap().timestamp);
        let memory = second.memory.unwrap();
        assert!(value(memory.working_set_bytes) > 0 && value(memory.usage_bytes) > 0, "{memory:?}");
        let available = value(memory.available_bytes);
        assert!(available > 0 && available < 128 << 20, "what the limit leaves: {available}");
        let layer = second.writable_layer.clone().unwrap();
        assert!(value(layer.used_bytes) >= 8 << 20, "the file counts: {layer:?}");
        assert!(layer.fs_id.unwrap().mountpoint.starts_with(&*daemon.root().to_string_lossy()));
        assert!(value(layer.inodes_used) > 0);
        assert!(cpu(&stats(&daemon.client, &idle).await) < cpu(&second), "sleep uses less than a loop");

        let list = async |filter: v1::ContainerStatsFilter| {
            let request = v1::ListContainerStatsRequest { filter: Some(filter) };
            daemon
                .client
                .runtime
                .clone()
                .list_container_stats(request)
                .await
                .unwrap()
                .into_inner()
                .stats
                .len()
        };
        assert_eq!(list(v1::ContainerStatsFilter::default()).await, 2);
        assert_eq!(list(v1::ContainerStatsFilter { id: busy.clone(), ..Default::default() }).await, 1);
        assert_eq!(
            list(v1::ContainerStatsFilter { label_selector: config.labels.clone(), ..Default::default() })
                .await,
            1
        );
        assert_eq!(
            list(v1::ContainerStatsFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() }).await,
            2
        );

        let request = v1::ContainerStatsRequest { container_id: "no-such".to_owned() };
        let strange = daemon.client.runtime.clone().container_stats(request).await;
        assert_eq!(code("stats of a stranger", strange), Code::NotFound);
    });
}

#[test]
fn pods_are_measured_as_a_whole() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.pod("stats")).await;
        let id = daemon.client.launch(&pod, container("one", BUSYBOX, &["sleep", "1000"])).await;
        daemon.client.launch(&pod, container("two", BUSYBOX, &["sleep", "1000"])).await;
        daemon.client.sh(&id, &format!("ping -c 3 -i 0.1 {}1", daemon.subnet_prefix())).await;
        // The kernel counts a process until it has freed it, some milliseconds after it was reaped.
        let stats = eventually("only the two are counted", async || {
            let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
            let answer = daemon.client.runtime.clone().pod_sandbox_stats(request).await.unwrap();
            let stats = answer.into_inner().stats.unwrap();
            (value(stats.linux.as_ref()?.process.unwrap().process_count) == 2).then_some(stats)
        })
        .await;
        assert_eq!(stats.attributes.unwrap().metadata, pod.config.metadata);
        let linux = stats.linux.unwrap();
        assert_eq!(linux.containers.len(), 2);
        assert!(value(linux.cpu.unwrap().usage_core_nano_seconds) > 0);
        assert!(value(linux.memory.unwrap().working_set_bytes) > 0);
        let interface = linux.network.unwrap().default_interface.unwrap();
        assert_eq!(interface.name, "eth0");
        assert!(value(interface.tx_bytes) >= 3 * 84 && value(interface.rx_bytes) >= 3 * 84, "{interface:?}");
        let request = v1::ListPodSandboxStatsRequest::default();
        let all =
            daemon.client.runtime.clone().list_pod_sandbox_stats(request).await.unwrap().into_inner().stats;
        assert_eq!(all.len(), 1);
        // The kubelet dies of a network without an interface.
        let host = daemon.client.run_pod(daemon.host_pod("no-network-of-its-own")).await;
        for stop in [false, true] {
            if stop {
                daemon.client.stop_pod(&pod.id).await;
            }
            for id in if stop { vec![&pod.id, &host.id] } else { vec![&host.id] } {
                let request = v1::PodSandboxStatsRequest { pod_sandbox_id: id.clone() };
                let answer = daemon.client.runtime.clone().pod_sandbox_stats(request).await.unwrap();
                assert_eq!(answer.into_inner().stats.unwrap().linux.unwrap().network, None);
            }
        }
    });
}

/// The metrics of a container that is limited, has a network and writes, by their names.
const METRICS: [&str; 31] = [
    "container_cpu_usage_seconds_total",
    "container_cpu_user_seconds_total",
    "container_cpu_system_seconds_total",
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_throttled_seconds_total",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_memory_rss",
    "container_memory_cache",
    "container_memory_mapped_file",
    "container_memory_failcnt",
    "container_memory_failures_total",
    "container_memory_max_usage_bytes",
    "container_oom_events_total",
    "container_fs_usage_bytes",
    "container_fs_limit_bytes",
    "container_fs_inodes_total",
    "container_fs_inodes_free",
    "container_processes",
    "container_threads",
    "container_threads_max",
    "container_file_descriptors",
    "container_sockets",
    "container_ulimits_soft",
    "container_last_seen",
    "container_start_time_seconds",
    "container_spec_cpu_period",
    "container_spec_cpu_quota",
    "container_spec_memory_limit_bytes",
    "container_spec_memory_swap_limit_bytes",
];

async fn pod_metrics(client: &Client) -> Vec<v1::PodSandboxMetrics> {
    let request = v1::ListPodSandboxMetricsRequest {};
    client.runtime.clone().list_pod_sandbox_metrics(request).await.unwrap().into_inner().pod_metrics
}

/// A metric's only value whose labels include this one; panics unless there is exactly one.
fn metric(metrics: &[v1::Metric], name: &str, label: &str) -> u64 {
    let found: Vec<_> = metrics
        .iter()
        .filter(|metric| metric.name == name && metric.label_values.iter().any(|value| value == label))
        .collect();
    let [one] = found.as_slice() else { panic!("{name} of {label}: {found:?}") };
    value(one.value)
}

#[test]
fn metrics_are_those_that_were_announced() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.pod("metrics")).await;
        let script = "dd if=/dev/zero of=/file bs=1048576 count=8 2>/dev/null; nc -ll -p 7000 -e true & \
                      n=0; while [ $n -lt 3000000 ]; do n=$((n+1)); done; exec sleep 1000";
        let mut config = container("worker", BUSYBOX, &["sh", "-c", script]);
        let limits = resources(&mut config);
        limits.memory_limit_in_bytes = 128 << 20;
        (limits.cpu_period, limits.cpu_quota) = (100_000, 90_000);
        let id = daemon.client.launch(&pod, config).await;
        daemon.client.sh(&id, &format!("ping -c 3 -i 0.1 {}1", daemon.subnet_prefix())).await;
        let own = eventually("the work is done and was measured", async || {
            let [pod] = <[_; 1]>::try_from(pod_metrics(&daemon.client).await).unwrap();
            let [container] = pod.container_metrics.as_slice() else { return None };
            let measured = container.metrics.iter().any(|one| one.name == "container_fs_usage_bytes");
            let is_done = measured
                && metric(&container.metrics, "container_cpu_usage_seconds_total", "total") > 0
                && metric(&container.metrics, "container_processes", &id) == 2;
            is_done.then_some(pod)
        })
        .await;
        assert_eq!(own.pod_sandbox_id, pod.id);
        let metrics = &own.container_metrics[0].metrics;

        // The kubelet drops what was not announced, and what has other labels; Prometheus refuses what comes twice.
        let request = v1::ListMetricDescriptorsRequest {};
        let answer = daemon.client.runtime.clone().list_metric_descriptors(request).await.unwrap();
        let announced = answer.into_inner().descriptors;
        let mut seen = std::collections::BTreeSet::new();
        for one in own.metrics.iter().chain(metrics) {
            let family = announced.iter().find(|family| family.name == one.name).expect(&one.name);
            assert_eq!(family.label_keys.len(), one.label_values.len(), "{one:?}");
            assert_eq!(family.label_keys[..5], ["pod", "namespace", "container", "id", "image"]);
            assert!(seen.insert((&one.name, &one.label_values)), "twice: {one:?}");
        }
        for name in METRICS {
            let one = metrics.iter().find(|one| one.name == name).expect(name);
            assert_eq!(one.label_values[..5], ["metrics", "e2e", "worker", &id, BUSYBOX], "{one:?}");
        }
        let figure = |name| metric(metrics, name, &id);
        assert_eq!(figure("container_spec_memory_limit_bytes"), 128 << 20);
        assert_eq!(figure("container_spec_cpu_quota"), 90_000);
        assert_eq!(figure("container_sockets"), 1, "where nc listens");
        assert!(figure("container_file_descriptors") > 6);
        assert!(figure("container_memory_max_usage_bytes") >= figure("container_memory_rss"));
        assert!(figure("container_memory_cache") >= 8 << 20, "the file is in the page cache");
        assert!(figure("container_fs_usage_bytes") >= 8 << 20);
        let open_max = metric(metrics, "container_ulimits_soft", "max_open_files");
        assert_eq!(daemon.client.sh(&id, "ulimit -n").await, open_max.to_string());
        let started = figure("container_start_time_seconds");
        assert!((0..3600).contains(&(figure("container_last_seen") - started)), "{started}");

        let sent = metric(&own.metrics, "container_network_transmit_packets_total", "eth0");
        assert!(sent >= 3, "three pings: {sent}");
        assert!(own.metrics.iter().all(|one| one.label_values[..5] == ["metrics", "e2e", "", &pod.id, ""]));

        let request = v1::StreamPodSandboxMetricsRequest {};
        let answer = daemon.client.runtime.clone().stream_pod_sandbox_metrics(request).await.unwrap();
        let mut stream = answer.into_inner();
        let message = stream.message().await.unwrap().unwrap();
        assert_eq!(message.pod_sandbox_metrics.len(), 1);
        assert_eq!(message.pod_sandbox_metrics[0].container_metrics.len(), 1);
        assert_eq!(stream.message().await.unwrap(), None);
        daemon.client.stop_pod(&pod.id).await;
        assert_eq!(pod_metrics(&daemon.client).await, [], "of a pod that has stopped");
    });
}

/// Reads events until one says that the pod was deleted.
async fn events_of(
    mut stream: tonic::Streaming<v1::ContainerEventResponse>,
    pod: &str,
) -> Vec<v1::ContainerEventResponse> {
    let mut events = Vec::new();
    loop {
        let next = tokio::time::timeout(carpel_e2e::client::PATIENCE, stream.message()).await;
        let event = next.expect("an event comes").unwrap().expect("the stream does not end");
        let last = event.container_id == pod && event.container_event_type() == Event::ContainerDeletedEvent;
        events.push(event);
        if last {
            return events;
        }
    }
}

#[test]
fn every_change_is_an_event_with_the_whole_pod() {
    scenario::run(Options::default(), async |daemon| {
        let stream = daemon
            .client
            .runtime
            .clone()
            .get_container_events(v1::GetEventsRequest {})
            .await
            .unwrap()
            .into_inner();
        let pod: Pod = daemon.client.run_pod(daemon.host_pod("events")).await;
        let id = daemon.client.create(&pod, container("short", BUSYBOX, &["sh", "-c", "exit 9"])).await;
        daemon.client.start(&id).await;
        daemon.client.wait_exit(&id).await;
        daemon.client.remove(&id).await;
        daemon.client.stop_pod(&pod.id).await;
        daemon.client.remove_pod(&pod.id).await;
        let events = events_of(stream, &pod.id).await;
        let kinds = |of: &str| -> Vec<Event> {
            events
                .iter()
                .filter(|event| event.container_id == of)
                .map(v1::ContainerEventResponse::container_event_type)
                .collect()
        };
        let all = [
            Event::ContainerCreatedEvent,
            Event::ContainerStartedEvent,
            Event::ContainerStoppedEvent,
            Event::ContainerDeletedEvent,
        ];
        assert_eq!(kinds(&pod.id), all, "the pod's");
        assert_eq!(kinds(&id), all, "the container's");
        for event in &events {
            assert!(event.created_at > 0);
            if event.container_event_type() != Event::ContainerDeletedEvent {
                let status = event.pod_sandbox_status.as_ref().expect("an event holds the pod's status");
                assert_eq!(status.metadata, pod.config.metadata);
            }
        }
        let stopped = events
            .iter()
            .find(|event| {
                event.container_id == id && event.container_event_type() == Event::ContainerStoppedEvent
            })
            .unwrap();
        let status = stopped
            .containers_statuses
            .iter()
            .find(|status| status.id == id)
            .expect("the container's status is in it");
        assert_eq!(status.exit_code, 9);
    });
}

#[test]
fn the_daemon_says_what_it_is() {
    scenario::run(Options::default(), async |daemon| {
        let mut runtime = daemon.client.runtime.clone();
        let version =
            runtime.version(v1::VersionRequest { version: "v1".to_owned() }).await.unwrap().into_inner();
        assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("carpel", "v1"));
        assert!(!version.version.is_empty() && !version.runtime_version.is_empty(), "{version:?}");
        let status = runtime.status(v1::StatusRequest { verbose: true }).await.unwrap().into_inner();
        let conditions = status.status.unwrap().conditions;
        for kind in ["RuntimeReady", "NetworkReady"] {
            let condition = conditions.iter().find(|condition| condition.r#type == kind).unwrap();
            assert!(condition.status, "{condition:?}");
        }
        assert!(
            status.runtime_handlers.iter().any(|handler| handler.name.is_empty()),
            "the default handler is listed"
        );
        assert!(status.features.unwrap().supplemental_groups_policy);
        assert!(status.info.contains_key("config"), "{:?}", status.info.keys());
        let config = runtime.runtime_config(v1::RuntimeConfigRequest {}).await.unwrap().into_inner();
        let driver = match CgroupDriver::of_tests() {
            CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
            CgroupDriver::Systemd => v1::CgroupDriver::Systemd,
        };
        assert_eq!(config.linux.unwrap().cgroup_driver(), driver);
    });
}

#[test]
fn the_network_is_ready_when_its_configuration_comes() {
    let folder = tempfile::tempdir().unwrap();
    let network =
        Network::Cni { conf_dir: folder.path().join("net.d"), bin_dirs: vec![folder.path().join("bin")] };
    scenario::run(Options { network, ..Options::default() }, async |daemon| {
        let ready = async || {
            let status = daemon
                .client
                .runtime
                .clone()
                .status(v1::StatusRequest::default())
                .await
                .unwrap()
                .into_inner();
            let conditions = status.status.unwrap().conditions;
            let condition =
                conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").unwrap();
            assert!(
                condition.status || !condition.message.is_empty(),
                "a network that is not ready says why"
            );
            condition.status
        };
        assert!(!ready().await);
        let refused = code("a pod without a network", daemon.client.try_run_pod(&daemon.pod("early")).await);
        assert_ne!(refused, Code::InvalidArgument, "it is not the request's fault");
        let host = daemon.client.run_pod(daemon.host_pod("host")).await;
        assert_eq!(
            daemon.client.pod_status(&host.id).await.state(),
            v1::PodSandboxState::SandboxReady,
            "host pods run"
        );

        std::fs::create_dir_all(folder.path().join("net.d")).unwrap();
        std::fs::create_dir_all(folder.path().join("bin")).unwrap();
        let text = r#"{ "cniVersion": "1.0.0", "name": "n", "plugins": [ { "type": "absent" } ] }"#;
        let file = folder.path().join("net.d/10-n.conflist");
        std::fs::write(&file, text).unwrap();
        eventually("a configuration makes it ready", async || ready().await.then_some(())).await;
        std::fs::remove_file(&file).unwrap();
        eventually("and its removal not", async || (!ready().await).then_some(())).await;
    });
}
