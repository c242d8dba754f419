//! A machine of its own for one test: a thread in fresh network and mount namespaces. Everything that the
//! thread starts, threads and programs alike, is in them too, and all of it dies with them.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "tests may, but clippy does not see that this file is one")]

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use carpel_network::{AttachRequest, Config, Mode};
use carpel_sys::netns;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Long enough for twenty plugins at once on an emulated machine; only a failing test waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// For what must not succeed: a dropped packet is never answered.
const REFUSAL: Duration = Duration::from_millis(1500);

/// The test's machine.
pub(crate) struct Host {
    dir: tempfile::TempDir,
}

/// Runs the test on a machine of its own.
pub(crate) fn isolated<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("tests need root");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        // A new namespace takes these over from the machine, which may be anything.
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(Path::new("/proc/sys/net").join(setting), "0").unwrap();
        }
        let host = Host { dir: tempfile::tempdir().unwrap() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(host));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Host {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn config(&self, mode: Mode) -> Config {
        Config { netns_dir: self.path("netns"), state_dir: self.path("state"), mode }
    }

    /// Everything that an attach could leave behind.
    pub(crate) fn traces(&self) -> String {
        let files = |name: &str| {
            let entries = std::fs::read_dir(self.path(name)).into_iter().flatten();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
            names.sort();
            format!("{name}: {names:?}\n")
        };
        let devices = run("ip", &["-br", "link"]);
        let devices: Vec<_> = devices.lines().filter_map(|line| line.split_whitespace().next()).collect();
        // Without the second column: whether a bridge without ports counts as up changes some time later.
        let addresses = run("ip", &["-br", "addr"]);
        let columns = addresses.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let addresses: Vec<_> = columns.map(|c| format!("{} {}", c[0], c[2..].join(" "))).collect();
        let addresses = addresses.join("\n");
        let rules = run("nft", &["list", "ruleset"]);
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        // Only below this test's own folder: the machine may have pins too.
        let dir = self.dir.path().to_str().unwrap();
        let pins = mounts.lines().filter(|l| l.contains(" - nsfs ") && l.contains(dir)).count();
        format!("{}{}{devices:?}\n{addresses}{rules}pins: {pins}\n", files("netns"), files("state"))
    }

    /// Another machine, connected to this one by 192.0.2.0/24 (this one is .1, the other .2).
    pub(crate) fn neighbour(&self) -> PathBuf {
        let pin = self.path("neighbour");
        netns::create(&pin, || run("ip", &["link", "set", "lo", "up"])).unwrap();
        let path = pin.to_str().unwrap();
        run("ip", &["link", "add", "uplink", "type", "veth", "peer", "name", "uplink", "netns", path]);
        run("ip", &["addr", "add", "192.0.2.1/24", "dev", "uplink"]);
        run("ip", &["link", "set", "uplink", "up"]);
        inside(&pin, || {
            run("ip", &["addr", "add", "192.0.2.2/24", "dev", "uplink"]);
            run("ip", &["link", "set", "uplink", "up"]);
        });
        pin
    }
}

/// A pod's id made of one number.
pub(crate) fn id(number: u32) -> String {
    // The number leads, because names are made of an id's beginning.
    format!("{number:08x}{}", "5eed".repeat(14))
}

pub(crate) fn request(number: u32) -> AttachRequest {
    AttachRequest {
        pod: id(number),
        name: format!("pod-{number}"),
        namespace: "tests".into(),
        uid: format!("uid-{number}"),
        ..AttachRequest::default()
    }
}

/// Runs a program and returns its stdout; it must succeed.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Does `work` inside a namespace.
pub(crate) fn inside<T: Send>(ns: &Path, work: impl FnOnce() -> T + Send) -> T {
    let ns = netns::open(ns).unwrap().expect("a pinned namespace");
    netns::enter(ns.as_fd(), work).unwrap()
}

/// Serves TCP inside a namespace, or on the machine: every caller is told the server's name and the
/// caller's own address as seen here.
pub(crate) fn serve(ns: Option<&Path>, address: SocketAddr, name: &'static str) {
    let bind = || TcpListener::bind(address).unwrap();
    let listener = match ns {
        Some(ns) => inside(ns, bind),
        None => bind(),
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            if let Ok(peer) = stream.peer_addr() {
                let _ = write!(stream, "{name} {}", peer.ip());
            }
        }
    });
}

/// Calls a server from inside a namespace, or from the machine.
pub(crate) fn call(ns: Option<&Path>, address: SocketAddr, patience: Duration) -> io::Result<String> {
    let connect = || {
        let mut stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    match ns {
        Some(ns) => inside(ns, connect),
        None => connect(),
    }
}

/// What a server must say to a caller.
pub(crate) fn expect_answer(ns: Option<&Path>, address: SocketAddr, answer: &str) {
    let said = call(ns, address, PATIENCE);
    assert_eq!(said.as_deref().map_err(|error| error.to_string()), Ok(answer), "{address}");
}

pub(crate) fn expect_silence(ns: Option<&Path>, address: SocketAddr) {
    let said = call(ns, address, REFUSAL);
    assert!(said.is_err(), "{address} answered {said:?}");
}

/// Sends a datagram and waits for the echo.
pub(crate) fn echo(ns: Option<&Path>, address: SocketAddr) -> io::Result<()> {
    let exchange = || {
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(address)?;
        socket.send(b"hello")?;
        socket.recv(&mut [0; 16]).map(|_| ())
    };
    match ns {
        Some(ns) => inside(ns, exchange),
        None => exchange(),
    }
}

/// Sends every datagram back.
pub(crate) fn serve_echo(ns: &Path, address: SocketAddr) {
    let socket = inside(ns, || UdpSocket::bind(address).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], peer);
        }
    });
}
