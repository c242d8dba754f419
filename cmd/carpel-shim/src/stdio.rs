//! A container's streams, the shim's side: output to the log and the clients, input from the clients.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use carpel_oci_runtime::stdio::Stdio;
use carpel_shim_api::message::Create;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use thiserror::Error;

use crate::attach::{Client, Input};
use crate::log::{Log, OpenError, Stream};
use crate::poller::{EventFlags, Poller, Source};

/// What is read of one stream before the others have their turn.
const TURN_BYTES: usize = 512 << 10;
/// What is read after the init process was reaped. What it wrote itself is less: the kernel gives a
/// pipe at most 1 MiB (`fs.pipe-max-size`). More comes from somebody who is not of the container.
pub(crate) const LAST_BYTES: usize = 4 << 20;
/// Clients of one container.
const CLIENTS_MAX: usize = 64;
/// What may wait for a client in the pipe of each of its outputs, in bytes. A client that reads must get through a
/// burst, and it reads by way of the daemon, which does not run at once; the pages are there only while bytes wait.
const CLIENT_PIPE_BYTES: usize = 1 << 20;

/// The streams of one container.
#[derive(Debug)]
pub(crate) struct Streams {
    key: u32,
    log: Option<Log>,
    /// The read end of a pipe, or a terminal's master. Gone at the end of output.
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    stdin: Stdin,
    terminal: bool,
    clients: BTreeMap<u32, Client>,
    client_keys: u32,
}

/// The container's input.
#[derive(Debug)]
enum Stdin {
    /// It was not asked for: the container reads `/dev/null`.
    None,
    /// The write end of a pipe; with `once` it closes when the first client's input does.
    Pipe { pipe: OwnedFd, once: bool },
    /// Goes to the terminal's master.
    Terminal,
    /// It was closed.
    Closed,
}

/// Why streams could not be made.
#[derive(Debug, Error)]
pub(crate) enum StreamsError {
    #[error("the container's log")]
    Log(#[source] OpenError),
    #[error("make a pipe for the container's streams")]
    Pipe(#[source] Errno),
    #[error("open /dev/null")]
    Null(#[source] Errno),
    #[error("watch the container's streams")]
    Watch(#[source] Errno),
}

/// Why a client could not join.
#[derive(Debug, Error)]
pub(crate) enum AttachError {
    #[error("the container has no {0} to attach to")]
    NoStream(&'static str),
    #[error("{CLIENTS_MAX} clients are attached already")]
    TooMany,
    #[error("make a pipe for a client")]
    Pipe(#[source] Errno),
    #[error("watch a client's pipe")]
    Watch(#[source] Errno),
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// So many bytes; there may be more.
    Data(usize),
    /// Nothing now.
    Empty,
    /// Nothing ever again.
    End,
}

/// A pipe whose read end is the shim's, and does not block it.
pub(crate) fn output_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
    Ok((read, write))
}

/// A pipe whose write end is the shim's, and does not block it: (read, write).
pub(crate) fn input_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK)?;
    Ok((read, write))
}

/// `/dev/null`, which needs no one at its other end.
pub(crate) fn null(flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/null", flags | OFlags::CLOEXEC, Mode::empty())
}

impl Streams {
    /// Opens the log and makes the pipes: the shim's ends, and those of the container.
    pub(crate) fn make(key: u32, request: &Create) -> Result<(Streams, Stdio), StreamsError> {
        let log = match request.log_path.as_str() {
            "" => None,
            path => {
                let line_max_bytes = usize::try_from(request.log_line_max_bytes).unwrap_or(0);
                Some(Log::open(Path::new(path), line_max_bytes).map_err(StreamsError::Log)?)
            }
        };
        let mut streams = Streams {
            key,
            log,
            stdout: None,
            stderr: None,
            stdin: Stdin::None,
            terminal: request.plan.process.terminal,
            clients: BTreeMap::new(),
            client_keys: 0,
        };
        if streams.terminal {
            streams.stdin = if request.stdin { Stdin::Terminal } else { Stdin::None };
            return Ok((streams, Stdio::Terminal));
        }
        let stdin = if request.stdin {
            let (read, write) = input_pipe().map_err(StreamsError::Pipe)?;
            streams.stdin = Stdin::Pipe { pipe: write, once: request.stdin_once };
            read
        } else {
            null(OFlags::RDONLY).map_err(StreamsError::Null)?
        };
        let (stdout_read, stdout) = output_pipe().map_err(StreamsError::Pipe)?;
        let (stderr_read, stderr) = output_pipe().map_err(StreamsError::Pipe)?;
        streams.stdout = Some(stdout_read);
        streams.stderr = Some(stderr_read);
        Ok((streams, Stdio::Streams { stdin, stdout, stderr }))
    }

    /// Has the poller tell of output.
    pub(crate) fn watch(&self, poller: &Poller) -> Result<(), StreamsError> {
        for (fd, source) in
            [(&self.stdout, Source::Stdout(self.key)), (&self.stderr, Source::Stderr(self.key))]
        {
            if let Some(fd) = fd {
                poller.add(fd, source, EventFlags::IN).map_err(StreamsError::Watch)?;
            }
        }
        Ok(())
    }

    /// Takes the terminal's master, which the init process made.
    pub(crate) fn set_console(&mut self, console: OwnedFd, poller: &Poller) -> Result<(), StreamsError> {
        rustix::fs::fcntl_setfl(&console, OFlags::NONBLOCK).map_err(StreamsError::Watch)?;
        poller.add(&console, Source::Stdout(self.key), EventFlags::IN).map_err(StreamsError::Watch)?;
        self.stdout = Some(console);
        Ok(())
    }

    /// The terminal's master.
    pub(crate) fn console(&self) -> Option<BorrowedFd<'_>> {
        self.stdout.as_ref().filter(|_| self.terminal).map(AsFd::as_fd)
    }

    pub(crate) fn reopen_log(&mut self) -> Result<(), OpenError> {
        self.log.as_mut().map_or(Ok(()), Log::reopen)
    }

    /// Reads output once and passes it on.
    pub(crate) fn pump(&mut self, stream: Stream, buffer: &mut [u8], poller: &Poller) -> Pumped {
        let Some(pipe) = self.output(stream).as_ref() else { return Pumped::End };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => self.end(stream, poller),
            Ok(n) => {
                let bytes = &buffer[..n];
                if let Some(log) = &mut self.log {
                    log.append(stream, bytes, now_ns());
                }
                for client in self.clients.values_mut() {
                    client.send(stream, bytes);
                }
                self.forget_gone_clients();
                return Pumped::Data(n);
            }
            Err(Errno::AGAIN | Errno::INTR) => return Pumped::Empty,
            // EIO: the last process has closed the terminal.
            Err(_) => self.end(stream, poller),
        }
        Pumped::End
    }

    fn output(&mut self, stream: Stream) -> &mut Option<OwnedFd> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn end(&mut self, stream: Stream, poller: &Poller) {
        if let Some(pipe) = self.output(stream).take() {
            poller.remove(pipe);
        }
        if let Some(log) = &mut self.log {
            log.end(stream, now_ns());
        }
        for client in self.clients.values_mut() {
            if let Some(pipe) = client.output(stream).take() {
                poller.remove(pipe);
            }
        }
        self.forget_gone_clients();
    }

    /// Reads what is there, for one turn of the loop: of a stream that has more, the poller tells
    /// again. `left` is what may be read at all. `true`: it is used up, or there will be no more.
    pub(crate) fn drain(&mut self, buffer: &mut [u8], poller: &Poller, left: &mut usize) -> bool {
        let mut ended = true;
        for stream in [Stream::Stdout, Stream::Stderr] {
            let (bytes, last) = self.drain_one(stream, buffer, poller);
            ended &= last == Pumped::End;
            *left = left.saturating_sub(bytes);
        }
        ended || *left == 0
    }

    /// Reads one stream for one turn: how much that was, and what the last read brought.
    fn drain_one(&mut self, stream: Stream, buffer: &mut [u8], poller: &Poller) -> (usize, Pumped) {
        let mut bytes = 0;
        loop {
            match self.pump(stream, buffer, poller) {
                Pumped::Data(n) if bytes + n < TURN_BYTES => bytes += n,
                Pumped::Data(n) => return (bytes + n, Pumped::Data(n)),
                last => return (bytes, last),
            }
        }
    }

    /// Closes everything; what waits for a newline goes to the log.
    pub(crate) fn close(&mut self, poller: &Poller) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if self.output(stream).is_some() {
                self.end(stream, poller);
            }
        }
        self.close_stdin(poller);
        for (_, mut client) in std::mem::take(&mut self.clients) {
            for pipe in [client.stdin.take(), client.stdout.take(), client.stderr.take()] {
                pipe.iter().for_each(|pipe| poller.remove(pipe));
            }
        }
        self.log = None;
    }

    /// Closes the container's stdin. A terminal has none of its own to close.
    pub(crate) fn close_stdin(&mut self, poller: &Poller) {
        if matches!(self.stdin, Stdin::Pipe { .. })
            && let Stdin::Pipe { pipe, .. } = std::mem::replace(&mut self.stdin, Stdin::Closed)
        {
            poller.remove(pipe);
        }
    }

    /// Lets a client join. Its ends, in the order stdin, stdout, stderr.
    pub(crate) fn attach(
        &mut self,
        streams: [bool; 3],
        poller: &Poller,
    ) -> Result<Vec<OwnedFd>, AttachError> {
        let [stdin, stdout, stderr] = streams;
        if stdin && matches!(self.stdin, Stdin::None | Stdin::Closed) {
            return Err(AttachError::NoStream("stdin"));
        }
        if stderr && self.terminal {
            return Err(AttachError::NoStream("stderr"));
        }
        if self.clients.len() >= CLIENTS_MAX {
            return Err(AttachError::TooMany);
        }
        self.client_keys += 1;
        let client_key = self.client_keys;
        let mut client = Client::default();
        let mut theirs = Vec::new();
        if stdin {
            let (read, write) = output_pipe().map_err(AttachError::Pipe)?;
            poller
                .add(&read, Source::ClientStdin(self.key, client_key), EventFlags::IN)
                .map_err(AttachError::Watch)?;
            client.stdin = Some(read);
            theirs.push(write);
        }
        let outputs = [
            (stdout, Stream::Stdout, Source::ClientStdout(self.key, client_key)),
            (stderr, Stream::Stderr, Source::ClientStderr(self.key, client_key)),
        ];
        for (wanted, stream, source) in outputs {
            if wanted {
                let (read, write) = input_pipe().map_err(AttachError::Pipe)?;
                // Where the kernel lets a pipe be no longer (`fs.pipe-max-size`), more of a burst is lost.
                let _shorter = rustix::pipe::fcntl_setpipe_size(&write, CLIENT_PIPE_BYTES);
                // No flags: only the loss of the reader is told, always.
                poller.add(&write, source, EventFlags::empty()).map_err(AttachError::Watch)?;
                *client.output(stream) = Some(write);
                theirs.push(read);
            }
        }
        self.clients.insert(client_key, client);
        Ok(theirs)
    }

    /// A client's reader has gone.
    pub(crate) fn lose_client_output(&mut self, client: u32, stream: Stream, poller: &Poller) {
        if let Some(pipe) = self.clients.get_mut(&client).and_then(|c| c.output(stream).take()) {
            poller.remove(pipe);
        }
        self.forget_gone_clients();
    }

    /// A client has sent input, or closed it.
    pub(crate) fn forward_input(&mut self, client_key: u32, poller: &Poller) {
        let Some(client) = self.clients.get_mut(&client_key) else { return };
        let sink = match &self.stdin {
            Stdin::Pipe { pipe, .. } => Some(pipe.as_fd()),
            Stdin::Terminal => self.stdout.as_ref().map(AsFd::as_fd),
            Stdin::None | Stdin::Closed => None,
        };
        let Some(sink) = sink else { return self.end_input(client_key, poller) };
        match client.forward(sink) {
            Input::Open => {}
            Input::Full => {
                // Neither the container nor the client may make the loop spin: the one is watched
                // for room, the other not at all until there is some. To watch it for nothing would
                // not do: that it was closed is told in any case, and with every turn again.
                if let Some(stdin) = &client.stdin {
                    poller.remove(stdin);
                }
                self.watch_sink(poller);
            }
            Input::End => self.end_input(client_key, poller),
        }
    }

    /// Watches the container's stdin for room. A terminal is watched for output already.
    fn watch_sink(&self, poller: &Poller) {
        match &self.stdin {
            Stdin::Pipe { pipe, .. } => {
                let _watched_already = poller.add(pipe, Source::Stdin(self.key), EventFlags::OUT);
            }
            Stdin::Terminal => {
                if let Some(console) = &self.stdout {
                    let both = EventFlags::IN | EventFlags::OUT;
                    let _gone = poller.modify(console, Source::Stdout(self.key), both);
                }
            }
            Stdin::None | Stdin::Closed => {}
        }
    }

    /// The container's stdin has room again, or no reader any more.
    pub(crate) fn resume_input(&mut self, poller: &Poller) {
        match &self.stdin {
            Stdin::Pipe { pipe, .. } => poller.remove(pipe),
            Stdin::Terminal => {
                if let Some(console) = &self.stdout {
                    let _gone = poller.modify(console, Source::Stdout(self.key), EventFlags::IN);
                }
            }
            Stdin::None | Stdin::Closed => {}
        }
        let keys: Vec<u32> = self.clients.keys().copied().collect();
        for client_key in keys {
            if let Some(stdin) = self.clients.get(&client_key).and_then(|c| c.stdin.as_ref()) {
                let source = Source::ClientStdin(self.key, client_key);
                match poller.add(stdin, source, EventFlags::IN) {
                    // EEXIST: this one did not wait.
                    Ok(()) | Err(Errno::EXIST) => self.forward_input(client_key, poller),
                    // Nobody would hear of its input: the client shall know.
                    Err(_) => self.end_input(client_key, poller),
                }
            }
        }
    }

    fn end_input(&mut self, client_key: u32, poller: &Poller) {
        if let Some(client) = self.clients.get_mut(&client_key) {
            client.pending = Vec::new();
            if let Some(stdin) = client.stdin.take() {
                poller.remove(stdin);
            }
        }
        self.forget_gone_clients();
        if matches!(self.stdin, Stdin::Pipe { once: true, .. }) {
            self.close_stdin(poller);
        }
    }

    fn forget_gone_clients(&mut self) {
        self.clients.retain(|_, client| !client.is_gone());
    }
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}
