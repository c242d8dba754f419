//! Joining a container's streams.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use carpel_shim_api::message::{Attach, FailureKind, Resize, reply, request};

use crate::daemon::Daemon;
use crate::harness::{Pod, container, read_all, read_until, until};

fn attach(daemon: &mut Daemon, streams: [bool; 3]) -> Vec<OwnedFd> {
    let [stdin, stdout, stderr] = streams;
    let attach = Attach { container_id: "c1".to_owned(), stdin, stdout, stderr };
    match daemon.ask_with(request::Body::Attach(attach)) {
        (reply::Body::Attached(_), fds) => fds,
        (other, _) => panic!("not attached: {other:?}"),
    }
}

#[test]
fn clients_share_output_and_the_first_one_closes_a_stdin_once() {
    let mut pod = Pod::start();
    let mut create =
        pod.shell("c1", "echo up >&2; while read line; do echo got $line; done; echo bye; exit 4");
    create.stdin = true;
    create.stdin_once = true;
    pod.create(create);
    let first = attach(&mut pod.daemon, [true, true, true]);
    let second = attach(&mut pod.daemon, [false, true, false]);
    assert_eq!((first.len(), second.len()), (3, 1));
    pod.start_container("c1");
    read_until(&first[2], "up\n");
    rustix::io::write(&first[0], b"one\n").expect("write");
    read_until(&first[1], "got one\n");
    read_until(&second[0], "got one\n");
    // A client that goes takes nothing with it but its input.
    let mut first = first;
    drop(first.remove(0));
    assert_eq!(read_all(&second[0]), "bye\n");
    assert_eq!(read_all(&first[0]), "bye\n");
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 4);
    assert_eq!(pod.said("c1", "stdout"), "got one\nbye\n");
    let late = Attach { container_id: "c1".to_owned(), stdout: true, ..Attach::default() };
    pod.daemon.refused_as(FailureKind::WrongState, request::Body::Attach(late));
    pod.shut_down();
}

#[test]
fn stdin_stays_open_over_clients_until_it_is_closed() {
    let mut pod = Pod::start();
    let mut create = pod.shell("c1", "cat; echo end");
    create.stdin = true;
    pod.run(create);
    for word in ["one\n", "two\n"] {
        let fds = attach(&mut pod.daemon, [true, false, false]);
        rustix::io::write(&fds[0], word.as_bytes()).expect("write");
        drop(fds);
        until("the word in the log", || pod.said("c1", "stdout").contains(word));
    }
    pod.daemon.done(request::Body::CloseStdin(container("c1")));
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 0);
    assert_eq!(pod.said("c1", "stdout"), "one\ntwo\nend\n");
    pod.shut_down();
}

#[test]
fn a_client_that_is_late_gets_all_of_a_burst() {
    const BYTES: usize = 900_000;
    let mut pod = Pod::start();
    let burst =
        format!("while [ ! -e /go ]; do sleep 0.01; done; dd if=/dev/zero bs={BYTES} count=1 2>/dev/null");
    let create = pod.shell("c1", &burst);
    pod.run(create);
    let late = attach(&mut pod.daemon, [false, true, false]);
    drop(pod.daemon.exec("c1", "go", &["/bin/touch", "/go"]));
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 0);
    assert_eq!(read_all(&late[0]).len(), BYTES);
    pod.shut_down();
}

#[test]
fn a_slow_client_stalls_neither_the_container_nor_the_log() {
    let mut pod = Pod::start();
    let create = pod.shell("c1", "while [ ! -e /go ]; do sleep 0.01; done; seq 1 100000");
    pod.run(create);
    let never_read = attach(&mut pod.daemon, [false, true, false]);
    drop(pod.daemon.exec("c1", "go", &["/bin/touch", "/go"]));
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 0);
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(pod.said("c1", "stdout") == expected);
    // What it got before its pipe was full.
    assert!(read_all(&never_read[0]).starts_with("1\n2\n3\n"));
    pod.shut_down();
}

#[test]
fn input_that_nobody_reads_waits_and_is_not_lost() {
    let mut pod = Pod::start();
    let mut create = pod.shell("c1", "while [ ! -e /go ]; do sleep 0.01; done; wc -c");
    create.stdin = true;
    create.stdin_once = true;
    pod.run(create);
    let mut fds = attach(&mut pod.daemon, [true, false, false]);
    let input = fds.remove(0);
    let writer = std::thread::spawn(move || {
        let bytes = vec![b'x'; 1 << 20];
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let n = rustix::io::write(&input, rest).expect("the pipe stays open");
            rest = &rest[n..];
        }
    });
    // The shim serves others meanwhile.
    drop(pod.daemon.exec("c1", "go", &["/bin/touch", "/go"]));
    writer.join().expect("all is written");
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 0);
    assert_eq!(pod.said("c1", "stdout").trim(), (1 << 20).to_string());
    pod.shut_down();
}

/// What the shim's program has used of a processor, in ticks of 10 ms.
fn ticks(pod: &Pod) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pod.shim_pid())).expect("stat");
    // After the name: utime and stime are the fields 14 and 15 of proc_pid_stat(5).
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum()
}

#[test]
fn a_client_that_leaves_unread_input_does_not_keep_the_shim_busy() {
    /// More than the container's pipe takes, and not more than the client's takes besides.
    const INPUT: usize = 100_000;
    const PIPE: usize = 65_536;
    /// Ticks in one second. A loop without an end uses up to 100; one that sleeps, none.
    const SPINNING: u64 = 20;
    let mut pod = Pod::start();
    let mut create = pod.shell("c1", "while [ ! -e /go ]; do sleep 0.05; done; wc -c");
    create.stdin = true;
    create.stdin_once = true;
    pod.run(create);
    let input = attach(&mut pod.daemon, [true, false, false]).remove(0);
    let bytes = vec![b'x'; INPUT];
    assert_eq!(rustix::io::write(&input, &bytes).expect("write"), INPUT);
    let waiting = || rustix::io::ioctl_fionread(&input).expect("a pipe");
    until("a full pipe", || waiting() <= (INPUT - PIPE) as u64);
    drop(input);
    let before = ticks(&pod);
    std::thread::sleep(Duration::from_secs(1));
    let used = ticks(&pod) - before;
    assert!(used < SPINNING, "{used} ticks");
    // What waited is not lost, and neither is its end.
    drop(pod.daemon.exec("c1", "go", &["/bin/touch", "/go"]));
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 0);
    assert_eq!(pod.said("c1", "stdout").trim(), INPUT.to_string());
    pod.shut_down();
}

#[test]
fn a_terminal_is_logged_attached_to_and_resized() {
    let mut pod = Pod::start();
    let mut create = pod.shell("c1", "tty; echo ready; read line; echo got $line; stty size; exit 6");
    create.plan.process.terminal = true;
    create.stdin = true;
    pod.run(create);
    let fds = attach(&mut pod.daemon, [true, true, false]);
    let no_stderr = Attach { container_id: "c1".to_owned(), stderr: true, ..Attach::default() };
    pod.daemon.refused_as(FailureKind::Invalid, request::Body::Attach(no_stderr));
    let size = Resize { container_id: "c1".to_owned(), exec_id: String::new(), width: 80, height: 25 };
    pod.daemon.done(request::Body::Resize(size.clone()));
    let too_wide = Resize { width: 70_000, ..size };
    pod.daemon.refused_as(FailureKind::Invalid, request::Body::Resize(too_wide));
    rustix::io::write(&fds[0], b"hello\n").expect("write");
    read_until(&fds[1], "25 80");
    assert_eq!(pod.daemon.exit_of("c1").exit_code, 6);
    let said = pod.said("c1", "stdout");
    assert!(said.contains("/dev/pts/0") && said.contains("got hello"), "{said:?}");
    pod.shut_down();
}
