//! The fuzz targets on the seeds, on seeds that were changed, and on noise.

use proptest::{collection::vec, prelude::*};

use crate::spdy::testing;

/// What a client of port-forward sends: two streams, data, a ping, resets, windows, a farewell.
fn spdy_seed() -> Vec<u8> {
    let mut headers = testing::Headers::new();
    let mut seed = Vec::new();
    for (stream, kind) in [(1, "error"), (3, "data")] {
        let pairs = [("streamtype", kind), ("port", "80"), ("requestid", "0")];
        seed.extend(testing::open(&mut headers, stream, &pairs));
    }
    seed.extend(testing::data(3, b"hello", false));
    seed.extend([0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
    seed.extend(testing::data(3, b"", true));
    seed.extend(testing::reset(1));
    // The windows of streams, one of them, a farewell, and settings that claim 2^32-1 entries.
    seed.extend([0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 3]);
    seed.extend([0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 9]);
    seed.extend([0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 0]);
    seed.extend([0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]);
    seed
}

/// A client's message of the given kind (RFC 6455, section 5.2), masked by zero.
fn message(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | kind];
    match u8::try_from(content.len()) {
        Ok(length @ 0..126) => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(content);
    frame
}

fn websocket_seed(protocol: u8) -> Vec<u8> {
    let mut seed = vec![protocol];
    let pieces: [&[u8]; 5] =
        [b"\0input", b"\x04{\"Width\":80,\"Height\":24}", b"\xff\0", b"0aGVsbG8=", b"\x07what"];
    for piece in pieces {
        seed.extend(message(if protocol == 3 { 1 } else { 2 }, piece));
    }
    seed.extend(message(9, b"ping"));
    seed.extend(message(8, &[3, 0xe8]));
    seed
}

fn tunnel_seed() -> Vec<u8> {
    spdy_seed().chunks(20).flat_map(|piece| message(2, piece)).collect()
}

const TARGETS: [fn(&[u8]); 5] = [
    super::spdy_frames,
    super::spdy_headers,
    super::spdy_session,
    super::websocket_session,
    super::tunnel_session,
];

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![spdy_seed(), tunnel_seed()];
    seeds.extend((0..4).map(websocket_seed));
    seeds
}

/// Leaves the seeds as a fuzzer's corpus, for whoever names a folder.
#[test]
fn seeds_are_harmless() {
    for (number, seed) in seeds().into_iter().enumerate() {
        for target in TARGETS {
            target(&seed);
            // Cut off anywhere.
            (0..seed.len()).step_by(7).for_each(|length| target(&seed[..length]));
        }
        if let Some(folder) = std::env::var_os("CARPEL_FUZZ_SEEDS") {
            std::fs::write(std::path::Path::new(&folder).join(format!("seed-{number}")), seed).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn noise_is_harmless(noise in vec(any::<u8>(), 0..600), target in 0..TARGETS.len()) {
        TARGETS[target](&noise);
    }

    #[test]
    fn changed_seeds_are_harmless(
        seed in 0..6usize,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        twice in any::<prop::sample::Index>(),
        target in 0..TARGETS.len(),
    ) {
        let mut bytes = seeds().swap_remove(seed);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let again = bytes[twice.index(bytes.len())..].to_vec();
        bytes.extend(again);
        TARGETS[target](&bytes);
    }
}
