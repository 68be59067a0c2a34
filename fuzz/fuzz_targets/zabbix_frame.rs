//! See `muster_sim::fuzz::zabbix::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| muster_sim::fuzz::zabbix::frame(data));
