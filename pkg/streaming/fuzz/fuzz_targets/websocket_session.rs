//! See `carpel_streaming::fuzz::websocket_session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carpel_streaming::fuzz::websocket_session(data));
