//! The shape of a stream protocol without I/O.
//!
//! A [`Session`] is one end of one connection. It is fed bytes, ends of stream and the passage of
//! time, and is drained of output, events and the time it wants to be woken at. It holds no socket
//! and reads no clock, so the same code runs under a real driver and under the simulator.

use std::time::Instant;

/// One end of one long-lived or single-exchange stream.
///
/// After every `handle_*` call the driver drains [`Session::poll_output`] and
/// [`Session::poll_event`] until both are empty and re-arms its timer from
/// [`Session::poll_timeout`].
pub trait Session {
    /// What the session tells its front or link.
    type Event;

    /// Takes bytes as they arrived, in any split.
    fn handle_input(&mut self, bytes: &[u8], now: Instant);

    /// The peer will send nothing more.
    fn handle_eof(&mut self, now: Instant);

    /// The time asked for by [`Session::poll_timeout`] has come. Harmless when called early.
    fn handle_timeout(&mut self, now: Instant);

    /// The next bytes to write, in order.
    fn poll_output(&mut self) -> Option<Vec<u8>>;

    /// The next event, in order.
    fn poll_event(&mut self) -> Option<Self::Event>;

    /// When to call [`Session::handle_timeout`]; `None` for never.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Whether the driver should flush what [`Session::poll_output`] gave and close the stream.
    fn wants_close(&self) -> bool;
}
