//! The pScheduler front against the real Control and store, in simulated time and over sockets.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod captures;
mod front;
mod heap;
mod kit;
mod sockets;
