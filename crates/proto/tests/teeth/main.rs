//! teeth: conformance table, captures of the real programs, both ends in virtual time, properties.

#![expect(
    clippy::disallowed_methods,
    reason = "tests need one instant to count from"
)]
#![expect(
    clippy::unwrap_used,
    reason = "a failed test is what an unwrap is here"
)]

mod captures;
mod conformance;
mod kit;
mod pair;
mod properties;
mod timers;
