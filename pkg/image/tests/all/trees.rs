//! Looking at directory trees: everything that a layer decides about a file, as text.

use std::fmt::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// One line per object: path, type, mode, owner, links, time, content or target or device, attributes.
pub(crate) fn describe(root: &Path) -> String {
    let mut lines = Vec::new();
    walk(root, root, &mut lines);
    lines.sort();
    lines.join("\n")
}

fn walk(root: &Path, path: &Path, lines: &mut Vec<String>) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let name = path.strip_prefix(root).unwrap().display();
    let kind = meta.file_type();
    let mut line = format!(
        "/{name} {:o} {}:{} {}.{:09}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    if kind.is_symlink() {
        write!(line, " -> {}", std::fs::read_link(path).unwrap().display()).unwrap();
    } else if kind.is_file() {
        let content = std::fs::read(path).unwrap();
        write!(line, " links={} {} {}", meta.nlink(), content.len(), carpel_image::Digest::of(&content))
            .unwrap();
    } else if kind.is_char_device() || kind.is_block_device() {
        write!(line, " device={:x}", meta.rdev()).unwrap();
    }
    for (name, value) in attributes(path) {
        write!(line, " {name}={}", hex::encode(value)).unwrap();
    }
    lines.push(line);
    if kind.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            walk(root, &entry.unwrap().path(), lines);
        }
    }
}

/// Extended attributes, sorted.
pub(crate) fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0_u8; 16 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut found: Vec<(String, Vec<u8>)> = names[..length]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            let mut value = vec![0_u8; 64 << 10];
            let length = rustix::fs::lgetxattr(path, name.as_str(), &mut value[..]).unwrap();
            value.truncate(length);
            (name, value)
        })
        .collect();
    found.sort();
    found
}
