//! The pScheduler wire: whole requests, and posted tasks.

use std::sync::LazyLock;

use bytes::Bytes;
use http::Request;
use muster_proto::json::parse;
use muster_proto::pscheduler::agent;
use muster_proto::pscheduler::controller::{Answer, What, decode, encode, encode_reject};
use muster_proto::pscheduler::json::{compact, contains_at_top, pretty};
use muster_proto::pscheduler::plugins::{Catalogue, participant_result};
use muster_proto::pscheduler::text::Medium;
use muster_proto::pscheduler::time::{IsoDuration, Stamp, Start, Until};
use muster_proto::pscheduler::wire::{Limits, TaskSpec};
use serde_json::Value;

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::new([]));

/// A request: method, target and body, separated by the first two line ends; and the same bytes as a
/// peer's answer.
///
/// # Panics
/// When a refusal has a status that is none, or JSON that was written does not read back.
pub fn request(data: &[u8]) {
    let limits = Limits::default();
    let answer = http::Response::new(Bytes::copy_from_slice(data));
    let _ = agent::answer_clock(&answer, &limits);
    let _ = agent::answer_run(&answer, &limits);
    let _ = agent::answer_task_id(&answer, &limits);
    let _ = agent::answer_tools(&answer, &limits);

    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let (Some(method), Some(target)) = (lines.next(), lines.next()) else {
        return;
    };
    let body = Bytes::copy_from_slice(lines.next().unwrap_or_default());
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("Host", "ps1.example.net")
        .body(body);
    let Ok(request) = request else { return };
    let ask = match decode(&request, &limits) {
        Ok(ask) => ask,
        Err(reject) => {
            assert!((400..=501).contains(&reject.status), "{}", reject.status);
            let _ = encode_reject(&reject);
            return;
        }
    };
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the rest carries no document"
    )]
    match ask.what {
        What::TestSpec { test, args } => {
            if let Ok(test) = CATALOGUE.test(&test)
                && let Ok(spec) = test.spec_of_args(&args)
            {
                written(&spec);
                let _ = test.check(&spec);
                let _ = test.spec_of_args(&test.args_of_spec(&spec));
            }
        }
        What::TestSpecIsValid {
            test,
            spec: Ok(spec),
        }
        | What::TestParticipants { test, spec } => {
            written(&spec);
            if let Ok(test) = CATALOGUE.test(&test) {
                let _ = test.check(&spec);
                let _ = test.participants(&spec);
                let _ = test.args_of_spec(&spec);
                let merged = participant_result(test.name(), &spec);
                let _ = test.render(Medium::Html, &merged);
                let _ = test.render(Medium::Plain, &spec);
            }
        }
        What::ToolsFor { test, spec } => {
            let _ = CATALOGUE.offers(&test, &spec, ask.api);
        }
        What::Tasks {
            pattern: Some(pattern),
            ..
        } => {
            written(&pattern);
            let mut steps = 10_000;
            if let Some(itself) = contains_at_top(&pattern, &pattern, &mut steps) {
                assert!(itself, "{pattern} does not contain itself");
            }
        }
        What::PostTask { document, .. } => post(document),
        _ => {}
    }
}

/// What was written reads back the same.
fn written(value: &Value) {
    let limits = Limits::default();
    for text in [compact(value), pretty(value)] {
        match parse(&text, &limits.json) {
            Ok(back) => assert_eq!(&back, value),
            // Written compactly, a document may be too short for its tree.
            Err(error) => assert!(error.what.starts_with("Too many values"), "{error}"),
        }
    }
    let _ = encode(Answer::Json(value.clone()), true);
}

/// A posted task; and the same text as durations and times.
///
/// # Panics
/// When a task that was taken is not taken again as it is kept, or a time does not read back.
pub fn task(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(duration) = IsoDuration::parse(text.trim()) {
        assert_eq!(IsoDuration::parse(&duration.to_string()), Ok(duration));
    }
    if let Ok(stamp) = Stamp::parse(text.trim()) {
        assert_eq!(Stamp::parse(&stamp.with_micros()), Ok(stamp));
    }
    let _ = Start::parse(text.trim()).map(|start| start.resolve(Stamp::from_micros(0)));
    let _ = Until::parse(text.trim()).map(|until| until.resolve(Stamp::from_micros(0)));
    if let Ok(document) = parse(text, &Limits::default().json) {
        written(&document);
        post(document);
    }
}

fn post(document: Value) {
    let limits = Limits::default();
    if CATALOGUE.check_task(&document).is_err() {
        return;
    }
    let Ok(task) = TaskSpec::of_document(document, &limits) else {
        return;
    };
    let again = TaskSpec::of_document(task.document.clone(), &limits);
    assert_eq!(again.as_ref(), Ok(&task));
    let _ = task
        .schedule
        .times(Stamp::from_micros(1_800_000_000_000_000));
    if let Ok(accepted) = CATALOGUE.accept(&task, "here", &limits) {
        assert!(accepted.duration > IsoDuration::ZERO && accepted.duration <= limits.duration_max);
        assert_eq!(accepted.participants.hosts.len(), 1);
    }
}
