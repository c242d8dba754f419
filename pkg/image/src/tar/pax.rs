//! Records of a pax extended header: `length key=value\n`, the length counting itself.

use super::header::owner;
use super::sparse::{Map, Piece};
use super::{TarError, Time};

/// What the records of one header say. Of two records with one key the later counts (POSIX pax,
/// "pax Extended Header File Times"), as with every other reader.
#[derive(Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse_major: Option<u64>,
    pub(super) sparse_minor: Option<u64>,
    pub(super) sparse_name: Option<Vec<u8>>,
    pub(super) sparse_size: Option<u64>,
    /// Maps of the formats 0.0 and 0.1 are in the records themselves.
    pub(super) sparse_map: Option<Vec<Piece>>,
    /// Of format 0.0: an offset whose length has not come yet.
    pending_offset: Option<u64>,
}

impl Records {
    pub(super) fn parse(body: &[u8], entry: u64, max_pieces: usize) -> Result<Records, TarError> {
        let mut records = Records::default();
        let mut rest = body;
        while !rest.is_empty() {
            let bad = || TarError::Pax { entry, record: shown(rest) };
            let (key, value, next) = split(rest).ok_or_else(bad)?;
            records.take(key, value, max_pieces).ok_or_else(bad)?;
            rest = next;
        }
        if records.pending_offset.is_some() {
            return Err(TarError::Sparse { entry });
        }
        Ok(records)
    }

    /// Takes one record; `None` if its value is malformed.
    fn take(&mut self, key: &[u8], value: &[u8], max_pieces: usize) -> Option<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.retain(|(known, _)| known != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Some(());
        }
        // An empty value takes an earlier record back.
        let present = !value.is_empty();
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link = text(value)?,
            b"size" => self.size = if present { Some(decimal(value)?) } else { None },
            b"uid" => self.uid = if present { Some(id(value)?) } else { None },
            b"gid" => self.gid = if present { Some(id(value)?) } else { None },
            b"mtime" => self.mtime = if present { Some(time(value)?) } else { None },
            b"GNU.sparse.major" => self.sparse_major = Some(decimal(value)?),
            b"GNU.sparse.minor" => self.sparse_minor = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse_name = text(value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = Some(decimal(value)?),
            b"GNU.sparse.map" => self.sparse_map = Some(map(value, max_pieces)?),
            b"GNU.sparse.offset" => {
                let offset = decimal(value)?;
                return self.pending_offset.replace(offset).is_none().then_some(());
            }
            b"GNU.sparse.numbytes" => {
                let piece = Piece { offset: self.pending_offset.take()?, length: decimal(value)? };
                let pieces = self.sparse_map.get_or_insert_default();
                if pieces.len() >= max_pieces {
                    return None;
                }
                pieces.push(piece);
            }
            // Comments, character sets, times we do not keep, and what vendors add.
            _ => {}
        }
        Some(())
    }

    /// The map in the records, if the format has it there.
    pub(super) fn map(&self) -> Option<Map> {
        let pieces = self.sparse_map.clone()?;
        Some(Map { real_size: self.sparse_size?, pieces })
    }
}

/// Key, value and the rest behind one record.
fn split(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = body.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&body[..space])?).ok()?;
    if length > body.len() || length < space + 3 {
        return None;
    }
    let (record, rest) = body.split_at(length);
    let record = record[space + 1..].strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    // A NUL in a key would end the name of an extended attribute early.
    if key.is_empty() || key.contains(&0) { None } else { Some((key, value, rest)) }
}

/// A path: no NUL. Empty: the header's own.
fn text(value: &[u8]) -> Option<Option<Vec<u8>>> {
    if value.contains(&0) {
        return None;
    }
    Some((!value.is_empty()).then(|| value.to_vec()))
}

pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    // Everything here is an offset or a length in a file.
    i64::try_from(number).is_ok().then_some(number)
}

fn id(value: &[u8]) -> Option<u32> {
    owner(decimal(value).and_then(|n| i64::try_from(n).ok()))
}

/// `[-]seconds[.fraction]`; digits beyond nanoseconds are cut.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|b| *b == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &value[value.len()..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0, |n, digit| n * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanos) {
        (false, _) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

/// Format 0.1: `offset,length,offset,length,…`.
fn map(value: &[u8], max_pieces: usize) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut numbers = value.split(|b| *b == b',');
    while let Some(offset) = numbers.next() {
        if pieces.len() >= max_pieces {
            return None;
        }
        pieces.push(Piece { offset: decimal(offset)?, length: decimal(numbers.next()?)? });
    }
    Some(pieces)
}

fn shown(record: &[u8]) -> String {
    String::from_utf8_lossy(&record[..record.len().min(80)]).into_owned()
}
