//! Uploads too large for memory, over real sockets: what they cost, how long they take, that good peers
//! are served meanwhile, and that all of it is stored or nothing (threats page, section 4).
#![expect(
    clippy::disallowed_methods,
    reason = "the time things take is what is looked at"
)]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use muster_core::sample::ValueType;
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::frame::{Header, encode};
use muster_server::control::{EnrolPolicy, HistoryRange};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{SESSION, Server, payload, resident_bytes, upload};

/// What a large upload may cost the process, however large it is.
const MEMORY: u64 = 40 * 1024 * 1024;
/// Rows of the one that is measured, each of about 8 KiB.
const ROWS: usize = 12_000;

/// Strangers' limits are small here, so that large is not so large.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.stranger.frame_bytes_max = 1024 * 1024;
    limits.stranger.inflated_bytes_max = 2 * 1024 * 1024;
    limits
}

/// A row of always the same length.
fn row(item: u64, id: usize, padding: usize) -> String {
    let pad = "x".repeat(padding);
    format!(
        r#"{{"id":"{id:08}","itemid":{item},"clock":5,"ns":"{id:09}","value":"v{id:08}","pad":"{pad}"}}"#
    )
}

fn head() -> String {
    format!(r#"{{"request":"proxy data","host":"px","session":"{SESSION}","history data":["#)
}

const TAIL: &str = r#"],"more":1,"version":"6.0.14","clock":5,"ns":6}"#;

/// How many values an item has.
async fn count(server: &Server, item: u64) -> usize {
    let range = HistoryRange {
        from: None,
        to: None,
        limit: 100_000,
    };
    server.control.history(item, range).await.unwrap().len()
}

/// The most memory this process holds from now on, beyond what it holds now.
struct Watch {
    before: u64,
    over: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<u64>,
}

impl Watch {
    fn start() -> Self {
        let before = resident_bytes();
        let (over, looking) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            let step = Duration::from_millis(5);
            while looking.recv_timeout(step) == Err(mpsc::RecvTimeoutError::Timeout) {
                peak = resident_bytes().max(peak);
            }
            peak
        });
        Self {
            before,
            over,
            thread,
        }
    }

    fn end(self) -> u64 {
        drop(self.over);
        let peak = self.thread.join().unwrap();
        peak.saturating_sub(self.before)
    }
}

async fn reply(mut stream: TcpStream) -> Value {
    let mut reply = Vec::new();
    let read = stream.read_to_end(&mut reply);
    tokio::time::timeout(Duration::from_secs(120), read)
        .await
        .unwrap()
        .unwrap();
    payload(&reply)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_is_taken_in_bounded_memory_while_others_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), EnrolPolicy::Loopback, limits()).await;
    let items = server.proxied(&[ValueType::Text, ValueType::Text]).await;
    let (item, other) = (items[0], items[1]);
    let length = head().len() + TAIL.len() + ROWS * (row(item, 0, 8000).len() + 1) - 1;
    let header = Header {
        compressed: false,
        large: false,
        length: u64::try_from(length).unwrap(),
        reserved: 0,
    };
    assert!(length > 90 * 1024 * 1024);
    let watch = Watch::start();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&header.encode()).await.unwrap();
    stream.write_all(head().as_bytes()).await.unwrap();
    for id in 1..=ROWS {
        let comma = if id == 1 { "" } else { "," };
        let row = format!("{comma}{}", row(item, id, 8000));
        stream.write_all(row.as_bytes()).await.unwrap();
    }
    stream.write_all(TAIL.as_bytes()).await.unwrap();
    // Good peers are served while it is read back.
    let mut answered = tokio::spawn(reply(stream));
    let mut served = 0;
    let answer = loop {
        let begun = Instant::now();
        let row = format!("{{\"itemid\":{other},\"clock\":5,\"ns\":5,\"value\":\"v\"}}");
        let ask = upload(Some(SESSION), &row);
        assert_eq!(server.ask(&ask).await["response"], "success");
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
        served += 1;
        tokio::select! {
            answer = &mut answered => break answer.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    };
    let held = watch.end();
    assert_eq!(answer, json!({"upload": "enabled", "response": "success"}));
    assert!(held < MEMORY, "{held} bytes for {length}");
    assert!(served > 1, "it was over before anybody else came");
    assert_eq!(count(&server, item).await, ROWS);
    let named = std::fs::read_dir(folder.path()).unwrap();
    let names: Vec<_> = named.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !names
            .iter()
            .any(|name| name.to_string_lossy().contains("payload")),
        "a process that dies leaves none behind: {names:?}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_uploads_in_every_form_are_stored_once_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), EnrolPolicy::Loopback, limits()).await;
    let item = server.proxied(&[ValueType::Text]).await[0];
    let rows: Vec<String> = (1..=500).map(|id| row(item, id, 12_000)).collect();
    let good = format!("{}{},{{}},7{TAIL}", head(), rows.join(","));
    assert!(good.len() > 5 * 1024 * 1024);
    // The last byte is missing, a row is no JSON, a key occurs twice, the session is none.
    let broken = [
        good[..good.len() - 1].to_owned(),
        good.replace(",7],", ",NaN],"),
        good.replace("\"more\":1", "\"more\":1,\"host\":\"other\""),
        good.replace("\"more\":1", "\"history data\":1"),
    ];
    for json in &broken {
        for compress in [false, true] {
            let frame = encode(json.as_bytes(), compress).unwrap();
            let answer = payload(&server.exchange(&frame).await);
            assert_eq!(answer["response"], "failed", "{answer}");
            assert_eq!(count(&server, item).await, 0);
        }
    }
    let session = good.replace(SESSION, "abc");
    let answer = payload(
        &server
            .exchange(&encode(session.as_bytes(), true).unwrap())
            .await,
    );
    assert_eq!(answer["info"], "invalid session token length 3");
    // What does not inflate to what it says is closed without a word.
    let mut lies = encode(good.as_bytes(), true).unwrap();
    lies[9] ^= 1;
    let mut cut = encode(good.as_bytes(), true).unwrap();
    let last = cut.len() - 1;
    cut[last] ^= 0xff;
    for frame in [lies, cut] {
        assert!(server.exchange(&frame).await.is_empty());
    }
    assert_eq!(count(&server, item).await, 0);
    // In both forms, at once and again: all of it is there once.
    let [plain, compressed] = [false, true].map(|c| encode(good.as_bytes(), c).unwrap());
    let both = tokio::join!(server.exchange(&plain), server.exchange(&compressed));
    for answer in [both.0, both.1, server.exchange(&plain).await] {
        let answer = payload(&answer);
        assert_eq!(answer["response"], "success", "{answer}");
        assert_eq!(answer["info"], "2 malformed rows were skipped");
    }
    assert_eq!(count(&server, item).await, 500);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_a_large_sender_are_counted_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), EnrolPolicy::Loopback, limits()).await;
    // A sender that an approved proxy shares its address with.
    server.proxied(&[ValueType::Text]).await;
    let items = [("k", muster_core::sample::ItemType::Trapper, ValueType::Text)];
    let item = server.declare("mon-s", None, &items).await[0];
    let value = "x".repeat(5000);
    let rows = vec![format!(r#"{{"host":"mon-s","key":"k","value":"{value}"}}"#); 2000].join(",");
    let ask = format!(
        r#"{{"data":[{rows},{{"host":"mon-s","key":"other","value":"x"}}],"request":"sender data"}}"#
    );
    assert!(ask.len() > 9 * 1024 * 1024);
    let answer = server.ask(&ask).await;
    let info = answer["info"].as_str().unwrap();
    assert!(
        info.starts_with("processed: 2000; failed: 1; total: 2001; "),
        "{info}"
    );
    assert_eq!(count(&server, item).await, 2000);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_place_for_them_large_uploads_are_refused_and_small_ones_taken() {
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    let server = Server::start(&spool, EnrolPolicy::Loopback, limits()).await;
    let item = server.proxied(&[ValueType::Text]).await[0];
    // The folder goes away under the server, as a full disk would take it.
    std::fs::rename(&spool, folder.path().join("gone")).unwrap();
    let large = format!("{}{}{TAIL}", head(), row(item, 1, 3_000_000));
    let answer = server.ask(&large).await;
    assert_eq!(
        answer,
        json!({"response": "failed", "info": "a payload of this size cannot be taken now"})
    );
    let reasons = server.control.refused_counts();
    assert!(reasons.iter().any(|(_, reason, _)| reason == "spool"));
    server.stop().await;
}
