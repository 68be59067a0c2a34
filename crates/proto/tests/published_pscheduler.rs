//! Every example of the published description of the REST interface, given to the end that would
//! receive it.
//!
//! The text is older than the servers in the field: it writes paths relative to `/pscheduler`, asks
//! for the tools of a test with a `spec`, and names `/mtu`, which real servers call `/mtu-safe`. All
//! of it is understood; where the text breaks a literal, the JSON it means is used.

use bytes::Bytes;
use http::{Request, Response};
use muster_proto::pscheduler::agent::{answer_clock, answer_json, answer_tools};
use muster_proto::pscheduler::controller::{Answer, Ask, ClockSource, What, clock, decode, encode};
use muster_proto::pscheduler::plugins::Catalogue;
use muster_proto::pscheduler::time::Stamp;
use muster_proto::pscheduler::wire::{Base, Class, Limits, Reject, Scheme};
use serde_json::{Value, json};

fn ask(target: &str) -> Result<Ask, Reject> {
    let request = Request::builder()
        .uri(target)
        .header("Host", "pscheduler6.example.org")
        .body(Bytes::new())
        .expect("request");
    decode(&request, &Limits::default())
}

fn what(target: &str) -> What {
    ask(target).expect(target).what
}

fn response(body: &str) -> Response<Bytes> {
    Response::new(Bytes::copy_from_slice(body.as_bytes()))
}

fn base() -> Base {
    Base::new(Scheme::Https, "pscheduler6.example.org")
}

#[test]
fn parameters_of_all_endpoints() {
    let plain = ask("/pscheduler/api").expect("ask");
    assert_eq!((plain.api, plain.pretty), (1, false));
    let asked = ask("/pscheduler/api?api=2&pretty").expect("ask");
    assert_eq!((asked.api, asked.pretty), (2, true));
}

#[test]
fn the_server_itself() {
    assert_eq!(what("/pscheduler/"), What::Root);
    assert_eq!(what("/pscheduler/api"), What::Api);
    assert_eq!(what("/pscheduler/clock"), What::Clock);
    assert_eq!(what("/pscheduler/hostname"), What::Hostname);
    assert_eq!(what("/pscheduler/schedule-horizon"), What::ScheduleHorizon);
    for path in ["mtu", "mtu-safe"] {
        let target = format!("/pscheduler/{path}?dest=ps2.example.org");
        assert_eq!(
            what(&target),
            What::MtuSafe {
                dest: "ps2.example.org".to_owned()
            }
        );
    }
}

#[test]
fn answers_about_the_server_are_read_as_published() {
    let limits = Limits::default();
    let read = |body: &str| answer_json(&response(body), &limits).expect(body);
    let root = "This is the pScheduler API server on somehost.";
    assert_eq!(read(&format!("\"{root}\"\n")), json!(root));
    assert_eq!(read("2\n"), json!(2));
    assert_eq!(
        read("\"pscheduler6.example.org\"\n"),
        json!("pscheduler6.example.org")
    );
    assert_eq!(read("\"P1D\"\n"), json!("P1D"));
    // Published with a stray quote after `true`; what it means is a boolean.
    assert_eq!(
        read(r#"{ "safe": true, "message": "1500+" }"#)["safe"],
        json!(true)
    );
    let published = r#"{
        "offset": 1.9788742065429688e-05,
        "reference": "secondary reference (3) from 107.170.0.6",
        "source": "ntp",
        "synchronized": true,
        "time": "2017-08-04T14:16:13.744876-04:00"
    }"#;
    let (time, told) = answer_clock(&response(published), &limits).expect("clock");
    assert_eq!(time.with_micros(), "2017-08-04T18:16:13.744876+00:00");
    assert_eq!(told["source"], json!("ntp"));
}

#[test]
fn the_clock_served_has_the_published_members() {
    let now = Stamp::parse("2026-11-21T19:08:09.334498Z").expect("now");
    let free = clock(now, None);
    assert_eq!(free["time"], json!("2026-11-21T19:08:09.334498+00:00"));
    assert_eq!(free["synchronized"], json!(false));
    assert!(free.get("reference").is_none() && free.get("offset").is_none());
    let source = ClockSource {
        source: "ntp".to_owned(),
        reference: "secondary reference (3) from 107.170.0.6".to_owned(),
        offset_secs: 1.978_874_206_542_968_8e-5,
    };
    let kept = clock(now, Some(&source));
    for member in ["offset", "reference", "source", "synchronized", "time"] {
        assert!(kept.get(member).is_some(), "{member}");
    }
}

#[test]
fn listings_of_tests() {
    let catalogue = Catalogue::new([]);
    // Published without the prefix that all paths have.
    for target in ["/tests", "/pscheduler/tests"] {
        assert_eq!(
            what(target),
            What::Plugins {
                class: Class::Test,
                expanded: false
            }
        );
    }
    assert_eq!(
        what("/tests?expanded"),
        What::Plugins {
            class: Class::Test,
            expanded: true
        }
    );
    let urls = catalogue.listing(&base(), Class::Test, false);
    let first = urls.get(0).and_then(Value::as_str);
    assert_eq!(
        first,
        Some("https://pscheduler6.example.org/pscheduler/tests/clock")
    );
    let rtt = What::Plugin {
        class: Class::Test,
        name: "rtt".to_owned(),
    };
    assert_eq!(what("/tests/rtt"), rtt);
    let all = catalogue.listing(&base(), Class::Test, true);
    let rtt = all
        .as_array()
        .expect("list")
        .iter()
        .find(|test| test["name"] == "rtt");
    let rtt = rtt.expect("rtt").as_object().expect("object");
    for member in [
        "description",
        "href",
        "maintainer",
        "name",
        "scheduling-class",
        "schema",
        "version",
    ] {
        assert!(rtt.contains_key(member), "{member}");
    }
    assert_eq!(
        rtt["href"],
        json!("https://pscheduler6.example.org/pscheduler/tests/rtt")
    );
    assert_eq!(rtt["scheduling-class"], json!("background"));
}

#[test]
fn specifications_from_arguments() {
    let asked = what("/tests/rtt/spec?args=%5B%22--dest%22%2C%20%22www.example.com%22%5D");
    let What::TestSpec { test, args } = asked else {
        panic!("a specification is asked")
    };
    let catalogue = Catalogue::new([]);
    let spec = catalogue.test(&test).expect("test").spec_of_args(&args);
    assert_eq!(spec, Ok(json!({ "dest": "www.example.com", "schema": 1 })));
}

#[test]
fn validity_of_specifications() {
    let catalogue = Catalogue::new([]);
    let valid = |query: &str| {
        let asked = what(&format!("/tests/rtt/spec/is-valid?spec={query}"));
        let What::TestSpecIsValid { test, spec } = asked else {
            panic!("validity is asked")
        };
        catalogue
            .test(&test)
            .expect("test")
            .check(&spec.expect("JSON"))
    };
    assert_eq!(
        valid("%7B%20%22dest%22%3A%20%22www.example.com%22%20%7D"),
        Ok(())
    );
    // Published with the unexpected member named; real servers name the missing one first.
    let bad = valid("%7B%20%22bad%22%3A%20%22www.example.com%22%20%7D");
    assert_eq!(
        bad.map_err(String::from),
        Err("At /: 'dest' is a required property".to_owned())
    );
    let both = catalogue
        .test("rtt")
        .expect("rtt")
        .check(&json!({"dest": "b", "bad": 1}));
    let unexpected = "At /: Additional properties are not allowed ('bad' was unexpected)";
    assert_eq!(both.map_err(String::from), Err(unexpected.to_owned()));
}

#[test]
fn tools_of_a_test() {
    let target = "/tests/trace/tools?spec=%7B%20%22dest%22%3A%20%22www.example.com%22%20%7D";
    for (target, expanded) in [
        (target.to_owned(), false),
        (format!("{target}&expanded"), true),
    ] {
        assert_eq!(
            what(&target),
            What::TestTools {
                test: "trace".to_owned(),
                expanded
            }
        );
    }
    // `trace` comes later: its tools are a 404; those of a test that is there are listed.
    let catalogue = Catalogue::new([]);
    assert_eq!(
        catalogue
            .test("trace")
            .map(|_| ())
            .expect_err("trace")
            .status,
        404
    );
    let urls = catalogue.tool_listing(&base(), "rtt", false);
    assert_eq!(
        urls,
        json!(["https://pscheduler6.example.org/pscheduler/tools/ping"])
    );
    let expanded = catalogue.tool_listing(&base(), "rtt", true);
    let ping = expanded.get(0).and_then(Value::as_object).expect("ping");
    for member in [
        "description",
        "href",
        "maintainer",
        "name",
        "preference",
        "schema",
        "tests",
        "version",
    ] {
        assert!(ping.contains_key(member), "{member}");
    }
    // A peer's answer of the published shape names its tools.
    let published = r#"[{
        "description": "Map the route between hosts with traceroute",
        "href": "https://localhost/pscheduler/tools/traceroute",
        "name": "traceroute", "preference": 0, "schema": 1, "tests": ["trace"], "version": "1.0"
    }]"#;
    let tools = answer_tools(&response(published), &Limits::default());
    assert_eq!(tools, Ok(vec!["traceroute".to_owned()]));
}

#[test]
fn participants_of_a_test() {
    let query = "spec=%7B%20%22dest%22%3A%20%22ps.example.edu%22%20%7D";
    let asked = what(&format!("/tests/throughput/participants?{query}"));
    let What::TestParticipants { test, spec } = asked else {
        panic!("participants are asked")
    };
    // `throughput` comes later; the rule of a first null is the same for `rtt`.
    let catalogue = Catalogue::new([]);
    assert_eq!(
        catalogue
            .test(&test)
            .map(|_| ())
            .expect_err("throughput")
            .status,
        404
    );
    assert_eq!(
        catalogue
            .test("rtt")
            .expect("rtt")
            .participants(&spec)
            .to_json(),
        json!({ "participants": [null], "null-reason": "No source specified" })
    );
}

#[test]
fn the_routes_that_are_only_named() {
    let id = "a696ca36-aa06-4586-a60a-f4a4a5198638";
    for (method, target, status) in [
        ("GET", "/tools".to_owned(), 200),
        ("GET", "/tools/ping".to_owned(), 200),
        ("GET", "/archivers".to_owned(), 200),
        ("GET", "/archivers/http".to_owned(), 200),
        ("GET", "/archivers/http/data-is-valid".to_owned(), 200),
        ("GET", "/contexts".to_owned(), 200),
        ("GET", "/contexts/linuxnns".to_owned(), 200),
        ("GET", "/contexts/linuxnns/data-is-valid".to_owned(), 200),
        ("GET", "/tasks".to_owned(), 200),
        ("POST", "/tasks".to_owned(), 200),
        ("GET", format!("/tasks/{id}"), 200),
        ("POST", format!("/tasks/{id}"), 501),
        ("DELETE", format!("/tasks/{id}"), 200),
        ("GET", format!("/tasks/{id}/cli"), 200),
        ("GET", format!("/tasks/{id}/runtimes"), 501),
        ("GET", format!("/tasks/{id}/runs"), 200),
        ("POST", format!("/tasks/{id}/runs"), 501),
        ("GET", format!("/tasks/{id}/runs/{id}"), 200),
        ("PUT", format!("/tasks/{id}/runs/{id}"), 501),
        ("GET", format!("/tasks/{id}/runs/{id}/result"), 200),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(format!("/pscheduler{target}"))
            .body(Bytes::from_static(b"{}"))
            .expect("request");
        let got = decode(&request, &Limits::default()).map_or_else(|reject| reject.status, |_| 200);
        assert_eq!(got, status, "{method} {target}");
    }
}

#[test]
fn json_for_people_reads_back() {
    let value = json!({ "safe": true, "message": "1500+" });
    let written = encode(Answer::Json(value.clone()), true);
    assert_eq!(answer_json(&written, &Limits::default()), Ok(value));
}
