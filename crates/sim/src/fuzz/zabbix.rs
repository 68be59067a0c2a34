//! The Zabbix wire: frames as a listener takes them, and JSON as it comes out of a frame.

use muster_proto::zabbix::Limits;
use muster_proto::zabbix::agent::{ActiveChecksReply, ConfigReply, Reply};
use muster_proto::zabbix::check::{Question, parse_plain_answer};
use muster_proto::zabbix::data::ProxyData;
use muster_proto::zabbix::frame::{Decoder, Packet, encode};
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
/// When a checked text is no JSON, or an upload does not come back from what it encodes to.
pub fn json(data: &[u8]) {
    let limits = Limits::default();
    let _ = parse_plain_answer(data);
    let _ = Question::parse(data.to_vec(), &limits);
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
