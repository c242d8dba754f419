use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

/// Reads records back: the content of each stream, as the kubelet puts it together.
fn content(log: &[u8], line_max_bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert!(log.is_empty() || log.ends_with(b"\n"), "a torn record");
    for record in log.split_inclusive(|b| *b == b'\n') {
        let (header, rest) = record.split_at(record::HEADER_BYTES);
        let text = &rest[..rest.len() - 1];
        assert!(header[..31].ends_with(b"Z "), "{:?}", String::from_utf8_lossy(record));
        assert!(text.len() <= line_max_bytes, "{} bytes in a record", text.len());
        let said = match &header[31..37] {
            b"stdout" => &mut out,
            b"stderr" => &mut err,
            other => panic!("stream {other:?}"),
        };
        said.extend_from_slice(text);
        match &header[37..] {
            b" F " => said.push(b'\n'),
            b" P " => assert!(!text.is_empty()),
            other => panic!("tag {other:?}"),
        }
    }
    (out, err)
}

fn open(dir: &Path, line_max_bytes: usize) -> Log {
    Log::open(&dir.join("c/0.log"), line_max_bytes).unwrap()
}

#[test]
fn the_file_is_made_with_its_folder_and_is_for_the_group_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(&dir.path().join("pod/c/0.log"), 0).unwrap();
    assert_eq!(log.line_max_bytes, LINE_MAX_BYTES_DEFAULT);
    let mode = fs::metadata(dir.path().join("pod/c/0.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[test]
fn a_line_of_just_the_limit_is_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), 128);
    for length in [127, 128, 129, 256, 257] {
        log.append(Stream::Stdout, &vec![b'x'; length], 0);
        log.append(Stream::Stdout, b"\n", 0);
    }
    let text = fs::read_to_string(dir.path().join("c/0.log")).unwrap();
    let tags: String = text.lines().map(|line| &line[38..39]).collect();
    assert_eq!(tags, "FFPFPFPPF");
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path();
    for bad in ["c/0.log", "/", "/x", "/a/../b/0.log", "/a/b/"] {
        assert!(matches!(Log::open(Path::new(bad), 0), Err(OpenError::Path(_))), "{bad}");
    }
    fs::create_dir(base.join("c")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", base.join("c/0.log")).unwrap();
    assert!(matches!(Log::open(&base.join("c/0.log"), 0), Err(OpenError::File { .. })));
    std::os::unix::fs::symlink("/etc", base.join("d")).unwrap();
    assert!(matches!(Log::open(&base.join("d/0.log"), 0), Err(OpenError::Dir { .. })));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        base.join("c/1.log"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    // A pipe without a reader cannot be opened without waiting; it is not waited for.
    assert!(Log::open(&base.join("c/1.log"), 0).is_err());
    assert!(Log::open(&base.join("c"), 0).is_err());
}

/// What happens to a log.
#[derive(Debug, Clone)]
enum Step {
    Out(Vec<u8>),
    Err(Vec<u8>),
    Rotate,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let byte = prop_oneof![3 => Just(b'\n'), 5 => any::<u8>(), 5 => Just(b'x')];
    let bytes = prop::collection::vec(byte, 0..600);
    let long = (0usize..3000).prop_map(|n| vec![b'y'; n]);
    let output = prop_oneof![bytes, long];
    prop::collection::vec(
        prop_oneof![
            4 => output.clone().prop_map(Step::Out),
            2 => output.prop_map(Step::Err),
            1 => Just(Step::Rotate),
        ],
        0..40,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_goes_in_comes_out_whatever_the_cuts_and_rotations(steps in steps(), max in 128usize..400) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c/0.log");
        let mut log = open(dir.path(), max);
        let (mut out, mut err, mut files) = (Vec::new(), Vec::new(), Vec::new());
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Out(bytes) => {
                    log.append(Stream::Stdout, &bytes, number as i64);
                    out.extend(bytes);
                }
                Step::Err(bytes) => {
                    log.append(Stream::Stderr, &bytes, number as i64);
                    err.extend(bytes);
                }
                Step::Rotate => {
                    let away = path.with_extension(number.to_string());
                    fs::rename(&path, &away).unwrap();
                    log.reopen().unwrap();
                    files.push(away);
                }
            }
        }
        log.end(Stream::Stdout, 0);
        log.end(Stream::Stderr, 0);
        files.push(path);
        let mut read = (Vec::new(), Vec::new());
        for file in files {
            // Every file by itself has whole records only.
            let (o, e) = content(&fs::read(file).unwrap(), max);
            read.0.extend(o);
            read.1.extend(e);
        }
        prop_assert_eq!(read.0, out);
        prop_assert_eq!(read.1, err);
    }

    #[test]
    fn a_disk_that_fills_up_leaves_whole_records_and_a_count(chunks in prop::collection::vec(1usize..2000, 1..60)) {
        // RLIMIT_FSIZE would hit the whole process; a pipe that nobody reads refuses in the middle
        // of a record just as a full disk does, with EAGAIN for ENOSPC.
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let file = file::LogFile::of(write);
        let header = Header::new(0, Stream::Stdout, true);
        let mut batch = Batch::new(&file);
        let contents: Vec<Vec<u8>> = chunks.iter().map(|n| vec![b'z'; *n]).collect();
        for content in &contents {
            batch.push(&header, (content, &[]));
        }
        let failed = batch.finish();
        let mut written = vec![0u8; 1 << 20];
        let n = rustix::io::read(&read, &mut written).unwrap_or(0);
        let total: usize = contents.iter().map(Vec::len).sum();
        let whole: usize = contents
            .iter()
            .scan(0, |end, c| { *end += c.len() + record::HEADER_BYTES + 1; Some((*end, c.len())) })
            .filter(|(end, _)| *end <= n)
            .map(|(_, length)| length)
            .sum();
        prop_assert_eq!(failed.map_or(0, |f| f.lost_bytes) as usize, total - whole);
    }
}
