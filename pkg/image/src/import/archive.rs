//! The tar file that images come in: a table of its members, and their content on demand.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{ImportError, MalformedArchive};
use crate::config::Limits;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{ErrorKind, IoFailure};
use crate::inflate::Inflated;
use crate::store::{Staging, Store};
use crate::tar::{Kind, TarError, TarLimits, TarReader};

/// Links from member to member that are followed.
const LINKS_MAX: usize = 8;

/// Why a file is no archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("cannot inflate the archive")]
    Inflate(#[source] io::Error),
    #[error("member {0:?} is too large")]
    TooLarge(String),
    #[error("member {0:?} is no regular file")]
    NotAFile(String),
}

impl ArchiveError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            ArchiveError::Tar(TarError::TooMany(_) | TarError::TooLarge { .. })
            | ArchiveError::TooLarge(_) => ErrorKind::TooLarge,
            ArchiveError::Inflate(error) if error.kind() == io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            _ => ErrorKind::InvalidImage,
        }
    }
}

#[derive(Clone, Debug)]
enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// A link to another member: `docker save` wrote those for layers that images share.
    Link(String),
    Other,
}

pub(super) struct Archive {
    path: PathBuf,
    file: Arc<File>,
    members: HashMap<String, Member>,
    // Holds the inflated copy, if there is one.
    _inflated: Option<Staging>,
}

impl Archive {
    pub(super) fn open(store: &Arc<Store>, path: &Path, limits: &Limits) -> Result<Archive, ImportError> {
        let failed = |error| IoFailure::new("read", path.display().to_string(), error);
        let file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            let source = MalformedArchive(ArchiveError::NotAFile(path.display().to_string()));
            return Err(ImportError::Archive { path: path.to_owned(), source });
        }
        let malformed =
            |source| ImportError::Archive { path: path.to_owned(), source: MalformedArchive(source) };
        let mut magic = [0; 4];
        let got = file.read_at(&mut magic, 0).map_err(failed)?;
        let compressed = magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd];
        let (file, inflated) = if got == 4 && compressed {
            let staging = Staging::create(store)?;
            let copy = inflate(&file, meta.len(), &staging.diff().join("archive.tar"), limits);
            (copy.map_err(|error| malformed(ArchiveError::Inflate(error)))?, Some(staging))
        } else {
            (file, None)
        };
        let members = scan(&file, limits).map_err(|error| malformed(error.into()))?;
        Ok(Archive { path: path.to_owned(), file: Arc::new(file), members, _inflated: inflated })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    fn malformed(&self, source: ArchiveError) -> ImportError {
        ImportError::Archive { path: self.path.clone(), source: MalformedArchive(source) }
    }

    /// Where a member's content is, along links.
    fn place(&self, name: &str) -> Result<(u64, u64), ImportError> {
        let mut at = normal(name);
        for _ in 0..LINKS_MAX {
            match self.members.get(&at) {
                None => return Err(ImportError::Missing(name.to_owned())),
                Some(Member::File { offset, size }) => return Ok((*offset, *size)),
                Some(Member::Link(target)) => at = target.clone(),
                Some(Member::Other) => break,
            }
        }
        Err(self.malformed(ArchiveError::NotAFile(name.to_owned())))
    }

    /// A member's content as a stream, and its length.
    pub(super) fn content(&self, name: &str) -> Result<(impl BufRead + use<>, u64), ImportError> {
        let (offset, size) = self.place(name)?;
        let part = Part { file: self.file.clone(), at: offset, left: size };
        Ok((BufReader::with_capacity(128 << 10, part), size))
    }

    /// A whole small member.
    pub(super) fn document(&self, name: &str, max: u64) -> Result<Vec<u8>, ImportError> {
        let (content, size) = self.content(name)?;
        if size > max {
            return Err(self.malformed(ArchiveError::TooLarge(name.to_owned())));
        }
        let mut document = Vec::new();
        content
            .take(max)
            .read_to_end(&mut document)
            .map_err(|error| IoFailure::new("read", self.path.display().to_string(), error))?;
        Ok(document)
    }

    /// A whole small member of a layout, which is named after its digest.
    pub(super) fn blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, ImportError> {
        let document = self.document(&blob_name(digest), max)?;
        if Digest::of_with(digest.algorithm(), &document) != *digest {
            return Err(ImportError::Digest(digest.clone()));
        }
        Ok(document)
    }
}

/// Name of a blob in a layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn inflate(file: &File, compressed: u64, target: &Path, limits: &Limits) -> io::Result<File> {
    let reader = BufReader::new(file.try_clone()?);
    let mut stream = Inflated::new(reader, compressed, Algorithm::Sha256, limits)?;
    let mut copy = File::options().read(true).write(true).create_new(true).open(target)?;
    io::copy(&mut stream, &mut copy)?;
    Ok(copy)
}

/// Reads all headers and jumps over the content.
fn scan(file: &File, limits: &Limits) -> Result<HashMap<String, Member>, TarError> {
    let end = file.metadata().map_err(TarError::Read)?.len();
    let place = std::cell::Cell::new(0);
    let mut members = HashMap::new();
    let tar_limits = TarLimits {
        entries: limits.archive_entries as u64,
        extension_bytes: limits.pax_bytes,
        path_bytes: limits.path_bytes,
        sparse_pieces: limits.sparse_pieces,
    };
    let mut reader = TarReader::new(Scan { file, place: &place, end }, tar_limits);
    while let Some(entry) = reader.next_entry()? {
        let name = normal(&String::from_utf8_lossy(&entry.path));
        let member = match entry.kind {
            Kind::File if entry.sparse.is_none() => {
                let offset = place.get();
                // The last byte must be there: content is not read until it is wanted.
                if offset.checked_add(entry.size).is_none_or(|last| last > end) {
                    return Err(TarError::Truncated("an entry"));
                }
                Member::File { offset, size: entry.size }
            }
            Kind::HardLink => Member::Link(normal(&String::from_utf8_lossy(&entry.link))),
            Kind::Symlink => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                Member::Link(normal(&format!("{folder}/{}", String::from_utf8_lossy(&entry.link))))
            }
            _ => Member::Other,
        };
        members.insert(name, member);
        place.set(place.get().saturating_add(reader.jump()));
    }
    Ok(members)
}

/// A name as a key: without `.`, and with `..` taken back as in a path.
fn normal(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Reads on from a place that can be seen from outside.
struct Scan<'f> {
    file: &'f File,
    place: &'f std::cell::Cell<u64>,
    end: u64,
}

impl Read for Scan<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.place.get());
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = self.file.read_at(&mut buffer[..want], self.place.get())?;
        self.place.set(self.place.get() + got as u64);
        Ok(got)
    }
}

/// A part of the file as a stream of its own.
struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let got = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += got as u64;
        self.left -= got as u64;
        Ok(got)
    }
}

/// Hashes a stream as it is read.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Hasher,
    expected: Digest,
}

impl<R: BufRead> Hashing<R> {
    pub(super) fn new(inner: R, expected: &Digest) -> Hashing<R> {
        Hashing { inner, hasher: Hasher::new(expected.algorithm()), expected: expected.clone() }
    }

    /// Reads the rest and compares.
    pub(super) fn check(mut self) -> Result<(), ImportError> {
        io::copy(&mut self, &mut io::sink())
            .map_err(|error| IoFailure::new("read", self.expected.to_string(), error))?;
        if self.hasher.finish() == self.expected { Ok(()) } else { Err(ImportError::Digest(self.expected)) }
    }
}

impl<R: BufRead> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..got]);
        Ok(got)
    }
}

impl<R: BufRead> BufRead for Hashing<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // What is consumed is still in the buffer: a reader may consume what it was shown only.
        if let Ok(shown) = self.inner.fill_buf() {
            self.hasher.update(&shown[..amount.min(shown.len())]);
        }
        self.inner.consume(amount);
    }
}
