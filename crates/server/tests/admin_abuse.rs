//! Hostile input to the admin API over real sockets, behind the real HTTP listener: the rows of the
//! threat model, section 5, that concern HTTP and JSON in general, with memory and time asserted.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::net::SocketAddr;
use std::time::Duration;

use muster_core::credential::Secret;
use muster_net::http::{HttpServer, serve_http};
use muster_net::tls::Inbound;
use muster_net::{Clock, Entropy, GateLimits, Listener, NetContext};
use muster_server::app::router;
use muster_server::control::{Control, Role, Settings};
use muster_server::reconcile::Statuses;
use muster_store::sealed::Sealer;
use muster_store::{Store, StoreUrl};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// What an answer may take: a second, and what a debug build takes on a machine that runs other tests
/// beside.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });
/// What abuse may add to the memory of the process: the budget for strangers.
const MEMORY: u64 = 256 << 20;
const TOKEN: &str = "mt_0123456789abcdef0123456789abcdef";

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Status and body of the answer to raw bytes, within the patience; status 0 when the line is closed
/// without one.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> (u16, String) {
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
    let answer = tokio::time::timeout(PATIENCE, both).await;
    let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]);
    let answer = answer.unwrap_or_else(|_| panic!("not answered and closed in time: {begin}"));
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.unwrap_or(0), body.unwrap_or_default())
}

fn message(method: &str, target: &str, extra: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut bytes = format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{extra}\
         Content-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_refused_in_time_and_within_memory() {
    let clock = Clock::system();
    let store = Store::open(StoreUrl::Memory).await.unwrap();
    store.migrate(clock.now()).await.unwrap();
    let entropy = Entropy::seeded(7);
    let sealer = Sealer::ephemeral(&mut entropy.rng());
    let control = Control::open(store, sealer, Settings::default(), clock.clone(), entropy)
        .await
        .unwrap();
    let token = Secret::new(TOKEN.to_owned());
    control
        .install_token(&token, "test", Role::Admin)
        .await
        .unwrap();
    let router = router(&control, &Statuses::default(), "here");
    let free = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind("http", "--listen-http", free, GateLimits::default())
        .await
        .unwrap();
    let address = listener.local_addr();
    let stop = CancellationToken::new();
    let server = HttpServer::new(NetContext::new(clock), Inbound::Plain);
    let serving = tokio::spawn(serve_http(listener, server, router, stop.clone()));

    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let json = format!("{bearer}Content-Type: application/json\r\n");
    let tasks = "/api/v1/tasks";
    let post = |body: &str| message("POST", tasks, &json, body.as_bytes());
    let get = |target: &str| message("GET", target, &bearer, b"");
    let filled = |item: &str, bytes: usize| {
        let items = item.repeat(bytes / item.len());
        post(&format!(
            "{{\"kind\":\"noop\",\"spec\":{{\"data\":[{items}0]}}}}"
        ))
    };
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        (
            "no token",
            message("POST", tasks, "", &[b' '; 1 << 20]),
            401,
        ),
        (
            "wrong token",
            message("GET", tasks, "Authorization: Bearer x\r\n", b""),
            401,
        ),
        ("no type", message("POST", tasks, &bearer, b"{}"), 415),
        (
            "text",
            message(
                "POST",
                tasks,
                &format!("{bearer}Content-Type: text/plain\r\n"),
                b"{}",
            ),
            415,
        ),
        (
            "both lengths",
            message(
                "POST",
                tasks,
                &format!("{json}Transfer-Encoding: chunked\r\n"),
                b"{}",
            ),
            400,
        ),
        (
            "two lengths",
            message(
                "POST",
                tasks,
                &format!("{json}Content-Length: 1\r\n"),
                b"{}",
            ),
            400,
        ),
        (
            "folded header",
            message("GET", tasks, &format!("{bearer}X-A: b\r\n c\r\n"), b""),
            400,
        ),
        (
            "space before colon",
            message("GET", tasks, &format!("{bearer}X-A : b\r\n"), b""),
            400,
        ),
        (
            "long head",
            message(
                "GET",
                tasks,
                &format!("{bearer}X-A: {}\r\n", "x".repeat(140_000)),
                b"",
            ),
            431,
        ),
        (
            "many headers",
            message(
                "GET",
                tasks,
                &format!("{bearer}{}", "X-A: b\r\n".repeat(120)),
                b"",
            ),
            431,
        ),
        ("trace", message("TRACE", tasks, &bearer, b""), 405),
        ("wrong method", message("PUT", tasks, &json, b"{}"), 405),
        ("dots", get("/api/v1/tasks/%2e%2e/%2e%2e/etc/passwd"), 404),
        ("zero byte", get("/api/v1/tasks/%00"), 404),
        ("page of none", get("/api/v1/tasks?limit=0"), 400),
        (
            "page of all",
            get("/api/v1/tasks?limit=18446744073709551616"),
            400,
        ),
        ("no JSON", post("{bad"), 400),
        (
            "no text",
            message("POST", tasks, &json, b"{\"kind\":\"\xc3\x28\"}"),
            400,
        ),
        ("twice", post("{\"kind\":\"noop\",\"kind\":\"rtt\"}"), 400),
        (
            "unknown member",
            post("{\"kind\":\"noop\",\"role\":\"admin\"}"),
            400,
        ),
        (
            "inexact number",
            post("{\"kind\":\"noop\",\"spec\":{\"data\":18446744073709551616}}"),
            400,
        ),
        (
            "exponent",
            post("{\"kind\":\"noop\",\"spec\":{\"data\":1e-401}}"),
            400,
        ),
        ("depth", post(&"[".repeat(100_000)), 400),
        ("numbers", filled("0,", 3 << 20), 400),
        ("objects", filled("{\"a\":0},", 3 << 20), 400),
        (
            "one byte more",
            message("POST", tasks, &json, &vec![b' '; (4 << 20) + 1]),
            413,
        ),
    ];
    let before = resident();
    let mut peak = 0;
    for (name, bytes, want) in cases {
        let (status, answer) = exchange(address, &bytes).await;
        assert_eq!(status, want, "{name}: {answer}");
        assert!(answer.len() < 2_000, "{name}");
        assert!(
            !answer.contains("root:") && !answer.contains(TOKEN),
            "{name}"
        );
        peak = peak.max(resident().saturating_sub(before));
        let (status, answer) = exchange(address, &get(tasks)).await;
        assert_eq!(status, 200, "after {name}: {answer}");
        assert!(
            answer.contains("\"items\":[]"),
            "stored after {name}: {answer}"
        );
    }
    assert!(peak < MEMORY, "{peak} bytes");
    stop.cancel();
    serving.await.unwrap();
}
