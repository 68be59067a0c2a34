//! See `muster_sim::fuzz::teeth::line`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_sim::fuzz::teeth::line(data));
