//! What one request alone decides.

use bytes::Bytes;
use http::Request;

use super::*;

fn ask(method: &str, target: &str, body: &str) -> Result<Ask, Reject> {
    let request = Request::builder()
        .method(method)
        .uri(format!("/pscheduler{target}"))
        .header("Host", "ps1.example.net")
        .body(Bytes::copy_from_slice(body.as_bytes()))
        .expect("request");
    decode(&request, &Limits::default())
}

fn what(target: &str) -> What {
    ask("GET", target, "").expect(target).what
}

fn refusal(method: &str, target: &str, body: &str) -> (u16, String) {
    let reject = ask(method, target, body).expect_err(target);
    (reject.status, reject.text)
}

const ID: &str = "a696ca36-aa06-4586-a60a-f4a4a5198638";

#[test]
fn booleans_are_true_in_every_way_clients_write_them() {
    for yes in [
        "detail",
        "detail=",
        "detail=True",
        "detail=1",
        "detail=YES",
        "x=1&detail",
    ] {
        let What::Task { detail, .. } = what(&format!("/tasks/{ID}?{yes}")) else {
            panic!("a task");
        };
        assert!(detail, "{yes}");
    }
    for no in ["", "detail=0", "detail=False", "detail=no", "detail=on"] {
        let What::Task { detail, .. } = what(&format!("/tasks/{ID}?{no}")) else {
            panic!("a task");
        };
        assert!(!detail, "{no}");
    }
}

#[test]
fn refusals_have_the_texts_of_the_original() {
    for (method, target, body, status, text) in [
        ("GET", "/nosuch", "", 404, "Resource not found."),
        (
            "GET",
            "/nosuch?api=99",
            "",
            501,
            "No API above 6 is supported",
        ),
        (
            "GET",
            "/api?api=x",
            "",
            400,
            "Invalid API value 'x': Invalid API value x: Invalid integer.",
        ),
        ("GET", "/mtu-safe", "", 400, "Missing destination"),
        ("GET", "/mtu", "", 400, "Missing destination"),
        ("GET", "/limits", "", 400, "No proposal provided"),
        (
            "GET",
            "/tests/rtt/spec?args=%7bbad",
            "",
            400,
            "JSON passed to 'args': Invalid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1) ",
        ),
        (
            "GET",
            "/tests/rtt/spec/is-valid",
            "",
            400,
            "No test spec provided",
        ),
        (
            "GET",
            "/tests/rtt/participants",
            "",
            400,
            "No test spec provided",
        ),
        (
            "GET",
            "/tasks?json=%7bbad",
            "",
            400,
            "Invalid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (
            "POST",
            "/tasks",
            "{bad",
            400,
            "Invalid task specification: Invalid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        ("GET", "/tasks/xyz", "", 404, "Resource not found."),
        (
            "GET",
            "/tasks/{a696ca36-aa06-4586-a60a-f4a4a5198638}",
            "",
            404,
            "Resource not found.",
        ),
        ("PUT", "/tasks", "", 405, "Method not allowed."),
        ("DELETE", "/tests", "", 405, "Method not allowed."),
        ("TRACE", "/tests", "", 405, "Method not allowed."),
        (
            "GET",
            "/exception",
            "",
            405,
            "GET not allowed on this resource",
        ),
        ("GET", "/debug", "", 403, "Forbidden"),
    ] {
        assert_eq!(
            refusal(method, target, body),
            (status, text.to_owned()),
            "{target}"
        );
    }
    let runs = format!("/tasks/{ID}/runs");
    for (target, status, text) in [
        (format!("{runs}/last"), 404, "Resource not found."),
        (
            format!("{runs}/{ID}?wait-merged&wait-local"),
            400,
            "Cannot wait on local and merged results",
        ),
        (
            format!("{runs}/first?wait=-1"),
            400,
            "Wait time must be >= 0",
        ),
        (
            format!("{runs}/{ID}/result?format=foo"),
            400,
            "Unsupported format foo",
        ),
        (
            format!("{runs}?limit=0"),
            400,
            "Invalid cardinal; expecting integer > 0",
        ),
        (format!("{runs}?start=x"), 400, "Invalid start time"),
    ] {
        assert_eq!(
            refusal("GET", &target, ""),
            (status, text.to_owned()),
            "{target}"
        );
    }
}

#[test]
fn a_wrong_method_names_the_right_ones() {
    let reject = ask("PUT", &format!("/tasks/{ID}"), "").expect_err("405");
    let response = encode_reject(&reject);
    assert_eq!(response.status(), 405);
    assert_eq!(
        response.headers().get("allow").expect("allow"),
        "GET, HEAD, POST, DELETE"
    );
}

#[test]
fn what_comes_with_later_issues_is_refused_by_name() {
    for (method, target) in [
        ("GET", "/schedule"),
        ("GET", "/monitor"),
        (
            "POST",
            "/tasks/a696ca36-aa06-4586-a60a-f4a4a5198638?participant=1",
        ),
        (
            "GET",
            "/tasks/a696ca36-aa06-4586-a60a-f4a4a5198638/runtimes",
        ),
        ("POST", "/tasks/a696ca36-aa06-4586-a60a-f4a4a5198638/runs"),
    ] {
        let (status, text) = refusal(method, target, "{}");
        assert_eq!(status, 501, "{target}");
        assert!(text.ends_with("is not supported by this server."), "{text}");
    }
}

#[test]
fn nobody_submits_for_somebody_else() {
    for (header, status, text) in [
        ("192.0.2.7;proxy;key", 403, "Requester proxying not allowed"),
        (
            "192.0.2.7;proxy",
            400,
            "Invalid X-pScheduler-Requester header",
        ),
        (
            "nowhere;proxy;key",
            400,
            "Invalid X-pScheduler-Requester header",
        ),
    ] {
        let request = Request::builder()
            .method("POST")
            .uri("/pscheduler/tasks")
            .header("X-pScheduler-Requester", header)
            .body(Bytes::from_static(b"{}"))
            .expect("request");
        let reject = decode(&request, &Limits::default()).expect_err(header);
        assert_eq!(
            (reject.status, reject.text.as_str()),
            (status, text),
            "{header}"
        );
    }
}

#[test]
fn names_are_decoded_once_and_never_climb() {
    for target in [
        "/tests/..",
        "/tests/%2e%2e",
        "/tests/%2fetc",
        "/tests/a%00",
        "/tests/a%5cb",
        "/tests//",
        "/tests/%c0%ae",
        "/tests/a/../rtt",
        "/tests/",
    ] {
        assert_eq!(refusal("GET", target, "").0, 404, "{target}");
    }
    let What::Plugin { name, .. } = what("/tests/%2572tt") else {
        panic!("a plugin")
    };
    assert_eq!(name, "%72tt");
}

#[test]
fn hosts_that_do_not_belong_in_addresses_are_refused() {
    for host in ["a/b", "a b", "<x>", "user@host", "a?b"] {
        let request = Request::builder()
            .uri("/pscheduler/")
            .header("Host", host)
            .body(Bytes::new())
            .expect("request");
        let reject = decode(&request, &Limits::default()).expect_err(host);
        assert_eq!(reject.status, 400);
    }
}

#[test]
fn encoded_bodies_and_oversized_ones_are_refused() {
    let request = Request::builder()
        .method("POST")
        .uri("/pscheduler/tasks")
        .header("Content-Encoding", "gzip")
        .body(Bytes::new())
        .expect("request");
    assert_eq!(
        decode(&request, &Limits::default()).map_err(|r| r.status),
        Err(415)
    );
    let limits = Limits {
        body_bytes_max: 4,
        ..Limits::default()
    };
    let request = Request::builder()
        .method("POST")
        .uri("/pscheduler/tasks")
        .body(Bytes::from_static(b"{    }"))
        .expect("request");
    assert_eq!(decode(&request, &limits).map_err(|r| r.status), Err(413));
}

#[test]
fn comments_are_dropped_from_what_comes_in() {
    let ask = ask(
        "POST",
        "/tasks",
        r##"{"#": "x", "test": {"#y": 1, "type": "idle"}}"##,
    );
    let What::PostTask { document, .. } = ask.expect("ask").what else {
        panic!("a task")
    };
    assert_eq!(document, serde_json::json!({"test": {"type": "idle"}}));
}

#[test]
fn answers_have_the_types_of_the_original() {
    let cases = [
        (
            Answer::Json(serde_json::json!({"_k": 1})),
            "application/json",
            "{\"_k\":null}\n",
        ),
        (
            Answer::JsonWithSecrets(serde_json::json!({"_k": 1})),
            "application/json",
            "{\"_k\":1}\n",
        ),
        (
            Answer::Bare("OK".to_owned()),
            "text/html; charset=utf-8",
            "OK\n",
        ),
        (
            Answer::Formatted {
                format: ResultFormat::Plain,
                text: "x \n\n".to_owned(),
            },
            "text/plain; charset=utf-8",
            "x\n",
        ),
    ];
    for (answer, mime, body) in cases {
        let response = encode(answer, false);
        assert_eq!(response.headers().get("content-type").expect("type"), mime);
        assert_eq!(response.body(), body);
    }
    let response = encode(
        Answer::See("https://h/pscheduler/tasks/1?detail".to_owned()),
        false,
    );
    assert_eq!(response.status(), 303);
    assert_eq!(
        response.headers().get("location").expect("location"),
        "https://h/pscheduler/tasks/1?detail"
    );
}
