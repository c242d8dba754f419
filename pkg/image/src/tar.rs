//! A strict reader of tar streams: ustar, POSIX pax, GNU long names and sparse files.
//!
//! ```text
//! stream = { [x header + records] [L header + name] [K header + link] header + data } + zero blocks
//! ```
//!
//! Facts from POSIX `pax` (IEEE 1003.1), "ustar Interchange Format" and "pax Extended Header", and from the
//! GNU tar manual, "Basic Tar Format" and "Storing Sparse Files". Where readers in the field differ, this
//! one either reads what Go's `archive/tar` reads, since the images' makers and the other runtimes use that,
//! or refuses: a stream that two readers understand differently hides something from one of them.
//!
//! It is not an unpacker: it never touches a file system.

use std::io::{self, Read};

mod header;
mod pax;
mod sparse;

use header::{BLOCK, Header};
pub(crate) use sparse::Map;

/// What bounds a stream.
#[derive(Clone, Debug)]
pub(crate) struct TarLimits {
    pub(crate) entries: u64,
    pub(crate) extension_bytes: u64,
    pub(crate) path_bytes: usize,
    pub(crate) sparse_pieces: usize,
}

/// Why a stream is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    #[error("cannot read the tar stream")]
    Read(#[source] io::Error),
    #[error("tar stream ends within {0}")]
    Truncated(&'static str),
    #[error("tar header {entry}: checksum does not match")]
    Checksum { entry: u64 },
    #[error("tar header {entry}: field {field} is malformed")]
    Field { entry: u64, field: &'static str },
    #[error("tar header {entry}: entry type {kind:?} is not supported")]
    Kind { entry: u64, kind: char },
    #[error("tar header {entry}: {what} is given twice")]
    Ambiguous { entry: u64, what: &'static str },
    #[error("tar header {entry}: pax record {record:?} is malformed")]
    Pax { entry: u64, record: String },
    #[error("tar header {entry}: sparse map is malformed")]
    Sparse { entry: u64 },
    #[error("tar header {entry}: {what} is larger than {max}")]
    TooLarge { entry: u64, what: &'static str, max: u64 },
    #[error("tar stream has more than {0} entries")]
    TooMany(u64),
    #[error("tar stream ends with extension headers that belong to no entry")]
    Dangling,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

/// One entry. Its content is read from the reader before the next entry is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of content in the stream.
    pub(crate) size: u64,
    /// For a sparse file, its length and where the content goes.
    pub(crate) sparse: Option<Map>,
}

/// Reads entries one after another. As `Read`, it gives the content of the current one.
pub(crate) struct TarReader<R> {
    input: R,
    limits: TarLimits,
    count: u64,
    /// Content of the current entry not yet read, and the padding behind it.
    left: u64,
    padding: u64,
    done: bool,
}

/// Extension headers in front of an entry.
#[derive(Default)]
struct Extensions {
    pax: Option<pax::Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(input: R, limits: TarLimits) -> TarReader<R> {
        TarReader { input, limits, count: 0, left: 0, padding: 0, done: false }
    }

    /// The stream behind the archive.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; what is left of the current one is skipped. `None` at the end of the archive.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_rest()?;
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.read_header()? else {
                let dangling = extensions.pax.is_some()
                    || extensions.long_name.is_some()
                    || extensions.long_link.is_some();
                return if dangling { Err(TarError::Dangling) } else { Ok(None) };
            };
            self.count += 1;
            if self.count > self.limits.entries {
                return Err(TarError::TooMany(self.limits.entries));
            }
            match header.kind() {
                b'x' => {
                    let body = self.extension("pax header", &header)?;
                    let records = pax::Records::parse(&body, self.count, self.limits.sparse_pieces)?;
                    self.once(&mut extensions.pax, records, "pax header")?;
                }
                // Global records: every reader of images ignores them. They are parsed, so that they hide
                // nothing malformed.
                b'g' => {
                    let body = self.extension("pax header", &header)?;
                    pax::Records::parse(&body, self.count, self.limits.sparse_pieces)?;
                }
                b'L' => {
                    let name = self.long_text("long name", &header)?;
                    self.once(&mut extensions.long_name, name, "long name")?;
                }
                b'K' => {
                    let link = self.long_text("long link", &header)?;
                    self.once(&mut extensions.long_link, link, "long link")?;
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// Leaves the current entry's content to a caller who can jump over it, and says how long it is with its
    /// padding.
    pub(crate) fn jump(&mut self) -> u64 {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        rest
    }

    fn once<T>(&self, slot: &mut Option<T>, value: T, what: &'static str) -> Result<(), TarError> {
        if slot.replace(value).is_some() {
            return Err(TarError::Ambiguous { entry: self.count, what });
        }
        Ok(())
    }

    /// Puts header and extensions together.
    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, TarError> {
        let count = self.count;
        let pax = extensions.pax.unwrap_or_default();
        let name = pick(extensions.long_name, pax.path.clone(), count, "path")?;
        let link = pick(extensions.long_link, pax.link.clone(), count, "link target")?;
        let mut path = name.unwrap_or_else(|| header.path());
        let kind = header.entry_kind(count, &path)?;
        let mut size = match kind {
            Kind::File => pax.size.map_or_else(|| header.size(count), Ok)?,
            // Readers agree that other entries have no content, whatever their size says.
            _ => 0,
        };
        self.begin(size, count)?;
        let sparse = match sparse::find(header, &pax, kind, count)? {
            sparse::Found::No => None,
            sparse::Found::InHeader => {
                let map = sparse::read_old(header, &mut self.input, count, self.limits.sparse_pieces)?;
                Some(map)
            }
            sparse::Found::InRecords(map) => Some(map),
            sparse::Found::InContent { real_size } => {
                let max = self.limits.sparse_pieces;
                let (map, used) = sparse::read_content(&mut *self, real_size, count, max)?;
                size = size.checked_sub(used).ok_or(TarError::Sparse { entry: count })?;
                Some(map)
            }
        };
        if let Some(map) = &sparse {
            map.check(size, count)?;
            if let Some(real) = &pax.sparse_name {
                path = real.clone();
            }
        }
        if path.len() > self.limits.path_bytes {
            let max = self.limits.path_bytes as u64;
            return Err(TarError::TooLarge { entry: count, what: "path", max });
        }
        Ok(Entry {
            kind,
            path,
            link: link.unwrap_or_else(|| header.link()),
            mode: header.mode(count)?,
            uid: pax.uid.map_or_else(|| header.uid(count), Ok)?,
            gid: pax.gid.map_or_else(|| header.gid(count), Ok)?,
            mtime: pax.mtime.map_or_else(|| header.mtime(count), Ok)?,
            device: header.device(kind, count)?,
            xattrs: pax.xattrs,
            size,
            sparse,
        })
    }

    fn begin(&mut self, size: u64, entry: u64) -> Result<(), TarError> {
        // The format itself cannot say more than 2^63 - 1 in a way that all readers take.
        if size > i64::MAX as u64 - BLOCK as u64 {
            return Err(TarError::Field { entry, field: "size" });
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// The body of an extension header, bounded before it is read.
    fn extension(&mut self, what: &'static str, header: &Header) -> Result<Vec<u8>, TarError> {
        let size = header.size(self.count)?;
        if size > self.limits.extension_bytes {
            let max = self.limits.extension_bytes;
            return Err(TarError::TooLarge { entry: self.count, what, max });
        }
        self.begin(size, self.count)?;
        let mut body = vec![0; size as usize];
        self.read_exact(&mut body).map_err(|error| ended(error, what))?;
        self.skip_rest()?;
        Ok(body)
    }

    /// A GNU long name: up to its first NUL.
    fn long_text(&mut self, what: &'static str, header: &Header) -> Result<Vec<u8>, TarError> {
        let mut body = self.extension(what, header)?;
        if let Some(end) = body.iter().position(|b| *b == 0) {
            body.truncate(end);
        }
        Ok(body)
    }

    /// The next header; `None` at the end: two zero blocks, or the end of the stream.
    fn read_header(&mut self) -> Result<Option<Header>, TarError> {
        if self.done {
            return Ok(None);
        }
        let Some(block) = self.read_block()? else {
            self.done = true;
            return Ok(None);
        };
        if block.iter().any(|b| *b != 0) {
            return Header::new(block, self.count + 1).map(Some);
        }
        self.done = true;
        match self.read_block()? {
            Some(block) if block.iter().any(|b| *b != 0) => {
                Err(TarError::Field { entry: self.count + 1, field: "end of archive" })
            }
            _ => Ok(None),
        }
    }

    /// One block; `None` if the stream ends exactly here.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated("a header")),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        Ok(Some(block))
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let rest = self.jump();
        let skipped = io::copy(&mut (&mut self.input).take(rest), &mut io::sink()).map_err(TarError::Read)?;
        if skipped < rest { Err(TarError::Truncated("an entry")) } else { Ok(()) }
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        Ok(got)
    }
}

/// A value that GNU and pax extensions can both give, but not both at once.
fn pick(
    gnu: Option<Vec<u8>>,
    pax: Option<Vec<u8>>,
    entry: u64,
    what: &'static str,
) -> Result<Option<Vec<u8>>, TarError> {
    match (gnu, pax) {
        (Some(_), Some(_)) => Err(TarError::Ambiguous { entry, what }),
        (gnu, pax) => Ok(gnu.or(pax)),
    }
}

fn ended(error: io::Error, what: &'static str) -> TarError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TarError::Truncated(what),
        _ => TarError::Read(error),
    }
}

#[cfg(test)]
mod tests;
