//! Paths as text: absolute, without `..`, cleaned.

use std::path::Path;

use crate::error::{PathProblem, PlanError};

/// `PATH_MAX` without the NUL: include/uapi/linux/limits.h.
const PATH_MAX_BYTES: usize = 4095;

/// A path without empty and `.` components and without a slash at its end.
///
/// A `..` is refused, not resolved: what it means depends on symbolic links, which cannot be seen here.
pub(crate) fn clean(path: &str) -> Result<String, PathProblem> {
    if !path.starts_with('/') {
        return Err(PathProblem::NotAbsolute);
    }
    if path.len() > PATH_MAX_BYTES {
        return Err(PathProblem::TooLong);
    }
    if path.bytes().any(|byte| matches!(byte, 0 | b'\n' | b'\r')) {
        return Err(PathProblem::ControlByte);
    }
    let mut cleaned = String::with_capacity(path.len());
    for component in path.split('/').filter(|component| !matches!(*component, "" | ".")) {
        if component == ".." {
            return Err(PathProblem::ParentComponent);
        }
        cleaned.push('/');
        cleaned.push_str(component);
    }
    if cleaned.is_empty() {
        cleaned.push('/');
    }
    Ok(cleaned)
}

/// As [`clean`], as a plan's error.
pub(crate) fn absolute(field: &'static str, path: &str) -> Result<String, PlanError> {
    clean(path).map_err(|problem| PlanError::Path { field, path: path.to_owned(), problem })
}

/// As [`absolute`], and not the root itself.
pub(crate) fn below_root(field: &'static str, path: &str) -> Result<String, PlanError> {
    match absolute(field, path)? {
        root if root == "/" => {
            Err(PlanError::Path { field, path: path.to_owned(), problem: PathProblem::Root })
        }
        cleaned => Ok(cleaned),
    }
}

/// As [`absolute`], for a path of the host.
pub(crate) fn host(field: &'static str, path: &Path) -> Result<String, PlanError> {
    match path.to_str() {
        Some(text) => absolute(field, text),
        None => Err(PlanError::Path {
            field,
            path: path.to_string_lossy().into_owned(),
            problem: PathProblem::NotUtf8,
        }),
    }
}

/// Whether `path` is `folder` or below it; both clean.
pub(crate) fn is_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, expect) in [
            ("/", "/"),
            ("//", "/"),
            ("/a", "/a"),
            ("/a/", "/a"),
            ("//a/./b//c/.", "/a/b/c"),
            ("/a..b/...", "/a..b/..."),
        ] {
            assert_eq!(clean(path).as_deref(), Ok(expect), "{path}");
        }
    }

    #[test]
    fn others_are_refused() {
        for (path, problem) in [
            ("", PathProblem::NotAbsolute),
            ("a", PathProblem::NotAbsolute),
            ("/..", PathProblem::ParentComponent),
            ("/a/../b", PathProblem::ParentComponent),
            ("/a\0b", PathProblem::ControlByte),
            ("/a\nb", PathProblem::ControlByte),
            (&format!("/{}", "a".repeat(4095)), PathProblem::TooLong),
        ] {
            assert_eq!(clean(path), Err(problem), "{path:?}");
        }
    }

    #[test]
    fn within_goes_by_components() {
        assert!(is_within("/proc", "/proc") && is_within("/proc/x", "/proc"));
        assert!(!is_within("/process", "/proc") && !is_within("/", "/proc"));
    }
}
