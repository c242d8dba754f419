use std::{
    io::Write,
    sync::{Mutex, mpsc},
};

use super::*;

const TIME: &str = "2026-01-02T03:04:05.000000006Z";

/// A writer whose text others can see, and wait for.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Waits until the text is there; the test's own time limit is the only one.
    fn wait_for(&self, text: &str) {
        while !self.text().contains(text) {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn read_all(log: &str, tail: Option<u64>, timestamps: Timestamps) -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    fs::write(&path, log).unwrap();
    let (out, err) = (Seen::default(), Seen::default());
    let mut printer = Printer::new(out.clone(), err.clone(), timestamps);
    copy(&path, tail, &Until::EndOfFile, &mut printer).unwrap();
    drop(printer);
    (out.text(), err.text())
}

#[test]
fn partial_entries_become_one_line_of_their_stream() {
    let log = format!(
        "{TIME} stdout P a\n{TIME} stderr P x\n{TIME} stdout F b\n{TIME} stderr F y\n{TIME} stdout F c\n"
    );
    assert_eq!(read_all(&log, None, Timestamps::Hidden), ("ab\nc\n".into(), "xy\n".into()));
    assert_eq!(
        read_all(&log, None, Timestamps::Shown),
        (format!("{TIME} ab\n{TIME} c\n"), format!("{TIME} xy\n"))
    );
}

#[test]
fn the_tail_counts_lines_not_entries() {
    let log = format!("{TIME} stdout F one\n{TIME} stdout P tw\n{TIME} stdout F o\n{TIME} stdout F three\n");
    for (tail, text) in
        [(0, ""), (1, "three\n"), (2, "two\nthree\n"), (3, "one\ntwo\nthree\n"), (9, "one\ntwo\nthree\n")]
    {
        assert_eq!(read_all(&log, Some(tail), Timestamps::Hidden).0, text, "tail {tail}");
    }
}

#[test]
fn a_log_that_is_not_there_is_named() {
    let error = copy(
        Path::new("/nonexistent/0.log"),
        None,
        &Until::EndOfFile,
        &mut Printer::new(io::sink(), io::sink(), Timestamps::Hidden),
    )
    .unwrap_err();
    assert!(error.to_string().contains("/nonexistent/0.log"));
    assert!(error.hint().is_some());
}

/// A follower of a log in `dir`, on its own thread.
fn follow(path: &Path) -> (Seen, Ended, mpsc::Receiver<Result<(), FollowError>>) {
    let (seen, ended) = (Seen::default(), Ended::default());
    let (done, result) = mpsc::channel();
    let (out, until, path) = (seen.clone(), Until::Ended(ended.clone()), path.to_owned());
    thread::spawn(move || {
        let mut printer = Printer::new(out, io::sink(), Timestamps::Hidden);
        done.send(copy(&path, None, &until, &mut printer)).unwrap();
    });
    (seen, ended, result)
}

fn entry(text: &str) -> String {
    format!("{TIME} stdout F {text}\n")
}

#[test]
fn rotation_loses_and_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut writer = File::create(&path).unwrap();
    let (seen, ended, result) = follow(&path);
    for round in 0..3 {
        writer.write_all(entry(&format!("before {round}")).as_bytes()).unwrap();
        seen.wait_for(&format!("before {round}\n"));
        fs::rename(&path, dir.path().join(format!("0.log.{round}"))).unwrap();
        // The runtime has not been told yet.
        writer.write_all(entry(&format!("between {round}")).as_bytes()).unwrap();
        writer = File::create(&path).unwrap();
        writer.write_all(entry(&format!("after {round}")).as_bytes()).unwrap();
        seen.wait_for(&format!("after {round}\n"));
    }
    writer.write_all(entry("the end").as_bytes()).unwrap();
    ended.set();
    result.recv().unwrap().unwrap();
    let expected: String =
        (0..3).map(|round| format!("before {round}\nbetween {round}\nafter {round}\n")).collect();
    assert_eq!(seen.text(), expected + "the end\n");
}

#[test]
fn a_log_may_appear_late_and_be_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let (seen, ended, result) = follow(&path);
    fs::write(&path, entry("a long first line")).unwrap();
    seen.wait_for("a long first line\n");
    let writer = File::options().write(true).truncate(true).open(&path).unwrap();
    // The follower must see the empty file; otherwise nobody could tell that it was truncated.
    thread::sleep(4 * POLL);
    (&writer).write_all(entry("b").as_bytes()).unwrap();
    seen.wait_for("b\n");
    ended.set();
    result.recv().unwrap().unwrap();
    assert_eq!(seen.text(), "a long first line\nb\n");
}

#[test]
fn a_container_without_a_log_ends_too() {
    let dir = tempfile::tempdir().unwrap();
    let (seen, ended, result) = follow(&dir.path().join("0.log"));
    ended.set();
    result.recv().unwrap().unwrap();
    assert_eq!(seen.text(), "");
}
