//! See `muster_sim::fuzz::words::all`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_sim::fuzz::words::all(data));
