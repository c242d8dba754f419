use futures::FutureExt;

use super::*;
use crate::{PodState, snapshot};

fn pod(number: u64) -> Arc<PodSnapshot> {
    let json = r#"{"metadata":{"name":"n","namespace":"s","uid":"u","attempt":1},"hostname":"h",
        "log_directory":null,"dns":null,"port_mappings":[],"labels":{},"annotations":{},"cgroup_parent":null,
        "namespaces":{"network":"Pod","ipc":"Pod","pid":"Container"},"security":{"privileged":false,
        "run_as_user":null,"run_as_group":null,"supplemental_groups":[],"readonly_rootfs":false,
        "selinux":null,"seccomp":"Unconfined"},"sysctls":{},"overhead":null,"resources":null,
        "runtime_handler":""}"#;
    Arc::new(snapshot::PodSnapshot {
        id: PodId::try_from(format!("{number:064x}")).unwrap(),
        config: Arc::new(serde_json::from_str(json).unwrap()),
        state: PodState::Ready,
        created_at_ns: 1,
        ips: Vec::new(),
        netns: None,
        shim_pid: None,
        init_pid: None,
        cgroup_parent: String::new(),
        containers: Vec::new(),
    })
}

fn tell(events: &Events, number: u64, at_ns: i64) {
    let pod = pod(number);
    events.publish(EventKind::Started, pod.id.to_string(), at_ns, pod, Vec::new());
}

#[test]
fn everybody_gets_all_events_in_order() {
    let events = Events::default();
    tell(&events, 1, 0);
    let (mut one, mut two) = (events.subscribe(), events.subscribe());
    for at in 1..=3 {
        tell(&events, 1, at);
    }
    for stream in [&mut one, &mut two] {
        let seen: Vec<i64> = (0..3).map(|_| stream.next().now_or_never().unwrap().at_ns).collect();
        assert_eq!(seen, [1, 2, 3], "events from before a subscription are not its own");
        assert!(stream.next().now_or_never().is_none());
    }
    let sequence = |stream: &mut EventStream| stream.next().now_or_never().unwrap().sequence;
    tell(&events, 2, 4);
    assert_eq!(sequence(&mut one), sequence(&mut two));
}

#[test]
fn a_slow_reader_loses_old_states_and_never_the_newest() {
    let events = Events::default();
    let mut stream = events.subscribe();
    let rounds = i64::try_from(QUEUE_MAX).unwrap();
    for at in 0..rounds {
        for number in 0..3 {
            tell(&events, number, at);
        }
    }
    let mut seen = Vec::new();
    while let Some(event) = stream.next().now_or_never() {
        seen.push((event.pod.id.clone(), event.at_ns));
    }
    assert!(seen.len() <= QUEUE_MAX + 1, "{} events were kept", seen.len());
    for number in 0..3 {
        let of_pod: Vec<i64> =
            seen.iter().filter(|(id, _)| *id == pod(number).id).map(|(_, at)| *at).collect();
        assert_eq!(of_pod.last(), Some(&(rounds - 1)));
        assert!(of_pod.is_sorted());
    }
}

#[test]
fn a_stream_that_is_gone_costs_nothing() {
    let events = Events::default();
    drop(events.subscribe());
    tell(&events, 1, 0);
    assert!(events.inner.lock().unwrap().subscribers.is_empty());
}
