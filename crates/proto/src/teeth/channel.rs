//! What both ends of a connection do alike: lines in and out, calls and their answers, ids, silence.
//!
//! Knows nothing of commands; [`super::controller`] and [`super::agent`] do.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use rand_core::Rng;

use super::json::Json;
use super::wire::{self, Command, Fatal, Limits, LineBuffer, Message, RemoteError, Taken};

/// Where a session takes the ids it mints from: seeded, so that the same seed tells the same story.
pub type SessionRng = Box<dyn Rng + Send>;

/// A call of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(u64);

/// A command of the peer that waits for our answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Why a call was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallRefused {
    /// The connection is closing or closed.
    #[error("the connection is closed")]
    Closed,
    /// The line would be longer than the peer takes.
    #[error("the command is longer than a line may be")]
    TooLong,
    /// As many calls as allowed are unanswered.
    #[error("too many calls are unanswered")]
    TooMany,
    /// The peer is not one that may be sent this.
    #[error("the peer does not serve this method")]
    Unsupported,
}

/// Why a call that was made has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The connection ended first.
    #[error("connection closed")]
    Closed,
    /// The peer answered with an error.
    #[error("the peer refused")]
    Remote(#[source] RemoteError),
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// We sent a fatal error.
    Fatal(Fatal),
    /// The server answered the agent's handshake with an error.
    HandshakeRefused {
        /// The server's words.
        msg: String,
    },
    /// We were asked to close.
    Local,
    /// The peer did not read what we wrote.
    OutputFull,
    /// The peer closed.
    PeerClosed,
    /// The peer sent a fatal error.
    PeerFatal {
        /// The peer's words.
        text: String,
    },
    /// No line for the idle time.
    Silent,
}

/// What happened that is worth counting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Lines taken.
    pub lines: u64,
    /// Answers to calls that were given up.
    pub late_answers: u64,
    /// Commands answered with an error because too many were waiting.
    pub busy: u64,
    /// Commands that nobody answered in time.
    pub unanswered: u64,
}

/// A call that waits for its answer. `T` says what for.
#[derive(Debug)]
struct Pending<T> {
    call: CallId,
    tag: T,
    deadline: Instant,
}

#[derive(Debug)]
struct Waiting {
    id: Json,
    version: Json,
    deadline: Instant,
}

/// The half of a session that both roles share.
pub(super) struct Channel<T> {
    pub(super) limits: Limits,
    rng: SessionRng,
    lines: LineBuffer,
    output: VecDeque<Vec<u8>>,
    output_bytes: usize,
    pending: BTreeMap<String, Pending<T>>,
    expired: VecDeque<String>,
    waiting: BTreeMap<Ticket, Waiting>,
    next: u64,
    last_line: Instant,
    closed: Option<CloseReason>,
    pub(super) counters: Counters,
}

/// What a line means once the shared half has judged it.
pub(super) enum Heard<T> {
    /// Nothing for the role to do.
    Nothing,
    /// A blank line, for the rate.
    Blank,
    /// A command; its version is known to be ours.
    Command(Command),
    /// The answer to a call.
    Answer(CallId, T, Result<Json, CallError>),
}

impl<T> Channel<T> {
    pub(super) fn new(limits: Limits, rng: SessionRng, now: Instant) -> Self {
        Self {
            limits,
            rng,
            lines: LineBuffer::default(),
            output: VecDeque::new(),
            output_bytes: 0,
            pending: BTreeMap::new(),
            expired: VecDeque::new(),
            waiting: BTreeMap::new(),
            next: 0,
            last_line: now,
            closed: None,
            counters: Counters::default(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    pub(super) fn close_reason(&self) -> Option<&CloseReason> {
        self.closed.as_ref()
    }

    /// A fresh UUID in the usual text form.
    pub(super) fn mint(&mut self) -> String {
        let mut bytes = [0; 16];
        self.rng.fill_bytes(&mut bytes);
        uuid::Builder::from_random_bytes(bytes)
            .into_uuid()
            .to_string()
    }

    /// The next line of `input`, or `None` when it is used up or the connection is over.
    pub(super) fn next_line<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Option<std::borrow::Cow<'a, [u8]>> {
        if !self.is_open() {
            return None;
        }
        match self.lines.take(input, self.limits.line_bytes) {
            Taken::Line(line) => Some(line),
            Taken::More => None,
            Taken::TooLong => {
                self.fatal(Fatal::LineTooLong);
                None
            }
        }
    }

    /// Judges a line: rows 1-9 and 12-15 of the contract's section 4.
    pub(super) fn hear(&mut self, line: &[u8], side: wire::Side, now: Instant) -> Heard<T> {
        self.last_line = now;
        self.counters.lines = self.counters.lines.saturating_add(1);
        let (id, outcome) = match wire::decode(line, &self.limits) {
            Ok(Message::Blank) => return Heard::Blank,
            Ok(Message::Command(command)) => {
                if command.is_v1() {
                    return Heard::Command(command);
                }
                self.fatal(Fatal::UnknownVersion(side));
                return Heard::Nothing;
            }
            Ok(Message::FatalError { text }) => {
                self.output.clear();
                self.output_bytes = 0;
                self.close(CloseReason::PeerFatal { text });
                return Heard::Nothing;
            }
            Ok(Message::Result { id, result }) => (id, Ok(result)),
            Ok(Message::Error { id, error }) => (id, Err(CallError::Remote(error))),
            Err(fatal) => {
                self.fatal(fatal);
                return Heard::Nothing;
            }
        };
        let id = id.as_text().unwrap_or_default();
        if let Some(pending) = self.pending.remove(&id) {
            return Heard::Answer(pending.call, pending.tag, outcome);
        }
        if let Some(at) = self.expired.iter().position(|expired| *expired == id) {
            self.expired.remove(at);
            self.counters.late_answers = self.counters.late_answers.saturating_add(1);
        } else {
            self.fatal(Fatal::UnknownId);
        }
        Heard::Nothing
    }

    /// Sends a command.
    pub(super) fn call(
        &mut self,
        method: &str,
        params: &Json,
        tag: T,
        now: Instant,
    ) -> Result<CallId, CallRefused> {
        if !self.is_open() {
            return Err(CallRefused::Closed);
        }
        if self.pending.len() >= self.limits.calls {
            return Err(CallRefused::TooMany);
        }
        let id = self.mint();
        let line = wire::encode_command(&id, method, params);
        if line.len() > self.limits.line_bytes.saturating_add(1) {
            return Err(CallRefused::TooLong);
        }
        let call = CallId(self.step());
        let deadline = later(now, self.limits.call_age);
        self.pending.insert(
            id,
            Pending {
                call,
                tag,
                deadline,
            },
        );
        self.push(line);
        Ok(call)
    }

    /// Keeps a command until the role or its front answers it; `None` when too many wait, which is
    /// answered with an error.
    pub(super) fn admit(&mut self, command: &Command, now: Instant) -> Option<Ticket> {
        if self.waiting.len() >= self.limits.calls {
            self.counters.busy = self.counters.busy.saturating_add(1);
            self.reply(command, Err("too many commands are unanswered"));
            return None;
        }
        let ticket = Ticket(self.step());
        let deadline = later(now, self.limits.call_age);
        let (id, version) = (command.id.clone(), command.version.clone());
        self.waiting.insert(
            ticket,
            Waiting {
                id,
                version,
                deadline,
            },
        );
        Some(ticket)
    }

    /// Answers a command that was admitted. An answer that comes too late goes nowhere.
    pub(super) fn answer(&mut self, ticket: Ticket, outcome: Result<&Json, &str>) -> bool {
        match self.waiting.remove(&ticket) {
            Some(waiting) => {
                self.respond(&waiting.id, &waiting.version, outcome);
                true
            }
            None => false,
        }
    }

    /// Answers a command at once.
    pub(super) fn reply(&mut self, command: &Command, outcome: Result<&Json, &str>) {
        self.respond(&command.id, &command.version, outcome);
    }

    fn respond(&mut self, id: &Json, version: &Json, outcome: Result<&Json, &str>) {
        if !self.is_open() {
            return;
        }
        let line = match outcome {
            Ok(result) => wire::encode_result(id, version, result),
            Err(msg) => wire::encode_error(id, version, msg),
        };
        if line.len() > self.limits.line_bytes.saturating_add(1) {
            let msg = "the answer is longer than a line may be";
            self.push(wire::encode_error(id, version, msg));
        } else {
            self.push(line);
        }
    }

    fn push(&mut self, line: Vec<u8>) {
        self.output_bytes = self.output_bytes.saturating_add(line.len());
        if self.output_bytes > self.limits.output_bytes {
            self.output.clear();
            self.output_bytes = 0;
            self.close(CloseReason::OutputFull);
        } else {
            self.output.push_back(line);
        }
    }

    /// Sends a fatal error, at most one a connection, and closes after it is flushed.
    pub(super) fn fatal(&mut self, fatal: Fatal) {
        if self.is_open() {
            self.output.push_back(wire::encode_fatal(&fatal));
            self.close(CloseReason::Fatal(fatal));
        }
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        if self.is_open() {
            self.waiting.clear();
            self.closed = Some(reason);
        }
    }

    /// The calls that end with the connection, in the order they were made.
    pub(super) fn abandoned(&mut self) -> Vec<(CallId, T)> {
        let mut calls: Vec<_> = std::mem::take(&mut self.pending)
            .into_values()
            .map(|p| (p.call, p.tag))
            .collect();
        calls.sort_by_key(|(call, _)| *call);
        calls
    }

    /// Gives up calls whose time is over and returns ours in order. A command of the peer that
    /// nobody answered in time stays unanswered: any answer would count as an acknowledgement.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(CallId, T)> {
        let before = self.waiting.len();
        self.waiting.retain(|_, waiting| waiting.deadline > now);
        let late = before.saturating_sub(self.waiting.len());
        let late = u64::try_from(late).unwrap_or(u64::MAX);
        self.counters.unanswered = self.counters.unanswered.saturating_add(late);
        let ids: Vec<String> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.deadline <= now)
            .map(|(id, _)| id.clone())
            .collect();
        let mut calls = Vec::new();
        for id in ids {
            if let Some(pending) = self.pending.remove(&id) {
                calls.push((pending.call, pending.tag));
                self.expired.push_back(id);
                if self.expired.len() > self.limits.expired_ids {
                    self.expired.pop_front();
                }
            }
        }
        calls.sort_by_key(|(call, _)| *call);
        calls
    }

    /// When the peer has been silent for too long.
    pub(super) fn idle_deadline(&self) -> Instant {
        later(self.last_line, self.limits.idle)
    }

    /// The earliest deadline of a call, ours or the peer's.
    pub(super) fn call_deadline(&self) -> Option<Instant> {
        let ours = self.pending.values().map(|pending| pending.deadline);
        ours.chain(self.waiting.values().map(|waiting| waiting.deadline))
            .min()
    }

    pub(super) fn poll_output(&mut self) -> Option<Vec<u8>> {
        let line = self.output.pop_front()?;
        self.output_bytes = self.output_bytes.saturating_sub(line.len());
        Some(line)
    }

    fn step(&mut self) -> u64 {
        self.next = self.next.saturating_add(1);
        self.next
    }
}

/// `now + age`, or `now` where a clock cannot hold the sum.
pub(super) fn later(now: Instant, age: std::time::Duration) -> Instant {
    now.checked_add(age).unwrap_or(now)
}
