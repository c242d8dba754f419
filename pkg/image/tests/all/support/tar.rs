//! Writing tar streams field by field, well formed or not.

/// A tar stream being written.
#[derive(Clone, Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
}

/// A header before its checksum is set.
#[derive(Clone)]
pub(crate) struct Header {
    pub(crate) block: [u8; 512],
}

impl Header {
    pub(crate) fn new(kind: u8, path: &str, size: u64) -> Header {
        let mut header = Header { block: [0; 512] };
        header.put(257, b"ustar\x0000");
        header.put(0, &path.as_bytes()[..path.len().min(100)]);
        header.octal(100, 7, if kind == b'5' { 0o755 } else { 0o644 });
        header.octal(108, 7, 0);
        header.octal(116, 7, 0);
        header.octal(124, 11, size);
        header.octal(136, 11, 1_600_000_000);
        header.block[156] = kind;
        header
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Header {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn octal(&mut self, at: usize, digits: usize, value: u64) -> &mut Header {
        self.put(at, format!("{value:0digits$o}\0").as_bytes())
    }

    pub(crate) fn mode(&mut self, mode: u64) -> &mut Header {
        self.octal(100, 7, mode)
    }

    pub(crate) fn owner(&mut self, uid: u64, gid: u64) -> &mut Header {
        self.octal(108, 7, uid).octal(116, 7, gid)
    }

    pub(crate) fn link(&mut self, target: &str) -> &mut Header {
        self.put(157, target.as_bytes())
    }

    pub(crate) fn gnu(&mut self) -> &mut Header {
        self.put(257, b"ustar  \0")
    }

    pub(crate) fn device(&mut self, major: u64, minor: u64) -> &mut Header {
        self.octal(329, 7, major).octal(337, 7, minor)
    }

    fn finish(&self) -> [u8; 512] {
        let mut block = self.block;
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

impl Tar {
    pub(crate) fn new() -> Tar {
        Tar::default()
    }

    /// A header as it is, and content padded to a block.
    pub(crate) fn entry(mut self, header: &Header, content: &[u8]) -> Tar {
        self.bytes.extend_from_slice(&header.finish());
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Tar {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Tar {
        self.entry(&Header::new(b'0', path, content.len() as u64), content)
    }

    pub(crate) fn file_mode(self, path: &str, mode: u64, content: &[u8]) -> Tar {
        self.entry(Header::new(b'0', path, content.len() as u64).mode(mode), content)
    }

    pub(crate) fn dir(self, path: &str) -> Tar {
        self.entry(&Header::new(b'5', path, 0), &[])
    }

    pub(crate) fn dir_mode(self, path: &str, mode: u64) -> Tar {
        self.entry(Header::new(b'5', path, 0).mode(mode), &[])
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Tar {
        self.entry(Header::new(b'2', path, 0).link(target), &[])
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Tar {
        self.entry(Header::new(b'1', path, 0).link(target), &[])
    }

    /// A pax header with records; their lengths are computed.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.pax_raw(&body)
    }

    pub(crate) fn pax_raw(self, body: &[u8]) -> Tar {
        self.entry(&Header::new(b'x', "PaxHeaders/x", body.len() as u64), body)
    }

    /// A GNU long name (`L`) or long link (`K`).
    pub(crate) fn gnu_long(self, kind: u8, text: &str) -> Tar {
        let body = [text.as_bytes(), b"\0"].concat();
        self.entry(Header::new(kind, "././@LongLink", body.len() as u64).gnu(), &body)
    }

    /// The stream with its end.
    pub(crate) fn done(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }

    /// The stream without its end.
    pub(crate) fn open_end(self) -> Vec<u8> {
        self.bytes
    }
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
