//! See `carpel_streaming::fuzz::tunnel_session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carpel_streaming::fuzz::tunnel_session(data));
