//! See `muster_sim::fuzz::fusion::request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_sim::fuzz::fusion::request(data));
