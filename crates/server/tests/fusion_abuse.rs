//! Hostile input over real sockets, against the FusionInventory front behind the real HTTP listener:
//! the rows of the threat model, section 5, with memory and time asserted.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]
#![expect(
    clippy::disallowed_methods,
    reason = "how long an answer takes is what is looked at"
)]

use std::time::{Duration, Instant};

use axum::routing::any;
use muster_net::http::{HttpServer, serve_http};
use muster_net::listen::Listener;
use muster_net::tls::{Identity, Inbound, Trust};
use muster_net::{Clock, Endpoint, Entropy, GateLimits, NetContext, Protection, dial};
use muster_proto::fusion::body::Packing;
use muster_server::Control;
use muster_server::control::{EnrolPolicy, Settings};
use muster_server::fronts::fusion;
use muster_store::sealed::Sealer;
use muster_store::{Store, StoreUrl};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

/// What answers may take while the server is abused: a second, and what a debug build takes on a
/// machine that runs other tests beside.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 5 } else { 1 });
/// What parsing may add to the memory of the process: the budget for strangers.
const MEMORY: u64 = 256 << 20;

struct Bed {
    control: Control,
    to: To,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

/// Where the server listens, and how it is spoken to.
#[derive(Clone)]
struct To {
    endpoint: Endpoint,
    protection: Protection,
}

/// The plain listener, or the one over TLS.
async fn bed(tls: bool) -> Bed {
    let clock = Clock::system();
    let store = Store::open(StoreUrl::Memory).await.unwrap();
    store.migrate(clock.now()).await.unwrap();
    let entropy = Entropy::seeded(7);
    let sealer = Sealer::ephemeral(&mut entropy.rng());
    let settings = Settings {
        enrol_policy: EnrolPolicy::Loopback,
        ..Settings::default()
    };
    let control = Control::open(store, sealer, settings, clock.clone(), entropy)
        .await
        .unwrap();
    let router = fusion::router(control.clone(), any(|| async { "console" }));
    let free = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind("http", "--listen-http", free, GateLimits::default())
        .await
        .unwrap();
    let endpoint = Endpoint::from(listener.local_addr());
    let (inbound, protection) = if tls {
        let folder = tempfile::tempdir().unwrap();
        let names = ["127.0.0.1".to_owned()];
        let identity = Identity::load_or_generate(folder.path(), &names).unwrap();
        let trust = Trust::Pinned(identity.fingerprint);
        let inbound = Inbound::rustls(&identity, &[]).unwrap();
        (inbound, Protection::Tls(trust))
    } else {
        (Inbound::Plain, Protection::Plain)
    };
    let stop = CancellationToken::new();
    let server = HttpServer::new(NetContext::new(clock), inbound);
    let serving = tokio::spawn(serve_http(listener, server, router, stop.clone()));
    Bed {
        control,
        to: To {
            endpoint,
            protection,
        },
        stop,
        serving,
    }
}

impl Bed {
    async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }
}

/// Status and body of the answer to raw bytes; status 0 when the line is closed without one.
async fn exchange(to: &To, bytes: &[u8]) -> (u16, String) {
    let patience = Duration::from_secs(10);
    let stream = dial(&to.endpoint, &to.protection, patience, &Clock::system()).await;
    let (mut reader, mut writer) = tokio::io::split(stream.unwrap());
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
    let answer = tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok());
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.unwrap_or(0), body.unwrap_or_default())
}

fn head(method: &str, target: &str, extra: &str, length: usize) -> Vec<u8> {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{extra}\
         Content-Length: {length}\r\n\r\n"
    )
    .into_bytes()
}

fn post(extra: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = head("POST", "/front/inventory.php", extra, body.len());
    bytes.extend_from_slice(body);
    bytes
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

async fn is_served(bed: &Bed) -> Duration {
    let begin = Instant::now();
    let good = head("GET", "/api/tasks?agentid=good&module[inventory]=1", "", 0);
    let (status, body) = exchange(&bed.to, &good).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("nextContactTime"), "{body}");
    begin.elapsed()
}

const PROLOG: &str = "<REQUEST><DEVICEID>a</DEVICEID><QUERY>PROLOG</QUERY></REQUEST>";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_are_refused() {
    let bed = bed(false).await;
    let request = |device: &str| {
        format!("<REQUEST><DEVICEID>{device}</DEVICEID><QUERY>PROLOG</QUERY></REQUEST>")
    };
    let deep = format!("{}{}", "<a>".repeat(65), "</a>".repeat(65));
    let many = format!("<REQUEST>{}</REQUEST>", "<a/>".repeat(1_000_001));
    let long = format!("<REQUEST><a>{}</a></REQUEST>", "x".repeat((1 << 20) + 1));
    let utf16: Vec<u8> = PROLOG.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let json = |text: &str| text.as_bytes().to_vec();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("plain", json(PROLOG), 200),
        (
            "latin-1",
            b"<REQUEST><DEVICEID>caf\xe9</DEVICEID><QUERY>PROLOG</QUERY></REQUEST>".to_vec(),
            200,
        ),
        ("dtd", json(&format!("<!DOCTYPE a>{PROLOG}")), 400),
        (
            "entity",
            json(
                "<!DOCTYPE a [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><REQUEST><DEVICEID>&e;</DEVICEID></REQUEST>",
            ),
            400,
        ),
        (
            "xinclude",
            json(
                "<REQUEST xmlns:xi=\"http://www.w3.org/2001/XInclude\"><xi:include href=\"/etc/passwd\"/></REQUEST>",
            ),
            400,
        ),
        (
            "utf-7",
            json(&format!(
                "<?xml version=\"1.0\" encoding=\"UTF-7\"?>{PROLOG}"
            )),
            400,
        ),
        ("utf-16", utf16, 400),
        ("depth", json(&deep), 400),
        ("elements", json(&many), 400),
        ("text", json(&long), 400),
        ("path in the name", json(&request("../../etc/passwd")), 400),
        ("markup in the name", json(&request("&lt;script&gt;")), 400),
        ("control in the name", json(&request("a&#7;b")), 400),
        ("long name", json(&request(&"x".repeat(256))), 400),
        ("cut", json("<REQUEST><DEVICEID>a"), 400),
        ("json depth", json(&"[".repeat(100_000)), 400),
        (
            "json keys",
            json(&format!(
                "{{\"deviceid\":\"a\"{}}}",
                (0..10_001)
                    .map(|n| format!(",\"{n}\":0"))
                    .collect::<String>()
            )),
            400,
        ),
        (
            "json number",
            json(&format!("{{\"deviceid\":\"a\",\"n\":{}}}", "9".repeat(100))),
            400,
        ),
        ("json surrogate", json("{\"deviceid\":\"\\ud800\"}"), 400),
        ("json array", json("[]"), 400),
        (
            "json duplicate keys",
            json("{\"deviceid\":\"a/b\",\"deviceid\":\"a\",\"action\":\"contact\"}"),
            200,
        ),
        ("neither", json("hello"), 400),
        ("nothing", Vec::new(), 400),
    ];
    let before = resident();
    for (name, body, want) in cases {
        let begin = Instant::now();
        let (status, answer) = exchange(&bed.to, &post("", &body)).await;
        assert_eq!(status, want, "{name}: {answer}");
        assert!(!answer.contains("root:"), "{name}");
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{name}: {:?}",
            begin.elapsed()
        );
        assert!(is_served(&bed).await < PATIENCE, "{name}");
    }
    assert!(resident().saturating_sub(before) < MEMORY);
    assert!(bed.control.hosts(None, 10).await.unwrap().rows.is_empty());
    let counts = bed.control.refused_counts();
    assert!(
        counts.iter().any(|(_, reason, _)| reason == "xml"),
        "{counts:?}"
    );
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_are_refused() {
    heads(bed(false).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_are_refused_over_tls() {
    heads(bed(true).await).await;
}

async fn heads(bed: Bed) {
    let zlib = Packing::Zlib.pack(PROLOG.as_bytes().to_vec());
    let twice = Packing::Gzip.pack(zlib.clone());
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        (
            "zlib under any type",
            post("Content-Type: image/png\r\n", &zlib),
            200,
        ),
        (
            "gzip as encoding",
            post(
                "Content-Encoding: gzip\r\n",
                &Packing::Gzip.pack(PROLOG.as_bytes().to_vec()),
            ),
            200,
        ),
        (
            "two layers",
            post("Content-Encoding: gzip\r\n", &twice),
            415,
        ),
        (
            "unknown encoding",
            post("Content-Encoding: br\r\n", PROLOG.as_bytes()),
            415,
        ),
        (
            "brotli body",
            post(
                "Content-Type: application/x-compress-br\r\n",
                b"\x0b\x02\x80",
            ),
            415,
        ),
        ("cut zlib", post("", &zlib[..zlib.len() - 4]), 400),
        (
            "too large by its head",
            head("POST", "/", "", 33 << 20),
            413,
        ),
        (
            "odd agent id",
            post("GLPI-Agent-ID: ../x\r\n", PROLOG.as_bytes()),
            400,
        ),
        (
            "odd request id",
            post("GLPI-Request-ID: a b\r\n", PROLOG.as_bytes()),
            400,
        ),
        (
            "both lengths",
            post("Transfer-Encoding: chunked\r\n", PROLOG.as_bytes()),
            400,
        ),
        ("method", head("DELETE", "/api/tasks?agentid=a", "", 0), 405),
        ("trace", head("TRACE", "/front/inventory.php", "", 0), 405),
        (
            "dots",
            head(
                "GET",
                "/plugins/fusioninventory/%2e%2e/%2e%2e/etc/passwd",
                "",
                0,
            ),
            404,
        ),
        (
            "zero byte",
            head("GET", "/api/tasks%00?agentid=a", "", 0),
            404,
        ),
        (
            "over-long",
            head("GET", "/%c0%ae%c0%ae/api/tasks?agentid=a", "", 0),
            404,
        ),
        (
            "agentid with a path",
            head("GET", "/api/tasks?agentid=..%2F..%2Fetc", "", 0),
            400,
        ),
        (
            "agentid with markup",
            head("GET", "/api/tasks?agentid=%3Cb%3E", "", 0),
            400,
        ),
        ("no agentid", head("GET", "/api/tasks", "", 0), 400),
        ("empty GET", head("GET", "/front/inventory.php", "", 0), 400),
        (
            "override of the method",
            post("X-HTTP-Method-Override: DELETE\r\n", PROLOG.as_bytes()),
            200,
        ),
        ("differing lengths", post("Content-Length: 7\r\n", b""), 400),
        ("malformed length", post("Content-Length: +1\r\n", b""), 400),
        ("folded", post("X: a\r\n b\r\n", b""), 400),
        ("zero in a header", post("X: a\0b\r\n", b""), 400),
        ("bare CR", post("X: a\rb\r\n", b""), 400),
        ("space before colon", post("X : a\r\n", b""), 400),
        ("many headers", post(&"X: a\r\n".repeat(100), b""), 431),
        (
            "long header",
            post(&format!("X: {}\r\n", "x".repeat(128 << 10)), b""),
            431,
        ),
        (
            "long target",
            head("GET", &format!("/{}", "x".repeat(65_534)), "", 0),
            414,
        ),
        (
            "bad chunk",
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc\r\n0\r\n\r\n"
                .to_vec(),
            400,
        ),
        ("connect", head("CONNECT", "x:1", "", 0), 405),
    ];
    let before = resident();
    for (name, bytes, want) in cases {
        let begin = Instant::now();
        let (status, answer) = exchange(&bed.to, &bytes).await;
        assert_eq!(status, want, "{name}: {answer}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{name}");
    }
    let (_, answer) = exchange(&bed.to, &head("DELETE", "/api/tasks?agentid=a", "", 0)).await;
    assert!(answer.contains("\"status\":\"error\""), "{answer}");
    assert!(is_served(&bed).await < PATIENCE);
    assert!(resident().saturating_sub(before) < MEMORY);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_bombs_at_once_leave_others_served() {
    let bed = bed(true).await;
    is_served(&bed).await;
    let bomb = post(
        "Content-Type: application/x-compress-zlib\r\n",
        &Packing::Zlib.pack(vec![b' '; 64 << 20]),
    );
    let before = resident();
    let to = bed.to.clone();
    let bombers: Vec<_> = (0..24)
        .map(|_| {
            let (to, bomb) = (to.clone(), bomb.clone());
            tokio::spawn(async move { exchange(&to, &bomb).await.0 })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    let mut peak = 0;
    while !bombers.iter().all(tokio::task::JoinHandle::is_finished) {
        slowest = slowest.max(is_served(&bed).await);
        peak = peak.max(resident().saturating_sub(before));
    }
    for bomber in bombers {
        assert_eq!(bomber.await.unwrap(), 413);
    }
    assert!(slowest < PATIENCE, "{slowest:?}");
    assert!(peak < MEMORY, "{peak}");
    bed.end().await;
}
