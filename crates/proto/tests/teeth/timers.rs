//! Timers of both ends: rows 1, 34 and 35 of the table, ages of calls, rates.

use std::time::{Duration, Instant};

use muster_proto::Session as _;
use muster_proto::teeth::commands::{LogLine, Report, TaskState};
use muster_proto::teeth::tasks::TaskBook;
use muster_proto::teeth::{CallError, CloseReason, agent, controller};
use serde_json::{Map, Value, json};

use crate::kit::{
    Front, agent_lines, agent_session, new_hello, news, old_hello, server_config, server_lines,
    server_session,
};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn greet(session: &mut agent::Session, result: Value, now: Instant) {
    let id = agent_lines(session)[0]["id"].clone();
    let reply = json!({"id": id, "version": "v1", "result": result}).to_string() + "\n";
    session.handle_input(reply.as_bytes(), now);
}

#[test]
fn pings_every_twenty_seconds_and_row_34_silence_after_sixty() {
    let start = Instant::now();
    let mut session = agent_session(old_hello(), start);
    greet(&mut session, json!(null), start);
    assert_eq!(agent_lines(&mut session)[0]["method"], "ping");
    let mut pings = Vec::new();
    loop {
        let at = session.poll_timeout().unwrap();
        session.handle_timeout(at);
        if session.wants_close() {
            assert_eq!(
                at,
                start + s(60),
                "sixty seconds after the last received line"
            );
            break;
        }
        for line in agent_lines(&mut session) {
            assert_eq!(line["method"], "ping");
            assert_eq!(line["params"], json!({}));
            pings.push(at - start);
        }
    }
    assert_eq!(pings, [s(20), s(40)]);
    assert_eq!(
        agent_lines(&mut session),
        [] as [Value; 0],
        "an abort says nothing"
    );
}

#[test]
fn any_line_keeps_a_connection_but_half_a_line_does_not() {
    let start = Instant::now();
    for (input, kept) in [
        ("\n", true),
        ("  \r\n", true),
        ("{\"id\":", false),
        ("", false),
    ] {
        let mut session = agent_session(old_hello(), start);
        agent_lines(&mut session);
        session.handle_input(input.as_bytes(), start + s(30));
        session.handle_timeout(start + s(60));
        assert_eq!(!session.wants_close(), kept, "{input:?}");
    }
}

#[test]
fn rows_1_35_the_server_drops_a_silent_agent() {
    let start = Instant::now();
    let mut session = server_session(server_config(), start);
    assert_eq!(session.poll_timeout(), Some(start + s(60)));
    session.handle_timeout(start + s(59));
    assert!(!session.wants_close());
    session.handle_timeout(start + s(60));
    assert_eq!(
        news(&mut session),
        Some(controller::Event::Closed(CloseReason::Silent))
    );
    assert_eq!(server_lines(&mut session), [] as [Value; 0]);
    assert_eq!(session.poll_timeout(), None);
}

#[test]
fn keepalive_is_for_agents_that_shook_hands_and_never_pinged() {
    let start = Instant::now();
    let config = controller::Config {
        idle: controller::IdleRule::Keepalive,
        ..server_config()
    };
    let mut stranger = server_session(config.clone(), start);
    stranger.handle_timeout(start + s(60));
    assert!(stranger.wants_close());

    let mut session = server_session(config, start);
    session.handle_input(
        &agent_session(old_hello(), start).poll_output().unwrap(),
        start,
    );
    Front::default().serve(&mut session);
    session.handle_timeout(start + s(3600));
    assert!(!session.wants_close());
    let ping = b"{\"id\":\"1\",\"version\":\"v1\",\"method\":\"ping\",\"params\":{}}\n";
    session.handle_input(ping, start + s(3600));
    session.handle_timeout(start + s(3660));
    assert!(session.wants_close(), "who pings once is held to it");
}

#[test]
fn a_required_handshake_has_ten_seconds() {
    let start = Instant::now();
    let config = controller::Config {
        admission: controller::Admission::Required,
        ..server_config()
    };
    let mut session = server_session(config, start);
    assert_eq!(session.poll_timeout(), Some(start + s(10)));
    session.handle_timeout(start + s(10));
    assert_eq!(
        server_lines(&mut session)[0]["fatal_error"],
        "handshake refused: too slow"
    );
    assert!(session.wants_close());
}

#[test]
fn a_call_is_given_up_after_a_minute_and_its_late_answer_is_ignored() {
    let start = Instant::now();
    let mut session = server_session(server_config(), start);
    session.handle_input(
        &agent_session(new_hello(), start).poll_output().unwrap(),
        start,
    );
    Front::default().serve(&mut session);
    server_lines(&mut session);
    let call = session.ask_status(start).unwrap();
    let id = server_lines(&mut session)[0]["id"].clone();
    session.handle_input(b"\n", start + s(30));
    session.handle_timeout(start + s(60));
    assert_eq!(
        news(&mut session),
        Some(controller::Event::Answered {
            call,
            outcome: Err(CallError::TimedOut)
        })
    );
    let late = json!({"id": id, "version": "v1", "result": {}}).to_string() + "\n";
    session.handle_input(late.as_bytes(), start + s(61));
    assert!(!session.wants_close());
    assert_eq!(session.counters().late_answers, 1);
    session.handle_input(late.as_bytes(), start + s(61));
    assert_eq!(
        server_lines(&mut session)[0]["fatal_error"],
        "protocol violation: unknown message id referenced.",
        "an answer is late only once"
    );
}

#[test]
fn a_report_that_the_front_forgets_stays_unanswered() {
    let start = Instant::now();
    let mut session = server_session(server_config(), start);
    let report = json!({"id": "r", "version": "v1", "method": "task_status",
        "params": {"task_id": "t", "state": "complete"}});
    session.handle_input((report.to_string() + "\n").as_bytes(), start);
    session.handle_input(b"\n", start + s(30));
    session.handle_timeout(start + s(60));
    // Any answer would end the agent's repeating of it.
    assert_eq!(server_lines(&mut session), [] as [Value; 0]);
    assert_eq!(session.counters().unanswered, 1);
}

#[test]
fn a_flood_of_log_lines_is_answered_dropped_and_counted() {
    let start = Instant::now();
    let mut session = server_session(server_config(), start);
    let log = b"{\"id\":\"l\",\"version\":\"v1\",\"method\":\"log\",\"params\":{\"message\":\"m\",\"time\":1}}\n";
    for _ in 0..250 {
        session.handle_input(log, start);
    }
    assert_eq!(
        server_lines(&mut session).len(),
        250,
        "everyone is answered"
    );
    let logged = std::iter::from_fn(|| news(&mut session)).count();
    assert_eq!(logged, 100);
    session.handle_input(log, start + s(1));
    assert_eq!(
        news(&mut session),
        Some(controller::Event::LogsDropped { count: 150 })
    );
    assert!(matches!(
        news(&mut session),
        Some(controller::Event::Log(_))
    ));
    for _ in 0..99 {
        session.handle_input(b"\n", start + s(1));
    }
    session.handle_input(log, start + s(1));
    assert_eq!(
        news(&mut session),
        None,
        "blank lines count against the rate"
    );
}

#[test]
fn log_lines_wait_for_a_connection_and_the_oldest_go_first() {
    let now = Instant::now();
    let mut queue = agent::LogQueue::new(3);
    for n in 0..5 {
        queue.push(LogLine::new(&format!("line {n}"), f64::from(n), Map::new()));
    }
    let mut session = agent_session(new_hello(), now);
    queue.drain_into(&mut session, now);
    assert_eq!(queue.len(), 3, "not before the handshake is answered");
    greet(&mut session, json!({}), now);
    queue.drain_into(&mut session, now);
    assert!(queue.is_empty());
    let sent: Vec<Value> = agent_lines(&mut session)
        .into_iter()
        .filter(|line| line["method"] == "log")
        .map(|line| line["params"].clone())
        .collect();
    assert_eq!(sent[0]["dropped"], 2);
    let rest: Vec<&Value> = sent[1..].iter().map(|params| &params["message"]).collect();
    assert_eq!(rest, ["line 2", "line 3", "line 4"]);
}

#[test]
fn a_real_endpoint_is_not_sent_reports() {
    let now = Instant::now();
    let report = Report {
        task_id: "t".into(),
        state: TaskState::Complete,
        result: None,
        step: None,
        seq: None,
    };
    let mut session = agent_session(new_hello(), now);
    assert!(
        session.report(&report, now).is_err(),
        "nor anyone before the handshake"
    );
    greet(
        &mut session,
        json!({"id": "c", "endpoint_rpc_host": "h", "endpoint_rpc_port": 1}),
        now,
    );
    assert!(!session.takes_reports());
    assert!(session.report(&report, now).is_err());

    // One that does not show what it is is found out by its fatal error.
    let mut session = agent_session(new_hello(), now);
    greet(&mut session, json!({"id": "conn-1"}), now);
    session.report(&report, now).unwrap();
    session.handle_input(b"{\"fatal_error\":\"unknown command method\"}\n", now);
    let refused = std::iter::from_fn(|| session.poll_event()).any(|event| {
        matches!(
            event,
            agent::Event::Closed {
                reports_refused: true,
                ..
            }
        )
    });
    assert!(refused);
}

#[test]
fn reports_follow_the_rules_of_tasks() {
    let start = Instant::now();
    let mut book = TaskBook::default();
    let mut session = agent_session(new_hello(), start);
    greet(&mut session, json!({"methods": []}), start);
    let called = |session: &mut agent::Session, id: &str, now| {
        let line =
            json!({"id": id, "version": "v1", "method": "decom.qc", "params": {"task_id": "t"}});
        session.handle_input((line.to_string() + "\n").as_bytes(), now);
        loop {
            if let Some(agent::Event::Called {
                command: agent::Called::Task(call),
                ..
            }) = session.poll_event()
            {
                return call;
            }
        }
    };
    let call = called(&mut session, "1", start);
    book.start(&call, start).unwrap();
    let send = |book: &mut TaskBook, session: &mut agent::Session, now| {
        let due = book.due(now);
        let mut calls = Vec::new();
        for report in &due {
            let call = session.report(report, now).unwrap();
            book.sent(&report.task_id, call, now);
            calls.push(call);
        }
        agent_lines(session);
        (due, calls)
    };
    // At once, then every ten seconds, within one of a new step.
    assert_eq!(send(&mut book, &mut session, start).0.len(), 1);
    assert_eq!(book.next_due(), Some(start + s(10)));
    book.progress("t", 40.0, 9.0, None, start + s(2));
    assert_eq!(book.next_due(), Some(start + s(10)));
    book.progress("t", 30.0, f64::NAN, Some("disks"), start + s(3));
    assert_eq!(book.next_due(), Some(start + s(4)));
    let (due, _) = send(&mut book, &mut session, start + s(4));
    assert_eq!(
        due[0].state,
        TaskState::Running {
            eta: 0.0,
            percent: 40.0
        }
    );
    assert_eq!(due[0].step.as_deref(), Some("disks"));
    // The end at once, though a report is in flight.
    assert!(book.complete("t", None, start + s(5)));
    assert!(
        !book.fail("t", "no", None, start + s(5)),
        "the first end stays"
    );
    let (due, calls) = send(&mut book, &mut session, start + s(5));
    assert_eq!(due[0].state, TaskState::Complete);
    assert_eq!(
        send(&mut book, &mut session, start + s(30)).0.len(),
        0,
        "one in flight is enough"
    );
    // Lost: again, with the same content but a new number.
    book.unanswered(calls[0], start + s(31));
    let (again, calls) = send(&mut book, &mut session, start + s(31));
    assert_eq!(again[0].state, TaskState::Complete);
    assert_eq!(book.answered(calls[0]).as_deref(), Some("t"));
    assert_eq!(book.next_due(), None);
    assert!(book.reports().is_empty());
    // The command again: nothing begins, the end is told once more.
    let call = called(&mut session, "2", start + s(40));
    assert_eq!(
        book.start(&call, start + s(40)),
        Ok(muster_proto::teeth::tasks::Start::Repeat)
    );
    let (due, calls) = send(&mut book, &mut session, start + s(40));
    assert_eq!(due[0].state, TaskState::Complete);
    assert_eq!(book.answered(calls[0]).as_deref(), Some("t"));
}
