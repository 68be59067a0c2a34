//! The Zabbix wire: frames as a listener takes them, and JSON as it comes out of a frame.

use muster_proto::zabbix::Limits;
use muster_proto::zabbix::agent::{ActiveChecksReply, ConfigReply, Reply};
use muster_proto::zabbix::check::{Question, parse_plain_answer};
use muster_proto::zabbix::data::ProxyData;
use muster_proto::zabbix::frame::{Decoder, Packet, encode};
use muster_proto::zabbix::pieces::Cutter;
use muster_proto::zabbix::wire::{Payload, Request};

/// A stream of frames: whole, byte by byte, and what is in the first of them.
///
/// # Panics
/// When a split changes what is decoded, or what was opened does not encode to itself.
pub fn frame(data: &[u8]) {
    let limits = Limits::default();
    let whole = frames(&[data]);
    let halves = data.split_at(data.len() / 2);
    assert_eq!(whole, frames(&[halves.0, halves.1]));
    if data.len() < 4096 {
        let bytes: Vec<&[u8]> = data.chunks(1).collect();
        assert_eq!(whole, frames(&bytes));
    }
    for packet in whole.0 {
        let compress = packet.header.compressed;
        let Ok(opened) = packet.open(&limits, &limits.stranger) else {
            continue;
        };
        if let Ok(again) = encode(&opened, compress) {
            let (found, refused) = frames(&[&again]);
            assert!(!refused || opened.len() > 16 * 1024 * 1024);
            if let Some(packet) = found.into_iter().next() {
                let reopened = packet.open(&limits, &limits.stranger).ok();
                assert_eq!(reopened.as_deref(), Some(opened.as_slice()));
            }
        }
        json(&opened);
    }
}

/// The frames in a stream, and whether it was refused in the end.
fn frames(parts: &[&[u8]]) -> (Vec<Packet>, bool) {
    let mut decoder = Decoder::new(&Limits::default().stranger, true);
    let mut found = Vec::new();
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            match decoder.feed(rest) {
                Ok((used, packet)) => {
                    rest = rest.get(used..).unwrap_or_default();
                    found.extend(packet);
                }
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}

/// A payload, given to everything that reads payloads.
///
/// # Panics
/// When a checked text is no JSON, an upload does not come back from what it encodes to, or its pieces
/// are not all of it.
pub fn json(data: &[u8]) {
    let limits = Limits::default();
    let _ = parse_plain_answer(data);
    let _ = Question::parse(data.to_vec(), &limits);
    in_pieces(data, &limits);
    let Ok(payload) = Payload::check(data.to_vec(), &limits) else {
        return;
    };
    assert!(serde_json::from_str::<serde::de::IgnoredAny>(payload.text()).is_ok());
    let _ = Reply::decode(&payload);
    let _ = ActiveChecksReply::decode(&payload);
    if let Ok(ConfigReply::Tables(tables)) = ConfigReply::decode(&payload) {
        let again = Payload::check(tables.encode().into_bytes(), &limits);
        if let Ok(again) = again {
            assert_eq!(
                ConfigReply::decode(&again),
                Ok(ConfigReply::Tables(tables)),
                "a configuration comes back"
            );
        }
    }
    if let Ok(Request::ProxyData(data)) = payload.request() {
        comes_back(&data, &limits);
    }
}

/// A payload cut in pieces, whatever blocks it comes in: together they have every row of it.
fn in_pieces(data: &[u8], limits: &Limits) {
    let cut = |block: usize| {
        let mut cutter = Cutter::new(&limits.json, usize::MAX);
        let mut pieces = Vec::new();
        for block in data.chunks(block) {
            let fed = cutter.feed(block, |piece| {
                pieces.push(piece);
                Ok(())
            });
            fed.ok()?;
        }
        Some((cutter.finish().ok()?, pieces))
    };
    let whole = cut(data.len().max(1));
    assert_eq!(whole, cut(7), "blocks make no difference");
    let (Some((envelope, pieces)), Ok(payload)) = (whole, Payload::check(data.to_vec(), limits))
    else {
        return;
    };
    let Ok(Request::ProxyData(whole)) = payload.request() else {
        return;
    };
    let mut rows = 0;
    for piece in pieces {
        let Ok(payload) = Payload::check(envelope.with(&piece), limits) else {
            panic!("a piece of a good message is bad");
        };
        let Ok(Request::ProxyData(part)) = payload.request() else {
            panic!("a piece of an upload became something else");
        };
        rows += part.history.rows.len();
    }
    assert_eq!(rows, whole.history.rows.len(), "every row is in a piece");
}

fn comes_back(data: &ProxyData<'_>, limits: &Limits) {
    let Ok(text) = serde_json::to_string(data) else {
        return;
    };
    let Ok(again) = Payload::check(text.into_bytes(), limits) else {
        return;
    };
    let Ok(Request::ProxyData(mut again)) = again.request() else {
        panic!("an upload became something else");
    };
    // What could not be read is not written, and an absent delay is a delay of none.
    let mut data = data.clone();
    for side in [&mut data, &mut *again] {
        side.history.bad = 0;
        side.discovery.bad = 0;
        side.availability.bad = 0;
        side.autoregistration.bad = 0;
        side.host_data.bad = 0;
        side.tasks.bad = 0;
        side.proxy_delay = side.proxy_delay.filter(|delay| *delay > 0);
    }
    assert_eq!(*again, data, "an upload comes back");
}
