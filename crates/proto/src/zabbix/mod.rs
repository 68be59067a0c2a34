//! The Zabbix server-proxy data exchange and its neighbours on ports 10050 and 10051.
//!
//! One TCP connection carries one exchange of `ZBXD` frames with JSON inside. The peers are real
//! Zabbix proxies, active agents and senders (this end is the server), or a real Zabbix server
//! (this end is a proxy, an agent or a sender). The dialect is that of 5.4 and 6.0;
//! of the 7.0 dialect the uploads are understood and the configuration is refused in the words of
//! a real server. Role is independent of who dialled.
//!
//! | file | owns |
//! |---|---|
//! | [`frame`] | header, incremental decoder, inflating under a cap |
//! | [`json`] | the one strict pass over every payload, lenient scalars |
//! | [`pieces`] | a long payload as a series of short ones |
//! | [`wire`] | [`Limits`], requests, replies, names and versions |
//! | [`data`] | rows of uploads |
//! | [`task`] | tasks and their results |
//! | [`config`] | proxy configuration tables |
//! | [`check`] | passive checks of an agent on port 10050 |
//! | [`accepted`] | one accepted connection, whichever end commands |
//! | [`controller`] | the commanding end: rules on versions of proxies |
//! | [`agent`] | the working end: one dialled exchange, an active proxy's timers, what a passive one is asked |
//!
//! Quirks of real peers are honoured at one line each and carry the section of the Zabbix contract
//! page that describes them. Not here: identity and what a peer may do (the front decides), TLS.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod accepted;
pub mod agent;
pub mod check;
pub mod config;
pub mod controller;
pub mod data;
pub mod frame;
pub mod json;
pub mod pieces;
pub mod task;
pub mod wire;

pub use wire::{Limits, PeerLimits};
