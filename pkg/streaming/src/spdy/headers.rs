//! Header blocks: name-value pairs, compressed by zlib with a dictionary, one state for each direction
//! of a connection (draft 3.1, section 2.6.10).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use thiserror::Error;

/// The dictionary that both sides start with; it is part of the protocol.
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// The most that a block may inflate to, in bytes.
const BLOCK_MAX_BYTES: usize = 64 << 10;
/// The most pairs in a block.
const PAIRS_MAX: u32 = 100;

/// Why a header block cannot be read. The connection is then beyond repair.
#[derive(Debug, Error)]
pub(crate) enum HeaderError {
    /// Not zlib with our dictionary.
    #[error("a header block does not inflate")]
    Inflate(#[from] flate2::DecompressError),
    /// Larger than allowed.
    #[error("a header block inflates to more than {BLOCK_MAX_BYTES} bytes")]
    TooLarge,
    /// More pairs than allowed.
    #[error("a header block has {0} pairs, over the limit of {PAIRS_MAX}")]
    TooMany(u32),
    /// It ends too early.
    #[error("a header block is cut short")]
    Short,
    /// A name or value is not text.
    #[error("a header is not UTF-8")]
    Text,
}

/// Reads the blocks of one direction.
#[derive(Debug)]
pub(super) struct HeaderReader {
    inflate: Decompress,
}

impl HeaderReader {
    pub(super) fn new() -> HeaderReader {
        HeaderReader { inflate: Decompress::new(true) }
    }

    /// The pairs of a block. Every block of a direction must be read, in order.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, HeaderError> {
        let plain = self.inflate(block)?;
        pairs(&plain)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut plain = Vec::with_capacity(1024);
        loop {
            let (before_in, before_out) = (self.inflate.total_in(), plain.len());
            match self.inflate.decompress_vec(block, &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) if plain.len() > BLOCK_MAX_BYTES => return Err(HeaderError::TooLarge),
                Ok(Status::StreamEnd) => return Ok(plain),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(DICTIONARY)?;
                }
                Err(error) => return Err(error.into()),
            }
            let taken =
                usize::try_from(self.inflate.total_in() - before_in).map_err(|_| HeaderError::TooLarge)?;
            block = block.get(taken..).ok_or(HeaderError::Short)?;
            if plain.len() > BLOCK_MAX_BYTES {
                return Err(HeaderError::TooLarge);
            }
            if plain.len() == plain.capacity() {
                plain.reserve(plain.capacity());
            } else if block.is_empty() && plain.len() == before_out {
                return Ok(plain);
            } else if taken == 0 && plain.len() == before_out && plain.is_empty() && block.is_empty() {
                return Err(HeaderError::Short);
            }
        }
    }
}

fn pairs(plain: &[u8]) -> Result<Vec<(String, String)>, HeaderError> {
    let mut rest = plain;
    let count = number(&mut rest)?;
    if count > PAIRS_MAX {
        return Err(HeaderError::TooMany(count));
    }
    let mut pairs = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let name = text(&mut rest)?.to_ascii_lowercase();
        pairs.push((name, text(&mut rest)?));
    }
    Ok(pairs)
}

fn number(rest: &mut &[u8]) -> Result<u32, HeaderError> {
    let (bytes, after) = rest.split_first_chunk::<4>().ok_or(HeaderError::Short)?;
    *rest = after;
    Ok(u32::from_be_bytes(*bytes))
}

fn text(rest: &mut &[u8]) -> Result<String, HeaderError> {
    let length = number(rest)? as usize;
    let bytes = rest.get(..length).ok_or(HeaderError::Short)?;
    *rest = &rest[length..];
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| HeaderError::Text)
}

/// Writes the blocks of one direction.
#[derive(Debug)]
pub(crate) struct HeaderWriter {
    deflate: Compress,
}

impl HeaderWriter {
    pub(crate) fn new() -> HeaderWriter {
        HeaderWriter { deflate: Compress::new(Compression::fast(), true) }
    }

    /// A block of `pairs`.
    pub(crate) fn write(&mut self, pairs: &[(&str, &str)]) -> Result<Vec<u8>, flate2::CompressError> {
        if self.deflate.total_in() == 0 {
            self.deflate.set_dictionary(DICTIONARY)?;
        }
        let mut plain = Vec::new();
        let mut push = |bytes: &[u8]| {
            plain.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
            plain.extend_from_slice(bytes);
        };
        for (name, value) in pairs {
            push(name.as_bytes());
            push(value.as_bytes());
        }
        let count = u32::try_from(pairs.len()).unwrap_or(u32::MAX);
        plain.splice(0..0, count.to_be_bytes());
        let mut block = Vec::with_capacity(plain.len() + 64);
        let from = self.deflate.total_in();
        loop {
            let taken = usize::try_from(self.deflate.total_in() - from).unwrap_or(usize::MAX);
            self.deflate.compress_vec(&plain[taken.min(plain.len())..], &mut block, FlushCompress::Sync)?;
            if block.len() < block.capacity() {
                return Ok(block);
            }
            block.reserve(block.capacity());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_direction_come_back_in_order() {
        let (mut writer, mut reader) = (HeaderWriter::new(), HeaderReader::new());
        let long = "x".repeat(5000);
        for pairs in
            [&[("streamtype", "stdin")][..], &[], &[("a", ""), ("b", &long)], &[("streamtype", "error")]]
        {
            let block = writer.write(pairs).unwrap();
            let read = reader.read(&block).unwrap();
            let expected: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn names_are_lower_case() {
        let block = HeaderWriter::new().write(&[("StreamType", "Data")]).unwrap();
        assert_eq!(HeaderReader::new().read(&block).unwrap(), [("streamtype".to_owned(), "Data".to_owned())]);
    }

    #[test]
    fn a_block_that_inflates_too_far_is_refused() {
        let bomb = "0".repeat(BLOCK_MAX_BYTES * 4);
        let block = HeaderWriter::new().write(&[("a", &bomb)]).unwrap();
        assert!(block.len() < 4096);
        assert!(matches!(HeaderReader::new().read(&block), Err(HeaderError::TooLarge)));
    }

    #[test]
    fn counts_and_lengths_are_checked_before_they_are_believed() {
        let raw = |plain: &[u8]| pairs(plain);
        assert!(matches!(raw(&u32::MAX.to_be_bytes()), Err(HeaderError::TooMany(u32::MAX))));
        assert!(matches!(raw(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]), Err(HeaderError::Short)));
        assert!(matches!(raw(&[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0]), Err(HeaderError::Text)));
        assert!(HeaderReader::new().read(b"not zlib at all").is_err());
    }
}
