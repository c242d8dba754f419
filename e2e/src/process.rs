//! Child processes that end with the test program, however it ends.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock};

/// A child that is killed when this value goes, and by the kernel when the test program dies first.
#[derive(Debug)]
pub struct Tethered {
    child: Mutex<Child>,
}

impl Tethered {
    /// Starts a program with both output streams in a log file.
    pub fn spawn(program: &str, arguments: &[&OsStr], log: &File) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]).args(arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("duplicate the log's descriptor"));
        command.stderr(log.try_clone().expect("duplicate the log's descriptor"));
        let child = fork(command).unwrap_or_else(|error| panic!("start {program}: {error}"));
        Self { child: Mutex::new(child) }
    }

    /// Whether it has not exited.
    pub fn is_running(&self) -> bool {
        matches!(self.lock().try_wait(), Ok(None))
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.child.lock().expect("no thread panics while it holds a child")
    }
}

impl Drop for Tethered {
    fn drop(&mut self) {
        let mut child = self.lock();
        // It may have ended by itself, which is as good.
        if child.kill().is_ok() {
            child.wait().expect("our own child can be waited for");
        }
    }
}

type Order = (Command, Sender<io::Result<Child>>);

/// Forks on a thread that never ends: the kernel's tether (`PR_SET_PDEATHSIG`) watches the thread that forked, not
/// its process, and the threads of tests end with their test.
fn fork(command: Command) -> io::Result<Child> {
    static ORDERS: OnceLock<Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (orders, queue) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                // Whoever asked waits for the answer.
                answer.send(command.spawn()).expect("the asker waits");
            }
        });
        orders
    });
    let (answer, child) = channel();
    orders.send((command, answer)).expect("the forking thread never ends");
    child.recv().expect("the forking thread answers")
}
