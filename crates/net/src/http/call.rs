//! One request over a connection that is ours, and its answer read whole.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::tls::BoxStream;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The answer's body broke off or is longer than allowed.
    #[error("the body of the answer was not received")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The peer does not speak HTTP or went away.
    #[error("the peer gave no answer")]
    Exchange(#[source] hyper::Error),
}

/// Sends `request` on a fresh connection and reads the answer, at most `limit` bytes of body. The
/// request needs a `Host`. The connection ends with the call; the caller bounds its time.
///
/// # Errors
/// See [`CallError`].
pub async fn call(
    stream: BoxStream,
    request: Request<Bytes>,
    limit: usize,
) -> Result<Response<Bytes>, CallError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(128 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(CallError::Exchange)?;
    let exchange = async move {
        let answer = sender
            .send_request(request.map(Full::new))
            .await
            .map_err(CallError::Exchange)?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, limit)
            .collect()
            .await
            .map_err(CallError::Body)?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    let mut exchange = std::pin::pin!(exchange);
    // The connection does the reading and writing; when it ends the exchange has what it will get.
    tokio::select! {
        answer = &mut exchange => return answer,
        ended = connection => ended.map_err(CallError::Exchange)?,
    }
    exchange.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn answered(bytes: &'static [u8], limit: usize) -> Result<Response<Bytes>, CallError> {
        let (near, mut far) = tokio::io::duplex(4096);
        let peer = async move {
            let mut head = vec![0; 1024];
            let read = far.read(&mut head).await.unwrap_or_default();
            assert!(head[..read].starts_with(b"GET /x HTTP/1.1\r\n"));
            let _ = far.write_all(bytes).await;
        };
        let request = Request::builder()
            .uri("/x")
            .header("Host", "a")
            .body(Bytes::new())
            .expect("request");
        let (answer, ()) = tokio::join!(call(Box::pin(near), request, limit), peer);
        answer
    }

    #[tokio::test]
    async fn answers_are_read_whole_within_the_limit() {
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let answer = answered(ok, 5).await.expect("an answer");
        assert_eq!(
            (answer.status().as_u16(), answer.body().as_ref()),
            (200, &b"hello"[..])
        );
        let until_close = b"HTTP/1.0 404 No\r\n\r\nmissing";
        assert_eq!(
            answered(until_close, 64).await.expect("an answer").body(),
            "missing"
        );
        assert!(matches!(answered(ok, 4).await, Err(CallError::Body(_))));
        let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello";
        assert!(answered(cut, 64).await.is_err());
        assert!(matches!(
            answered(b"SSH-2.0-x\r\n", 64).await,
            Err(CallError::Exchange(_))
        ));
        assert!(matches!(
            answered(b"", 64).await,
            Err(CallError::Exchange(_))
        ));
    }
}
