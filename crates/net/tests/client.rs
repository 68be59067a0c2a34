//! The HTTP clients against a server of our own, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use muster_net::http::{ClientError, ClientLimits, HttpClient, HttpServer, read_body, serve_http};
use muster_net::tls::{Identity, Inbound, Trust};
use muster_net::{Clock, GateLimits, Listener, NetContext};
use tokio_util::sync::CancellationToken;

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = read_body(&parts, body, 1 << 20).await.unwrap();
    let redirect = |status: u16, to: &str| {
        Ok(Response::builder()
            .status(status)
            .header("location", to)
            .body(Full::default())
            .unwrap())
    };
    let secret = parts.headers.contains_key("authorization");
    match parts.uri.path() {
        "/big" => return Ok(Response::new(Full::from("x".repeat(2000)))),
        "/hang" => std::future::pending().await,
        "/see-other" => return redirect(303, "/end"),
        "/missing" => {
            return Ok(Response::builder()
                .status(404)
                .body(Full::from("no such thing"))
                .unwrap());
        }
        _ => {}
    }
    let text = format!(
        "{} {} {} {secret}",
        parts.method,
        parts.uri.path(),
        body.len()
    );
    Ok(Response::builder()
        .header("x-kept", "yes")
        .body(Full::from(text))
        .unwrap())
}

async fn server(inbound: Inbound) -> SocketAddr {
    let loopback = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind("http", "--listen-http", loopback, GateLimits::default());
    let listener = listener.await.unwrap();
    let address = listener.local_addr();
    let server = HttpServer::new(NetContext::new(Clock::system()), inbound);
    let service = tower::service_fn(answer);
    tokio::spawn(serve_http(
        listener,
        server,
        service,
        CancellationToken::new(),
    ));
    address
}

fn request(method: Method, url: String, body: &'static str) -> Request<Bytes> {
    let builder = Request::builder()
        .method(method)
        .uri(url)
        .header("authorization", "Bearer x");
    builder.body(Bytes::from(body)).unwrap()
}

fn get(address: SocketAddr, path: &str) -> Request<Bytes> {
    request(Method::GET, format!("http://{address}{path}"), "")
}

fn text(response: &Response<Bytes>) -> &str {
    std::str::from_utf8(response.body()).unwrap()
}

fn client(limits: ClientLimits) -> HttpClient {
    HttpClient::new(&Trust::System, limits).unwrap()
}

#[tokio::test]
async fn whole_requests_become_whole_responses() {
    let address = server(Inbound::Plain).await;
    let client = client(ClientLimits::default());
    let sent = request(Method::POST, format!("http://{address}/x"), "abc");
    let response = client.send(sent).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), text(&response)),
        (200, "POST /x 3 true")
    );
    assert_eq!(response.headers()["x-kept"], "yes");
    let response = client.send(get(address, "/missing")).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), text(&response)),
        (404, "no such thing")
    );
    let response = client.send(get(address, "/see-other")).await.unwrap();
    assert_eq!(
        response.status().as_u16(),
        303,
        "redirects are the caller's business"
    );
}

#[tokio::test]
async fn responses_and_waits_have_bounds() {
    let address = server(Inbound::Plain).await;
    let limits = ClientLimits {
        body_bytes: 1999,
        ..ClientLimits::default()
    };
    let outcome = client(limits).send(get(address, "/big")).await;
    assert!(
        matches!(outcome, Err(ClientError::TooLarge { limit: 1999 })),
        "{outcome:?}"
    );
    let limits = ClientLimits {
        whole: Duration::from_millis(100),
        ..ClientLimits::default()
    };
    let outcome = client(limits).send(get(address, "/hang")).await;
    assert!(matches!(outcome, Err(ClientError::Deadline)), "{outcome:?}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let outcome = client(ClientLimits::default()).send(get(nobody, "/")).await;
    assert!(
        matches!(outcome, Err(ClientError::Connect(_))),
        "{outcome:?}"
    );
    let relative = Request::builder().uri("/x").body(Bytes::new()).unwrap();
    let outcome = client(ClientLimits::default()).send(relative).await;
    assert!(
        matches!(outcome, Err(ClientError::Request(_))),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_pinned_server_is_the_one_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::load_or_generate(folder.path(), &["localhost".to_owned()]).unwrap();
    let address = server(Inbound::rustls(&identity, &[]).unwrap()).await;
    let url = || request(Method::GET, format!("https://{address}/"), "");
    let limits = ClientLimits::default();
    let pinned = HttpClient::new(&Trust::Pinned(identity.fingerprint), limits).unwrap();
    assert_eq!(text(&pinned.send(url()).await.unwrap()), "GET / 0 true");
    let outcome = client(limits).send(url()).await;
    assert!(
        matches!(outcome, Err(ClientError::Connect(_))),
        "{outcome:?}"
    );
}
