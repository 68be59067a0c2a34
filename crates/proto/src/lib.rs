//! The four protocols Muster speaks, as wire types, codecs and sessions for both ends.
//!
//! Nothing here does I/O, is async, reads a clock or knows the domain types of `muster-core`. The
//! protocols' modules do not name each other; what they share is [`session`] and [`json`].

pub mod fusion;
pub mod json;
pub mod pscheduler;
pub mod session;
pub mod teeth;
pub mod zabbix;

pub use session::Session;
