//! The teeth front and link: in simulated time over in-memory streams, and over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod abuse;
mod bench;
mod enrolment;
mod work;
