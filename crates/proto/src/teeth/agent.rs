//! The agent's end of a teeth connection.
//!
//! Shakes hands first, pings every twenty seconds once that is answered, answers `ping` itself and
//! hands every other command to its link with a [`Ticket`]. Commands are served at any time, also
//! before the handshake is answered. What the machine may be made to do, the book of tasks
//! ([`super::tasks`]) and the reconnect ([`super::backoff`]) are the link's.

use std::collections::VecDeque;
use std::time::Instant;

use serde_json::Map;

use super::channel::{
    CallError, CallId, CallRefused, Channel, CloseReason, Counters, Heard, SessionRng, Ticket,
    later,
};
use super::commands::{Hello, LogLine, Report, TaskCall, ToAgent, Verb, Welcome};
use super::json::Json;
use super::wire::{Command, Fatal, Limits, Side};

/// How an agent's end behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Every limit.
    pub limits: Limits,
    /// What the handshake says. Its `methods` are what the server is told; commands of the
    /// published text are understood whether listed or not, those of Muster's name space only when
    /// listed.
    pub hello: Hello,
}

/// A command for the link to carry out or refuse.
#[derive(Clone, Debug, PartialEq)]
pub enum Called {
    /// Stop a task.
    Cancel {
        /// The task.
        task_id: String,
    },
    /// Say how you are.
    Status,
    /// Begin a task.
    Task(TaskCall),
}

/// What a session tells its link.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A report or log line has its answer, or never will.
    Answered {
        /// The call.
        call: CallId,
        /// What came of it.
        outcome: Result<Json, CallError>,
    },
    /// The server commands something. To be answered by [`Session::answer`] or [`Session::fail`].
    Called {
        /// What to answer by.
        ticket: Ticket,
        /// The command.
        command: Called,
    },
    /// The connection is over. The last event.
    Closed {
        /// Why.
        reason: CloseReason,
        /// The server ended it because it does not know `task_status`: no more reports to it
        /// (teeth contract, section 9).
        reports_refused: bool,
    },
    /// The server took the handshake.
    Established(Welcome),
}

/// What a call of the agent was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Handshake,
    Log,
    Ping,
    Report,
}

/// One connection, seen from the agent.
pub struct Session {
    config: Config,
    channel: Channel<Tag>,
    events: VecDeque<Event>,
    welcome: Option<Welcome>,
    next_ping: Option<Instant>,
    told_closed: bool,
}

impl Session {
    /// A connection that was just opened. The handshake is its first output.
    pub fn new(config: Config, rng: SessionRng, now: Instant) -> Self {
        let mut channel = Channel::new(config.limits.clone(), rng, now);
        let shaken = channel.call("handshake", &config.hello.to_params(), Tag::Handshake, now);
        if shaken.is_err() {
            channel.close(CloseReason::Local);
        }
        let mut session = Self {
            config,
            channel,
            events: VecDeque::new(),
            welcome: None,
            next_ping: None,
            told_closed: false,
        };
        session.settle();
        session
    }

    /// What the server said of itself, once it took the handshake.
    pub fn server(&self) -> Option<&Welcome> {
        self.welcome.as_ref()
    }

    /// Whether `task_status` may be sent: the server took the handshake and is not one that ends
    /// the connection over it.
    pub fn takes_reports(&self) -> bool {
        self.channel.is_open() && self.welcome.as_ref().is_some_and(|w| !w.kills_reports())
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.channel.counters
    }

    /// Answers a command with a result.
    pub fn answer(&mut self, ticket: Ticket, result: &Json) {
        self.channel.answer(ticket, Ok(result));
        self.settle();
    }

    /// Answers a command with an error.
    pub fn fail(&mut self, ticket: Ticket, msg: &str) {
        self.channel.answer(ticket, Err(msg));
        self.settle();
    }

    /// Sends news of a task.
    ///
    /// # Errors
    /// When the server does not take reports, the line is too long, or too many calls are open.
    pub fn report(&mut self, report: &Report, now: Instant) -> Result<CallId, CallRefused> {
        if !self.takes_reports() {
            return Err(CallRefused::Unsupported);
        }
        let call = self
            .channel
            .call("task_status", &report.to_params(), Tag::Report, now);
        self.settle();
        call
    }

    /// Sends a log line.
    ///
    /// # Errors
    /// When the handshake is not answered yet, the line is too long, or too many calls are open.
    pub fn log(&mut self, line: &LogLine, now: Instant) -> Result<CallId, CallRefused> {
        if self.welcome.is_none() {
            return Err(CallRefused::Unsupported);
        }
        let call = self.channel.call("log", &line.fields, Tag::Log, now);
        self.settle();
        call
    }

    /// Ends the connection without a word.
    pub fn close(&mut self) {
        self.channel.close(CloseReason::Local);
        self.settle();
    }

    fn on_line(&mut self, line: &[u8], now: Instant) {
        match self.channel.hear(line, Side::Agent, now) {
            Heard::Nothing | Heard::Blank => {}
            Heard::Command(command) => self.on_command(&command, now),
            Heard::Answer(call, tag, outcome) => self.on_answer(call, tag, outcome, now),
        }
    }

    fn on_command(&mut self, command: &Command, now: Instant) {
        let called = match ToAgent::read(command, &self.config.limits) {
            Err(bad) => {
                self.channel.reply(command, Err(&bad.to_string()));
                return;
            }
            Ok(Some(ToAgent::Ping)) => {
                self.channel.reply(command, Ok(&command.params));
                return;
            }
            Ok(Some(ToAgent::Cancel { task_id })) if self.serves(ToAgent::CANCEL) => {
                Called::Cancel { task_id }
            }
            Ok(Some(ToAgent::Task(call)))
                if call.verb != Verb::Run || self.serves(&call.method) =>
            {
                Called::Task(call)
            }
            Ok(Some(ToAgent::Status)) => Called::Status,
            Ok(None | Some(ToAgent::Cancel { .. } | ToAgent::Task(_))) => {
                self.unknown_method(command);
                return;
            }
        };
        if let Some(ticket) = self.channel.admit(command, now) {
            self.events.push_back(Event::Called {
                ticket,
                command: called,
            });
        }
    }

    /// A server that listed its methods is told in an answer, any other as the original agent does.
    fn unknown_method(&mut self, command: &Command) {
        if self
            .welcome
            .as_ref()
            .is_some_and(|welcome| welcome.methods.is_some())
        {
            let method: String = command.method.to_text().chars().take(64).collect();
            self.channel
                .reply(command, Err(&format!("unknown method \"{method}\"")));
        } else {
            self.channel.fatal(Fatal::UnknownMethod(Side::Agent));
        }
    }

    fn serves(&self, method: &str) -> bool {
        self.config.hello.lists(method)
    }

    fn on_answer(
        &mut self,
        call: CallId,
        tag: Tag,
        outcome: Result<Json, CallError>,
        now: Instant,
    ) {
        match (tag, outcome) {
            (Tag::Handshake, Ok(result)) => {
                let welcome = Welcome::read(&result, &self.config.limits);
                self.welcome = Some(welcome.clone());
                self.ping(now);
                self.events.push_back(Event::Established(welcome));
            }
            // The original waits for its own idle timer here; there is nothing to wait for.
            (Tag::Handshake, Err(CallError::Remote(error))) => {
                self.channel
                    .close(CloseReason::HandshakeRefused { msg: error.msg });
            }
            (Tag::Handshake, Err(CallError::Closed | CallError::TimedOut)) | (Tag::Ping, _) => {}
            (Tag::Log | Tag::Report, outcome) => {
                self.events.push_back(Event::Answered { call, outcome });
            }
        }
    }

    fn ping(&mut self, now: Instant) {
        // One that cannot be sent because too many calls are open is not missed: silence is what
        // ends a connection, not a ping.
        let _ = self.channel.call("ping", &Json::empty(), Tag::Ping, now);
        self.next_ping = Some(later(now, self.config.limits.ping));
    }

    /// Tells the link, once, that the connection is over.
    fn settle(&mut self) {
        if self.told_closed {
            return;
        }
        let Some(reason) = self.channel.close_reason().cloned() else {
            return;
        };
        self.told_closed = true;
        let mut reports_refused = false;
        for (call, tag) in self.channel.abandoned() {
            if tag == Tag::Report
                && let CloseReason::PeerFatal { text } = &reason
            {
                reports_refused |= text == "unknown command method";
            }
            if matches!(tag, Tag::Log | Tag::Report) {
                self.events.push_back(Event::Answered {
                    call,
                    outcome: Err(CallError::Closed),
                });
            }
        }
        self.events.push_back(Event::Closed {
            reason,
            reports_refused,
        });
    }
}

impl crate::Session for Session {
    type Event = Event;

    fn handle_input(&mut self, bytes: &[u8], now: Instant) {
        let mut input = bytes;
        while let Some(line) = self.channel.next_line(&mut input) {
            self.on_line(&line, now);
        }
        self.settle();
    }

    fn handle_eof(&mut self, _now: Instant) {
        self.channel.close(CloseReason::PeerClosed);
        self.settle();
    }

    fn handle_timeout(&mut self, now: Instant) {
        if !self.channel.is_open() {
            return;
        }
        if self.channel.idle_deadline() <= now {
            self.channel.close(CloseReason::Silent);
        } else {
            for (call, tag) in self.channel.expire(now) {
                self.on_answer(call, tag, Err(CallError::TimedOut), now);
            }
            if self.next_ping.is_some_and(|due| due <= now) {
                self.ping(now);
            }
        }
        self.settle();
    }

    fn poll_output(&mut self) -> Option<Vec<u8>> {
        self.channel.poll_output()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.channel.is_open() {
            return None;
        }
        let deadlines = [
            Some(self.channel.idle_deadline()),
            self.next_ping,
            self.channel.call_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn wants_close(&self) -> bool {
        !self.channel.is_open()
    }
}

/// Log lines that wait for a connection. Bounded: the oldest go first, and how many went is told
/// (teeth contract, section 6).
#[derive(Debug)]
pub struct LogQueue {
    lines: VecDeque<LogLine>,
    lines_max: usize,
    dropped: u64,
}

impl LogQueue {
    /// An empty queue of at most `lines_max` lines.
    pub fn new(lines_max: usize) -> Self {
        Self {
            lines: VecDeque::new(),
            lines_max,
            dropped: 0,
        }
    }

    /// Adds a line.
    pub fn push(&mut self, line: LogLine) {
        self.lines.push_back(line);
        while self.lines.len() > self.lines_max {
            self.lines.pop_front();
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Sends what the session takes; a line it does not take stays.
    pub fn drain_into(&mut self, session: &mut Session, now: Instant) {
        if self.dropped > 0
            && let Some(time) = self.lines.front().map(|line| line.time)
        {
            let mut fields = Map::new();
            fields.insert("dropped".to_owned(), self.dropped.into());
            let line = LogLine::new("log lines were dropped while disconnected", time, fields);
            if session.log(&line, now).is_err() {
                return;
            }
            self.dropped = 0;
        }
        while let Some(line) = self.lines.front() {
            match session.log(line, now) {
                // A line that is too long for the wire never will be short enough.
                Ok(_) | Err(CallRefused::TooLong) => self.lines.pop_front(),
                Err(CallRefused::Closed | CallRefused::TooMany | CallRefused::Unsupported) => {
                    return;
                }
            };
        }
    }

    /// How many lines wait.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}
