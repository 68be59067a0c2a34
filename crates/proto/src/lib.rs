//! The four protocols Muster speaks, as wire types, codecs and sessions for both ends.
//!
//! Nothing here does I/O, is async, reads a clock or knows the domain types of `muster-core`. The
//! modules do not name each other; what they share is [`session`].

pub mod fusion;
pub mod pscheduler;
pub mod session;
pub mod teeth;
pub mod zabbix;

pub use session::Session;
