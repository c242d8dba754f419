//! Limits: set, updated, enforced; and as the cgroups-rs crate, which is not ours, reads them back.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use carpel_e2e::client::{code, refusal};
use carpel_e2e::config::{container, resources};
use carpel_e2e::daemon::Options;
use carpel_e2e::kernel::{cgroup, cgroup_file, is_cgroup_v1, limit_processes, processes, status_field};
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, hierarchies};
use tonic::Code;

/// Its number (capabilities(7), linux/capability.h).
const CAP_SYS_RESOURCE: u32 = 24;

/// A container's cgroup as the other implementation sees it.
fn oracle(id: &str) -> Cgroup {
    let folder = cgroup("memory", id);
    let base = if is_cgroup_v1() { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" };
    let relative = folder.strip_prefix(base).unwrap().to_path_buf();
    Cgroup::load(hierarchies::auto(), relative)
}

/// The file and the value in it, by cgroup version.
fn limit(id: &str, controller: &str, v1: &str, v2: &str) -> String {
    cgroup_file(controller, id, if is_cgroup_v1() { v1 } else { v2 })
}

#[test]
fn limits_are_set_as_asked() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("limits")).await;
        let mut config = container("limits", BUSYBOX, &["sleep", "1000"]);
        *resources(&mut config) = v1::LinuxContainerResources {
            cpu_period: 50_000,
            cpu_quota: 25_000,
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: 900,
            cpuset_cpus: "0".to_owned(),
            cpuset_mems: "0".to_owned(),
            ..Default::default()
        };
        let id = daemon.client.launch(&pod, config.clone()).await;
        let group = oracle(&id);
        let memory: &MemController = group.controller_of().unwrap();
        assert_eq!(memory.memory_stat().limit_in_bytes, 64 << 20);
        let cpu: &CpuController = group.controller_of().unwrap();
        assert_eq!((cpu.cfs_period().unwrap(), cpu.cfs_quota().unwrap()), (50_000, 25_000));
        if is_cgroup_v1() {
            assert_eq!(cpu.shares().unwrap(), 512);
        }
        let cpuset: &CpuSetController = group.controller_of().unwrap();
        assert_eq!((cpuset.cpuset().cpus, cpuset.cpuset().mems), (vec![(0, 0)], vec![(0, 0)]));
        let pids: &PidController = group.controller_of().unwrap();
        assert_eq!(pids.get_pid_current().unwrap(), 1);
        let adjusted = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", processes(&id)[0])).unwrap();
        assert_eq!(adjusted.trim(), "900");

        let shown = daemon.client.status(&id).await.resources.unwrap().linux.unwrap();
        let asked = config.linux.unwrap().resources.unwrap();
        assert_eq!(
            (shown.cpu_period, shown.cpu_quota, shown.cpu_shares),
            (asked.cpu_period, asked.cpu_quota, asked.cpu_shares)
        );
        assert_eq!(shown.memory_limit_in_bytes, asked.memory_limit_in_bytes);
        assert_eq!((shown.cpuset_cpus, shown.cpuset_mems), (asked.cpuset_cpus, asked.cpuset_mems));
    });
}

#[test]
fn limits_change_while_it_runs_and_outlive_the_daemon() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("update")).await;
        let mut config = container("update", BUSYBOX, &["sleep", "1000"]);
        resources(&mut config).memory_limit_in_bytes = 64 << 20;
        let id = daemon.client.launch(&pod, config).await;
        let pid = processes(&id)[0];
        let update = async |daemon: &carpel_e2e::daemon::Daemon, change: v1::LinuxContainerResources| {
            let request = v1::UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(change),
                ..Default::default()
            };
            daemon.client.runtime.clone().update_container_resources(request).await
        };
        let change = v1::LinuxContainerResources {
            memory_limit_in_bytes: 128 << 20,
            cpu_quota: 30_000,
            cpu_period: 100_000,
            cpu_shares: 256,
            ..Default::default()
        };
        update(daemon, change).await.unwrap();
        assert_eq!(limit(&id, "memory", "memory.limit_in_bytes", "memory.max"), (128 << 20).to_string());
        let quota = limit(&id, "cpu", "cpu.cfs_quota_us", "cpu.max");
        assert!(quota == "30000" || quota == "30000 100000", "{quota}");

        daemon.kill();
        daemon.spawn().await;
        let shown = daemon.client.status(&id).await.resources.unwrap().linux.unwrap();
        assert_eq!((shown.memory_limit_in_bytes, shown.cpu_quota), (128 << 20, 30_000));
        // Downwards, and only one of them: the rest stays.
        update(daemon, v1::LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() })
            .await
            .unwrap();
        assert_eq!(limit(&id, "memory", "memory.limit_in_bytes", "memory.max"), (32 << 20).to_string());
        assert_eq!(limit(&id, "cpu", "cpu.cfs_quota_us", "cpu.max").split(' ').next(), Some("30000"));
        assert_eq!(processes(&id), [pid], "the container never noticed");

        let bad =
            v1::LinuxContainerResources { cpuset_cpus: "4096-nonsense".to_owned(), ..Default::default() };
        assert_eq!(code("a cpuset that is none", update(daemon, bad).await), Code::InvalidArgument);
        daemon.client.stop(&id, 0).await;
        let late = v1::LinuxContainerResources { cpu_shares: 100, ..Default::default() };
        assert_eq!(code("an update after the end", update(daemon, late).await), Code::FailedPrecondition);
    });
}

#[test]
fn impossible_limits_are_refused_and_leave_nothing() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("bad")).await;
        type Change = fn(&mut v1::LinuxContainerResources);
        let cases: [(&str, Change); 7] = [
            ("a cpuset of words", |limits| limits.cpuset_cpus = "first".to_owned()),
            ("a cpuset with a newline", |limits| limits.cpuset_cpus = "0\n1".to_owned()),
            ("negative shares", |limits| limits.cpu_shares = -5),
            ("an oom score beyond its range", |limits| limits.oom_score_adj = 2000),
            ("negative memory", |limits| limits.memory_limit_in_bytes = -7),
            ("a quota below its least", |limits| (limits.cpu_quota, limits.cpu_period) = (1, 100_000)),
            ("a page size that is none", |limits| {
                limits.hugepage_limits = vec![v1::HugepageLimit { page_size: "../2MB".to_owned(), limit: 0 }];
            }),
        ];
        for (name, change) in cases {
            let mut config = container("bad", BUSYBOX, &["true"]);
            change(resources(&mut config));
            let status = refusal(name, daemon.client.try_create(&pod, config).await);
            assert_eq!(status.code(), Code::InvalidArgument, "{name}: {}", status.message());
        }
        assert!(daemon.client.list_containers(None).await.is_empty());
    });
}

#[test]
fn containers_have_the_files_and_cgroup_they_should() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("limits")).await;
        let id = daemon.client.launch(&pod, container("limits", BUSYBOX, &["sleep", "1000"])).await;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", processes(&id)[0])).unwrap();
        let mine = std::fs::read_to_string("/proc/self/limits").unwrap();
        let files = |text: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
            line.split_whitespace().skip(3).take(2).map(str::to_owned).collect()
        };
        let hard: u64 = files(&mine)[1].parse().unwrap();
        // Beyond one's own takes CAP_SYS_RESOURCE, which not every root has.
        let capabilities = u64::from_str_radix(&status_field(std::process::id(), "CapEff"), 16).unwrap();
        let may_raise = capabilities & (1 << CAP_SYS_RESOURCE) != 0;
        let expected = if may_raise { 1_048_576 } else { hard.min(1_048_576) }.to_string();
        assert_eq!(files(&limits), [expected.clone(), expected]);
        // Children are in the container's cgroup, exec'd ones too.
        daemon
            .client
            .exec(&id, &["sh", "-c", "sleep 1000 >/dev/null 2>&1 & sleep 1001 >/dev/null 2>&1 &"])
            .await;
        assert_eq!(processes(&id).len(), 3, "{:?}", processes(&id));
        daemon.client.stop(&id, 0).await;
        assert!(carpel_e2e::kernel::processes_mentioning(&id).is_empty(), "the whole tree is dead");
    });
}

#[test]
fn a_fork_bomb_stays_in_its_box() {
    scenario::run(Options::default(), async |daemon| {
        let config = daemon.host_pod("bomb");
        limit_processes(&config.linux.as_ref().unwrap().cgroup_parent, 30);
        let pod = daemon.client.run_pod(config).await;
        let id = daemon
            .client
            .launch(&pod, container("bomb", BUSYBOX, &["sh", "-c", "f() { f | f & }; f; sleep 1000"]))
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert!(processes(&id).len() <= 30);
        daemon.client.stop_pod(&pod.id).await;
        daemon.client.remove_pod(&pod.id).await;
    });
}
