//! TLS: the server's identity, whom a client trusts, and handshakes on accepted connections.
//!
//! Certificates are rustls with the ring provider. Keys that both sides know (PSK) are OpenSSL, as
//! rustls has none, and exist only with the feature `psk`; then OpenSSL serves all TLS of a port
//! where such peers arrive.

pub mod identity;
pub mod names;
pub mod psk;
pub mod trust;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

pub use identity::{Fingerprint, Identity, IdentityError};
pub use psk::{PskError, PskKey, PskTable};
pub use trust::{Trust, TrustError};

use crate::clock::Clock;
use crate::listen::Security;

/// Any two-way byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream whose kind no longer matters.
pub type BoxStream = Pin<Box<dyn Stream>>;

/// Longest time for a handshake, and for the first byte where that decides about one.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeLimits {
    /// The first byte of a connection that may be plain or TLS. A real Zabbix server waits as long.
    pub first_byte: Duration,
    /// The handshake; as long as a request head may take.
    pub handshake: Duration,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(3),
            handshake: Duration::from_secs(10),
        }
    }
}

/// Makes ring the provider of this process, for libraries that look for a default one.
pub fn install_provider() {
    // An error means that it was done before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// How a listener protects its connections.
#[derive(Clone)]
pub enum Inbound {
    /// Plain or TLS, by the first byte: 0x16 begins a handshake.
    FirstByte(Box<Inbound>),
    /// Never TLS.
    Plain,
    /// OpenSSL, for PSK and certificates alike.
    #[cfg(feature = "psk")]
    OpenSsl(psk::Acceptor),
    /// rustls, certificates only.
    Rustls(Arc<ServerConfig>),
}

/// Why an accepted connection came to nothing before its first message.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer sent nothing in time.
    #[error("the peer did not finish the handshake in time")]
    Deadline,
    /// The peer closed, or the stream broke.
    #[error("the peer went away during the handshake")]
    Gone(#[source] io::Error),
    /// The handshake failed.
    #[error("the TLS handshake failed{}", .identity.as_ref().map(|id| format!(" (PSK identity {id:?})")).unwrap_or_default())]
    Failed {
        /// The PSK identity that the peer named, if it came so far.
        identity: Option<String>,
        /// What the library said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Inbound {
    /// rustls with `identity`; with `clients` it asks for a client certificate signed by one of them,
    /// and takes connections without one too.
    ///
    /// # Errors
    /// When the identity's key does not fit its certificate, or a certificate cannot be read.
    pub fn rustls(
        identity: &Identity,
        clients: &[CertificateDer<'static>],
    ) -> Result<Self, TrustError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Rustls)?;
        let builder = if clients.is_empty() {
            builder.with_no_client_auth()
        } else {
            let roots = Arc::new(trust::roots(clients)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .allow_unauthenticated()
                .build()
                .map_err(TrustError::ClientVerifier)?;
            builder.with_client_cert_verifier(verifier)
        };
        let config = builder
            .with_single_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(TrustError::Rustls)?;
        Ok(Self::Rustls(Arc::new(config)))
    }

    /// Performs what this listener asks for on an accepted connection.
    ///
    /// # Errors
    /// See [`HandshakeError`]; the connection is closed then.
    pub async fn accept(
        &self,
        stream: TcpStream,
        limits: HandshakeLimits,
        clock: &Clock,
    ) -> Result<(BoxStream, Security), HandshakeError> {
        match self {
            Self::FirstByte(tls) => {
                let peeked = tokio::select! {
                    peeked = peek(&stream) => peeked.map_err(HandshakeError::Gone)?,
                    () = clock.sleep(limits.first_byte) => return Err(HandshakeError::Deadline),
                };
                const HANDSHAKE: u8 = 0x16;
                if peeked == HANDSHAKE {
                    Box::pin(tls.accept(stream, limits, clock)).await
                } else {
                    Ok((Box::pin(stream), Security::Plain))
                }
            }
            Self::Plain => Ok((Box::pin(stream), Security::Plain)),
            #[cfg(feature = "psk")]
            Self::OpenSsl(acceptor) => tokio::select! {
                accepted = acceptor.accept(stream) => accepted,
                () = clock.sleep(limits.handshake) => Err(HandshakeError::Deadline),
            },
            Self::Rustls(config) => {
                let accepted = tokio::select! {
                    accepted = TlsAcceptor::from(Arc::clone(config)).accept(stream) => accepted,
                    () = clock.sleep(limits.handshake) => return Err(HandshakeError::Deadline),
                };
                let stream = accepted.map_err(|source| HandshakeError::Failed {
                    identity: None,
                    source: Box::new(source),
                })?;
                let certificates = stream.get_ref().1.peer_certificates();
                let client = certificates
                    .and_then(<[_]>::first)
                    .and_then(|certificate| names::client_certificate(certificate));
                Ok((Box::pin(stream), Security::Tls { client }))
            }
        }
    }
}

async fn peek(stream: &TcpStream) -> io::Result<u8> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0]),
    }
}

/// Whether `address` may carry secrets in the clear: it never leaves the machine.
pub fn stays_on_machine(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
