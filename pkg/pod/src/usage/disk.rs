//! How much disk a container's writable layer takes.
//!
//! The answer is always the last measurement; asking for it starts the next one when the last is old.
//! Measurements are made one at a time, and the longer one took, the longer it is until the next:
//! they take a twentieth of one thread's time at most.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use crate::{ContainerId, ContainerSnapshot, DiskUsage, clock::now_ns};

/// A measurement is not made anew before it is so old.
const AGE_MIN: Duration = Duration::from_secs(10);
/// … nor before it is so many times as old as it took.
const AGE_PER_DURATION: u32 = 20;
/// Folders that are open at the same time; what lies deeper is not counted.
const DEPTH_MAX: usize = 128;
/// The most entries that are looked at; a layer with more is told as what was counted by then.
const ENTRIES_MAX: u64 = 5_000_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Disk {
    // Locked for the length of a map operation.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    measured: HashMap<ContainerId, Measured>,
    queue: Vec<(ContainerId, PathBuf, PathBuf)>,
    running: bool,
}

#[derive(Debug)]
struct Measured {
    usage: DiskUsage,
    ended: Instant,
    took: Duration,
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget(&self, id: &ContainerId) {
        let mut state = self.lock();
        state.measured.remove(id);
        state.queue.retain(|(queued, _, _)| queued != id);
    }

    /// The last measurement; if it is old, the next one is started.
    pub(super) fn last_and_refresh(
        self: &Arc<Self>,
        container: &ContainerSnapshot,
        mountpoint: PathBuf,
    ) -> Option<DiskUsage> {
        let layer = container.writable_layer.as_ref()?;
        let mut state = self.lock();
        let measured = state.measured.get(&container.id);
        let last = measured.map(|measured| measured.usage.clone());
        let is_old = measured
            .is_none_or(|measured| measured.ended.elapsed() >= AGE_MIN.max(measured.took * AGE_PER_DURATION));
        if is_old && !state.queue.iter().any(|(queued, _, _)| *queued == container.id) {
            state.queue.push((container.id.clone(), layer.clone(), mountpoint));
            if !std::mem::replace(&mut state.running, true) {
                let disk = Arc::clone(self);
                tokio::task::spawn_blocking(move || disk.measure_queued());
            }
        }
        last
    }

    fn measure_queued(&self) {
        loop {
            let mut state = self.lock();
            // It stays in the queue until it is done, so that it is not queued again meanwhile.
            let Some((id, layer, mountpoint)) = state.queue.first().cloned() else {
                state.running = false;
                return;
            };
            drop(state);
            let start = Instant::now();
            let (used_bytes, inodes) = match measure(&layer) {
                Ok(measured) => measured,
                Err(err) => {
                    tracing::debug!(path = %layer.display(), %err, "measuring a writable layer failed");
                    (0, 0)
                }
            };
            let usage = DiskUsage { at_ns: now_ns(), mountpoint, used_bytes, inodes };
            let measured = Measured { usage, ended: Instant::now(), took: start.elapsed() };
            let mut state = self.lock();
            // A container that was removed meanwhile has left the queue.
            if let Some(index) = state.queue.iter().position(|(queued, _, _)| *queued == id) {
                state.queue.remove(index);
                state.measured.insert(id, measured);
            }
        }
    }
}

/// Bytes of blocks and number of inodes below a folder, each inode once. Follows no link.
fn measure(folder: &Path) -> io::Result<(u64, u64)> {
    let mut stack = vec![entries(&open_dir(rustix::fs::CWD, folder)?)?];
    let mut seen = HashSet::new();
    let (mut bytes, mut inodes, mut looked_at) = (0u64, 0u64, 0u64);
    while let Some((dir, list)) = stack.last_mut() {
        let Some(entry) = list.read() else {
            stack.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        looked_at += 1;
        if looked_at > ENTRIES_MAX {
            break;
        }
        // What goes while it is looked at takes nothing any more.
        let Ok(stat) = rustix::fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if stat.st_nlink > 1
            && FileType::from_raw_mode(stat.st_mode) != FileType::Directory
            && !seen.insert((stat.st_dev, stat.st_ino))
        {
            continue;
        }
        bytes = bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
        inodes += 1;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && stack.len() < DEPTH_MAX {
            let opened = stack.last().map(|(dir, _)| open_dir(dir, name));
            match opened {
                Some(Ok(child)) => stack.push(entries(&child)?),
                Some(Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) | None => {}
                Some(Err(err)) => return Err(err.into()),
            }
        }
    }
    Ok((bytes, inodes))
}

fn open_dir(parent: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn entries(dir: &OwnedFd) -> io::Result<(OwnedFd, Dir)> {
    Ok((dir.try_clone()?, Dir::read_from(dir)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_what_its_inodes_take_each_once() {
        let base = std::env::temp_dir().join(format!("carpel-disk-{}", std::process::id()));
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        std::fs::write(base.join("a/file"), vec![1u8; 64 << 10]).unwrap();
        std::fs::hard_link(base.join("a/file"), base.join("a/b/again")).unwrap();
        std::os::unix::fs::symlink("/usr", base.join("link")).unwrap();
        let (bytes, inodes) = measure(&base).unwrap();
        assert_eq!(inodes, 4);
        assert!((64 << 10..256 << 10).contains(&bytes), "{bytes}");
        std::fs::remove_dir_all(&base).unwrap();
        assert!(measure(&base).is_err());
    }
}
