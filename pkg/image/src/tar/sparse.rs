//! Sparse files: where the content of an entry goes in the file, and how long the file is.
//!
//! GNU tar writes them in four ways: in the header and in blocks behind it (type `S`), in pax records
//! (formats 0.0 and 0.1), and in front of the content (format 1.0).

use std::io::Read;

use super::header::{BLOCK, Header, number};
use super::pax::{Records, decimal};
use super::{Kind, TarError};

/// A run of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// All runs of a file and its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) real_size: u64,
    pub(crate) pieces: Vec<Piece>,
}

impl Map {
    /// Runs must be in order, apart, within the file, and add up to the content that there is.
    pub(super) fn check(&self, content: u64, entry: u64) -> Result<(), TarError> {
        let mut end = 0_u64;
        let mut total = 0_u64;
        for piece in &self.pieces {
            let next = piece.offset.checked_add(piece.length).filter(|next| *next <= self.real_size);
            if piece.offset < end || next.is_none() {
                return Err(TarError::Sparse { entry });
            }
            end = next.unwrap_or(end);
            total += piece.length;
        }
        if total != content || i64::try_from(self.real_size).is_err() {
            return Err(TarError::Sparse { entry });
        }
        Ok(())
    }
}

/// Where the map of an entry is.
pub(super) enum Found {
    No,
    InHeader,
    InRecords(Map),
    InContent { real_size: u64 },
}

pub(super) fn find(header: &Header, pax: &Records, kind: Kind, entry: u64) -> Result<Found, TarError> {
    if header.kind() == b'S' {
        return Ok(Found::InHeader);
    }
    if kind != Kind::File {
        return Ok(Found::No);
    }
    match (pax.sparse_major, pax.sparse_minor) {
        (Some(1), Some(0)) => {
            let real_size = pax.sparse_size.ok_or(TarError::Sparse { entry })?;
            Ok(Found::InContent { real_size })
        }
        (None, None) | (Some(0), Some(0 | 1)) => Ok(pax.map().map_or(Found::No, Found::InRecords)),
        _ => Err(TarError::Sparse { entry }),
    }
}

/// The map of a type `S` header: four runs in it, 21 in each block behind it.
pub(super) fn read_old(
    header: &Header,
    input: &mut impl Read,
    entry: u64,
    max: usize,
) -> Result<Map, TarError> {
    let bad = TarError::Sparse { entry };
    let raw = header.raw();
    let Some(real_size) = number(&raw[483..495]).and_then(|n| u64::try_from(n).ok()) else {
        return Err(bad);
    };
    let mut pieces = Vec::new();
    let mut more = raw[482] != 0;
    if !take_runs(&raw[386..482], &mut pieces, max) {
        return Err(bad);
    }
    let mut block = [0; BLOCK];
    while more {
        input.read_exact(&mut block).map_err(|error| super::ended(error, "a sparse map"))?;
        more = block[504] != 0;
        if !take_runs(&block[..504], &mut pieces, max) {
            return Err(bad);
        }
    }
    Ok(Map { real_size, pieces })
}

/// Reads runs of two 12-byte numbers up to the first empty one. False if one is malformed or too many.
fn take_runs(field: &[u8], pieces: &mut Vec<Piece>, max: usize) -> bool {
    for run in field.chunks_exact(24) {
        if run[0] == 0 {
            break;
        }
        let offset = number(&run[..12]).and_then(|n| u64::try_from(n).ok());
        let length = number(&run[12..]).and_then(|n| u64::try_from(n).ok());
        let (Some(offset), Some(length)) = (offset, length) else { return false };
        if pieces.len() >= max {
            return false;
        }
        pieces.push(Piece { offset, length });
    }
    true
}

/// The map in front of the content: decimal numbers, a line each, padded to a block. Returns it with the
/// bytes it took.
pub(super) fn read_content(
    content: &mut impl Read,
    real_size: u64,
    entry: u64,
    max: usize,
) -> Result<(Map, u64), TarError> {
    let mut lines = Lines { content, block: [0; BLOCK], at: BLOCK, used: 0, entry };
    let count = lines.number()?;
    if count > max as u64 {
        return Err(TarError::TooLarge { entry, what: "sparse map", max: max as u64 });
    }
    let mut pieces = Vec::new();
    for _ in 0..count {
        pieces.push(Piece { offset: lines.number()?, length: lines.number()? });
    }
    Ok((Map { real_size, pieces }, lines.used))
}

struct Lines<'a, R> {
    content: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
    used: u64,
    entry: u64,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64, TarError> {
        let bad = TarError::Sparse { entry: self.entry };
        // No number of the format has more digits than 2^64.
        let mut digits = Vec::with_capacity(20);
        loop {
            if self.at == BLOCK {
                self.content
                    .read_exact(&mut self.block)
                    .map_err(|error| super::ended(error, "a sparse map"))?;
                self.at = 0;
                self.used += BLOCK as u64;
            }
            let byte = self.block[self.at];
            self.at += 1;
            if byte == b'\n' {
                return decimal(&digits).ok_or(bad);
            }
            if digits.len() == 20 {
                return Err(bad);
            }
            digits.push(byte);
        }
    }
}
