//! The conformance table of the contract, section 10, row by row. Rows of timers are in `timers`,
//! rows of reconnects in `pair`.

use std::time::Instant;

use muster_proto::Session as _;
use muster_proto::teeth::commands::Hello;
use muster_proto::teeth::{CallError, CloseReason, Json, Limits, agent, controller};
use serde_json::{Value, json};

use crate::kit::{
    Front, Link, agent_lines, agent_session, new_hello, news, old_hello, server_config,
    server_lines, server_session,
};

/// Feeds an agent that an old server has greeted; gives what it answers after its ping, and whether
/// it closes.
fn agent_on(input: &[u8]) -> (Vec<Value>, bool) {
    agent_greeted_with(json!({"id": "conn-1"}), input)
}

fn agent_greeted_with(greeting: Value, input: &[u8]) -> (Vec<Value>, bool) {
    let now = Instant::now();
    let mut link = Link::default();
    let mut session = agent_session(old_hello(), now);
    let id = agent_lines(&mut session)[0]["id"].clone();
    let reply = json!({"id": id, "version": "v1", "result": greeting}).to_string() + "\n";
    session.handle_input(reply.as_bytes(), now);
    assert_eq!(agent_lines(&mut session)[0]["method"], "ping");
    session.handle_input(input, now);
    link.serve(&mut session, now);
    (agent_lines(&mut session), session.wants_close())
}

fn server_on(input: &[u8]) -> (Vec<Value>, bool) {
    let now = Instant::now();
    let mut front = Front::default();
    let mut session = server_session(server_config(), now);
    session.handle_input(input, now);
    front.serve(&mut session);
    (server_lines(&mut session), session.wants_close())
}

fn fatal(text: &str) -> (Vec<Value>, bool) {
    (vec![json!({ "fatal_error": text })], true)
}

/// What either end says to a line that has nothing to do with roles.
fn both_on(input: &[u8]) -> (Vec<Value>, bool) {
    let agent = agent_on(input);
    assert_eq!(
        agent,
        server_on(input),
        "the ends differ on {:?}",
        String::from_utf8_lossy(input)
    );
    agent
}

#[test]
fn rows_2_to_8_what_is_wrong_with_a_message() {
    for (input, text) in [
        (
            "{\"id\":\"1\",\"version\":\"v1\",\"method\":\"BOGUS_STUFF\"}\n",
            "protocol violation: missing message params.",
        ),
        (
            "{\"version\":\"v913\"}\n",
            "protocol violation: missing message id.",
        ),
        (
            "{\"version\":null,\"id\":\"foo\"}\n",
            "protocol violation: missing message version.",
        ),
        (
            "\ninvalid json!\n",
            "protocol error: unable to decode message.",
        ),
        (
            "{\"id\":\"1\",\"version\":\"v1\"}\n",
            "protocol error: malformed message.",
        ),
        (
            "{\"id\":\"1\",\"version\":\"v1\",\"error\":{\"msg\":\"something is wrong\"}}\n",
            "protocol violation: unknown message id referenced.",
        ),
    ] {
        assert_eq!(both_on(input.as_bytes()), fatal(text), "{input}");
    }
    let bogus =
        b"{\"id\":\"1\",\"version\":\"v1\",\"method\":\"BOGUS_STUFF\",\"params\":{\"d\":\"1\"}}\n";
    assert_eq!(agent_on(bogus), fatal("unknown message method"));
    assert_eq!(server_on(bogus), fatal("unknown command method"));
}

/// A server with a call open to an agent, and the id of that call.
fn server_with_call() -> (controller::Session, muster_proto::teeth::CallId, String) {
    let now = Instant::now();
    let mut session = server_session(server_config(), now);
    let hello = json!({"id": "h", "version": "v1", "method": "handshake",
        "params": {"id": "m", "version": "1"}});
    session.handle_input((hello.to_string() + "\n").as_bytes(), now);
    Front::default().serve(&mut session);
    server_lines(&mut session);
    let call = session.ask_status(now).unwrap();
    let line = server_lines(&mut session).remove(0);
    assert_eq!(line["params"], json!({"verbose": false}));
    (session, call, line["id"].as_str().unwrap().to_owned())
}

#[test]
fn rows_9_10_31_answers_reach_the_caller() {
    for (body, outcome) in [
        (json!({"result": {"duh": 42}}), Ok("{\"duh\":42}")),
        (json!({"result": null}), Ok("null")),
        (json!({"error": {"msg": "no"}}), Err("no")),
        (json!({"error": "no"}), Err("no")),
        (json!({"error": "no", "result": {"duh": 42}}), Err("no")),
        (json!({"error": null}), Err("unknown error")),
    ] {
        let (mut session, call, id) = server_with_call();
        let mut line = body.clone();
        line["id"] = id.into();
        line["version"] = "v1".into();
        session.handle_input((line.to_string() + "\n").as_bytes(), Instant::now());
        assert_eq!(server_lines(&mut session), [] as [Value; 0]);
        match (news(&mut session), outcome) {
            (
                Some(controller::Event::Answered {
                    call: c,
                    outcome: Ok(result),
                }),
                Ok(want),
            ) => {
                assert_eq!((c, result.as_str()), (call, want));
            }
            (
                Some(controller::Event::Answered {
                    call: c,
                    outcome: Err(CallError::Remote(e)),
                }),
                Err(want),
            ) => assert_eq!((c, e.msg.as_str()), (call, want)),
            (event, _) => panic!("{body}: {event:?}"),
        }
        assert!(!session.wants_close());
    }
}

#[test]
fn rows_11_30_a_fatal_error_is_not_answered() {
    for line in [
        json!({"fatal_error": "you be broken"}),
        json!({"fatal_error": null}),
        json!({"fatal_error": "x", "id": "1", "version": "v1", "method": "status", "params": {"a": 1}}),
    ] {
        let input = line.to_string()
            + "\n{\"id\":\"2\",\"version\":\"v1\",\"method\":\"ping\",\"params\":{}}\n";
        assert_eq!(both_on(input.as_bytes()), (vec![], true), "{line}");
    }
    let (mut session, call, _) = server_with_call();
    session.handle_input(b"{\"fatal_error\":\"you be broken\"}\n", Instant::now());
    assert_eq!(
        news(&mut session),
        Some(controller::Event::Answered {
            call,
            outcome: Err(CallError::Closed)
        })
    );
    let reason = CloseReason::PeerFatal {
        text: "you be broken".into(),
    };
    assert_eq!(news(&mut session), Some(controller::Event::Closed(reason)));
    assert_eq!(news(&mut session), None);
}

#[test]
fn row_12_the_first_line_is_the_handshake() {
    let mut session = agent_session(old_hello(), Instant::now());
    let lines = agent_lines(&mut session);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["method"], "handshake");
    assert_eq!(lines[0]["version"], "v1");
    assert_eq!(
        lines[0]["params"],
        json!({"id": "a:b:c:d", "version": "0.1-dev"})
    );
    let id = lines[0]["id"].as_str().unwrap();
    assert_eq!(id.len(), 36);
    assert_eq!(&id[14..15], "4", "a random UUID says version 4");
}

fn task(method: &str, params: Value) -> Vec<u8> {
    (json!({"id": "s-1", "version": "v1", "method": method, "params": params}).to_string() + "\n")
        .into_bytes()
}

fn error(msg: &str) -> (Vec<Value>, bool) {
    (
        vec![json!({"id": "s-1", "version": "v1", "error": {"msg": msg}})],
        false,
    )
}

#[test]
fn rows_13_14_37_parameters_of_handlers() {
    let done = |result: Value| {
        (
            vec![json!({"id": "s-1", "version": "v1", "result": result})],
            false,
        )
    };
    for prefix in ["standbye.", "standby.", ""] {
        let name = |verb: &str| format!("{prefix}{verb}");
        let run = name("run_image");
        assert_eq!(
            agent_on(&task(&run, json!({"task_id": "t", "image_id": "i"}))),
            done(Value::Null)
        );
        assert_eq!(
            agent_on(&task(&run, json!({"task_id": "t"}))),
            error(&format!(
                "missing parameter \"image_id\" in \"{run}\" command"
            ))
        );
        assert_eq!(
            agent_on(&task(&run, json!({"image_id": "t"}))),
            error(&format!(
                "missing parameter \"task_id\" in \"{run}\" command"
            ))
        );
        assert_eq!(
            agent_on(&task(
                &name("cache_images"),
                json!({"task_id": "t", "image_ids": "a"})
            )),
            error("\"image_ids\" must be a list")
        );
    }
    assert_eq!(
        agent_on(&task("decom.qc", json!({"task_id": "t"}))),
        done(json!({"task_id": "t"}))
    );
    assert_eq!(
        agent_on(&task("decom.disk_erase", json!({}))),
        error("missing parameter \"task_id\" in \"decom.disk_erase\" command")
    );
}

#[test]
fn rows_15_to_18_status_versions_and_methods_at_the_agent() {
    for params in [json!({}), json!({"x": 1})] {
        let (lines, closed) = agent_on(&task("status", params));
        assert!(!closed);
        for member in ["mode", "uptime", "version"] {
            assert!(lines[0]["result"].get(member).is_some(), "{lines:?}");
        }
    }
    for params in [json!(null), json!([1]), json!("x")] {
        assert_eq!(
            agent_on(&task("status", params)),
            fatal("protocol violation: message params must be an object.")
        );
    }
    assert_eq!(
        agent_on(&task("no.such", json!({}))),
        fatal("unknown message method")
    );
    assert_eq!(
        agent_on(&task("handshake", json!({}))),
        fatal("unknown message method")
    );
    for version in [json!("v2"), json!(1)] {
        let line = json!({"id": "1", "version": version, "method": "status", "params": {"a": 1}});
        let input = line.to_string() + "\n";
        assert_eq!(agent_on(input.as_bytes()), fatal("unknown message version"));
        assert_eq!(
            server_on(input.as_bytes()),
            fatal("unknown command version")
        );
    }
}

#[test]
fn unknown_methods_of_a_peer_with_methods_are_not_fatal() {
    let greeting = json!({"id": "c", "methods": ["ping", "log", "task_status"]});
    assert_eq!(
        agent_greeted_with(greeting.clone(), &task("no.such", json!({}))),
        error("unknown method \"no.such\"")
    );
    // Muster's own methods are served only where the handshake listed them.
    let run = task(
        "muster.run",
        json!({"task_id": "t", "kind": "rtt", "spec": {}}),
    );
    assert_eq!(
        agent_greeted_with(greeting, &run),
        error("unknown method \"muster.run\"")
    );

    let now = Instant::now();
    let mut session = server_session(server_config(), now);
    let hello = Hello {
        methods: Some(vec![]),
        ..old_hello()
    };
    let mut agent = agent_session(hello, now);
    let shake = agent.poll_output().unwrap();
    session.handle_input(&shake, now);
    Front::default().serve(&mut session);
    server_lines(&mut session);
    for method in ["status", "decom.disk_erase", "no.such"] {
        session.handle_input(&task(method, json!({"task_id": "t"})), now);
        assert_eq!(
            (server_lines(&mut session), session.wants_close()),
            error(&format!("unknown method \"{method}\""))
        );
    }
}

#[test]
fn rows_19_20_the_handshake_at_the_server() {
    assert_eq!(
        server_on(&task("status", json!({}))),
        fatal("unknown command method")
    );
    for (params, name) in [
        (json!({"id": "a:b:c:d"}), "version"),
        (json!({"version": "1"}), "id"),
        (json!({}), "id"),
    ] {
        let text = format!("missing parameter \"{name}\" in \"handshake\" command");
        assert_eq!(server_on(&task("handshake", params)), fatal(&text));
    }
    let (lines, closed) = server_on(&task(
        "handshake",
        json!({"id": "m", "version": "9.9", "mode": "decom"}),
    ));
    assert!(!closed);
    let result = &lines[0]["result"];
    assert_eq!(result["primary_mac_address"], "m");
    assert_eq!(result["endpoint_rpc_host"], "127.0.0.1");
    assert_eq!(result["endpoint_rpc_port"], 8082);
    assert_eq!(result["methods"], json!(["ping", "log", "task_status"]));
    assert_eq!(result["id"].as_str().unwrap().len(), 36);
}

#[test]
fn rows_21_22_log_and_ping_before_a_handshake() {
    for (params, name) in [
        (json!({"message": "m"}), "time"),
        (json!({"time": 1}), "message"),
    ] {
        let text = format!("missing parameter \"{name}\" in \"log\" command");
        assert_eq!(server_on(&task("log", params)), error(&text));
    }
    let params = json!({"a": [1, null, "é"]});
    let answer = vec![json!({"id": "s-1", "version": "v1", "result": params})];
    assert_eq!(both_on(&task("ping", params)), (answer, false));
    let log = task(
        "log",
        json!({"message": "m", "time": 1385000000.25, "k": {"n": 1}}),
    );
    assert_eq!(
        server_on(&log),
        (
            vec![json!({"id": "s-1", "version": "v1", "result": {}})],
            false
        )
    );
}

#[test]
fn rows_23_24_ids_of_every_kind() {
    for id in ["\"\"", "0", "null", "false", "[]", "{}", "0.0"] {
        let line =
            format!("{{\"id\":{id},\"version\":\"v1\",\"method\":\"ping\",\"params\":{{}}}}\n");
        assert_eq!(
            both_on(line.as_bytes()),
            fatal("protocol violation: missing message id.")
        );
    }
    for id in [
        "7",
        "{\"k\":1}",
        "123456789012345678901234567890",
        "[1]",
        "true",
        "\"\\u0073\"",
    ] {
        let now = Instant::now();
        let mut session = server_session(server_config(), now);
        let line =
            format!("{{\"id\":{id},\"version\":\"v1\",\"method\":\"ping\",\"params\":{{}}}}\n");
        session.handle_input(line.as_bytes(), now);
        let answer = String::from_utf8(session.poll_output().unwrap()).unwrap();
        assert_eq!(
            answer,
            format!("{{\"id\":{id},\"version\":\"v1\",\"result\":{{}}}}\n")
        );
    }
}

#[test]
fn rows_25_26_white_space_and_segments() {
    let ping = "{\"id\":\"1\",\"version\":\"v1\",\"method\":\"ping\",\"params\":{\"x\":1}}";
    let answer = json!({"id": "1", "version": "v1", "result": {"x": 1}});
    for input in [
        format!("{ping}\r\n"),
        format!("   {ping}   \n"),
        format!("\n\n  \r\n\t\n{ping}\n"),
        format!("\x0b\x0c{ping}\x0c\n"),
    ] {
        assert_eq!(
            both_on(input.as_bytes()),
            (vec![answer.clone()], false),
            "{input:?}"
        );
    }
    let twice = format!("{ping}\n{ping}\n");
    assert_eq!(
        both_on(twice.as_bytes()),
        (vec![answer.clone(), answer.clone()], false)
    );

    let now = Instant::now();
    let mut session = server_session(server_config(), now);
    let line = format!("{ping}\n");
    for piece in line.as_bytes().chunks(25) {
        session.handle_input(piece, now);
    }
    assert_eq!(server_lines(&mut session), [answer]);
}

fn ping_of(line_bytes: usize) -> Vec<u8> {
    let head = "{\"id\":\"s-1\",\"version\":\"v1\",\"method\":\"ping\",\"params\":{\"p\":\"";
    let tail = "\"}}";
    let mut line = head.to_owned();
    line.push_str(&"x".repeat(line_bytes - head.len() - tail.len()));
    line.push_str(tail);
    line.into_bytes()
}

#[test]
fn rows_27_28_the_longest_line() {
    let mut line = ping_of(524_288);
    line.push(b'\n');
    let (lines, closed) = both_on(&line);
    assert_eq!((lines.len(), closed), (1, false));
    let mut line = ping_of(524_287);
    line.extend_from_slice(b"\r\n");
    assert_eq!(both_on(&line).0.len(), 1);

    let too_long = fatal("protocol error: line too long.");
    let mut line = ping_of(524_289);
    line.push(b'\n');
    assert_eq!(both_on(&line), too_long);
    let mut line = ping_of(524_288);
    line.extend_from_slice(b"\r\n");
    assert_eq!(both_on(&line), too_long, "the carriage return counts");
    assert_eq!(
        both_on(&[b'x'; 524_289]),
        too_long,
        "refused before its end"
    );
    assert_eq!(both_on(&[b'x'; 600_000]), too_long);
    assert_eq!(both_on(&[b'x'; 524_288]), (vec![], false));
}

#[test]
fn rows_29_32_not_objects_and_not_utf8() {
    for line in ["[]", "5", "\"hi\"", "null", "true"] {
        let input = format!("{line}\n");
        assert_eq!(
            both_on(input.as_bytes()),
            fatal("protocol error: malformed message.")
        );
    }
    let input =
        b"{\"id\":\"s-\xff\",\"version\":\"v1\",\"method\":\"ping\",\"params\":{\"x\":1}}\n";
    assert_eq!(
        both_on(input),
        fatal("protocol error: unable to decode message.")
    );
}

#[test]
fn row_33_a_refused_handshake_closes_at_once() {
    let now = Instant::now();
    let mut session = agent_session(old_hello(), now);
    let id = agent_lines(&mut session)[0]["id"].clone();
    let reply = json!({"id": id, "version": "v1", "error": {"msg": "no"}}).to_string() + "\n";
    session.handle_input(reply.as_bytes(), now);
    assert_eq!(agent_lines(&mut session), [] as [Value; 0]);
    let reason = CloseReason::HandshakeRefused { msg: "no".into() };
    assert_eq!(
        session.poll_event(),
        Some(agent::Event::Closed {
            reason,
            reports_refused: false
        })
    );
    assert!(session.wants_close());
}

#[test]
fn row_36_a_task_id_twice() {
    let now = Instant::now();
    let mut link = Link::default();
    let mut session = agent_session(old_hello(), now);
    agent_lines(&mut session);
    let first = task(
        "standby.prepare_image",
        json!({"task_id": "t1", "image_id": "i1"}),
    );
    let same = task(
        "standbye.prepare_image",
        json!({"image_id": "i1", "task_id": "t1"}),
    );
    let other = task(
        "standby.prepare_image",
        json!({"task_id": "t1", "image_id": "i2"}),
    );
    let busy = task("decom.disk_erase", json!({"task_id": "t2"}));
    for (input, want) in [
        (&first, Ok(())),
        (&same, Ok(())),
        (&other, Err("task_id already in use")),
        (&busy, Err("agent busy: task t1")),
        (&task("decom.qc", json!({"task_id": "t3"})), Ok(())),
    ] {
        session.handle_input(input, now);
        link.serve(&mut session, now);
        let answer = agent_lines(&mut session).remove(0);
        match want {
            Ok(()) => assert!(answer.get("result").is_some(), "{answer}"),
            Err(msg) => assert_eq!(answer["error"]["msg"], msg),
        }
    }
    assert_eq!(link.begun, ["t1", "t3"]);
}

#[test]
fn row_38_pings_go_only_to_agents_that_list_them() {
    let now = Instant::now();
    for (hello, allowed) in [(old_hello(), false), (new_hello(), true)] {
        let mut server = server_session(server_config(), now);
        let mut agent = agent_session(hello, now);
        assert!(
            server.call("ping", &Json::empty(), now).is_err(),
            "nobody is there yet"
        );
        server.handle_input(&agent.poll_output().unwrap(), now);
        Front::default().serve(&mut server);
        server_lines(&mut server);
        assert_eq!(server.call("ping", &Json::empty(), now).is_ok(), allowed);
        assert_eq!(
            server.call("muster.cancel", &Json::empty(), now).is_ok(),
            allowed
        );
    }
}

#[test]
fn where_a_credential_is_required_only_handshake_and_ping_are_served() {
    let now = Instant::now();
    let config = controller::Config {
        admission: controller::Admission::Required,
        ..server_config()
    };
    let mut session = server_session(config.clone(), now);
    for (method, params) in [
        ("log", json!({"message": "m", "time": 1})),
        ("task_status", json!({"task_id": "t", "state": "complete"})),
        ("no.such", json!({})),
    ] {
        session.handle_input(&task(method, params), now);
        assert_eq!(
            (server_lines(&mut session), false),
            error("not authenticated")
        );
    }
    session.handle_input(&task("ping", json!({})), now);
    assert!(server_lines(&mut session)[0].get("result").is_some());
    session.handle_input(
        &task(
            "handshake",
            json!({"id": "m", "version": "1", "token": "x"}),
        ),
        now,
    );
    let Some(controller::Event::Handshake { ticket, hello }) = news(&mut session) else {
        panic!("the front was not asked");
    };
    assert_eq!(hello.token.unwrap().expose(), "x");
    session.refuse(ticket, "handshake refused: bad token");
    assert_eq!(
        (server_lines(&mut session), session.wants_close()),
        fatal("handshake refused: bad token")
    );

    let mut session = server_session(config, now);
    session.handle_input(&[b' '; 5000], now);
    assert_eq!(
        (server_lines(&mut session), session.wants_close()),
        fatal("handshake refused: too long")
    );
}

#[test]
fn a_second_handshake_replaces_the_connection_id_or_ends_the_connection() {
    let now = Instant::now();
    let mut front = Front::default();
    let mut session = server_session(server_config(), now);
    session.handle_input(&task("handshake", json!({"id": "m", "version": "1"})), now);
    front.serve(&mut session);
    let first = session.connection_id().unwrap().to_owned();
    session.handle_input(&task("handshake", json!({"id": "m", "version": "1"})), now);
    front.serve(&mut session);
    assert_ne!(session.connection_id().unwrap(), first);
    server_lines(&mut session);
    session.handle_input(&task("handshake", json!({"id": "n", "version": "1"})), now);
    front.serve(&mut session);
    assert_eq!(
        (server_lines(&mut session), session.wants_close()),
        fatal("protocol violation: handshake with another id.")
    );
    assert_eq!(session.peer().unwrap().id, "m", "the first identity stands");
}

#[test]
fn unanswered_commands_have_a_limit_in_both_directions() {
    let now = Instant::now();
    let mut session = server_session(server_config(), now);
    let report = task("task_status", json!({"task_id": "t", "state": "complete"}));
    for _ in 0..64 {
        session.handle_input(&report, now);
    }
    assert_eq!(server_lines(&mut session), [] as [Value; 0]);
    session.handle_input(&report, now);
    assert_eq!(
        (server_lines(&mut session), session.wants_close()),
        error("too many commands are unanswered")
    );

    let (mut session, ..) = server_with_call();
    for _ in 1..Limits::default().calls {
        session.ask_status(now).unwrap();
    }
    assert_eq!(
        session.ask_status(now),
        Err(muster_proto::teeth::CallRefused::TooMany)
    );
}

#[test]
fn a_reader_that_never_reads_is_dropped() {
    let now = Instant::now();
    let mut session = server_session(server_config(), now);
    let mut line = ping_of(400_000);
    line.push(b'\n');
    for _ in 0..2 {
        session.handle_input(&line, now);
        assert!(!session.wants_close());
    }
    session.handle_input(&line, now);
    assert!(session.wants_close());
    assert_eq!(session.poll_output(), None);
    assert_eq!(
        news(&mut session),
        Some(controller::Event::Closed(CloseReason::OutputFull))
    );
}
