//! One accepted connection, whichever end commands: a request in, a reply out, maybe a word back.
//!
//! [`Session`] puts a request frame together within limits and deadlines, hands it over as a
//! [`Packet`], and writes one reply. A passive proxy then waits for the server's word about it. It
//! neither inflates nor parses: that costs CPU, and who uses it moves it off the I/O threads when it
//! is much. Contract: Zabbix page, sections 1.1, 1.2, 1.5 and 5; threats page, sections 4 and 5.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::frame::{Decoder, FrameError, Header, Packet, encode};
use super::wire::{Limits, PeerLimits};

/// What a session tells who uses it.
#[derive(Debug)]
pub enum Event {
    /// The connection is over; the last event.
    Closed(CloseReason),
    /// The next mebibyte of a payload too large for memory ([`Session::in_parts`]); [`Event::Request`]
    /// brings the last of it.
    Part(Vec<u8>),
    /// A whole frame; answer with [`Session::reply`] or [`Session::close`].
    Request(Packet),
    /// The peer's word about a reply of [`Session::reply_and_listen`].
    Word(Packet),
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum CloseReason {
    /// The reply was handed to the driver.
    #[error("answered")]
    Answered,
    /// Nobody answered the request in time.
    #[error("the request was not answered in time")]
    AnswerTimeout,
    /// The peer closed before it sent a byte.
    #[error("closed without a request")]
    Empty,
    /// The frame is refused.
    #[error("the frame is refused")]
    Frame(#[source] FrameError),
    /// The frame did not come in time.
    #[error("the frame was not complete in time")]
    FrameTimeout,
    /// The header did not come in time.
    #[error("the header was not complete in time")]
    HeaderTimeout,
    /// The peer did not take the reply in time.
    #[error("the reply was not taken in time")]
    ReplyTimeout,
    /// The peer closed inside a frame.
    #[error("the frame ended after {arrived} bytes")]
    Short {
        /// Payload bytes that came.
        arrived: usize,
    },
    /// The front chose to close without a word.
    #[error("closed without a reply")]
    Silent,
    /// The peer said no word about the reply.
    #[error("nothing was said about the reply")]
    WordTimeout,
}

impl CloseReason {
    /// A stable word for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::AnswerTimeout => "answer_timeout",
            Self::Empty => "empty",
            Self::Frame(error) => error.label(),
            Self::FrameTimeout => "frame_timeout",
            Self::HeaderTimeout => "header_timeout",
            Self::ReplyTimeout => "reply_timeout",
            Self::Short { .. } => "short",
            Self::Silent => "silent",
            Self::WordTimeout => "word_timeout",
        }
    }

    /// Whether the peer misbehaved, so that the end is counted as a refusal.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Answered | Self::AnswerTimeout | Self::Empty | Self::Silent => false,
            Self::Frame(_)
            | Self::FrameTimeout
            | Self::HeaderTimeout
            | Self::ReplyTimeout
            | Self::Short { .. }
            | Self::WordTimeout => true,
        }
    }
}

/// How much of a large payload is gathered before it is handed over.
const PART_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
enum State {
    Header {
        since: Instant,
    },
    Body {
        since: Instant,
        declared: u64,
    },
    Answering {
        since: Instant,
        compress: bool,
    },
    Replying {
        since: Instant,
    },
    /// The reply is out, or on its way; the peer's word about it is being waited for.
    Listening {
        since: Instant,
        patience: Duration,
    },
    Done,
}

/// One accepted connection.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    known: bool,
    state: State,
    decoder: Decoder,
    output: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    surplus: bool,
    in_parts: bool,
}

impl Session {
    /// A connection accepted at `now`. `known` says whether its address or TLS identity is one of
    /// an approved peer.
    pub fn new(limits: Limits, known: bool, now: Instant) -> Self {
        Self {
            decoder: Decoder::new(limits.of(known), false),
            limits,
            known,
            state: State::Header { since: now },
            output: VecDeque::new(),
            events: VecDeque::new(),
            surplus: false,
            in_parts: false,
        }
    }

    /// The same, but a payload too large for memory is handed over as it comes.
    #[must_use]
    pub fn in_parts(self) -> Self {
        Self {
            in_parts: true,
            ..self
        }
    }

    /// Judges the peer by other limits from here on.
    pub fn set_known(&mut self, known: bool) {
        self.known = known;
        self.decoder.set_limits(self.limits.of(known));
    }

    /// The limits in force on this peer.
    pub fn peer_limits(&self) -> &PeerLimits {
        self.limits.of(self.known)
    }

    /// All limits of this session.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether bytes came after the request. They are never read as a second one.
    pub fn has_surplus(&self) -> bool {
        self.surplus
    }

    /// Answers the request with `payload`, compressed when the request was, and closes. Of a second
    /// answer nothing is sent.
    pub fn reply(&mut self, payload: impl AsRef<[u8]>, now: Instant) {
        let State::Answering { compress, .. } = self.state else {
            return;
        };
        if self.send(payload.as_ref(), compress) {
            self.state = State::Replying { since: now };
        }
    }

    /// Answers the request with `payload`, compressed as proxies always do, and waits `patience` for
    /// the peer's word about it (contract, sections 5.2 and 5.3).
    pub fn reply_and_listen(
        &mut self,
        payload: impl AsRef<[u8]>,
        patience: Duration,
        now: Instant,
    ) {
        if !matches!(self.state, State::Answering { .. }) {
            return;
        }
        if self.send(payload.as_ref(), true) {
            self.state = State::Listening {
                since: now,
                patience,
            };
        }
    }

    fn send(&mut self, payload: &[u8], compress: bool) -> bool {
        match encode(payload, compress) {
            Ok(frame) => {
                self.output.push_back(frame);
                true
            }
            Err(error) => {
                self.end(CloseReason::Frame(error));
                false
            }
        }
    }

    /// Closes without a word, as a real server does where the peer is owed none.
    pub fn close(&mut self) {
        if !matches!(self.state, State::Done) {
            self.end(CloseReason::Silent);
        }
    }

    /// Closes because the frame turned out to be none once it was opened.
    pub fn refuse(&mut self, error: FrameError) {
        if !matches!(self.state, State::Done) {
            self.end(CloseReason::Frame(error));
        }
    }

    fn end(&mut self, reason: CloseReason) {
        self.state = State::Done;
        self.events.push_back(Event::Closed(reason));
    }

    fn deadline(&self) -> Option<(Instant, CloseReason)> {
        let peer = self.peer_limits();
        match self.state {
            State::Header { since } => Some((
                since.checked_add(peer.header_time)?,
                CloseReason::HeaderTimeout,
            )),
            State::Body { since, declared } => {
                let mib = u32::try_from(declared.div_ceil(1024 * 1024)).unwrap_or(u32::MAX);
                let extra = peer.frame_time_per_mib.saturating_mul(mib);
                let time = peer.frame_time.saturating_add(extra);
                Some((since.checked_add(time)?, CloseReason::FrameTimeout))
            }
            State::Answering { since, .. } => {
                let time: Duration = self.limits.answer_time;
                Some((since.checked_add(time)?, CloseReason::AnswerTimeout))
            }
            State::Replying { since } => Some((
                since.checked_add(peer.reply_time)?,
                CloseReason::ReplyTimeout,
            )),
            State::Listening { since, patience } => {
                Some((since.checked_add(patience)?, CloseReason::WordTimeout))
            }
            State::Done => None,
        }
    }
}

impl crate::session::Session for Session {
    type Event = Event;

    fn handle_input(&mut self, bytes: &[u8], now: Instant) {
        let listening = matches!(self.state, State::Listening { .. });
        if !listening && !matches!(self.state, State::Header { .. } | State::Body { .. }) {
            self.surplus |= !bytes.is_empty();
            return;
        }
        match self.decoder.feed(bytes) {
            Err(error) => self.end(CloseReason::Frame(error)),
            Ok((_, Some(packet))) if listening => {
                self.events.push_back(Event::Word(packet));
                self.end(CloseReason::Answered);
            }
            Ok((used, Some(packet))) => {
                // Real servers drop a message that is followed by more; whether the surplus is
                // seen in time is chance, so here the first message always counts, and only it.
                self.surplus |= used < bytes.len();
                let compress = packet.header.compressed;
                self.state = State::Answering {
                    since: now,
                    compress,
                };
                self.events.push_back(Event::Request(packet));
            }
            Ok((_, None)) => {
                let large = |header: &Header| self.limits.is_large(header);
                if self.in_parts
                    && self.decoder.header().is_some_and(large)
                    && let Some(part) = self.decoder.take_part(PART_BYTES)
                {
                    self.events.push_back(Event::Part(part));
                }
                if let (State::Header { .. }, Some(header)) = (&self.state, self.decoder.header()) {
                    self.state = State::Body {
                        since: now,
                        declared: header.length,
                    };
                }
            }
        }
    }

    fn handle_eof(&mut self, _now: Instant) {
        match self.state {
            State::Header { .. } if self.decoder.is_empty() => self.end(CloseReason::Empty),
            State::Header { .. } | State::Body { .. } | State::Listening { .. } => {
                let arrived = self.decoder.arrived();
                self.end(CloseReason::Short { arrived });
            }
            // The peer may close its half and still read.
            State::Answering { .. } | State::Replying { .. } | State::Done => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some((deadline, reason)) = self.deadline()
            && now >= deadline
        {
            self.output.clear();
            self.end(reason);
        }
    }

    fn poll_output(&mut self) -> Option<Vec<u8>> {
        let frame = self.output.pop_front()?;
        if self.output.is_empty() && matches!(self.state, State::Replying { .. }) {
            self.end(CloseReason::Answered);
        }
        Some(frame)
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline().map(|(deadline, _)| deadline)
    }

    fn wants_close(&self) -> bool {
        matches!(self.state, State::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::MAGIC;
    use super::*;
    use crate::session::Session as _;

    #[expect(
        clippy::disallowed_methods,
        reason = "any instant does as the start of a story"
    )]
    fn start() -> (Session, Instant) {
        let now = Instant::now();
        (Session::new(Limits::default(), false, now), now)
    }

    fn closed(session: &mut Session) -> &'static str {
        match session.poll_event() {
            Some(Event::Closed(reason)) => reason.label(),
            other => panic!("{other:?}"),
        }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_request_is_answered_in_its_own_form() {
        for compress in [false, true] {
            let (mut session, now) = start();
            let frame = encode(b"{\"request\":\"x\"}", compress).unwrap();
            for byte in &frame {
                session.handle_input(&[*byte], now);
            }
            let Some(Event::Request(packet)) = session.poll_event() else {
                panic!()
            };
            assert_eq!(packet.header.compressed, compress);
            session.reply("{}", now);
            assert!(!session.wants_close());
            let reply = session.poll_output().unwrap();
            assert_eq!(reply[4], if compress { 3 } else { 1 });
            assert_eq!(closed(&mut session), "answered");
            assert!(session.wants_close());
            session.reply("{\"again\":1}", now);
            assert!(session.poll_output().is_none());
        }
    }

    #[test]
    fn surplus_is_never_a_second_request() {
        let frame = encode(b"{\"request\":\"x\"}", false).unwrap();
        for split in 0..=frame.len() {
            let (mut session, now) = start();
            let both = [frame.as_slice(), frame.as_slice()].concat();
            let (first, second) = both.split_at(frame.len() + split);
            session.handle_input(first, now);
            session.handle_input(second, now);
            assert!(matches!(session.poll_event(), Some(Event::Request(_))));
            assert!(session.poll_event().is_none());
            assert!(session.has_surplus());
        }
    }

    #[test]
    fn bad_frames_close_without_a_byte() {
        for (bytes, label) in [
            (&b"GET / HTTP/1.1"[..], "magic"),
            (b"ZBXD\x00\x01\0\0\0\0\0\0\0{", "flags"),
            (b"ZBXD\x01\xff\xff\xff\xff\0\0\0\0", "too_long"),
        ] {
            let (mut session, now) = start();
            session.handle_input(bytes, now);
            assert_eq!(closed(&mut session), label);
            assert!(session.wants_close() && session.poll_output().is_none());
            session.handle_input(b"more", now);
            session.handle_timeout(now + seconds(1000));
            assert!(session.poll_event().is_none());
        }
    }

    #[test]
    fn ends_of_stream() {
        let (mut session, now) = start();
        session.handle_eof(now);
        assert_eq!(closed(&mut session), "empty");
        let (mut session, now) = start();
        session.handle_input(b"ZBX", now);
        session.handle_eof(now);
        assert_eq!(closed(&mut session), "short");
        let (mut session, now) = start();
        session.handle_input(b"ZBXD\x01\x05\0\0\0\0\0\0\0{}", now);
        session.handle_eof(now);
        assert!(matches!(
            session.poll_event(),
            Some(Event::Closed(CloseReason::Short { arrived: 2 }))
        ));
        let (mut session, now) = start();
        session.handle_input(&encode(b"{}", false).unwrap(), now);
        session.handle_eof(now);
        assert!(matches!(session.poll_event(), Some(Event::Request(_))));
        session.reply("{}", now);
        assert!(
            session.poll_output().is_some(),
            "half-closed peers still read"
        );
    }

    #[test]
    fn deadlines_of_strangers_and_of_known_peers() {
        let header = [MAGIC.as_slice(), b"\x01\0\0\x20\0\0\0\0\0"].concat();
        for (known, whole) in [(false, 30 + 2), (true, 300)] {
            let (mut session, now) = start();
            session.set_known(known);
            assert_eq!(session.poll_timeout(), Some(now + seconds(3)));
            session.handle_timeout(now + seconds(2));
            assert!(!session.wants_close());
            let begun = now + seconds(2);
            session.handle_input(&header, begun);
            assert_eq!(session.poll_timeout(), Some(begun + seconds(whole)));
            session.handle_input(b"{", begun + seconds(20));
            session.handle_timeout(begun + seconds(whole));
            assert_eq!(closed(&mut session), "frame_timeout");
        }
        let (mut session, now) = start();
        session.handle_input(b"ZBXD", now);
        session.handle_timeout(now + seconds(3));
        assert_eq!(closed(&mut session), "header_timeout");
    }

    #[test]
    fn a_length_is_judged_by_who_sends_it() {
        let header = b"ZBXD\x01\0\0\0\x02\0\0\0\0";
        let (mut session, now) = start();
        session.handle_input(header, now);
        assert_eq!(closed(&mut session), "too_long");
        let (mut session, now) = start();
        session.set_known(true);
        session.handle_input(header, now);
        assert!(!session.wants_close());
    }

    #[test]
    fn a_passive_proxy_waits_for_a_word() {
        let ask = |session: &mut Session, now| {
            session.handle_input(
                &encode(b"{\"request\":\"proxy data\"}", false).unwrap(),
                now,
            );
            assert!(matches!(session.poll_event(), Some(Event::Request(_))));
            session.reply_and_listen("{}", seconds(3), now);
            assert_eq!(session.poll_output().unwrap()[4], 3, "proxies compress");
            assert!(!session.wants_close() && session.poll_event().is_none());
        };
        let (mut session, now) = start();
        ask(&mut session, now);
        for byte in encode(b"{\"response\":\"success\"}", true).unwrap() {
            session.handle_input(&[byte], now);
        }
        let Some(Event::Word(packet)) = session.poll_event() else {
            panic!()
        };
        assert!(packet.header.compressed);
        assert_eq!(closed(&mut session), "answered");
        assert!(session.wants_close());

        let (mut session, now) = start();
        ask(&mut session, now);
        assert_eq!(session.poll_timeout(), Some(now + seconds(3)));
        session.handle_timeout(now + seconds(3));
        assert_eq!(closed(&mut session), "word_timeout");

        let (mut session, now) = start();
        ask(&mut session, now);
        session.handle_eof(now);
        assert_eq!(closed(&mut session), "short");
    }
}
