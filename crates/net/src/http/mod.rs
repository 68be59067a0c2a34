//! HTTP/1 over an accepted connection, for any `tower::Service`.
//!
//! hyper speaks the protocol; in front of it a [`guard`] reads each head whole, within limits, and
//! refuses what two readers could understand differently (threat model, sections 4 and 5). A front
//! finds [`PeerInfo`](crate::PeerInfo) in the extensions of a request and reads its body with
//! [`read_body`].

mod body;
mod call;
mod client;
mod guard;
mod head;
mod serve;

pub use body::{BodyError, read_body};
pub use call::{CallError, call};
pub use client::{ClientError, ClientLimits, HttpClient};
pub use head::Reject;
pub use serve::{HttpServer, serve_http};

use std::time::Duration;

/// Bounds of one HTTP connection, with the defaults of the threat model, section 4.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Request line and headers together, in bytes: pScheduler passes specs in the target.
    pub head_bytes: usize,
    /// Header lines.
    pub headers: usize,
    /// The request target, in bytes: what the `http` crate can hold.
    pub target_bytes: usize,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Between two pieces of a body.
    pub body_idle: Duration,
    /// The whole body.
    pub body: Duration,
    /// Between two requests.
    pub keep_alive: Duration,
    /// The longest time without the client taking a byte of a reply.
    pub write_stall: Duration,
    /// Requests of one connection. Pipelined ones are read one after the other, so no more than one
    /// read buffer of them is ever held.
    pub requests: u32,
    /// How long unread input is taken and dropped after a reply that ends the connection.
    pub linger: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            head_bytes: 128 * 1024,
            headers: 100,
            target_bytes: 65_534,
            head: Duration::from_secs(10),
            body_idle: Duration::from_secs(10),
            body: Duration::from_secs(60),
            keep_alive: Duration::from_secs(30),
            write_stall: Duration::from_secs(30),
            requests: 1000,
            linger: Duration::from_secs(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::HttpLimits;
    use crate::drive::DriveLimits;
    use crate::limit::{GateLimits, MemoryBudget};

    /// The defaults are promises to whoever runs a server (threat model, section 4).
    #[test]
    fn defaults_are_those_of_the_threat_model() {
        let seconds = Duration::from_secs;
        let http = HttpLimits::default();
        assert_eq!((http.head_bytes, http.headers), (128 << 10, 100));
        assert_eq!((http.target_bytes, http.requests), (65_534, 1000));
        assert_eq!((http.head, http.body_idle), (seconds(10), seconds(10)));
        assert_eq!((http.body, http.keep_alive), (seconds(60), seconds(30)));
        let gate = GateLimits::default();
        assert_eq!(
            (gate.connections, gate.connections_per_address),
            (20_000, 512)
        );
        assert_eq!((gate.rate_per_second, gate.burst), (200, 1000));
        assert_eq!(MemoryBudget::DEFAULT_BYTES, 256 << 20);
        let drive = DriveLimits::default();
        assert_eq!(
            (drive.output_max, drive.write_stall),
            (1 << 20, seconds(30))
        );
    }
}
