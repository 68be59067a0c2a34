//! Calls that real clients made of real servers, given to the decoding end and to the catalogue.
//!
//! What needs no task, run or clock is answered here by the pure part alone and compared with what
//! the real server answered; the whole conversation is replayed against the router in
//! `muster-server`.

use std::path::Path;

use bytes::Bytes;
use http::Request;
use muster_proto::pscheduler::controller::{Answer, What, decode, encode, encode_reject};
use muster_proto::pscheduler::plugins::Catalogue;
use muster_proto::pscheduler::wire::{Base, Class, Limits, Reject, Scheme, TaskSpec};
use serde_json::{Value, json};

struct Exchange {
    n: u64,
    request: Request<Bytes>,
    status: u16,
    body: String,
}

fn exchanges(file: &str) -> Vec<Exchange> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../captures/pscheduler")
        .join(file);
    let text = std::fs::read_to_string(path).expect("a capture");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a line"));
    lines
        .filter(|line| line.get("case").is_none())
        .map(|line| {
            let text = |member: &str| line[member].as_str().unwrap_or("").to_owned();
            let query = text("query");
            let target = if query.is_empty() {
                text("path")
            } else {
                format!("{}?{query}", text("path"))
            };
            Exchange {
                n: line["n"].as_u64().expect("a number"),
                request: Request::builder()
                    .method(text("method").as_str())
                    .uri(target)
                    .header("Host", "ps1.example.net")
                    .body(Bytes::from(text("request_body")))
                    .expect("a request"),
                status: u16::try_from(line["status"].as_u64().expect("a status")).expect("small"),
                body: text("response_body"),
            }
        })
        .collect()
}

fn post(catalogue: &Catalogue, document: Value) -> Result<(), Reject> {
    let limits = Limits::default();
    let task = catalogue
        .check_task(&document)
        .and_then(|()| TaskSpec::of_document(document, &limits))
        .map_err(|text| Reject::new(400, format!("Invalid task specification: {text}")))?;
    catalogue
        .accept(&task, "ps1.example.net", &limits)
        .map(|_| ())
}

/// Answers what the pure part can answer by itself.
fn answer(catalogue: &Catalogue, request: &Request<Bytes>) -> Option<(u16, String)> {
    let base = Base::new(Scheme::Https, "ps1.example.net");
    let ask = match decode(request, &Limits::default()) {
        Ok(ask) => ask,
        Err(reject) => return Some(read(encode_reject(&reject))),
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest needs a server")]
    let answer = match ask.what {
        What::TestSpec { test, args } => catalogue.test(&test).and_then(|test| {
            let spec = test.spec_of_args(&args).map(Answer::Json);
            spec.map_err(|text| Reject::new(400, format!("{text}\n")))
        }),
        What::TestSpecIsValid { test, spec } => catalogue.test(&test).map(|test| {
            Answer::Json(
                match spec.and_then(|spec| test.check(&spec).map_err(String::from)) {
                    Ok(()) => json!({ "valid": true }),
                    Err(error) => json!({ "valid": false, "error": error }),
                },
            )
        }),
        What::TestParticipants { test, spec } => catalogue
            .test(&test)
            .map(|test| Answer::Json(test.participants(&spec).to_json())),
        What::Plugin {
            class: Class::Test,
            name,
        } => catalogue
            .test(&name)
            .map(|test| Answer::Json(test.enumeration())),
        What::Plugin {
            class: Class::Tool,
            name,
        } => catalogue
            .tool(&name)
            .map(|tool| Answer::Json(catalogue.tool_enumeration(tool))),
        What::Plugin { class, name } | What::PluginDataIsValid { class, name } => {
            Err(Reject::no_plugin(class.singular(), &name))
        }
        What::PostTask { document, .. } => match post(catalogue, document) {
            Ok(()) => return None,
            Err(reject) => Err(reject),
        },
        What::ToolsFor { test, spec } => Ok(Answer::Json(catalogue.offers(&test, &spec, ask.api))),
        What::Plugins { class, expanded } => {
            Ok(Answer::Json(catalogue.listing(&base, class, expanded)))
        }
        What::TestTools { test, expanded } => catalogue
            .test(&test)
            .map(|test| Answer::Json(catalogue.tool_listing(&base, test.name(), expanded))),
        _ => return None,
    };
    Some(read(match answer {
        Ok(answer) => encode(answer, ask.pretty),
        Err(reject) => encode_reject(&reject),
    }))
}

fn read(response: http::Response<Bytes>) -> (u16, String) {
    let body = String::from_utf8(response.body().to_vec()).expect("text");
    (response.status().as_u16(), body)
}

/// Reference calls that are answered another way than the original answers them, and why.
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
    (73, 404, "an unknown test is the caller's mistake"),
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
fn the_reference_calls_are_answered_with_the_recorded_status() {
    let catalogue = Catalogue::new([]);
    let mut answered = 0;
    for exchange in exchanges("00-rest-reference.jsonl") {
        let Some((status, body)) = answer(&catalogue, &exchange.request) else {
            continue;
        };
        answered += 1;
        let different = DIFFERENT.iter().find(|(n, ..)| *n == exchange.n);
        let want = different.map_or(exchange.status, |(_, status, _)| *status);
        assert_eq!(status, want, "call {}: {body}", exchange.n);
    }
    assert!(answered >= 60, "{answered} calls");
}

#[test]
fn texts_and_small_answers_are_those_of_the_real_server() {
    let catalogue = Catalogue::new([]);
    let exact = [
        8, 9, 10, 11, 15, 16, 17, 19, 20, 21, 22, 23, 24, 28, 29, 33, 43, 48, 50, 67, 69, 70, 71,
        72, 75, 91, 95, 100, 106, 111,
    ];
    let mut seen = 0;
    for exchange in exchanges("00-rest-reference.jsonl") {
        if !exact.contains(&exchange.n) {
            continue;
        }
        seen += 1;
        let (_, body) = answer(&catalogue, &exchange.request).expect("pure");
        match serde_json::from_str::<Value>(&exchange.body) {
            Ok(want) => {
                let have: Value = serde_json::from_str(&body).expect("JSON");
                assert_eq!(have, want, "call {}", exchange.n);
            }
            Err(_) => assert_eq!(body, exchange.body, "call {}", exchange.n),
        }
    }
    assert_eq!(seen, exact.len());
}

#[test]
fn help_lists_the_options_of_the_real_server() {
    let options = |text: &str| {
        let lines = text
            .lines()
            .filter(|line| line.starts_with("  -") || line.starts_with("-h"));
        let mut options: Vec<String> = lines
            .map(|line| {
                line.trim_start()
                    .split("  ")
                    .next()
                    .unwrap_or(line)
                    .to_owned()
            })
            .collect();
        options.sort();
        options
    };
    let mut reference = exchanges("00-rest-reference.jsonl").into_iter();
    let recorded = reference.find(|exchange| exchange.n == 18).expect("help");
    let (status, body) = answer(&Catalogue::new([]), &recorded.request).expect("answered");
    assert_eq!(status, 400);
    assert_eq!(options(&body), options(&recorded.body));
    assert!(body.contains("\nExamples:\n"));
}

#[test]
fn every_call_of_the_command_line_is_understood() {
    let catalogue = Catalogue::new([]);
    for file in [
        "01-ping.jsonl",
        "02-clock.jsonl",
        "03-task-idle.jsonl",
        "04-task-rtt.jsonl",
        "11-watch-result.jsonl",
        "19-errors.jsonl",
        "20-assist-remote.jsonl",
    ] {
        for exchange in exchanges(file) {
            let path = exchange.request.uri().path().to_owned();
            // A lead asks itself for free time and posts its own runs: here that is no call.
            let itself = path.ends_with("/runtimes")
                || (exchange.request.method() != "GET" && path.contains("/runs"));
            // Capture 19 posts a test that comes later, and two tasks with a header that makes the
            // original fail.
            let later = exchange
                .request
                .body()
                .windows(5)
                .any(|text| text == b"trace");
            if itself || later || exchange.status == 500 {
                continue;
            }
            if let Some((status, body)) = answer(&catalogue, &exchange.request) {
                let test = "/pscheduler/tests/trace";
                let want = if path.starts_with(test) {
                    404
                } else {
                    exchange.status
                };
                assert_eq!(status, want, "{file} {}: {body}", exchange.n);
            }
        }
    }
}
