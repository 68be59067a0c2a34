//! HTTP requests to servers that we were told to trust, whole requests to whole responses.
//!
//! Environment variables (proxies) are not read, redirects are the caller's business, and nothing is
//! decoded: what a wire compresses, its codec inflates under its own limits. Not for addresses that a
//! peer named: those are [`Egress`](crate::Egress)'s to judge.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::{Request, Response};

use crate::tls::{Trust, TrustError};

/// Bounds of a request.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// Until the connection stands, TLS included.
    pub connect: Duration,
    /// The whole exchange.
    pub whole: Duration,
    /// The response's body.
    pub body_bytes: usize,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            whole: Duration::from_secs(60),
            body_bytes: 16 << 20,
        }
    }
}

/// Keeps connections open between requests to one server.
#[derive(Clone, Debug)]
pub struct HttpClient {
    inner: reqwest::Client,
    limits: ClientLimits,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client could not be made.
    #[error("the HTTP client could not be set up")]
    Build(#[source] reqwest::Error),
    /// Nobody took the connection, or TLS failed.
    #[error("connecting failed")]
    Connect(#[source] reqwest::Error),
    /// It took too long.
    #[error("no answer in time")]
    Deadline,
    /// The request makes no sense to the library: no absolute URL, say.
    #[error("the request cannot be sent")]
    Request(#[source] reqwest::Error),
    /// The connection broke, or the response is no HTTP.
    #[error("the exchange broke off")]
    Exchange(#[source] reqwest::Error),
    /// The response is longer than we are willing to read.
    #[error("the response is longer than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The trust that was asked for cannot be had.
    #[error("TLS could not be set up")]
    Trust(#[from] TrustError),
}

impl HttpClient {
    /// A client that takes a server for whom `trust` says; plain `http` URLs prove nothing, and whether
    /// they may be used is the caller's decision.
    ///
    /// # Errors
    /// When the trust cannot be set up.
    pub fn new(trust: &Trust, limits: ClientLimits) -> Result<Self, ClientError> {
        let inner = reqwest::Client::builder()
            .tls_backend_preconfigured(trust.client_config()?)
            .no_proxy()
            .no_gzip()
            .no_deflate()
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .connect_timeout(limits.connect)
            .timeout(limits.whole)
            .pool_idle_timeout(Duration::from_secs(20))
            .build()
            .map_err(ClientError::Build)?;
        Ok(Self { inner, limits })
    }

    /// Sends `request`, whose URI is absolute, and reads the response whole.
    ///
    /// # Errors
    /// See [`ClientError`]; a status of 400 or more is a response like any other.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ClientError> {
        exchange(&self.inner, request, self.limits).await
    }
}

async fn exchange(
    client: &reqwest::Client,
    request: Request<Bytes>,
    limits: ClientLimits,
) -> Result<Response<Bytes>, ClientError> {
    let request = reqwest::Request::try_from(request).map_err(ClientError::Request)?;
    let response = client.execute(request).await.map_err(sorted)?;
    let limit = limits.body_bytes;
    let mut head = Response::builder()
        .status(response.status())
        .version(response.version());
    if let Some(headers) = head.headers_mut() {
        headers.clone_from(response.headers());
    }
    let declared = response.content_length().unwrap_or(0);
    if usize::try_from(declared).map_or(true, |declared| declared > limit) {
        return Err(ClientError::TooLarge { limit });
    }
    let mut whole = BytesMut::new();
    let mut pieces = response.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(sorted)?;
        if piece.len() > limit.saturating_sub(whole.len()) {
            return Err(ClientError::TooLarge { limit });
        }
        whole.extend_from_slice(&piece);
    }
    let mut response = Response::new(whole.freeze());
    if let Ok(head) = head.body(()) {
        let (parts, ()) = head.into_parts();
        *response.status_mut() = parts.status;
        *response.headers_mut() = parts.headers;
        *response.version_mut() = parts.version;
    }
    Ok(response)
}

fn sorted(error: reqwest::Error) -> ClientError {
    if error.is_timeout() {
        ClientError::Deadline
    } else if error.is_connect() {
        ClientError::Connect(error)
    } else if error.is_builder() || error.is_request() && error.url().is_none() {
        ClientError::Request(error)
    } else {
        ClientError::Exchange(error)
    }
}
