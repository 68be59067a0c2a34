//! The HTTP rows of the threat model, sections 4 and 5, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use muster_net::http::{BodyError, HttpLimits, HttpServer, read_body, serve_http};
use muster_net::tls::{Identity, Inbound, Trust};
use muster_net::{
    Clock, Endpoint, GateLimits, Listener, MemoryBudget, NetContext, PeerInfo, Protection,
    Security, dial,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const BODY_MAX: usize = 1000;

/// The answer at `/held`: asked for, and let go.
#[derive(Default)]
struct Held {
    asked: Notify,
    let_go: Notify,
}

/// Echoes method, target and body; `/held` waits until it is let go, `/kept` the same with the body in
/// hand, `/panic` has a bug, `/unread` never looks at its body.
async fn echo(
    request: Request<Incoming>,
    held: &Held,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let peer: &PeerInfo = parts.extensions.get().unwrap();
    assert!(peer.is_loopback());
    match parts.uri.path() {
        "/panic" => panic!("a bug in a front"),
        "/held" => {
            held.asked.notify_one();
            held.let_go.notified().await;
        }
        "/unread" => return Ok(Response::new(Full::from("unread"))),
        _ => {}
    }
    let (status, text) = match read_body(&parts, body, BODY_MAX).await {
        Ok(body) => {
            if parts.uri.path() == "/kept" {
                held.asked.notify_one();
                held.let_go.notified().await;
            }
            let tls = if peer.security == Security::Plain {
                "plain"
            } else {
                "tls"
            };
            let target = parts
                .uri
                .path_and_query()
                .map_or("*", |target| target.as_str());
            let body = String::from_utf8_lossy(&body).into_owned();
            (
                200,
                format!("{} {target} {} {tls} {body}", parts.method, peer.listener),
            )
        }
        Err(error) => (error.status(), error.to_string()),
    };
    Ok(Response::builder()
        .status(status)
        .body(Full::from(text))
        .unwrap())
}

struct Server {
    address: SocketAddr,
    context: NetContext,
    held: Arc<Held>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(limits: HttpLimits, inbound: Inbound) -> Self {
        Self::start_with(limits, inbound, NetContext::new(Clock::system()), 100).await
    }

    async fn start_with(
        limits: HttpLimits,
        inbound: Inbound,
        context: NetContext,
        connections: usize,
    ) -> Self {
        let gate = GateLimits {
            connections,
            ..GateLimits::default()
        };
        let loopback = "127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind("http", "--listen-http", loopback, gate)
            .await
            .unwrap();
        let address = listener.local_addr();
        let cancel = CancellationToken::new();
        let server = HttpServer {
            limits,
            ..HttpServer::new(context.clone(), inbound)
        };
        let held = Arc::new(Held::default());
        let shared = Arc::clone(&held);
        let service = tower::service_fn(move |request| {
            let held = Arc::clone(&shared);
            async move { echo(request, &held).await }
        });
        let task = tokio::spawn(serve_http(listener, server, service, cancel.clone()));
        Self {
            address,
            context,
            held,
            cancel,
            task,
        }
    }

    async fn plain() -> Self {
        Self::start(HttpLimits::default(), Inbound::Plain).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `bytes` and returns all that comes until the server closes.
    async fn talk(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        heard(stream).await
    }

    /// As long as `times` small requests take: far from no time, and far from any deadline.
    async fn while_others_are_served(&self, times: usize) {
        for _ in 0..times {
            assert_eq!(status(&self.talk(get("/").as_bytes()).await), 200);
        }
    }

    fn refused(&self, reason: &str) -> u64 {
        let counts = self.context.refusals.counts();
        counts
            .iter()
            .find(|count| count.1 == reason)
            .map_or(0, |count| count.2)
    }
}

async fn heard(mut stream: impl AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    // A reset after the reply is the client's own fault in these tests.
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await;
    read.expect("the server closes in time").ok();
    String::from_utf8(bytes).unwrap()
}

fn status(reply: &str) -> u16 {
    reply
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn requests_are_answered_one_after_the_other() {
    let server = Server::plain().await;
    let reply = server
        .talk(
            b"POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n\
              POST /two?x=%20 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
              2;x\r\nde\r\n1\r\nf\r\n0\r\nT: t\r\n\r\n\
              GET /three HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .await;
    let bodies = [
        "POST /one http plain abc",
        "POST /two?x=%20 http plain def",
        "GET /three http plain ",
    ];
    for body in bodies {
        assert!(reply.contains(body), "{body}: {reply}");
    }
    assert_eq!(reply.matches("HTTP/1.1 200 OK").count(), 3, "{reply}");
}

#[tokio::test]
async fn a_query_may_have_quotes_as_they_are() {
    let server = Server::plain().await;
    let reply = server.talk(get("/a?module[\"x\"]=1").as_bytes()).await;
    assert!(reply.contains("GET /a?module[%22x%22]=1 http"), "{reply}");
    let huge = get(&format!("/?{}", "\"".repeat(30_000)));
    assert_eq!(status(&server.talk(huge.as_bytes()).await), 414);
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte() {
    let server = Server::plain().await;
    let mut stream = server.connect().await;
    stream.set_nodelay(true).unwrap();
    for byte in get("/slowly").as_bytes() {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(heard(stream).await.contains("GET /slowly http plain"));
}

#[tokio::test]
async fn expectations_are_met() {
    let server = Server::plain().await;
    let mut stream = server.connect().await;
    let head = b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"x").await.unwrap();
    assert!(heard(stream).await.ends_with("PUT / http plain x"));
}

#[tokio::test]
async fn a_head_reply_has_no_body() {
    let server = Server::plain().await;
    let reply = server
        .talk(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(status(&reply), 200);
    assert!(reply.ends_with("\r\n\r\n"), "{reply}");
}

#[tokio::test]
async fn what_two_readers_could_understand_differently_is_refused() {
    let server = Server::plain().await;
    for (rest, expected) in [
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", 400),
        ("Content-Length: 5, 5\r\n\r\nabcde", 400),
        ("Content-Length: abc\r\n\r\n", 400),
        ("Transfer-Encoding: xchunked\r\n\r\n", 400),
        ("X: a\r\n folded\r\n\r\n", 400),
        ("X: a\0b\r\n\r\n", 400),
        ("X: a\rb\r\n\r\n", 400),
        ("X : a\r\n\r\n", 400),
        ("X: a\n\r\n", 400),
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}{}", get("/smuggled"));
        let reply = server.talk(request.as_bytes()).await;
        assert_eq!(status(&reply), expected, "{rest:?}: {reply}");
        assert_eq!(
            reply.matches("HTTP/1.1 ").count(),
            1,
            "one reply, then the end: {reply}"
        );
        assert!(
            reply.to_lowercase().contains("connection: close"),
            "{reply}"
        );
        assert!(!reply.contains("smuggled"), "{reply}");
    }
    assert!(server.refused("http_length") >= 6);
    assert!(server.refused("http_head_malformed") >= 5);
}

#[tokio::test]
async fn bad_chunks_break_the_body_and_end_the_connection() {
    let server = Server::plain().await;
    for chunks in [
        "x\r\n",
        "3\r\nabcd\r\n",
        "-1\r\n",
        "fffffffffffffffff\r\n",
        "1\r\na\r\n0\r\n\0\r\n",
    ] {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let reply = server
            .talk(format!("{head}{chunks}{}", get("/smuggled")).as_bytes())
            .await;
        assert_eq!(status(&reply), 400, "{chunks:?}: {reply}");
        assert_eq!(reply.matches("HTTP/1.1 ").count(), 1, "{reply}");
    }
    assert_eq!(server.refused("http_chunk"), 5);
}

#[tokio::test]
async fn heads_over_a_limit_are_refused() {
    let server = Server::plain().await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(65_534));
    assert_eq!(status(&server.talk(long.as_bytes()).await), 414);
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: a\r\n".repeat(100)
    );
    assert_eq!(status(&server.talk(many.as_bytes()).await), 431);
    let huge = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(200_000));
    assert_eq!(status(&server.talk(huge.as_bytes()).await), 431);
    let longest = format!("/{}", "x".repeat(65_533));
    let reply = server.talk(get(&longest).as_bytes()).await;
    assert_eq!(status(&reply), 200);
    assert!(reply.contains(&longest));
    assert_eq!(server.context.budget.used(), 0);
}

#[tokio::test]
async fn blank_lines_before_a_request_are_tolerated_and_no_stream_of_them() {
    let server = Server::plain().await;
    let some = format!("{}{}", "\r\n".repeat(16), get("/"));
    assert_eq!(status(&server.talk(some.as_bytes()).await), 200);
    let reply = server.talk("\r\n".repeat(1000).as_bytes()).await;
    assert_eq!(status(&reply), 400, "{reply}");
    assert_eq!(server.context.budget.used(), 0);
}

#[tokio::test]
async fn methods_and_versions_that_nobody_needs_are_refused() {
    let server = Server::plain().await;
    for (line, expected) in [
        ("TRACE / HTTP/1.1", 405),
        ("CONNECT a:1 HTTP/1.1", 405),
        ("PRI * HTTP/2.0", 505),
        ("GET / HTTP/3.0", 505),
        ("GET / FTP/1.1", 400),
        ("\u{16}\u{3}\u{1}", 400),
    ] {
        let reply = server
            .talk(format!("{line}\r\nHost: a\r\n\r\n").as_bytes())
            .await;
        assert_eq!(status(&reply), expected, "{line:?}: {reply}");
        assert_eq!(reply.contains("allow: GET"), expected == 405, "{reply}");
    }
}

fn hasty() -> HttpLimits {
    HttpLimits {
        head: Duration::from_millis(150),
        body_idle: Duration::from_millis(150),
        body: Duration::from_millis(400),
        keep_alive: Duration::from_millis(150),
        ..HttpLimits::default()
    }
}

#[tokio::test]
async fn slow_heads_do_not_keep_others_from_being_served() {
    let server = Server::start(hasty(), Inbound::Plain).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
        slow.push(stream);
    }
    assert_eq!(status(&server.talk(get("/").as_bytes()).await), 200);
    for stream in slow {
        let reply = heard(stream).await;
        assert_eq!(status(&reply), 408, "{reply}");
    }
    assert_eq!(server.refused("http_head_slow"), 50);
    assert_eq!(server.context.budget.used(), 0);
}

#[tokio::test]
async fn a_trickle_does_not_prolong_a_head() {
    let server = Server::start(hasty(), Inbound::Plain).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let reply = tokio::spawn(heard(reader));
    // Each byte comes well within the deadline; the head as a whole does not.
    while !reply.is_finished() {
        if writer.write_all(b"X").await.is_err() {
            break;
        }
        server.while_others_are_served(1).await;
    }
    let reply = reply.await.unwrap();
    assert_eq!(status(&reply), 408, "{reply}");
    assert_eq!(server.refused("http_head_slow"), 1);
}

#[tokio::test]
async fn slow_bodies_are_given_up() {
    let server = Server::start(hasty(), Inbound::Plain).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\nab";
    let reply = server.talk(head.as_bytes()).await;
    assert_eq!(status(&reply), 408, "{reply}");

    let mut stream = server.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let reply = tokio::spawn(heard(reader));
    while !reply.is_finished() {
        if writer.write_all(b"x").await.is_err() {
            break;
        }
        server.while_others_are_served(5).await;
    }
    let reply = reply.await.unwrap();
    assert_eq!(status(&reply), 408, "the whole body has a deadline too");
    assert_eq!(server.refused("http_body_slow"), 2);
}

#[tokio::test]
async fn idle_connections_are_closed_without_a_word() {
    let server = Server::start(hasty(), Inbound::Plain).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let reply = heard(stream).await;
    assert_eq!(reply.matches("HTTP/1.1").count(), 1, "{reply}");
    assert!(reply.ends_with("GET / http plain "), "{reply}");
}

#[tokio::test]
async fn work_of_the_server_is_not_the_clients_delay() {
    let server = Server::start(hasty(), Inbound::Plain).await;
    let (held, clients) = (get("/held"), async {
        server.held.asked.notified().await;
        // A client that is slow in the meantime is given up: its deadline, as long, has passed.
        let slow = server.talk(b"GET / HTTP/1.1\r\n").await;
        assert_eq!(status(&slow), 408, "{slow}");
        server.held.let_go.notify_one();
    });
    let (reply, ()) = tokio::join!(server.talk(held.as_bytes()), clients);
    assert_eq!(status(&reply), 200, "{reply}");
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_before_they_are_read() {
    let server = Server::plain().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n";
    assert_eq!(status(&server.talk(head.as_bytes()).await), 413);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = "64\r\n".to_owned() + &"x".repeat(100) + "\r\n";
    let reply = server
        .talk(format!("{head}{}", chunks.repeat(11)).as_bytes())
        .await;
    assert_eq!(status(&reply), 413, "{reply}");
    let exact = format!("{head}{}0\r\n\r\n", chunks.repeat(10))
        .replace("Host: a", "Host: a\r\nConnection: close");
    assert_eq!(status(&server.talk(exact.as_bytes()).await), 200);
}

#[tokio::test]
async fn an_early_reply_survives_a_body_that_is_still_coming() {
    let server = Server::plain().await;
    let mut stream = server.connect().await;
    let head = "POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let feeding =
        tokio::spawn(async move { writer.write_all(&vec![b'x'; 3_000_000]).await.is_ok() });
    let mut reply = Vec::new();
    reader.read_to_end(&mut reply).await.ok();
    assert!(String::from_utf8(reply).unwrap().ends_with("unread"));
    feeding.abort();
}

#[tokio::test]
async fn memory_for_strangers_has_a_bound() {
    let context = NetContext {
        budget: MemoryBudget::new(600),
        ..NetContext::new(Clock::system())
    };
    let server = Server::start_with(HttpLimits::default(), Inbound::Plain, context, 100).await;
    assert_eq!(status(&server.talk(get("/").as_bytes()).await), 200);
    let big_head = get(&format!("/{}", "x".repeat(700)));
    assert_eq!(status(&server.talk(big_head.as_bytes()).await), 503);
    let body = "x".repeat(700);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 700\r\n\r\n";
    let mut stream = server.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut reply = vec![0; 12];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply, b"HTTP/1.1 503");
    drop(stream);
    assert_eq!(status(&server.talk(get("/").as_bytes()).await), 200);
}

#[tokio::test]
async fn a_body_counts_as_long_as_it_is_held() {
    let context = NetContext {
        budget: MemoryBudget::new(1000),
        ..NetContext::new(Clock::system())
    };
    let server = Server::start_with(HttpLimits::default(), Inbound::Plain, context, 100).await;
    let post = |path: &str| {
        let body = "x".repeat(600);
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 600\r\n\r\n{body}"
        )
    };
    let (kept, others) = (post("/kept"), async {
        server.held.asked.notified().await;
        assert_eq!(server.context.budget.used(), 600);
        assert_eq!(status(&server.talk(post("/").as_bytes()).await), 503);
        server.held.let_go.notify_one();
    });
    let (reply, ()) = tokio::join!(server.talk(kept.as_bytes()), others);
    assert_eq!(status(&reply), 200, "{reply}");
    assert_eq!(server.context.budget.used(), 0);
    assert_eq!(status(&server.talk(post("/").as_bytes()).await), 200);
}

#[tokio::test]
async fn a_connection_ends_after_its_share_of_requests() {
    let limits = HttpLimits {
        requests: 3,
        ..HttpLimits::default()
    };
    let server = Server::start(limits, Inbound::Plain).await;
    let reply = server
        .talk("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(5).as_bytes())
        .await;
    assert_eq!(reply.matches("HTTP/1.1 200").count(), 3, "{reply}");
    assert_eq!(reply.matches("connection: close").count(), 1, "{reply}");
}

#[tokio::test]
async fn a_full_listener_closes_the_newest() {
    let context = NetContext::new(Clock::system());
    let server = Server::start_with(HttpLimits::default(), Inbound::Plain, context, 2).await;
    let first = server.connect().await;
    let _second = server.connect().await;
    assert_eq!(server.talk(b"").await, "");
    assert_eq!(server.refused("connections"), 1);
    drop(first);
    // The place is free as soon as the server sees the end of the first.
    while status(&server.talk(get("/").as_bytes()).await) != 200 {}
}

#[tokio::test]
async fn a_panic_ends_one_connection_and_is_counted() {
    let server = Server::plain().await;
    assert_eq!(server.talk(get("/panic").as_bytes()).await, "");
    assert_eq!(status(&server.talk(get("/").as_bytes()).await), 200);
    assert_eq!(server.refused("panic"), 1);
}

#[tokio::test]
async fn draining_answers_what_is_in_hand() {
    let server = Server::plain().await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let idle = server.connect().await;
    server.held.asked.notified().await;
    // Connections are taken in order: once another was served, the idle one was taken.
    server.while_others_are_served(1).await;
    server.cancel.cancel();
    server.held.let_go.notify_one();
    let reply = heard(stream).await;
    assert!(reply.contains("GET /held http plain"), "{reply}");
    assert_eq!(heard(idle).await, "");
    server.task.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn tls_is_served_to_who_trusts_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let identity = Identity::load_or_generate(folder.path(), &names).unwrap();
    let inbound = Inbound::rustls(&identity, &[]).unwrap();
    let server = Server::start(HttpLimits::default(), inbound).await;
    let endpoint = Endpoint::from(server.address);
    let clock = Clock::system();
    let timeout = Duration::from_secs(5);

    let good = [
        Trust::Pinned(identity.fingerprint),
        Trust::Authorities(identity.chain.clone()),
    ];
    for trust in good {
        let mut stream = dial(&endpoint, &Protection::Tls(trust), timeout, &clock)
            .await
            .unwrap();
        stream.write_all(get("/").as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.ends_with("GET / http tls "), "{reply}");
    }

    let other = tempfile::tempdir().unwrap();
    let other = Identity::load_or_generate(other.path(), &names).unwrap();
    let bad = [
        Trust::Pinned(other.fingerprint),
        Trust::Authorities(other.chain),
        Trust::System,
    ];
    for trust in bad {
        let outcome = dial(&endpoint, &Protection::Tls(trust.clone()), timeout, &clock).await;
        assert!(outcome.is_err(), "{trust:?}");
    }
    let mut stream = server.connect().await;
    stream.write_all(get("/").as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    assert_eq!(
        reply.first(),
        Some(&0x15),
        "an alert, nothing more: {reply:?}"
    );
    assert!(server.refused("tls") >= 1);
}

#[tokio::test]
async fn body_errors_have_their_status() {
    for (error, status) in [
        (BodyError::Gone, 400),
        (BodyError::Malformed, 400),
        (BodyError::OverBudget, 503),
        (BodyError::Slow, 408),
        (BodyError::TooLarge { limit: 1 }, 413),
    ] {
        assert_eq!(error.status(), status);
    }
}
