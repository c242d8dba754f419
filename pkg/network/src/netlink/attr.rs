//! Netlink attributes: length, type, payload, padding to four bytes, possibly one inside another.

/// The attribute holds attributes. `NLA_F_NESTED`; nftables insists on it, routing ignores it.
const NLA_F_NESTED: u16 = 1 << 15;
/// Flags in the type's upper bits: nested, network byte order.
const NLA_TYPE_MASK: u16 = !(0b11 << 14);
const HEADER_BYTES: usize = 4;

pub(crate) const fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// Appends headers and attributes to a message that is being built.
pub(crate) struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(bytes: &'a mut Vec<u8>) -> Self {
        Writer { bytes }
    }

    /// Bytes without a header: the family header of a message, or the payload of a nest that begins so.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let len = (HEADER_BYTES + value.len()) as u16;
        self.raw(&len.to_ne_bytes());
        self.raw(&kind.to_ne_bytes());
        self.raw(value);
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// A text with its closing zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// A number in the machine's byte order: routing.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// A number in network byte order: nftables.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute whose payload `body` writes. The payload of one attribute is at most 64 KiB; the callers
    /// bound what they put in.
    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Writer<'_>)) {
        let start = self.bytes.len();
        self.raw(&[0; 2]);
        self.raw(&(kind | NLA_F_NESTED).to_ne_bytes());
        body(&mut Writer { bytes: self.bytes });
        let len = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

/// The attributes of a message from the kernel; ends at the first that does not fit.
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Attributes(bytes)
    }

    /// The payload of the first attribute of this type.
    pub(crate) fn find_kind(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(found, value)| (found == kind).then_some(value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.0.split_first_chunk::<HEADER_BYTES>()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = self.0.get(HEADER_BYTES..len)?;
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A text attribute without its closing zero.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_written() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        writer.text(3, "eth0");
        writer.nest(5, |inner| inner.bytes(1, &[9]));
        let read: Vec<_> = Attributes::new(&bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].0, text(read[0].1).as_str()), (3, "eth0"));
        assert_eq!(Attributes::new(read[1].1).find_kind(1), Some(&[9u8][..]));
    }

    #[test]
    fn truncated_attributes_end() {
        assert_eq!(Attributes::new(&[8, 0, 1, 0, 7]).count(), 0);
        assert_eq!(Attributes::new(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(Attributes::new(&[3]).count(), 0);
    }
}
