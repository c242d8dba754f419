//! Sessions over TLS, and certificates that change under them.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use carpel_e2e::certificates::Authority;
use carpel_e2e::crictl::CommandLine;
use carpel_e2e::daemon::{Daemon, Options};

use super::{
    Ran, digests_come_back, exec_url, forward_url, go_client, noise, ran, server_pod, summary,
    with_sleeper_of,
};

/// Where a daemon's certificate and key are.
struct Served {
    folder: tempfile::TempDir,
}

impl Served {
    /// Both signed by an authority.
    fn by(authority: &Authority) -> Self {
        let served = Self { folder: tempfile::tempdir().unwrap() };
        authority.server(served.folder.path());
        served
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("server.crt")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("server.key")
    }

    fn options(&self) -> Options {
        let (certificate, key) = (self.certificate(), self.key());
        let config = format!("[streaming]\ntls_cert_file = {certificate:?}\ntls_key_file = {key:?}\n");
        Options { config, ..Options::default() }
    }
}

/// Kubernetes' client, trusting this authority alone.
fn trusting(authority: &Authority) -> Command {
    let mut client = Command::new(go_client());
    client.arg("-ca").arg(authority.certificate());
    client
}

/// What a client that trusts this authority alone sees of a command that succeeds.
async fn seen(daemon: &Daemon, id: &str, authority: &Authority) -> Ran {
    let url = exec_url(daemon, id, &["echo", "seen"], false, false).await;
    ran(trusting(authority).args(["command", "spdy", &url]), None)
}

async fn is_trusted(daemon: &Daemon, id: &str, authority: &Authority) {
    let there = seen(daemon, id, authority).await;
    assert_eq!((there.code, &there.stdout[..]), (Some(0), &b"seen\n"[..]), "{}", summary(&there));
}

async fn is_not_trusted(daemon: &Daemon, id: &str, authority: &Authority) {
    let there = seen(daemon, id, authority).await;
    assert_eq!(there.code, Some(255), "{}", summary(&there));
    assert!(String::from_utf8_lossy(&there.stderr).contains("x509: "), "{}", summary(&there));
}

#[test]
fn sessions_are_whole_over_tls() {
    let authority = Authority::new();
    let served = Served::by(&authority);
    with_sleeper_of(served.options(), async |daemon, _, id| {
        let megabyte = noise(1 << 20);
        let script = "sha256sum; sha256sum >&2; exit 3";
        let here = ran(Command::new("busybox").args(["sh", "-c", script]), Some(&megabyte));
        let sized =
            "until [ \"$(stty size 2>/dev/null)\" = '30 100' ]; do sleep 0.05; done; stty size; exit 8";
        let forwarded = server_pod(daemon, "sha256sum").await;
        for transport in ["spdy", "websocket"] {
            let url = exec_url(daemon, id, &["sh", "-c", script], true, false).await;
            assert!(url.starts_with("https://127.0.0.1:"), "{url}");
            let there = ran(trusting(&authority).args(["command", transport, &url, "-i"]), Some(&megabyte));
            assert!(there == here, "over {transport}: {} {}", summary(&there), summary(&here));

            let url = exec_url(daemon, id, &["cat"], true, false).await;
            let there = ran(trusting(&authority).args(["command", transport, &url, "-i"]), Some(&megabyte));
            assert!(there.stdout == megabyte && there.code == Some(0), "{}", summary(&there));

            let url = exec_url(daemon, id, &["sh", "-c", sized], false, true).await;
            let mut client = trusting(&authority);
            let there = ran(client.args(["command", transport, &url, "-t", "-sizes", "80x24,100x30"]), None);
            assert_eq!((there.code, &there.stdout[..]), (Some(8), &b"30 100\r\n"[..]), "{}", summary(&there));

            let url = forward_url(daemon, &forwarded).await;
            let mut client = trusting(&authority);
            client.args(["forward", transport, &url, "7000"]);
            digests_come_back(client);
        }
        let url = exec_url(daemon, id, &["cat"], true, false).await;
        let there = ran(trusting(&authority).args(["frames", &url]), None);
        assert_eq!(there.code, Some(0), "{}", summary(&there));

        let stranger = Authority::new();
        is_not_trusted(daemon, id, &stranger).await;
        for transport in ["spdy", "websocket"] {
            let words = [id, "sh", "-c", "cat; exit 3"];
            let there = crictl_exec(daemon, transport, &authority, &served, &words);
            assert_eq!((there.code, &there.stdout[..]), (Some(1), &b"abc"[..]), "{}", summary(&there));
            let told = String::from_utf8_lossy(&there.stderr);
            assert!(told.contains("exit code 3"), "{told}");
            let there = crictl_exec(daemon, transport, &stranger, &served, &words);
            assert!(there.code == Some(1) && there.stdout.is_empty(), "{}", summary(&there));
            assert!(String::from_utf8_lossy(&there.stderr).contains("x509: "), "{}", summary(&there));
        }
    });
}

/// `crictl` that trusts an authority. It wants a certificate of its own too, which nobody asks for.
fn crictl_exec(daemon: &Daemon, transport: &str, authority: &Authority, own: &Served, words: &[&str]) -> Ran {
    let mut command = CommandLine::crictl(&daemon.socket()).command(&["exec", "-i", "-r", transport]);
    command.arg("--tls-ca").arg(authority.certificate());
    command.arg("--tls-cert").arg(own.certificate()).arg("--tls-key").arg(own.key());
    ran(command.args(words), Some(b"abc"))
}

#[test]
fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let served = Served::by(&old);
    with_sleeper_of(served.options(), async |daemon, _, id| {
        let log = daemon.log_path();
        let complaints = || {
            let text = fs::read_to_string(&log).unwrap();
            text.matches("streaming goes on with the old certificate").count()
        };
        is_trusted(daemon, id, &old).await;
        is_not_trusted(daemon, id, &new).await;

        // A session of before goes on.
        let url = exec_url(daemon, id, &["cat"], true, false).await;
        let mut client = trusting(&old);
        client.args(["command", "websocket", &url, "-i"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut session = client.spawn().unwrap();
        let (mut to, from) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
        let mut from = BufReader::new(from).lines();
        to.write_all(b"before\n").unwrap();
        assert_eq!(from.next().unwrap().unwrap(), "before");

        new.server(served.folder.path());
        is_trusted(daemon, id, &new).await;
        is_not_trusted(daemon, id, &old).await;
        to.write_all(b"after\n").unwrap();
        assert_eq!(from.next().unwrap().unwrap(), "after");
        drop(to);
        assert!(session.wait().unwrap().success());
        assert_eq!(complaints(), 0);

        // No PEM; then one that is good, and not this key's; then none at all.
        let good = fs::read(served.certificate()).unwrap();
        let other = Served::by(&old);
        for (number, broken) in
            [Some(b"no certificate".to_vec()), Some(fs::read(other.certificate()).unwrap()), None]
                .into_iter()
                .enumerate()
        {
            match broken {
                Some(content) => fs::write(served.certificate(), content).unwrap(),
                None => fs::remove_file(served.certificate()).unwrap(),
            }
            for _ in 0..3 {
                is_trusted(daemon, id, &new).await;
            }
            assert_eq!(complaints(), number + 1, "it is said once of each");
        }
        fs::write(served.certificate(), good).unwrap();
        is_trusted(daemon, id, &new).await;
        assert_eq!(complaints(), 3);
        old.server(served.folder.path());
        is_trusted(daemon, id, &old).await;
    });
}
