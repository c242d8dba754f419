//! A connection to a living shim breaks. A program of its own, for it breaks all that this one has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "node/machine.rs"]
mod machine;

use std::os::fd::OwnedFd;

use carpel_pod::{ContainerState, ExecRequest, ExecStreams, PodState};
use machine::{is_alive, on_machine, until};
use rustix::{
    net::{Shutdown, SocketAddrUnix},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid},
};

/// This process's sockets that are connected to shims.
fn connections() -> Vec<OwnedFd> {
    let this: Pid = getpid();
    let pidfd = rustix::process::pidfd_open(this, PidfdFlags::empty()).unwrap();
    let names = std::fs::read_dir("/proc/thread-self/fd").unwrap().flatten();
    let numbers: Vec<i32> = names.filter_map(|name| name.file_name().to_str()?.parse().ok()).collect();
    let open = numbers
        .into_iter()
        .filter_map(|fd| rustix::process::pidfd_getfd(&pidfd, fd, PidfdGetfdFlags::empty()).ok());
    open.filter(|fd| {
        let peer = rustix::net::getpeername(fd).ok().flatten();
        let peer = peer.and_then(|peer| SocketAddrUnix::try_from(peer).ok());
        let path = peer.and_then(|peer| Some(peer.path()?.to_string_lossy().into_owned()));
        path.is_some_and(|path| path.ends_with(carpel_shim_api::record::SOCKET_NAME))
    })
    .collect()
}

#[test]
fn a_pod_outlives_its_connection() {
    on_machine(|machine| async move {
        machine.import_busybox().await;
        let pod = machine.host_pod("web").await;
        let id = machine.started(&pod, "idle", "while :; do sleep 1; done").await;
        let ends =
            machine.started(&pod, "ends", "while [ ! -e /tmp/end ]; do sleep 0.02; done; exit 7").await;
        let created = machine.created(&pod, "created", "exit 5").await;
        let shim = machine.pods().find_pod(pod.as_str()).unwrap().shim_pid.unwrap();
        let container = machine.pid(&id);
        let sh = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let streams = ExecStreams::Pipes { stdin: false, stdout: true, stderr: false };
        let request = ExecRequest { command: sh("sleep 1000"), streams };
        let mut session = machine.pods().exec(id.as_str(), request).await.unwrap();
        // Ends while nobody hears of it.
        machine.pods().exec_sync(ends.as_str(), sh("sleep 0.01; touch /tmp/end"), None).await.unwrap();

        let broken = connections();
        assert!(!broken.is_empty());
        for socket in broken {
            rustix::net::shutdown(&socket, Shutdown::Both).unwrap();
        }
        assert!(session.process.wait().await.is_err(), "its end is not heard any more");

        until("commands can be run again", async || {
            let output = machine.pods().exec_sync(id.as_str(), sh("echo again"), None).await.ok()?;
            (output.stdout == b"again\n").then_some(())
        })
        .await;
        let now = machine.pods().find_pod(pod.as_str()).unwrap();
        assert_eq!((now.state, now.shim_pid), (PodState::Ready, Some(shim)));
        assert!(is_alive(shim));
        assert_eq!(machine.pid(&id), container, "it runs on");
        assert_eq!(machine.exit(&ends).await.code, 7);
        assert!(matches!(machine.container(&created).state, ContainerState::Created));
        machine.pods().start_container(created.as_str()).await.unwrap();
        assert_eq!(machine.exit(&created).await.code, 5);
        let lost = session.process.pid();
        until("the command that was lost is ended", async || (!is_alive(lost)).then_some(())).await;
        machine
    });
}
