//! ctnetlink: forgetting connections. Numbers are those of `linux/netfilter/nfnetlink_conntrack.h`.

use std::net::IpAddr;

use rustix::io::Errno;

use super::{Batch, NLM_F_ACK, NetlinkError, Socket, accept};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// `CTA_FILTER_F_CTA_IP_SRC` of the kernel's `nf_conntrack_netlink.c`: compare the source address.
const FILTER_IP_SOURCE: u32 = 1;

/// Forgets every connection that `ip` answers. A connection remembers where it was sent for as long as
/// packets come, so without this a UDP client of a host port would talk to an address that is nobody's, or
/// somebody else's, for ever. Kernels before 5.8 cannot be asked for this and keep their memory.
pub(crate) fn forget(socket: &mut Socket, ip: IpAddr) -> Result<(), NetlinkError> {
    let mut batch = Batch::default();
    let kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE;
    batch.push(kind, NLM_F_ACK, format!("forget connections to {ip}"), |w| {
        // nfgenmsg: family, version, resource id
        w.raw(&[if ip.is_ipv4() { 2 } else { 10 }, 0, 0, 0]);
        w.nest(CTA_TUPLE_REPLY, |w| {
            w.nest(CTA_TUPLE_IP, |w| match ip {
                IpAddr::V4(ip) => w.bytes(CTA_IP_V4_SRC, &ip.octets()),
                IpAddr::V6(ip) => w.bytes(CTA_IP_V6_SRC, &ip.octets()),
            });
        });
        w.nest(CTA_FILTER, |w| {
            w.u32(CTA_FILTER_ORIG_FLAGS, 0);
            w.u32(CTA_FILTER_REPLY_FLAGS, FILTER_IP_SOURCE);
        });
    });
    accept(socket.execute(batch), &[Errno::INVAL, Errno::OPNOTSUPP, Errno::NOENT])
}
