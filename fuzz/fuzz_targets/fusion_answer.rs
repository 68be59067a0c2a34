//! See `muster_sim::fuzz::fusion::answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_sim::fuzz::fusion::answer(data));
