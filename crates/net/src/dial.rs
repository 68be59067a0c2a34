//! Outgoing connections: a name, a deadline, and the protection that was asked for.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::clock::Clock;
use crate::tls::{BoxStream, PskError, PskKey, Trust, TrustError};

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A text that is no host and port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no HOST:PORT")]
pub struct BadEndpoint(String);

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadEndpoint(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => address,
            None if !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']) => host,
            Some(_) | None => return Err(bad()),
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

/// How an outgoing connection is protected.
#[derive(Clone, Debug)]
pub enum Protection {
    /// Not at all.
    Plain,
    /// TLS with a key both sides know; needs the feature `psk`.
    Psk {
        /// Names the key to the server.
        identity: String,
        /// The key.
        key: PskKey,
    },
    /// TLS, with the server's certificate checked.
    Tls(Trust),
}

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody took the connection.
    #[error("connecting to {endpoint} failed")]
    Connect {
        /// Whom we wanted.
        endpoint: Endpoint,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("{endpoint} did not answer within {} s", timeout.as_secs_f64())]
    Deadline {
        /// Whom we wanted.
        endpoint: Endpoint,
        /// How long we waited.
        timeout: Duration,
    },
    /// The peer did not prove who it is, or has no protection in common with us.
    #[error("the TLS handshake with {endpoint} failed")]
    Handshake {
        /// Whom we wanted.
        endpoint: Endpoint,
        /// What the library said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The build lacks what was asked for.
    #[error(transparent)]
    Psk(#[from] PskError),
    /// The name is unknown.
    #[error("the name {host} was not found")]
    Resolve {
        /// The name.
        host: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The protection that was asked for cannot be had.
    #[error("TLS could not be set up")]
    Trust(#[from] TrustError),
}

/// Connects to `endpoint` within `timeout`, handshake included.
///
/// # Errors
/// See [`DialError`].
pub async fn dial(
    endpoint: &Endpoint,
    protection: &Protection,
    timeout: Duration,
    clock: &Clock,
) -> Result<BoxStream, DialError> {
    tokio::select! {
        outcome = connect(endpoint, protection) => outcome,
        () = clock.sleep(timeout) => Err(DialError::Deadline { endpoint: endpoint.clone(), timeout }),
    }
}

async fn connect(endpoint: &Endpoint, protection: &Protection) -> Result<BoxStream, DialError> {
    let stream = connect_tcp(endpoint).await?;
    let handshake = |source| DialError::Handshake {
        endpoint: endpoint.clone(),
        source,
    };
    match protection {
        Protection::Plain => Ok(Box::pin(stream)),
        #[cfg(feature = "psk")]
        Protection::Psk { identity, key } => crate::tls::psk::connect(stream, identity, key)
            .await
            .map_err(handshake),
        #[cfg(not(feature = "psk"))]
        Protection::Psk { .. } => Err(PskError::NotBuilt.into()),
        Protection::Tls(trust) => {
            let name = ServerName::try_from(endpoint.host.clone())
                .map_err(|source| handshake(Box::new(source)))?;
            let connector = TlsConnector::from(Arc::new(trust.client_config()?));
            let stream = connector
                .connect(name, stream)
                .await
                .map_err(|source| handshake(Box::new(source)))?;
            Ok(Box::pin(stream))
        }
    }
}

/// Tries the addresses of the name in their order.
async fn connect_tcp(endpoint: &Endpoint) -> Result<TcpStream, DialError> {
    let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await;
    let addresses = found.map_err(|source| DialError::Resolve {
        host: endpoint.host.clone(),
        source,
    })?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                crate::socket::tune(&stream);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(DialError::Connect {
        endpoint: endpoint.clone(),
        source: last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_back() {
        for text in [
            "host:80",
            "127.0.0.1:0",
            "[::1]:65535",
            "a.b-c.example:10051",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "host",
            ":80",
            "::1:80",
            "[host]:80",
            "h:99999",
            "h:",
            "a/b:1",
            "a b:1",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_said_so() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::from(socket.local_addr().unwrap());
        drop(socket);
        let clock = Clock::system();
        let timeout = Duration::from_secs(5);
        let outcome = dial(&endpoint, &Protection::Plain, timeout, &clock).await;
        assert!(
            matches!(outcome, Err(DialError::Connect { .. })),
            "{:?}",
            outcome.err()
        );
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up_at_the_deadline() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::from(socket.local_addr().unwrap());
        let clock = Clock::system();
        let protection = Protection::Tls(Trust::System);
        let outcome = dial(&endpoint, &protection, Duration::from_millis(50), &clock).await;
        assert!(
            matches!(outcome, Err(DialError::Deadline { .. })),
            "{:?}",
            outcome.err()
        );
    }
}
