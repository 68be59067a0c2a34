//! Serving a `tower::Service` on a listener.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _};

use super::HttpLimits;
use super::guard::Guard;
use crate::listen::{Accepted, Listener, NetContext, PeerInfo, serve};
use crate::tls::{BoxStream, HandshakeLimits, Inbound};

/// What [`serve_http`] needs beside the listener and the service.
#[derive(Clone)]
pub struct HttpServer {
    /// Shared by all listeners.
    pub context: NetContext,
    /// [`Inbound::Plain`] or TLS.
    pub inbound: Inbound,
    /// Bounds of each connection.
    pub limits: HttpLimits,
    /// Longest time between cancellation and the end.
    pub drain: Duration,
}

impl HttpServer {
    /// A server with the default bounds.
    pub fn new(context: NetContext, inbound: Inbound) -> Self {
        Self {
            context,
            inbound,
            limits: HttpLimits::default(),
            drain: Duration::from_secs(5),
        }
    }
}

/// Serves `service` on `listener` until `cancel`; then requests in hand are answered and connections
/// closed.
///
/// Each request carries its [`PeerInfo`] and the [`MemoryBudget`](crate::MemoryBudget) in its
/// extensions.
pub async fn serve_http<S, B>(
    listener: Listener,
    server: HttpServer,
    service: S,
    cancel: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let context = server.context.clone();
    let drain = server.drain;
    let server = Arc::new(server);
    let token = cancel.clone();
    serve(listener, context, cancel, drain, move |accepted| {
        connection(
            accepted,
            Arc::clone(&server),
            service.clone(),
            token.clone(),
        )
    })
    .await;
}

async fn connection<S, B>(
    accepted: Accepted,
    server: Arc<HttpServer>,
    service: S,
    cancel: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Accepted {
        stream,
        mut peer,
        permit: _permit,
    } = accepted;
    let HttpServer {
        context,
        inbound,
        limits,
        ..
    } = &*server;
    let accepted = inbound
        .accept(stream, HandshakeLimits::default(), &context.clock)
        .await;
    let stream = match accepted {
        Ok((stream, security)) => {
            peer.security = security;
            stream
        }
        Err(error) => {
            let detail = chain(&error);
            context
                .refusals
                .note(peer.listener, "tls", peer.ip(), detail, &context.clock);
            return;
        }
    };
    let guard = Guard::new(stream, *limits, context.budget.share());
    let guard = converse(guard, &peer, context, limits, service, cancel).await;
    if let Some(guard) = guard {
        say_goodbye(guard, &peer, context, limits).await;
    }
}

/// Runs hyper on the connection, and returns the guard unless the stream broke.
async fn converse<S, B>(
    guard: Guard<BoxStream>,
    peer: &PeerInfo,
    context: &NetContext,
    limits: &HttpLimits,
    service: S,
    cancel: CancellationToken,
) -> Option<Guard<BoxStream>>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let watch = guard.watch();
    let served = AtomicU32::new(0);
    let answer = service_fn(|mut request: Request<Incoming>| {
        let extensions = request.extensions_mut();
        extensions.insert(peer.clone());
        extensions.insert(context.budget.clone());
        extensions.insert(watch.clone());
        let last = served.fetch_add(1, Ordering::Relaxed) + 1 >= limits.requests;
        let response = service.clone().oneshot(request);
        Box::pin(async move {
            let mut response = response.await?;
            if last {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        })
    });
    let mut connection = http1::Builder::new()
        .half_close(true)
        .header_read_timeout(None)
        .max_headers(limits.headers)
        .max_buf_size(limits.head_bytes * 2)
        .serve_connection(guard, answer);
    let outcome = tokio::select! {
        biased;
        outcome = poll_fn(|cx| connection.poll_without_shutdown(cx)) => outcome,
        () = cancel.cancelled() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };
    if let Some(reject) = watch.reject() {
        let (reason, detail) = (reject.reason(), "within a request body");
        context
            .refusals
            .note(peer.listener, reason, peer.ip(), detail, &context.clock);
    }
    let guard = connection.into_parts().io;
    match outcome {
        Ok(()) => Some(guard),
        // The reply is on its way, but the body was not read to its end, or was broken off.
        Err(error) if error.is_incomplete_message() || error.is_parse() => Some(guard),
        Err(error) => {
            let error = chain(&error);
            tracing::debug!(wire = peer.listener, peer.address = %peer.remote, error, "broke off");
            None
        }
    }
}

/// Writes the refusal that is owed, ends our side, and takes what the client still sends for a moment:
/// closing with unread input would reset the connection, and the reset may overtake the reply.
async fn say_goodbye(
    guard: Guard<BoxStream>,
    peer: &PeerInfo,
    context: &NetContext,
    limits: &HttpLimits,
) {
    let owed = guard.owed();
    if let Some(reject) = owed {
        let (reason, detail) = (reject.reason(), "before the request was complete");
        context
            .refusals
            .note(peer.listener, reason, peer.ip(), detail, &context.clock);
    }
    let unread = guard.has_unread();
    let mut stream = guard.into_inner();
    let goodbye = async {
        if let Some(reject) = owed {
            stream.write_all(&reject.response()).await?;
        }
        stream.shutdown().await?;
        let mut discarded = vec![0; 16 * 1024];
        while unread && stream.read(&mut discarded).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    tokio::select! {
        // Nothing is lost when it fails: the client is gone.
        _ = goodbye => {}
        () = context.clock.sleep(limits.linger) => {}
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
