//! The published copy of all pods and containers, and the way to their owners.
//!
//! Owners write, everybody reads. A lock is held for the length of a map operation, never across an
//! await, so that a reader waits for no shim and no disk.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{
    ContainerId, FindError, ObjectKind, PodId,
    owner::PodHandle,
    snapshot::{ContainerSnapshot, PodSnapshot},
};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    pods: BTreeMap<PodId, (Arc<PodSnapshot>, PodHandle)>,
    containers: BTreeMap<ContainerId, Arc<ContainerSnapshot>>,
}

impl Catalog {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pods(&self) -> Vec<Arc<PodSnapshot>> {
        self.read().pods.values().map(|(pod, _)| Arc::clone(pod)).collect()
    }

    pub(crate) fn containers(&self) -> Vec<Arc<ContainerSnapshot>> {
        self.read().containers.values().cloned().collect()
    }

    pub(crate) fn find_pod(&self, id: &str) -> Result<(Arc<PodSnapshot>, PodHandle), FindError> {
        by_prefix(&self.read().pods, id, ObjectKind::Pod).cloned()
    }

    pub(crate) fn find_container(&self, id: &str) -> Result<Arc<ContainerSnapshot>, FindError> {
        by_prefix(&self.read().containers, id, ObjectKind::Container).cloned()
    }

    /// A container, and its pod's owner.
    pub(crate) fn find_owned(&self, id: &str) -> Result<(Arc<ContainerSnapshot>, PodHandle), FindError> {
        let inner = self.read();
        let container = by_prefix(&inner.containers, id, ObjectKind::Container)?;
        match inner.pods.get(&container.pod_id) {
            Some((_, handle)) => Ok((Arc::clone(container), handle.clone())),
            None => Err(FindError::NotFound { kind: ObjectKind::Container, id: id.to_owned() }),
        }
    }

    /// All containers of a pod, in the order of the pod's own list.
    pub(crate) fn containers_of(&self, pod: &PodSnapshot) -> Vec<Arc<ContainerSnapshot>> {
        let inner = self.read();
        pod.containers.iter().filter_map(|id| inner.containers.get(id).cloned()).collect()
    }

    /// Publishes a pod with all of its containers, and forgets those that are not among them.
    pub(crate) fn publish(
        &self,
        pod: Arc<PodSnapshot>,
        handle: PodHandle,
        containers: &[Arc<ContainerSnapshot>],
    ) {
        let mut inner = self.write();
        for container in containers {
            inner.containers.insert(container.id.clone(), Arc::clone(container));
        }
        let old = inner.pods.insert(pod.id.clone(), (Arc::clone(&pod), handle));
        if let Some((old, _)) = old {
            for id in old.containers.iter().filter(|id| !pod.containers.contains(id)) {
                inner.containers.remove(id);
            }
        }
    }

    pub(crate) fn remove(&self, id: &PodId) {
        let mut inner = self.write();
        if let Some((pod, _)) = inner.pods.remove(id) {
            for container in &pod.containers {
                inner.containers.remove(container);
            }
        }
    }
}

/// What has this id, or alone an id that begins like this. The empty prefix leads to nothing.
fn by_prefix<'a, K, V>(map: &'a BTreeMap<K, V>, id: &str, kind: ObjectKind) -> Result<&'a V, FindError>
where
    K: Ord + std::borrow::Borrow<str>,
{
    let not_found = || FindError::NotFound { kind, id: id.to_owned() };
    if id.is_empty() {
        return Err(not_found());
    }
    let mut hits = map
        .range::<str, _>((Bound::Included(id), Bound::Unbounded))
        .take_while(|(key, _)| (*key).borrow().starts_with(id));
    let (_, first) = hits.next().ok_or_else(not_found)?;
    match hits.next() {
        None => Ok(first),
        Some(_) => Err(FindError::Ambiguous { kind, prefix: id.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &[&'static str], id: &str, expect: Result<&str, &str>) {
        let map: BTreeMap<String, &str> = keys.iter().map(|key| ((*key).to_owned(), *key)).collect();
        let found = by_prefix(&map, id, ObjectKind::Pod).copied().map_err(|err| match err {
            FindError::NotFound { .. } => "none",
            FindError::Ambiguous { .. } => "many",
        });
        assert_eq!(found, expect, "{id:?} among {keys:?}");
    }

    #[test]
    fn a_prefix_leads_to_one_thing_or_to_an_error() {
        let keys = ["a1", "ab1", "ab2", "b"];
        check(&keys, "a1", Ok("a1"));
        check(&keys, "b", Ok("b"));
        check(&keys, "ab", Err("many"));
        check(&keys, "ab2", Ok("ab2"));
        check(&keys, "c", Err("none"));
        check(&keys, "", Err("none"));
        check(&keys, "ab22", Err("none"));
        check(&[], "a", Err("none"));
    }
}
