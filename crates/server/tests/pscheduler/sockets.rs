//! Bad input over real sockets: what comes is answered or the connection closed in time, others are
//! served meanwhile, memory stays within its budget, and nothing is stored (threat model, section 5).

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use muster_net::http::{HttpServer, serve_http};
use muster_net::tls::Inbound;
use muster_net::{Clock, Egress, Entropy, GateLimits, Listener, NetContext};
use muster_server::Control;
use muster_server::control::Settings;
use muster_server::reconcile::Statuses;
use muster_store::sealed::Sealer;
use muster_store::{Store, StoreUrl};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::heap;
use super::kit::router;

/// What an answer to a small request may take: a second, and what a debug build takes on a machine
/// that runs other tests beside.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });
/// What the answer to a request of the greatest length may take.
const PATIENCE_LARGE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 5 });
/// What abuse may take of the process's memory: the budget for strangers.
const MEMORY: usize = 256 << 20;

struct Live {
    before: usize,
    address: SocketAddr,
    cancel: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

async fn live() -> Live {
    live_with(Settings::default()).await
}

async fn live_with(settings: Settings) -> Live {
    let store = Store::open(StoreUrl::Memory).await.unwrap();
    store.migrate(jiff::Timestamp::UNIX_EPOCH).await.unwrap();
    let entropy = Entropy::seeded(3);
    let sealer = Sealer::ephemeral(&mut entropy.rng());
    let clock = Clock::system();
    let control = Control::open(store, sealer, settings, clock.clone(), entropy)
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
        before: heap::live(),
        address,
        cancel,
        served,
    }
}

/// Sends bytes and reads what comes until the other side closes, within `patience`.
async fn send(address: SocketAddr, bytes: &[u8], patience: Duration) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    // The server may refuse by the head alone and close: then the rest is not taken.
    let write = async {
        let _ = writer.write_all(bytes).await;
    };
    let read = async {
        let mut answer = Vec::new();
        let _ = reader.read_to_end(&mut answer).await;
        answer
    };
    let both = async { tokio::join!(write, read).1 };
    let answer = tokio::time::timeout(patience, both).await;
    let answer = answer.unwrap_or_else(|_| {
        let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
        panic!("not answered and closed within {patience:?}: {begin}")
    });
    String::from_utf8_lossy(&answer).into_owned()
}

fn message(method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "{method} /pscheduler{target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// The status of an answer; 0 when there was none.
fn status(answer: &str) -> u16 {
    let word = answer.split(' ').nth(1);
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

impl Live {
    /// Sends bytes and reads what comes until the other side closes, which it does in time.
    async fn send(&self, bytes: &[u8]) -> String {
        send(self.address, bytes, PATIENCE).await
    }

    async fn call(&self, method: &str, target: &str, body: &[u8]) -> (u16, String) {
        let answer = self.send(&message(method, target, body)).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (status(head), body.to_owned())
    }

    async fn end(self) {
        assert_eq!(
            self.call("GET", "/tasks", b"").await,
            (200, "[]\n".to_owned()),
            "stored"
        );
        let taken = heap::peak().saturating_sub(self.before);
        assert!(taken < MEMORY, "{taken} bytes");
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
            400,
        ),
        (
            task(json!({"type": "idle", "spec": {"duration": "PT0S"}})).into_bytes(),
            400,
        ),
        (
            task(json!({"type": "idle", "spec": {"duration": "P"}})).into_bytes(),
            400,
        ),
        (
            task(json!({"type": "rtt", "spec": {"dest": "b", "interval": "PT0S"}})).into_bytes(),
            400,
        ),
        (
            task(json!({"type": "rtt", "spec": {"dest": "b", "timeout": "P367D"}})).into_bytes(),
            400,
        ),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let (status, answer) = live.call("POST", "/tasks", &body).await;
        assert_eq!(status, want, "{shown}: {answer}");
        assert!(answer.len() < 2_000, "{shown}");
    }
    live.end().await;
}

/// Bodies of the greatest length, of what costs most once read, many at once: each is refused, and
/// small requests are answered meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_bodies_many_at_once() {
    const LARGEST: usize = 16 << 20;
    let task = |before: &str, item: &str, bytes: usize, after: &str| {
        format!("{before}{}0{after}", item.repeat(bytes / item.len())).into_bytes()
    };
    let spec = "{\"test\":{\"type\":\"noop\",\"spec\":{\"data\":[";
    let filled = |item: &str| task(spec, item, LARGEST - 100, "]}}}");
    let beside = "{\"test\":{\"type\":\"noop\",\"spec\":{}},";
    let member = |name: &str, item: &str, bytes: usize| {
        task(&format!("{beside}\"{name}\":["), item, bytes, "]}")
    };
    let bodies: Vec<(&str, Vec<u8>, u16)> = vec![
        ("numbers", filled("0,"), 400),
        ("arrays", filled("[0,0,0,0,0,0,0,0],"), 400),
        ("objects", filled("{\"a\":\"0123456789\"},"), 400),
        ("wrong tools", member("tools", "1000,", 4 << 20), 400),
        ("wrong archives", member("archives", "{\"a\":1},", 500), 400),
        (
            "wrong schedule",
            member("schedule", "\"abc\",", 2 << 20),
            400,
        ),
        ("one too many", member("nosuch", "1000,", 4 << 20), 400),
        (
            "too large a spec",
            task(spec, "1000,", 4 << 20, "]}}}"),
            400,
        ),
        ("blanks", vec![b' '; LARGEST], 400),
        ("no text", vec![0xff; LARGEST], 400),
        ("open", vec![b'['; LARGEST], 400),
        (
            "one string",
            [b"\"".as_slice(), &vec![b'x'; LARGEST - 1]].concat(),
            400,
        ),
        ("one byte more", vec![b' '; LARGEST + 1], 413),
    ];
    let messages: Vec<_> = bodies
        .into_iter()
        .map(|(name, body, want)| (name, message("POST", "/tasks", &body), want))
        .collect();
    let live = live().await;
    let address = live.address;
    let mut abusers = tokio::task::JoinSet::new();
    for (name, bytes, want) in messages {
        abusers.spawn(async move {
            let answer = send(address, &bytes, PATIENCE_LARGE).await;
            // Under the bound on memory the newest is refused instead.
            let got = status(&answer);
            assert!(got == want || got == 503, "{name}: {answer}");
            assert!(answer.len() < 2_000, "{name}");
        });
    }
    while !abusers.is_empty() {
        assert_eq!(live.call("GET", "/api", b"").await, (200, "6\n".to_owned()));
        while let Some(ended) = abusers.try_join_next() {
            ended.unwrap();
        }
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
async fn destinations_that_peers_name_are_judged() {
    let egress = |allow: &str, loopback| Settings {
        egress: Egress {
            allow: allow
                .split_whitespace()
                .map(|net| net.parse().unwrap())
                .collect(),
            loopback,
        },
        ..Settings::default()
    };
    let local = (
        200,
        "{\"message\":\"N/A (Local)\",\"safe\":true}\n".to_owned(),
    );
    let refused = |address: &str, what: &str| {
        let text = "Destination forbidden: {} is {}, which is not in egress.allow\n";
        let text = text.replacen("{}", address, 1).replacen("{}", what, 1);
        (403, text)
    };
    for (settings, cases) in [
        (
            egress("", false),
            vec![
                ("127.0.0.1", refused("127.0.0.1", "loopback")),
                ("::1", refused("::1", "loopback")),
                ("10.1.2.3", refused("10.1.2.3", "private")),
                ("::ffff:10.1.2.3", refused("10.1.2.3", "private")),
                ("169.254.169.254", refused("169.254.169.254", "link-local")),
                ("224.0.0.1", refused("224.0.0.1", "multicast")),
                ("0.0.0.0", refused("0.0.0.0", "reserved")),
                (
                    "no.such.host.invalid",
                    (
                        200,
                        "{\"message\":\"no.such.host.invalid: the name no.such.host.invalid was not \
                         found\",\"safe\":false}\n"
                            .to_owned(),
                    ),
                ),
            ],
        ),
        (
            egress("127.0.0.0/8", false),
            vec![
                ("127.0.0.1", local.clone()),
                ("::1", refused("::1", "loopback")),
            ],
        ),
        (
            egress("", true),
            vec![
                ("127.0.0.1", local.clone()),
                ("localhost", local.clone()),
                ("10.1.2.3", refused("10.1.2.3", "private")),
            ],
        ),
    ] {
        let live = live_with(settings).await;
        for (dest, want) in cases {
            for path in ["mtu", "mtu-safe"] {
                let target = format!("/{path}?dest={dest}");
                assert_eq!(live.call("GET", &target, b"").await, want, "{target}");
            }
        }
        live.end().await;
    }
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
    let head = |lines: &str| {
        format!("POST /pscheduler/tasks HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n")
    };
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
