//! Properties of the Zabbix codec: what is encoded is decoded, no input panics, memory follows the
//! input, and how bytes are split changes nothing.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::borrow::Cow;
use std::cell::Cell;
use std::time::Instant;

use muster_proto::Session as _;
use muster_proto::zabbix::Limits;
use muster_proto::zabbix::accepted::{self, Event};
use muster_proto::zabbix::agent::{ActiveChecksReply, ConfigReply, Reply};
use muster_proto::zabbix::check::Question;
use muster_proto::zabbix::config::{Configuration, HostRow, InterfaceRow, ItemRow};
use muster_proto::zabbix::data::{
    AutoregDetail, AutoregRow, AvailabilityRow, DiscoveryDetail, DiscoveryRow, HistoryRow,
    HostDataRow, LogMeta, ProxyData,
};
use muster_proto::zabbix::frame::{Decoder, encode};
use muster_proto::zabbix::json::check;
use muster_proto::zabbix::task::{TaskEntry, TaskResult};
use muster_proto::zabbix::wire::{Payload, Request};
use proptest::prelude::*;

/// Counts the bytes this thread holds, and the most it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // A thread that is ending has no counters any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + change);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

#[expect(unsafe_code, reason = "an allocator cannot be counted otherwise")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The system moves large blocks by their pages and holds them once.
        count(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `work` held at once beyond what was held before.
fn memory_of(work: impl FnOnce()) -> usize {
    let before = HELD.get();
    MOST.set(before);
    work();
    (MOST.get() - before).max(0).cast_unsigned()
}

fn text() -> impl Strategy<Value = Cow<'static, str>> {
    prop_oneof![
        "[a-z0-9 .]{0,12}".prop_map(Cow::Owned),
        any::<String>().prop_map(|s| Cow::Owned(s.replace('\0', ""))),
    ]
}

fn log() -> impl Strategy<Value = Option<Box<LogMeta<'static>>>> {
    let meta = (
        any::<Option<i64>>(),
        any::<Option<u64>>(),
        proptest::option::of(text()),
    );
    proptest::option::of(
        meta.prop_filter_map("nothing", |(mtime, lastlogsize, source)| {
            let meta = LogMeta {
                mtime,
                lastlogsize,
                source,
                ..LogMeta::default()
            };
            (meta != LogMeta::default()).then(|| Box::new(meta))
        }),
    )
}

fn history() -> impl Strategy<Value = HistoryRow<'static>> {
    let head = (
        proptest::option::of(1..=i64::MAX.unsigned_abs()),
        any::<u64>(),
        0..=i64::MAX,
    );
    (
        head,
        0_u32..1_000_000_000,
        any::<bool>(),
        proptest::option::of(any::<String>()),
        log(),
    )
        .prop_map(
            |((id, itemid, clock), ns, not_supported, value, log)| HistoryRow {
                id,
                itemid,
                clock,
                ns,
                not_supported,
                value: value.map(Cow::Owned),
                log,
            },
        )
}

fn discovery() -> impl Strategy<Value = DiscoveryRow<'static>> {
    (
        0..=i64::MAX,
        any::<u64>(),
        any::<Option<u64>>(),
        any::<std::net::IpAddr>(),
        text(),
        any::<u16>(),
    )
        .prop_map(|(clock, drule, dcheck, ip, dns, port)| {
            let detail = DiscoveryDetail {
                value: dns.clone(),
                dns,
            };
            DiscoveryRow {
                clock,
                drule,
                dcheck,
                ip: Cow::Owned(ip.to_string()),
                detail: (detail != DiscoveryDetail::default()).then(|| Box::new(detail)),
                port,
                status: u8::try_from(port % 2).unwrap(),
            }
        })
}

fn proxy_data() -> impl Strategy<Value = ProxyData<'static>> {
    let rows = |n: usize| 0..n;
    (
        proptest::collection::vec(history(), rows(8)),
        proptest::collection::vec(discovery(), rows(4)),
        proptest::collection::vec((any::<u64>(), 0_u8..3, text()), rows(3)),
        proptest::collection::vec((text(), any::<u16>(), text()), rows(3)),
        proptest::collection::vec((any::<u64>(), -1_i64..2, text()), rows(3)),
        (
            proptest::option::of(text()),
            any::<bool>(),
            proptest::option::of(0_i64..2_000_000_000),
        ),
    )
        .prop_map(
            |(history, discovery, availability, autoreg, tasks, (host, more, clock))| {
                let availability =
                    availability
                        .into_iter()
                        .map(|(interfaceid, available, error)| AvailabilityRow {
                            interfaceid,
                            available,
                            error,
                        });
                let autoreg = autoreg.into_iter().map(|(host, port, host_metadata)| {
                    let detail = AutoregDetail {
                        ip: host.clone(),
                        dns: host.clone(),
                        host_metadata,
                    };
                    AutoregRow {
                        clock: 5,
                        host,
                        detail: (detail != AutoregDetail::default()).then(|| Box::new(detail)),
                        port,
                        flags: u8::try_from(port % 3).unwrap(),
                        tls_accepted: 1,
                    }
                });
                let tasks = tasks.into_iter().map(|(parent_taskid, status, info)| {
                    TaskEntry::Result(Box::new(TaskResult {
                        of_data: more,
                        clock: 7,
                        parent_taskid,
                        status,
                        info,
                    }))
                });
                ProxyData {
                    active: true,
                    host,
                    session: Some(Cow::Borrowed("0123456789abcdef0123456789abcdef")),
                    availability: availability.collect::<Vec<_>>().into(),
                    history: history.into(),
                    discovery: discovery.into(),
                    autoregistration: autoreg.collect::<Vec<_>>().into(),
                    host_data: vec![HostDataRow {
                        hostid: 3,
                        active_status: 1,
                    }]
                    .into(),
                    tasks: tasks.collect::<Vec<_>>().into(),
                    more,
                    version: Some(Cow::Borrowed("6.0.14")),
                    clock,
                    ns: Some(5),
                    proxy_delay: more.then_some(3),
                    muster: more.then_some(Cow::Borrowed("m")),
                }
            },
        )
}

fn configuration() -> impl Strategy<Value = Configuration> {
    let host =
        (any::<u64>(), any::<String>(), 0_u8..4).prop_map(|(hostid, host, status)| HostRow {
            hostid,
            name: host.clone(),
            host,
            status,
        });
    let interface = (any::<u64>(), any::<u64>(), any::<bool>(), "[a-z0-9.]{0,9}").prop_map(
        |(interfaceid, hostid, main, ip)| InterfaceRow {
            interfaceid,
            hostid,
            kind: 1,
            dns: ip.clone(),
            port: ip.clone(),
            ip,
            use_ip: main,
            main,
        },
    );
    let item = (
        any::<u64>(),
        any::<u64>(),
        0_u8..22,
        any::<String>(),
        any::<Option<u32>>(),
    )
        .prop_map(|(itemid, hostid, kind, key, interfaceid)| ItemRow {
            itemid,
            hostid,
            kind,
            delay: key.clone(),
            key,
            status: kind % 2,
            value_type: kind % 5,
            interfaceid: interfaceid.filter(|id| *id != 0).map(u64::from),
            master_itemid: None,
            flags: 0,
        });
    (
        proptest::collection::vec(host, 0..4),
        proptest::collection::vec(interface, 0..4),
        proptest::collection::vec(item, 0..6),
    )
        .prop_map(|(hosts, interfaces, items)| Configuration {
            hosts,
            interfaces,
            items,
        })
}

/// Texts that are nearly JSON of ours.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just(":"),
        Just("\""),
        Just("\"request\":\"proxy data\""),
        Just("\"request\":\"sender data\""),
        Just("\"request\":\"agent data\""),
        Just("\"request\":\"active checks\""),
        Just("\"history data\":["),
        Just("\"tasks\":["),
        Just("\"data\":["),
        Just("\"host\":\"h\""),
        Just("{\"itemid\":1,\"clock\":1,\"ns\":1},"),
        Just("\"value\":"),
        Just("\"\\ud800\""),
        Just("1"),
        Just("-1e5"),
        Just("null"),
        Just("true"),
        Just(" "),
        Just("\\u0000"),
        Just("\u{fffd}"),
        Just("\"session\":\"0123456789abcdef0123456789abcdef\""),
        Just("ZBXD"),
        Just("{}"),
    ];
    prop_oneof![
        proptest::collection::vec(piece, 0..24).prop_map(|parts| parts.concat().into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..200),
    ]
}

/// Everything this crate does with a payload from outside.
fn decode_all(bytes: &[u8]) {
    let limits = Limits::default();
    let _ = Question::parse(bytes.to_vec(), &limits);
    let Ok(payload) = Payload::check(bytes.to_vec(), &limits) else {
        return;
    };
    let _ = payload.request();
    let _ = Reply::decode(&payload);
    let _ = ConfigReply::decode(&payload);
    let _ = ActiveChecksReply::decode(&payload);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn frames_come_back(payload in proptest::collection::vec(any::<u8>(), 0..5000), compress: bool) {
        let limits = Limits::default();
        let frame = encode(&payload, compress).unwrap();
        let mut decoder = Decoder::new(&limits.stranger, false);
        let (used, packet) = decoder.feed(&frame).unwrap();
        prop_assert_eq!(used, frame.len());
        prop_assert_eq!(packet.unwrap().open(&limits, &limits.stranger).unwrap(), payload);
    }

    #[test]
    fn uploads_come_back(data in proxy_data()) {
        let text = serde_json::to_string(&data).unwrap();
        let payload = Payload::check(text.into_bytes(), &Limits::default()).unwrap();
        let Ok(Request::ProxyData(found)) = payload.request() else { panic!() };
        prop_assert_eq!(*found, data);
    }

    #[test]
    fn configurations_come_back(wanted in configuration()) {
        let text = wanted.encode().into_bytes();
        // A key or name with NUL does not reach the wire: `host create` and `item create` refuse it.
        prop_assume!(!text.windows(6).any(|w| w == b"\\u0000"));
        let payload = Payload::check(text, &Limits::default()).unwrap();
        prop_assert_eq!(Configuration::decode(&payload).unwrap(), wanted);
    }

    #[test]
    fn no_payload_panics(bytes in nearly()) {
        decode_all(&bytes);
    }

    #[test]
    fn checked_text_is_json_for_serde_too(bytes in nearly()) {
        if let Ok(checked) = check(bytes, &Limits::default().json) {
            let again = checked.text().as_bytes().to_vec();
            prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(checked.text()).is_ok());
            let twice = check(again, &Limits::default().json).unwrap();
            prop_assert_eq!(twice.text(), checked.text());
            prop_assert!(!twice.replaced());
        }
    }

    #[test]
    fn any_split_gives_the_same_session(
        payload in nearly(),
        noise in proptest::collection::vec(any::<u8>(), 0..30),
        cuts in proptest::collection::vec(0_usize..300, 0..6),
        spoil in proptest::option::of((0_usize..40, any::<u8>())),
        compress: bool,
    ) {
        let mut bytes = encode(&payload, compress).unwrap();
        if let Some((at, with)) = spoil
            && let Some(byte) = bytes.get_mut(at)
        {
            *byte = with;
        }
        bytes.extend_from_slice(&noise);
        let whole = story(&[&bytes]);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.sort_unstable();
        let mut parts = Vec::new();
        let mut from = 0;
        for cut in cuts {
            parts.push(&bytes[from..cut]);
            from = cut;
        }
        parts.push(&bytes[from..]);
        prop_assert_eq!(story(&parts), whole);
    }

    #[test]
    fn any_prefix_needs_more_or_is_refused(payload in nearly(), cut in 0_usize..200, compress: bool) {
        let bytes = encode(&payload, compress).unwrap();
        let cut = cut.min(bytes.len() - 1);
        let mut decoder = Decoder::new(&Limits::default().stranger, false);
        let (used, packet) = decoder.feed(&bytes[..cut]).unwrap();
        prop_assert_eq!((used, packet), (cut, None));
    }

    #[test]
    fn memory_follows_the_input(data in proxy_data(), bytes in nearly()) {
        for bytes in [serde_json::to_vec(&data).unwrap(), bytes] {
            let limit = 8 * bytes.len() + 64 * 1024;
            let held = memory_of(|| decode_all(&bytes));
            prop_assert!(held <= limit, "{} bytes for {}", held, bytes.len());
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "any instant does as the start of a story"
)]
fn story(parts: &[&[u8]]) -> Vec<String> {
    let now = Instant::now();
    let mut session = accepted::Session::new(Limits::default(), false, now);
    for part in parts {
        session.handle_input(part, now);
    }
    session.handle_eof(now);
    let mut out = Vec::new();
    while let Some(event) = session.poll_event() {
        out.push(match event {
            Event::Request(packet) => format!("{packet:?}"),
            Event::Closed(reason) => reason.label().to_owned(),
            Event::Part(_) => "part".to_owned(),
            Event::Word(_) => "word".to_owned(),
        });
    }
    out
}

/// The shapes that cost most memory for each byte of text.
#[test]
fn memory_follows_the_densest_input() {
    let rows = |head: &str, row: &str| {
        let rows = vec![row; 40_000].join(",");
        format!("{{{head}[{rows}]}}").into_bytes()
    };
    let session = "\"session\":\"0123456789abcdef0123456789abcdef\",";
    let cases = [
        rows(
            "\"request\":\"proxy data\",\"history data\":",
            r#"{"itemid":1,"clock":1,"ns":1}"#,
        ),
        rows("\"request\":\"proxy data\",\"history data\":", "{}"),
        rows("\"request\":\"proxy data\",\"history data\":", "1"),
        rows(
            "\"request\":\"proxy data\",\"interface availability\":",
            r#"{"interfaceid":1,"available":1}"#,
        ),
        rows(
            "\"request\":\"proxy data\",\"auto registration\":",
            r#"{"clock":1,"host":""}"#,
        ),
        rows(
            "\"request\":\"proxy data\",\"discovery data\":",
            r#"{"clock":1,"drule":1,"ip":""}"#,
        ),
        rows(
            "\"request\":\"proxy data\",\"host data\":",
            r#"{"hostid":1,"active_status":1}"#,
        ),
        rows(
            "\"request\":\"proxy data\",\"tasks\":",
            r#"{"status":0,"parent_taskid":1}"#,
        ),
        rows("\"request\":\"proxy data\",\"tasks\":", r#"{"type":9}"#),
        rows(
            &format!("\"request\":\"agent data\",{session}\"data\":"),
            r#"{"itemid":1,"value":"1"}"#,
        ),
        rows(
            "\"request\":\"sender data\",\"data\":",
            r#"{"key":"","value":1}"#,
        ),
        rows("\"request\":\"sender data\",\"data\":", r#"{"value":1}"#),
        rows("\"a\":", "[]"),
        format!(
            "{{{}}}",
            (0..9_999)
                .map(|n| format!("\"{n}\":1"))
                .collect::<Vec<_>>()
                .join(",")
        )
        .into_bytes(),
    ];
    for bytes in cases {
        let limit = 8 * bytes.len() + 64 * 1024;
        let held = memory_of(|| decode_all(&bytes));
        let shown = String::from_utf8_lossy(&bytes[..90]).into_owned();
        assert!(held <= limit, "{held} bytes for {}: {shown}", bytes.len());
    }
}
