//! Small means shared by the tests: sessions from a seed, a stand-in for the link, drained output.

use std::time::Instant;

use muster_proto::Session as _;
use muster_proto::teeth::commands::{Hello, Verb};
use muster_proto::teeth::tasks::{Start, TaskBook};
use muster_proto::teeth::{CallError, Json, Limits, agent, controller};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};

pub(crate) fn json(value: Value) -> Json {
    Json::from(value)
}

/// A real agent as the captures show it.
pub(crate) fn old_hello() -> Hello {
    Hello {
        id: "a:b:c:d".into(),
        version: "0.1-dev".into(),
        ..Hello::default()
    }
}

/// An agent of our own.
pub(crate) fn new_hello() -> Hello {
    let methods = ["ping", "status", "decom.qc", "muster.run", "muster.cancel"];
    Hello {
        id: "52:54:00:12:34:56".into(),
        version: "0.1.0".into(),
        methods: Some(methods.map(str::to_owned).to_vec()),
        mode: Some("STANDBY".into()),
        boot_id: Some("b-1".into()),
        agent: Some("muster/0.1.0".into()),
        ..Hello::default()
    }
}

pub(crate) fn agent_session(hello: Hello, now: Instant) -> agent::Session {
    let config = agent::Config {
        limits: Limits::default(),
        hello,
    };
    agent::Session::new(config, Box::new(ChaCha8Rng::seed_from_u64(1)), now)
}

pub(crate) fn server_config() -> controller::Config {
    controller::Config {
        limits: Limits::default(),
        admission: controller::Admission::Open,
        idle: controller::IdleRule::Close,
        server: "muster/0.1.0".into(),
        endpoint: ("127.0.0.1".into(), 8082),
    }
}

pub(crate) fn server_session(config: controller::Config, now: Instant) -> controller::Session {
    controller::Session::new(config, Box::new(ChaCha8Rng::seed_from_u64(2)), now)
}

/// The lines a session wants to write, as JSON.
pub(crate) fn lines(output: impl FnMut() -> Option<Vec<u8>>) -> Vec<Value> {
    let bytes: Vec<u8> = std::iter::from_fn(output).flatten().collect();
    let text = String::from_utf8(bytes).unwrap();
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "an unfinished line: {text}"
    );
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(crate) fn agent_lines(session: &mut agent::Session) -> Vec<Value> {
    lines(|| session.poll_output())
}

pub(crate) fn server_lines(session: &mut controller::Session) -> Vec<Value> {
    lines(|| session.poll_output())
}

/// A link that answers like a machine which may do everything and does nothing.
#[derive(Default)]
pub(crate) struct Link {
    pub(crate) book: TaskBook,
    pub(crate) begun: Vec<String>,
    pub(crate) closed: Option<agent::Event>,
    pub(crate) established: bool,
}

impl Link {
    /// Handles all events of a session.
    pub(crate) fn serve(&mut self, session: &mut agent::Session, now: Instant) {
        while let Some(event) = session.poll_event() {
            match event {
                agent::Event::Established(_) => self.established = true,
                agent::Event::Answered { call, outcome } => {
                    // Any answer acknowledges, an error too (teeth contract, rule 7.2).
                    if matches!(outcome, Err(CallError::Closed | CallError::TimedOut)) {
                        self.book.unanswered(call, now);
                    } else {
                        self.book.answered(call);
                    }
                }
                agent::Event::Called {
                    ticket,
                    command: agent::Called::Status,
                } => {
                    let status = json!({
                        "mode": "STANDBY", "uptime": 1.5, "running": 1.5, "version": "0.1-dev",
                    });
                    session.answer(ticket, &json(status));
                }
                agent::Event::Called {
                    ticket,
                    command: agent::Called::Cancel { task_id },
                } => {
                    self.book.fail(&task_id, "cancelled", None, now);
                    session.answer(ticket, &Json::empty());
                }
                agent::Event::Called {
                    ticket,
                    command: agent::Called::Task(call),
                } => match self.book.start(&call, now) {
                    Ok(start) => {
                        if start == Start::Begin {
                            self.begun.push(call.task_id.clone());
                        }
                        let result = match call.verb {
                            Verb::DiskErase | Verb::FirmwareSecure | Verb::Qc | Verb::Run => {
                                json(json!({ "task_id": call.task_id }))
                            }
                            Verb::CacheImages | Verb::PrepareImage | Verb::RunImage => Json::null(),
                        };
                        session.answer(ticket, &result);
                    }
                    Err(refused) => session.fail(ticket, &refused.to_string()),
                },
                event @ agent::Event::Closed { .. } => self.closed = Some(event),
            }
        }
    }

    /// Sends the reports that are due.
    pub(crate) fn report(&mut self, session: &mut agent::Session, now: Instant) {
        if !session.takes_reports() {
            return;
        }
        for report in self.book.due(now) {
            if let Ok(call) = session.report(&report, now) {
                self.book.sent(&report.task_id, call, now);
            }
        }
    }
}

/// A front that lets everyone in and takes all news.
#[derive(Default)]
pub(crate) struct Front {
    pub(crate) events: Vec<controller::Event>,
}

impl Front {
    pub(crate) fn serve(&mut self, session: &mut controller::Session) {
        while let Some(event) = session.poll_event() {
            match &event {
                controller::Event::Handshake { ticket, .. } => {
                    session.welcome(*ticket);
                }
                controller::Event::TaskStatus { ticket, .. } => session.acknowledge(*ticket),
                controller::Event::Answered { .. }
                | controller::Event::Closed(_)
                | controller::Event::Heard
                | controller::Event::Log(_)
                | controller::Event::LogsDropped { .. } => {}
            }
            self.events.push(event);
        }
    }

    pub(crate) fn closed(&self) -> Option<&muster_proto::teeth::CloseReason> {
        self.events.iter().find_map(|event| {
            if let controller::Event::Closed(reason) = event {
                Some(reason)
            } else {
                None
            }
        })
    }
}

/// The next event that is more than "it was heard".
pub(crate) fn news(session: &mut controller::Session) -> Option<controller::Event> {
    std::iter::from_fn(|| session.poll_event()).find(|event| *event != controller::Event::Heard)
}
