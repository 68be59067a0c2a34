//! The teeth wire: one line as it is judged, and whole connections of both ends.

use std::time::{Duration, Instant};

use muster_proto::Session as _;
use muster_proto::teeth::commands::{FromAgent, Hello, Report, ToAgent};
use muster_proto::teeth::tasks::TaskBook;
use muster_proto::teeth::wire::{self, Message};
use muster_proto::teeth::{Json, Limits, agent, controller};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng as _;

/// One line: judged, its parameters read for both roles, what was read written again.
///
/// # Panics
/// When what is read from an accepted message does not encode to itself.
pub fn line(data: &[u8]) {
    let limits = Limits::default();
    let line = data.strip_suffix(b"\n").unwrap_or(data);
    let Ok(message) = wire::decode(line, &limits) else {
        return;
    };
    match message {
        Message::Command(command) => {
            let version = Json::from(serde_json::Value::from("v1"));
            let echo = wire::encode_result(&command.id, &version, &command.params);
            let again = wire::decode(echo.strip_suffix(b"\n").unwrap_or(&echo), &limits);
            let want = Message::Result {
                id: command.id.clone(),
                result: command.params.clone(),
            };
            assert_eq!(again, Ok(want));
            // Reading is for every receiver; only panics are looked for.
            let _ = ToAgent::read(&command, &limits);
            if let Ok(Some(FromAgent::TaskStatus(report))) = FromAgent::read(&command, &limits) {
                assert!(Report::from_params(&report.to_params(), &limits).is_some());
            }
        }
        Message::Result { result, .. } => {
            let _ = result.to_value();
            let _ = muster_proto::teeth::commands::Welcome::read(&result, &limits);
        }
        Message::Blank | Message::Error { .. } | Message::FatalError { .. } => {}
    }
}

/// The bytes as a connection's input to both ends, whole and in pieces, with time passing.
///
/// # Panics
/// When the pieces make a session say something else than the whole does, or a session that is over
/// says more.
pub fn session(data: &[u8]) {
    let start = epoch();
    assert_eq!(server(&[data], start), server(&halves(data), start));
    assert_eq!(working(&[data], start), working(&halves(data), start));
    if data.len() < 2048 {
        let bytes: Vec<&[u8]> = data.chunks(1).collect();
        assert_eq!(server(&[data], start), server(&bytes, start));
        assert_eq!(working(&[data], start), working(&bytes, start));
    }
}

fn halves(data: &[u8]) -> [&[u8]; 2] {
    let (first, second) = data.split_at(data.len() / 2);
    [first, second]
}

/// One instant to count from.
#[expect(
    clippy::disallowed_methods,
    reason = "sessions only look at differences"
)]
fn epoch() -> Instant {
    Instant::now()
}

fn server(pieces: &[&[u8]], start: Instant) -> (Vec<u8>, usize, bool) {
    let config = controller::Config {
        limits: Limits::default(),
        admission: controller::Admission::Open,
        idle: controller::IdleRule::Close,
        server: "fuzz".to_owned(),
        endpoint: ("127.0.0.1".to_owned(), 1),
    };
    let rng = Box::new(ChaCha8Rng::seed_from_u64(1));
    let mut session = controller::Session::new(config, rng, start);
    for piece in pieces {
        session.handle_input(piece, start);
    }
    let mut events = 0;
    while let Some(event) = session.poll_event() {
        match event {
            controller::Event::Handshake { ticket, .. } => {
                session.welcome(ticket);
                let _ = session.ask_status(start);
            }
            controller::Event::TaskStatus { ticket, .. } => session.acknowledge(ticket),
            controller::Event::Answered { .. }
            | controller::Event::Closed(_)
            | controller::Event::Log(_)
            | controller::Event::LogsDropped { .. } => {}
            controller::Event::Heard => continue,
        }
        events += 1;
    }
    let output = finish(&mut session, start);
    (output, events, session.wants_close())
}

fn working(pieces: &[&[u8]], start: Instant) -> (Vec<u8>, usize, bool) {
    let hello = Hello {
        id: "m".to_owned(),
        version: "1".to_owned(),
        methods: Some(vec!["muster.run".to_owned(), "muster.cancel".to_owned()]),
        ..Hello::default()
    };
    let config = agent::Config {
        limits: Limits::default(),
        hello,
    };
    let rng = Box::new(ChaCha8Rng::seed_from_u64(2));
    let mut session = agent::Session::new(config, rng, start);
    let mut book = TaskBook::default();
    for piece in pieces {
        session.handle_input(piece, start);
    }
    let mut events = 0;
    while let Some(event) = session.poll_event() {
        events += 1;
        match event {
            agent::Event::Called { ticket, command } => match command {
                agent::Called::Task(call) => match book.start(&call, start) {
                    Ok(_) => session.answer(ticket, &Json::empty()),
                    Err(refused) => session.fail(ticket, &refused.to_string()),
                },
                agent::Called::Cancel { task_id } => {
                    book.fail(&task_id, "cancelled", None, start);
                    session.answer(ticket, &Json::empty());
                }
                agent::Called::Status => session.answer(ticket, &Json::empty()),
            },
            agent::Event::Answered { .. }
            | agent::Event::Closed { .. }
            | agent::Event::Established(_) => {}
        }
    }
    for report in book.due(start) {
        if let Ok(call) = session.report(&report, start) {
            book.sent(&report.task_id, call, start);
        }
    }
    let output = finish(&mut session, start);
    (output, events, session.wants_close())
}

/// What is left to write, then the session's timers for ten minutes or until it closes.
fn finish<S: muster_proto::Session>(session: &mut S, start: Instant) -> Vec<u8> {
    let mut output: Vec<u8> = std::iter::from_fn(|| session.poll_output())
        .flatten()
        .collect();
    let end = start + Duration::from_secs(600);
    while let Some(due) = session.poll_timeout().filter(|due| *due < end) {
        session.handle_timeout(due);
        output.extend(std::iter::from_fn(|| session.poll_output()).flatten());
    }
    session.handle_eof(end);
    while session.poll_event().is_some() {}
    session.handle_input(b"{}\n", end);
    assert!(session.poll_event().is_none() && session.poll_output().is_none());
    output
}
