//! Unpacking: a tar stream becomes a directory that overlayfs can use as a lower one.
//!
//! Each layer is unpacked by itself, into an empty directory, so all layers of an image unpack at once.
//! Whiteouts become what overlayfs reads (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
//! directories"): a `.wh.name` file a character device 0:0, a `.wh..wh..opq` file the attribute
//! `trusted.overlay.opaque=y` on its directory.
//!
//! The stream is hostile. Every name is resolved from the layer's root by `openat2` so that neither `..` nor
//! a symlink leads out of it; every object is made by a call that fails if the name exists; owner, mode,
//! times and attributes are set through the descriptor of the object just made, never through a name that
//! could be a link. Nobody else may write below the directory meanwhile: it lies in a folder of mode 0700.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat,
};
use rustix::io::Errno;

use crate::config::Limits;
use crate::error::{ErrorKind, IoFailure};
use crate::store::delete;
use crate::tar::{Entry, Kind, TarError, TarLimits, TarReader, Time};

mod attributes;
mod parents;
mod place;

pub(crate) use parents::inherit_parents;
use place::Root;

/// Bytes of directory names that are remembered until the end, and of what they get then.
const REMEMBERED_BYTES_MAX: usize = 256 << 20;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &CStr = c"trusted.overlay.opaque";

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("layer is malformed")]
    Tar(#[from] TarError),
    #[error("layer entry {path:?}: {what}")]
    Entry { path: String, what: Refusal },
    #[error("layer entry {path:?}: cannot {action}")]
    Apply {
        path: String,
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("layer has more than {REMEMBERED_BYTES_MAX} bytes of directory names")]
    TooManyDirectories,
    #[error("layer")]
    Io(#[from] IoFailure),
}

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("path has a component \"..\"")]
    DotDot,
    #[error("path has a NUL byte")]
    Nul,
    #[error("path is deeper than the limit")]
    Deep,
    #[error("a name is longer than 255 bytes, or the path than 4095")]
    LongName,
    #[error("the layer's root must be a directory")]
    Root,
    #[error("a parent is not a directory")]
    ParentNotDirectory,
    #[error("too many symlinks in its parents")]
    LinkLoop,
    #[error("whiteout of \".\" or \"..\" or nothing")]
    Whiteout,
    #[error("hard link to itself")]
    SelfLink,
    #[error("hard link to something that is not in the layer")]
    LinkTarget,
    #[error("link target is empty or too long")]
    Target,
    #[error("extended attributes are too large")]
    Xattrs,
    #[error("an extended attribute has a value that the kernel does not take")]
    XattrValue,
    #[error("content is larger than the limit")]
    Content,
}

impl UnpackError {
    /// What a caller may act on.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            UnpackError::Tar(TarError::TooLarge { .. } | TarError::TooMany(_)) => ErrorKind::TooLarge,
            UnpackError::Tar(_) => ErrorKind::InvalidImage,
            UnpackError::Entry { what: Refusal::Deep | Refusal::Content | Refusal::Xattrs, .. }
            | UnpackError::TooManyDirectories => ErrorKind::TooLarge,
            UnpackError::Entry { .. } => ErrorKind::InvalidImage,
            // A sparse file longer than the file system has.
            UnpackError::Apply { source, .. } if source.kind() == io::ErrorKind::FileTooLarge => {
                ErrorKind::TooLarge
            }
            UnpackError::Apply { source, .. } => {
                match IoFailure::new("write", "layer", io::Error::from(source.kind())).kind() {
                    ErrorKind::NoSpace => ErrorKind::NoSpace,
                    _ => ErrorKind::Internal,
                }
            }
            UnpackError::Io(failure) => failure.kind(),
        }
    }
}

/// What a layer occupies, and what is left to do once the layers below it are there.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// Directories that no entry describes, shallow before deep: they take their owner, mode and times from
    /// the layers below (see [`inherit_parents`]).
    pub(crate) implicit: BTreeSet<Vec<u8>>,
}

/// Unpacks the stream into `directory`, and gives the stream back, read to the archive's end. Blocking.
pub(crate) fn unpack<R: Read>(
    stream: R,
    directory: &Path,
    limits: &Limits,
) -> Result<(Unpacked, R), UnpackError> {
    let tar_limits = TarLimits {
        entries: limits.layer_entries,
        extension_bytes: limits.pax_bytes,
        path_bytes: limits.path_bytes,
        sparse_pieces: limits.sparse_pieces,
    };
    let mut reader = TarReader::new(stream, tar_limits);
    let root = Root::open(directory)?;
    let mut unpacker = Unpacker {
        root,
        limits,
        written: 0,
        remembered: 0,
        finish: BTreeMap::new(),
        out: Unpacked::default(),
    };
    unpacker.out.inodes = 1;
    unpacker.out.bytes = 4096;
    while let Some(entry) = reader.next_entry()? {
        unpacker.apply(&entry, &mut reader)?;
    }
    unpacker.finish_directories()?;
    Ok((unpacker.out, reader.into_inner()))
}

struct Unpacker<'a> {
    root: Root,
    limits: &'a Limits,
    /// Bytes of content written.
    written: u64,
    /// Bytes of names in `finish` and `out.implicit`.
    remembered: usize,
    /// What directories get at the end, by path.
    finish: BTreeMap<Vec<u8>, Finish>,
    out: Unpacked,
}

/// What would not last if a directory had it before its entries: making one changes the time, and takes the list.
struct Finish {
    mtime: Time,
    /// Empty if there is none.
    default_acl: Vec<u8>,
}

/// Where an entry goes: an open directory and a single name in it.
struct Spot<'e> {
    entry: &'e Entry,
    parent: OwnedFd,
    name: CString,
}

impl Unpacker<'_> {
    fn apply<R: Read>(&mut self, entry: &Entry, content: &mut TarReader<R>) -> Result<(), UnpackError> {
        let path = place::Relative::parse(&entry.path, self.limits.path_depth)
            .map_err(|what| refused(entry, what))?;
        let Some((parents, name)) = path.split() else {
            return self.apply_root(entry);
        };
        // Left by an old storage driver of Docker; nothing refers to them.
        let is_meta = |part: &[u8]| part.starts_with(WHITEOUT_META_PREFIX) && part != WHITEOUT_OPAQUE;
        if is_meta(name) || parents.iter().any(|part| is_meta(part)) {
            return Ok(());
        }
        let parent = self.parent(entry, parents)?;
        if name == WHITEOUT_OPAQUE {
            return make_opaque(parent.as_fd(), entry);
        }
        let hidden = name.strip_prefix(WHITEOUT_PREFIX);
        let name = CString::new(hidden.unwrap_or(name)).map_err(|_| refused(entry, Refusal::Nul))?;
        let spot = Spot { entry, parent, name };
        if hidden.is_some() {
            return self.whiteout(&spot);
        }
        self.place(&spot, &path, content)
    }

    fn place<R: Read>(
        &mut self,
        spot: &Spot<'_>,
        path: &place::Relative<'_>,
        content: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        match spot.entry.kind {
            Kind::Directory => self.directory(spot, path),
            Kind::File => self.file(spot, content),
            Kind::HardLink => self.hard_link(spot),
            Kind::Symlink => self.symlink(spot),
            Kind::CharDevice => self.node(spot, FileType::CharacterDevice),
            Kind::BlockDevice => self.node(spot, FileType::BlockDevice),
            Kind::Fifo => self.node(spot, FileType::Fifo),
        }
    }

    /// The layer's own root directory has an entry in many layers.
    fn apply_root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            return Err(refused(entry, Refusal::Root));
        }
        attributes::set_directory(self.root.fd(), entry, self.limits.xattr_bytes)?;
        self.at_end(Vec::new(), entry)
    }

    /// Opens the directory an entry goes into, making what is missing of it.
    fn parent(&mut self, entry: &Entry, parents: &[&[u8]]) -> Result<OwnedFd, UnpackError> {
        let found = self.root.enter(parents).map_err(|fault| fault.of(entry))?;
        for made in found.made {
            self.remember(made.len())?;
            self.out.inodes += 1;
            self.out.bytes += 4096;
            self.out.implicit.insert(made);
        }
        Ok(found.fd)
    }

    fn remember(&mut self, bytes: usize) -> Result<(), UnpackError> {
        // The tree's own node weighs more than a short name.
        self.remembered += bytes + 64;
        if self.remembered > REMEMBERED_BYTES_MAX {
            return Err(UnpackError::TooManyDirectories);
        }
        Ok(())
    }

    fn directory(&mut self, spot: &Spot<'_>, path: &place::Relative<'_>) -> Result<(), UnpackError> {
        let before = look_at(spot)?;
        if before != Some(There::Directory) {
            self.clear(spot, before)?;
            mkdirat(&spot.parent, &spot.name, Mode::RWXU).map_err(|e| failed(spot, "make directory", e))?;
            self.out.inodes += 1;
            self.out.bytes += 4096;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&spot.parent, &spot.name, flags, Mode::empty())
            .map_err(|errno| failed(spot, "open directory", errno))?;
        attributes::set_directory(fd.as_fd(), spot.entry, self.limits.xattr_bytes)?;
        // A whiteout and a directory of one name in one layer: the directory hides the one below.
        if before == Some(There::Whiteout) {
            make_opaque(fd.as_fd(), spot.entry)?;
        }
        let joined = path.joined();
        self.out.implicit.remove(&joined);
        self.at_end(joined, spot.entry)
    }

    /// Remembers what a directory gets when all its entries are there.
    fn at_end(&mut self, path: Vec<u8>, entry: &Entry) -> Result<(), UnpackError> {
        let default_acl = attributes::default_acl(entry).unwrap_or_default().to_vec();
        self.remember(path.len() + default_acl.len())?;
        self.finish.insert(path, Finish { mtime: entry.mtime, default_acl });
        Ok(())
    }

    fn file<R: Read>(&mut self, spot: &Spot<'_>, content: &mut TarReader<R>) -> Result<(), UnpackError> {
        let entry = spot.entry;
        if self.written.saturating_add(entry.size) > self.limits.layer_bytes {
            return Err(refused(entry, Refusal::Content));
        }
        self.written += entry.size;
        self.clear(spot, look_at(spot)?)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&spot.parent, &spot.name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed(spot, "create file", errno))?;
        let mut file = std::fs::File::from(fd);
        let wrote = match &entry.sparse {
            None => write_all(content, &mut file),
            Some(map) => write_sparse(content, &file, map),
        };
        wrote.map_err(|fault| fault.of(spot))?;
        attributes::set_file(file.as_fd(), entry, self.limits.xattr_bytes)?;
        self.out.inodes += 1;
        self.out.bytes += entry.size.next_multiple_of(4096);
        Ok(())
    }

    fn hard_link(&mut self, spot: &Spot<'_>) -> Result<(), UnpackError> {
        let entry = spot.entry;
        let target = place::Relative::parse(&entry.link, self.limits.path_depth)
            .map_err(|what| refused(entry, what))?;
        let Some((parents, name)) = target.split() else { return Err(refused(entry, Refusal::LinkTarget)) };
        let name = CString::new(name).map_err(|_| refused(entry, Refusal::Nul))?;
        let folder = self.root.find(parents).map_err(|fault| fault.of(entry))?;
        let folder = folder.ok_or_else(|| refused(entry, Refusal::LinkTarget))?;
        let target = match statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Err(refused(entry, Refusal::LinkTarget)),
            Err(errno) => return Err(failed(spot, "read link target", errno)),
        };
        if FileType::from_raw_mode(target.st_mode) == FileType::Directory {
            return Err(refused(entry, Refusal::LinkTarget));
        }
        match statat(&spot.parent, &spot.name, AtFlags::SYMLINK_NOFOLLOW) {
            // The same file already, or the very same name: removing it first would lose it.
            Ok(stat) if (stat.st_dev, stat.st_ino) == (target.st_dev, target.st_ino) => {
                let there = attributes::same_directory(spot.parent.as_fd(), folder.as_fd());
                return if there && name == spot.name {
                    Err(refused(entry, Refusal::SelfLink))
                } else {
                    Ok(())
                };
            }
            Ok(_) | Err(_) => self.clear(spot, look_at(spot)?)?,
        }
        // No flag: a symlink is linked itself, not what it points to.
        linkat(&folder, &name, &spot.parent, &spot.name, AtFlags::empty()).map_err(|errno| match errno {
            // A directory that held the target went away when the name was cleared.
            Errno::NOENT => refused(entry, Refusal::LinkTarget),
            errno => failed(spot, "make hard link", errno),
        })
    }

    fn symlink(&mut self, spot: &Spot<'_>) -> Result<(), UnpackError> {
        let entry = spot.entry;
        if entry.link.is_empty() || entry.link.len() >= self.limits.path_bytes {
            return Err(refused(entry, Refusal::Target));
        }
        let target = CString::new(entry.link.as_slice()).map_err(|_| refused(entry, Refusal::Nul))?;
        self.clear(spot, look_at(spot)?)?;
        // The text may point anywhere: it means something only inside a container's root.
        symlinkat(&target, &spot.parent, &spot.name).map_err(|e| failed(spot, "make symlink", e))?;
        self.out.inodes += 1;
        attributes::set_by_name(spot, attributes::Permissions::OfLink, self.limits.xattr_bytes)
    }

    fn node(&mut self, spot: &Spot<'_>, kind: FileType) -> Result<(), UnpackError> {
        self.clear(spot, look_at(spot)?)?;
        let (major, minor) = spot.entry.device;
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(&spot.parent, &spot.name, kind, mode, makedev(major, minor))
            .map_err(|errno| failed(spot, "make device or fifo", errno))?;
        self.out.inodes += 1;
        attributes::set_by_name(spot, attributes::Permissions::OfNode, self.limits.xattr_bytes)
    }

    /// Hides a name of the layers below.
    fn whiteout(&mut self, spot: &Spot<'_>) -> Result<(), UnpackError> {
        if matches!(spot.name.as_bytes(), b"" | b"." | b"..") {
            return Err(refused(spot.entry, Refusal::Whiteout));
        }
        match look_at(spot)? {
            None => {
                mknodat(&spot.parent, &spot.name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))
                    .map_err(|errno| failed(spot, "make whiteout", errno))?;
                self.out.inodes += 1;
                Ok(())
            }
            // The image specification lets a layer hide a directory and bring one of the same name
            // (layer.md, "Whiteouts"): what is in this layer stays, what is below does not show through.
            Some(There::Directory) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = openat(&spot.parent, &spot.name, flags, Mode::empty())
                    .map_err(|errno| failed(spot, "open directory", errno))?;
                make_opaque(fd.as_fd(), spot.entry)
            }
            Some(_) => Ok(()),
        }
    }

    /// Makes room at a name that the layer used before: the later entry counts.
    fn clear(&mut self, spot: &Spot<'_>, before: Option<There>) -> Result<(), UnpackError> {
        if before.is_none() {
            return Ok(());
        }
        let name = std::os::unix::ffi::OsStrExt::from_bytes(spot.name.as_bytes());
        let (mut bytes, mut inodes) = (0, 0);
        delete::tree_counted(&spot.parent, name, &mut |stat| {
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_directory || stat.st_nlink == 1 {
                inodes += 1;
                bytes += (stat.st_blocks as u64) * 512;
            }
        })?;
        self.out.bytes = self.out.bytes.saturating_sub(bytes);
        self.out.inodes = self.out.inodes.saturating_sub(inodes);
        Ok(())
    }

    /// Finishes the directories, deepest first: a directory's own time is not touched by its children's.
    fn finish_directories(&mut self) -> Result<(), UnpackError> {
        for (path, finish) in std::mem::take(&mut self.finish).iter().rev() {
            let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|part| !part.is_empty()).collect();
            // An entry that came later may have put something else there.
            let Some(fd) = self.root.find_exact(&parts)? else { continue };
            if !finish.default_acl.is_empty() {
                attributes::set_default_acl(fd.as_fd(), path, &finish.default_acl)?;
            }
            attributes::set_times(fd.as_fd(), finish.mtime)
                .map_err(|errno| IoFailure::new("set times of", String::from_utf8_lossy(path), errno))?;
        }
        Ok(())
    }
}

fn make_opaque(directory: BorrowedFd<'_>, entry: &Entry) -> Result<(), UnpackError> {
    attributes::set_xattr(directory, OPAQUE_XATTR, b"y").map_err(|errno| UnpackError::Apply {
        path: shown(&entry.path),
        action: "mark directory opaque",
        source: errno.into(),
    })
}

/// What a name in the layer is before an entry takes it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum There {
    Directory,
    /// A character device 0:0: the name is hidden, or was given as such a device, which is the same.
    Whiteout,
    Other,
}

/// What is at the spot now.
fn look_at(spot: &Spot<'_>) -> Result<Option<There>, UnpackError> {
    match statat(&spot.parent, &spot.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => There::Directory,
            FileType::CharacterDevice if stat.st_rdev == 0 => There::Whiteout,
            _ => There::Other,
        })),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NAMETOOLONG) => Err(refused(spot.entry, Refusal::LongName)),
        Err(errno) => Err(failed(spot, "look at", errno)),
    }
}

/// A copy ends by the stream's fault or by the file's.
enum CopyFault {
    Read(io::Error),
    Write(io::Error),
}

impl CopyFault {
    fn of(self, spot: &Spot<'_>) -> UnpackError {
        match self {
            CopyFault::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                TarError::Truncated("a file").into()
            }
            CopyFault::Read(error) => TarError::Read(error).into(),
            CopyFault::Write(source) => {
                UnpackError::Apply { path: shown(&spot.entry.path), action: "write file", source }
            }
        }
    }
}

fn write_all(content: &mut impl Read, file: &mut std::fs::File) -> Result<(), CopyFault> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        let got = read_some(content, &mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        io::Write::write_all(file, &buffer[..got]).map_err(CopyFault::Write)?;
    }
}

fn write_sparse(
    content: &mut impl Read,
    file: &std::fs::File,
    map: &crate::tar::Map,
) -> Result<(), CopyFault> {
    let mut buffer = vec![0; 128 << 10];
    for piece in &map.pieces {
        let (mut at, mut left) = (piece.offset, piece.length);
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = read_some(content, &mut buffer[..want])?;
            if got == 0 {
                return Err(CopyFault::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            file.write_all_at(&buffer[..got], at).map_err(CopyFault::Write)?;
            at += got as u64;
            left -= got as u64;
        }
    }
    file.set_len(map.real_size).map_err(CopyFault::Write)
}

fn read_some(content: &mut impl Read, buffer: &mut [u8]) -> Result<usize, CopyFault> {
    loop {
        match content.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(CopyFault::Read),
        }
    }
}

fn refused(entry: &Entry, what: Refusal) -> UnpackError {
    UnpackError::Entry { path: shown(&entry.path), what }
}

fn failed(spot: &Spot<'_>, action: &'static str, errno: Errno) -> UnpackError {
    match errno {
        Errno::NAMETOOLONG => refused(spot.entry, Refusal::LongName),
        errno => UnpackError::Apply { path: shown(&spot.entry.path), action, source: errno.into() },
    }
}

/// A path as shown in errors, bounded.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(256)]).into_owned()
}
