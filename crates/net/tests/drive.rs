//! The driver over in-memory streams in paused time, with a session small enough to see through.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use muster_net::{
    Clock, Drain, DriveEnd, DriveError, DriveLimits, Handler, MemoryBudget, OnEvent, drive,
};
use muster_proto::Session;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Echoes lines; `bye` closes; a line must end within ten seconds of its first byte.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
    events: VecDeque<Event>,
    output: VecDeque<Vec<u8>>,
    deadline: Option<Instant>,
    closing: bool,
}

#[derive(Debug, PartialEq)]
enum Event {
    Eof,
    Line(String),
    TimedOut,
}

impl Lines {
    fn say(&mut self, text: &str) {
        self.output.push_back(format!("{text}\n").into_bytes());
    }
}

impl Session for Lines {
    type Event = Event;

    fn handle_input(&mut self, bytes: &[u8], now: Instant) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = String::from_utf8(std::mem::take(&mut self.partial)).unwrap();
                self.deadline = None;
                self.closing |= line == "bye";
                self.events.push_back(Event::Line(line));
            } else {
                self.deadline.get_or_insert(now + Duration::from_secs(10));
                self.partial.push(byte);
            }
        }
    }

    fn handle_eof(&mut self, _now: Instant) {
        self.events.push_back(Event::Eof);
        self.closing = true;
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            self.events.push_back(Event::TimedOut);
            self.closing = true;
        }
    }

    fn poll_output(&mut self) -> Option<Vec<u8>> {
        self.output.pop_front()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    fn wants_close(&self) -> bool {
        self.closing
    }
}

fn clock() -> Clock {
    Clock::simulated(Timestamp::UNIX_EPOCH)
}

/// Drives an echoing session over `near` with `limits`, and returns how it ended and its events.
async fn echo(
    near: DuplexStream,
    limits: DriveLimits,
    cancel: CancellationToken,
) -> (Result<DriveEnd, DriveError>, Vec<Event>) {
    let mut seen = Vec::new();
    let mut session = Lines::default();
    let mut handler = OnEvent(|session: &mut Lines, event: Event, _| {
        if let Event::Line(line) = &event {
            session.say(line);
        }
        seen.push(event);
    });
    let outcome = drive(near, &mut session, &mut handler, &clock(), &limits, &cancel).await;
    (outcome, seen)
}

fn line(text: &str) -> Event {
    Event::Line(text.to_owned())
}

#[tokio::test(start_paused = true)]
async fn replies_are_flushed_before_the_close() {
    let (near, mut far) = duplex(3);
    let task = tokio::spawn(echo(near, DriveLimits::default(), CancellationToken::new()));
    let mut heard = String::new();
    let (mut reader, mut writer) = tokio::io::split(&mut far);
    let (wrote, read) = tokio::join!(
        writer.write_all(b"one\ntwo\nbye\n"),
        reader.read_to_string(&mut heard)
    );
    wrote.unwrap();
    read.unwrap();
    assert_eq!(heard, "one\ntwo\nbye\n");
    let (outcome, seen) = task.await.unwrap();
    assert!(matches!(outcome, Ok(DriveEnd::Closed)), "{outcome:?}");
    assert_eq!(seen, [line("one"), line("two"), line("bye")]);
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_peer_still_gets_its_reply() {
    let (near, mut far) = duplex(64);
    let task = tokio::spawn(echo(near, DriveLimits::default(), CancellationToken::new()));
    far.write_all(b"last\n").await.unwrap();
    far.shutdown().await.unwrap();
    let mut heard = String::new();
    far.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "last\n");
    assert_eq!(task.await.unwrap().1, [line("last"), Event::Eof]);
}

#[tokio::test(start_paused = true)]
async fn session_timers_fire() {
    let (near, mut far) = duplex(64);
    let began = tokio::time::Instant::now();
    let task = tokio::spawn(echo(near, DriveLimits::default(), CancellationToken::new()));
    far.write_all(b"never ends").await.unwrap();
    let (outcome, seen) = task.await.unwrap();
    assert!(matches!(outcome, Ok(DriveEnd::Closed)), "{outcome:?}");
    assert_eq!(seen, [Event::TimedOut]);
    assert_eq!(began.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_is_cut_at_the_output_limit() {
    let (near, mut far) = duplex(16);
    let limits = DriveLimits {
        output_max: 64,
        ..DriveLimits::default()
    };
    let task = tokio::spawn(echo(near, limits, CancellationToken::new()));
    for _ in 0..40 {
        if far.write_all(b"0123456789\n").await.is_err() {
            break;
        }
    }
    let (outcome, seen) = task.await.unwrap();
    assert!(
        matches!(outcome, Err(DriveError::OutputFull { limit: 64, .. })),
        "{outcome:?}"
    );
    assert_eq!(seen.last(), Some(&Event::Eof), "the session hears of it");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_no_byte_is_cut_at_the_deadline() {
    let (near, mut far) = duplex(4);
    let began = tokio::time::Instant::now();
    let task = tokio::spawn(echo(near, DriveLimits::default(), CancellationToken::new()));
    for chunk in [b"01", b"23", b"45", b"6\n"] {
        far.write_all(chunk).await.unwrap();
    }
    let (outcome, _) = task.await.unwrap();
    assert!(
        matches!(outcome, Err(DriveError::WriteStalled(_))),
        "{outcome:?}"
    );
    assert_eq!(began.elapsed(), Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn input_without_an_event_counts_against_the_shared_budget() {
    let budget = MemoryBudget::new(1000);
    let limits = DriveLimits {
        budget: Some(budget.clone()),
        ..DriveLimits::default()
    };
    let (near, mut far) = duplex(4096);
    let task = tokio::spawn(echo(near, limits, CancellationToken::new()));
    // An event gives the memory back, so many small lines pass.
    for _ in 0..10 {
        far.write_all(&[b"x".repeat(900), b"\n".to_vec()].concat())
            .await
            .unwrap();
        far.read_exact(&mut [0; 901]).await.unwrap();
    }
    assert_eq!(budget.used(), 0);
    far.write_all(&b"x".repeat(1001)).await.unwrap();
    let (outcome, _) = task.await.unwrap();
    assert!(
        matches!(outcome, Err(DriveError::OverBudget)),
        "{outcome:?}"
    );
    assert_eq!(budget.used(), 0, "a cut connection gives back what it held");
}

/// Sends on what comes from a channel, and says goodbye when drained.
struct Relay {
    source: mpsc::Receiver<&'static str>,
    drain: Drain,
}

impl Handler<Lines> for Relay {
    type Wake = Option<&'static str>;

    async fn on_event(&mut self, session: &mut Lines, event: Event, _now: Instant) {
        if let Event::Line(line) = event {
            session.say(&line);
        }
    }

    async fn next_wake(&mut self) -> Option<&'static str> {
        self.source.recv().await
    }

    async fn on_wake(&mut self, session: &mut Lines, wake: Option<&'static str>, _now: Instant) {
        match wake {
            Some(text) => session.say(text),
            None => session.closing = true,
        }
    }

    async fn on_drain(&mut self, session: &mut Lines, _now: Instant) -> Drain {
        session.say("goodbye");
        self.drain
    }
}

async fn relay(
    near: DuplexStream,
    source: mpsc::Receiver<&'static str>,
    drain: Drain,
    cancel: CancellationToken,
) -> Result<DriveEnd, DriveError> {
    let mut session = Lines::default();
    let mut handler = Relay { source, drain };
    drive(
        near,
        &mut session,
        &mut handler,
        &clock(),
        &DriveLimits::default(),
        &cancel,
    )
    .await
}

#[tokio::test(start_paused = true)]
async fn a_handler_can_be_woken_to_speak_first() {
    let (near, mut far) = duplex(64);
    let (sender, source) = mpsc::channel(4);
    let task = tokio::spawn(relay(near, source, Drain::Close, CancellationToken::new()));
    sender.send("one").await.unwrap();
    sender.send("two").await.unwrap();
    drop(sender);
    let mut heard = String::new();
    far.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "one\ntwo\n");
    assert!(matches!(task.await.unwrap(), Ok(DriveEnd::Closed)));
}

#[tokio::test(start_paused = true)]
async fn cancelling_says_goodbye_and_closes() {
    let (near, mut far) = duplex(64);
    let (_sender, source) = mpsc::channel(4);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(relay(near, source, Drain::Close, cancel.clone()));
    cancel.cancel();
    let mut heard = String::new();
    far.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "goodbye\n");
    assert!(matches!(task.await.unwrap(), Ok(DriveEnd::Cancelled)));
}

#[tokio::test(start_paused = true)]
async fn draining_may_finish_the_exchange_within_its_deadline() {
    let (near, mut far) = duplex(64);
    let (_sender, source) = mpsc::channel(4);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(relay(near, source, Drain::Finish, cancel.clone()));
    cancel.cancel();
    far.read_exact(&mut [0; 8]).await.unwrap();
    far.write_all(b"bye\n").await.unwrap();
    let mut heard = String::new();
    far.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "bye\n");
    assert!(matches!(task.await.unwrap(), Ok(DriveEnd::Closed)));

    let (near, _far) = duplex(64);
    let (_sender, source) = mpsc::channel(4);
    let began = tokio::time::Instant::now();
    let outcome = relay(near, source, Drain::Finish, cancel).await;
    assert!(matches!(outcome, Ok(DriveEnd::Cancelled)), "{outcome:?}");
    assert_eq!(began.elapsed(), DriveLimits::default().drain);
}
