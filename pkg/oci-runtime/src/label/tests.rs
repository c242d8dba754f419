#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use carpel_sys::mount::{AttrChange, PropagationType, set_attr};
use carpel_sys::namespace::{Kind, unshare};
use rustix::fs::{CWD, FileType, lgetxattr, mknodat};
use rustix::mount::{MountFlags, mount};

use super::*;

const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("carpel-label-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn relabel(&self) -> Result<(), RelabelError> {
        relabel_path(&self.0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn relabel_path(path: &Path) -> Result<(), RelabelError> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    relabel(file.as_fd(), path.to_str().unwrap(), LABEL)
}

fn label_of(path: &Path) -> Option<String> {
    let mut buffer = [0u8; 256];
    let length = lgetxattr(path, ATTRIBUTE, &mut buffer[..]).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).trim_end_matches('\0').to_owned())
}

#[test]
fn all_of_a_volume_is_labelled_and_nothing_that_a_link_leads_to() {
    let (volume, other) = (Folder::new("volume"), Folder::new("other"));
    let of_other = other.0.join("file");
    fs::write(&of_other, "x").unwrap();
    fs::create_dir_all(volume.0.join("a/b")).unwrap();
    fs::write(volume.0.join("a/b/file"), "x").unwrap();
    symlink(&of_other, volume.0.join("a/to-file")).unwrap();
    symlink(&other.0, volume.0.join("to-folder")).unwrap();
    mknodat(CWD, volume.0.join("a/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let before = (label_of(&other.0), label_of(&of_other));
    volume.relabel().unwrap();
    for name in ["", "a", "a/b", "a/b/file", "a/fifo", "a/to-file", "to-folder"] {
        assert_eq!(label_of(&volume.0.join(name)).as_deref(), Some(LABEL), "{name:?}");
    }
    assert_eq!((label_of(&other.0), label_of(&of_other)), before);
    // Again, and of a file alone.
    volume.relabel().unwrap();
    relabel_path(&of_other).unwrap();
    assert_eq!(label_of(&of_other).as_deref(), Some(LABEL));
}

#[test]
fn what_is_mounted_in_a_volume_is_left_alone() {
    let volume = Folder::new("mounts");
    let below = volume.0.join("below");
    fs::create_dir(&below).unwrap();
    let path = volume.0.clone();
    let seen = std::thread::spawn(move || {
        unshare(&[Kind::Mount]).unwrap();
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let propagation = Some(PropagationType::Private);
        set_attr(root.as_fd(), AttrChange { propagation, recursive: true, set: 0 }).unwrap();
        mount("none", &below, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(below.join("file"), "x").unwrap();
        let before = (label_of(&below), label_of(&below.join("file")));
        relabel_path(&path).unwrap();
        assert_eq!((label_of(&below), label_of(&below.join("file"))), before);
        label_of(&path)
    });
    assert_eq!(seen.join().unwrap().as_deref(), Some(LABEL));
}

#[test]
fn the_nodes_own_folders_are_refused_by_whatever_path() {
    let folder = Folder::new("protected");
    let link = folder.0.join("etc");
    symlink("/etc", &link).unwrap();
    for path in [Path::new("/"), Path::new("/usr"), Path::new("/usr/../home/"), Path::new("/var/log"), &link]
    {
        let before = label_of(path);
        let error = relabel_path(path).unwrap_err();
        assert!(matches!(error, RelabelError::Protected { .. }), "{}: {error}", path.display());
        assert_eq!(label_of(path), before);
    }
}

#[test]
fn a_volume_that_is_too_deep_is_refused() {
    let volume = Folder::new("deep");
    let deepest = (0..DEPTH_MAX).fold(volume.0.clone(), |path, _| path.join("d"));
    fs::create_dir_all(&deepest).unwrap();
    assert!(matches!(volume.relabel(), Err(RelabelError::TooLarge { .. })));
    assert_eq!(label_of(&volume.0), None, "a volume is labelled last");
}

#[test]
fn a_file_system_without_labels_is_passed_over() {
    relabel_path(Path::new("/proc/self/fdinfo")).unwrap();
}
