//! A connection of the HTTP listeners, bytes in and bytes out.

use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use muster_net::http::{HttpServer, serve_http};
use muster_net::tls::Inbound;
use muster_net::{Clock, GateLimits, Listener, NetContext};
use tokio_util::sync::CancellationToken;

/// A request that must be answered whatever came before it.
const GOOD: &[u8] = b"GET /good HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
/// Longer than any deadline of a connection that was half closed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that reads every body and answers 200; it lives as long as the process.
struct Server {
    address: SocketAddr,
    context: NetContext,
}

/// Everything one client sends before it half-closes.
///
/// # Panics
/// When the answer is none of HTTP, a connection's task panicked, or a good request is not answered.
pub fn connection(data: &[u8]) {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(start);
    let answer = exchange(server.address, data);
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1."),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    assert!(exchange(server.address, GOOD).starts_with(b"HTTP/1.1 200 "));
    let counts = server.context.refusals.counts();
    assert!(counts.iter().all(|count| count.1 != "panic"), "{counts:?}");
}

#[expect(
    clippy::expect_used,
    reason = "a fuzz target stops where it cannot work"
)]
fn exchange(address: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("connecting");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    // What is refused early is closed while we still send; what came of it is looked at all the same.
    let _ = stream.write_all(data);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return answer,
            Ok(read) => answer.extend(piece.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return answer,
            Err(error) => panic!("no end of the answer: {error}"),
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "a fuzz target stops where it cannot work"
)]
fn start() -> Server {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let listener = Listener::bind("http", "--listen-http", any, GateLimits::default())
                .await
                .expect("a free port");
            let context = NetContext::new(Clock::system());
            let server = Server {
                address: listener.local_addr(),
                context: context.clone(),
            };
            send.send(server).expect("somebody waits");
            let plain = HttpServer::new(context, Inbound::Plain);
            let service = tower::service_fn(answer);
            serve_http(listener, plain, service, CancellationToken::new()).await;
        });
    });
    receive.recv().expect("a server")
}

async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<Body>, Infallible> {
    let read = request.into_body().collect().await;
    let text = read.map_or(0, |body| body.to_bytes().len()).to_string();
    Ok(Response::new(Body::from(text)))
}
