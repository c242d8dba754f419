//! Standard input, piece by piece, and the keys that leave a terminal session.

use std::str::FromStr;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::sync::mpsc;

/// What is read at a time, in bytes.
const PIECE_BYTES: usize = 32 << 10;
/// Pieces that wait for the connection.
const QUEUE: usize = 4;

/// Reads standard input to its end. The thread is left to itself: it may wait for a key for ever, and the
/// end of the program does not wait for it.
pub(super) fn read() -> mpsc::Receiver<Bytes> {
    let (sender, pieces) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..]) {
                // A terminal that was hung up answers with an error: its end, too.
                Ok(0) => return,
                Ok(read) => {
                    if sender.blocking_send(Bytes::copy_from_slice(&buffer[..read])).is_err() {
                        return;
                    }
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => return,
            }
        }
    });
    pieces
}

/// Keys, pressed one after the other, that leave a session without ending its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

/// Text that names no keys.
#[derive(Debug, thiserror::Error)]
#[error("expected keys with commas between them, such as ctrl-p,ctrl-q or a,b; {0:?} is no key")]
pub(crate) struct KeysError(String);

impl DetachKeys {
    /// Those of docker and podman.
    pub(crate) const DEFAULT: &str = "ctrl-p,ctrl-q";

    /// No keys leave the session.
    pub(crate) fn none() -> DetachKeys {
        DetachKeys(Vec::new())
    }
}

impl FromStr for DetachKeys {
    type Err = KeysError;

    fn from_str(text: &str) -> Result<Self, KeysError> {
        let key = |name: &str| {
            let bytes = match name.strip_prefix("ctrl-") {
                Some(control) => control.as_bytes(),
                None => name.as_bytes(),
            };
            match (bytes, name.starts_with("ctrl-")) {
                // ASCII: a control key is its letter without the two high bits.
                ([letter @ (b'a'..=b'z' | b'@' | b'['..=b'_')], true) => Ok(letter & 0x1f),
                ([key], false) if key.is_ascii_graphic() => Ok(*key),
                _ => Err(KeysError(name.to_owned())),
            }
        };
        if text.is_empty() {
            return Ok(DetachKeys::none());
        }
        text.split(',').map(key).collect::<Result<_, _>>().map(DetachKeys)
    }
}

/// Looks for the keys in what is typed.
#[derive(Debug)]
pub(super) struct DetachFilter {
    keys: Vec<u8>,
    pressed: usize,
}

/// What typing means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// This is for the command.
    Input(Vec<u8>),
    /// The keys were pressed.
    Detach,
}

impl DetachFilter {
    pub(super) fn new(keys: DetachKeys) -> DetachFilter {
        DetachFilter { keys: keys.0, pressed: 0 }
    }

    /// Holds back what may become the keys until it is clear.
    pub(super) fn pass(&mut self, typed: &[u8]) -> Typed {
        if self.keys.is_empty() {
            return Typed::Input(typed.to_vec());
        }
        let mut through = Vec::with_capacity(typed.len() + self.keys.len());
        for &byte in typed {
            if byte == self.keys[self.pressed] {
                self.pressed += 1;
                if self.pressed == self.keys.len() {
                    return Typed::Detach;
                }
                continue;
            }
            through.extend_from_slice(&self.keys[..self.pressed]);
            self.pressed = usize::from(byte == self.keys[0]);
            if self.pressed == 0 {
                through.push(byte);
            }
        }
        Typed::Input(through)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_docker_writes_them() {
        assert_eq!("ctrl-p,ctrl-q".parse::<DetachKeys>().unwrap().0, [16, 17]);
        assert_eq!("ctrl-@,x,ctrl-]".parse::<DetachKeys>().unwrap().0, [0, b'x', 29]);
        assert!("".parse::<DetachKeys>().unwrap().0.is_empty());
        for wrong in ["ctrl-", "ctrl-pp", "ab", "ctrl-p,", "ä", "ctrl-1"] {
            assert!(wrong.parse::<DetachKeys>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_keys_leave_and_everything_else_passes() {
        let mut filter = DetachFilter::new("ctrl-p,ctrl-q".parse().unwrap());
        assert_eq!(filter.pass(b"ls\r"), Typed::Input(b"ls\r".to_vec()));
        assert_eq!(filter.pass(b"\x10"), Typed::Input(Vec::new()), "it may become the keys");
        assert_eq!(filter.pass(b"x"), Typed::Input(b"\x10x".to_vec()), "it did not");
        assert_eq!(filter.pass(b"\x10\x10\x10"), Typed::Input(b"\x10\x10".to_vec()));
        assert_eq!(filter.pass(b"\x11"), Typed::Detach);
        let mut none = DetachFilter::new("".parse().unwrap());
        assert_eq!(none.pass(b"\x10\x11"), Typed::Input(b"\x10\x11".to_vec()));
    }
}
