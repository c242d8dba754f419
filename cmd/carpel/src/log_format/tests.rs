use proptest::prelude::*;

use super::*;

const TIME: &str = "2026-01-02T03:04:05.000000006Z";

/// What the decoder makes of pieces, each entry as one text.
fn decode(pieces: &[&[u8]]) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    let mut decoder = Decoder::new(0);
    for piece in pieces {
        decoder
            .feed(piece, &mut |event| {
                match event {
                    Event::Begin(header, offset) => {
                        assert_eq!(header.timestamp, TIME);
                        entries.push(format!("{offset} {:?} {:?} ", header.stream, header.tag));
                    }
                    Event::Content(content) => {
                        entries.last_mut().unwrap().push_str(&String::from_utf8_lossy(content));
                    }
                    Event::End => entries.last_mut().unwrap().push('$'),
                    Event::Malformed => entries.push("malformed".into()),
                }
                Ok(())
            })
            .unwrap();
    }
    entries
}

#[test]
fn full_and_partial_entries() {
    let log = format!("{TIME} stdout P one, \n{TIME} stderr F oops\n{TIME} stdout F two\n");
    assert_eq!(
        decode(&[log.as_bytes()]),
        ["0 Stdout Partial one, $", "46 Stderr Full oops$", "91 Stdout Full two$"]
    );
}

#[test]
fn entries_without_content() {
    // With the blank after the tag, as runtimes write it, and without.
    let log = format!("{TIME} stdout F \n{TIME} stdout F\n{TIME} stdout F  \n");
    assert_eq!(decode(&[log.as_bytes()]), ["0 Stdout Full $", "41 Stdout Full $", "81 Stdout Full  $"]);
}

#[test]
fn further_tags_are_ignored() {
    let log = format!("{TIME} stdout P:new:x text\n");
    assert_eq!(decode(&[log.as_bytes()]), ["0 Stdout Partial text$"]);
}

#[test]
fn lines_that_are_no_entry_are_skipped_one_by_one() {
    let long = "x".repeat(100_000);
    let log = format!(
        "\nplain\n{long}\n{TIME} stdin F a\n{TIME} stdout X a\n2026 stdout F a\n{TIME} stdout F ok\n{TIME} std"
    );
    let entries = decode(&[log.as_bytes()]);
    assert_eq!(entries[..6], ["malformed"; 6]);
    assert!(entries[6].ends_with("Stdout Full ok$"), "{entries:?}");
    assert_eq!(entries.len(), 7, "an entry that is still being written is no entry yet");
}

#[test]
fn the_header_is_bounded() {
    let mut decoder = Decoder::new(0);
    decoder.feed(&vec![b'x'; 1 << 20], &mut |_| Ok(())).unwrap();
    assert!(decoder.header.capacity() <= 2 * HEADER_MAX_BYTES);
}

proptest! {
    #[test]
    fn pieces_make_no_difference(log in entries(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(log.len() + 1)).collect();
        cuts.extend([0, log.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &log[cut[0]..cut[1]]).collect();
        prop_assert_eq!(decode(&pieces), decode(&[&log]));
    }

    #[test]
    fn content_comes_back_as_it_was_written(lines in prop::collection::vec("[^\n]{0,40}", 0..20)) {
        let log: String = lines.iter().map(|line| format!("{TIME} stdout F {line}\n")).collect();
        let mut seen = Vec::new();
        Decoder::new(0).feed(log.as_bytes(), &mut |event| {
            match event {
                Event::Begin(..) => seen.push(Vec::new()),
                Event::Content(content) => seen.last_mut().unwrap().extend_from_slice(content),
                Event::End => {}
                Event::Malformed => panic!("malformed"),
            }
            Ok(())
        }).unwrap();
        prop_assert_eq!(seen, lines.iter().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut open = false;
        Decoder::new(0).feed(&bytes, &mut |event| {
            match event {
                Event::Begin(..) => { assert!(!open); open = true; }
                Event::Content(_) => assert!(open),
                Event::End => { assert!(open); open = false; }
                Event::Malformed => assert!(!open),
            }
            Ok(())
        }).unwrap();
    }
}

/// Logs of good and bad lines.
fn entries() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        "[a-z ]{0,30}".prop_map(|text| format!("{TIME} stdout F {text}\n")),
        "[a-z ]{0,30}".prop_map(|text| format!("{TIME} stderr P {text}\n")),
        "[a-z ]{0,30}".prop_map(|text| format!("{text}\n")),
    ];
    prop::collection::vec(line, 0..10).prop_map(|lines| lines.concat().into_bytes())
}
