//! From a compressed blob to a tar stream: inflating, counting, and hashing on the way.
//!
//! What the bytes are is read off the bytes: registries and build tools mislabel layers, and every runtime
//! looks at the magic number. gzip is RFC 1952, zstd RFC 8878.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use crate::config::Limits;
use crate::digest::{Algorithm, Digest, Hasher};

/// A layer inflates to more than it may.
#[derive(Debug, thiserror::Error)]
#[error("layer inflates to more than {max} bytes")]
pub(crate) struct TooMuch {
    pub(crate) max: u64,
}

type Sniffed<R> = Chain<Cursor<Vec<u8>>, R>;

enum Decoder<R: BufRead> {
    Plain(Sniffed<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Sniffed<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, Sniffed<R>>),
}

/// The inflated stream. Reading it hashes it and holds it to its bound.
pub(crate) struct Inflated<R: BufRead> {
    decoder: Decoder<R>,
    hasher: Hasher,
    count: u64,
    max: u64,
}

impl<R: BufRead> Inflated<R> {
    /// Looks at the first bytes of `input` and chooses the decoder. `compressed` is the size of the blob,
    /// `algorithm` that of the digest the content will be compared with.
    pub(crate) fn new(
        mut input: R,
        compressed: u64,
        algorithm: Algorithm,
        limits: &Limits,
    ) -> io::Result<Inflated<R>> {
        let mut magic = Vec::with_capacity(4);
        input.by_ref().take(4).read_to_end(&mut magic)?;
        let is_gzip = magic.starts_with(&[0x1f, 0x8b]);
        // The second form is a skippable frame, which zstd streams may begin with.
        let is_zstd = magic == [0x28, 0xb5, 0x2f, 0xfd]
            || (magic.len() == 4 && magic[0] & 0xf0 == 0x50 && magic[1..] == [0x2a, 0x4d, 0x18]);
        let whole = Cursor::new(magic).chain(input);
        let decoder = if is_gzip {
            Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(whole)))
        } else if is_zstd {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(limits.zstd_window_log)?;
            Decoder::Zstd(decoder)
        } else {
            Decoder::Plain(whole)
        };
        let by_ratio = compressed.saturating_mul(limits.layer_ratio).max(limits.ratio_free_bytes);
        let max = by_ratio.min(limits.layer_bytes);
        Ok(Inflated { decoder, hasher: Hasher::new(algorithm), count: 0, max })
    }

    /// Reads to the end and returns the digest of everything inflated: the diff ID of a layer.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hasher.finish())
    }
}

impl<R: BufRead> Read for Inflated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = match &mut self.decoder {
            Decoder::Plain(inner) => inner.read(buffer)?,
            Decoder::Gzip(inner) => inner.read(buffer)?,
            Decoder::Zstd(inner) => inner.read(buffer)?,
        };
        self.count += got as u64;
        if self.count > self.max {
            return Err(io::Error::other(TooMuch { max: self.max }));
        }
        self.hasher.update(&buffer[..got]);
        Ok(got)
    }
}

/// The stream with a buffer that spares the decoder small reads: tar headers are 512 bytes.
pub(crate) fn buffered<R: BufRead>(stream: Inflated<R>) -> BufReader<Inflated<R>> {
    BufReader::with_capacity(128 << 10, stream)
}
