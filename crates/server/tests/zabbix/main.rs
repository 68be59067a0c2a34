//! The Zabbix front over real sockets: what proxies, agents and senders are told, and what bad
//! input costs.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bad_input;
mod exchanges;
mod harness;
mod large;
