//! A session of exec or attach, with our own terminal or streams at this end.

use std::{
    io::{self, Write},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    Channels, DetachKeys, Receiver, Sender, StreamError,
    input::{self, DetachFilter, Typed},
    outcome,
    signals::{Event, Signals},
    terminal,
};
use crate::output;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// Ctrl-C as a terminal sends it.
const INTERRUPT: &[u8] = &[3];
/// How often the runtime is shown that somebody is there; it ends sessions that are idle for hours.
const PRESENCE: Duration = Duration::from_secs(60);
/// The most of a status that is taken, in bytes.
const STATUS_MAX_BYTES: usize = 64 << 10;

/// What of ours the command has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Local {
    /// Output only.
    Output {
        /// The command has a terminal all the same, and hears of the size of ours.
        tty: bool,
    },
    /// Standard input as it comes, and output.
    Streams,
    /// Our terminal, key by key, until the keys are pressed that leave it.
    Terminal(DetachKeys),
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The command ended with this code.
    Exited(i32),
    /// The keys were pressed that leave it; the command goes on.
    Detached,
    /// A signal of this number asked us to end.
    Signalled(i32),
}

impl Local {
    /// What `-i` and `-t` mean, given what standard input is.
    pub(crate) fn of(interactive: bool, tty: bool, keys: DetachKeys) -> Result<Local, StreamError> {
        match (interactive, tty) {
            (true, true) if !terminal::is_input() => Err(StreamError::NoTerminal),
            (true, true) => Ok(Local::Terminal(keys)),
            (true, false) => Ok(Local::Streams),
            (false, tty) => Ok(Local::Output { tty }),
        }
    }

    /// Whether the command hears of the size of our terminal.
    fn has_size(&self) -> bool {
        match self {
            Local::Output { tty } => *tty,
            Local::Streams => false,
            Local::Terminal(_) => true,
        }
    }
}

/// Runs a session to its end. A command that ended by itself has been heard to the end. The terminal is as it was when this is over, however that comes.
pub(crate) async fn run(channels: Channels, local: Local) -> anyhow::Result<Ending> {
    let Channels { mut to, from } = channels;
    let signals = Signals::listen().map_err(StreamError::Terminal)?;
    let raw = match &local {
        Local::Terminal(_) => Some(terminal::Raw::enter().map_err(StreamError::Terminal)?),
        Local::Output { .. } | Local::Streams => None,
    };
    let ended = tokio::select! {
        code = show(from) => code.map(Ending::Exited),
        ending = drive(&mut to, signals, local) => Ok(ending),
    };
    if let Ok(Ending::Detached | Ending::Signalled(_)) = ended {
        to.close().await;
    }
    drop(raw);
    ended
}

/// Gives a command our standard input, and shows nothing of it: somebody else does.
pub(crate) async fn feed(channels: Channels) {
    let Channels { mut to, mut from } = channels;
    let feeding = async {
        let mut pieces = input::read();
        while let Some(piece) = pieces.recv().await {
            to.send(STDIN, &piece).await?;
        }
        end_input(&mut to).await
    };
    let watching = async { while let Ok(Some(_)) = from.next().await {} };
    tokio::select! {
        fed = feeding => {
            // A connection that broke: how the command ended is told by who shows its output.
            if fed.is_ok() {
                std::future::pending::<()>().await;
            }
        }
        () = watching => {}
    }
}

/// Copies output until the status comes.
async fn show(mut from: Receiver) -> anyhow::Result<i32> {
    loop {
        let (channel, data) = match from.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Err(StreamError::Broken { source: None }.into()),
            Err(source) => return Err(StreamError::Broken { source: Some(Box::new(source)) }.into()),
        };
        match channel {
            STDOUT => put(io::stdout(), data).await.map_err(output::classify)?,
            // Our standard error may be closed: the exit code still tells.
            STDERR => drop(put(io::stderr(), data).await),
            ERROR if data.is_empty() => {}
            ERROR => return Ok(outcome::exit_code(&data[..data.len().min(STATUS_MAX_BYTES)])?),
            _ => {}
        }
    }
}

/// Whoever reads our output may take any time: keys and signals go on meanwhile.
async fn put(mut to: impl Write + Send + 'static, data: Bytes) -> io::Result<()> {
    tokio::task::spawn_blocking(move || to.write_all(&data).and_then(|()| to.flush())).await?
}

/// Sends input and the terminal's size; resolves when we are to end before the command does.
async fn drive(to: &mut Sender, mut signals: Signals, local: Local) -> Ending {
    match sent(to, &mut signals, local).await {
        Ok(ending) => ending,
        // The connection has ended: the receiver tells how, and signals still count.
        Err(_) => loop {
            if let Event::End(number) = signals.next().await {
                return Ending::Signalled(number);
            }
        },
    }
}

async fn sent(
    to: &mut Sender,
    signals: &mut Signals,
    local: Local,
) -> Result<Ending, tokio_tungstenite::tungstenite::Error> {
    let sized = local.has_size();
    let mut pieces = match &local {
        Local::Output { .. } => None,
        Local::Streams | Local::Terminal(_) => Some(input::read()),
    };
    let mut keys = match local {
        Local::Terminal(keys) => Some(DetachFilter::new(keys)),
        Local::Output { .. } | Local::Streams => None,
    };
    if sized {
        resize(to).await?;
    }
    let mut presence = interval(PRESENCE);
    presence.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = signals.next() => match event {
                Event::Resized if sized => resize(to).await?,
                Event::Resized => {}
                Event::Interrupt if keys.is_some() => to.send(STDIN, INTERRUPT).await?,
                Event::Interrupt => return Ok(Ending::Signalled(2)),
                Event::End(number) => return Ok(Ending::Signalled(number)),
            },
            piece = next(&mut pieces) => match (piece, &mut keys) {
                (None, _) => {
                    pieces = None;
                    end_input(to).await?;
                }
                (Some(piece), None) => to.send(STDIN, &piece).await?,
                (Some(piece), Some(keys)) => match keys.pass(&piece) {
                    Typed::Detach => return Ok(Ending::Detached),
                    Typed::Input(input) if input.is_empty() => {}
                    Typed::Input(input) => to.send(STDIN, &input).await?,
                },
            },
            _ = presence.tick() => to.ping().await?,
        }
    }
}

/// The next piece of input; never, once there is no more.
async fn next(pieces: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match pieces {
        Some(pieces) => pieces.recv().await,
        None => std::future::pending().await,
    }
}

async fn end_input(to: &mut Sender) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    if !to.end(STDIN).await? {
        output::say(
            "this runtime's WebSocket protocol (v4) cannot end the command's input: if the command waits for \
             that, end it with Ctrl-C",
        );
    }
    Ok(())
}

async fn resize(to: &mut Sender) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    match terminal::size_message() {
        Some(size) => to.send(RESIZE, size.as_bytes()).await,
        None => Ok(()),
    }
}
