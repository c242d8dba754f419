//! Pods without containers: with the real shim, in network namespaces of the test's own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "node/machine.rs"]
mod machine;

use std::{fs, time::Duration};

use carpel_pod::{FindError, PodState, RunError};
use machine::{Machine, host_network, is_alive, kill, on_machine, sandbox, until};

#[test]
fn a_pod_has_a_network_and_leaves_nothing() {
    on_machine(|machine| async move {
        let id = machine.pods().run(sandbox("web")).await.unwrap();
        let pod = machine.pods().find_pod(&id.as_str()[..12]).unwrap();
        assert_eq!((pod.state, pod.id.clone()), (PodState::Ready, id.clone()));
        assert_eq!(pod.ips.len(), 1);
        assert_eq!(pod.config.labels["app"], "web");
        assert!(pod.created_at_ns > 0 && is_alive(pod.shim_pid.unwrap()));
        assert!(machine.pods().netns_of(id.as_str()).unwrap().is_some());
        let hostname = machine.path(&format!("state/pods/{id}/hostname"));
        assert_eq!(fs::read_to_string(hostname).unwrap(), "web\n");

        machine.pods().stop(id.as_str()).await.unwrap();
        machine.pods().stop(id.as_str()).await.unwrap();
        let stopped = machine.pods().find_pod(id.as_str()).unwrap();
        assert_eq!((stopped.state, &stopped.ips), (PodState::NotReady, &pod.ips), "the address stays listed");
        assert!(!is_alive(pod.shim_pid.unwrap()));
        assert_eq!(machine.network().known(), Vec::<String>::new());
        machine.pods().remove(id.as_str()).await.unwrap();
        machine.pods().remove(id.as_str()).await.unwrap();
        let gone = machine.pods().find_pod(id.as_str());
        assert!(matches!(gone, Err(FindError::NotFound { .. })));
        machine
    });
}

#[test]
fn runs_of_one_name_join() {
    on_machine(|machine| async move {
        let pods = machine.pods();
        let (one, two) = tokio::join!(pods.run(sandbox("web")), pods.run(sandbox("web")));
        let id = one.unwrap();
        assert_eq!(two.unwrap(), id);
        // A caller that goes away does not end it, and its retry gets the same pod.
        let abandoned = tokio::time::timeout(Duration::ZERO, pods.run(sandbox("slow"))).await;
        assert!(abandoned.is_err());
        let slow = pods.run(sandbox("slow")).await.unwrap();
        assert_eq!(pods.run(sandbox("slow")).await.unwrap(), slow);
        assert_eq!(pods.pods().len(), 2);

        let mut other = sandbox("web");
        other.hostname = "other".to_owned();
        assert!(matches!(pods.run(other).await, Err(RunError::NameTaken { id: taken, .. }) if taken == id));
        pods.stop(id.as_str()).await.unwrap();
        assert!(matches!(pods.run(sandbox("web")).await, Err(RunError::NameTaken { .. })));
        pods.remove(id.as_str()).await.unwrap();
        let again = pods.run(sandbox("web")).await.unwrap();
        assert_ne!(again, id);
        assert!(pods.find_pod(again.as_str()).unwrap().created_at_ns > 0);
        machine
    });
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    on_machine(|machine| async move {
        let pods = machine.pods();
        let mut handler = sandbox("web");
        handler.runtime_handler = "absent".to_owned();
        assert!(matches!(pods.run(handler).await, Err(RunError::UnknownHandler(_))));
        let mut hostname = sandbox("web");
        hostname.hostname = "x".repeat(100);
        assert!(matches!(pods.run(hostname).await, Err(RunError::Plan { .. })));
        let mut sysctl = sandbox("web");
        sysctl.sysctls.insert("kernel.panic".to_owned(), "1".to_owned());
        assert!(matches!(pods.run(sysctl).await, Err(RunError::Plan { .. })));
        assert!(pods.pods().is_empty());
        // The name is free again.
        pods.run(sandbox("web")).await.unwrap();
        machine
    });
}

#[test]
fn a_killed_shim_ends_its_pod_and_no_other() {
    on_machine(|machine| async move {
        let victim = machine.pods().run(sandbox("victim")).await.unwrap();
        let other = machine.pods().run(host_network(sandbox("other"))).await.unwrap();
        kill(machine.pods().find_pod(victim.as_str()).unwrap().shim_pid.unwrap());
        until("the pod is not ready", async || {
            let pod = machine.pods().find_pod(victim.as_str()).unwrap();
            (pod.state == PodState::NotReady && pod.shim_pid.is_none()).then_some(())
        })
        .await;
        assert_eq!(machine.pods().find_pod(other.as_str()).unwrap().state, PodState::Ready);
        machine.pods().stop(victim.as_str()).await.unwrap();
        machine.pods().remove(victim.as_str()).await.unwrap();
        machine
    });
}

#[test]
fn a_restart_finds_pods_as_they_were() {
    on_machine(|mut machine: Machine| async move {
        let ready = machine.pods().run(sandbox("ready")).await.unwrap();
        let stopped = machine.pods().run(sandbox("stopped")).await.unwrap();
        let lost = machine.pods().run(sandbox("lost")).await.unwrap();
        machine.pods().stop(stopped.as_str()).await.unwrap();
        let before = machine.pods().find_pod(ready.as_str()).unwrap();
        let shim = machine.pods().find_pod(lost.as_str()).unwrap().shim_pid.unwrap();
        machine.crash().await;
        kill(shim);
        // A torn record is put aside, and keeps nobody from starting.
        fs::write(machine.path("root/pods").join(format!("{}.json", "f".repeat(64))), "{\"version\":1")
            .unwrap();
        machine.start().await;
        let after = machine.pods().find_pod(ready.as_str()).unwrap();
        assert_eq!((after.state, after.shim_pid, &after.ips), (before.state, before.shim_pid, &before.ips));
        assert_eq!(after.config, before.config);
        assert_eq!(after.created_at_ns, before.created_at_ns);
        for id in [&stopped, &lost] {
            assert_eq!(machine.pods().find_pod(id.as_str()).unwrap().state, PodState::NotReady);
        }
        assert_eq!(fs::read_dir(machine.path("root/quarantine")).unwrap().count(), 1);
        // The same name is the same pod, also for a daemon that did not make it.
        assert_eq!(machine.pods().run(sandbox("ready")).await.unwrap(), ready);
        machine
    });
}

#[test]
fn a_pod_that_was_being_made_is_taken_back() {
    on_machine(|mut machine: Machine| async move {
        let id = machine.pods().run(sandbox("half")).await.unwrap();
        machine.crash().await;
        let path = machine.path(&format!("root/pods/{id}.json"));
        let record = fs::read_to_string(&path).unwrap().replace("\"ready\"", "\"creating\"");
        fs::write(&path, record).unwrap();
        machine.start().await;
        assert!(machine.pods().find_pod(id.as_str()).is_err());
        assert_eq!(machine.network().known(), Vec::<String>::new());
        let again = machine.pods().run(sandbox("half")).await.unwrap();
        assert_ne!(again, id);
        machine
    });
}

#[test]
fn another_boot_leaves_pods_that_are_not_ready() {
    on_machine(|mut machine: Machine| async move {
        let id = machine.pods().run(sandbox("old")).await.unwrap();
        let shim = machine.pods().find_pod(id.as_str()).unwrap().shim_pid.unwrap();
        machine.crash().await;
        kill(shim);
        until("the shim is gone", async || (!is_alive(shim)).then_some(())).await;
        let path = machine.path(&format!("root/pods/{id}.json"));
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let record = fs::read_to_string(&path).unwrap().replace(boot.trim(), "an earlier one");
        fs::write(&path, record).unwrap();
        machine.start().await;
        assert_eq!(machine.pods().find_pod(id.as_str()).unwrap().state, PodState::NotReady);
        machine.pods().stop(id.as_str()).await.unwrap();
        assert_eq!(machine.network().known(), Vec::<String>::new());
        machine
    });
}
