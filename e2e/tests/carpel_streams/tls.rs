//! The same over TLS, with the certificate that the daemon says is its own.

use std::fs;
use std::io::{BufReader, Write as _};
use std::process::Stdio;

use carpel_e2e::certificates::Authority;
use carpel_e2e::crictl::CommandLine;
use carpel_e2e::daemon::Options;
use carpel_e2e::pty::Pty;
use carpel_e2e::scenario::BUSYBOX;
use rustix::process::Signal;
use sha2::{Digest as _, Sha256};

use super::{announced, answered, run_server, signal, with_web_of};

/// Runs `carpel` with an input; its code, output and errors.
fn fed(carpel: &CommandLine, arguments: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut command = carpel.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // What it does not want is seen in its answer.
    let writing = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn every_kind_of_session_is_had_over_tls_and_a_strangers_is_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = old.server(folder.path());
    let config = format!("[streaming]\ntls_cert_file = {certificate:?}\ntls_key_file = {key:?}\n");
    let content = vec![b'x'; 3_000_000];
    let digest = format!("{}  -\n", hex::encode(Sha256::digest(&content)));
    with_web_of(Options { config, ..Options::default() }, async |_, carpel, _| {
        let echoes =
            |flags: &[&str]| fed(carpel, &[&["exec", "-i"], flags, &["web", "cat"]].concat(), &content);
        let is_had = |flags: &[&str]| {
            let (code, output, errors) = echoes(flags);
            assert!(code == Some(0) && output == content, "{flags:?}: {code:?} {errors}");
        };
        let is_refused = |flags: &[&str], words: &[&str]| {
            let (code, output, errors) = echoes(flags);
            assert!(code == Some(125) && output.is_empty(), "{flags:?}: {code:?} {errors}");
            words.iter().for_each(|word| assert!(errors.contains(word), "{flags:?}: {errors}"));
        };
        is_had(&[]);
        let (code, output, errors) =
            fed(carpel, &["exec", "-i", "web", "sh", "-c", "sha256sum; exit 7"], &content);
        assert_eq!((code, &output[..]), (Some(7), digest.as_bytes()), "{errors}");
        let mut terminal = Pty::start(&carpel.command(&["exec", "-it", "web", "sh"]), 97, 31);
        terminal.wait_for("# ");
        terminal.type_in("stty size\r");
        terminal.wait_for("31 97");
        terminal.type_in("exit 3\r");
        assert_eq!(terminal.wait().code(), Some(3), "{}", terminal.shown());

        let run = carpel.command(&["run", "-it", "--rm", "--name", "box", BUSYBOX, "sh"]);
        let mut terminal = Pty::start(&run, 80, 24);
        terminal.wait_for("# ");
        terminal.type_in("\x10\x11");
        assert_eq!(terminal.wait().code(), Some(0), "{}", terminal.shown());
        let mut terminal = Pty::start(&carpel.command(&["attach", "-it", "box"]), 80, 24);
        terminal.type_in("echo he''llo\r");
        terminal.wait_for("hello");
        terminal.type_in("exit 4\r");
        assert_eq!(terminal.wait().code(), Some(4), "{}", terminal.shown());
        carpel.ok(&["rm", "-f", "box"]);

        run_server(carpel, "server").await;
        let mut command = carpel.command(&["port-forward", "server", ":7000"]);
        let mut forward = command.stderr(Stdio::piped()).spawn().unwrap();
        let port = announced(&mut BufReader::new(forward.stderr.take().unwrap()));
        assert_eq!(answered(port, &content), digest);

        let authority = |authority: &Authority| authority.certificate().display().to_string();
        is_had(&["--tls-ca", &authority(&old)]);
        is_refused(
            &["--tls-ca", &authority(&new)],
            &["is not trusted by", &authority(&new), "hint: ", "--tls-ca"],
        );
        // Rotated: whoever trusts the daemon's word needs to know nothing of it.
        new.server(folder.path());
        is_had(&[]);
        assert_eq!(answered(port, &content), digest, "the next connection of a forward that goes on");
        is_had(&["--tls-ca", &authority(&new)]);
        is_refused(&["--tls-ca", &authority(&old)], &["is not trusted by", &authority(&old)]);
        // Not what is in the file is trusted, but what is served.
        fs::write(&certificate, "broken").unwrap();
        is_had(&[]);

        signal(&forward, Signal::INT);
        assert!(forward.wait().unwrap().success());
        carpel.ok(&["rm", "-f", "server"]);
    });
}
