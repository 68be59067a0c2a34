//! The server's end of a teeth connection.
//!
//! Judges lines in the order of the contract, answers `ping` and `log` itself, hands handshakes and
//! reports to its front with a [`Ticket`] to answer them by, and keeps the timers of the server:
//! silence, age of calls, time to a handshake. Whether an agent may come in, and what its news means,
//! is the front's to decide.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::channel::{
    CallError, CallId, CallRefused, Channel, CloseReason, Counters, Heard, SessionRng, Ticket,
    later,
};
use super::commands::{FromAgent, Hello, LogLine, Report, ToAgent, Verb, Welcome};
use super::json::Json;
use super::wire::{Command, Fatal, Limits, Side};

/// Whether a connection must show a credential before it is heard (teeth contract, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Without a handshake a connection is served, but is no agent.
    Open,
    /// Before a good handshake only `handshake` and `ping` are served, within a short time.
    Required,
}

/// What silence does to an agent that never pings (`teeth.idle_without_ping`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleRule {
    /// It is dropped like any other.
    Close,
    /// It is kept once it has shaken hands, and TCP keepalive watches it.
    Keepalive,
}

/// How a server's end behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Every limit.
    pub limits: Limits,
    /// Whether a credential is required.
    pub admission: Admission,
    /// What silence without pings does.
    pub idle: IdleRule,
    /// Name and version of the server program, told in the handshake result.
    pub server: String,
    /// Where the REST bridge is, told in the handshake result as the original does.
    pub endpoint: (String, u16),
}

/// What a session tells its front.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A call has its answer, or never will.
    Answered {
        /// The call.
        call: CallId,
        /// What came of it.
        outcome: Result<Json, CallError>,
    },
    /// The connection is over. The last event.
    Closed(CloseReason),
    /// An agent says who it is. To be answered by [`Session::welcome`] or [`Session::refuse`].
    Handshake {
        /// What to answer by.
        ticket: Ticket,
        /// What the agent says.
        hello: Hello,
    },
    /// The session handled what came in by itself: a ping, a blank line. Told so that a driver may
    /// count the input as used.
    Heard,
    /// A log line, answered already.
    Log(LogLine),
    /// Log lines over the rate were answered and dropped.
    LogsDropped {
        /// How many.
        count: u64,
    },
    /// News of a task. To be answered, after it is stored, by [`Session::acknowledge`] or
    /// [`Session::reject`].
    TaskStatus {
        /// What to answer by.
        ticket: Ticket,
        /// The news.
        report: Report,
    },
}

/// One connection, seen from the server.
pub struct Session {
    config: Config,
    channel: Channel<()>,
    events: VecDeque<Event>,
    born: Instant,
    bytes_before_handshake: usize,
    asking: BTreeMap<Ticket, Hello>,
    claimed_id: Option<String>,
    peer: Option<Hello>,
    connection_id: Option<String>,
    pinged: bool,
    log_rate: Bucket,
    logs_dropped: u64,
    told_closed: bool,
}

impl Session {
    /// A connection that was just accepted.
    pub fn new(config: Config, rng: SessionRng, now: Instant) -> Self {
        let channel = Channel::new(config.limits.clone(), rng, now);
        let log_rate = Bucket::new(config.limits.log_lines_per_second, now);
        Self {
            config,
            channel,
            events: VecDeque::new(),
            born: now,
            bytes_before_handshake: 0,
            asking: BTreeMap::new(),
            claimed_id: None,
            peer: None,
            connection_id: None,
            pinged: false,
            log_rate,
            logs_dropped: 0,
            told_closed: false,
        }
    }

    /// Who shook hands here.
    pub fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// The name of this connection, new with each handshake.
    pub fn connection_id(&self) -> Option<&str> {
        self.connection_id.as_deref()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.channel.counters
    }

    /// Lets the agent in. Returns the connection's id, or `None` when the answer comes too late.
    pub fn welcome(&mut self, ticket: Ticket) -> Option<String> {
        let hello = self.asking.remove(&ticket)?;
        let connection_id = self.channel.mint();
        let (host, port) = &self.config.endpoint;
        let welcome = Welcome {
            connection_id: Some(connection_id.clone()),
            endpoint_rpc_host: Some(host.clone()),
            endpoint_rpc_port: Some(*port),
            methods: Some(["ping", "log", "task_status"].map(str::to_owned).to_vec()),
            server: Some(self.config.server.clone()),
        };
        let answered = self
            .channel
            .answer(ticket, Ok(&welcome.to_result(&hello.id)));
        self.settle();
        if !answered {
            return None;
        }
        self.connection_id = Some(connection_id.clone());
        self.peer = Some(hello);
        Some(connection_id)
    }

    /// Turns the agent away: the text is sent as a fatal error.
    pub fn refuse(&mut self, ticket: Ticket, text: &str) {
        if self.asking.remove(&ticket).is_some() {
            self.channel.fatal(Fatal::Other(text.to_owned()));
            self.settle();
        }
    }

    /// Acknowledges a report.
    pub fn acknowledge(&mut self, ticket: Ticket) {
        self.channel.answer(ticket, Ok(&Json::empty()));
        self.settle();
    }

    /// Answers a report with an error.
    pub fn reject(&mut self, ticket: Ticket, msg: &str) {
        self.channel.answer(ticket, Err(msg));
        self.settle();
    }

    /// Sends a command to the agent.
    ///
    /// # Errors
    /// When there is no agent yet, it is not one that may be sent this, the line is too long, or too
    /// many calls are open.
    pub fn call(
        &mut self,
        method: &str,
        params: &Json,
        now: Instant,
    ) -> Result<CallId, CallRefused> {
        let Some(peer) = &self.peer else {
            return Err(CallRefused::Unsupported);
        };
        // No real agent serves these, and asking costs the connection.
        let only_listed = method == "ping"
            || method == ToAgent::CANCEL
            || Verb::Run.spellings().contains(&method);
        if only_listed && !peer.lists(method) {
            return Err(CallRefused::Unsupported);
        }
        let call = self.channel.call(method, params, (), now);
        self.settle();
        call
    }

    /// Asks the agent how it is. The parameters are not empty, as the oldest real agents take an
    /// empty object for none and end the connection (teeth contract, section 6).
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn ask_status(&mut self, now: Instant) -> Result<CallId, CallRefused> {
        self.call(
            "status",
            &Json::from(serde_json::json!({ "verbose": false })),
            now,
        )
    }

    /// Ends the connection without a word.
    pub fn close(&mut self) {
        self.channel.close(CloseReason::Local);
        self.settle();
    }

    fn must_shake_hands(&self) -> bool {
        self.config.admission == Admission::Required && self.peer.is_none()
    }

    fn idle_deadline(&self) -> Option<Instant> {
        let kept = self.config.idle == IdleRule::Keepalive && self.peer.is_some() && !self.pinged;
        if kept {
            None
        } else {
            Some(self.channel.idle_deadline())
        }
    }

    fn handshake_deadline(&self) -> Option<Instant> {
        self.must_shake_hands()
            .then(|| later(self.born, self.config.limits.handshake))
    }

    fn on_line(&mut self, line: &[u8], now: Instant) {
        match self.channel.hear(line, Side::Controller, now) {
            Heard::Nothing => {}
            Heard::Blank => {
                self.log_rate.take(now);
            }
            Heard::Command(command) => self.on_command(&command, now),
            Heard::Answer(call, (), outcome) => {
                self.events.push_back(Event::Answered { call, outcome });
            }
        }
    }

    fn on_command(&mut self, command: &Command, now: Instant) {
        let read = FromAgent::read(command, &self.config.limits);
        let handshake = command.method.as_text().as_deref() == Some("handshake");
        let ping = matches!(read, Ok(Some(FromAgent::Ping)));
        if self.must_shake_hands() && !handshake && !ping {
            self.channel.reply(command, Err("not authenticated"));
            return;
        }
        match read {
            // The original endpoint ends the connection over a bad handshake.
            Err(bad) if handshake => self.channel.fatal(Fatal::Other(bad.to_string())),
            Err(bad) => self.channel.reply(command, Err(&bad.to_string())),
            Ok(None)
                if self
                    .peer
                    .as_ref()
                    .is_some_and(|peer| peer.methods.is_some()) =>
            {
                let method: String = command.method.to_text().chars().take(64).collect();
                self.channel
                    .reply(command, Err(&format!("unknown method \"{method}\"")));
            }
            Ok(None) => self.channel.fatal(Fatal::UnknownMethod(Side::Controller)),
            Ok(Some(FromAgent::Handshake(hello))) => self.on_handshake(command, hello, now),
            Ok(Some(FromAgent::Log(line))) => self.on_log(command, line, now),
            Ok(Some(FromAgent::Ping)) => {
                self.pinged = true;
                self.channel.reply(command, Ok(&command.params));
            }
            Ok(Some(FromAgent::TaskStatus(report))) => {
                if let Some(ticket) = self.channel.admit(command, now) {
                    self.events.push_back(Event::TaskStatus { ticket, report });
                }
            }
        }
    }

    fn on_handshake(&mut self, command: &Command, hello: Hello, now: Instant) {
        if self
            .claimed_id
            .as_ref()
            .is_some_and(|claimed| *claimed != hello.id)
        {
            self.channel.fatal(Fatal::OtherIdentity);
            return;
        }
        self.claimed_id = Some(hello.id.clone());
        if let Some(ticket) = self.channel.admit(command, now) {
            self.asking.insert(ticket, hello.clone());
            self.events.push_back(Event::Handshake { ticket, hello });
        }
    }

    fn on_log(&mut self, command: &Command, line: LogLine, now: Instant) {
        self.channel.reply(command, Ok(&Json::empty()));
        if self.log_rate.take(now) {
            self.tell_dropped();
            self.events.push_back(Event::Log(line));
        } else {
            self.logs_dropped = self.logs_dropped.saturating_add(1);
        }
    }

    fn tell_dropped(&mut self) {
        let count = std::mem::take(&mut self.logs_dropped);
        if count > 0 {
            self.events.push_back(Event::LogsDropped { count });
        }
    }

    /// Tells the front, once, that the connection is over.
    fn settle(&mut self) {
        if self.told_closed {
            return;
        }
        let Some(reason) = self.channel.close_reason().cloned() else {
            return;
        };
        self.told_closed = true;
        self.tell_dropped();
        for (call, ()) in self.channel.abandoned() {
            self.events.push_back(Event::Answered {
                call,
                outcome: Err(CallError::Closed),
            });
        }
        self.events.push_back(Event::Closed(reason));
    }
}

impl crate::Session for Session {
    type Event = Event;

    fn handle_input(&mut self, bytes: &[u8], now: Instant) {
        let mut input = bytes;
        let mut over = false;
        if self.must_shake_hands() {
            let left = self
                .config
                .limits
                .handshake_bytes
                .saturating_sub(self.bytes_before_handshake);
            over = input.len() > left;
            input = input.get(..left).unwrap_or(input);
            self.bytes_before_handshake = self.bytes_before_handshake.saturating_add(input.len());
        }
        let before = self.channel.counters.lines;
        while let Some(line) = self.channel.next_line(&mut input) {
            self.on_line(&line, now);
        }
        if over {
            self.channel.fatal(Fatal::HandshakeTooLong);
        }
        self.settle();
        if self.channel.counters.lines > before && self.events.is_empty() && !self.told_closed {
            self.events.push_back(Event::Heard);
        }
    }

    fn handle_eof(&mut self, _now: Instant) {
        self.channel.close(CloseReason::PeerClosed);
        self.settle();
    }

    fn handle_timeout(&mut self, now: Instant) {
        if !self.channel.is_open() {
            return;
        }
        if self.idle_deadline().is_some_and(|deadline| deadline <= now) {
            self.channel.close(CloseReason::Silent);
        } else if self
            .handshake_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.channel.fatal(Fatal::HandshakeTooSlow);
        } else {
            for (call, ()) in self.channel.expire(now) {
                self.events.push_back(Event::Answered {
                    call,
                    outcome: Err(CallError::TimedOut),
                });
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
            self.idle_deadline(),
            self.handshake_deadline(),
            self.channel.call_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn wants_close(&self) -> bool {
        !self.channel.is_open()
    }
}

/// A token bucket that holds one second's worth.
#[derive(Debug)]
struct Bucket {
    per_second: u64,
    /// Thousandths of a token.
    level: u64,
    filled: Instant,
}

impl Bucket {
    fn new(per_second: u32, now: Instant) -> Self {
        let per_second = u64::from(per_second);
        Self {
            per_second,
            level: per_second.saturating_mul(1000),
            filled: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let elapsed_ms = now.saturating_duration_since(self.filled).as_millis();
        let elapsed_ms = u64::try_from(elapsed_ms).unwrap_or(u64::MAX);
        let elapsed = Duration::from_millis(elapsed_ms);
        self.filled = later(self.filled, elapsed);
        let full = self.per_second.saturating_mul(1000);
        self.level = self
            .level
            .saturating_add(elapsed_ms.saturating_mul(self.per_second))
            .min(full);
        match self.level.checked_sub(1000) {
            Some(left) => {
                self.level = left;
                true
            }
            None => false,
        }
    }
}
