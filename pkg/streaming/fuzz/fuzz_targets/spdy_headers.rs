//! See `carpel_streaming::fuzz::spdy_headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carpel_streaming::fuzz::spdy_headers(data));
