//! Pods with a user namespace of their own: root inside, nobody outside.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use carpel_e2e::client::{Pod, eventually, image_spec, refusal};
use carpel_e2e::config::{bind, container, int, namespaces, profile, security};
use carpel_e2e::crictl::CommandLine;
use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::kernel::{processes, status_field};
use carpel_e2e::scenario::{self, BUSYBOX};
use carpel_proto::v1;
use carpel_proto::v1::security_profile::ProfileType;
use tonic::Code;

/// What the pods' root is on the host, and how many ids they have.
const ROOT: u32 = 0x0010_0000;
const LENGTH: u32 = 65_536;

fn mapping(host_id: u32) -> Vec<v1::IdMapping> {
    vec![v1::IdMapping { host_id, container_id: 0, length: LENGTH }]
}

fn userns(host_id: u32) -> Option<v1::UserNamespace> {
    let ids = mapping(host_id);
    Some(v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids: ids.clone(), gids: ids })
}

/// The same pod with a user namespace.
fn mapped(mut config: v1::PodSandboxConfig, host_id: u32) -> v1::PodSandboxConfig {
    namespaces(&mut config).userns_options = userns(host_id);
    config
}

/// A mount as the kubelet asks for it in such a pod.
fn idmapped(mount: v1::Mount) -> v1::Mount {
    v1::Mount { uid_mappings: mapping(ROOT), gid_mappings: mapping(ROOT), ..mount }
}

fn sleeper(name: &str) -> v1::ContainerConfig {
    container(name, BUSYBOX, &["sleep", "10000"])
}

fn capabilities(config: &mut v1::ContainerConfig, add: &[&str]) {
    security(config).capabilities = Some(v1::Capability {
        add_capabilities: add.iter().map(ToString::to_string).collect(),
        ..Default::default()
    });
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.uid(), stat.gid())
}

#[test]
fn root_inside_is_nobody_outside() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(mapped(daemon.pod("ids"), ROOT)).await;
        let id = daemon.client.launch(&pod, sleeper("root")).await;
        let root = ROOT.to_string();
        assert_eq!(status_field(processes(&id)[0], "Uid").split_whitespace().next(), Some(root.as_str()));
        let said = daemon
            .client
            .sh(&id, "tr -s ' ' < /proc/self/uid_map; tr -s ' ' < /proc/self/gid_map; id -u")
            .await;
        assert_eq!(said, format!(" 0 {ROOT} {LENGTH}\n 0 {ROOT} {LENGTH}\n0"));
        // The image, the pod's files and what the kernel shows are the container's root's.
        let paths =
            "/ /bin/busybox /etc/passwd /etc/resolv.conf /etc/hostname /dev/null /dev/shm /proc/1/status";
        let owners = daemon.client.sh(&id, &format!("stat -c %u:%g {paths} | sort -u")).await;
        assert_eq!(owners, "0:0");
        let said = daemon.client.sh(&id, "echo '# x' >> /etc/resolv.conf && echo y > /etc/new && chown alice /etc/new; cat /etc/hostname").await;
        assert_eq!(said, "ids");
        let upper = daemon.root().join("containers").join(&id).join("upper/etc/new");
        assert_eq!(owner(upper).0, ROOT + 1000);
        // A program of root's with the set-user-ID bit is root's inside.
        let su = "mkdir /s && cp /bin/busybox /s/su && chmod $mode /s/su; su alice -c '/s/su -c true' 2>&1 < /dev/null; true";
        let plain = daemon.client.sh(&id, &format!("mode=755; {su}; rm -r /s")).await;
        assert!(plain.contains("must be suid"), "{plain}");
        let suid = daemon.client.sh(&id, &format!("mode=4755; {su}")).await;
        assert!(!suid.contains("must be suid"), "{suid}");
        let mut alice = sleeper("alice");
        security(&mut alice).run_as_user = int(1000);
        let alice = daemon.client.launch(&pod, alice).await;
        assert_eq!(
            status_field(processes(&alice)[0], "Uid").split_whitespace().next(),
            Some((ROOT + 1000).to_string().as_str())
        );
        // What is told back is what was asked for; stats are there.
        let status = daemon.client.pod_status(&pod.id).await;
        let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!(options.userns_options, userns(ROOT));
        eventually("the container's figures are there", async || {
            let request = v1::ContainerStatsRequest { container_id: id.clone() };
            let stats = daemon.client.runtime.clone().container_stats(request).await.unwrap();
            let stats = stats.into_inner().stats.unwrap();
            (stats.memory.is_some() && stats.writable_layer.is_some()).then_some(())
        })
        .await;
    });
}

#[test]
fn volumes_show_the_pods_ids_and_the_rest_of_the_host_does_not() {
    scenario::run(Options::default(), async |daemon| {
        let folder = tempfile::tempdir().unwrap();
        let (volume, host) = (folder.path().join("volume"), folder.path().join("host"));
        for dir in [&volume, &host] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("file"), "content").unwrap();
        }
        fs::write(host.join("secret"), "secret").unwrap();
        fs::set_permissions(host.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        let log = folder.path().join("termination-log");
        fs::write(&log, "").unwrap();
        fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).unwrap();
        let pod = daemon.client.run_pod(mapped(daemon.host_pod("volumes"), ROOT)).await;
        let mut config = sleeper("volumes");
        config.mounts = vec![
            idmapped(bind(&volume, "/volume")),
            idmapped(v1::Mount { readonly: true, recursive_read_only: true, ..bind(&volume, "/fixed") }),
            bind(&host, "/host"),
            bind(&log, "/dev/termination-log"),
        ];
        capabilities(&mut config, &["ALL"]);
        let id = daemon.client.launch(&pod, config).await;
        let script = "stat -c %u /volume/file /host/file; touch /volume/mine; touch /volume/web; chown 1000:40 /volume/web; \
            echo why > /dev/termination-log; cat /host/file";
        assert_eq!(daemon.client.sh(&id, script).await, "0\n65534\ncontent");
        assert_eq!((owner(volume.join("mine")), owner(volume.join("web"))), ((0, 0), (1000, 40)));
        assert_eq!(fs::read_to_string(&log).unwrap(), "why\n");
        for attack in [
            "cat /host/secret",
            "echo x >> /host/file",
            "rm /host/file",
            "touch /host/new",
            "chown 0 /host/file",
            "chmod 777 /host",
            "chown 70000 /volume/file",
            "touch /fixed/new",
            "mknod /volume/disk b 254 0",
            &format!("cat {}/containers/*/container.json", daemon.root().display()),
        ] {
            let output = daemon.client.exec(&id, &["/bin/sh", "-c", attack]).await;
            assert_ne!(output.code, 0, "{attack}: {}", output.stdout);
        }
        assert_eq!(fs::read_dir(&host).unwrap().count(), 2);
        let told = daemon.client.status(&id).await.mounts;
        assert_eq!(told.iter().filter(|mount| mount.uid_mappings == mapping(ROOT)).count(), 2);
        // Nor does somebody on the host with the pod's ids get anywhere.
        for dir in [daemon.root(), &daemon.state()] {
            let ids = [format!("--reuid={ROOT}"), format!("--regid={ROOT}")];
            let found =
                Command::new("setpriv").args(ids).args(["--clear-groups", "ls"]).arg(dir).output().unwrap();
            assert!(!found.status.success(), "{found:?}");
        }
        // What cannot show other ids is named, and leaves nothing behind.
        let mut config = sleeper("refused");
        config.mounts = vec![idmapped(bind(Path::new("/sys/kernel"), "/kernel"))];
        let status = refusal("an idmapped sysfs", daemon.client.try_create(&pod, config).await);
        assert!(
            status.message().contains("/sys/kernel, which is on file system sysfs"),
            "{}",
            status.message()
        );
    });
}

#[test]
fn capabilities_are_over_what_the_pod_has() {
    scenario::run(Options::default(), async |daemon| {
        let mut config = mapped(daemon.pod("caps"), ROOT);
        let sysctls = &mut config.linux.get_or_insert_default().sysctls;
        sysctls.insert("net.core.somaxconn".to_owned(), "77".to_owned());
        sysctls.insert("kernel.shmmni".to_owned(), "78".to_owned());
        let pod = daemon.client.run_pod(config).await;
        // Capabilities alone decide: AppArmor's default profile lets nobody mount.
        let [mut strong, mut weak] = ["strong", "weak"].map(sleeper);
        for config in [&mut strong, &mut weak] {
            security(config).apparmor = profile(ProfileType::Unconfined, "");
        }
        capabilities(&mut strong, &["ALL"]);
        let strong = daemon.client.launch(&pod, strong).await;
        let weak = daemon.client.launch(&pod, weak).await;
        let read = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmni";
        assert_eq!(daemon.client.sh(&weak, read).await, "77\n78");
        for own in [
            "ip link add own type bridge && ip link del own",
            "mount -t tmpfs none /tmp && umount /tmp",
            "echo 79 > /proc/sys/net/core/somaxconn",
            "hostname other",
            "ping -c 1 -W 5 127.0.0.1",
        ] {
            let tried = daemon.client.exec(&strong, &["/bin/sh", "-c", own]).await;
            assert_eq!(tried.code, 0, "{own}: {}", tried.stderr);
        }
        for refused in ["ip link add own type bridge", "mount -t tmpfs none /tmp", "hostname other"] {
            assert_ne!(daemon.client.exec(&weak, &["/bin/sh", "-c", refused]).await.code, 0, "{refused}");
        }
        for host in ["mount -o remount,size=1m /dev", "cat /dev/kmsg", "renice -n -5 $$", "mknod /x c 1 3"] {
            assert_ne!(daemon.client.exec(&strong, &["/bin/sh", "-c", host]).await.code, 0, "{host}");
        }
    });
}

/// What a web server answers.
fn get(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.split_once("\r\n\r\n")?.1.trim().to_owned())
}

#[test]
fn the_network_is_there_and_so_is_port_forward() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(mapped(daemon.pod("web"), ROOT)).await;
        let script = "hostname > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
        daemon.client.launch(&pod, container("web", BUSYBOX, &["sh", "-c", script])).await;
        let ip = daemon.client.pod_status(&pod.id).await.network.unwrap().ip;
        eventually("the pod answers", async || get(&format!("{ip}:80")).filter(|said| said == "web")).await;
        let mut forward = CommandLine::crictl(&daemon.socket())
            .command(&["port-forward", &pod.id, "0:80"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        // Kept: it writes a line for each connection.
        let mut said = BufReader::new(forward.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let port = line.split_once("127.0.0.1:").unwrap().1.split(' ').next().unwrap().to_owned();
        let at = format!("127.0.0.1:{port}");
        eventually("the pod answers behind it", async || get(&at).filter(|said| said == "web")).await;
        forward.kill().unwrap();
        forward.wait().unwrap();
    });
}

#[test]
fn a_killed_daemon_finds_the_pod_as_it_was() {
    scenario::run(Options::default(), async |daemon| {
        let mut shared = mapped(daemon.host_pod("shared"), ROOT + LENGTH);
        namespaces(&mut shared).pid = v1::NamespaceMode::Pod.into();
        let (own, shared) = (mapped(daemon.pod("own"), ROOT), daemon.client.run_pod(shared).await);
        let own = daemon.client.run_pod(own).await;
        let mut in_shared = sleeper("shared");
        security(&mut in_shared).namespace_options =
            Some(v1::NamespaceOption { pid: v1::NamespaceMode::Pod.into(), ..Default::default() });
        let in_shared = daemon.client.launch(&shared, in_shared).await;
        let in_own = daemon.client.launch(&own, sleeper("own")).await;
        let before = [daemon.client.pod_status(&own.id).await, daemon.client.pod_status(&shared.id).await];
        daemon.kill();
        daemon.spawn().await;
        let after = [daemon.client.pod_status(&own.id).await, daemon.client.pod_status(&shared.id).await];
        assert_eq!(after, before);
        let map = |root: u32| format!(" 0 {root} {LENGTH}");
        let ask = "tr -s ' ' < /proc/self/uid_map";
        // Two pods of one image, each with ids of its own, and a container that comes later.
        assert_eq!(daemon.client.sh(&in_own, ask).await, map(ROOT));
        assert_eq!(daemon.client.sh(&in_shared, ask).await, map(ROOT + LENGTH));
        assert_eq!(
            daemon.client.sh(&in_shared, "cat /proc/1/comm; stat -c %u /bin/sh").await,
            "carpel-init\n0"
        );
        let later = daemon.client.launch(&own, sleeper("later")).await;
        assert_eq!(daemon.client.sh(&later, &format!("{ask}; stat -c %u /bin/sh")).await, map(ROOT) + "\n0");
        daemon.client.stop(&later, 0).await;
        assert_eq!(daemon.client.status(&later).await.exit_code, 137);
    });
}

#[test]
fn a_terminal_is_the_containers() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(mapped(daemon.host_pod("tty"), ROOT)).await;
        let mut config = container("tty", BUSYBOX, &["sh", "-c", "tty; stat -c %u $(tty) /dev/console"]);
        config.tty = true;
        let status = daemon.client.run_to_end(&pod, config).await;
        let log = carpel_e2e::log::read(Path::new(&status.log_path));
        assert_eq!(carpel_e2e::log::text(&log, "stdout").replace('\r', ""), "/dev/pts/0\n0\n0\n");
        assert_eq!(status.exit_code, 0);
    });
}

#[test]
fn the_hosts_network_goes_with_it_and_other_host_namespaces_do_not() {
    scenario::run(Options::default(), async |daemon| {
        let pod = daemon.client.run_pod(mapped(daemon.host_pod("host"), ROOT)).await;
        let id = daemon.client.launch(&pod, sleeper("host")).await;
        let link = fs::read_link("/proc/self/ns/net").unwrap();
        let script = "readlink /proc/self/ns/net; ls /sys/class/net | grep -cx lo; touch /sys/x 2> /dev/null || echo fixed";
        assert_eq!(daemon.client.sh(&id, script).await, format!("{}\n1\nfixed", link.display()));
        type Change = fn(&mut v1::NamespaceOption);
        let node = |set: Change| {
            let mut config = mapped(daemon.host_pod("refused"), ROOT);
            set(namespaces(&mut config));
            config
        };
        for set in [(|options| options.pid = v1::NamespaceMode::Node.into()) as Change, |options| {
            options.ipc = v1::NamespaceMode::Node.into()
        }] {
            let status = refusal("a host namespace", daemon.client.try_run_pod(&node(set)).await);
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        }
        // A container has its pod's user namespace, and ids that are in it.
        let cases: [fn(&mut v1::ContainerConfig); 5] = [
            |config| {
                security(config).namespace_options.get_or_insert_default().userns_options = userns(ROOT + 1)
            },
            |config| {
                security(config).namespace_options.get_or_insert_default().userns_options =
                    Some(v1::UserNamespace { mode: v1::NamespaceMode::Node.into(), ..Default::default() });
            },
            |config| {
                security(config).namespace_options.get_or_insert_default().pid =
                    v1::NamespaceMode::Node.into()
            },
            |config| security(config).run_as_user = int(i64::from(LENGTH)),
            |config| {
                let ids = mapping(ROOT + 1);
                let other = v1::Mount {
                    uid_mappings: ids.clone(),
                    gid_mappings: ids,
                    ..bind(Path::new("/tmp"), "/t")
                };
                config.mounts = vec![other];
            },
        ];
        for change in cases {
            let mut config = sleeper("refused");
            change(&mut config);
            let status = refusal("a container", daemon.client.try_create(&pod, config).await);
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        }
        let plain = daemon.client.run_pod(daemon.host_pod("plain")).await;
        let mut config = sleeper("plain");
        config.mounts = vec![idmapped(bind(Path::new("/tmp"), "/t"))];
        let status = refusal("an idmapped mount", daemon.client.try_create(&plain, config).await);
        assert_eq!(status.code(), Code::InvalidArgument);
    });
}

async fn reads_image_volume(daemon: &Daemon, pod: &Pod, ids: bool) {
    let volume = |path: &str, sub_path: &str| {
        let mount = v1::Mount {
            container_path: path.to_owned(),
            image: Some(image_spec(BUSYBOX)),
            image_sub_path: sub_path.to_owned(),
            readonly: true,
            ..Default::default()
        };
        if ids { idmapped(mount) } else { mount }
    };
    let mut config = sleeper("image");
    config.mounts = vec![volume("/all", ""), volume("/part", "etc"), volume("/file", "etc/passwd")];
    let id = daemon.client.launch(pod, config).await;
    let script = "cmp /all/etc/passwd /part/passwd && cmp /part/passwd /file; stat -c %u /all /part /file | sort -u; \
        touch /part/x 2> /dev/null || echo fixed; ls /part/passwd";
    assert_eq!(daemon.client.sh(&id, script).await, "0\nfixed\n/part/passwd");
    for bad in ["absent", "../etc", "/etc", "etc/passwd/x"] {
        let mut config = sleeper("refused");
        config.mounts = vec![volume("/part", bad)];
        let status = refusal(bad, daemon.client.try_create(pod, config).await);
        assert!(status.message().contains(bad), "{bad}: {}", status.message());
        // What the image lacks the kubelet tells as a fault of the volume; what makes no sense anywhere is no such.
        let (code, word) = match bad {
            "../etc" | "/etc" => (Code::InvalidArgument, ""),
            _ => (Code::Unknown, "ImageVolumeMountFailed: "),
        };
        assert_eq!(status.code(), code, "{bad}: {}", status.message());
        assert!(status.message().starts_with(word), "{bad}: {}", status.message());
    }
}

#[test]
fn image_volumes_with_and_without_a_sub_path() {
    scenario::run(Options::default(), async |daemon| {
        let plain = daemon.client.run_pod(daemon.host_pod("plain")).await;
        reads_image_volume(daemon, &plain, false).await;
        let own = daemon.client.run_pod(mapped(daemon.host_pod("own"), ROOT)).await;
        reads_image_volume(daemon, &own, true).await;
    });
}

#[test]
fn privileged_is_over_the_pod_too() {
    scenario::run(Options::default(), async |daemon| {
        let mut config = mapped(daemon.pod("privileged"), ROOT);
        carpel_e2e::config::pod_security(&mut config).privileged = true;
        let pod = daemon.client.run_pod(config).await;
        let mut config = sleeper("privileged");
        security(&mut config).privileged = true;
        let id = daemon.client.launch(&pod, config).await;
        let script = "set -e; mount -t proc none /tmp; umount /tmp; mount -t sysfs none /tmp; umount /tmp; \
            unshare -m true; ip link add own type bridge; echo fine";
        assert_eq!(daemon.client.sh(&id, script).await, "fine");
        for host in [
            "for d in /dev/vd* /dev/sd* /dev/nvme*; do head -c 1 $d > /dev/null && exit 0; done; exit 1",
            "echo x > /sys/kernel/uevent_helper",
            ": >> /proc/sys/kernel/core_pattern",
            ": >> /proc/sysrq-trigger",
        ] {
            assert_ne!(daemon.client.exec(&id, &["/bin/sh", "-c", host]).await.code, 0, "{host}");
        }
    });
}
