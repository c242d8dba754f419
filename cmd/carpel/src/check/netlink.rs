//! The few netlink messages that tell whether the kernel can make what a pod's network is made of.
//!
//! ```text
//!  a thread ─ unshare(CLONE_NEWNET) ─► RTM_NEWLINK kind=veth, bridge ─► ack or errno
//!                                    ► NFT_MSG_GETGEN ────────────────► answer or errno
//!  the thread ends: its network namespace goes, and with it all that was made
//! ```
//!
//! Message layouts: netlink(7), rtnetlink(7), `linux/netfilter/nfnetlink.h`.

use std::{io, thread, time::Duration};

use nix::sched::{CloneFlags, unshare};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// `NETLINK_ROUTE` has the number 0, which is the protocol of none.
const ROUTE: Option<Protocol> = None;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const RTM_NEWLINK: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN`.
const NFT_GETGEN: u16 = (10 << 8) | 16;

const HEADER_BYTES: usize = 16;

/// What could be made in a namespace of its own.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) veth: io::Result<()>,
    pub(super) bridge: io::Result<()>,
    pub(super) nftables: io::Result<()>,
}

/// Tries all in a new network namespace. The error is that of making it.
pub(super) fn try_all() -> io::Result<Trial> {
    let trial = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(Trial {
            veth: request(ROUTE, &new_link("veth")),
            bridge: request(ROUTE, &new_link("bridge")),
            nftables: request(
                Some(netlink::NETFILTER),
                &message(NFT_GETGEN, NLM_F_REQUEST | NLM_F_ACK, &[0; 4]),
            ),
        })
    });
    trial.join().unwrap_or_else(|_| Err(io::Error::other("the trial panicked")))
}

/// Sends one message, and reads the kernel's verdict.
fn request(protocol: Option<Protocol>, message: &[u8]) -> io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_LIMIT))?;
    send(&socket, message, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    verdict(&answer[..length])
}

/// The first message of an answer: an error with its number, 0 for an ack, or data, which is success too.
fn verdict(answer: &[u8]) -> io::Result<()> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).ok_or_else(malformed)?;
    if u16::from_ne_bytes(kind) != NLMSG_ERROR {
        return Ok(());
    }
    let number = answer.get(HEADER_BYTES..HEADER_BYTES + 4).and_then(|bytes| bytes.try_into().ok());
    match i32::from_ne_bytes(number.ok_or_else(malformed)?) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number.saturating_neg())),
    }
}

/// A message with its header; one request is under way at a time, so there is one sequence number.
fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = (HEADER_BYTES + payload.len()) as u32;
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(1u32.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(payload);
    message
}

/// A new interface; the kernel names it. A veth without a peer's attributes gets a peer in the same namespace.
fn new_link(kind: &str) -> Vec<u8> {
    let mut name = kind.as_bytes().to_vec();
    name.push(0);
    // struct ifinfomsg, all zero: any family, no index, no flags.
    let mut payload = vec![0; 16];
    payload.extend(attribute(IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, &name)));
    message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &payload)
}

/// An attribute, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut attribute = Vec::new();
    attribute.extend(length.to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_padded_and_tell_their_length() {
        let message = new_link("veth");
        assert_eq!(message.len(), 16 + 16 + 4 + 12);
        assert_eq!(message[..4], u32::try_from(message.len()).unwrap().to_ne_bytes());
        assert_eq!(&message[40..44], b"veth");
    }

    #[test]
    fn verdicts() {
        let error = |number: i32| verdict(&message(NLMSG_ERROR, 0, &number.to_ne_bytes()));
        assert!(error(0).is_ok());
        assert_eq!(error(-95).unwrap_err().raw_os_error(), Some(95));
        assert!(error(i32::MIN).is_err());
        assert!(verdict(&message(0x0a0f, 0, &[0; 4])).is_ok());
        for short in [0, 5, 16, 19] {
            assert!(verdict(&message(NLMSG_ERROR, 0, &[0; 4])[..short]).is_err(), "{short}");
        }
    }

    #[test]
    fn the_kernel_refuses_a_kind_it_does_not_know() {
        // In a namespace of its own, as root.
        let outcome = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            request(ROUTE, &new_link("no-such-kind"))
        });
        let error = outcome.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()), "{error}");
        let trial = try_all().unwrap();
        assert!(trial.veth.is_ok(), "{trial:?}");
    }
}
