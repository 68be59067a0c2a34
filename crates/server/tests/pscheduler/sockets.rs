//! Bad input over real sockets: what comes is answered or the connection closed, others are served
//! meanwhile, and nothing is stored (threat model, section 5).

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use muster_net::http::{HttpServer, serve_http};
use muster_net::tls::Inbound;
use muster_net::{Clock, Entropy, GateLimits, Listener, NetContext};
use muster_server::Control;
use muster_server::control::Settings;
use muster_server::reconcile::Statuses;
use muster_store::sealed::Sealer;
use muster_store::{Store, StoreUrl};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::kit::router;

struct Live {
    address: SocketAddr,
    cancel: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

async fn live() -> Live {
    let store = Store::open(StoreUrl::Memory).await.unwrap();
    store.migrate(jiff::Timestamp::UNIX_EPOCH).await.unwrap();
    let entropy = Entropy::seeded(3);
    let sealer = Sealer::ephemeral(&mut entropy.rng());
    let clock = Clock::system();
    let control = Control::open(store, sealer, Settings::default(), clock.clone(), entropy)
        .await
        .unwrap();
    let router: Router = router(&control, Statuses::default());
    let any = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind("http", "--listen-http", any, GateLimits::default())
        .await
        .unwrap();
    let address = listener.local_addr();
    let server = HttpServer::new(NetContext::new(clock), Inbound::Plain);
    let cancel = CancellationToken::new();
    let served = tokio::spawn(serve_http(listener, server, router, cancel.clone()));
    Live {
        address,
        cancel,
        served,
    }
}

impl Live {
    /// Sends bytes and reads what comes until the other side closes or the deadline passes.
    async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn call(&self, method: &str, target: &str, body: &[u8]) -> (u16, String) {
        let mut bytes = format!(
            "{method} /pscheduler{target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        let answer = self.send(&bytes).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .unwrap_or(0);
        (status, body.to_owned())
    }

    async fn end(self) {
        assert_eq!(
            self.call("GET", "/tasks", b"").await,
            (200, "[]\n".to_owned()),
            "stored"
        );
        let before = tokio::time::Instant::now();
        assert_eq!(self.call("GET", "/api", b"").await, (200, "6\n".to_owned()));
        assert!(
            before.elapsed() < Duration::from_secs(1),
            "others are served"
        );
        self.cancel.cancel();
        self.served.await.unwrap();
    }
}

#[tokio::test]
async fn bodies_that_are_no_task() {
    let live = live().await;
    let deep = "[".repeat(100_000);
    let wide = format!("[{}1]", "1,".repeat(200_000));
    let long = format!(
        "{{\"test\":{{\"type\":\"{}\",\"spec\":{{}}}}}}",
        "x".repeat(100_000)
    );
    let task = |test: Value| json!({ "test": test }).to_string();
    for (body, want) in [
        (b"".to_vec(), 400),
        (b"null".to_vec(), 400),
        (b"[]".to_vec(), 400),
        (b"\"x\"".to_vec(), 400),
        (b"{\"test\":NaN}".to_vec(), 400),
        (b"{\"schema\":1e400}".to_vec(), 400),
        (b"{\"schema\":99999999999999999999999}".to_vec(), 400),
        (b"\xff\xfe{\"test\":1}".to_vec(), 400),
        (
            b"{\"test\":{\"type\":\"idle\",\"spec\":\xc3\x28}}".to_vec(),
            400,
        ),
        (deep.into_bytes(), 400),
        (wide.into_bytes(), 400),
        (long.into_bytes(), 400),
        (task(json!({"type": "idle", "spec": []})).into_bytes(), 400),
        (
            task(json!({"type": "idle", "spec": {"duration": 5}})).into_bytes(),
            400,
        ),
        (
            task(json!({"type": "../idle", "spec": {}})).into_bytes(),
            404,
        ),
        (
            task(json!({"type": "idle\u{0}", "spec": {}})).into_bytes(),
            404,
        ),
        (
            task(json!({"type": "idle", "spec": {"duration": "PT1S", "host": "-oProxy"}}))
                .into_bytes(),
            400,
        ),
        (
            task(json!({"type": "rtt", "spec": {"dest": "a;b"}})).into_bytes(),
            400,
        ),
        (
            task(json!({"type": "rtt", "spec": {"dest": "b", "count": 1_000_000_000}}))
                .into_bytes(),
            400,
        ),
        (
            task(json!({"type": "netdiscovery", "spec": {"targets": ["10.0.0.0/77"]}}))
                .into_bytes(),
            400,
        ),
        (
            task(json!({"type": "idle", "spec": {"duration": "P9999999D"}})).into_bytes(),
            422,
        ),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let (status, answer) = live.call("POST", "/tasks", &body).await;
        assert_eq!(status, want, "{shown}: {answer}");
        assert!(answer.len() < 2_000, "{shown}");
    }
    live.end().await;
}

#[tokio::test]
async fn schedules_that_cannot_be() {
    let live = live().await;
    for schedule in [
        json!({"repeat": "PT0S"}),
        json!({"repeat": "P"}),
        json!({"start": "9999-12-31T23:59:59Z", "until": "9999-12-31T23:59:58Z"}),
        json!({"start": "99999-01-01"}),
        json!({"start": "2026-02-30"}),
        json!({"start": "P400D"}),
        json!({"start": "@PT0S"}),
        json!({"until": "1970-01-01"}),
        json!({"slip": "-PT1S"}),
        json!({"slip": "PT99999999999999999999S"}),
        json!({"schema": 2, "repeat-cron": "0 0 31 2 *"}),
        json!({"schema": 2, "repeat-cron": "* * * * * * *"}),
        json!({"repeat-cron": "* * * * *"}),
        json!({"max-runs": 0}),
        json!({"max-runs": 1_000_001}),
        json!({"max-runs": 1.5}),
        json!([]),
    ] {
        let task = json!({
            "test": {"type": "idle", "spec": {"duration": "PT1S"}}, "schedule": schedule
        });
        let (status, answer) = live
            .call("POST", "/tasks", task.to_string().as_bytes())
            .await;
        assert_eq!(status, 400, "{schedule}: {answer}");
    }
    live.end().await;
}

#[tokio::test]
async fn targets_and_queries() {
    let live = live().await;
    let id = "a696ca36-aa06-4586-a60a-f4a4a5198638";
    for (target, want) in [
        ("/tests/../../etc/passwd".to_owned(), 404),
        ("/tests/%2e%2e/%2e%2e".to_owned(), 404),
        ("/tests/rtt%2fspec".to_owned(), 404),
        ("/tests/rtt%00".to_owned(), 404),
        ("/tests/rtt%5c".to_owned(), 404),
        ("/tests/%c0%ae%c0%ae".to_owned(), 404),
        (format!("/tests/{}", "x".repeat(5000)), 404),
        (format!("/tasks/{id}/runs/first?wait=-1"), 400),
        (
            format!("/tasks/{id}/runs/first?wait=99999999999999999999"),
            400,
        ),
        (format!("/tasks/{id}/runs/first?wait=NaN"), 400),
        (format!("/tasks/{id}/runs?limit=-1"), 400),
        (format!("/tasks/{id}/runs?limit=18446744073709551616"), 400),
        ("/api?api=-5".to_owned(), 200),
        ("/api?api=99999999999999999999".to_owned(), 400),
        (format!("/api?{}", "a=1&".repeat(101)), 400),
        ("/mtu?dest=-f".to_owned(), 400),
        ("/mtu?dest=http://x/".to_owned(), 400),
        (format!("/tasks?json={}", "[".repeat(5000)), 400),
        (format!("/tests/rtt/spec?args={}", "%5b".repeat(3000)), 400),
        ("/tests/rtt/spec?args=%5b%7b%7d%5d".to_owned(), 400),
    ] {
        let (status, answer) = live.call("GET", &target, b"").await;
        let shown: String = target.chars().take(60).collect();
        assert_eq!(status, want, "{shown}: {answer}");
    }
    // A specification of more than 8 KiB in the target is what real clients send.
    let comment = "x".repeat(9000);
    let spec = format!("%7b%22duration%22:%22PT1S%22,%22starting-comment%22:%22{comment}%22%7d");
    let answer = live
        .call(
            "GET",
            &format!("/tests/idle/spec/is-valid?spec={spec}"),
            b"",
        )
        .await;
    assert_eq!(answer, (200, "{\"valid\":true}\n".to_owned()));
    live.end().await;
}

#[tokio::test]
async fn methods_lengths_and_encodings() {
    let live = live().await;
    for (method, want) in [
        ("PATCH", 405),
        ("OPTIONS", 405),
        ("TRACE", 405),
        ("HEAD", 200),
    ] {
        let (status, body) = live.call(method, "/api", b"").await;
        assert_eq!(status, want, "{method}");
        assert!(method != "HEAD" || body.is_empty());
    }
    let head = |lines: &str| format!("POST /pscheduler/tasks HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    for (lines, want) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "400"),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", "400"),
        ("Content-Length: -1\r\n", "400"),
        ("Content-Length: 99999999999\r\n", "413"),
        ("Content-Encoding: gzip\r\nContent-Length: 0\r\n", "415"),
        ("Host: b\r\nContent-Length: 0\r\n", "400"),
    ] {
        let answer = live.send(head(lines).as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert_eq!(status, want, "{lines}: {answer}");
    }
    let override_method = b"GET /pscheduler/tasks HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
        X-HTTP-Method-Override: DELETE\r\n\r\n";
    assert!(live.send(override_method).await.ends_with("[]\n"));
    live.end().await;
}
