//! See `carpel_streaming::fuzz::spdy_frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carpel_streaming::fuzz::spdy_frames(data));
