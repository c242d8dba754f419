//! A program on a terminal, as a person has it: what it shows, what is typed, the window's size, Ctrl-C.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::client::PATIENCE;

/// A program and the terminal it controls.
#[derive(Debug)]
pub struct Pty {
    master: File,
    /// Keeps the terminal's state when the program has ended.
    slave: OwnedFd,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    seen: usize,
}

impl Pty {
    /// Starts a program on a new terminal of this many columns and rows.
    pub fn start(command: &Command, columns: u16, rows: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("openpt");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname");
        let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
        let slave = slave.expect("open the terminal");
        let end = || Stdio::from(slave.try_clone().expect("dup"));
        // A session of its own whose terminal this is; only a child could do that for itself.
        let mut on_terminal = Command::new("setsid");
        on_terminal.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            on_terminal.env(key, value.unwrap_or_default());
        }
        tcsetwinsize(&master, winsize(columns, rows)).expect("set the terminal's size");
        let child =
            on_terminal.stdin(end()).stdout(end()).stderr(end()).spawn().expect("start on a terminal");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let master = File::from(master);
        let (mut reader, sink) = (master.try_clone().expect("dup"), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO: the last process has closed the terminal.
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                sink.lock().expect("no thread panics with it").extend_from_slice(&buffer[..read]);
            }
        });
        Self { master, slave, child, shown, seen: 0 }
    }

    /// Types.
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("write to the terminal");
    }

    /// Waits until `text` is shown after what was waited for before.
    pub fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = self.shown.lock().expect("no thread panics with it").clone();
            let rest = &shown[self.seen..];
            if let Some(at) = rest.windows(text.len()).position(|window| window == text.as_bytes()) {
                self.seen += at + text.len();
                return;
            }
            let all = String::from_utf8_lossy(&shown);
            assert!(Instant::now() < deadline, "{text:?} was not shown after {} bytes of:\n{all}", self.seen);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything shown so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("no thread panics with it")).into_owned()
    }

    /// Changes the window's size; the program hears of it by SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) {
        tcsetwinsize(&self.master, winsize(columns, rows)).expect("set the terminal's size");
    }

    /// The terminal's settings.
    pub fn settings(&self) -> Termios {
        tcgetattr(&self.slave).expect("tcgetattr")
    }

    /// Whether every key goes to the program as it is.
    pub fn is_raw(&self) -> bool {
        !self.settings().local_modes.intersects(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO)
    }

    /// Sends the program itself a signal, past the terminal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal the program");
    }

    /// Waits for the program's end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the program") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end; shown:\n{}", self.shown());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // It has ended by itself, unless the test failed.
        if self.child.kill().is_ok() {
            self.child.wait().expect("our own child can be waited for");
        }
    }
}

fn winsize(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Whether two settings of a terminal are the same.
pub fn same_settings(one: &Termios, other: &Termios) -> bool {
    let modes = |of: &Termios| (of.input_modes, of.output_modes, of.control_modes, of.local_modes);
    modes(one) == modes(other)
}
