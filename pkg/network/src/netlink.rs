//! netlink(7): sockets, framing and attributes, shared by routing ([`route`]) and nftables ([`crate::nft`]).
//!
//! Both protocols handle a request within `sendmsg` and have queued every answer when it returns, so a batch
//! of any number of requests costs one system call to send and one per answer to read, and nothing ever
//! waits. That is also why this is written here and not taken from a crate: nftables needs the attribute
//! writer anyway, and what is left of routing is five messages.
//!
//! ```text
//!   request   nlmsghdr{len,type,flags,seq,pid} family header  attribute{len,type} payload (padded to 4) …
//!   answer    NLMSG_ERROR{-errno, header of the request, attribute 1 = text}      errno 0 is "done"
//!   dump      message … message NLMSG_DONE
//! ```

pub(crate) mod attr;
pub(crate) mod conntrack;
pub(crate) mod route;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use attr::{Attributes, Writer};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// First type that belongs to a protocol; the ones below are netlink's own.
const NLMSG_MIN_TYPE: u16 = 16;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
/// `NLM_F_ROOT | NLM_F_MATCH`.
pub(crate) const NLM_F_DUMP: u16 = 0x300;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

pub(crate) const HEADER_BYTES: usize = 16;
/// The kernel never makes an answer larger than this (`netlink_recvmsg`: NLMSG_GOODSIZE up to 32 KiB).
const RECV_BYTES: usize = 64 << 10;
/// A dump of more interfaces, addresses or rules than this many messages is cut off as unreasonable.
const DUMP_MAX_MESSAGES: usize = 1 << 20;

/// Why the kernel did not do what a netlink request said.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The request was refused.
    #[error("kernel refused to {operation}{}", text_suffix(text))]
    Refused {
        /// What was asked, as a verb phrase with its subject.
        operation: String,
        /// The kernel's own words, often empty.
        text: String,
        /// The error number.
        #[source]
        source: io::Error,
    },
    /// The socket failed.
    #[error("netlink socket: {operation}")]
    Socket {
        /// Which call.
        operation: &'static str,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// The kernel answered something that is not netlink, or did not answer.
    #[error("netlink answer to {0} is malformed")]
    Malformed(String),
}

fn text_suffix(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

impl NetlinkError {
    /// The error number with which the kernel refused, if it did.
    pub(crate) fn errno(&self) -> Option<Errno> {
        match self {
            NetlinkError::Refused { source, .. } => Errno::from_io_error(source),
            NetlinkError::Socket { .. } | NetlinkError::Malformed(_) => None,
        }
    }
}

/// Success, also if the kernel refused with one of `errnos`: for requests whose aim is reached already.
pub(crate) fn accept(outcome: Result<(), NetlinkError>, errnos: &[Errno]) -> Result<(), NetlinkError> {
    match outcome {
        Err(error) if error.errno().is_some_and(|errno| errnos.contains(&errno)) => Ok(()),
        other => other,
    }
}

/// Which netlink protocol a socket speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Family {
    Route,
    Netfilter,
}

/// A netlink socket. It belongs for ever to the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// Requests that go out in one system call.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// What each request asks, for errors; its index is the request's sequence number in this batch.
    operations: Vec<String>,
}

impl Batch {
    /// Appends a request; `body` writes the family header and the attributes.
    pub(crate) fn push(
        &mut self,
        kind: u16,
        flags: u16,
        operation: String,
        body: impl FnOnce(&mut Writer<'_>),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        let sequence = self.operations.len() as u32;
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        body(&mut Writer::new(&mut self.bytes));
        let len = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
        self.bytes.resize(attr::align(self.bytes.len()), 0);
        self.operations.push(operation);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What the request with this sequence number asked.
    fn operation(&self, sequence: u32) -> String {
        self.operations.get(sequence as usize).cloned().unwrap_or_default()
    }
}

struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Socket {
    pub(crate) fn open(family: Family) -> Result<Socket, NetlinkError> {
        let protocol = match family {
            Family::Route => None,
            Family::Netfilter => Some(netlink::NETFILTER),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)
            .map_err(|errno| socket_error("open", errno.into()))?;
        rustix::net::bind(&fd, &netlink::SocketAddrNetlink::new(0, 0))
            .map_err(|errno| socket_error("bind", errno.into()))?;
        carpel_sys::netlink::explain_errors(fd.as_fd())
            .map_err(|source| socket_error("set options", source))?;
        Ok(Socket { fd, sequence: 0 })
    }

    /// Sends the batch; the first refusal is the error. The requests after a refused one were tried too,
    /// except where the protocol makes a batch a transaction.
    pub(crate) fn execute(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        self.send(&batch, |_| Ok(()))
    }

    /// Sends one request and hands every message of the answer, family header and attributes, to `each`.
    pub(crate) fn dump<E: From<NetlinkError>>(
        &mut self,
        batch: Batch,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut outcome = Ok(());
        self.send(&batch, |payload| {
            if outcome.is_ok() {
                outcome = each(payload);
            }
            Ok(())
        })?;
        outcome
    }

    fn send(
        &mut self,
        batch: &Batch,
        mut each: impl FnMut(&[u8]) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let base = self.renumber(batch);
        let bytes = base.1;
        rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, &bytes, SendFlags::empty()))
            .map_err(|errno| socket_error("send", errno.into()))?;
        let mut first_error = None;
        let mut buffer = vec![0u8; RECV_BYTES];
        for _ in 0..DUMP_MAX_MESSAGES {
            let received = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::empty())
            });
            let len = match received {
                Ok((len, _)) => len,
                // Everything was answered while it was sent; nothing more will come.
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(socket_error("receive", errno.into())),
            };
            for answer in Answers(&buffer[..len]) {
                let answer = answer.ok_or_else(|| NetlinkError::Malformed(batch.operation(0)))?;
                let index = answer.sequence.wrapping_sub(base.0);
                // A late answer to an earlier batch that was given up.
                if index as usize >= batch.operations.len() {
                    continue;
                }
                match answer.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let refused = refusal(&answer, || batch.operation(index))?;
                        first_error = first_error.or(refused);
                    }
                    kind if kind >= NLMSG_MIN_TYPE => each(answer.payload)?,
                    _ => (),
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// The batch with this socket's sequence numbers, and the first of them.
    fn renumber(&mut self, batch: &Batch) -> (u32, Vec<u8>) {
        let base = self.sequence;
        self.sequence = self.sequence.wrapping_add(batch.operations.len() as u32);
        let mut bytes = batch.bytes.clone();
        let mut at = 0;
        let mut index = 0u32;
        while at < bytes.len() {
            let len = u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
            bytes[at + 8..at + 12].copy_from_slice(&base.wrapping_add(index).to_ne_bytes());
            index = index.wrapping_add(1);
            at += attr::align(len);
        }
        (base, bytes)
    }
}

fn socket_error(operation: &'static str, source: io::Error) -> NetlinkError {
    NetlinkError::Socket { operation, source }
}

/// What an NLMSG_ERROR or NLMSG_DONE says: nothing if it is a plain "done".
fn refusal(
    answer: &Answer<'_>,
    operation: impl Fn() -> String,
) -> Result<Option<NetlinkError>, NetlinkError> {
    let Some((code, rest)) = answer.payload.split_at_checked(4) else {
        // NLMSG_DONE of old kernels is empty.
        return if answer.kind == NLMSG_DONE { Ok(None) } else { Err(NetlinkError::Malformed(operation())) };
    };
    let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
    if code == 0 || answer.kind == NLMSG_DONE && code > 0 {
        return Ok(None);
    }
    // The request's header comes back capped (NETLINK_CAP_ACK), then the attributes.
    let skip = if answer.kind == NLMSG_ERROR { HEADER_BYTES } else { 0 };
    let explained = answer.flags & NLM_F_ACK_TLVS != 0;
    let words = rest.get(skip..).filter(|_| explained).map(Attributes::new);
    let text = words.and_then(|mut attributes| {
        attributes.find_map(|(kind, value)| (kind == NLMSGERR_ATTR_MSG).then(|| attr::text(value)))
    });
    Ok(Some(NetlinkError::Refused {
        operation: operation(),
        text: text.unwrap_or_default(),
        source: io::Error::from_raw_os_error(code.saturating_neg()),
    }))
}

/// The messages of one datagram; `None` once for a malformed one, then the end.
struct Answers<'a>(&'a [u8]);

impl<'a> Iterator for Answers<'a> {
    type Item = Option<Answer<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Some(None) };
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some(payload) = bytes.get(HEADER_BYTES..len) else { return Some(None) };
        self.0 = bytes.get(attr::align(len)..).unwrap_or_default();
        Some(Some(Answer {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            payload,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_operation_and_the_errno() {
        let mut socket = Socket::open(Family::Route).unwrap();
        let mut batch = Batch::default();
        route::delete_link(&mut batch, "carpel-none");
        let error = socket.execute(batch).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NODEV));
        assert!(error.to_string().starts_with("kernel refused to delete device carpel-none"), "{error}");
    }

    #[test]
    fn broken_answers_end_and_do_not_loop() {
        for bytes in [&[1u8, 0, 0][..], &[0; 16], &[200, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            let answers: Vec<_> = Answers(bytes).take(3).collect();
            assert_eq!(answers.len(), 1);
            assert!(answers[0].is_none());
        }
    }
}
