//! Properties of the task decoder and of requests as a whole.

use std::sync::LazyLock;

use bytes::Bytes;
use http::Request;
use muster_proto::pscheduler::controller::decode;
use muster_proto::pscheduler::plugins::Catalogue;
use muster_proto::pscheduler::time::Stamp;
use muster_proto::pscheduler::wire::{Limits, TaskSpec};
use proptest::prelude::*;
use serde_json::{Value, json};

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::new([]));

fn length() -> impl Strategy<Value = String> {
    prop_oneof![
        (1_u32..100_000).prop_map(|secs| format!("PT{secs}S")),
        (1_u32..366).prop_map(|days| format!("P{days}D")),
        (1_u32..60, 1_u32..60).prop_map(|(m, s)| format!("PT{m}M{s}S")),
    ]
}

fn test() -> impl Strategy<Value = Value> {
    prop_oneof![
        (1_u32..=60).prop_map(|secs| {
            json!({"type": "idle", "spec": {"schema": 1, "duration": format!("PT{secs}S")}})
        }),
        any::<i64>().prop_map(|data| json!({"type": "noop", "spec": {"data": [data]}})),
        ("[a-z][a-z0-9]{0,20}(\\.[a-z]{1,9}){0,3}", 1_u32..100).prop_map(|(dest, count)| {
            json!({"type": "rtt", "spec": {"dest": dest, "count": count, "hostnames": false}})
        }),
        "[a-z][a-z0-9]{0,20}(:[0-9]{1,5})?"
            .prop_map(|dest| json!({"type": "clock", "spec": {"dest": dest}})),
        Just(json!({"type": "inventory", "spec": {"schema": 1}})),
        (0_u8..=32, 1_u32..100).prop_map(|(bits, workers)| {
            let spec = json!({"targets": [format!("10.0.0.0/{bits}")], "workers": workers});
            json!({"type": "netdiscovery", "spec": spec})
        }),
    ]
}

fn task() -> impl Strategy<Value = Value> {
    let start = prop_oneof![length(), length().prop_map(|length| format!("@{length}"))];
    let maybe = prop::option::of::<BoxedStrategy<String>>;
    (
        test(),
        maybe(length().boxed()),
        maybe(length().boxed()),
        maybe(start.boxed()),
        prop::option::of(1_u64..1_000_000),
        prop::option::of(any::<i32>()),
    )
        .prop_map(|(test, slip, repeat, start, max_runs, priority)| {
            let mut schedule = json!({});
            for (name, value) in [("slip", slip), ("repeat", repeat), ("start", start)] {
                if let Some(value) = value {
                    schedule[name] = json!(value);
                }
            }
            if let Some(max_runs) = max_runs {
                schedule["max-runs"] = json!(max_runs);
            }
            let mut task = json!({"schema": 3, "test": test, "schedule": schedule});
            if let Some(priority) = priority {
                task["priority"] = json!(priority);
            }
            task
        })
}

fn read(document: Value) -> Result<TaskSpec, String> {
    CATALOGUE.check_task(&document)?;
    TaskSpec::of_document(document, &Limits::default())
}

/// What stands at `member`, with a missing schema written out.
fn without_schema(mut spec: Value) -> Value {
    if let Some(members) = spec.as_object_mut() {
        members.remove("schema");
    }
    spec
}

proptest! {
    #[test]
    fn a_good_task_is_taken_and_kept_as_it_came(document in task(), now in 0_i64..4_000_000_000) {
        let task = read(document.clone()).map_err(TestCaseError::fail)?;
        prop_assert_eq!(&task.document, &document);
        prop_assert_eq!(read(task.document.clone()), Ok(task.clone()));
        let accepted = CATALOGUE
            .accept(&task, "here", &Limits::default())
            .map_err(|reject| TestCaseError::fail(reject.text))?;
        prop_assert!(accepted.duration.micros() > 0);
        prop_assert_eq!(accepted.participants.hosts.len(), 1);
        let now = Stamp::from_micros(now * 1_000_000);
        let times = task.schedule.times(now).map_err(TestCaseError::fail)?;
        prop_assert!(times.start.is_none_or(|start| start >= now));
        // The arguments it is shown with make the same specification again.
        let test = CATALOGUE.test(&task.kind).map_err(|reject| TestCaseError::fail(reject.text))?;
        let again = test.spec_of_args(&accepted.cli).map_err(TestCaseError::fail)?;
        prop_assert_eq!(without_schema(again), without_schema(task.spec));
    }

    #[test]
    fn a_spoilt_task_is_refused_never_a_panic(
        document in task(),
        at in prop::sample::select(vec![
            "schema", "test", "schedule", "tools", "archives", "contexts", "priority", "nosuch",
        ]),
        with in prop::sample::select(vec![
            json!(null), json!([1]), json!("x"), json!(-1), json!({"x": 1}), json!([[]]), json!(2),
        ]),
    ) {
        let mut document = document;
        document[at] = with;
        if let Ok(task) = read(document) {
            let _ = CATALOGUE.accept(&task, "here", &Limits::default());
        }
    }

    #[test]
    fn any_request_is_read_or_refused(
        method in prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"]),
        path in "(/(tests|tools|tasks|runs|first|spec|is-valid|api|[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}|%[0-9a-f]{2}|\\.\\.)){0,6}",
        query in "((spec|args|test|json|wait|limit|api|start|format|key)=([0-9a-zA-Z%+-]|%7b|%22){0,12}&){0,4}",
        body in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let target = format!("/pscheduler{path}?{query}");
        let request = Request::builder().method(method).uri(target).body(Bytes::from(body));
        let Ok(request) = request else { return Ok(()) };
        if let Err(reject) = decode(&request, &Limits::default()) {
            prop_assert!((400..=501).contains(&reject.status) && reject.status != 500);
        }
    }
}
