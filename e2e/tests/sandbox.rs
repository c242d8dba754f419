//! Pod sandboxes: their life, their namespaces, what they give to containers.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::collections::BTreeMap;

use carpel_e2e::client::{Pod, code, refusal};
use carpel_e2e::config::{container, namespaces, pod_security, security};
use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::kernel::{self, namespace, processes};
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1;
use carpel_proto::v1::{NamespaceMode, PodSandboxState};
use tonic::Code;

/// Starts a sleeping container with the pod's namespaces; returns its id.
async fn sleeper(daemon: &Daemon, pod: &Pod, name: &str) -> String {
    let mut config = container(name, BUSYBOX, &["sleep", "1000"]);
    let mut options = pod.config.linux.clone().unwrap().security_context.unwrap().namespace_options;
    security(&mut config).namespace_options = options.take();
    daemon.client.launch(pod, config).await
}

fn init_of(id: &str) -> u32 {
    processes(id)[0]
}

fn own(kind: &str) -> String {
    namespace(std::process::id(), kind)
}

#[test]
fn status_and_lists_tell_what_was_asked_for() {
    scenario::run(Options::default(), async |daemon| {
        let mut config = daemon.pod("told");
        config.labels =
            BTreeMap::from([("app".to_owned(), "told".to_owned()), ("tier".to_owned(), "1".to_owned())]);
        config.annotations = BTreeMap::from([("note".to_owned(), "a \"quoted\" one".to_owned())]);
        let pod = daemon.client.run_pod(config.clone()).await;
        let other = daemon.client.run_pod(daemon.host_pod("other")).await;

        let status = daemon.client.pod_status(&pod.id).await;
        assert_eq!(status.metadata, config.metadata);
        assert_eq!((&status.labels, &status.annotations), (&config.labels, &config.annotations));
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        assert!(status.created_at > 1_700_000_000_000_000_000, "nanoseconds: {}", status.created_at);
        let ip = status.network.unwrap_or_default().ip;
        assert!(ip.starts_with(&daemon.subnet_prefix()), "an address of the bridge's subnet: {ip}");
        assert_eq!(
            daemon.client.pod_status(&other.id).await.network.unwrap_or_default().ip,
            "",
            "host network"
        );

        let label = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let ready = |state: PodSandboxState| Some(v1::PodSandboxStateValue { state: state.into() });
        for (filter, expected) in [
            (v1::PodSandboxFilter::default(), 2),
            (v1::PodSandboxFilter { id: pod.id.clone(), ..Default::default() }, 1),
            (v1::PodSandboxFilter { id: pod.id[..12].to_owned(), ..Default::default() }, 1),
            (v1::PodSandboxFilter { label_selector: label("app", "told"), ..Default::default() }, 1),
            (v1::PodSandboxFilter { label_selector: label("app", "no"), ..Default::default() }, 0),
            (v1::PodSandboxFilter { state: ready(PodSandboxState::SandboxReady), ..Default::default() }, 2),
            (
                v1::PodSandboxFilter { state: ready(PodSandboxState::SandboxNotready), ..Default::default() },
                0,
            ),
        ] {
            let pods = daemon.client.list_pods(Some(filter.clone())).await;
            assert_eq!(pods.len(), expected, "{filter:?}");
        }
    });
}

#[test]
fn stop_and_remove_repeat_and_strangers_are_gone_already() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.pod("twice")).await;
        let id = sleeper(daemon, &pod, "sleeper").await;
        for _ in 0..2 {
            daemon.client.stop_pod(&pod.id).await;
            assert_eq!(daemon.client.pod_status(&pod.id).await.state(), PodSandboxState::SandboxNotready);
        }
        let status = daemon.client.status(&id).await;
        assert_eq!(
            (status.state(), status.exit_code),
            (v1::ContainerState::ContainerExited, 137),
            "{status:?}"
        );
        let late = container("late", BUSYBOX, &["true"]);
        let refused = code("a container in a stopped pod", daemon.client.try_create(&pod, late).await);
        assert_eq!(refused, Code::FailedPrecondition);
        for _ in 0..2 {
            daemon.client.remove_pod(&pod.id).await;
        }
        daemon.client.stop_pod(&pod.id).await;
        for stranger in ["no-such-pod", &"0".repeat(64)] {
            daemon.client.stop_pod(stranger).await;
            daemon.client.remove_pod(stranger).await;
            let request =
                v1::PodSandboxStatusRequest { pod_sandbox_id: stranger.to_owned(), ..Default::default() };
            let status = daemon.client.runtime.clone().pod_sandbox_status(request).await;
            assert_eq!(code("status of a stranger", status), Code::NotFound);
        }
    });
}

#[test]
fn removing_a_running_pod_stops_it() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.pod("running")).await;
        let id = sleeper(daemon, &pod, "sleeper").await;
        let pid = init_of(&id);
        daemon.client.remove_pod(&pod.id).await;
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "its process is gone");
        assert!(daemon.client.list_containers(None).await.is_empty());
    });
}

#[test]
fn a_repeated_request_joins_the_running_one() {
    scenario::run(Options::default(), async |daemon| {
        let config = daemon.pod("joined");
        let tries: Vec<_> = (0..4)
            .map(|_| {
                let (client, config) = (daemon.client.clone(), config.clone());
                tokio::spawn(async move { client.run_pod(config).await.id })
            })
            .collect();
        let mut ids = Vec::new();
        for attempt in tries {
            ids.push(attempt.await.unwrap());
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "one pod for one name");
        assert_eq!(daemon.client.list_pods(None).await.len(), 1);
    });
}

#[test]
fn another_pod_of_the_same_name_is_refused() {
    scenario::run(Options::default(), async |daemon| {
        let config = daemon.host_pod("taken");
        daemon.client.run_pod(config.clone()).await;
        let mut different = config.clone();
        different.hostname = "another".to_owned();
        assert_eq!(code("the same name", daemon.client.try_run_pod(&different).await), Code::AlreadyExists);
        let mut attempt = config;
        attempt.metadata.as_mut().unwrap().attempt = 1;
        daemon.client.run_pod(attempt).await;
    });
}

#[test]
fn no_process_but_the_shim_keeps_a_pod() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.pod("lean")).await;
        assert_eq!(daemon.shims().len(), 1, "no pause container");
        let id = sleeper(daemon, &pod, "one").await;
        assert_eq!(processes(&id).len(), 1);
        let parent = kernel::status_field(init_of(&id), "PPid");
        assert_eq!(parent, daemon.shims()[0].to_string(), "the shim is the container's parent");
    });
}

#[test]
fn hostname_and_resolver_are_the_pods() {
    scenario::run(Options::default(), async |daemon| {
        let mut config = daemon.pod("names");
        config.hostname = "my-host".to_owned();
        config.dns_config = Some(v1::DnsConfig {
            servers: vec!["10.9.8.7".to_owned(), "fd00::53".to_owned()],
            searches: vec!["a.test".to_owned(), "b.test".to_owned()],
            options: vec!["ndots:5".to_owned()],
        });
        let pod = daemon.client.run_pod(config).await;
        let id = sleeper(daemon, &pod, "names").await;
        assert_eq!(daemon.client.sh(&id, "hostname").await, "my-host");
        assert_eq!(daemon.client.sh(&id, "cat /etc/hostname").await, "my-host");
        assert_eq!(
            daemon.client.sh(&id, "cat /etc/resolv.conf").await,
            "search a.test b.test\nnameserver 10.9.8.7\nnameserver fd00::53\noptions ndots:5"
        );
        assert_ne!(namespace(init_of(&id), "uts"), own("uts"));

        let host = daemon.client.run_pod(daemon.host_pod("host")).await;
        let id = sleeper(daemon, &host, "host").await;
        let node = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(daemon.client.sh(&id, "hostname").await, node.trim(), "host network: the node's name");
        let resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap();
        assert_eq!(daemon.client.sh(&id, "cat /etc/resolv.conf").await, resolver.trim_end());
    });
}

#[test]
fn shared_memory_is_the_pods_or_the_nodes() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("ipc")).await;
        let (one, two) = (sleeper(daemon, &pod, "one").await, sleeper(daemon, &pod, "two").await);
        daemon.client.sh(&one, "echo shared > /dev/shm/x").await;
        assert_eq!(daemon.client.sh(&two, "cat /dev/shm/x").await, "shared");
        assert_eq!(daemon.client.sh(&two, "df -k /dev/shm | awk 'END { print $2 }'").await, "65536");
        assert_eq!(daemon.client.sh(&two, "stat -c %a /dev/shm").await, "1777");
        assert_eq!(namespace(init_of(&one), "ipc"), namespace(init_of(&two), "ipc"));
        assert_ne!(namespace(init_of(&one), "ipc"), own("ipc"));

        let mut config = daemon.host_pod("node-ipc");
        namespaces(&mut config).ipc = NamespaceMode::Node.into();
        let pod = daemon.client.run_pod(config).await;
        let id = sleeper(daemon, &pod, "node").await;
        assert_eq!(namespace(init_of(&id), "ipc"), own("ipc"));
        let name = format!("carpel-e2e-{}", std::process::id());
        std::fs::write(format!("/dev/shm/{name}"), "node's").unwrap();
        let seen = daemon.client.sh(&id, &format!("cat /dev/shm/{name}")).await;
        std::fs::remove_file(format!("/dev/shm/{name}")).unwrap();
        assert_eq!(seen, "node's");
    });
}

#[test]
fn network_namespaces_are_the_pods_or_the_nodes() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.pod("net")).await;
        let (one, two) = (sleeper(daemon, &pod, "one").await, sleeper(daemon, &pod, "two").await);
        assert_eq!(namespace(init_of(&one), "net"), namespace(init_of(&two), "net"));
        assert_ne!(namespace(init_of(&one), "net"), own("net"));
        let host = daemon.client.run_pod(daemon.host_pod("host")).await;
        let id = sleeper(daemon, &host, "host").await;
        assert_eq!(namespace(init_of(&id), "net"), own("net"));
    });
}

#[test]
fn process_namespaces_come_in_four_kinds() {
    scenario::run(Options::default(), async |daemon| {
        // CONTAINER: each its own, the command is process 1.
        let pod = daemon.client.run_pod(daemon.host_pod("container")).await;
        let (one, two) = (sleeper(daemon, &pod, "one").await, sleeper(daemon, &pod, "two").await);
        assert_ne!(namespace(init_of(&one), "pid"), namespace(init_of(&two), "pid"));
        assert_eq!(daemon.client.sh(&one, "cat /proc/1/comm").await, "sleep");

        // TARGET: that of another container of the pod.
        let mut config = container("target", BUSYBOX, &["sleep", "1000"]);
        let options = security(&mut config).namespace_options.as_mut().unwrap();
        options.pid = NamespaceMode::Target.into();
        options.target_id = one.clone();
        let target = daemon.client.launch(&pod, config).await;
        assert_eq!(namespace(init_of(&target), "pid"), namespace(init_of(&one), "pid"));
        assert_eq!(daemon.client.sh(&target, "cat /proc/1/comm").await, "sleep");

        // POD: shared by all, process 1 is a small one that reaps.
        let mut config = daemon.host_pod("pod");
        namespaces(&mut config).pid = NamespaceMode::Pod.into();
        let pod = daemon.client.run_pod(config).await;
        let (one, two) = (sleeper(daemon, &pod, "one").await, sleeper(daemon, &pod, "two").await);
        assert_eq!(namespace(init_of(&one), "pid"), namespace(init_of(&two), "pid"));
        assert_ne!(namespace(init_of(&one), "pid"), own("pid"));
        assert_ne!(
            daemon.client.sh(&one, "cat /proc/1/comm").await,
            "sleep",
            "neither container is process 1"
        );
        daemon.client.sh(&one, "(sleep 0.1 &) ; true").await;
        let zombies = "sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l";
        assert_eq!(daemon.client.sh(&one, zombies).await, "0", "orphans are reaped");

        // NODE: the machine's.
        let mut config = daemon.host_pod("node");
        namespaces(&mut config).pid = NamespaceMode::Node.into();
        let pod = daemon.client.run_pod(config).await;
        let id = sleeper(daemon, &pod, "node").await;
        assert_eq!(namespace(init_of(&id), "pid"), own("pid"));
    });
}

#[test]
fn a_bad_target_is_refused() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(daemon.host_pod("target")).await;
        let stranger = daemon.client.run_pod(daemon.host_pod("stranger")).await;
        let foreign = sleeper(daemon, &stranger, "foreign").await;
        let exited = daemon.client.run_to_end(&pod, container("exited", BUSYBOX, &["true"])).await.id;
        for target in ["", "no-such-container", &foreign, &exited] {
            let mut config = container("bad", BUSYBOX, &["true"]);
            let options = security(&mut config).namespace_options.as_mut().unwrap();
            options.pid = NamespaceMode::Target.into();
            options.target_id = target.to_owned();
            let status = refusal(target, daemon.client.try_create(&pod, config).await);
            assert_eq!(status.code(), Code::InvalidArgument, "{target:?}: {}", status.message());
        }
    });
}

#[test]
fn sysctls_are_set_in_the_pod_only() {
    scenario::run(Options::default(), async |daemon| {
        let read = |path: &str| std::fs::read_to_string(path).unwrap().trim().to_owned();
        let before = read("/proc/sys/net/ipv4/ip_local_port_range");
        let mut config = daemon.pod("sysctl");
        config.linux.as_mut().unwrap().sysctls = BTreeMap::from([
            ("net.ipv4.ip_local_port_range".to_owned(), "20000 20100".to_owned()),
            ("net/ipv4/tcp_syncookies".to_owned(), "0".to_owned()),
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
        ]);
        let pod = daemon.client.run_pod(config).await;
        let id = sleeper(daemon, &pod, "sysctl").await;
        assert_eq!(daemon.client.sh(&id, "cat /proc/sys/net/ipv4/ip_local_port_range").await, "20000\t20100");
        assert_eq!(daemon.client.sh(&id, "cat /proc/sys/net/ipv4/tcp_syncookies").await, "0");
        assert_eq!(daemon.client.sh(&id, "cat /proc/sys/kernel/shm_rmid_forced").await, "1");
        assert_eq!(read("/proc/sys/net/ipv4/ip_local_port_range"), before);
    });
}

#[test]
fn every_sysctl_of_an_ipc_namespace_can_be_set() {
    const SETTINGS: [&str; 16] = [
        "fs.mqueue.msg_default",
        "fs.mqueue.msg_max",
        "fs.mqueue.msgsize_default",
        "fs.mqueue.msgsize_max",
        "fs.mqueue.queues_max",
        "kernel.msg_next_id",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.sem_next_id",
        "kernel.shm_next_id",
        "kernel.shm_rmid_forced",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
    ];
    scenario::run(Options::default(), async |daemon| {
        let path = |setting: &str| format!("/proc/sys/{}", setting.replace('.', "/"));
        // The ids that come next are there on kernels with checkpoints alone (CONFIG_CHECKPOINT_RESTORE).
        let here = SETTINGS.into_iter().filter(|setting| std::path::Path::new(&path(setting)).exists());
        let value = |setting: &str| match setting {
            "kernel.sem" => "100\t3200\t10\t32",
            "kernel.shm_rmid_forced" => "1",
            _ => "1234",
        };
        let sysctls: BTreeMap<_, _> =
            here.map(|setting| (setting.to_owned(), value(setting).to_owned())).collect();
        let mut config = daemon.pod("sysctls");
        config.linux.as_mut().unwrap().sysctls = sysctls.clone();
        let pod = daemon.client.run_pod(config).await;
        let id = sleeper(daemon, &pod, "sysctls").await;
        for (setting, value) in sysctls {
            let read = daemon.client.sh(&id, &format!("cat {}", path(&setting))).await;
            assert_eq!(read, value, "{setting}");
        }
    });
}

#[test]
fn sysctls_that_are_not_the_pods_are_refused() {
    scenario::run(Options::default(), async |daemon| {
        let case = async |host_network: bool, host_ipc: bool, key: &str, value: &str| {
            let mut config = if host_network { daemon.host_pod("bad") } else { daemon.pod("bad") };
            if host_ipc {
                namespaces(&mut config).ipc = NamespaceMode::Node.into();
            }
            config.linux.as_mut().unwrap().sysctls = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            let status = refusal(key, daemon.client.try_run_pod(&config).await);
            assert_eq!(status.code(), Code::InvalidArgument, "{key}: {}", status.message());
            assert!(daemon.client.list_pods(None).await.is_empty(), "{key} left a pod");
        };
        case(false, false, "kernel.panic", "1").await;
        case(false, false, "vm.swappiness", "1").await;
        case(false, false, "net.ipv4.../../kernel/panic", "1").await;
        case(false, false, "net.ipv4.tcp_syncookies", "0\n1").await;
        case(true, false, "net.ipv4.tcp_syncookies", "0").await;
        case(false, true, "kernel.shm_rmid_forced", "1").await;
    });
}

#[test]
fn pods_live_below_the_cgroup_that_was_asked_for() {
    scenario::run(Options::default(), async |daemon| {
        let config = daemon.host_pod("parented");
        let parent = config.linux.clone().unwrap().cgroup_parent;
        let pod = daemon.client.run_pod(config).await;
        let id = sleeper(daemon, &pod, "parented").await;
        for controller in ["memory", "pids", "cpu", "devices", "freezer"] {
            let path = kernel::cgroup(controller, &id).to_string_lossy().into_owned();
            assert!(path.contains(&format!("{parent}/")), "{controller}: {path} is not below {parent}");
        }
        let mut config = daemon.host_pod("default");
        config.linux.as_mut().unwrap().cgroup_parent = String::new();
        let pod = daemon.client.run_pod(config).await;
        let id = sleeper(daemon, &pod, "default").await;
        let path = kernel::cgroup("memory", &id).to_string_lossy().into_owned();
        let parent = daemon.default_pods();
        assert!(path.contains(&format!("{parent}/")), "{path} is not below {parent}, as the config says");
    });
}

#[test]
fn malformed_pods_are_refused() {
    scenario::run(Options::default(), async |daemon| {
        let config = || daemon.pod("malformed");
        let mut cases: Vec<(&str, Option<v1::PodSandboxConfig>)> = vec![("no config", None)];
        let mut case = |name, change: &dyn Fn(&mut v1::PodSandboxConfig)| {
            let mut config = config();
            change(&mut config);
            cases.push((name, Some(config)));
        };
        case("no metadata", &|config| config.metadata = None);
        case("no name", &|config| config.metadata.as_mut().unwrap().name.clear());
        case("no uid", &|config| config.metadata.as_mut().unwrap().uid.clear());
        case("a hostname with a slash", &|config| config.hostname = "a/b".to_owned());
        case("a hostname that is too long", &|config| config.hostname = "a".repeat(65));
        case("a name server that breaks the line", &|config| {
            config.dns_config = Some(v1::DnsConfig {
                servers: vec!["1.1.1.1\nnameserver 6.6.6.6".to_owned()],
                ..Default::default()
            });
        });
        case("a relative log directory", &|config| config.log_directory = "logs".to_owned());
        case("a log directory with dots", &|config| config.log_directory = "/var/log/../../etc".to_owned());
        case("a cgroup parent with dots", &|config| {
            config.linux.as_mut().unwrap().cgroup_parent = "/../../escape".to_owned();
        });
        case("an unknown protocol", &|config| {
            config.port_mappings = vec![v1::PortMapping {
                protocol: 77,
                container_port: 80,
                host_port: 8080,
                ..Default::default()
            }];
        });
        case("a port beyond all ports", &|config| {
            config.port_mappings =
                vec![v1::PortMapping { container_port: 80, host_port: 70000, ..Default::default() }];
        });
        case("a host address that is none", &|config| {
            config.port_mappings = vec![v1::PortMapping {
                container_port: 80,
                host_port: 18080,
                host_ip: "localhost".to_owned(),
                ..Default::default()
            }];
        });
        case("an unknown namespace mode", &|config| namespaces(config).network = 99);
        case("a network of a target", &|config| namespaces(config).network = NamespaceMode::Target.into());
        case("a user that is negative", &|config| {
            pod_security(config).run_as_user = Some(v1::Int64Value { value: -1 });
        });
        for (name, config) in cases {
            let request = v1::RunPodSandboxRequest { config, runtime_handler: String::new() };
            let status = refusal(name, daemon.client.runtime.clone().run_pod_sandbox(request).await);
            assert_eq!(status.code(), Code::InvalidArgument, "{name}: {}", status.message());
            assert!(daemon.client.list_pods(None).await.is_empty(), "{name} left a pod");
        }
        let request =
            v1::RunPodSandboxRequest { config: Some(config()), runtime_handler: "no-such".to_owned() };
        let status =
            refusal("an unknown handler", daemon.client.runtime.clone().run_pod_sandbox(request).await);
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("no-such"), "{}", status.message());
        assert!(daemon.shims().is_empty(), "no refused pod left a shim");
    });
}
