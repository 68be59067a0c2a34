//! Everything recorded from real Zabbix peers decodes, encodes to the same header and JSON, and is
//! understood by the end that would receive it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use muster_proto::Session as _;
use muster_proto::zabbix::accepted::{self, Event};
use muster_proto::zabbix::agent::{self, ActiveChecksReply, ConfigReply, Reply};
use muster_proto::zabbix::check::{self, Answer, Question};
use muster_proto::zabbix::config::Configuration;
use muster_proto::zabbix::data::ProxyData;
use muster_proto::zabbix::frame::{Decoder, FrameError, Header, Packet, encode};
use muster_proto::zabbix::wire::{Payload, Request};
use muster_proto::zabbix::{Limits, PeerLimits};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../captures/zabbix")
}

struct Exchange {
    name: String,
    description: Value,
    client: Vec<u8>,
    server: Vec<u8>,
}

fn exchanges() -> Vec<Exchange> {
    let mut out = Vec::new();
    for version in ["v60", "v70", "misc"] {
        let mut paths: Vec<_> = fs::read_dir(folder().join(version))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
            .collect();
        paths.sort();
        for path in paths {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let side =
                |side: &str| fs::read(path.with_file_name(format!("{name}.{side}.bin"))).unwrap();
            out.push(Exchange {
                name: format!("{version}/{name}"),
                description: serde_json::from_slice(&fs::read(&path).unwrap()).unwrap(),
                client: side("client"),
                server: side("server"),
            });
        }
    }
    assert!(out.len() > 80, "only {} captures", out.len());
    out
}

fn split(bytes: &[u8], limits: &PeerLimits) -> Result<Vec<Packet>, FrameError> {
    let mut decoder = Decoder::new(limits, true);
    let mut packets = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (used, packet) = decoder.feed(rest)?;
        rest = &rest[used..];
        packets.extend(packet);
    }
    Ok(packets)
}

fn open(packet: &Packet) -> Vec<u8> {
    let limits = Limits::default();
    packet.clone().open(&limits, &limits.known).unwrap()
}

fn header_of(bytes: &[u8]) -> Header {
    Header::parse(bytes).unwrap().unwrap().0
}

#[test]
fn frames_decode_and_encode_to_equal_headers_and_json() {
    let limits = Limits::default();
    let mut frames = 0;
    for exchange in exchanges() {
        for (side, bytes) in [("client", &exchange.client), ("server", &exchange.server)] {
            let described = exchange.description[side].as_array().unwrap();
            let packets = split(bytes, &limits.known).unwrap();
            assert_eq!(packets.len(), described.len(), "{} {side}", exchange.name);
            for (packet, described) in packets.iter().zip(described) {
                frames += 1;
                let name = format!("{} {side}", exchange.name);
                let header = packet.header;
                assert_eq!(u64::from(header.flags()), described["flags"], "{name}");
                assert_eq!(header.length, described["datalen"], "{name}");
                assert_eq!(header.reserved, described["reserved"], "{name}");
                let payload = open(packet);
                let json = &described["json"];
                if json.is_null() {
                    let text = String::from_utf8_lossy(&payload);
                    assert_eq!(text.as_ref(), described["text"], "{name}");
                } else {
                    let mut found: Value = serde_json::from_slice(&payload).unwrap();
                    elide(&mut found, json);
                    assert!(found == *json, "{name}");
                }
                let again = encode(&payload, header.compressed).unwrap();
                let header_again = header_of(&again);
                assert_eq!(header_again.flags(), header.flags(), "{name}");
                if header.compressed {
                    // Deflaters differ; what the header says of the text must not.
                    assert_eq!(header_again.reserved, header.reserved, "{name}");
                } else {
                    assert_eq!(header_again.length, header.length, "{name}");
                }
                let reopened = split(&again, &limits.known).unwrap();
                assert_eq!(open(&reopened[0]), payload, "{name}");
                assert_eq!(header_of(&header.encode()), header, "{name}");
            }
        }
    }
    assert!(frames > 160, "only {frames} frames");
}

/// The description of one capture leaves rows out in its middle; does the same to what was found.
fn elide(found: &mut Value, described: &Value) {
    let Some(rows) = described["history data"].as_array() else {
        return;
    };
    let note = |row: &Value| row.as_str().is_some_and(|text| text.contains("elided"));
    let Some(at) = rows.iter().position(note) else {
        return;
    };
    let all = found["history data"].as_array_mut().unwrap();
    assert_eq!(all.len(), 10_000);
    let end = all.len() - (rows.len() - at - 1);
    all.splice(at..end, [rows[at].clone()]);
}

#[test]
fn any_split_of_the_bytes_gives_the_same_frames() {
    let limits = Limits::default();
    for exchange in exchanges() {
        for bytes in [&exchange.client, &exchange.server] {
            let whole = split(bytes, &limits.known).unwrap();
            for step in [1, 2, 7, 64] {
                let mut decoder = Decoder::new(&limits.known, true);
                let mut found = Vec::new();
                for chunk in bytes.chunks(step) {
                    let mut rest = chunk;
                    while !rest.is_empty() {
                        let (used, packet) = decoder.feed(rest).unwrap();
                        rest = &rest[used..];
                        found.extend(packet);
                    }
                }
                assert_eq!(found, whole, "{} by {step}", exchange.name);
            }
        }
    }
}

fn payload(packet: &Packet) -> Payload {
    let limits = Limits::default();
    Payload::open(packet.clone(), &limits, &limits.known).unwrap()
}

/// Feeds what a real client sent to our commanding end.
#[test]
fn requests_of_real_peers_are_understood() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for exchange in exchanges() {
        let name = &exchange.name;
        let Some(request) = exchange.description["client"][0]["json"]["request"].as_str() else {
            continue;
        };
        if name.contains("passive") || request == "passive checks" {
            continue;
        }
        let packet = &split(&exchange.client, &Limits::default().known).unwrap()[0];
        let payload = payload(packet);
        let understood = payload
            .request()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        *seen.entry(request.to_owned()).or_default() += 1;
        let json: Value = serde_json::from_str(payload.text()).unwrap();
        match understood {
            Request::ProxyHeartbeat(hello) | Request::AgentHeartbeat(hello) => {
                assert_eq!(hello.host().unwrap(), json["host"]);
                assert_eq!(hello.version().unwrap(), json["version"]);
            }
            Request::ProxyConfig(config) => {
                assert_eq!(config.host().unwrap(), json["host"]);
                assert_eq!(config.session().is_some(), json.get("session").is_some());
            }
            Request::ProxyData(data) => {
                assert_eq!(data.bad_rows(), 0, "{name}");
                assert_same(&data, &json, name);
            }
            Request::ActiveChecks(checks) => assert_eq!(checks.host.as_ref(), json["host"]),
            Request::AgentData(data) => {
                assert_eq!(data.rows.bad, 0, "{name}");
                assert_eq!(data.rows.rows.len(), json["data"].as_array().unwrap().len());
            }
            Request::SenderData(data) => {
                assert_eq!(data.rows.bad, 0, "{name}");
                assert_eq!(serde_json::to_value(&*data).unwrap(), json, "{name}");
            }
        }
    }
    let kinds: Vec<_> = seen.keys().map(String::as_str).collect();
    let wanted = [
        "active check heartbeat",
        "active checks",
        "agent data",
        "proxy config",
        "proxy data",
        "proxy heartbeat",
        "sender data",
    ];
    assert_eq!(kinds, wanted);
}

/// What a real proxy uploaded comes back from our types, all of it that has a place in them.
fn assert_same(data: &ProxyData<'_>, json: &Value, name: &str) {
    let mut again = serde_json::to_value(data).unwrap();
    let mut json = json.clone();
    // A number or a string by version; both are read.
    for side in [&mut again, &mut json] {
        if let Some(rows) = side["auto registration"].as_array_mut() {
            for row in rows {
                let text = |value: &Value| value.to_string().trim_matches('"').to_owned();
                row["port"] = text(&row["port"]).into();
            }
        } else if let Some(map) = side.as_object_mut() {
            map.remove("auto registration");
        }
        if let Some(rows) = side["discovery data"].as_array_mut() {
            for row in rows {
                // 7.0 leaves an empty name out.
                if row["dns"] == "" || row["dns"].is_null() {
                    row.as_object_mut().unwrap().remove("dns");
                }
            }
        } else if let Some(map) = side.as_object_mut() {
            map.remove("discovery data");
        }
    }
    assert_eq!(again, json, "{name}");
}

/// Feeds what a real server answered to our working end.
#[test]
fn replies_of_real_servers_are_understood() {
    let mut configurations = 0;
    let mut replies = 0;
    for exchange in exchanges() {
        let name = &exchange.name;
        let request = exchange.description["client"][0]["json"]["request"].as_str();
        if name.contains("passive") || exchange.server.is_empty() {
            continue;
        }
        if exchange.description["client"][0]["json"] == serde_json::json!({"request": "proxy data"})
        {
            // A pull: what comes back is an upload.
            let packet = &split(&exchange.server, &Limits::default().known).unwrap()[0];
            let payload = payload(packet);
            let data: ProxyData<'_> = serde_json::from_str(payload.text()).unwrap();
            assert_same(&data, &serde_json::from_str(payload.text()).unwrap(), name);
            continue;
        }
        let packet = &split(&exchange.server, &Limits::default().known).unwrap()[0];
        match request {
            Some("proxy config") if name.starts_with("v60") => {
                let payload = payload(packet);
                let ConfigReply::Tables(tables) = ConfigReply::decode(&payload).unwrap() else {
                    panic!("{name}")
                };
                let json: Value = serde_json::from_str(payload.text()).unwrap();
                let rows = |table: &str| json[table]["data"].as_array().unwrap().len();
                assert_eq!(tables.hosts.len(), rows("hosts"), "{name}");
                assert_eq!(tables.interfaces.len(), rows("interface"), "{name}");
                assert_eq!(tables.items.len(), rows("items"), "{name}");
                configurations += 1;
            }
            Some("proxy config") if name.contains("outdated") => {
                let payload = payload(packet);
                assert!(matches!(
                    ConfigReply::decode(&payload),
                    Ok(ConfigReply::Refused(_))
                ));
            }
            Some("proxy data" | "proxy heartbeat" | "sender data" | "agent data") => {
                let payload = payload(packet);
                let reply = Reply::decode(&payload).unwrap();
                let json: Value = serde_json::from_str(payload.text()).unwrap();
                assert_eq!(reply.success, json["response"] == "success", "{name}");
                assert_eq!(reply.tasks.bad, 0, "{name}");
                let tasks = json["tasks"].as_array().cloned().unwrap_or_default();
                assert_eq!(
                    serde_json::to_value(&reply.tasks).unwrap(),
                    Value::Array(tasks)
                );
                if request == Some("sender data") && reply.success {
                    assert!(reply.processed().is_some(), "{name}");
                }
                replies += 1;
            }
            Some("active checks") => {
                let payload = payload(packet);
                let json: Value = serde_json::from_str(payload.text()).unwrap();
                match ActiveChecksReply::decode(&payload).unwrap() {
                    ActiveChecksReply::List(list) => {
                        assert_eq!(list.rows.len(), json["data"].as_array().unwrap().len());
                    }
                    ActiveChecksReply::Keep => assert!(json.get("data").is_none(), "{name}"),
                    ActiveChecksReply::Refused(_) => assert_eq!(json["response"], "failed"),
                }
            }
            _ => {}
        }
    }
    assert!(
        configurations >= 2 && replies > 30,
        "{configurations} {replies}"
    );
}

#[test]
fn passive_checks_of_real_pollers_and_agents() {
    let limits = Limits::default();
    let mut checks = 0;
    for exchange in exchanges() {
        let name = &exchange.name;
        if !(name.contains("passive-check") || name.starts_with("misc/")) {
            continue;
        }
        checks += 1;
        let asked = open(&split(&exchange.client, &limits.known).unwrap()[0]);
        let question = Question::parse(asked, &limits).unwrap();
        let answered = open(&split(&exchange.server, &limits.known).unwrap()[0]);
        match question {
            Question::Plain { .. } => match check::parse_plain_answer(&answered) {
                Answer::Value(value) => {
                    assert_eq!(question.answer(&Answer::Value(value)), answered)
                }
                Answer::NotSupported(why) => {
                    assert_eq!(
                        question.answer(&Answer::NotSupported(why)),
                        answered,
                        "{name}"
                    );
                }
            },
            Question::Json { ref key } => assert!(!key.is_empty(), "{name}"),
        }
    }
    assert!(checks >= 8, "only {checks}");
}

#[test]
fn the_smallest_configuration_a_real_proxy_accepted_is_read_and_written() {
    let limits = Limits::default();
    let bytes = fs::read(folder().join("minimal/config-60.json")).unwrap();
    let wanted: Value = serde_json::from_slice(&bytes).unwrap();
    let read = Configuration::decode(&Payload::check(bytes, &limits).unwrap()).unwrap();
    let written: Value = serde_json::from_str(&read.encode()).unwrap();
    for (table, rows) in wanted.as_object().unwrap() {
        assert_eq!(written[table], *rows, "{table}");
    }
}

struct Probe {
    name: String,
    client: Vec<u8>,
    server: Vec<u8>,
}

fn probes(file: &str) -> Vec<Probe> {
    let text = fs::read_to_string(folder().join("probes").join(file)).unwrap();
    let hex = |value: &Value| {
        let digits = value.as_str().unwrap();
        (0..digits.len() / 2)
            .map(|n| u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).unwrap())
            .collect()
    };
    text.lines()
        .map(|line| {
            let json: Value = serde_json::from_str(line).unwrap();
            Probe {
                name: json["probe"].as_str().unwrap().to_owned(),
                client: hex(&json["client_hex"]),
                server: hex(&json["server_hex"]),
            }
        })
        .collect()
}

/// What our commanding end does before any front is asked.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Closed without a byte.
    Closed(&'static str),
    /// Refused with this text.
    Refused(String),
    /// Still reading.
    Reading,
    /// Handed to the front.
    Request,
}

#[expect(
    clippy::disallowed_methods,
    reason = "any instant does as the start of a story"
)]
fn judge(bytes: &[u8]) -> Verdict {
    let limits = Limits::default();
    let now = Instant::now();
    let mut session = accepted::Session::new(limits, false, now);
    session.handle_input(bytes, now);
    let mut event = session.poll_event();
    if event.is_none() {
        session.handle_eof(now);
        event = session.poll_event();
    }
    match event {
        None => Verdict::Reading,
        Some(Event::Part(_) | Event::Word(_)) => unreachable!("nobody asked for these"),
        Some(Event::Closed(reason)) => Verdict::Closed(reason.label()),
        Some(Event::Request(packet)) => match Payload::open(packet, &limits, &limits.stranger) {
            Err(muster_proto::zabbix::wire::OpenError::Frame(error)) => {
                Verdict::Closed(error.label())
            }
            Err(muster_proto::zabbix::wire::OpenError::Json(error)) => {
                Verdict::Refused(error.to_string())
            }
            Ok(payload) => match payload.request() {
                Ok(_) => Verdict::Request,
                Err(reject) => Verdict::Refused(reject.info),
            },
        },
    }
}

/// Crafted requests, good and bad, that were put to real servers: ours closes where they close,
/// and says what they say; where it says more the threats page asks for it.
#[test]
fn probes_of_real_servers() {
    let closed = |why| Verdict::Closed(why);
    let refused = |why: &str| Verdict::Refused(why.to_owned());
    let cases: BTreeMap<&str, Verdict> = [
        ("bad-magic", closed("magic")),
        ("sender-bare-json-no-header", closed("magic")),
        ("active-checks-legacy-text", closed("magic")),
        ("flag-0", closed("flags")),
        ("flag-2-no-protocol-bit", closed("flags")),
        ("flag-9", closed("flags")),
        // As 7.0 does, and 6.0 does not: the large form is for configurations only.
        ("flag-large-5", closed("flags")),
        ("flag-large-compressed-7", closed("flags")),
        ("len-large-17GiB", closed("flags")),
        ("len-2GiB", closed("too_long")),
        ("len-too-long-then-eof", closed("short")),
        ("partial-header-eof", closed("short")),
        ("bad-zlib", closed("inflate")),
        ("reserved-too-big", closed("size")),
        ("reserved-too-small", closed("size")),
        (
            "empty-payload",
            refused("cannot parse as a valid JSON object: it does not begin with {"),
        ),
        (
            "json-array",
            refused("cannot parse as a valid JSON object: it does not begin with {"),
        ),
        (
            "bad-json",
            refused(
                "cannot parse as a valid JSON object: unexpected end of object value at byte 11",
            ),
        ),
        // The first message of its declared length counts; here it is cut JSON.
        (
            "len-too-short",
            refused("cannot parse as a valid JSON object: unexpected end of object at byte 10"),
        ),
        (
            "no-request-tag",
            refused("cannot find pair with name \"request\""),
        ),
        ("unknown-request", refused("unknown request \"muster\"")),
        ("zabbix-stats", refused("Permission denied.")),
        ("trailing-newline-json", refused("Permission denied.")),
        ("queue-get-nosid", refused("Permission denied.")),
        ("status-get-badsid", refused("Permission denied.")),
        ("command-nosid", refused("Permission denied.")),
        (
            "active-checks-no-host",
            refused("cannot find pair with name \"host\""),
        ),
        (
            "agent-data-bad-session",
            refused("invalid session token length 1"),
        ),
        (
            "data-short-session",
            refused("invalid session token length 3"),
        ),
        (
            "sender-no-data",
            refused("cannot find pair with name \"data\""),
        ),
    ]
    .into();
    for file in ["server60.jsonl", "server70.jsonl"] {
        let probes = probes(file);
        for name in cases.keys() {
            assert!(
                probes.iter().any(|probe| probe.name == *name),
                "no probe {name} in {file}"
            );
        }
        for probe in probes {
            let found = judge(&probe.client);
            let wanted = cases.get(probe.name.as_str()).unwrap_or(&Verdict::Request);
            assert_eq!(found, *wanted, "{file} {}", probe.name);
        }
    }
}

/// What real servers answered to the probes is understood by our working end.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "any instant does as the start of a story"
)]
fn answers_to_probes() {
    let limits = Limits::default();
    for file in ["server60.jsonl", "server70.jsonl"] {
        for probe in probes(file) {
            let now = Instant::now();
            let form = agent::Form::PROXY_CONFIG;
            let patience = limits.short_reply_time;
            let mut session = agent::Session::new(b"{}", form, &limits, patience, now).unwrap();
            session.handle_input(&probe.server, now);
            session.handle_eof(now);
            match session.poll_event() {
                Some(agent::Event::Reply(packet)) => {
                    let payload = Payload::open(packet, &limits, &limits.known).unwrap();
                    if probe.name.starts_with("config-") {
                        continue;
                    }
                    Reply::decode(&payload).unwrap();
                }
                Some(agent::Event::Closed(reason)) => {
                    assert!(probe.server.is_empty(), "{file} {}: {reason}", probe.name);
                    assert_eq!(reason.to_string(), "empty string received");
                }
                None => panic!("{file} {}", probe.name),
            }
        }
    }
}
