//! Options of every TCP socket, accepted or dialled.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Silence after which the kernel asks whether the other end is still there: what finds a dead peer on
/// a line that may be silent for long (teeth contract, section 5).
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// How often it asks again.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// Sets them. A socket that refuses one works without.
pub(crate) fn tune(stream: &TcpStream) {
    // Small frames are the rule on every wire; waiting to fill a segment only delays them.
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tuned_socket_does_not_wait_and_is_watched() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        tune(&stream);
        assert!(stream.nodelay().unwrap());
        assert!(SockRef::from(&stream).keepalive().unwrap());
    }
}
