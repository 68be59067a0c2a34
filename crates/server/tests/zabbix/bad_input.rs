//! The ZBXD rows of the abuse table, over real sockets: what is answered, how soon, at what cost in
//! memory, and that a good peer is served meanwhile (threats page, section 5).
#![expect(
    clippy::disallowed_methods,
    reason = "the time things take is what is looked at"
)]

use std::time::{Duration, Instant};

use muster_core::sample::{ItemType, ValueType};
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::frame::encode;
use muster_server::control::EnrolPolicy;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{SESSION, Server, payload, resident_bytes, upload};

/// What a bad frame gets.
enum Gets {
    /// Closed without a byte.
    Closed,
    /// `failed`, with this in its info.
    Failed(&'static str),
}

fn raw(flags: u8, length: u32, reserved: u32, body: &[u8]) -> Vec<u8> {
    let mut out = b"ZBXD".to_vec();
    out.push(flags);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&reserved.to_le_bytes());
    out.extend_from_slice(body);
    out
}

fn large(length: u64, reserved: u64) -> Vec<u8> {
    let mut out = b"ZBXD\x05".to_vec();
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&reserved.to_le_bytes());
    out
}

/// A compressed frame whose body and declared size may lie.
fn deflated(json: &[u8], declared: Option<u32>, edit: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let whole = encode(json, true).unwrap();
    let mut body = whole[13..].to_vec();
    edit(&mut body);
    let size = u32::try_from(json.len()).unwrap();
    raw(
        3,
        u32::try_from(body.len()).unwrap(),
        declared.unwrap_or(size),
        &body,
    )
}

fn plain(json: impl AsRef<[u8]>) -> Vec<u8> {
    encode(json.as_ref(), false).unwrap()
}

fn cases() -> Vec<(&'static str, Vec<u8>, Gets)> {
    use Gets::{Closed, Failed};
    let stats = br#"{"request":"zabbix.stats"}"#;
    let not_json = "cannot parse as a valid JSON object";
    let deep = format!(
        "{{\"request\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let row = |row: &str| upload(Some(SESSION), row);
    vec![
        ("wrong magic", b"HTTP/1.1 GET /\r\n\r\n".to_vec(), Closed),
        (
            "old text protocol",
            b"ZBX_GET_ACTIVE_CHECKS\nmon-a\n".to_vec(),
            Closed,
        ),
        (
            "json without a header",
            br#"{"request":"sender data"}"#.to_vec(),
            Closed,
        ),
        ("flags 0", raw(0, 2, 0, b"{}"), Closed),
        ("flags 2", raw(2, 2, 2, b"{}"), Closed),
        ("flags 8", raw(9, 2, 0, b"{}"), Closed),
        ("flags 0x81", raw(0x81, 2, 0, b"{}"), Closed),
        ("the large flag", large(2, 0), Closed),
        (
            "declared 16 MiB and one",
            raw(1, 16 * 1024 * 1024 + 1, 0, b"{"),
            Closed,
        ),
        ("declared 2^31", raw(1, 1 << 31, 0, b"{"), Closed),
        ("declared 2^32-1", raw(1, u32::MAX, 0, b"{"), Closed),
        ("declared 2^63", large(1 << 63, 0), Closed),
        ("declared 2^64-1", large(u64::MAX, u64::MAX), Closed),
        (
            "inflates to less",
            deflated(stats, Some(500), |_| ()),
            Closed,
        ),
        ("inflates to more", deflated(stats, Some(5), |_| ()), Closed),
        (
            "inflates to too much",
            raw(3, 100, 64 * 1024 * 1024 + 1, &[0; 100]),
            Closed,
        ),
        ("over the ratio", raw(3, 100, 60_000_000, &[0; 100]), Closed),
        (
            "cut zlib",
            deflated(stats, None, |b| b.truncate(b.len() - 6)),
            Closed,
        ),
        (
            "bad checksum",
            deflated(stats, None, |b| *b.last_mut().unwrap() ^= 0xff),
            Closed,
        ),
        (
            "bytes after zlib",
            deflated(stats, None, |b| b.extend_from_slice(b"{}")),
            Closed,
        ),
        (
            "gzip",
            raw(3, 10, 20, b"\x1f\x8b\x08\0\0\0\0\0\0\0"),
            Closed,
        ),
        ("raw deflate", raw(3, 3, 3, b"\x4b\x4c\x04"), Closed),
        (
            "bomb that lies",
            deflated(&vec![b'0'; 10_000_000], Some(20_000), |_| ()),
            Closed,
        ),
        (
            "nested compression",
            deflated(&encode(stats, true).unwrap(), None, |_| ()),
            Failed(not_json),
        ),
        ("empty", plain(""), Failed(not_json)),
        ("no json", plain("hello"), Failed(not_json)),
        ("array", plain("[1]"), Failed(not_json)),
        ("cut json", plain(r#"{"request":"#), Failed(not_json)),
        (
            "NaN",
            plain(r#"{"request":"sender data","clock":NaN}"#),
            Failed(not_json),
        ),
        (
            "Infinity",
            plain(r#"{"request":"sender data","clock":-Infinity}"#),
            Failed(not_json),
        ),
        ("depth 100000", plain(deep), Failed("nested deeper than 64")),
        (
            "NUL in a name",
            plain(r#"{"request":"active checks","host":"a\u0000b"}"#),
            Failed("NUL in a name"),
        ),
        (
            "lone surrogate in a name",
            plain(r#"{"request":"active checks","host":"a\ud800b"}"#),
            Failed("invalid UTF-8 in a name"),
        ),
        (
            "invalid UTF-8 in a name",
            plain(b"{\"request\":\"active checks\",\"host\":\"a\xffb\"}"),
            Failed("invalid UTF-8 in a name"),
        ),
        (
            "duplicate key",
            plain(r#"{"request":"proxy heartbeat","host":"px","host":"other"}"#),
            Failed("occurs twice"),
        ),
        (
            "duplicate key, escaped",
            plain(r#"{"request":"proxy heartbeat","host":"px","\u0068ost":"other"}"#),
            Failed("occurs twice"),
        ),
        (
            "duplicate key in a row",
            plain(row(
                r#"{"id":1,"itemid":1,"itemid":2,"clock":1,"ns":1,"value":"x"}"#,
            )),
            Failed("occurs twice"),
        ),
        (
            "repeated section elsewhere",
            plain(r#"{"request":"sender data","tasks":[],"tasks":[]}"#),
            Failed("occurs twice"),
        ),
        (
            "long number",
            plain(format!("{{\"a\":{}}}", "9".repeat(65))),
            Failed("number"),
        ),
        (
            "no request",
            plain(r#"{"foo":1}"#),
            Failed("cannot find pair with name \"request\""),
        ),
        (
            "unknown request",
            plain(r#"{"request":"a\u001b[31m"}"#),
            Failed("unknown request \"a\\u{1b}[31m\""),
        ),
        (
            "command",
            plain(r#"{"request":"command","scriptid":1,"hostid":1}"#),
            Failed("Permission denied."),
        ),
        (
            "script",
            plain(r#"{"request":"script","command":"id"}"#),
            Failed("unknown request"),
        ),
        (
            "alert.send",
            plain(r#"{"request":"alert.send"}"#),
            Failed("unknown request"),
        ),
        (
            "history.push",
            plain(r#"{"request":"history.push"}"#),
            Failed("unknown request"),
        ),
        (
            "short session",
            plain(upload(
                Some("abc"),
                r#"{"id":1,"itemid":1,"clock":1,"ns":1,"value":"x"}"#,
            )),
            Failed("invalid session token length 3"),
        ),
    ]
}

/// How much a refused frame may cost the process while it is looked at.
const MEMORY: u64 = 48 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_frames_are_refused_at_once_and_cost_little() {
    // Nobody is approved here, so all of it comes from strangers.
    let (_folder, server) = Server::with(EnrolPolicy::Approve).await;
    let item = [("k", ItemType::Trapper, ValueType::Text)];
    let item = server.declare("mon-a", None, &item).await[0];
    let before = resident_bytes();
    for (name, frame, gets) in cases() {
        let begun = Instant::now();
        let reply = tokio::time::timeout(Duration::from_secs(20), server.exchange(&frame)).await;
        let reply = reply.unwrap_or_else(|_| panic!("{name}: no end"));
        let took = begun.elapsed();
        match gets {
            Gets::Closed => assert!(reply.is_empty(), "{name}: {reply:02x?}"),
            Gets::Failed(info) => {
                assert!(!reply.is_empty(), "{name}: no reply");
                let reply = payload(&reply);
                assert_eq!(reply["response"], "failed", "{name}");
                let found = reply["info"].as_str().unwrap();
                assert!(found.contains(info), "{name}: {found}");
            }
        }
        assert!(took < Duration::from_secs(1), "{name} took {took:?}");
        let held = resident_bytes().saturating_sub(before);
        assert!(held < MEMORY, "{name}: {held} bytes more");
    }
    let row = r#"{"request":"sender data","data":[{"host":"mon-a","key":"k","value":"v"}]}"#;
    assert_eq!(server.ask(row).await["response"], "success");
    assert_eq!(server.texts(item).await, ["v"]);
    let reasons = server.control.refused_counts();
    let counted = |reason: &str| reasons.iter().any(|(_, found, _)| found == reason);
    for reason in [
        "magic",
        "flags",
        "too_long",
        "inflate",
        "size",
        "ratio",
        "truncated",
        "trailing",
        "json",
        "request",
    ] {
        assert!(counted(reason), "{reason} is not counted: {reasons:?}");
    }
    server.stop().await;
}

/// A good upload is answered within a second, and stored.
async fn assert_served(server: &Server, item: u64, value: &str) {
    let begun = Instant::now();
    let row = format!("{{\"itemid\":{item},\"clock\":5,\"ns\":5,\"value\":\"{value}\"}}");
    assert_eq!(
        server.ask(&upload(Some(SESSION), &row)).await["response"],
        "success"
    );
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(1),
        "a good request took {took:?}"
    );
    assert!(server.texts(item).await.iter().any(|text| text == value));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_ends_at_the_deadline_and_a_half_close_at_once() {
    let mut limits = Limits::default();
    // The real ones are 3 and 30 s; the arithmetic of each is the session's own test.
    limits.stranger.header_time = Duration::from_millis(600);
    limits.stranger.frame_time = Duration::from_millis(900);
    limits.stranger.frame_time_per_mib = Duration::ZERO;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), EnrolPolicy::Approve, limits).await;
    let item = [("k", ItemType::Trapper, ValueType::Text)];
    let item = server.declare("mon-a", None, &item).await[0];
    let cases: [(&str, Vec<u8>, bool, Duration); 6] = [
        ("nothing", Vec::new(), false, limits.stranger.header_time),
        (
            "half a header",
            b"ZBXD\x01\x05".to_vec(),
            false,
            limits.stranger.header_time,
        ),
        (
            "half a frame",
            raw(1, 500, 0, b"{\"request\":"),
            false,
            limits.stranger.frame_time,
        ),
        ("nothing, closed", Vec::new(), true, Duration::ZERO),
        (
            "half a header, closed",
            b"ZBXD\x01\x05".to_vec(),
            true,
            Duration::ZERO,
        ),
        (
            "half a frame, closed",
            raw(1, 500, 0, b"{\"request\":"),
            true,
            Duration::ZERO,
        ),
    ];
    for (name, bytes, half_close, deadline) in cases {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        if half_close {
            stream.shutdown().await.unwrap();
        }
        let mut reply = Vec::new();
        let read = stream.read_to_end(&mut reply);
        let _ = tokio::time::timeout(Duration::from_secs(20), read)
            .await
            .unwrap();
        let took = begun.elapsed();
        assert!(reply.is_empty(), "{name}");
        // The driver lingers for up to a second, reading what may still come.
        let bound = deadline + Duration::from_secs(3);
        assert!(
            took + Duration::from_millis(50) >= deadline && took < bound,
            "{name}: {took:?}"
        );
    }
    let row = r#"{"request":"sender data","data":[{"host":"mon-a","key":"k","value":"v"}]}"#;
    assert_eq!(server.ask(row).await["response"], "success");
    assert_eq!(server.texts(item).await, ["v"]);
    let reasons = server.control.refused_counts();
    for reason in ["header_timeout", "frame_timeout", "short"] {
        assert!(
            reasons.iter().any(|(_, found, _)| found == reason),
            "{reason}: {reasons:?}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_silent_strangers_do_not_keep_others_waiting() {
    let (_folder, server) = Server::with(EnrolPolicy::Loopback).await;
    let item = server.proxied(&[ValueType::Text]).await[0];
    let before = resident_bytes();
    let mut silent = Vec::new();
    for n in 0..400_u32 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // Each announces the most a known peer may and sends a little.
        stream
            .write_all(&raw(1, 600 * 1024 * 1024, n, &[b' '; 1000]))
            .await
            .unwrap();
        silent.push(stream);
    }
    for n in 0..20 {
        assert_served(&server, item, &format!("v{n}")).await;
    }
    let held = resident_bytes().saturating_sub(before);
    assert!(held < MEMORY, "{held} bytes for 400 silent connections");
    drop(silent);
    server.stop().await;
}

#[tokio::test]
async fn surplus_is_never_a_second_request() {
    let (_folder, server) = Server::with(EnrolPolicy::Loopback).await;
    let item = server.proxied(&[ValueType::Text]).await[0];
    let row = |n: u32| {
        format!("{{\"id\":{n},\"itemid\":{item},\"clock\":{n},\"ns\":0,\"value\":\"v{n}\"}}")
    };
    let both = [
        encode(upload(Some(SESSION), &row(1)).as_bytes(), true).unwrap(),
        encode(upload(Some(SESSION), &row(2)).as_bytes(), true).unwrap(),
    ]
    .concat();
    let reply = server.exchange(&both).await;
    assert_eq!(payload(&reply)["response"], "success");
    assert_eq!(server.texts(item).await, ["v1"]);
    server.stop().await;
}

#[tokio::test]
async fn bad_rows_are_counted_and_good_ones_stored() {
    let (_folder, server) = Server::with(EnrolPolicy::Loopback).await;
    let items = server
        .proxied(&[ValueType::Text, ValueType::Unsigned])
        .await;
    let (text, number) = (items[0], items[1]);
    let rows = [
        format!(
            "{{\"id\":\"1\",\"itemid\":\"{number}\",\"clock\":\"5\",\"ns\":\"6\",\"value\":\"7\"}}"
        ),
        format!("{{\"id\":0,\"itemid\":{text},\"clock\":5,\"ns\":6,\"value\":\"zero\"}}"),
        format!("{{\"itemid\":{text},\"clock\":6,\"ns\":6,\"value\":\"none\"}}"),
        format!(
            "{{\"id\":9223372036854775808,\"itemid\":{text},\"clock\":7,\"ns\":6,\"value\":\"over\"}}"
        ),
        format!("{{\"id\":2,\"itemid\":{text},\"clock\":-1,\"ns\":6,\"value\":\"before 1970\"}}"),
        format!("{{\"id\":3,\"itemid\":{text},\"clock\":8,\"ns\":1000000000,\"value\":\"ns\"}}"),
        format!(
            "{{\"id\":4,\"itemid\":{text},\"clock\":99999999999999999999,\"ns\":0,\"value\":\"clock\"}}"
        ),
        format!(
            "{{\"id\":5,\"itemid\":{text},\"clock\":9007199254740993,\"ns\":0,\"value\":\"far\"}}"
        ),
        "{}".to_owned(),
        "7".to_owned(),
    ];
    let ask = upload(Some(SESSION), &rows.join(","));
    for _ in 0..2 {
        let reply = server.ask(&ask).await;
        assert_eq!(reply["response"], "success");
        assert_eq!(reply["info"], "6 malformed rows were skipped");
    }
    assert_eq!(server.texts(number).await, ["7"]);
    let texts = server.texts(text).await;
    // Without an id there is no claim, so those came twice; the far one was stamped here, once.
    assert_eq!(texts, ["zero", "zero", "none", "none", "far"]);
    let far = server.history(text).await[4].clock;
    let now = server.control.clock().now().as_second();
    assert!((now - 60..=now).contains(&far), "{far}");
    server.stop().await;
}

#[tokio::test]
async fn broken_unicode_in_a_value_is_mended() {
    let (_folder, server) = Server::with(EnrolPolicy::Loopback).await;
    let item = server.proxied(&[ValueType::Text]).await[0];
    let row =
        format!("{{\"id\":1,\"itemid\":{item},\"clock\":5,\"ns\":6,\"value\":\"a\\ud800b\"}}");
    assert_eq!(
        server.ask(&upload(Some(SESSION), &row)).await["response"],
        "success"
    );
    let mut raw = upload(Some(SESSION), &row.replace("\"id\":1", "\"id\":2")).into_bytes();
    let at = raw.windows(6).position(|w| w == b"\\ud800").unwrap();
    raw.splice(at..at + 6, [0xff]);
    let reply = server.exchange(&encode(&raw, false).unwrap()).await;
    assert_eq!(payload(&reply)["response"], "success");
    assert_eq!(server.texts(item).await, ["a\u{fffd}b", "a\u{fffd}b"]);
    server.stop().await;
}

#[tokio::test]
async fn floods_of_rows_nobody_declared_are_taken_and_dropped() {
    let (_folder, server) = Server::with(EnrolPolicy::Loopback).await;
    server.proxied(&[ValueType::Text]).await;
    let hosts = server.control.hosts(None, 1000).await.unwrap().rows.len();
    let registration =
        "{\"clock\":5,\"host\":\"<script>alert(1)</script>\\n\\u202e\",\"host_metadata\":\"m\"}";
    let discovery = "{\"clock\":5,\"drule\":1,\"dcheck\":2,\"ip\":\"10.0.0.1\",\"dns\":\"<b>\\n\"}";
    let ask = format!(
        "{{\"request\":\"proxy data\",\"host\":\"px\",\"version\":\"6.0.14\",\"auto registration\":[{}],\"discovery data\":[{}]}}",
        vec![registration; 20_000].join(","),
        vec![discovery; 20_000].join(","),
    );
    let begun = Instant::now();
    assert_eq!(
        server.ask(&ask).await,
        json!({"upload": "enabled", "response": "success"})
    );
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        server.control.hosts(None, 1000).await.unwrap().rows.len(),
        hosts
    );
    server.stop().await;
}

#[tokio::test]
async fn a_reader_that_never_reads_does_not_hold_the_server() {
    let mut limits = Limits::default();
    limits.stranger.reply_time = Duration::from_millis(500);
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), EnrolPolicy::Loopback, limits).await;
    let item = server.proxied(&[ValueType::Text]).await[0];
    let mut stuck = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let ask = r#"{"request":"proxy config","host":"px","version":"6.0.14"}"#;
        stream.write_all(&plain(ask)).await.unwrap();
        stuck.push(stream);
    }
    assert_served(&server, item, "v").await;
    drop(stuck);
    server.stop().await;
}
