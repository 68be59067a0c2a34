//! See `muster_sim::fuzz::http::connection`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_sim::fuzz::http::connection(data));
