//! `muster decode`: what recorded bytes of a wire mean, one object for each message.
//!
//! The same codecs as on the wire, with the same limits: what they refuse here they refuse there,
//! in the same words.

use std::io::Read as _;

use muster_proto::fusion::{self, body, xml};
use muster_proto::json::{JsonLimits, parse};
use muster_proto::teeth::wire as teeth;
use muster_proto::zabbix::{self, frame};
use serde_json::{Map, Value, json};

use crate::cli::args::{DecodeArgs, Format, WireName};
use crate::cli::error::{CliError, Code};
use crate::cli::output::{Column, Output, column};

/// Most bytes looked at: a recording, not a disk.
const INPUT_MAX: u64 = 256 << 20;

const COLUMNS: &[Column] = &[
    column("at", "at"),
    column("kind", "kind"),
    column("message", "message"),
];

/// `muster decode`.
pub(in crate::cli) fn decode(out: Output, args: DecodeArgs) -> Result<(), CliError> {
    let bytes = read(&args)?;
    let (messages, failure) = match args.wire {
        WireName::Fusion => fusion(&bytes),
        WireName::Pscheduler => pscheduler(&bytes),
        WireName::Teeth => teeth_lines(&bytes),
        WireName::Zabbix => zabbix_frames(&bytes),
    };
    match messages.as_slice() {
        // One message is shown as what it is, not as a list of one.
        [only] if out.format != Format::Table && out.format != Format::Csv => out.object(only)?,
        _ => out.list(COLUMNS, &messages)?,
    }
    failure.map_or(Ok(()), Err)
}

fn read(args: &DecodeArgs) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let (name, result) = match &args.file {
        Some(path) if path.as_os_str() != "-" => (
            path.display().to_string(),
            std::fs::File::open(path)
                .and_then(|file| file.take(INPUT_MAX + 1).read_to_end(&mut bytes)),
        ),
        Some(_) | None => (
            "standard input".to_owned(),
            std::io::stdin()
                .lock()
                .take(INPUT_MAX + 1)
                .read_to_end(&mut bytes),
        ),
    };
    result.map_err(|e| CliError::failed(Code::FILE, format!("cannot read {name}: {e}")))?;
    if bytes.len() as u64 > INPUT_MAX {
        return Err(CliError::failed(
            Code::FILE,
            format!("{name} is longer than {INPUT_MAX} bytes"),
        ));
    }
    Ok(bytes)
}

/// What was understood, and why it stopped.
type Decoded = (Vec<Value>, Option<CliError>);

fn refused(at: &str, why: &dyn std::fmt::Display) -> CliError {
    CliError::failed(Code::DECODE_FAILED, format!("{at}: {why}"))
}

fn teeth_lines(bytes: &[u8]) -> Decoded {
    let limits = teeth::Limits::default();
    let mut messages = Vec::new();
    for (n, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let at = format!("line {}", n + 1);
        let message = if line.len() > limits.line_bytes {
            Err(teeth::Fatal::LineTooLong)
        } else {
            teeth::decode(line, &limits)
        };
        let kind = match message {
            Ok(teeth::Message::Blank) => continue,
            Ok(teeth::Message::Command(_)) => "command",
            Ok(teeth::Message::Result { .. }) => "result",
            Ok(teeth::Message::Error { .. }) => "error",
            Ok(teeth::Message::FatalError { .. }) => "fatal_error",
            Err(fatal) => return (messages, Some(refused(&at, &fatal))),
        };
        messages.push(json!({
            "at": at,
            "kind": kind,
            "message": serde_json::from_slice::<Value>(line).unwrap_or_default(),
        }));
    }
    (messages, None)
}

fn zabbix_frames(bytes: &[u8]) -> Decoded {
    let limits = zabbix::Limits::default();
    let peer = limits.of(true);
    let mut messages = Vec::new();
    let mut rest = bytes;
    let mut offset = 0;
    while !rest.is_empty() {
        let at = format!("byte {offset}");
        let mut decoder = frame::Decoder::new(peer, true);
        let (used, packet) = match decoder.feed(rest) {
            Ok((used, Some(packet))) => (used, packet),
            Ok((_, None)) => return (messages, Some(refused(&at, &"the frame is cut short"))),
            Err(e) => return (messages, Some(refused(&at, &e))),
        };
        let header = packet.header;
        let opened = match packet.open(&limits, peer) {
            Ok(opened) => opened,
            Err(e) => return (messages, Some(refused(&at, &e))),
        };
        let payload = serde_json::from_slice(&opened)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&opened).into_owned()));
        let kind = ["request", "response"]
            .into_iter()
            .find_map(|name| payload.get(name).and_then(Value::as_str))
            .unwrap_or("data");
        messages.push(json!({
            "at": at,
            "kind": kind,
            "header": {
                "flags": header.flags(),
                "compressed": header.compressed,
                "large": header.large,
                "length": header.length,
                "reserved": header.reserved,
            },
            "message": payload,
        }));
        offset += used;
        rest = rest.get(used..).unwrap_or_default();
    }
    (messages, None)
}

fn fusion(bytes: &[u8]) -> Decoded {
    let limits = fusion::Limits::default();
    let (head, content) = without_http_head(bytes);
    let content_type = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim()
            .eq_ignore_ascii_case("content-type")
            .then(|| value.trim())
    });
    let declared = body::Packing::declared(content_type);
    let opened = body::recognise(content, declared).and_then(|packing| {
        Ok((
            packing,
            body::unpack(content, packing, limits.inventory_bytes)?,
        ))
    });
    let (packing, opened) = match opened {
        Ok(opened) => opened,
        Err(e) => return (Vec::new(), Some(refused("the body", &e))),
    };
    let first = opened.iter().find(|b| !b.is_ascii_whitespace());
    let (kind, message) = if matches!(first, Some(b'{' | b'[')) {
        match serde_json::from_slice::<Value>(&opened) {
            Ok(value) => {
                let kind = value
                    .get("action")
                    .and_then(Value::as_str)
                    .unwrap_or("json")
                    .to_owned();
                (kind, value)
            }
            Err(e) => return (Vec::new(), Some(refused("the body", &e))),
        }
    } else {
        match xml::Document::parse(&opened, &limits) {
            Ok(document) => {
                let root = document.root();
                let kind = root
                    .value("QUERY")
                    .unwrap_or_else(|| root.name())
                    .to_owned();
                (kind, json!({ root.name(): tree(root) }))
            }
            Err(e) => return (Vec::new(), Some(refused("the body", &e))),
        }
    };
    let message = json!({
        "at": "body",
        "kind": kind,
        "packing": format!("{packing:?}").to_lowercase(),
        "message": message,
    });
    (vec![message], None)
}

/// The bytes after the head of a recorded HTTP message, and the head.
fn without_http_head(bytes: &[u8]) -> (String, &[u8]) {
    let is_http = [&b"GET "[..], b"POST ", b"HTTP/1."]
        .iter()
        .any(|begin| bytes.starts_with(begin));
    if !is_http {
        return (String::new(), bytes);
    }
    let ends = [&b"\r\n\r\n"[..], b"\n\n"];
    let end = ends
        .iter()
        .filter_map(|end| {
            bytes
                .windows(end.len())
                .position(|window| window == *end)
                .map(|at| at + end.len())
        })
        .min()
        .unwrap_or(bytes.len());
    let (head, content) = bytes.split_at(end);
    (String::from_utf8_lossy(head).into_owned(), content)
}

/// An element as JSON: text, or an object of its children; of several of one name a list.
fn tree(element: xml::Element<'_>) -> Value {
    if !element.has_children() {
        return Value::String(element.text().to_owned());
    }
    let mut members: Map<String, Value> = Map::new();
    for child in element.children() {
        let value = tree(child);
        match members.get_mut(child.name()) {
            None => {
                members.insert(child.name().to_owned(), value);
            }
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Value::Object(members)
}

fn pscheduler(bytes: &[u8]) -> Decoded {
    let (_, content) = without_http_head(bytes);
    let parsed = std::str::from_utf8(content)
        .map_err(|e| refused("the body", &e))
        .and_then(|text| parse(text, &JsonLimits::default()).map_err(|e| refused("the body", &e)));
    match parsed {
        Err(error) => (Vec::new(), Some(error)),
        Ok(message) => {
            let kind = if message.get("test").is_some() {
                "task"
            } else {
                "json"
            };
            (
                vec![json!({"at": "body", "kind": kind, "message": message})],
                None,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn teeth_lines_are_told_by_kind() {
        let lines = b"{\"id\":\"1\",\"version\":\"v1\",\"method\":\"ping\",\"params\":{}}\r\n\n\
            {\"id\":\"1\",\"version\":\"v1\",\"result\":null}\n{\"fatal_error\":\"bye\"}\n";
        let (messages, failure) = teeth_lines(lines);
        let kinds: Vec<&str> = messages.iter().filter_map(|m| m["kind"].as_str()).collect();
        assert_eq!(kinds, ["command", "result", "fatal_error"]);
        assert!(failure.is_none());
        let (messages, failure) = teeth_lines(b"{\"id\":\"1\"}\n");
        assert!(messages.is_empty());
        assert_eq!(
            failure.unwrap().title,
            "line 1: protocol violation: missing message version."
        );
    }

    #[test]
    fn frames_follow_each_other_and_a_cut_one_is_told() {
        let mut bytes =
            frame::encode(br#"{"request":"proxy heartbeat","host":"p"}"#, true).unwrap();
        let first = bytes.len();
        bytes.extend(frame::encode(br#"{"response":"success"}"#, false).unwrap());
        let (messages, failure) = zabbix_frames(&bytes);
        assert!(failure.is_none());
        assert_eq!(messages[0]["kind"], "proxy heartbeat");
        assert_eq!(messages[0]["header"]["flags"], 3);
        assert_eq!(messages[1]["at"], format!("byte {first}"));
        assert_eq!(messages[1]["message"]["response"], "success");
        let (messages, failure) = zabbix_frames(&bytes[..bytes.len() - 1]);
        assert_eq!(messages.len(), 1);
        assert!(failure.unwrap().title.contains("cut short"));
        let (_, failure) = zabbix_frames(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(failure.unwrap().code, Code::DECODE_FAILED);
    }

    #[test]
    fn fusion_bodies_with_and_without_head_and_packing() {
        let plain = b"<?xml version=\"1.0\"?><REQUEST><DEVICEID>d</DEVICEID><QUERY>PROLOG</QUERY>\
            <A>1</A><A>2</A></REQUEST>";
        let packed = body::Packing::Zlib.pack(plain.to_vec());
        let mut recorded =
            b"POST / HTTP/1.1\r\nContent-Type: application/x-compress-zlib\r\n\r\n".to_vec();
        recorded.extend(&packed);
        for bytes in [plain.to_vec(), packed, recorded] {
            let (messages, failure) = fusion(&bytes);
            assert!(failure.is_none());
            assert_eq!(messages[0]["kind"], "PROLOG");
            assert_eq!(messages[0]["message"]["REQUEST"]["A"], json!(["1", "2"]));
        }
        let (messages, _) = fusion(br#"{"action":"contact","deviceid":"d"}"#);
        assert_eq!(messages[0]["kind"], "contact");
        let (_, failure) = fusion(b"<REQUEST><A></REQUEST>");
        assert_eq!(failure.unwrap().code, Code::DECODE_FAILED);
    }

    #[test]
    fn pscheduler_documents_are_read_by_its_own_rules() {
        let (messages, _) = pscheduler(br#"{"schema":1,"test":{"type":"idle","spec":{}}}"#);
        assert_eq!(messages[0]["kind"], "task");
        let (_, failure) = pscheduler(b"{");
        assert_eq!(failure.unwrap().code, Code::DECODE_FAILED);
    }
}
