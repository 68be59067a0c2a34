//! See `muster_sim::fuzz::store::id_set`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_sim::fuzz::store::id_set(data));
