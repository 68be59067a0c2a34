//! Our agent and our server joined by two queues in virtual time.
//!
//! The story: handshake, a `status`, a `decom.qc`, its reports, its end. The line is cut after every
//! single byte of either direction; the agent dials again with its book of tasks, and in the end the
//! task was begun once, ended once and its end acknowledged once.

use std::time::{Duration, Instant};

use muster_proto::Session as _;
use muster_proto::teeth::commands::{Report, TaskState};
use muster_proto::teeth::{CallError, CloseReason, agent, controller};
use serde_json::json;

use crate::kit::{Front, Link, agent_session, json, new_hello, server_config, server_session};

/// Which direction of a connection is cut, and after how many bytes.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Never,
    ToAgent(usize),
    ToServer(usize),
}

struct Line {
    agent: agent::Session,
    server: controller::Session,
    to_agent: usize,
    to_server: usize,
    cut: Cut,
    up: bool,
}

/// Both ends over several connections.
struct Pair {
    now: Instant,
    link: Link,
    front: Front,
    /// What the server holds of the task: every report it acknowledged.
    news: Vec<Report>,
    ordered: bool,
    connections: usize,
}

impl Pair {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            link: Link::default(),
            front: Front::default(),
            news: Vec::new(),
            ordered: false,
            connections: 0,
        }
    }

    fn connect(&mut self, cut: Cut) -> Line {
        self.connections += 1;
        Line {
            agent: agent_session(new_hello(), self.now),
            server: server_session(server_config(), self.now),
            to_agent: 0,
            to_server: 0,
            cut,
            up: true,
        }
    }

    /// Moves bytes until neither end has more to say, a byte budget at a time.
    fn run(&mut self, line: &mut Line) {
        loop {
            self.link.serve(&mut line.agent, self.now);
            self.link.report(&mut line.agent, self.now);
            self.serve(&mut line.server);
            let mut moved = false;
            while let Some(bytes) = line.agent.poll_output() {
                moved = true;
                let pass = match line.cut {
                    Cut::ToServer(n) => bytes.len().min(n.saturating_sub(line.to_server)),
                    Cut::Never | Cut::ToAgent(_) => bytes.len(),
                };
                line.to_server += pass;
                line.server.handle_input(&bytes[..pass], self.now);
                line.up &= pass == bytes.len();
                if !line.up {
                    return self.drop_line(line);
                }
            }
            self.serve(&mut line.server);
            while let Some(bytes) = line.server.poll_output() {
                moved = true;
                let pass = match line.cut {
                    Cut::ToAgent(n) => bytes.len().min(n.saturating_sub(line.to_agent)),
                    Cut::Never | Cut::ToServer(_) => bytes.len(),
                };
                line.to_agent += pass;
                line.agent.handle_input(&bytes[..pass], self.now);
                line.up &= pass == bytes.len();
                if !line.up {
                    return self.drop_line(line);
                }
            }
            if line.agent.wants_close() || line.server.wants_close() {
                return self.drop_line(line);
            }
            if !moved {
                return;
            }
        }
    }

    fn drop_line(&mut self, line: &mut Line) {
        line.up = false;
        line.agent.handle_eof(self.now);
        line.server.handle_eof(self.now);
        self.link.serve(&mut line.agent, self.now);
        self.serve(&mut line.server);
    }

    /// The front: greets, orders the task on each connection until it has ended, stores news.
    fn serve(&mut self, server: &mut controller::Session) {
        let from = self.front.events.len();
        self.front.serve(server);
        for event in &self.front.events[from..] {
            match event {
                controller::Event::Handshake { .. } => {
                    let status = server.ask_status(self.now);
                    assert!(status.is_ok() || server.wants_close());
                    let ended = self.news.iter().any(|report| report.state.is_terminal());
                    if !ended {
                        self.ordered = true;
                        let params = json(json!({"task_id": "t-1"}));
                        let called = server.call("decom.qc", &params, self.now);
                        assert!(called.is_ok() || server.wants_close());
                    }
                }
                controller::Event::TaskStatus { report, .. } => self.news.push(report.clone()),
                controller::Event::Answered { outcome, .. } => {
                    let fine = matches!(outcome, Ok(_) | Err(CallError::Closed));
                    assert!(fine, "{outcome:?}");
                }
                controller::Event::Closed(reason) => {
                    let fine = matches!(reason, CloseReason::PeerClosed);
                    assert!(fine, "{reason:?}");
                }
                controller::Event::Heard
                | controller::Event::Log(_)
                | controller::Event::LogsDropped { .. } => {}
            }
        }
    }

    /// Lets time pass on a live line, stopping at every timer.
    fn advance(&mut self, line: &mut Line, by: Duration) {
        let end = self.now + by;
        loop {
            let timers = [
                line.agent.poll_timeout(),
                line.server.poll_timeout(),
                self.link.book.next_due(),
            ];
            let next = timers
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(end)
                .max(self.now);
            if next > end {
                break;
            }
            self.now = next;
            line.agent.handle_timeout(self.now);
            line.server.handle_timeout(self.now);
            self.run(line);
            if !line.up {
                return;
            }
            if next == end {
                break;
            }
        }
        self.now = end;
    }

    /// One connection of the story. Returns whether it was never cut.
    fn story(&mut self, cut: Cut) -> bool {
        let mut line = self.connect(cut);
        self.run(&mut line);
        if line.up {
            self.advance(&mut line, Duration::from_secs(25));
        }
        if line.up {
            self.link
                .book
                .progress("t-1", 50.0, 5.0, Some("disks"), self.now);
            self.advance(&mut line, Duration::from_secs(2));
        }
        if self.link.book.is_running("t-1") {
            let facts = json(json!({"cpu": {"cores": 2}}));
            self.link.book.complete("t-1", Some(facts), self.now);
        }
        if line.up {
            self.run(&mut line);
        }
        let whole = line.up;
        self.drop_line(&mut line);
        whole
    }

    fn check(&self, cut: Cut) {
        assert_eq!(self.link.begun, ["t-1"], "{cut:?}: begun once");
        let ends: Vec<&Report> = self.news.iter().filter(|r| r.state.is_terminal()).collect();
        assert!(!ends.is_empty(), "{cut:?}: the end arrived");
        for end in &ends {
            assert_eq!(end.state, TaskState::Complete, "{cut:?}");
            let facts = end.result.as_ref().map(|facts| facts.as_str());
            assert_eq!(facts, Some("{\"cpu\":{\"cores\":2}}"), "{cut:?}");
        }
        // A repeat can only be one whose acknowledgement was cut.
        assert!(ends.len() <= 2, "{cut:?}: {ends:?}");
        let mut percent = 0.0;
        for report in &self.news {
            if let TaskState::Running { percent: now, .. } = report.state {
                assert!(now >= percent, "{cut:?}: percentages never fall");
                percent = now;
            }
        }
        assert!(
            self.link.book.reports().is_empty(),
            "{cut:?}: nothing is left to say"
        );
        assert_eq!(self.link.book.next_due(), None, "{cut:?}");
    }
}

#[test]
fn a_task_runs_to_complete() {
    let mut pair = Pair::new();
    assert!(pair.story(Cut::Never));
    pair.check(Cut::Never);
    assert!(pair.link.established);
    let states: Vec<_> = pair.news.iter().map(|report| &report.state).collect();
    assert!(
        states.len() >= 5,
        "start, two periods, a step, the end: {states:?}"
    );
}

#[test]
fn cuts_at_every_byte_of_both_directions() {
    let mut pair = Pair::new();
    let mut line = pair.connect(Cut::Never);
    pair.run(&mut line);
    pair.advance(&mut line, Duration::from_secs(25));
    pair.link
        .book
        .progress("t-1", 50.0, 5.0, Some("disks"), pair.now);
    pair.advance(&mut line, Duration::from_secs(2));
    pair.link
        .book
        .complete("t-1", Some(json(json!({"cpu": {"cores": 2}}))), pair.now);
    pair.run(&mut line);
    let (to_agent, to_server) = (line.to_agent, line.to_server);
    assert!(
        to_agent > 1000 && to_server > 1000,
        "{to_agent} {to_server}"
    );

    let cuts = (0..to_agent)
        .map(Cut::ToAgent)
        .chain((0..to_server).map(Cut::ToServer));
    for cut in cuts {
        let mut pair = Pair::new();
        let whole = pair.story(cut);
        assert!(!whole, "{cut:?} is inside the story");
        assert!(
            pair.story(Cut::Never),
            "{cut:?}: the second connection is whole"
        );
        if !pair.ordered || pair.news.iter().all(|report| !report.state.is_terminal()) {
            assert!(pair.story(Cut::Never), "{cut:?}");
        }
        pair.check(cut);
    }
}

#[test]
fn a_partition_is_noticed_by_both_ends() {
    let mut pair = Pair::new();
    let mut line = pair.connect(Cut::Never);
    pair.run(&mut line);
    let call = line.server.ask_status(pair.now).unwrap();
    // From here nothing is carried.
    let start = pair.now;
    let ends = [
        {
            let mut last = start;
            while !line.agent.wants_close() {
                last = line.agent.poll_timeout().unwrap();
                line.agent.handle_timeout(last);
            }
            last
        },
        {
            let mut last = start;
            while !line.server.wants_close() {
                last = line.server.poll_timeout().unwrap();
                line.server.handle_timeout(last);
            }
            last
        },
    ];
    assert_eq!(ends, [start + Duration::from_secs(60); 2]);
    let events: Vec<_> = std::iter::from_fn(|| line.server.poll_event()).collect();
    assert_eq!(
        events,
        [
            controller::Event::Answered {
                call,
                outcome: Err(CallError::Closed)
            },
            controller::Event::Closed(CloseReason::Silent),
        ]
    );
}

#[test]
fn a_day_of_silence_in_the_application_keeps_the_line() {
    let mut pair = Pair::new();
    let mut line = pair.connect(Cut::Never);
    pair.run(&mut line);
    pair.link
        .book
        .complete("t-1", Some(json(json!({}))), pair.now);
    pair.run(&mut line);
    pair.advance(&mut line, Duration::from_secs(24 * 3600));
    assert!(line.up);
    assert_eq!(pair.connections, 1);
}
