//! Conversations that real clients had with a real server, held again with this one.
//!
//! Statuses, types and shapes of JSON are compared; ids are translated, times go by as recorded.
//! Where an answer differs on purpose the call is listed with its reason.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use serde_json::Value;

use super::kit::{Server, text, with_server};

struct Recorded {
    n: u64,
    dt: Option<f64>,
    from: String,
    method: String,
    path: String,
    query: String,
    body: String,
    status: u16,
    content_type: String,
    answer: String,
}

fn recorded(file: &str) -> Vec<Recorded> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../captures/pscheduler")
        .join(file);
    let lines = std::fs::read_to_string(path).unwrap();
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|line| line.get("case").is_none())
        .map(|line| {
            let text = |member: &str| line[member].as_str().unwrap_or("").to_owned();
            Recorded {
                n: line["n"].as_u64().unwrap(),
                dt: line["dt"].as_f64(),
                from: text("from"),
                method: text("method"),
                path: text("path"),
                query: text("query"),
                body: text("request_body"),
                status: line["status"].as_u64().unwrap() as u16,
                content_type: line["response_headers"]["Content-Type"]
                    .as_str()
                    .unwrap_or("")
                    .into(),
                answer: text("response_body"),
            }
        })
        .collect()
}

/// Their ids to ours.
#[derive(Default)]
struct Ids(BTreeMap<String, String>);

impl Ids {
    fn translate(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (theirs, ours)| {
            text.replace(theirs, ours)
        })
    }

    /// Puts down which of our ids stands where theirs did: at the end of an address.
    fn learn(&mut self, theirs: &str, ours: &str) {
        let tail = |url: &str| {
            let path = url.split('?').next().unwrap_or_default();
            path.trim_matches(['"', '\n'])
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let (theirs, ours) = (tail(theirs), tail(ours));
        if theirs.len() == 36 && ours.len() == 36 {
            self.0.insert(theirs, ours);
        }
    }
}

fn request(call: &Recorded, ids: &Ids) -> Request<Body> {
    let mut target = ids.translate(&call.path);
    if !call.query.is_empty() {
        target = format!("{target}?{}", call.query);
    }
    Request::builder()
        .method(call.method.as_str())
        .uri(target)
        .header("Host", "ps1.example.net")
        .header("User-Agent", "PycURL/7.45.2 libcurl/7.88.1")
        .header("Accept", "*/*")
        .body(Body::from(ids.translate(&call.body)))
        .unwrap()
}

/// Holds the conversation of `file` as far as it was led from the address `from`, here from `peer`.
async fn replay(
    server: &Server,
    file: &str,
    from: &str,
    peer: &str,
    different: &[(u64, u16, &str)],
) -> usize {
    let mut ids = Ids::default();
    let started = server.clock.instant();
    let mut calls = 0;
    for call in recorded(file) {
        if call.from != from {
            continue;
        }
        if let Some(dt) = call.dt {
            server
                .clock
                .sleep_until(started + Duration::from_secs_f64(dt))
                .await;
        }
        let answer = server
            .exchange(request(&call, &ids), &format!("{peer}:40000"))
            .await;
        let listed = different.iter().find(|(n, ..)| *n == call.n);
        let status = listed.map_or(call.status, |(_, status, _)| *status);
        let place = format!("{file} {}: {} {}", call.n, call.method, call.path);
        assert_eq!(
            answer.status().as_u16(),
            status,
            "{place}: {}",
            text(&answer)
        );
        if listed.is_none() {
            compare(&call, &answer, &place);
        }
        calls += 1;
        let theirs: Value = serde_json::from_str(&call.answer).unwrap_or_default();
        let ours: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        match (call.method.as_str(), answer.headers().get("location")) {
            ("POST", Some(location)) => ids.learn(&call.answer, location.to_str().unwrap()),
            ("POST", None) => {
                ids.learn(theirs.as_str().unwrap_or(""), ours.as_str().unwrap_or(""));
            }
            _ => {
                let href = |value: &Value| value["href"].as_str().unwrap_or("").to_owned();
                ids.learn(&href(&theirs), &href(&ours));
            }
        }
    }
    calls
}

fn compare(call: &Recorded, answer: &Response<bytes::Bytes>, place: &str) {
    let content_type = answer
        .headers()
        .get("content-type")
        .unwrap()
        .to_str()
        .unwrap();
    assert_eq!(content_type, call.content_type, "{place}");
    let ours = text(answer);
    assert!(ours.ends_with('\n'), "{place}");
    if content_type != "application/json" {
        return;
    }
    let ours: Value = serde_json::from_str(&ours).unwrap();
    // Long bodies were cut in the middle when they were recorded.
    let Ok(theirs) = serde_json::from_str::<Value>(&call.answer) else {
        return;
    };
    same_shape(&theirs, &ours, place, "");
}

/// Members and types are those of the real server; null and an empty list fit anything, as they
/// depend on the moment.
fn same_shape(theirs: &Value, ours: &Value, place: &str, at: &str) {
    match (theirs, ours) {
        (Value::Null, _) | (_, Value::Null) => {}
        (Value::Object(theirs), Value::Object(ours)) => {
            for (name, value) in theirs {
                // Whose plugins they are is told in fewer words here; a tool's own words are its own.
                if [
                    "maintainer",
                    "diags",
                    "result-full",
                    "participant-data-full",
                ]
                .contains(&name.as_str())
                {
                    continue;
                }
                let own = ours
                    .get(name)
                    .unwrap_or_else(|| panic!("{place}: {at}/{name} is missing"));
                same_shape(value, own, place, &format!("{at}/{name}"));
            }
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            if let (Some(theirs), Some(ours)) = (theirs.first(), ours.first()) {
                same_shape(theirs, ours, place, &format!("{at}/0"));
            }
        }
        (theirs, ours) => {
            let same = theirs.is_string() == ours.is_string()
                && theirs.is_number() == ours.is_number()
                && theirs.is_boolean() == ours.is_boolean()
                && theirs.is_array() == ours.is_array();
            assert!(same, "{place}: {at} is {ours}, not like {theirs}");
        }
    }
}

const CLIENT: &str = "10.99.0.3";

#[test]
fn ping_and_clock() {
    with_server(true, |server| async move {
        assert_eq!(
            replay(&server, "01-ping.jsonl", CLIENT, CLIENT, &[]).await,
            1
        );
        assert_eq!(
            replay(&server, "02-clock.jsonl", CLIENT, CLIENT, &[]).await,
            2
        );
    });
}

#[test]
fn the_life_of_an_idle_task() {
    with_server(true, |server| async move {
        server.with_agent().await;
        let calls = replay(&server, "03-task-idle.jsonl", CLIENT, CLIENT, &[]).await;
        assert!(calls >= 10, "{calls}");
    });
}

#[test]
fn the_life_of_an_rtt_task() {
    with_server(true, |server| async move {
        server.with_agent().await;
        let calls = replay(&server, "04-task-rtt.jsonl", CLIENT, CLIENT, &[]).await;
        assert!(calls >= 12, "{calls}");
    });
}

/// Calls of the reference that are answered another way, and why.
const DIFFERENT: &[(u64, u16, &str)] = &[
    (25, 404, "trace comes later"),
    (26, 404, "trace comes later"),
    (27, 404, "throughput comes later"),
    (39, 404, "archivers come later"),
    (40, 404, "archivers come later"),
    (41, 404, "archivers come later"),
    (42, 404, "archivers come later"),
    (46, 404, "contexts come later"),
    (47, 404, "contexts come later"),
    (66, 501, "counting the runs of a period comes later"),
    (68, 403, "refusals are plain text and end their line"),
    (73, 404, "an unknown test is the caller's mistake"),
    (74, 200, "a task without a schedule is taken"),
    (78, 400, "an end in the past is the caller's mistake"),
    (88, 200, "runs are planned at once"),
    (101, 501, "free time comes later"),
    (102, 501, "free time comes later"),
    (103, 501, "free time comes later"),
    (107, 501, "posted runs come later"),
    (108, 501, "posted runs come later"),
    (109, 501, "posted runs come later"),
    (118, 405, "a wrong method is the caller's mistake"),
    (119, 405, "a wrong method is the caller's mistake"),
    (120, 501, "the schedule listing comes later"),
    (121, 501, "the schedule listing comes later"),
    (122, 501, "the schedule listing comes later"),
    (123, 501, "the monitor listing comes later"),
    (124, 501, "the monitor listing comes later"),
];

#[test]
fn the_reference_calls() {
    with_server(false, |server| async move {
        server.with_agent().await;
        let calls = replay(
            &server,
            "00-rest-reference.jsonl",
            "10.99.0.1",
            "127.0.0.1",
            DIFFERENT,
        )
        .await;
        assert_eq!(calls, 124);
    });
}
