use super::header::number;
use super::*;

fn limits() -> TarLimits {
    TarLimits { entries: 100, extension_bytes: 1 << 20, path_bytes: 4096, sparse_pieces: 100 }
}

/// A ustar header of a file, with its checksum.
fn header(name: &str, size: u64, edit: impl FnOnce(&mut [u8; 512])) -> Vec<u8> {
    let mut block = [0_u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000001\0");
    block[116..124].copy_from_slice(b"0000002\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000010\0");
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    edit(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.to_vec()
}

fn names(stream: &[u8]) -> Result<Vec<String>, TarError> {
    let mut reader = TarReader::new(stream, limits());
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        names.push(String::from_utf8_lossy(&entry.path).into_owned());
    }
    Ok(names)
}

#[test]
fn numbers_are_octal_or_base_256() {
    assert_eq!(number(b"0000644\0"), Some(0o644));
    assert_eq!(number(b"   644 \0"), Some(0o644));
    assert_eq!(number(b"\0\0\0\0"), Some(0));
    assert_eq!(number(b"        "), Some(0));
    assert_eq!(number(b"0000648\0"), None);
    assert_eq!(number(b"12\x0034\0"), None);
    assert_eq!(number(b"-1\0"), None);
    assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
    assert_eq!(number(&[0xff; 12]), Some(-1));
    assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]), Some(-256));
    assert_eq!(number(&[0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255]), Some(i64::MAX));
    assert_eq!(number(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), None);
    assert_eq!(number(&[0xbf; 12]), None);
}

#[test]
fn an_entry_is_read_with_its_content() {
    let mut stream = header("a", 3, |block| block[345..348].copy_from_slice(b"dir"));
    stream.extend_from_slice(b"abc");
    stream.resize(1024, 0);
    stream.extend_from_slice(&header("b", 0, |_| ()));
    stream.resize(stream.len() + 1024, 0);
    let mut reader = TarReader::new(&stream[..], limits());
    let entry = reader.next_entry().unwrap().unwrap();
    assert_eq!((entry.path.as_slice(), entry.size, entry.uid, entry.gid), (&b"dir/a"[..], 3, 1, 2));
    let mut content = Vec::new();
    reader.read_to_end(&mut content).unwrap();
    assert_eq!(content, b"abc");
    assert_eq!(reader.next_entry().unwrap().unwrap().path, b"b");
    assert_eq!(reader.next_entry().unwrap(), None);
    assert_eq!(reader.next_entry().unwrap(), None);
}

#[test]
fn every_cut_of_a_stream_is_an_error_or_a_shorter_list() {
    let mut stream = header("a", 700, |_| ());
    stream.resize(512 + 1024, b'x');
    stream.extend_from_slice(&header("b", 0, |_| ()));
    let whole = names(&stream).unwrap();
    assert_eq!(whole, ["a", "b"]);
    for cut in 0..stream.len() {
        if let Ok(part) = names(&stream[..cut]) {
            assert!(whole.starts_with(&part), "cut at {cut}: {part:?}");
            assert!([0, 1536].contains(&cut), "cut at {cut} was taken");
        }
    }
}

#[test]
fn no_flipped_byte_makes_it_panic() {
    let mut stream = header("x", 30, |block| block[156] = b'x');
    stream.extend_from_slice(b"30 mtime=1350244992.023960108\n");
    stream.resize(1024, 0);
    stream.extend_from_slice(&header("s", 512, |block| {
        block[156] = b'S';
        block[257..265].copy_from_slice(b"ustar  \0");
        block[386..398].copy_from_slice(b"00000000000\0");
        block[398..410].copy_from_slice(b"00000001000\0");
        block[483..495].copy_from_slice(b"00000002000\0");
    }));
    stream.resize(stream.len() + 512, b'c');
    let entry = TarReader::new(&stream[..], limits()).next_entry().unwrap().unwrap();
    assert_eq!(entry.mtime, Time { seconds: 1_350_244_992, nanos: 23_960_108 });
    assert_eq!(entry.sparse.unwrap().real_size, 0o2000);
    for at in 0..stream.len() {
        for value in [0, 0x20, 0x37, 0x80, 0xff] {
            let mut bad = stream.clone();
            bad[at] = value;
            let _ = names(&bad);
            // The same with a checksum that is right again, so that the fields behind it are reached.
            let start = at / 512 * 512;
            bad[start + 148..start + 156].fill(b' ');
            let sum: u32 = bad[start..start + 512].iter().map(|b| u32::from(*b)).sum();
            bad[start + 148..start + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let _ = names(&bad);
        }
    }
}
