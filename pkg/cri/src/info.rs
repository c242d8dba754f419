//! Verbose answers: a JSON text under `info`, in the shape that containerd's has, because tools read it.

use std::collections::BTreeMap;

use carpel_image::Image;
use carpel_pod::{AppArmorState, ContainerSnapshot, ContainerState, PodSnapshot};
use serde_json::json;

use crate::service::RuntimeFacts;

type Info = BTreeMap<String, String>;

fn info(value: &serde_json::Value) -> Info {
    BTreeMap::from([("info".to_owned(), value.to_string())])
}

/// A pod sandbox. `pid` is a process in its namespaces: the micro-init, else the shim.
pub(crate) fn pod(pod: &PodSnapshot) -> Info {
    info(&json!({
        "pid": pod.init_pid.or(pod.shim_pid),
        "shimPid": pod.shim_pid,
        "netns": pod.netns,
        "cgroupParent": pod.cgroup_parent,
        "runtimeType": "io.carpel.builtin",
        "config": *pod.config,
    }))
}

/// A container, and what it was made from as an OCI runtime spec.
pub(crate) fn container(container: &ContainerSnapshot, runtime_spec: Option<String>) -> Info {
    let pid = match container.state {
        ContainerState::Running { pid, .. } => Some(pid),
        ContainerState::Created | ContainerState::Exited(_) | ContainerState::Unknown => None,
    };
    let mut config = serde_json::to_value(&*container.config).unwrap_or_default();
    let mut runtime_spec = runtime_spec
        .and_then(|spec| serde_json::from_str::<serde_json::Value>(&spec).ok())
        .unwrap_or_default();
    // Environment values are often secrets; this text ends up in support bundles.
    for (object, key) in [(Some(&mut config), "envs"), (runtime_spec.get_mut("process"), "env")] {
        if let Some(object) = object.and_then(serde_json::Value::as_object_mut) {
            object.remove(key);
        }
    }
    info(&json!({
        "sandboxID": container.pod_id,
        "pid": pid,
        "cgroupPath": container.cgroup_path,
        "runtimeType": "io.carpel.builtin",
        "config": config,
        "runtimeSpec": runtime_spec,
    }))
}

/// An image: its configuration, chain of layers and manifest.
pub(crate) fn image(image: &Image) -> Info {
    let layers: Vec<String> = image.layers.iter().map(ToString::to_string).collect();
    info(&json!({
        "chainIDs": layers,
        "imageSpec": { "config": {
            "User": image.config.user,
            "Entrypoint": image.config.entrypoint,
            "Cmd": image.config.cmd,
            "WorkingDir": image.config.working_dir,
            "Env": image.config.env,
            "Labels": image.config.labels,
            "StopSignal": image.config.stop_signal,
        }},
    }))
}

/// The daemon.
pub(crate) fn daemon(facts: &RuntimeFacts, apparmor: AppArmorState) -> Info {
    BTreeMap::from([(
        "config".to_owned(),
        json!({ "version": facts.version, "toml": facts.config, "apparmor": apparmor.to_string() })
            .to_string(),
    )])
}
