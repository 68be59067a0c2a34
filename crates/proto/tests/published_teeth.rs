//! Every example and every command of the published text of teeth, fed to the side that would
//! receive it: served, or answered with the protocol's refusal.

#![expect(
    clippy::disallowed_methods,
    reason = "tests need one instant to count from"
)]

use std::time::Instant;

use muster_proto::Session as _;
use muster_proto::teeth::commands::{Hello, Verb};
use muster_proto::teeth::{Json, Limits, agent, controller};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};

fn agent() -> agent::Session {
    let hello = Hello {
        id: "m".into(),
        version: "1".into(),
        ..Hello::default()
    };
    let config = agent::Config {
        limits: Limits::default(),
        hello,
    };
    let mut session = agent::Session::new(
        config,
        Box::new(ChaCha8Rng::seed_from_u64(1)),
        Instant::now(),
    );
    session.poll_output();
    session
}

fn server() -> controller::Session {
    let config = controller::Config {
        limits: Limits::default(),
        admission: controller::Admission::Open,
        idle: controller::IdleRule::Close,
        server: "muster".into(),
        endpoint: ("127.0.0.1".into(), 8082),
    };
    controller::Session::new(
        config,
        Box::new(ChaCha8Rng::seed_from_u64(2)),
        Instant::now(),
    )
}

fn line(value: Value) -> Vec<u8> {
    (value.to_string() + "\n").into_bytes()
}

fn said(session: &mut impl muster_proto::Session) -> Value {
    let bytes: Vec<u8> = std::iter::from_fn(|| session.poll_output())
        .flatten()
        .collect();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn command(method: &str, params: Value) -> Vec<u8> {
    line(json!({"version": "v1", "id": "message-id", "method": method, "params": params}))
}

#[test]
fn ping_echoes_at_all_implementations() {
    let input = command("ping", json!({"any": ["thing", 1]}));
    let want = json!({"id": "message-id", "version": "v1", "result": {"any": ["thing", 1]}});
    let (mut agent, mut server) = (agent(), server());
    agent.handle_input(&input, Instant::now());
    server.handle_input(&input, Instant::now());
    assert_eq!(said(&mut agent), want);
    assert_eq!(said(&mut server), want);
}

#[test]
fn responses_and_errors_have_the_published_members() {
    let now = Instant::now();
    let mut session = agent();
    session.handle_input(&command("status", json!({})), now);
    let Some(agent::Event::Called {
        ticket,
        command: agent::Called::Status,
    }) = session.poll_event()
    else {
        panic!("status was not handed on");
    };
    session.answer(ticket, &Json::from(json!({"uptime": 1.5, "version": "1"})));
    let want = json!({"id": "message-id", "version": "v1",
        "result": {"uptime": 1.5, "version": "1"}});
    assert_eq!(said(&mut session), want);
    session.handle_input(&command("decom.qc", json!({})), now);
    let msg = "missing parameter \"task_id\" in \"decom.qc\" command";
    let want = json!({"id": "message-id", "version": "v1", "error": {"msg": msg}});
    assert_eq!(said(&mut session), want);
}

#[test]
fn a_fatal_error_closes_the_connection() {
    let now = Instant::now();
    let (mut agent, mut server) = (agent(), server());
    let input = line(json!({"fatal_error": "human readable"}));
    agent.handle_input(&input, now);
    server.handle_input(&input, now);
    assert!(agent.wants_close() && server.wants_close());
    assert_eq!((agent.poll_output(), server.poll_output()), (None, None));
}

#[test]
fn log_and_every_state_of_task_status_are_taken_by_the_server() {
    let now = Instant::now();
    for params in [
        json!({"task_id": "t", "state": "running", "eta": 12, "percent": 40.5}),
        json!({"task_id": "t", "state": "error", "msg": "human readable"}),
        json!({"task_id": "t", "state": "complete"}),
    ] {
        let mut session = server();
        session.handle_input(&command("task_status", params.clone()), now);
        let Some(controller::Event::TaskStatus { ticket, report }) = session.poll_event() else {
            panic!("{params} was not handed on");
        };
        assert_eq!(report.task_id, "t");
        session.acknowledge(ticket);
        assert_eq!(
            said(&mut session),
            json!({"id": "message-id", "version": "v1", "result": {}})
        );
    }
    let mut session = server();
    session.handle_input(
        &command("log", json!({"message": "m", "time": 1.5, "more": {}})),
        now,
    );
    assert!(matches!(
        session.poll_event(),
        Some(controller::Event::Log(_))
    ));
    assert_eq!(said(&mut session)["result"], json!({}));
}

#[test]
fn every_task_command_reaches_the_agent_under_its_published_name() {
    for (method, verb) in [
        ("decom.disk_erase", Verb::DiskErase),
        ("decom.firmware_secure", Verb::FirmwareSecure),
        ("decom.qc", Verb::Qc),
        ("standbye.cache_images", Verb::CacheImages),
        ("standbye.prepare_image", Verb::PrepareImage),
        ("standbye.run_image", Verb::RunImage),
    ] {
        assert_eq!(
            verb.name(),
            method,
            "what we emit first is the published name"
        );
        let params = json!({"task_id": "t", "image_id": "8226c769-3739-4ee6-921c-82110da6c669",
            "image_ids": ["8226c769-3739-4ee6-921c-82110da6c669"]});
        let mut session = agent();
        session.handle_input(&command(method, params), Instant::now());
        match session.poll_event() {
            Some(agent::Event::Called {
                ticket,
                command: agent::Called::Task(call),
            }) => {
                assert_eq!((call.verb, call.task_id.as_str()), (verb, "t"));
                // What a machine is not allowed to do is an error response, never fatal.
                session.fail(ticket, "denied by policy");
                assert_eq!(said(&mut session)["error"]["msg"], "denied by policy");
                assert!(!session.wants_close());
            }
            other => panic!("{method}: {other:?}"),
        }
    }
}

#[test]
fn commands_in_the_wrong_direction_are_refused() {
    let now = Instant::now();
    for method in [
        "status",
        "decom.qc",
        "decom.disk_erase",
        "standbye.run_image",
    ] {
        let mut session = server();
        session.handle_input(&command(method, json!({"task_id": "t"})), now);
        assert_eq!(
            said(&mut session),
            json!({"fatal_error": "unknown command method"})
        );
    }
    for method in ["log", "task_status", "handshake"] {
        let mut session = agent();
        session.handle_input(&command(method, json!({"task_id": "t"})), now);
        assert_eq!(
            said(&mut session),
            json!({"fatal_error": "unknown message method"})
        );
    }
}
