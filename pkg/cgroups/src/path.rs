//! Where a cgroup is: a path below each hierarchy's root.

use std::fmt;

use thiserror::Error;

/// The longest path, in bytes.
pub const PATH_MAX_BYTES: usize = 2048;
/// The longest component, in bytes: a file name's limit.
pub const COMPONENT_MAX_BYTES: usize = 255;
/// The most components.
pub const DEPTH_MAX: usize = 32;
/// Empty parents are removed with their last child only if their path begins with a component that
/// is this or begins with this and a dash: they cannot be the kubelet's.
pub const OWN_PREFIX: &str = "carpel";

/// A checked path: single components, none of which is `.` or `..` or holds a control character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupPath {
    /// Without a slash at either end.
    text: String,
}

/// Why a text names no cgroup.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PathError {
    /// Nothing but slashes: that is the root, which is nobody's container.
    #[error("the cgroup path is empty")]
    Empty,
    /// Over [`PATH_MAX_BYTES`].
    #[error("a cgroup path of {0} bytes is over the limit of {PATH_MAX_BYTES}")]
    TooLong(usize),
    /// Over [`DEPTH_MAX`].
    #[error("a cgroup path of {0} components is over the limit of {DEPTH_MAX}")]
    TooDeep(usize),
    /// `.`, `..`, too long, or with a slash or a control character inside.
    #[error("{0:?} is not a component of a cgroup path")]
    Component(String),
}

impl CgroupPath {
    /// Reads `/a/b/c`; slashes at the ends and doubled ones mean nothing.
    ///
    /// # Errors
    /// A component that is not a plain name, or a length or depth over the limits of this module.
    pub fn parse(text: &str) -> Result<CgroupPath, PathError> {
        if text.len() > PATH_MAX_BYTES {
            return Err(PathError::TooLong(text.len()));
        }
        let components: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
        if components.is_empty() {
            return Err(PathError::Empty);
        }
        if components.len() > DEPTH_MAX {
            return Err(PathError::TooDeep(components.len()));
        }
        for component in &components {
            check_component(component)?;
        }
        Ok(CgroupPath { text: components.join("/") })
    }

    /// The path of a child.
    ///
    /// # Errors
    /// As [`CgroupPath::parse`].
    pub fn child(&self, name: &str) -> Result<CgroupPath, PathError> {
        check_component(name)?;
        CgroupPath::parse(&format!("{}/{name}", self.text))
    }

    /// The components, top-most first.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.text.split('/')
    }

    /// Without a slash in front: relative to a hierarchy's root.
    #[must_use]
    pub fn as_relative(&self) -> &str {
        &self.text
    }

    /// The path of the parent; `None` if that is the hierarchy's root.
    #[must_use]
    pub fn parent(&self) -> Option<CgroupPath> {
        self.text.rsplit_once('/').map(|(parent, _)| CgroupPath { text: parent.to_owned() })
    }

    /// Whether empty parents of this path are ours to remove. See [`OWN_PREFIX`].
    pub(crate) fn has_own_prefix(&self) -> bool {
        let first = self.components().next().unwrap_or_default();
        first.strip_prefix(OWN_PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.text)
    }
}

fn check_component(component: &str) -> Result<(), PathError> {
    let plain = !component.is_empty()
        && component.len() <= COMPONENT_MAX_BYTES
        && component != "."
        && component != ".."
        && !component.contains(|c: char| c == '/' || c.is_control());
    if plain { Ok(()) } else { Err(PathError::Component(component.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_made_of_plain_components() {
        let path = CgroupPath::parse("/kubepods//burstable/pod1/").unwrap();
        assert_eq!(path.to_string(), "/kubepods/burstable/pod1");
        assert_eq!(path.components().count(), 3);
        assert_eq!(path.parent().unwrap().as_relative(), "kubepods/burstable");
        assert_eq!(path.child("x").unwrap().as_relative(), "kubepods/burstable/pod1/x");
        for bad in ["", "/", "/a/../b", "..", "/a/./b", "/a\0b", "/a\nb"] {
            assert!(CgroupPath::parse(bad).is_err(), "{bad:?}");
        }
        assert!(path.child("a/b").is_err());
        assert!(path.child("").is_err());
        assert_eq!(CgroupPath::parse(&"a/".repeat(33)), Err(PathError::TooDeep(33)));
        assert_eq!(CgroupPath::parse(&"a".repeat(3000)), Err(PathError::TooLong(3000)));
        assert!(CgroupPath::parse(&"a".repeat(256)).is_err());
    }

    #[test]
    fn only_our_own_parents_are_ours() {
        for (path, ours) in
            [("/carpel/p/c", true), ("/carpel-x/c", true), ("/carpels/c", false), ("/kubepods/c", false)]
        {
            assert_eq!(CgroupPath::parse(path).unwrap().has_own_prefix(), ours, "{path}");
        }
    }
}
