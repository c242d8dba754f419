use carpel_proto::v1::{ContainerMetadata, PodSandboxMetadata};

use super::*;

fn pod(id: &str, name: &str, namespace: &str, state: i32) -> PodSandbox {
    let metadata =
        PodSandboxMetadata { name: name.into(), namespace: namespace.into(), ..Default::default() };
    PodSandbox { id: id.into(), metadata: Some(metadata), state, ..Default::default() }
}

fn container(id: &str, pod_id: &str, name: &str, state: ContainerState) -> Container {
    let metadata = ContainerMetadata { name: name.into(), attempt: 0 };
    Container {
        id: id.into(),
        pod_sandbox_id: pod_id.into(),
        metadata: Some(metadata),
        state: state.into(),
        ..Default::default()
    }
}

/// Containers are newest first, as `Census::take` sorts them.
fn census() -> Census {
    use ContainerState::{ContainerExited as Exited, ContainerRunning as Running};
    Census {
        pods: vec![
            pod("aa11", "web", "default", 0),
            pod("aa22", "web", "prod", 1),
            pod("bb33", "db", "default", 0),
            pod("cc44", "job", "default", 0),
            pod("dd55", "empty", "default", 0),
        ],
        containers: vec![
            container("c1aa", "aa11", "nginx", Running),
            container("c2aa", "bb33", "postgres", Running),
            container("c3bb", "bb33", "sidecar", Running),
            container("c5cc", "cc44", "job", Exited),
            container("c4cc", "cc44", "job", Exited),
            container("aaff", "bb33", "init", Exited),
        ],
    }
}

fn target(text: &str) -> String {
    match census().target(text) {
        Ok(target) => target.id().to_owned(),
        Err(ResolveError::NotFound { .. }) => "nothing".into(),
        Err(ResolveError::Ambiguous { candidates, .. }) => format!("ambiguous: {}", candidates.len()),
        Err(ResolveError::NotOneContainer { count, .. }) => format!("{count} containers"),
    }
}

fn contained(text: &str) -> String {
    match census().container(text) {
        Ok(container) => container.id.clone(),
        Err(ResolveError::NotFound { .. }) => "nothing".into(),
        Err(ResolveError::Ambiguous { candidates, .. }) => format!("ambiguous: {}", candidates.len()),
        Err(ResolveError::NotOneContainer { count, .. }) => format!("{count} containers"),
    }
}

#[test]
fn a_target_is_an_id_a_name_or_the_beginning_of_an_id() {
    for (text, expected) in [
        ("aa11", "aa11"),
        ("web", "aa11"), // the other one of that name is not ready
        ("prod/web", "aa22"),
        ("bb", "bb33"),
        ("aa", "ambiguous: 3"), // two pods and a container
        ("aaf", "aaff"),
        ("job", "cc44"),         // the pod, not its container
        ("cc44/job", "nothing"), // names go with names
        ("job/job", "c5cc"),
        ("postgres", "c2aa"),
        ("c", "ambiguous: 6"),
        ("zz", "nothing"),
        ("", "nothing"),
    ] {
        assert_eq!(target(text), expected, "{text:?}");
    }
}

#[test]
fn a_pod_stands_for_its_only_container() {
    for (text, expected) in [
        ("web", "c1aa"),
        ("aa11", "c1aa"),
        ("job", "c5cc"), // the newest attempt
        ("db", "3 containers"),
        ("empty", "0 containers"),
        ("db/sidecar", "c3bb"),
        ("c", "ambiguous: 5"),
        ("nothing", "nothing"),
    ] {
        assert_eq!(contained(text), expected, "{text:?}");
    }
}

#[test]
fn an_ambiguity_names_some_and_counts_the_rest() {
    let mut census = Census::default();
    census.pods.extend((0..20).map(|number| pod(&format!("a{number:02}"), "p\x1b[2J", "default", 0)));
    let error = census.pod("a").unwrap_err().to_string();
    assert!(error.contains("a07") && error.contains("12 more") && !error.contains("a08"), "{error}");
    assert!(!error.contains('\x1b'), "{error:?}");
}
