//! Seccomp programs, compiled once for each profile and set of capabilities.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    path::{Component, Path},
    sync::{Arc, Mutex, PoisonError},
};

use carpel_spec::{
    SeccompNeed,
    seccomp::{BpfProgram, PROFILE_MAX_BYTES},
};
use rustix::fs::{FileType, Mode, OFlags};

use crate::FileError;

/// Programs that are kept. A node has a handful of profiles; a hostile client finds no more memory.
const KEPT_MAX: usize = 128;

/// Compiled programs by what they were compiled for.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    // Locked for the length of a map operation; compiling is done outside.
    kept: Mutex<HashMap<Key, Arc<BpfProgram>>>,
}

/// What a program was compiled from: of a file also its content, because it may change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    need: SeccompNeed,
    content: Vec<u8>,
}

impl Key {
    pub(crate) fn new(need: SeccompNeed, content: Vec<u8>) -> Self {
        Key { need, content }
    }

    pub(crate) fn content(&self) -> &[u8] {
        &self.content
    }
}

impl Programs {
    pub(crate) fn find(&self, key: &Key) -> Option<Arc<BpfProgram>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(crate) fn keep(&self, key: Key, program: BpfProgram) -> Arc<BpfProgram> {
        let program = Arc::new(program);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, Arc::clone(&program));
        program
    }
}

/// Reads a profile of the node's: a regular file at an absolute path without `..`, bounded. Blocks.
pub(crate) fn read_localhost(path: &str) -> Result<Vec<u8>, FileError> {
    let path = Path::new(path);
    let failed = |source| FileError { action: "read seccomp profile", path: path.to_owned(), source };
    let invalid = |why| failed(io::Error::new(io::ErrorKind::InvalidInput, why));
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(invalid("its path is not absolute or has a `..`"));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|err| failed(err.into()))?;
    let stat = rustix::fs::fstat(file.as_fd()).map_err(|err| failed(err.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(invalid("it is not a regular file"));
    }
    let mut content = Vec::new();
    let limit = PROFILE_MAX_BYTES as u64;
    File::from(file).take(limit + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > limit {
        return Err(invalid("it is too large"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_at_plain_paths_are_profiles() {
        for bad in ["profile.json", "/tmp/../etc/passwd", "/dev/zero", "/tmp", "/absent/profile.json"] {
            assert!(read_localhost(bad).is_err(), "{bad}");
        }
        assert!(!read_localhost("/proc/self/status").unwrap().is_empty());
    }
}
