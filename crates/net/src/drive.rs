//! The driver that joins a pure [`Session`] to a stream.
//!
//! [`drive`] owns the order of things: read, feed the session, hand its events to a [`Handler`],
//! write what it wants written, wake it when it asked to be woken. It knows no protocol. The same
//! driver runs over TCP, TLS and the simulator's in-memory links, and for both ends of a wire.
//!
//! While a handler awaits (a commit, say), nothing is read: a peer is slowed down by its own work.
//! What is unbounded elsewhere is bounded here: output that is not taken, input that makes no event,
//! and the time after the peer has ended its side.

use std::convert::Infallible;
use std::future::{self, Future};
use std::io;
use std::time::{Duration, Instant};

use muster_proto::Session;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::limit::{MemoryBudget, MemoryShare};

/// What sits above a session: a front on the server, a link on the agent.
///
/// Both methods that get the session may await; the connection waits with them. Implementations
/// write plain `async fn`.
pub trait Handler<S: Session>: Send {
    /// What [`Handler::next_wake`] brings. [`Infallible`] for a handler that is never woken.
    type Wake: Send;

    /// Takes one event of the session, and may call into the session to answer.
    fn on_event(
        &mut self,
        session: &mut S,
        event: S::Event,
        now: Instant,
    ) -> impl Future<Output = ()> + Send;

    /// Waits for a reason of one's own to use the session: a due run, a message from elsewhere.
    ///
    /// It is dropped and called again whenever something else happens first, so it must be safe to
    /// drop (receiving from a channel is). The default never returns.
    fn next_wake(&mut self) -> impl Future<Output = Self::Wake> + Send {
        future::pending()
    }

    /// Takes what [`Handler::next_wake`] brought.
    fn on_wake(
        &mut self,
        _session: &mut S,
        _wake: Self::Wake,
        _now: Instant,
    ) -> impl Future<Output = ()> + Send {
        future::ready(())
    }

    /// The process is stopping: says goodbye in the protocol's words, if it has any.
    fn on_drain(&mut self, _session: &mut S, _now: Instant) -> impl Future<Output = Drain> + Send {
        future::ready(Drain::Close)
    }
}

/// What a connection does when the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Write what is queued, then close.
    Close,
    /// Go on until the session wants to close, at most for [`DriveLimits::drain`].
    Finish,
}

/// Bounds of one connection, whatever its protocol.
#[derive(Clone, Debug)]
pub struct DriveLimits {
    /// Output that the peer has not taken yet, in bytes; over it the connection ends.
    pub output_max: usize,
    /// Longest time without the peer taking a byte of waiting output.
    pub write_stall: Duration,
    /// Longest time between the peer's end of stream and our own.
    pub after_eof: Duration,
    /// Longest time between cancellation and the end.
    pub drain: Duration,
    /// How long to go on reading and discarding after the last write, so that a reply is not
    /// destroyed by a reset on unread input.
    pub linger: Duration,
    /// Shared bound on bytes that have made no event yet; `None` for a peer that is known.
    pub budget: Option<MemoryBudget>,
}

impl Default for DriveLimits {
    /// The bounds of the threat model, section 4.
    fn default() -> Self {
        Self {
            output_max: 1 << 20,
            write_stall: Duration::from_secs(30),
            after_eof: Duration::from_secs(30),
            drain: Duration::from_secs(5),
            linger: Duration::from_secs(1),
            budget: None,
        }
    }
}

/// Why a connection ended without fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveEnd {
    /// The session wanted it.
    Closed,
    /// The peer had ended its side, and nothing came of it within [`DriveLimits::after_eof`].
    PeerGone,
    /// The process is stopping.
    Cancelled,
}

/// Why a connection broke. The session has been told that the stream ended, and its last events have
/// been handled.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The peer sent more than the server is willing to hold for those it does not know.
    #[error("the memory set aside for unknown peers is used up")]
    OverBudget,
    /// The peer does not take what is written to it.
    #[error("{queued} bytes of output wait for the peer; the limit is {limit}")]
    OutputFull {
        /// Bytes waiting.
        queued: usize,
        /// The bound that was passed.
        limit: usize,
    },
    /// The stream broke while reading.
    #[error("reading from the peer failed")]
    Read(#[source] io::Error),
    /// The peer took no byte for too long.
    #[error("the peer took no byte for {} s", .0.as_secs())]
    WriteStalled(Duration),
    /// The stream broke while writing.
    #[error("writing to the peer failed")]
    Write(#[source] io::Error),
}

/// Read at a time. Memory for a message grows in steps of this as bytes arrive.
const READ_BYTES: usize = 16 * 1024;

/// Events handled in a row before other connections get their turn.
const EVENTS_PER_TURN: usize = 64;

/// Runs `session` over `io` until it ends.
///
/// Cancelling `cancel` drains the connection as [`Handler::on_drain`] says. Dropping the future cuts
/// it at once.
///
/// # Errors
/// When the stream breaks or a bound is passed; see [`DriveError`].
pub async fn drive<S, H, IO>(
    io: IO,
    session: &mut S,
    handler: &mut H,
    clock: &Clock,
    limits: &DriveLimits,
    cancel: &CancellationToken,
) -> Result<DriveEnd, DriveError>
where
    S: Session + Send,
    S::Event: Send,
    H: Handler<S>,
    IO: AsyncRead + AsyncWrite + Send,
{
    let (reader, writer) = tokio::io::split(io);
    let mut pump = Pump {
        reader,
        writer,
        session,
        handler,
        clock,
        limits,
        output: Output::default(),
        input: limits.budget.as_ref().map(MemoryBudget::share),
        eof_at: None,
    };
    let outcome = pump.run(cancel).await;
    if outcome.is_err() {
        let now = clock.instant();
        if pump.eof_at.is_none() {
            pump.session.handle_eof(now);
        }
        pump.deliver_events().await;
    }
    outcome
}

struct Pump<'a, S, H, R, W> {
    reader: R,
    writer: W,
    session: &'a mut S,
    handler: &'a mut H,
    clock: &'a Clock,
    limits: &'a DriveLimits,
    output: Output,
    /// What the input since the last event takes of the shared budget.
    input: Option<MemoryShare>,
    eof_at: Option<Instant>,
}

/// What is waiting to be written.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    written: usize,
    /// When the peer last took a byte, or when there first was one to take.
    since: Option<Instant>,
}

impl Output {
    fn waiting(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    fn push(&mut self, bytes: Vec<u8>, now: Instant) {
        if self.waiting().is_empty() {
            self.bytes = bytes;
            self.written = 0;
            self.since = Some(now);
        } else {
            self.bytes.drain(..self.written);
            self.written = 0;
            self.bytes.extend_from_slice(&bytes);
        }
    }

    fn wrote(&mut self, count: usize, now: Instant) {
        self.written += count;
        self.since = if self.waiting().is_empty() {
            *self = Self::default();
            None
        } else {
            Some(now)
        };
    }
}

/// What can wake the loop.
enum Turn<W> {
    Cancelled,
    Deadline(Deadline),
    Read(io::Result<usize>),
    Wake(W),
    Wrote(io::Result<usize>),
}

/// Whose deadline is the nearest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deadline {
    AfterEof,
    Drain,
    Session,
    WriteStall,
}

impl<S, H, R, W> Pump<'_, S, H, R, W>
where
    S: Session + Send,
    S::Event: Send,
    H: Handler<S>,
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    async fn run(&mut self, cancel: &CancellationToken) -> Result<DriveEnd, DriveError> {
        let mut buffer = vec![0; READ_BYTES];
        let mut drain: Option<(Drain, Instant)> = None;
        let mut wrote_any = false;
        loop {
            self.deliver_events().await;
            self.collect_output()?;
            let flushed = self.output.waiting().is_empty();
            if flushed {
                let closing = self.session.wants_close();
                let drained = matches!(drain, Some((Drain::Close, _)));
                if closing || drained {
                    self.close(wrote_any, &mut buffer).await;
                    return Ok(if closing {
                        DriveEnd::Closed
                    } else {
                        DriveEnd::Cancelled
                    });
                }
            }
            let deadline = self.nearest_deadline(drain.map(|(_, until)| until));
            let turn = tokio::select! {
                biased;
                () = cancel.cancelled(), if drain.is_none() => Turn::Cancelled,
                () = until(deadline.map(|(at, _)| at)) => {
                    Turn::Deadline(deadline.map_or(Deadline::Session, |(_, whose)| whose))
                }
                wrote = self.writer.write(self.output.waiting()), if !flushed => Turn::Wrote(wrote),
                wake = self.handler.next_wake(), if !self.session.wants_close() => Turn::Wake(wake),
                read = self.reader.read(&mut buffer),
                    if self.eof_at.is_none() && !self.session.wants_close() => Turn::Read(read),
            };
            let now = self.clock.instant();
            match turn {
                Turn::Cancelled => {
                    let how = self.handler.on_drain(self.session, now).await;
                    drain = Some((how, now + self.limits.drain));
                }
                Turn::Deadline(Deadline::Session) => self.session.handle_timeout(now),
                Turn::Deadline(Deadline::AfterEof) => return Ok(DriveEnd::PeerGone),
                Turn::Deadline(Deadline::Drain) => return Ok(DriveEnd::Cancelled),
                Turn::Deadline(Deadline::WriteStall) => {
                    return Err(DriveError::WriteStalled(self.limits.write_stall));
                }
                Turn::Read(Ok(0)) => {
                    self.eof_at = Some(now);
                    self.session.handle_eof(now);
                }
                Turn::Read(Ok(count)) => {
                    if self.input.as_mut().is_some_and(|share| !share.grow(count)) {
                        return Err(DriveError::OverBudget);
                    }
                    self.session
                        .handle_input(buffer.get(..count).unwrap_or_default(), now);
                }
                Turn::Read(Err(error)) => return Err(DriveError::Read(error)),
                Turn::Wake(wake) => self.handler.on_wake(self.session, wake, now).await,
                Turn::Wrote(Ok(0)) => {
                    return Err(DriveError::Write(io::ErrorKind::WriteZero.into()));
                }
                Turn::Wrote(Ok(count)) => {
                    wrote_any = true;
                    self.output.wrote(count, now);
                    if self.output.waiting().is_empty() {
                        self.flush(now).await?;
                    }
                }
                Turn::Wrote(Err(error)) => return Err(DriveError::Write(error)),
            }
        }
    }

    async fn deliver_events(&mut self) {
        let mut handled = 0;
        while let Some(event) = self.session.poll_event() {
            if let Some(share) = &mut self.input {
                share.release();
            }
            self.handler
                .on_event(self.session, event, self.clock.instant())
                .await;
            handled += 1;
            if handled % EVENTS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn collect_output(&mut self) -> Result<(), DriveError> {
        while let Some(bytes) = self.session.poll_output() {
            if bytes.is_empty() {
                continue;
            }
            self.output.push(bytes, self.clock.instant());
        }
        let queued = self.output.waiting().len();
        if queued > self.limits.output_max {
            return Err(DriveError::OutputFull {
                queued,
                limit: self.limits.output_max,
            });
        }
        Ok(())
    }

    fn nearest_deadline(&self, drain: Option<Instant>) -> Option<(Instant, Deadline)> {
        let session = self
            .session
            .poll_timeout()
            .map(|at| (at, Deadline::Session));
        let stall = self
            .output
            .since
            .map(|at| (at + self.limits.write_stall, Deadline::WriteStall));
        let eof = self
            .eof_at
            .map(|at| (at + self.limits.after_eof, Deadline::AfterEof));
        let drain = drain.map(|at| (at, Deadline::Drain));
        [session, stall, eof, drain]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// TLS keeps written bytes until it is flushed.
    async fn flush(&mut self, now: Instant) -> Result<(), DriveError> {
        let deadline = now + self.limits.write_stall;
        tokio::select! {
            biased;
            flushed = self.writer.flush() => flushed.map_err(DriveError::Write),
            () = self.clock.sleep_until(deadline) => {
                Err(DriveError::WriteStalled(self.limits.write_stall))
            }
        }
    }

    /// Ends our side, then reads on for a moment: closing a socket with unread input resets it, and
    /// a reset may overtake the reply.
    async fn close(&mut self, wrote_any: bool, buffer: &mut [u8]) {
        let deadline = self.clock.instant() + self.limits.linger;
        let goodbye = async {
            if self.writer.shutdown().await.is_err() || !wrote_any || self.eof_at.is_some() {
                return;
            }
            while let Ok(count) = self.reader.read(buffer).await {
                if count == 0 {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = goodbye => {}
            () = self.clock.sleep_until(deadline) => {}
        }
    }
}

/// Returns at `deadline`, never without one.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => future::pending().await,
    }
}

/// A handler for ends that only speak when the session does.
///
/// It hands each event to a function that may answer through the session at once.
pub struct OnEvent<F>(pub F);

impl<S, F> Handler<S> for OnEvent<F>
where
    S: Session + Send,
    S::Event: Send,
    F: FnMut(&mut S, S::Event, Instant) + Send,
{
    type Wake = Infallible;

    async fn on_event(&mut self, session: &mut S, event: S::Event, now: Instant) {
        (self.0)(session, event, now);
    }
}
