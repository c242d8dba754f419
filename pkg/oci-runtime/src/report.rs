//! What a child tells the shim before it executes its program.
//!
//! ```text
//!  child → shim, one packet each, at most once each, over a SOCK_SEQPACKET pair:
//!    'm' pid                         another child goes on in its place  (+ its pidfd, SCM_RIGHTS)
//!    'r' uid gid count group… home   all is ready          (+ the terminal's master, SCM_RIGHTS)
//!    'f' stage errno text            it failed, and the child ends
//!  shim → child:  'g'                go (of create alone)
//!  end of file:   the program runs (close-on-exec), or, without 'r' before, the child was killed
//! ```
//! Numbers are u32 in this machine's byte order: both ends are the same program. The home folder is
//! all that is left of the packet, and empty if there is none.

use std::error::Error;
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use carpel_shim_api::record::User;
use carpel_sys::clone::Process;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::Pid;

use crate::user::{HOME_MAX_BYTES, Identity};

/// The most groups that a process may have here; the kernel's own limit is 65536.
pub const GROUPS_MAX: usize = 1000;
/// The longest text of a failure, in bytes.
const TEXT_MAX_BYTES: usize = 4096;
/// The largest ready packet; a failure's is smaller.
const PACKET_MAX_BYTES: usize = 1 + 4 * (3 + GROUPS_MAX) + HOME_MAX_BYTES;
const _: () = assert!(PACKET_MAX_BYTES >= 1 + 1 + 4 + TEXT_MAX_BYTES);
const MOVED: u8 = b'm';
const READY: u8 = b'r';
const FAILED: u8 = b'f';
const GO: u8 = b'g';

/// The step that a child failed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// The child's own preparation: signals, descriptors.
    Prepare = 0,
    /// Joining its cgroup.
    Cgroup = 1,
    /// Making or joining namespaces.
    Namespace = 2,
    /// Making the root file system and moving into it.
    Rootfs = 3,
    /// One of the plan's mounts, masked or read-only paths.
    Mount = 4,
    /// Device nodes.
    Device = 5,
    /// The terminal.
    Terminal = 6,
    /// The image's users and groups.
    User = 7,
    /// The working directory.
    WorkingDirectory = 8,
    /// AppArmor or SELinux.
    Security = 9,
    /// Resource limits and the out-of-memory score.
    Limits = 10,
    /// Capabilities, user and group ids.
    Credentials = 11,
    /// The seccomp filter.
    Seccomp = 12,
    /// The command cannot be executed: absent, not executable, a bad interpreter.
    Execute = 13,
    /// A bug: the child panicked.
    Panic = 14,
    /// One of the plan's image volumes.
    ImageVolume = 15,
}

const STAGES: [Stage; 16] = [
    Stage::Prepare,
    Stage::Cgroup,
    Stage::Namespace,
    Stage::Rootfs,
    Stage::Mount,
    Stage::Device,
    Stage::Terminal,
    Stage::User,
    Stage::WorkingDirectory,
    Stage::Security,
    Stage::Limits,
    Stage::Credentials,
    Stage::Seccomp,
    Stage::Execute,
    Stage::Panic,
    Stage::ImageVolume,
];

/// Why a child ended before it executed its program, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The step.
    pub stage: Stage,
    /// The system call's error, if one failed.
    pub errno: Option<Errno>,
    /// What failed, on what, and why: one line, the causes included.
    pub text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Failure {}

impl Failure {
    /// Flattens an error and its causes.
    pub(crate) fn new(stage: Stage, error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut errno = None;
        let mut next = Some(error);
        while let Some(cause) = next {
            if errno.is_none() {
                let io = cause.downcast_ref::<std::io::Error>().and_then(Errno::from_io_error);
                errno = cause.downcast_ref::<Errno>().copied().or(io);
            }
            next = cause.source();
            if let Some(source) = next {
                text.push_str(": ");
                text.push_str(&source.to_string());
            }
        }
        Self { stage, errno, text }
    }
}

/// A packet of a child.
#[derive(Debug)]
pub(crate) enum Report {
    /// Before everything else. The one that said so ends.
    Moved(Process),
    Ready {
        identity: Identity,
        console: Option<OwnedFd>,
    },
    Failed(Failure),
    /// The other end is closed.
    End,
}

/// Why a child's report could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The socket failed.
    #[error("receive from the socket")]
    Receive(#[source] Errno),
    /// A packet that no child of this program sends.
    #[error("a packet of an unknown form")]
    Malformed,
}

/// The shim's end and the child's.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Reads a packet without waiting; `None` if there is none.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<Option<Report>, ReadError> {
    let mut bytes = [0u8; PACKET_MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            // The child ended with the go still unread.
            Err(Errno::CONNRESET) => return Ok(Some(Report::End)),
            other => break other.map_err(ReadError::Receive)?,
        }
    };
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let packet = bytes.get(..received.bytes).unwrap_or(&bytes);
    match packet.split_first() {
        None => Ok(Some(Report::End)),
        Some((&MOVED, rest)) => parse_moved(rest, fd).map(Some).ok_or(ReadError::Malformed),
        Some((&READY, rest)) => parse_ready(rest, fd).map(Some).ok_or(ReadError::Malformed),
        Some((&FAILED, rest)) => parse_failed(rest).map(Some).ok_or(ReadError::Malformed),
        Some(_) => Err(ReadError::Malformed),
    }
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (first, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_ne_bytes(*first))
}

fn parse_moved(mut rest: &[u8], pidfd: Option<OwnedFd>) -> Option<Report> {
    let pid = i32::try_from(take_u32(&mut rest)?).ok().and_then(Pid::from_raw)?;
    Some(Report::Moved(Process { pid, pidfd: pidfd? }))
}

fn parse_ready(mut rest: &[u8], console: Option<OwnedFd>) -> Option<Report> {
    let uid = take_u32(&mut rest)?;
    let gid = take_u32(&mut rest)?;
    let count = take_u32(&mut rest)?;
    let groups = (0..count).map(|_| take_u32(&mut rest)).collect::<Option<Vec<_>>>()?;
    let home = (!rest.is_empty()).then(|| rest.to_vec());
    Some(Report::Ready { identity: Identity { user: User { uid, gid, groups }, home }, console })
}

fn parse_failed(rest: &[u8]) -> Option<Report> {
    let (&stage, mut rest) = rest.split_first()?;
    let stage = *STAGES.get(usize::from(stage))?;
    let raw = take_u32(&mut rest)?;
    let errno = i32::try_from(raw).ok().filter(|raw| *raw != 0).map(Errno::from_raw_os_error);
    let text = String::from_utf8_lossy(rest).into_owned();
    Some(Report::Failed(Failure { stage, errno, text }))
}

/// Tells the shim which process goes on.
pub(crate) fn send_moved(socket: BorrowedFd<'_>, successor: &Process) -> Result<(), Errno> {
    let mut packet = vec![MOVED];
    packet.extend_from_slice(&successor.pid.as_raw_nonzero().get().to_ne_bytes());
    send_with_fd(socket, &packet, Some(successor.pidfd.as_fd()))
}

fn send_with_fd(socket: BorrowedFd<'_>, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL).map(|_| ())
}

/// Tells the shim that all is ready.
pub(crate) fn send_ready(
    socket: BorrowedFd<'_>,
    identity: &Identity,
    console: Option<&OwnedFd>,
) -> Result<(), Errno> {
    let Identity { user, home } = identity;
    let mut packet = vec![READY];
    let count = u32::try_from(user.groups.len()).map_err(|_| Errno::TOOBIG)?;
    for number in [user.uid, user.gid, count].iter().chain(&user.groups) {
        packet.extend_from_slice(&number.to_ne_bytes());
    }
    packet.extend_from_slice(home.as_deref().unwrap_or_default());
    send_with_fd(socket, &packet, console.map(AsFd::as_fd))
}

/// Tells the shim what went wrong. If that fails too, the end of file alone must do.
pub(crate) fn send_failed(socket: BorrowedFd<'_>, failure: &Failure) {
    let errno = failure.errno.map_or(0, Errno::raw_os_error) as u32;
    let mut packet = vec![FAILED, failure.stage as u8];
    packet.extend_from_slice(&errno.to_ne_bytes());
    let text = failure.text.as_bytes();
    packet.extend_from_slice(text.get(..TEXT_MAX_BYTES).unwrap_or(text));
    let _closed = rustix::net::send(socket, &packet, SendFlags::NOSIGNAL);
}

/// Lets the child go on. EPIPE: it has ended.
pub(crate) fn send_go(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::net::send(socket, &[GO], SendFlags::NOSIGNAL).map(|_| ())
}

/// Waits, in the child, for the shim's word. `false`: the shim does not want it any more.
pub(crate) fn wait_for_go(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut byte = [0u8; 1];
    loop {
        match rustix::net::recv(socket, &mut byte, RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok((count, _)) => return Ok(count == 1 && byte[0] == GO),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::{Failure, Report, Stage, pair, receive, send_failed, send_ready};
    use crate::user::{HOME_MAX_BYTES, Identity};
    use carpel_shim_api::record::User;
    use rustix::io::Errno;

    #[test]
    fn packets_are_read_as_they_were_sent() {
        let (shim, child) = pair().expect("pair");
        assert!(receive(shim.as_fd()).expect("nothing yet").is_none());
        // As large as one may be.
        let user = User { uid: 7, gid: u32::MAX - 1, groups: (0..1000).collect() };
        let identity = Identity { user, home: Some(vec![b'/'; HOME_MAX_BYTES - 1]) };
        let console = pair().expect("any descriptor").0;
        send_ready(child.as_fd(), &identity, Some(&console)).expect("send");
        let Some(Report::Ready { identity: got, console: Some(_) }) = receive(shim.as_fd()).expect("packet")
        else {
            panic!("not ready");
        };
        assert_eq!(got, identity);
        let homeless = Identity { home: None, ..identity };
        send_ready(child.as_fd(), &homeless, None).expect("send");
        let Some(Report::Ready { identity: got, console: None }) = receive(shim.as_fd()).expect("packet")
        else {
            panic!("not ready");
        };
        assert_eq!(got, homeless);
        let failure = Failure { stage: Stage::Panic, errno: Some(Errno::XDEV), text: "x".repeat(4096) };
        send_failed(child.as_fd(), &failure);
        let Some(Report::Failed(got)) = receive(shim.as_fd()).expect("packet") else { panic!("not failed") };
        assert_eq!(got, failure);
        drop(child);
        assert!(matches!(receive(shim.as_fd()), Ok(Some(Report::End))));
    }

    #[test]
    fn every_stage_has_its_place() {
        for (index, stage) in super::STAGES.iter().enumerate() {
            assert_eq!(*stage as usize, index);
        }
    }
}
