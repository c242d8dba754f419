//! A connection to a living shim breaks. A program of its own, for it breaks all that this one has.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "node/machine.rs"]
mod machine;

use std::{
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use carpel_pod::{ContainerState, EventKind, ExecRequest, ExecStreams, PodState};
use machine::{PATIENCE, is_alive, on_machine, shell, until};
use rustix::{
    net::{Shutdown, SocketAddrUnix},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid},
};

/// Held by the test that runs: it breaks the connections of all.
static ALONE: Mutex<()> = Mutex::new(());

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

/// Breaks them all; returns how many there were.
fn break_connections() -> usize {
    let broken = connections();
    for socket in &broken {
        // One that the shim has closed meanwhile is broken too.
        let _ = rustix::net::shutdown(socket, Shutdown::Both);
    }
    broken.len()
}

#[test]
fn a_pod_outlives_its_connection() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
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

        assert!(break_connections() > 0);
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

/// Tries until the connection is there for it.
async fn insist<T, E: std::fmt::Debug>(what: &str, mut call: impl AsyncFnMut() -> Result<T, E>) -> T {
    until(what, async || call().await.ok()).await
}

/// Breaks connections at any moment of containers' lives: those that are listed run as they were asked
/// to, the end of each is told once, and the shim forgets the others. `CARPEL_RACE_ROUNDS` lives.
#[test]
fn no_moment_to_break_a_connection_loses_an_end() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let rounds: u64 = std::env::var("CARPEL_RACE_ROUNDS").map_or(40, |text| text.parse().unwrap());
    on_machine(move |machine| async move {
        machine.import_busybox().await;
        let pod = machine.host_pod("shaken").await;
        // The moments are spread over what making and starting one takes on this machine, now.
        let begun = Instant::now();
        let id = machine.pods().create_container(pod.as_str(), shell("undisturbed", "exit 7")).await.unwrap();
        machine.pods().start_container(id.as_str()).await.unwrap();
        let whole = begun.elapsed();
        let mut events = machine.pods().events();
        let mut lost = 0;
        for round in 0..rounds {
            let config = shell(&format!("c{round}"), ["exit 7", "sleep 0.02; exit 7"][round as usize % 2]);
            let life = async {
                let id = machine.pods().create_container(pod.as_str(), config).await.ok()?;
                // Whether it was done or not, the next try finds out.
                let _ = machine.pods().start_container(id.as_str()).await;
                Some(id)
            };
            let breaks = async {
                tokio::time::sleep(whole * (round as u32 % 40) / 20).await;
                break_connections();
            };
            let (id, ()) = tokio::join!(life, breaks);
            let Some(id) = id else {
                lost += 1;
                let id = insist("the next call is carried out", async || {
                    let probe = shell(&format!("probe{round}"), "exit 0");
                    machine.pods().create_container(pod.as_str(), probe).await
                })
                .await;
                machine.pods().remove_container(id.as_str()).await.unwrap();
                continue;
            };
            until("it has been started and has ended", async || match machine.container(&id).state {
                ContainerState::Created => {
                    let _ = machine.pods().start_container(id.as_str()).await;
                    None
                }
                ContainerState::Exited(ref exit) => {
                    assert_eq!(exit.code, 7, "round {round}: {exit:?}");
                    Some(())
                }
                ContainerState::Running { .. } | ContainerState::Unknown => None,
            })
            .await;
            insist("it is removed", async || machine.pods().remove_container(id.as_str()).await).await;
            let mut told = Vec::new();
            while told.last() != Some(&EventKind::Deleted) {
                let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
                if event.subject == id.as_str() {
                    told.push(event.kind);
                }
            }
            told.retain(|kind| *kind != EventKind::Started);
            let expected = [EventKind::Created, EventKind::Stopped, EventKind::Deleted];
            assert_eq!(told, expected, "round {round}");
        }
        assert!(rounds < 40 || (1..rounds).contains(&lost), "{lost} of {rounds} were not made");
        until("what nobody knows is forgotten", async || {
            let known = machine.pods().containers().len();
            (machine.container_cgroups() == known).then_some(())
        })
        .await;
        machine
    });
}
