//! The stream as hyper sees it: one checked head at a time, each with its body, under deadlines.
//!
//! The guard reads a head whole before hyper gets its first byte, so a refusal needs no cooperation:
//! hyper sees the end of the stream, and [`serve`](super::serve) writes the refusal itself. hyper runs
//! with half-close, so it reads only when it wants a head or a body, and no deadline of the client runs
//! while the server is at work.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::HttpLimits;
use super::head::{Chunks, Framing, Progress, Reject, check, encode_query, find_end};
use crate::limit::MemoryShare;

/// Read at a time.
const READ_BYTES: usize = 16 * 1024;
/// Blank lines before a request: old clients send one too many after a body, nobody sends a stream of
/// them, which would be read for ever.
const BLANK_LINES_MAX: u32 = 16;

/// What the body of a request came to; shared with who reads it.
#[derive(Clone, Debug, Default)]
pub(super) struct BodyWatch {
    reject: Arc<Mutex<Option<Reject>>>,
}

impl BodyWatch {
    fn set(&self, reject: Reject) {
        *self.reject.lock().unwrap_or_else(PoisonError::into_inner) = Some(reject);
    }

    /// Why the body broke off, if the guard broke it off.
    pub(super) fn reject(&self) -> Option<Reject> {
        *self.reject.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Phase {
    /// Between requests, or before the first.
    Idle,
    /// In a head.
    Head,
    /// In a body.
    Body { framing: Remaining, whole: Instant },
}

#[derive(Clone, Copy)]
enum Remaining {
    Chunked(Chunks),
    Length(u64),
}

pub(super) struct Guard<IO> {
    io: IO,
    limits: HttpLimits,
    /// Read and not given to hyper.
    buffer: BytesMut,
    /// How much of the buffer hyper may have.
    released: usize,
    /// How much of a head was looked at.
    seen: usize,
    /// Blank lines that came before it.
    blank: u32,
    phase: Phase,
    first: bool,
    timer: Pin<Box<Sleep>>,
    /// Whether the timer runs for what is being read.
    armed: bool,
    write_timer: Option<Pin<Box<Sleep>>>,
    ended: bool,
    reject: Option<Reject>,
    /// A refusal within a body; its reply is the service's business.
    watch: BodyWatch,
    memory: MemoryShare,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Guard<IO> {
    pub(super) fn new(io: IO, limits: HttpLimits, memory: MemoryShare) -> Self {
        Self {
            io,
            limits,
            buffer: BytesMut::new(),
            released: 0,
            seen: 0,
            blank: 0,
            phase: Phase::Idle,
            first: true,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: false,
            write_timer: None,
            ended: false,
            reject: None,
            watch: BodyWatch::default(),
            memory,
        }
    }

    /// A handle for the service of this connection.
    pub(super) fn watch(&self) -> BodyWatch {
        self.watch.clone()
    }

    /// The refusal that the client is still owed.
    pub(super) fn owed(&self) -> Option<Reject> {
        self.reject
    }

    /// Whether the client may have sent something that nobody read.
    pub(super) fn has_unread(&self) -> bool {
        !self.ended
    }

    pub(super) fn into_inner(self) -> IO {
        self.io
    }

    fn arm(&mut self, after: Duration) {
        self.timer.as_mut().reset(Instant::now() + after);
        self.armed = true;
    }

    /// Moves on with what is in the buffer. `true` when hyper can have something, or the end.
    fn advance(&mut self) -> bool {
        if matches!(self.phase, Phase::Idle) {
            // Blank lines before a request are tolerated, as everybody does; they buy no time.
            while self.buffer.starts_with(b"\r\n") {
                self.buffer.advance(2);
                self.blank += 1;
                if self.blank > BLANK_LINES_MAX {
                    self.refuse(Reject::HeadMalformed);
                    return true;
                }
            }
            if !self.buffer.is_empty() {
                self.phase = Phase::Head;
                self.seen = 0;
                self.blank = 0;
                self.arm(self.limits.head);
            }
        }
        match &mut self.phase {
            Phase::Idle => {
                if !self.armed {
                    let first = self.first;
                    self.arm(if first {
                        self.limits.head
                    } else {
                        self.limits.keep_alive
                    });
                }
                false
            }
            Phase::Head => {
                let outcome =
                    find_end(&self.buffer, self.seen).and_then(|progress| match progress {
                        Progress::Complete(end) => {
                            let end = encode_query(&mut self.buffer, end);
                            let head = self.buffer.get(..end).unwrap_or_default();
                            check(head, &self.limits).map(|framing| Some((end, framing)))
                        }
                        Progress::Partial if self.buffer.len() > self.limits.head_bytes => {
                            Err(Reject::HeadTooLarge)
                        }
                        Progress::Partial => Ok(None),
                    });
                match outcome {
                    Ok(Some((end, framing))) => {
                        self.released = end;
                        self.memory.release();
                        self.first = false;
                        self.armed = false;
                        self.phase = match framing {
                            Framing::Length(0) => Phase::Idle,
                            Framing::Length(left) => self.body(Remaining::Length(left)),
                            Framing::Chunked => self.body(Remaining::Chunked(Chunks::START)),
                        };
                        true
                    }
                    Ok(None) => {
                        self.seen = self.buffer.len();
                        false
                    }
                    Err(reject) => {
                        self.refuse(reject);
                        true
                    }
                }
            }
            Phase::Body { framing, .. } => {
                let outcome = match framing {
                    Remaining::Length(left) => {
                        let here = usize::try_from(*left)
                            .unwrap_or(usize::MAX)
                            .min(self.buffer.len());
                        *left -= u64::try_from(here).unwrap_or(*left);
                        Ok((here, *left == 0))
                    }
                    Remaining::Chunked(chunks) => chunks
                        .advance(&self.buffer)
                        .map(|taken| (taken, *chunks == Chunks::Done)),
                };
                match outcome {
                    Ok((0, _)) => {
                        if !self.armed {
                            self.arm(self.limits.body_idle);
                        }
                        false
                    }
                    Ok((taken, done)) => {
                        self.released = taken;
                        self.armed = false;
                        if done {
                            self.phase = Phase::Idle;
                        }
                        true
                    }
                    Err(reject) => {
                        self.break_off(reject);
                        true
                    }
                }
            }
        }
    }

    fn body(&self, framing: Remaining) -> Phase {
        Phase::Body {
            framing,
            whole: Instant::now() + self.limits.body,
        }
    }

    /// Ends the stream for hyper and owes the client a refusal.
    fn refuse(&mut self, reject: Reject) {
        self.reject = Some(reject);
        self.end();
    }

    /// Ends the stream for hyper within a body; who reads the body replies.
    fn break_off(&mut self, reject: Reject) {
        self.watch.set(reject);
        self.end();
    }

    fn end(&mut self) {
        self.released = 0;
        self.buffer.clear();
        self.memory.release();
        self.phase = Phase::Idle;
        self.ended = self.reject.is_none() && self.watch.reject().is_none();
        self.armed = false;
    }

    fn finished(&self) -> bool {
        self.ended || self.reject.is_some() || self.watch.reject().is_some()
    }

    /// Reads more. `Ready(())` when something changed.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; READ_BYTES];
        let mut read = ReadBuf::new(&mut space);
        match Pin::new(&mut self.io).poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) if read.filled().is_empty() => {
                self.end();
                self.ended = true;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) => {
                let in_head = matches!(self.phase, Phase::Idle | Phase::Head);
                if in_head && !self.memory.grow(read.filled().len()) {
                    self.refuse(Reject::OverBudget);
                } else {
                    self.buffer.extend_from_slice(read.filled());
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(self.timer.as_mut().poll(cx));
                match &self.phase {
                    Phase::Idle if self.first => self.refuse(Reject::HeadSlow),
                    Phase::Idle => {
                        self.end();
                        self.ended = true;
                    }
                    Phase::Head => self.refuse(Reject::HeadSlow),
                    Phase::Body { .. } => self.break_off(Reject::BodySlow),
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_written<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.write_timer = None;
            return outcome;
        }
        let stall = self.limits.write_stall;
        let timer = self
            .write_timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> hyper::rt::Read for Guard<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.released > 0 {
                let count = this.released.min(cursor.remaining());
                cursor.put_slice(this.buffer.get(..count).unwrap_or_default());
                this.buffer.advance(count);
                this.released -= count;
                return Poll::Ready(Ok(()));
            }
            if this.finished() {
                return Poll::Ready(Ok(()));
            }
            if this.advance() {
                continue;
            }
            if let Phase::Body { whole, .. } = &this.phase {
                // The nearer of the two deadlines of a body.
                let whole = *whole;
                if whole < this.timer.deadline() {
                    this.timer.as_mut().reset(whole);
                }
            }
            ready!(this.poll_more(cx))?;
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> hyper::rt::Write for Guard<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = pin!(&mut this.io).poll_write(cx, bytes);
        this.poll_written(cx, outcome)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = pin!(&mut this.io).poll_flush(cx);
        this.poll_written(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = pin!(&mut this.io).poll_write_vectored(cx, slices);
        this.poll_written(cx, outcome)
    }
}
