//! Every recorded exchange of real agents: the request is read by the server's end, the response by
//! the agent's end, and what we write ourselves holds against them.
//!
//! The recordings were made against a stub server whose first path segment chose its behaviour;
//! that segment is taken off, everything else is as it was sent.

#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Request, Response};
use muster_proto::fusion::agent::{self, AnswerError, PrologAnswer};
use muster_proto::fusion::body::Packing;
use muster_proto::fusion::controller::{self, Answer, Ask, Dialect, Reject, What};
use muster_proto::fusion::p2::{Content, Reading, Word};
use muster_proto::fusion::reply::JobOption;
use muster_proto::fusion::side::{self, Remote};
use muster_proto::fusion::xml::{Document, Element};
use muster_proto::fusion::{Limits, p2, p3};

struct Capture {
    name: String,
    request: Request<Bytes>,
    /// The body before it was packed.
    request_body: String,
    response: Response<Bytes>,
    response_body: String,
}

/// First path segments that chose the stub's behaviour.
const STUB_PATHS: [&str; 12] = [
    "/basic",
    "/err/400",
    "/err/401",
    "/err/403",
    "/err/404",
    "/err/500",
    "/err/503",
    "/errxml/500",
    "/garbage",
    "/empty",
    "/disabled",
    "/redir",
];
const STUB_PATHS_MORE: [&str; 3] = ["/ok", "/oauth", "/x"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../captures/fusioninventory")
}

fn captures() -> Vec<Capture> {
    let mut out = Vec::new();
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    folders.sort();
    for folder in folders {
        let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        files.sort();
        for file in files
            .into_iter()
            .filter(|f| f.extension().is_some_and(|e| e == "http"))
        {
            let name = format!(
                "{}/{}",
                folder.file_name().unwrap().to_string_lossy(),
                file.file_name().unwrap().to_string_lossy()
            );
            out.push(read(name, &std::fs::read_to_string(file).unwrap()));
        }
    }
    out
}

fn read(name: String, text: &str) -> Capture {
    let (request, response) = text
        .split_once("### RESPONSE (body shown decoded)\n")
        .unwrap();
    let (mark, request) = request.split_once('\n').unwrap();
    let (line, headers, request_body) = parts(request);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let target = STUB_PATHS
        .iter()
        .chain(&STUB_PATHS_MORE)
        .find_map(|stub| {
            target
                .strip_prefix(stub)
                .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .map_or(target, |rest| if rest.is_empty() { "/" } else { rest });
    let mut builder = Request::builder().method(method).uri(target);
    for (key, value) in &headers {
        builder = builder.header(*key, *value);
    }
    let packing = match mark {
        m if m.contains("wire encoding: zlib") => Packing::Zlib,
        m if m.contains("wire encoding: identity") || m.contains("wire encoding: none") => {
            Packing::Plain
        }
        other => panic!("{name}: {other}"),
    };
    let request_body = request_body.trim().to_owned();
    let wire = match request_body.is_empty() {
        true => Vec::new(),
        false => packing.pack(request_body.clone().into_bytes()),
    };
    let request = builder.body(Bytes::from(wire)).unwrap();

    let (line, headers, response_body) = parts(response);
    let mut builder = Response::builder().status(line.split(' ').nth(1).unwrap());
    let mut packing = Packing::Plain;
    for (key, value) in &headers {
        builder = builder.header(*key, *value);
        if *key == "Content-Type" && value.contains("zlib") {
            packing = Packing::Zlib;
        }
    }
    let response_body = response_body.trim().to_owned();
    let wire = match response_body.is_empty() {
        true => Vec::new(),
        false => packing.pack(response_body.clone().into_bytes()),
    };
    let response = builder.body(Bytes::from(wire)).unwrap();
    Capture {
        name,
        request,
        request_body,
        response,
        response_body,
    }
}

fn parts(text: &str) -> (&str, Vec<(&str, &str)>, &str) {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let line = lines.next().unwrap();
    (
        line,
        lines.map(|l| l.split_once(": ").unwrap()).collect(),
        body,
    )
}

impl Capture {
    fn ask(&self) -> Result<Ask, Reject> {
        controller::decode(&self.request, &Limits::default())
    }

    fn kind(&self) -> &str {
        self.name.split_once('-').map(|_| ()).unwrap();
        let file = self.name.rsplit('/').next().unwrap();
        file.strip_suffix(".http")
            .unwrap()
            .split_once('-')
            .unwrap()
            .1
    }
}

#[test]
fn there_are_captures() {
    assert!(captures().len() > 100, "{}", captures().len());
}

#[test]
fn every_request_decodes() {
    for capture in captures() {
        let name = &capture.name;
        let ask = match (capture.kind(), capture.ask()) {
            ("get", Err(reject)) => {
                // A redirected upload, or a poll for a pending answer nobody gave.
                let has_id = capture.request.headers().contains_key("glpi-request-id");
                let want = if has_id { 404 } else { 400 };
                assert_eq!(reject.reason.status().as_u16(), want, "{name}");
                continue;
            }
            (_, Ok(ask)) => ask,
            (_, Err(reject)) => panic!("{name}: {reject}"),
        };
        let software = ask.context.software.clone().unwrap();
        let wanted = if name.starts_with("01") || name.starts_with("02") || name.starts_with("08") {
            ("FusionInventory-Agent", "2.6-3")
        } else {
            ("GLPI-Agent", "1.12-dev")
        };
        assert_eq!(
            (software.name.as_str(), software.version.as_deref()),
            (wanted.0, Some(wanted.1))
        );
        let got = match &ask.what {
            What::Message(message) => match &message.content {
                Content::Prolog => "prolog",
                Content::Inventory(inventory) => {
                    assert!(inventory.identity().name.is_some(), "{name}");
                    "inventory"
                }
                Content::NetDiscovery(words) => word(words, "netdiscovery"),
                Content::NetInventory(words) => match words.as_slice() {
                    [Word::Device(Reading::Error { message, .. })] => {
                        assert!(message.starts_with("SNMP communication error"), "{name}");
                        "snmpquery-device-error"
                    }
                    words => word(words, "snmpquery"),
                },
            },
            What::Native(message) => match &message.content {
                p3::Content::Contact(contact) => {
                    assert!(
                        contact.installed.contains(&"inventory".to_owned()),
                        "{name}"
                    );
                    "contact"
                }
                p3::Content::Inventory(inventory) => {
                    assert!(inventory.identity().name.is_some(), "{name}");
                    "inventory"
                }
                p3::Content::Other(action) => panic!("{name}: {action}"),
            },
            What::Side(side::Ask::Config { .. }) => "getConfig",
            What::Side(side::Ask::Jobs { remote, .. }) => {
                assert_ne!(*remote, Remote::Main, "{name}");
                "getJobs"
            }
            What::Side(side::Ask::News { action, uuid, .. }) => {
                assert!(uuid.is_some(), "{name}");
                action
            }
            What::Token { client, .. } => {
                assert_eq!(client, "cid");
                "json"
            }
            What::News { .. } | What::Tasks(_) => panic!("{name}: {:?}", ask.what),
        };
        assert_eq!(got, capture.kind(), "{name}");
        // An answer comes back in the packing of the request.
        if matches!(ask.what, What::Message(_)) {
            let response = controller::encode(Answer::Accepted, &ask.context);
            assert_eq!(
                response.headers()["content-type"],
                capture.request.headers()["content-type"],
                "{name}"
            );
            assert_eq!(ask.context.dialect, Dialect::P2);
            agent::decode_reply(&response, &Limits::default()).unwrap();
        }
    }
}

fn word<T: std::fmt::Debug>(words: &[Word<T>], query: &str) -> &'static str {
    match (query, words) {
        ("netdiscovery", [Word::Start { .. }]) => "netdiscovery-start",
        ("netdiscovery", [Word::Count(_)]) => "netdiscovery-nbip",
        ("netdiscovery", [Word::Device(_)]) => "netdiscovery-device",
        ("netdiscovery", [Word::End]) => "netdiscovery-end",
        ("snmpquery", [Word::Start { .. }]) => "snmpquery-start",
        ("snmpquery", [Word::Device(_)]) => "snmpquery-device",
        ("snmpquery", [Word::End]) => "snmpquery-end",
        _ => panic!("{query}: {words:?}"),
    }
}

#[test]
fn every_response_is_read_by_the_agent_end() {
    let limits = Limits::default();
    for capture in captures() {
        let (name, response) = (&capture.name, &capture.response);
        let error = match capture.kind() {
            "prolog" => match agent::decode_prolog(response, &limits) {
                Ok(PrologAnswer::Legacy(reply)) => {
                    assert!(reply.send_inventory, "{name}");
                    assert_eq!(reply.prolog_freq, Some(24.0), "{name}");
                    None
                }
                Ok(PrologAnswer::Native(p3::Answer::Ok(_))) => None,
                Ok(other) => panic!("{name}: {other:?}"),
                Err(error) => Some(error),
            },
            "contact" => match agent::decode_native(response, &limits) {
                Ok(p3::Answer::Ok(Some(plan))) => {
                    assert_eq!(plan.native, ["inventory"], "{name}");
                    assert_eq!(plan.expiration, p3::Expiration::Seconds(86_400), "{name}");
                    None
                }
                other => panic!("{name}: {other:?}"),
            },
            "inventory" if capture.request_body.starts_with('{') => {
                match agent::decode_native(response, &limits) {
                    Ok(p3::Answer::Ok(_) | p3::Answer::Pending(_)) => None,
                    Ok(other) => panic!("{name}: {other:?}"),
                    Err(error) => Some(error),
                }
            }
            "get" => {
                assert!(matches!(
                    agent::decode_native(response, &limits),
                    Ok(p3::Answer::Ok(_))
                ));
                None
            }
            "getConfig" | "getJobs" | "setAnswer" | "setStatus" | "jobsDone" | "json" => {
                agent::decode_accepted(response, &limits).unwrap();
                None
            }
            _ => {
                agent::decode_reply(response, &limits).unwrap();
                None
            }
        };
        let status = response.status().as_u16();
        match error {
            None => assert!(matches!(status, 200 | 202), "{name}: {status}"),
            Some(AnswerError::Refused {
                status: got,
                message,
                ..
            }) => {
                assert_eq!(got.as_u16(), status, "{name}");
                let is_word = capture.response_body.contains(&message);
                assert!(is_word && !message.is_empty(), "{name}: {message}");
            }
            Some(AnswerError::Redirect(to)) => assert!(to.ends_with("/ok/"), "{name}: {to}"),
            Some(AnswerError::Empty) => assert!(capture.response_body.is_empty(), "{name}"),
            Some(AnswerError::Stranger(line)) => {
                assert!(capture.response_body.starts_with(&line), "{name}: {line}");
            }
            Some(other) => panic!("{name}: {other}"),
        }
    }
}

/// All leaves of a document by path, except what two agents may say differently.
fn leaves(text: &str) -> BTreeMap<String, Vec<String>> {
    fn walk(element: Element<'_>, path: &str, out: &mut BTreeMap<String, Vec<String>>) {
        let path = format!("{path}/{}", element.name());
        if matches!(element.name(), "MODULEVERSION" | "AGENTVERSION") {
            return;
        }
        if !element.has_children() {
            out.entry(path.clone())
                .or_default()
                .push(element.text().trim().to_owned());
        }
        for child in element.children() {
            walk(child, &path, out);
        }
    }
    let document = Document::parse(text.as_bytes(), &Limits::default()).unwrap();
    let mut out = BTreeMap::new();
    walk(document.root(), "", &mut out);
    out
}

#[test]
fn what_our_agent_writes_has_the_elements_of_the_real_ones() {
    let mut seen = 0;
    for capture in captures() {
        let Ok(Ask {
            what: What::Message(message),
            ..
        }) = capture.ask()
        else {
            continue;
        };
        let ours = message.to_xml();
        if !matches!(message.content, Content::Inventory(_)) {
            assert_eq!(
                leaves(&ours),
                leaves(&capture.request_body),
                "{}",
                capture.name
            );
        }
        let again = p2::Message::parse(ours.as_bytes(), &Limits::default()).unwrap();
        assert_eq!(again, message, "{}", capture.name);
        let packing = match capture.request.headers()["content-type"].as_bytes() {
            b"application/xml" => Packing::Plain,
            _ => Packing::Zlib,
        };
        let sent = agent::message_request("", &message, packing);
        assert_eq!(
            sent.headers()["content-type"],
            capture.request.headers()["content-type"]
        );
        assert_eq!(
            controller::decode(&sent, &Limits::default()).unwrap().what,
            What::Message(message)
        );
        seen += 1;
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn what_our_server_writes_has_the_elements_of_the_recorded_replies() {
    let mut jobs = 0;
    for capture in captures() {
        let Ok(PrologAnswer::Legacy(reply)) =
            agent::decode_prolog(&capture.response, &Limits::default())
        else {
            continue;
        };
        assert_eq!(
            leaves(&reply.to_xml()),
            leaves(&capture.response_body),
            "{}",
            capture.name
        );
        for option in &reply.options {
            if let JobOption::NetDiscovery(job) = option {
                assert!(!job.ranges.is_empty() && !job.credentials.is_empty());
                jobs += 1;
            }
        }
    }
    assert_eq!(jobs, 2);
}

#[test]
fn a_real_inventory_keeps_what_it_says() {
    let captures = captures();
    let find = |name: &str| captures.iter().find(|c| c.name == name).unwrap();
    let xml = find("01-legacy-inventory/002-inventory.http")
        .ask()
        .unwrap()
        .what;
    let json = find("03-glpi-native/002-inventory.http")
        .ask()
        .unwrap()
        .what;
    let (What::Message(xml), What::Native(json)) = (xml, json) else {
        panic!()
    };
    let (Content::Inventory(xml), p3::Content::Inventory(json)) = (xml.content, json.content)
    else {
        panic!()
    };
    for inventory in [&xml, &json] {
        assert_eq!(inventory.tag.as_deref(), Some("lab"));
        let identity = inventory.identity();
        assert_eq!(identity.name.as_deref(), Some("lab-host"));
        assert_eq!(identity.serial, None);
    }
    assert_eq!(
        xml.identity().os_name.as_deref(),
        Some("Debian GNU/Linux 12 (bookworm)")
    );
    let (a, b): (serde_json::Value, serde_json::Value) = (
        serde_json::from_str(&xml.content).unwrap(),
        serde_json::from_str(&json.content).unwrap(),
    );
    // One machine, two dialects: the sections they share have one shape.
    for section in [
        "controllers",
        "local_users",
        "local_groups",
        "storages",
        "softwares",
    ] {
        assert_eq!(a[section], b[section], "{section}");
    }
    assert!(!xml.partial && !json.partial);
    let partial = find("03-glpi-native/012-inventory.http")
        .ask()
        .unwrap()
        .what;
    let What::Native(p3::Message {
        content: p3::Content::Inventory(partial),
        ..
    }) = partial
    else {
        panic!()
    };
    assert!(partial.partial);
    let merged: serde_json::Value =
        serde_json::from_str(&partial.merged_over(&json.content)).unwrap();
    assert_eq!(merged["softwares"], b["softwares"]);
    assert_ne!(merged["processes"], b["processes"]);
}

#[test]
fn a_read_switch_keeps_its_ports() {
    let captures = captures();
    let name = "02-legacy-netdisc-netinv/014-snmpquery-device.http";
    let capture = captures.iter().find(|c| c.name == name).unwrap();
    let What::Message(message) = capture.ask().unwrap().what else {
        panic!()
    };
    assert_eq!(message.process.as_deref(), Some("202"));
    let Content::NetInventory(words) = message.content else {
        panic!()
    };
    let [Word::Device(Reading::Read { id, info, content })] = words.as_slice() else {
        panic!()
    };
    assert_eq!(id.as_deref(), Some("11"));
    assert_eq!(info.name(), Some("sw-lab-1"));
    assert_eq!(info.serial.as_deref(), Some("CN000MUST1"));
    let value: serde_json::Value = serde_json::from_str(content).unwrap();
    assert_eq!(value["ports"]["port"].as_array().unwrap().len(), 33);
}
