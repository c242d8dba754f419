//! From what a person types to one pod or container.
//!
//! In this order, the first that fits anything decides: the whole id, the name, the beginning of the id.
//! A pod's name is `NAME` or `NAMESPACE/NAME`; a container's is `NAME` or `POD/NAME`. Where a container is
//! wanted, a pod with a single container stands for it.

use carpel_proto::v1::{Container, ContainerState, ListContainersRequest, ListPodSandboxRequest, PodSandbox};

use crate::{
    client::{CallError, Client, ask},
    table::{printable, short_id},
};

/// Candidates that an ambiguity names at most.
const CANDIDATES_SHOWN: usize = 8;

/// Why a text is no one thing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("no {kind} has the name or id {text:?}")]
    NotFound { kind: &'static str, text: String },
    #[error("{text:?} may be any of {}", .candidates.join(", "))]
    Ambiguous { text: String, candidates: Vec<String> },
    #[error("pod {pod:?} has {count} containers")]
    NotOneContainer { pod: String, count: usize },
}

impl ResolveError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::NotFound { .. } => "`carpel pods` and `carpel ps -a` show what there is".to_owned(),
            Self::Ambiguous { .. } => "give more of the id, or NAMESPACE/POD, or POD/CONTAINER".to_owned(),
            Self::NotOneContainer { .. } => "name the container: POD/CONTAINER or its id".to_owned(),
        }
    }
}

/// A pod or a container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Target {
    Pod(PodSandbox),
    Container(Container),
}

impl Target {
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Pod(pod) => &pod.id,
            Self::Container(container) => &container.id,
        }
    }
}

/// Everything on the node, as of one moment.
#[derive(Debug, Default)]
pub(crate) struct Census {
    pub(crate) pods: Vec<PodSandbox>,
    pub(crate) containers: Vec<Container>,
}

impl Census {
    pub(crate) async fn take(client: &Client) -> Result<Self, CallError> {
        let pods =
            ask("list pods", client.runtime().list_pod_sandbox(ListPodSandboxRequest::default())).await?;
        let containers =
            ask("list containers", client.runtime().list_containers(ListContainersRequest::default()))
                .await?;
        let mut census = Self { pods: pods.items, containers: containers.containers };
        // Newest first, whatever order the runtime has.
        census.pods.sort_by(|a, b| (b.created_at, &a.id).cmp(&(a.created_at, &b.id)));
        census.containers.sort_by(|a, b| (b.created_at, &a.id).cmp(&(a.created_at, &b.id)));
        Ok(census)
    }

    /// Name of the pod with this id; empty if it has gone meanwhile.
    pub(crate) fn pod_name(&self, id: &str) -> &str {
        self.pods.iter().find(|pod| pod.id == id).map_or("", pod_name)
    }

    pub(crate) fn containers_of<'a>(&'a self, pod_id: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(move |container| container.pod_sandbox_id == pod_id)
    }

    pub(crate) fn pod(&self, text: &str) -> Result<&PodSandbox, ResolveError> {
        choose(text, self.find_pods(text), describe_pod)?
            .ok_or_else(|| ResolveError::NotFound { kind: "pod", text: text.to_owned() })
    }

    /// A container; a pod's name or id means its only one.
    pub(crate) fn container(&self, text: &str) -> Result<&Container, ResolveError> {
        let found = self.find_containers(text);
        if let Some(container) = choose(text, found, |container| self.describe_container(container))? {
            return Ok(container);
        }
        let Some(pod) = choose(text, self.find_pods(text), describe_pod)? else {
            return Err(ResolveError::NotFound { kind: "container", text: text.to_owned() });
        };
        let inside: Vec<&Container> = self.containers_of(&pod.id).collect();
        match newest_of_one_name(&inside) {
            Some(container) => Ok(container),
            None => Err(ResolveError::NotOneContainer { pod: pod_name(pod).to_owned(), count: inside.len() }),
        }
    }

    /// A pod or a container. A name that both have is the pod's: whoever stops it wants all of it stopped.
    pub(crate) fn target(&self, text: &str) -> Result<Target, ResolveError> {
        let (pods, containers) = (self.find_pods(text), self.find_containers(text));
        // An id's beginning that fits both kinds is as ambiguous as one that fits two of a kind.
        if let (Found::Prefix(pods), Found::Prefix(containers)) = (&pods, &containers)
            && !pods.is_empty()
            && !containers.is_empty()
        {
            let described = pods.iter().map(|pod| describe_pod(pod));
            let candidates = described.chain(containers.iter().map(|one| self.describe_container(one)));
            return Err(ambiguous(text, candidates));
        }
        if containers.rank() > pods.rank() {
            return Ok(Target::Container(self.container(text)?.clone()));
        }
        match choose(text, pods, describe_pod)? {
            Some(pod) => Ok(Target::Pod(pod.clone())),
            None => match choose(text, containers, |container| self.describe_container(container))? {
                Some(container) => Ok(Target::Container(container.clone())),
                None => Err(ResolveError::NotFound { kind: "pod or container", text: text.to_owned() }),
            },
        }
    }

    fn find_pods(&self, text: &str) -> Found<&PodSandbox> {
        find(
            &self.pods,
            text,
            |pod| &pod.id,
            |pod| {
                let metadata = pod.metadata.as_ref()?;
                Some([metadata.name.clone(), format!("{}/{}", metadata.namespace, metadata.name)])
            },
        )
        .prefer(|pod| pod.state == 0)
    }

    fn find_containers(&self, text: &str) -> Found<&Container> {
        find(
            &self.containers,
            text,
            |container| &container.id,
            |container| {
                let name = container_name(container);
                Some([name.to_owned(), format!("{}/{name}", self.pod_name(&container.pod_sandbox_id))])
            },
        )
        .prefer(|container| container.state() == ContainerState::ContainerRunning)
        .only_newest()
    }

    fn describe_container(&self, container: &Container) -> String {
        let pod = self.pod_name(&container.pod_sandbox_id);
        format!(
            "container {} ({}/{})",
            short_id(&container.id),
            printable(pod),
            printable(container_name(container))
        )
    }
}

fn describe_pod(pod: &PodSandbox) -> String {
    let namespace = pod.metadata.as_ref().map_or("", |metadata| &metadata.namespace);
    format!("pod {} ({}/{})", short_id(&pod.id), printable(namespace), printable(pod_name(pod)))
}

pub(crate) fn pod_name(pod: &PodSandbox) -> &str {
    pod.metadata.as_ref().map_or("", |metadata| &metadata.name)
}

pub(crate) fn container_name(container: &Container) -> &str {
    container.metadata.as_ref().map_or("", |metadata| &metadata.name)
}

/// What a text fits, by the strongest way that it fits anything.
enum Found<T> {
    Id(T),
    Name(Vec<T>),
    Prefix(Vec<T>),
}

impl<T: Copy> Found<T> {
    /// Among things of one name, the living ones are meant, if there are any.
    fn prefer(self, lives: impl Fn(T) -> bool) -> Self {
        match self {
            Self::Name(all) => {
                let living: Vec<T> = all.iter().copied().filter(|one| lives(*one)).collect();
                Self::Name(if living.is_empty() { all } else { living })
            }
            other => other,
        }
    }

    /// How strongly the text fits, 0 for not at all.
    fn rank(&self) -> u8 {
        match self {
            Self::Id(_) => 3,
            Self::Name(_) => 2,
            Self::Prefix(some) => u8::from(!some.is_empty()),
        }
    }
}

impl Found<&Container> {
    /// Among attempts at the same container of the same pod, the newest is meant.
    fn only_newest(self) -> Self {
        match self {
            Self::Name(all) => Self::Name(newest_of_one_name(&all).map_or(all, |newest| vec![newest])),
            other => other,
        }
    }
}

/// The first, if all are attempts at the same container; they are sorted by age.
fn newest_of_one_name<'a>(containers: &[&'a Container]) -> Option<&'a Container> {
    let first = *containers.first()?;
    let same = |other: &&Container| {
        other.pod_sandbox_id == first.pod_sandbox_id && container_name(other) == container_name(first)
    };
    containers.iter().all(same).then_some(first)
}

fn find<'a, T>(
    all: &'a [T],
    text: &str,
    id: impl Fn(&T) -> &String,
    names: impl Fn(&T) -> Option<[String; 2]>,
) -> Found<&'a T> {
    if let Some(one) = all.iter().find(|one| id(one) == text) {
        return Found::Id(one);
    }
    let named: Vec<&T> = all
        .iter()
        .filter(|one| names(one).is_some_and(|names| names.iter().any(|name| name == text)))
        .collect();
    if !named.is_empty() {
        return Found::Name(named);
    }
    // Everything begins with the empty text.
    let fits = |one: &&T| !text.is_empty() && id(one).starts_with(text);
    Found::Prefix(all.iter().filter(fits).collect())
}

fn choose<'a, T>(
    text: &str,
    found: Found<&'a T>,
    describe: impl Fn(&T) -> String,
) -> Result<Option<&'a T>, ResolveError> {
    match found {
        Found::Id(one) => Ok(Some(one)),
        Found::Name(some) | Found::Prefix(some) => match some.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            many => Err(ambiguous(text, many.iter().map(|one| describe(one)))),
        },
    }
}

fn ambiguous(text: &str, candidates: impl Iterator<Item = String>) -> ResolveError {
    let mut candidates: Vec<String> = candidates.collect();
    if candidates.len() > CANDIDATES_SHOWN {
        let more = candidates.len() - CANDIDATES_SHOWN;
        candidates.truncate(CANDIDATES_SHOWN);
        candidates.push(format!("{more} more"));
    }
    ResolveError::Ambiguous { text: text.to_owned(), candidates }
}

#[cfg(test)]
mod tests;
