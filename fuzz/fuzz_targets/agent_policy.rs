//! See `muster_sim::fuzz::agent::policy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_sim::fuzz::agent::policy(data));
