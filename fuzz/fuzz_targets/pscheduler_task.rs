//! See `muster_sim::fuzz::pscheduler::task`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_sim::fuzz::pscheduler::task(data));
