//! See `muster_sim::fuzz::store::block`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_sim::fuzz::store::block(data));
