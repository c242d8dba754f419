//! `carpel exec -it`, `attach`, `run -it` and `port-forward`: sessions of a person at a terminal, and of pipes.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a step that fails, fails the test")]

#[path = "carpel_streams/tls.rs"]
mod tls;

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Stdio};

use carpel_e2e::client::{PATIENCE, eventually};
use carpel_e2e::crictl::CommandLine;
use carpel_e2e::daemon::{Daemon, Options};
use carpel_e2e::kernel::processes;
use carpel_e2e::pty::{Pty, same_settings};
use carpel_e2e::scenario::{self, BUSYBOX};
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest as _, Sha256};

/// Runs the steps with a pod `web` whose container sleeps; its id comes along.
fn with_web(steps: impl AsyncFnOnce(&mut Daemon, &CommandLine, &str)) {
    with_web_of(Options::default(), steps);
}

/// [`with_web`] of a daemon that is set up so.
fn with_web_of(options: Options, steps: impl AsyncFnOnce(&mut Daemon, &CommandLine, &str)) {
    scenario::run(options, async |daemon| {
        let carpel = CommandLine::carpel(&daemon.socket());
        carpel.ok(&["run", "-d", "--name", "web", BUSYBOX, "sleep", "100000"]);
        let containers = daemon.client.list_containers(None).await;
        let id = containers.first().unwrap().id.clone();
        steps(daemon, &carpel, &id).await;
        carpel.ok(&["rm", "-f", "web"]);
    });
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_shell_has_the_terminal_and_gives_it_back() {
    with_web(async |_, carpel, _| {
        let mut terminal = Pty::start(&carpel.command(&["exec", "-it", "web", "sh"]), 97, 31);
        let before = terminal.settings();
        terminal.wait_for("# ");
        assert!(terminal.is_raw(), "every key is the shell's");
        terminal.type_in("stty size\r");
        terminal.wait_for("31 97");
        terminal.resize(120, 40);
        // The new size is there when the shell hears of it; it is asked until then.
        eventually("the size follows the window", async || {
            terminal.type_in("stty size; echo done\r");
            terminal.wait_for("done\r\n");
            terminal.shown().contains("40 120").then_some(())
        })
        .await;
        terminal.type_in("echo star''ted; sleep 1000\r");
        terminal.wait_for("started");
        terminal.type_in("\x03");
        terminal.wait_for("# ");
        terminal.type_in("echo after $?; test -t 0 && test -t 1 && echo terminal\r");
        terminal.wait_for("after 130");
        terminal.wait_for("terminal");
        terminal.type_in("exit 7\r");
        assert_eq!(terminal.wait().code(), Some(7), "{}", terminal.shown());
        assert!(same_settings(&before, &terminal.settings()), "as it was before");
    });
}

#[test]
fn a_signal_ends_the_session_gives_the_terminal_back_and_hangs_up() {
    with_web(async |_, carpel, id| {
        for (number, name) in [(15, Signal::TERM), (1, Signal::HUP), (3, Signal::QUIT)] {
            let mut terminal = Pty::start(&carpel.command(&["exec", "-it", "web", "sh"]), 80, 24);
            let before = terminal.settings();
            terminal.wait_for("# ");
            terminal.signal(name);
            assert_eq!(terminal.wait().code(), Some(128 + number));
            assert!(same_settings(&before, &terminal.settings()), "as it was before");
            eventually("the shell hung up", async || (processes(id).len() == 1).then_some(())).await;
        }
    });
}

#[test]
fn output_comes_as_it_is_written_and_ctrl_c_ends_the_command() {
    with_web(async |_, carpel, id| {
        let script = "echo first; echo oops >&2; exec sleep 10000";
        let mut command = carpel.command(&["exec", "web", "sh", "-c", script]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "first\n");
        line.clear();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "oops\n");
        assert_eq!(processes(id).len(), 2);
        signal(&child, Signal::INT);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        eventually("its command went too", async || (processes(id).len() == 1).then_some(())).await;
    });
}

#[test]
fn long_output_comes_whole_and_input_to_its_end() {
    with_web(async |_, carpel, _| {
        // More than one answer of ExecSync may hold.
        let output = carpel.output(&["exec", "web", "dd", "if=/dev/zero", "bs=1048576", "count=40"]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 40 << 20));

        let content: Vec<u8> =
            (0..10_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut command = carpel.command(&["exec", "-i", "web", "cat"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let copy = content.clone();
        let writing = std::thread::spawn(move || stdin.write_all(&copy).unwrap());
        let output = child.wait_with_output().unwrap();
        writing.join().unwrap();
        assert!(
            output.status.success() && output.stdout == content,
            "{} bytes came back",
            output.stdout.len()
        );

        // A command that does not want all of it still tells how it ended.
        let mut command = carpel.command(&["exec", "-i", "web", "sh", "-c", "head -c 3; exit 5"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Nobody reads the rest.
        let writing = std::thread::spawn(move || stdin.write_all(&content).is_ok());
        let output = child.wait_with_output().unwrap();
        writing.join().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(5), 3));
    });
}

#[test]
fn what_cannot_be_is_explained() {
    with_web(async |_, carpel, _| {
        for (arguments, code, word) in [
            (&["exec", "web", "/no/such/program"][..], 125, "/no/such/program"),
            (&["exec", "-it", "web", "sh"], 125, "not a terminal"),
            (&["exec", "-i", "--sync", "web", "sh"], 2, "--sync"),
            (&["exec", "-i", "-o", "json", "web", "sh"], 125, "JSON"),
            (&["attach", "no-such"], 125, "no-such"),
            (&["port-forward", "web", "0"], 2, "65535"),
            (&["port-forward", "no-such", "80"], 1, "no-such"),
        ] {
            let mut command = carpel.command(arguments);
            let output = command.stdin(Stdio::null()).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
            assert!(errors.contains(word), "{arguments:?}: {errors}");
        }
        assert_eq!(carpel.ok(&["exec", "--sync", "web", "echo", "at the end"]), "at the end");
        let json = carpel.json(&["exec", "-o", "json", "web", "echo", "x"]);
        assert_eq!((&json["stdout"], &json["exitCode"]), (&"x\n".into(), &0.into()));
        assert_eq!(
            carpel.output(&["exec", "--timeout", "1", "web", "sleep", "100"]).status.code(),
            Some(124)
        );
    });
}

#[test]
fn a_container_is_run_left_and_joined_at_a_terminal() {
    scenario::run(Options::default(), async |daemon| {
        let carpel = CommandLine::carpel(&daemon.socket());
        let run = carpel.command(&["run", "-it", "--rm", "--name", "box", BUSYBOX, "sh"]);
        let mut terminal = Pty::start(&run, 91, 29);
        let before = terminal.settings();
        // The shell's first words, before anything is typed.
        terminal.wait_for("# ");
        terminal.type_in("stty size\r");
        terminal.wait_for("29 91");
        terminal.type_in("\x10\x11");
        assert_eq!(terminal.wait().code(), Some(0), "{}", terminal.shown());
        assert!(same_settings(&before, &terminal.settings()));
        assert!(carpel.ok(&["ps"]).contains("box"), "it goes on");

        let mut watching = carpel.command(&["attach", "-t", "box"]);
        let mut watching = watching.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut terminal = Pty::start(&carpel.command(&["attach", "-it", "box"]), 80, 24);
        terminal.type_in("echo he''llo\r");
        terminal.wait_for("hello");
        terminal.type_in("exit 4\r");
        assert_eq!(terminal.wait().code(), Some(4), "the container's own code: {}", terminal.shown());
        let mut seen = String::new();
        watching.stdout.take().unwrap().read_to_string(&mut seen).unwrap();
        watching.wait().unwrap();
        assert!(seen.contains("hello"), "another client sees the same: {seen:?}");
        carpel.ok(&["rm", "-f", "box"]);

        let mut terminal = Pty::start(&carpel.command(&["run", "-it", "--rm", BUSYBOX, "sh"]), 80, 24);
        terminal.wait_for("# ");
        terminal.type_in("exit 3\r");
        assert_eq!(terminal.wait().code(), Some(3), "{}", terminal.shown());
        assert!(daemon.client.list_pods(None).await.is_empty(), "--rm leaves nothing");
    });
}

#[test]
fn a_container_reads_our_input() {
    scenario::run(Options::default(), async |daemon| {
        let carpel = CommandLine::carpel(&daemon.socket());
        let mut command = carpel.command(&["run", "-i", "--rm", BUSYBOX, "sh", "-c", "sha256sum; exit 6"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let content = vec![b'x'; 3_000_000];
        child.stdin.take().unwrap().write_all(&content).unwrap();
        let output = child.wait_with_output().unwrap();
        let digest = hex::encode(Sha256::digest(&content));
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{digest}  -\n"));
        assert_eq!(output.status.code(), Some(6));
        assert!(daemon.client.list_pods(None).await.is_empty(), "--rm leaves nothing");
    });
}

#[test]
fn ports_lead_into_the_pod_and_halves_close() {
    scenario::run(Options::default(), async |daemon| {
        let carpel = CommandLine::carpel(&daemon.socket());
        run_server(&carpel, "server").await;
        let mut command = carpel.command(&["port-forward", "server", ":7000", ":7001"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut words = BufReader::new(child.stderr.take().unwrap());
        let (open, closed) = (announced(&mut words), announced(&mut words));
        let connections: Vec<_> = (0..4usize)
            .map(|number| {
                std::thread::spawn(move || {
                    let content = vec![b'a' + u8::try_from(number).unwrap(); 1_000_000 * number + 1];
                    assert_eq!(
                        answered(open, &content),
                        format!("{}  -\n", hex::encode(Sha256::digest(&content)))
                    );
                })
            })
            .collect();
        connections.into_iter().for_each(|connection| connection.join().unwrap());
        // Nobody listens there: the connection ends, the program says why and goes on.
        let mut refused = TcpStream::connect(("127.0.0.1", closed)).unwrap();
        assert_eq!(refused.read(&mut [0; 1]).unwrap_or(0), 0);
        let mut line = String::new();
        words.read_line(&mut line).unwrap();
        assert!(line.contains("7001") && line.contains("refused"), "{line}");
        assert!(answered(open, b"still there").ends_with("  -\n"));
        signal(&child, Signal::INT);
        assert!(child.wait().unwrap().success());
        carpel.ok(&["rm", "-f", "server"]);
    });
}

/// Runs a pod that listens on port 7000 and answers with the digest when the other side has ended its direction.
async fn run_server(carpel: &CommandLine, name: &str) {
    carpel.ok(&["run", "-d", "--name", name, BUSYBOX, "nc", "-ll", "-p", "7000", "-e", "sha256sum"]);
    eventually("the pod's server listens", async || {
        let sockets = carpel.output(&["exec", "--sync", name, "cat", "/proc/net/tcp", "/proc/net/tcp6"]);
        // Port 7000, state LISTEN.
        let lines = String::from_utf8_lossy(&sockets.stdout).into_owned();
        lines.lines().any(|line| line.contains(":1B58 ") && line.contains(" 0A ")).then_some(())
    })
    .await;
}

/// The next local port of which `carpel port-forward` says that it leads somewhere.
fn announced(words: &mut impl BufRead) -> u16 {
    let mut line = String::new();
    words.read_line(&mut line).unwrap();
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("127.0.0.1:"));
    address.unwrap_or_else(|| panic!("no address in {line:?}")).parse().unwrap()
}

/// Sends everything, ends the direction, and reads the answer.
fn answered(port: u16, content: &[u8]) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(content).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}
