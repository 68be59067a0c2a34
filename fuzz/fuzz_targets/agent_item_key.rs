//! See `muster_sim::fuzz::agent::item_key`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_sim::fuzz::agent::item_key(data));
