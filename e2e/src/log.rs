//! Reads container logs in CRI format, strictly.
//!
//! One line is `<RFC 3339 time with nanoseconds> <stdout|stderr> <P|F> <bytes>\n`; `P` says that the line goes on in
//! the next one of the same stream (kubelet, `pkg/kubelet/kuberuntime/logs`).

use std::path::Path;

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The time as it stands there.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Whether the line goes on in the next entry.
    pub partial: bool,
    /// The text without its newline.
    pub text: Vec<u8>,
}

/// Parses a whole log; a line that is torn or malformed is an error that shows it.
pub fn parse(bytes: &[u8]) -> Result<Vec<Line>, String> {
    let Some(body) = bytes.strip_suffix(b"\n") else {
        return if bytes.is_empty() { Ok(Vec::new()) } else { Err(format!("torn end: {}", tail(bytes))) };
    };
    body.split(|byte| *byte == b'\n').map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Result<Line, String> {
    let wrong = |what: &str| format!("{what}: {}", tail(line));
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let mut word = || parts.next().map(|part| String::from_utf8_lossy(part).into_owned());
    let time = word().filter(|time| is_time(time)).ok_or_else(|| wrong("bad time"))?;
    let stream =
        word().filter(|name| name == "stdout" || name == "stderr").ok_or_else(|| wrong("bad stream"))?;
    let tag = word().ok_or_else(|| wrong("no tag"))?;
    let partial = match tag.as_str() {
        "P" => true,
        "F" => false,
        _ => return Err(wrong("bad tag")),
    };
    let text = parts.next().ok_or_else(|| wrong("no text"))?.to_vec();
    Ok(Line { time, stream, partial, text })
}

/// `2026-01-02T03:04:05.123456789Z`, or with an offset in the place of `Z`.
fn is_time(text: &str) -> bool {
    let shape: String =
        text.chars().map(|character| if character.is_ascii_digit() { '0' } else { character }).collect();
    let Some((whole, fraction)) = shape.split_once('.') else { return false };
    let zone = fraction.trim_start_matches('0');
    whole == "0000-00-00T00:00:00"
        && matches!(zone, "Z" | "+00:00" | "-00:00")
        && fraction.len() - zone.len() == 9
}

fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(200)..]).into_owned()
}

/// Reads and parses a log file; panics with what is wrong with it.
pub fn read(path: &Path) -> Vec<Line> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of one stream, with partial lines joined and a newline after each full one.
pub fn text(lines: &[Line], stream: &str) -> String {
    let mut text = Vec::new();
    for line in lines.iter().filter(|line| line.stream == stream) {
        text.extend_from_slice(&line.text);
        if !line.partial {
            text.push(b'\n');
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "2026-01-02T03:04:05.123456789Z stdout F hello world\n";

    #[test]
    fn a_whole_line_is_taken_apart() {
        let lines = parse(GOOD.as_bytes()).unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!((lines[0].stream.as_str(), lines[0].partial), ("stdout", false));
        assert_eq!(lines[0].text, b"hello world");
    }

    #[test]
    fn what_is_torn_or_malformed_is_refused() {
        for bad in [
            GOOD.trim_end(),
            "stdout F x\n",
            "2026-01-02T03:04:05Z stdout F x\n",
            "2026-01-02T03:04:05.123456789Z stdin F x\n",
            "2026-01-02T03:04:05.123456789Z stdout X x\n",
            "2026-01-02T03:04:05.123456789Z stdout F\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn partial_lines_are_joined() {
        let log = "2026-01-02T03:04:05.123456789Z stdout P ab\n2026-01-02T03:04:05.123456789Z stderr F no\n\
                   2026-01-02T03:04:05.123456789Z stdout F cd\n";
        assert_eq!(text(&parse(log.as_bytes()).unwrap(), "stdout"), "abcd\n");
    }
}
