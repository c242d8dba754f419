//! The 512-byte header block.

use super::{Kind, TarError, Time};

pub(super) const BLOCK: usize = 512;

/// Which dialect a header is written in: it decides what lies behind the first 257 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Gnu,
}

/// A header whose checksum is right.
pub(super) struct Header {
    block: [u8; BLOCK],
    format: Format,
}

impl Header {
    pub(super) fn new(block: [u8; BLOCK], entry: u64) -> Result<Header, TarError> {
        let stated = number(&block[148..156]).ok_or(TarError::Field { entry, field: "checksum" })?;
        let masked = |(i, b): (usize, &u8)| if (148..156).contains(&i) { b' ' } else { *b };
        let unsigned: i64 = block.iter().enumerate().map(|b| i64::from(masked(b))).sum();
        // Some old writers summed signed characters.
        let signed: i64 = block.iter().enumerate().map(|b| i64::from(masked(b) as i8)).sum();
        if stated != unsigned && stated != signed {
            return Err(TarError::Checksum { entry });
        }
        let format = match &block[257..265] {
            b"ustar\x0000" => Format::Ustar,
            b"ustar  \0" => Format::Gnu,
            magic if magic.starts_with(b"ustar\0") => Format::Ustar,
            _ => Format::V7,
        };
        Ok(Header { block, format })
    }

    /// The type flag as written.
    pub(super) fn kind(&self) -> u8 {
        self.block[156]
    }

    pub(super) fn is_gnu(&self) -> bool {
        self.format == Format::Gnu
    }

    pub(super) fn raw(&self) -> &[u8; BLOCK] {
        &self.block
    }

    pub(super) fn entry_kind(&self, entry: u64, path: &[u8]) -> Result<Kind, TarError> {
        Ok(match self.kind() {
            // Before ustar a directory was a file whose name ends in a slash; readers still honour it.
            b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'S' if self.is_gnu() => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(TarError::Kind { entry, kind: char::from(other) }),
        })
    }

    /// Name, with the prefix that ustar has for long ones.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        if self.format != Format::Ustar {
            return name.to_vec();
        }
        let prefix = text(&self.block[345..500]);
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    pub(super) fn size(&self, entry: u64) -> Result<u64, TarError> {
        let size = number(&self.block[124..136]).and_then(|n| u64::try_from(n).ok());
        size.ok_or(TarError::Field { entry, field: "size" })
    }

    /// Permission bits; some writers put the file type above them.
    pub(super) fn mode(&self, entry: u64) -> Result<u32, TarError> {
        let mode = number(&self.block[100..108]).filter(|mode| *mode >= 0);
        mode.map(|mode| (mode & 0o7777) as u32).ok_or(TarError::Field { entry, field: "mode" })
    }

    pub(super) fn uid(&self, entry: u64) -> Result<u32, TarError> {
        owner(number(&self.block[108..116])).ok_or(TarError::Field { entry, field: "uid" })
    }

    pub(super) fn gid(&self, entry: u64) -> Result<u32, TarError> {
        owner(number(&self.block[116..124])).ok_or(TarError::Field { entry, field: "gid" })
    }

    pub(super) fn mtime(&self, entry: u64) -> Result<Time, TarError> {
        let seconds = number(&self.block[136..148]).ok_or(TarError::Field { entry, field: "mtime" })?;
        Ok(Time { seconds, nanos: 0 })
    }

    /// Device numbers; only looked at where the entry is a device.
    pub(super) fn device(&self, kind: Kind, entry: u64) -> Result<(u32, u32), TarError> {
        if !matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            return Ok((0, 0));
        }
        // The kernel has 12 bits for the major and 20 for the minor number.
        let part = |range: std::ops::Range<usize>, bits: u32, field| {
            number(&self.block[range])
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| n >> bits == 0)
                .ok_or(TarError::Field { entry, field })
        };
        if self.format == Format::V7 {
            return Ok((0, 0));
        }
        Ok((part(329..337, 12, "device major")?, part(337..345, 20, "device minor")?))
    }
}

/// A user or group id: 2^32 - 1 means "no change" to `chown` and is none.
pub(super) fn owner(number: Option<i64>) -> Option<u32> {
    number.and_then(|n| u32::try_from(n).ok()).filter(|n| *n != u32::MAX)
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

/// A numeric field: octal digits, padded with spaces or NULs, or GNU's base 256, two's complement.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        return base256(field, first);
    }
    let start = field.iter().position(|b| *b != b' ' && *b != 0);
    let Some(start) = start else { return Some(0) };
    let rest = &field[start..];
    let end = rest.iter().position(|b| *b == b' ' || *b == 0).unwrap_or(rest.len());
    if rest[end..].iter().any(|b| *b != b' ' && *b != 0) {
        return None;
    }
    let mut value: i64 = 0;
    for digit in &rest[..end] {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

fn base256(field: &[u8], first: u8) -> Option<i64> {
    let negative = first & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (i, byte) in field.iter().enumerate() {
        // The marker bit is no part of the number; in a negative one it stands for another sign bit.
        let byte = match i {
            0 if negative => first | 0x80,
            0 => first & 0x7f,
            _ => *byte,
        };
        value = value.checked_mul(256)?.checked_add(i128::from(byte))?;
        if negative && i == 0 {
            value = i128::from(byte as i8);
        }
        if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
            return None;
        }
    }
    i64::try_from(value).ok()
}
