//! Writes tar archives entry by entry, the broken and the hostile ones too.
//!
//! Not a general tar library: nothing is checked, because the point of many fixtures is what a careful writer would
//! refuse (`../` in names, links that leave the layer, sizes that lie). What a real archiver would produce (sparse
//! files, its own long-name records) comes from GNU tar itself: see [`gnu_tar`].

use std::path::Path;
use std::process::Command;

/// One archive under construction: POSIX ustar headers, PAX records where ustar has no room.
#[derive(Debug, Clone, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    /// A directory.
    Dir,
    /// A regular file and its content.
    File(&'a [u8]),
    /// A symbolic link and its target.
    Symlink(&'a str),
    /// A hard link to an earlier entry of the archive.
    Hardlink(&'a str),
    /// A character device: major, minor.
    Char(u32, u32),
    /// A block device: major, minor.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// An entry's name, kind and metadata.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// The name as it stands in the archive.
    pub path: &'a str,
    /// What it is.
    pub kind: Kind<'a>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// PAX records besides those the writer needs itself, as (key, value): `SCHILY.xattr.user.x`, `size`, …
    pub pax: Vec<(String, Vec<u8>)>,
}

impl<'a> Entry<'a> {
    /// An entry of root's with the given mode.
    pub fn new(path: &'a str, kind: Kind<'a>, mode: u32) -> Self {
        Self { path, kind, mode, uid: 0, gid: 0, pax: Vec::new() }
    }

    /// Changes the owner and the group.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// Adds an extended attribute, the way GNU tar and the container builders write it.
    #[must_use]
    pub fn xattr(self, name: &str, value: &[u8]) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    /// Adds a PAX record of any key.
    #[must_use]
    pub fn pax(mut self, key: &str, value: &[u8]) -> Self {
        self.pax.push((key.to_owned(), value.to_vec()));
        self
    }
}

impl Tar {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(&Entry::new(path, Kind::Dir, mode))
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.entry(&Entry::new(path, Kind::File(content.as_ref()), mode))
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(&Entry::new(path, Kind::Symlink(target), 0o777))
    }

    /// Adds a hard link.
    #[must_use]
    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(&Entry::new(path, Kind::Hardlink(target), 0o755))
    }

    /// Adds any entry.
    #[must_use]
    pub fn entry(mut self, entry: &Entry<'_>) -> Self {
        let mut pax = entry.pax.clone();
        if entry.path.len() > 100 {
            pax.push(("path".to_owned(), entry.path.as_bytes().to_vec()));
        }
        if let Kind::Symlink(target) | Kind::Hardlink(target) = entry.kind
            && target.len() > 100
        {
            pax.push(("linkpath".to_owned(), target.as_bytes().to_vec()));
        }
        if !pax.is_empty() {
            let records: Vec<u8> = pax.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
            self.header("pax", b'x', 0o644, (0, 0), records.len() as u64, "", (0, 0));
            self.body(&records);
        }
        let (flag, content, link, device) = match entry.kind {
            Kind::Dir => (b'5', &[][..], "", (0, 0)),
            Kind::File(content) => (b'0', content, "", (0, 0)),
            Kind::Symlink(target) => (b'2', &[][..], target, (0, 0)),
            Kind::Hardlink(target) => (b'1', &[][..], target, (0, 0)),
            Kind::Char(major, minor) => (b'3', &[][..], "", (major, minor)),
            Kind::Block(major, minor) => (b'4', &[][..], "", (major, minor)),
            Kind::Fifo => (b'6', &[][..], "", (0, 0)),
        };
        let owner = (entry.uid, entry.gid);
        self.header(entry.path, flag, entry.mode, owner, content.len() as u64, link, device);
        self.body(content);
        self
    }

    /// Adds bytes as they are: a damaged header, a lie, a tail.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// The archive with its two closing blocks of zeroes.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }

    /// The archive without its end: cut off after the last entry.
    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of a ustar header")]
    fn header(
        &mut self,
        path: &str,
        flag: u8,
        mode: u32,
        owner: (u32, u32),
        size: u64,
        link: &str,
        device: (u32, u32),
    ) {
        let mut block = [0u8; 512];
        put(&mut block[0..100], path.as_bytes());
        octal(&mut block[100..108], mode.into());
        octal(&mut block[108..116], owner.0.into());
        octal(&mut block[116..124], owner.1.into());
        octal(&mut block[124..136], size);
        octal(&mut block[136..148], 1_700_000_000);
        block[156] = flag;
        put(&mut block[157..257], link.as_bytes());
        put(&mut block[257..265], b"ustar\x0000");
        octal(&mut block[329..337], device.0.into());
        octal(&mut block[337..345], device.1.into());
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.bytes.extend_from_slice(&block);
    }

    fn body(&mut self, content: &[u8]) {
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }
}

fn put(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    put(field, format!("{value:0digits$o}").as_bytes());
}

/// `<length> <key>=<value>\n`, where the length counts itself (POSIX pax, "Extended Header Records").
fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    let mut record = format!("{length} {key}=").into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

/// Archives a folder with GNU tar and the given options: what real builders produce, sparse files above all.
pub fn gnu_tar(folder: &Path, options: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(options)
        .args(["--numeric-owner", "-cf", "-", "-C"])
        .arg(folder)
        .arg(".")
        .output()
        .expect("GNU tar runs");
    assert!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gnu_tar_lists_what_was_written() {
        let long = format!("a/{}", "n".repeat(150));
        let archive = Tar::new()
            .dir("a/", 0o755)
            .file("a/f", 0o4755, "hello")
            .hardlink("a/h", "a/f")
            .symlink("a/s", "f")
            .entry(&Entry::new("a/null", Kind::Char(1, 3), 0o666))
            .file(&long, 0o600, "x")
            .finish();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.tar");
        std::fs::write(&path, archive).unwrap();
        let listing = Command::new("tar").arg("-tvf").arg(&path).output().unwrap();
        assert!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
        let listing = String::from_utf8(listing.stdout).unwrap();
        for wanted in ["-rwsr-xr-x 0/0", "a/h link to a/f", "a/s -> f", "1,3", &long] {
            assert!(listing.contains(wanted), "{wanted} is not in:\n{listing}");
        }
    }

    #[test]
    fn a_pax_record_counts_its_own_length() {
        assert_eq!(pax_record("path", b"x"), b"9 path=x\n");
        let record = pax_record("k", &[b'v'; 95]);
        assert!(record.starts_with(b"102 k="), "{}", String::from_utf8_lossy(&record[..6]));
        assert_eq!(record.len(), 102);
    }
}
