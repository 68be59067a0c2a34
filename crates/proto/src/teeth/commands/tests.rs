use serde_json::Value;

use super::*;

fn command(method: &str, params: &str) -> Command {
    Command {
        id: Json::parse("\"1\"").unwrap(),
        version: Json::parse("\"v1\"").unwrap(),
        method: Json::from(Value::from(method)),
        params: Json::parse(params).unwrap(),
    }
}

fn to_agent(method: &str, params: &str) -> Result<Option<ToAgent>, String> {
    ToAgent::read(&command(method, params), &Limits::default()).map_err(|e| e.to_string())
}

fn from_agent(method: &str, params: &str) -> Result<Option<FromAgent>, String> {
    FromAgent::read(&command(method, params), &Limits::default()).map_err(|e| e.to_string())
}

#[test]
fn parameters_are_checked_in_declared_order() {
    for (method, params, text) in [
        (
            "standby.prepare_image",
            "{}",
            "missing parameter \"task_id\" in \"standby.prepare_image\" command",
        ),
        (
            "standbye.run_image",
            r#"{"task_id":"t"}"#,
            "missing parameter \"image_id\" in \"standbye.run_image\" command",
        ),
        (
            "prepare_image",
            r#"{"image_id":"i"}"#,
            "missing parameter \"task_id\" in \"prepare_image\" command",
        ),
        (
            "standby.cache_images",
            r#"{"task_id":"t","images":["a"]}"#,
            "missing parameter \"image_ids\" in \"standby.cache_images\" command",
        ),
        (
            "standby.cache_images",
            r#"{"task_id":"t","image_ids":"a"}"#,
            "\"image_ids\" must be a list",
        ),
        (
            "standby.run_image",
            r#"{"task_id":"t","image_id":5}"#,
            "\"image_id\" must be a string or an object",
        ),
        (
            "decom.qc",
            r#"{"task_id":""}"#,
            "\"task_id\" must be a string of 1 to 256 bytes",
        ),
        (
            "decom.qc",
            r#"{"task_id":7}"#,
            "\"task_id\" must be a string of 1 to 256 bytes",
        ),
        (
            "muster.run",
            r#"{"task_id":"t"}"#,
            "missing parameter \"kind\" in \"muster.run\" command",
        ),
        (
            "muster.run",
            r#"{"task_id":"t","kind":"rtt"}"#,
            "missing parameter \"spec\" in \"muster.run\" command",
        ),
        (
            "muster.run",
            r#"{"task_id":"t","kind":"rtt","spec":1}"#,
            "\"spec\" must be an object",
        ),
    ] {
        assert_eq!(
            to_agent(method, params),
            Err(text.to_owned()),
            "{method} {params}"
        );
    }
    let long = format!(r#"{{"task_id":"{}"}}"#, "x".repeat(257));
    assert!(to_agent("decom.qc", &long).is_err());
    assert_eq!(to_agent("handshake", "{}"), Ok(None));
    assert_eq!(to_agent("", "{}"), Ok(None));
}

#[test]
fn every_spelling_of_every_verb_is_read() {
    for verb in Verb::ALL {
        for spelling in verb.spellings() {
            assert_eq!(Verb::of(spelling), Some(verb));
        }
    }
    for params in [
        r#"{"task_id":"t","image_id":"i"}"#,
        r#"{"task_id":"t","image_id":{"id":"i"}}"#,
        r#"{"task_id":"t","image":{"id":"i"}}"#,
        r#"{"task_id":"t","image_info":{"id":"i"}}"#,
    ] {
        assert!(matches!(
            to_agent("prepare_image", params),
            Ok(Some(ToAgent::Task(_)))
        ));
    }
}

#[test]
fn reports_are_judged() {
    for (params, text) in [
        (
            r#"{"state":"running"}"#,
            "missing parameter \"task_id\" in \"task_status\" command",
        ),
        (
            r#"{"task_id":"t"}"#,
            "missing parameter \"state\" in \"task_status\" command",
        ),
        (
            r#"{"task_id":"t","state":"starting"}"#,
            "invalid task state",
        ),
        (r#"{"task_id":"t","state":5}"#, "invalid task state"),
        (
            r#"{"task_id":"t","state":"running","percent":1}"#,
            "missing parameter \"eta\" in \"task_status\" command",
        ),
        (
            r#"{"task_id":"t","state":"running","eta":1}"#,
            "missing parameter \"percent\" in \"task_status\" command",
        ),
        (
            r#"{"task_id":"t","state":"running","eta":-1,"percent":1}"#,
            "\"eta\" must be a number of seconds, not negative",
        ),
        (
            r#"{"task_id":"t","state":"running","eta":1,"percent":100.5}"#,
            "\"percent\" must be a number from 0 to 100",
        ),
        (
            r#"{"task_id":"t","state":"running","eta":null,"percent":1}"#,
            "\"eta\" must be a number of seconds, not negative",
        ),
        (
            r#"{"task_id":"t","state":"error"}"#,
            "missing parameter \"msg\" in \"task_status\" command",
        ),
    ] {
        assert_eq!(
            from_agent("task_status", params),
            Err(text.to_owned()),
            "{params}"
        );
    }
    let good = r#"{"task_id":"t","state":"complete","result":{"n":1},"step":"s","seq":3}"#;
    let Ok(Some(FromAgent::TaskStatus(report))) = from_agent("task_status", good) else {
        panic!("a good report was refused");
    };
    assert_eq!(report.result.unwrap().as_str(), r#"{"n":1}"#);
    assert_eq!((report.step.as_deref(), report.seq), (Some("s"), Some(3)));
}

#[test]
fn handshakes_are_judged_and_cut() {
    for (params, text) in [
        ("{}", "missing parameter \"id\" in \"handshake\" command"),
        (
            r#"{"version":"1"}"#,
            "missing parameter \"id\" in \"handshake\" command",
        ),
        (
            r#"{"id":"m"}"#,
            "missing parameter \"version\" in \"handshake\" command",
        ),
        (
            r#"{"id":"","version":"1"}"#,
            "\"id\" must be a non-empty string",
        ),
        (
            r#"{"id":["m"],"version":"1"}"#,
            "\"id\" must be a non-empty string",
        ),
    ] {
        assert_eq!(
            from_agent("handshake", params),
            Err(text.to_owned()),
            "{params}"
        );
    }
    let id = "x".repeat(300);
    let methods: Vec<String> = (0..500).map(|n| format!("\"m{n}\"")).collect();
    let params = format!(
        r#"{{"id":"a\u202eb{id}","version":5,"token":"s3cret","methods":[1,{}]}}"#,
        methods.join(",")
    );
    let Ok(Some(FromAgent::Handshake(hello))) = from_agent("handshake", &params) else {
        panic!("a good handshake was refused");
    };
    assert_eq!(hello.id.chars().count(), 128);
    assert!(hello.id.starts_with("abx"));
    assert_eq!(hello.version, "5");
    assert_eq!(hello.methods.as_ref().unwrap().len(), 128);
    assert!(!format!("{hello:?}").contains("s3cret"));
}

#[test]
fn kinds_are_read_with_their_versions() {
    let params = r#"{"id":"m","version":"1","kinds":{"rtt":"0.1.0","x":5,"a\u002eb":"2"}}"#;
    let Ok(Some(FromAgent::Handshake(hello))) = from_agent("handshake", params) else {
        panic!("a good handshake was refused");
    };
    let kinds: Vec<_> = hello
        .kinds
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(kinds, [("a.b", "2"), ("rtt", "0.1.0")]);
}

#[test]
fn log_needs_message_then_time() {
    for (params, text) in [
        ("{}", "missing parameter \"message\" in \"log\" command"),
        (
            r#"{"message":"m"}"#,
            "missing parameter \"time\" in \"log\" command",
        ),
        (r#"{"message":"m","time":"x"}"#, "\"time\" must be a number"),
    ] {
        assert_eq!(from_agent("log", params), Err(text.to_owned()));
    }
}

#[test]
fn spellings_are_tried_in_order_and_remembered() {
    let old = Hello {
        id: "a:b:c:d".into(),
        version: "0.1-dev".into(),
        ..Hello::default()
    };
    let mut spellings = Spellings::default();
    let mut tried = Vec::new();
    while let Some(spelling) = spellings.choose(&old, Verb::RunImage) {
        tried.push(spelling);
        spellings.failed(&old, Verb::RunImage, spelling);
    }
    assert_eq!(
        tried,
        ["standby.run_image", "standbye.run_image", "run_image"]
    );
    spellings.worked(&old, Verb::PrepareImage, "prepare_image");
    assert_eq!(
        spellings.choose(&old, Verb::PrepareImage),
        Some("prepare_image")
    );
    assert_eq!(spellings.choose(&old, Verb::Run), None);
    let new = Hello {
        methods: Some(vec!["standby.run_image".into()]),
        ..old
    };
    assert_eq!(
        spellings.choose(&new, Verb::RunImage),
        Some("standby.run_image")
    );
    assert_eq!(spellings.choose(&new, Verb::Qc), None);
}

#[test]
fn a_real_endpoint_is_known_by_its_bridge() {
    let limits = Limits::default();
    let read = |text: &str| Welcome::read(&Json::parse(text).unwrap(), &limits);
    assert!(read(r#"{"id":"c","endpoint_rpc_host":"h","endpoint_rpc_port":8082}"#).kills_reports());
    assert!(!read(r#"{"id":"c","endpoint_rpc_host":"h","methods":["ping"]}"#).kills_reports());
    assert!(!read("null").kills_reports());
    assert!(!read(r#"{"id":"conn-1"}"#).kills_reports());
}
