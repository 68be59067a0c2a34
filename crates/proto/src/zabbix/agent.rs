//! The working end: one dialled exchange, what the other side answers, and an active proxy's timers.
//!
//! [`Session`] sends one request and waits for one reply. [`Rhythm`] says what an active proxy does
//! next; keeping rows until they are acknowledged is the link's and its spool's. What a passive proxy
//! is asked is in [`passive`]. Contract: Zabbix
//! page, sections 1.5, 2, 3, 8 and 11.

pub mod passive;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::config::{ConfigError, Configuration};
use super::data::{Raw, Rows, RowsOf};
use super::frame::{Decoder, FrameError, Packet, encode};
use super::json::{BadField, Num, Text};
use super::task::{RawTask, TaskEntry};
use super::wire::{Limits, Payload, Reject, Upload, text_of};

/// What a session tells its link.
#[derive(Debug)]
pub enum Event {
    /// The exchange failed; the last event.
    Closed(CloseReason),
    /// The other side's reply; the last event.
    Reply(Packet),
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum CloseReason {
    /// The other side closed without a word.
    #[error("empty string received")]
    Empty,
    /// What it sent is no frame.
    #[error("the reply is refused")]
    Frame(#[source] FrameError),
    /// It closed inside a frame.
    #[error("the reply ended after {arrived} bytes")]
    Short {
        /// Payload bytes that came.
        arrived: usize,
    },
    /// It did not answer in time.
    #[error("no reply within {waited:?}")]
    Timeout {
        /// How long was waited.
        waited: Duration,
    },
}

/// One exchange with a server, a proxy or an agent that this end dialled.
#[derive(Debug)]
pub struct Session {
    decoder: Decoder,
    output: Option<Vec<u8>>,
    events: VecDeque<Event>,
    since: Instant,
    patience: Duration,
    done: bool,
}

impl Session {
    /// Sends `payload` and waits `patience` for the reply. `large` admits the large flag in it,
    /// which only a configuration may have.
    ///
    /// # Errors
    /// The payload is too long for a frame.
    pub fn new(
        payload: &[u8],
        form: Form,
        limits: &Limits,
        patience: Duration,
        now: Instant,
    ) -> Result<Self, FrameError> {
        Ok(Self {
            decoder: Decoder::new(&limits.known, form.large_reply),
            output: Some(encode(payload, form.compress)?),
            events: VecDeque::new(),
            since: now,
            patience,
            done: false,
        })
    }

    fn end(&mut self, event: Event) {
        self.done = true;
        self.output = None;
        self.events.push_back(event);
    }
}

/// How an exchange is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Whether the request is compressed: proxies always do, agents and senders need not.
    pub compress: bool,
    /// Whether the reply may have the large flag.
    pub large_reply: bool,
}

impl Form {
    /// A proxy's upload or heartbeat.
    pub const PROXY: Self = Self {
        compress: true,
        large_reply: false,
    };
    /// A proxy's request for its configuration.
    pub const PROXY_CONFIG: Self = Self {
        compress: true,
        large_reply: true,
    };
    /// An agent, a sender, or a question to an agent.
    pub const PLAIN: Self = Self {
        compress: false,
        large_reply: false,
    };
}

impl crate::session::Session for Session {
    type Event = Event;

    fn handle_input(&mut self, bytes: &[u8], _now: Instant) {
        if self.done {
            return;
        }
        match self.decoder.feed(bytes) {
            Ok((_, Some(packet))) => self.end(Event::Reply(packet)),
            Ok((_, None)) => {}
            Err(error) => self.end(Event::Closed(CloseReason::Frame(error))),
        }
    }

    fn handle_eof(&mut self, _now: Instant) {
        if self.done {
            return;
        }
        let reason = if self.decoder.is_empty() {
            CloseReason::Empty
        } else {
            CloseReason::Short {
                arrived: self.decoder.arrived(),
            }
        };
        self.end(Event::Closed(reason));
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|deadline| now >= deadline) {
            self.end(Event::Closed(CloseReason::Timeout {
                waited: self.patience,
            }));
        }
    }

    fn poll_output(&mut self) -> Option<Vec<u8>> {
        self.output.take()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.done {
            None
        } else {
            self.since.checked_add(self.patience)
        }
    }

    fn wants_close(&self) -> bool {
        self.done
    }
}

/// Requests of the working end that hold no rows.
pub mod ask {
    use super::{Serialize, text_of};

    /// Who asks.
    #[derive(Clone, Copy, Debug)]
    pub struct Asker<'a> {
        /// The name of the proxy, or of the host.
        pub host: &'a str,
        /// The version whose dialect is spoken.
        pub version: &'a str,
        /// Muster's own id, which real servers pass over.
        pub muster: Option<&'a str>,
    }

    impl Asker<'_> {
        /// `proxy heartbeat` (up to 6.2).
        pub fn heartbeat(&self) -> String {
            self.ask("proxy heartbeat")
        }

        /// `proxy config`, 6.0 form.
        pub fn config(&self) -> String {
            self.ask("proxy config")
        }

        /// `active checks`, by item id: agents from 4.4 on say their version.
        pub fn active_checks(&self) -> String {
            self.ask("active checks")
        }

        fn ask(&self, request: &'static str) -> String {
            let Self {
                host,
                version,
                muster,
            } = *self;
            text_of(&Hello {
                request,
                host,
                version,
                muster,
            })
        }
    }

    #[derive(Serialize)]
    struct Hello<'a> {
        request: &'static str,
        host: &'a str,
        version: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        muster: Option<&'a str>,
    }
}

/// A server's reply to an upload, a heartbeat, or a sender.
///
/// Anything but the string `success` is a refusal, and every other key may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Whether `response` is `success`.
    pub success: bool,
    /// Why not, or how many were processed.
    pub info: Option<Cow<'a, str>>,
    /// Whether the server takes more rows; absent counts as enabled.
    pub upload: Upload,
    /// Tasks for this proxy.
    pub tasks: Rows<TaskEntry<'a>>,
    /// The server's version, where it says it.
    pub version: Option<Cow<'a, str>>,
}

impl<'a> Reply<'a> {
    /// Reads a reply.
    ///
    /// # Errors
    /// The payload is no reply; that counts as a refusal too.
    pub fn decode(payload: &'a Payload) -> Result<Self, Reject> {
        let raw: RawReply<'a> = payload.decode()?;
        let response = match raw.response.text() {
            Ok(Some(response)) => response,
            Ok(None) | Err(BadField) => return Err(Reject::new("no \"response\" tag")),
        };
        let upload = match raw.upload {
            Text::Given(word) if word == "disabled" => Upload::Disabled,
            Text::Given(_) | Text::Absent | Text::Bad => Upload::Enabled,
        };
        Ok(Self {
            success: response == "success",
            info: raw.info.text().ok().flatten(),
            upload,
            tasks: raw.tasks.unwrap_or_default(),
            version: raw.version.text().ok().flatten(),
        })
    }

    /// The counts in the reply to `agent data` and `sender data`.
    pub fn processed(&self) -> Option<Processed> {
        Processed::parse(self.info.as_deref()?)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawReply<'a> {
    #[serde(borrow)]
    response: Text<'a>,
    #[serde(borrow)]
    info: Text<'a>,
    #[serde(borrow)]
    upload: Text<'a>,
    #[serde(borrow)]
    version: Text<'a>,
    #[serde(borrow, deserialize_with = "tasks")]
    tasks: Option<Rows<TaskEntry<'a>>>,
}

fn tasks<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Rows<TaskEntry<'de>>>, D::Error> {
    RowsOf::<RawTask<'de>>::deserialize(d).map(Some)
}

/// `processed: 3; failed: 1; total: 4; seconds spent: 0.000038`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processed {
    /// Values taken.
    pub processed: u64,
    /// Values refused.
    pub failed: u64,
}

impl Processed {
    /// Reads the info text.
    pub fn parse(info: &str) -> Option<Self> {
        let mut counts = [0; 2];
        let mut parts = info.split("; ");
        for (count, name) in counts.iter_mut().zip(["processed: ", "failed: "]) {
            *count = parts.next()?.strip_prefix(name)?.parse().ok()?;
        }
        let [processed, failed] = counts;
        Some(Self { processed, failed })
    }
}

/// A server's reply to `proxy config` in the 6.0 form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigReply {
    /// The server has no configuration for this proxy, in its words.
    Refused(String),
    /// What to collect.
    Tables(Configuration),
}

impl ConfigReply {
    /// Reads a reply. A text under 128 bytes that says `failed` is a refusal, as real proxies
    /// judge it; anything else is tables.
    ///
    /// # Errors
    /// The tables cannot be used.
    pub fn decode(payload: &Payload) -> Result<Self, ConfigError> {
        if payload.text().len() < 128
            && let Ok(reply) = Reply::decode(payload)
            && !reply.success
        {
            let info = reply.info.map_or_else(String::new, Cow::into_owned);
            return Ok(Self::Refused(info));
        }
        Configuration::decode(payload).map(Self::Tables)
    }
}

/// One item an active agent is to collect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveCheck<'a> {
    /// The key to collect.
    pub key: Cow<'a, str>,
    /// The key to report under, when macros changed it.
    pub key_orig: Option<Cow<'a, str>>,
    /// The item's number, from 4.4 on.
    pub itemid: Option<u64>,
    /// The update interval as text.
    pub delay: Cow<'a, str>,
    /// Where a log item goes on.
    pub lastlogsize: u64,
    /// Where a log item goes on.
    pub mtime: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawActiveCheck<'a> {
    #[serde(borrow)]
    key: Text<'a>,
    #[serde(borrow)]
    key_orig: Text<'a>,
    itemid: Num,
    #[serde(borrow)]
    delay: Text<'a>,
    lastlogsize: Num,
    mtime: Num,
}

impl<'de> Raw<'de> for RawActiveCheck<'de> {
    type Row = ActiveCheck<'de>;

    fn check(self) -> Result<ActiveCheck<'de>, BadField> {
        Ok(ActiveCheck {
            key: self.key.text()?.ok_or(BadField)?,
            key_orig: self.key_orig.text()?,
            itemid: self.itemid.unsigned()?,
            delay: self.delay.text()?.ok_or(BadField)?,
            lastlogsize: self.lastlogsize.unsigned()?.unwrap_or(0),
            mtime: self.mtime.signed()?.unwrap_or(0),
        })
    }
}

/// A server's reply to `active checks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActiveChecksReply<'a> {
    /// `success` without a list: keep the one there is (7.0).
    Keep,
    /// What to collect.
    List(Rows<ActiveCheck<'a>>),
    /// The server does not know or monitor this host, in its words.
    Refused(Cow<'a, str>),
}

impl<'a> ActiveChecksReply<'a> {
    /// Reads a reply.
    ///
    /// # Errors
    /// The payload is no reply.
    pub fn decode(payload: &'a Payload) -> Result<Self, Reject> {
        let reply = Reply::decode(payload)?;
        if !reply.success {
            return Ok(Self::Refused(reply.info.unwrap_or_default()));
        }
        let raw: RawList<'a> = payload.decode()?;
        Ok(raw.data.map_or(Self::Keep, Self::List))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawList<'a> {
    #[serde(borrow, deserialize_with = "checks")]
    data: Option<Rows<ActiveCheck<'a>>>,
}

fn checks<'de, D: serde::Deserializer<'de>>(
    d: D,
) -> Result<Option<Rows<ActiveCheck<'de>>>, D::Error> {
    RowsOf::<RawActiveCheck<'de>>::deserialize(d).map(Some)
}

/// How often an active proxy does what.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// Between requests for configuration.
    pub config: Duration,
    /// Between requests for configuration while the last one failed.
    pub config_retry: Duration,
    /// Between uploads, which also ask for tasks.
    pub data: Duration,
    /// How long a full spool is sent without a pause in between.
    pub burst: Duration,
}

impl Default for Intervals {
    /// As a 6.0 proxy, but for a configuration every ten seconds, as 7.0 does.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(60),
            config: Duration::from_secs(10),
            config_retry: Duration::from_secs(10),
            data: Duration::from_secs(1),
            burst: Duration::from_secs(60),
        }
    }
}

/// What an active proxy does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask for the configuration.
    Config,
    /// Upload; `bare` without rows, because the last upload was refused.
    Data {
        /// Task poll only.
        bare: bool,
    },
    /// Say that it lives.
    Heartbeat,
    /// Nothing until then.
    Wait(Instant),
}

/// What an upload came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// `success`; `more` rows wait.
    Accepted {
        /// Whether the spool has more than the last packet took.
        more: bool,
    },
    /// `success` with `upload: disabled`: only bare packets until that turns.
    Disabled,
    /// `failed`, no reply, or nobody there.
    Failed,
}

/// The timers of an active proxy (contract, section 11).
#[derive(Debug)]
pub struct Rhythm {
    intervals: Intervals,
    next_heartbeat: Instant,
    next_config: Instant,
    next_data: Instant,
    burst_since: Option<Instant>,
    bare: bool,
}

impl Rhythm {
    /// A proxy that starts at `now`: configuration first, then data.
    pub fn new(intervals: Intervals, now: Instant) -> Self {
        Self {
            intervals,
            next_heartbeat: now,
            next_config: now,
            next_data: now,
            burst_since: None,
            bare: false,
        }
    }

    /// What is due at `now`.
    pub fn next(&self, now: Instant) -> Action {
        if now >= self.next_config {
            Action::Config
        } else if now >= self.next_heartbeat {
            Action::Heartbeat
        } else if now >= self.next_data {
            Action::Data { bare: self.bare }
        } else {
            Action::Wait(
                self.next_config
                    .min(self.next_heartbeat)
                    .min(self.next_data),
            )
        }
    }

    /// The configuration was applied, or not.
    pub fn config_done(&mut self, applied: bool, now: Instant) {
        let wait = if applied {
            self.intervals.config
        } else {
            self.intervals.config_retry
        };
        self.next_config = later(now, wait);
    }

    /// A heartbeat was sent, whatever came of it.
    pub fn heartbeat_done(&mut self, now: Instant) {
        self.next_heartbeat = later(now, self.intervals.heartbeat);
    }

    /// An upload ended.
    pub fn data_done(&mut self, outcome: Uploaded, now: Instant) {
        let mut wait = self.intervals.data;
        let mut burst = None;
        match outcome {
            Uploaded::Accepted { more: true } => {
                let since = self.burst_since.unwrap_or(now);
                if now.saturating_duration_since(since) < self.intervals.burst {
                    wait = Duration::ZERO;
                    burst = Some(since);
                }
                self.bare = false;
            }
            Uploaded::Accepted { more: false } => self.bare = false,
            Uploaded::Disabled | Uploaded::Failed => self.bare = true,
        }
        self.burst_since = burst;
        self.next_data = later(now, wait);
    }

    /// Asks for the configuration at once: a task told so.
    pub fn reload(&mut self, now: Instant) {
        self.next_config = now;
    }
}

fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session as _;

    #[expect(
        clippy::disallowed_methods,
        reason = "any instant does as the start of a story"
    )]
    fn now() -> Instant {
        Instant::now()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn payload(json: &str) -> Payload {
        Payload::check(json.as_bytes().to_vec(), &Limits::default()).unwrap()
    }

    fn session() -> (Session, Instant) {
        let now = now();
        let limits = Limits::default();
        let session = Session::new(b"{}", Form::PROXY, &limits, seconds(600), now).unwrap();
        (session, now)
    }

    #[test]
    fn one_request_one_reply() {
        let (mut session, now) = session();
        let request = session.poll_output().unwrap();
        assert_eq!(&request[..5], b"ZBXD\x03");
        assert!(session.poll_output().is_none());
        for byte in encode(b"{\"response\":\"success\"}", true).unwrap() {
            session.handle_input(&[byte], now);
        }
        session.handle_input(b"surplus", now);
        session.handle_eof(now);
        let Some(Event::Reply(packet)) = session.poll_event() else {
            panic!()
        };
        assert!(packet.header.compressed);
        assert!(session.poll_event().is_none() && session.wants_close());
    }

    #[test]
    fn failures_say_what_a_real_proxy_says() {
        let (mut closed, now) = session();
        closed.handle_eof(now);
        let Some(Event::Closed(reason)) = closed.poll_event() else {
            panic!()
        };
        assert_eq!(reason.to_string(), "empty string received");
        let (mut short, now) = session();
        short.handle_input(b"ZBXD\x01\x05\0\0\0\0\0\0\0{}", now);
        short.handle_eof(now);
        assert!(matches!(
            short.poll_event(),
            Some(Event::Closed(CloseReason::Short { arrived: 2 }))
        ));
        let (mut silent, now) = session();
        silent.handle_timeout(now + seconds(599));
        assert!(!silent.wants_close());
        silent.handle_timeout(now + seconds(600));
        assert!(matches!(
            silent.poll_event(),
            Some(Event::Closed(CloseReason::Timeout { .. }))
        ));
        let (mut noise, now) = session();
        noise.handle_input(b"HTTP", now);
        assert!(matches!(
            noise.poll_event(),
            Some(Event::Closed(CloseReason::Frame(_)))
        ));
    }

    #[test]
    fn anything_but_success_is_a_refusal() {
        let success = payload(
            r#"{"upload":"disabled","response":"success","tasks":[{"type":6,"itemid":3}]}"#,
        );
        let reply = Reply::decode(&success).unwrap();
        assert!(reply.success && reply.upload == Upload::Disabled);
        assert_eq!(reply.tasks.rows.len(), 1);
        for other in [
            r#"{"response":"failed"}"#,
            r#"{"response":"Success"}"#,
            r#"{"response":1}"#,
        ] {
            assert!(!Reply::decode(&payload(other)).unwrap().success, "{other}");
        }
        for none in ["{}", r#"{"response":null}"#, r#"{"response":["success"]}"#] {
            let refused = payload(none);
            assert_eq!(
                Reply::decode(&refused).unwrap_err().info,
                "no \"response\" tag"
            );
        }
    }

    #[test]
    fn counts_of_processed_values() {
        let parsed = Processed::parse("processed: 3; failed: 1; total: 4; seconds spent: 0.000038");
        assert_eq!(
            parsed,
            Some(Processed {
                processed: 3,
                failed: 1
            })
        );
        for other in [
            "",
            "processed: x; failed: 1",
            "failed: 1; processed: 3",
            "processed: 3",
        ] {
            assert_eq!(Processed::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_short_failed_reply_is_no_configuration() {
        let refused = payload(r#"{"response":"failed","info":"proxy \"x\" not found"}"#);
        assert_eq!(
            ConfigReply::decode(&refused).unwrap(),
            ConfigReply::Refused("proxy \"x\" not found".into())
        );
        let long = format!(r#"{{"response":"failed","info":"{}"}}"#, "x".repeat(128));
        assert_eq!(
            ConfigReply::decode(&payload(&long)),
            Err(ConfigError::MissingTable { table: "hosts" }),
            "a reply of 128 bytes or more is read as tables"
        );
    }

    #[test]
    fn active_checks_in_both_forms() {
        let old = payload(
            r#"{"response":"success","data":[{"key":"a","delay":5,"lastlogsize":0,"mtime":0},{}]}"#,
        );
        let ActiveChecksReply::List(list) = ActiveChecksReply::decode(&old).unwrap() else {
            panic!()
        };
        assert_eq!(
            (list.rows[0].delay.as_ref(), list.rows[0].itemid, list.bad),
            ("5", None, 1)
        );
        let keep = payload(r#"{"response":"success"}"#);
        assert_eq!(
            ActiveChecksReply::decode(&keep).unwrap(),
            ActiveChecksReply::Keep
        );
        let refused = payload(r#"{"response":"failed","info":"host [x] not found"}"#);
        assert_eq!(
            ActiveChecksReply::decode(&refused).unwrap(),
            ActiveChecksReply::Refused("host [x] not found".into())
        );
    }

    #[test]
    fn an_active_proxy_keeps_time() {
        let start = now();
        let mut rhythm = Rhythm::new(Intervals::default(), start);
        assert_eq!(rhythm.next(start), Action::Config);
        rhythm.config_done(true, start);
        assert_eq!(rhythm.next(start), Action::Heartbeat);
        rhythm.heartbeat_done(start);
        assert_eq!(rhythm.next(start), Action::Data { bare: false });
        rhythm.data_done(Uploaded::Accepted { more: false }, start);
        assert_eq!(rhythm.next(start), Action::Wait(start + seconds(1)));
        let mut at = start + seconds(1);
        assert_eq!(rhythm.next(at), Action::Data { bare: false });
        rhythm.data_done(Uploaded::Accepted { more: true }, at);
        assert_eq!(
            rhythm.next(at),
            Action::Data { bare: false },
            "more goes at once"
        );
        at += seconds(2);
        rhythm.data_done(Uploaded::Failed, at);
        assert_eq!(rhythm.next(at), Action::Wait(at + seconds(1)));
        at += seconds(1);
        assert_eq!(
            rhythm.next(at),
            Action::Data { bare: true },
            "after a refusal a bare packet"
        );
        rhythm.data_done(Uploaded::Disabled, at);
        at += seconds(1);
        assert_eq!(rhythm.next(at), Action::Data { bare: true });
        rhythm.data_done(Uploaded::Accepted { more: true }, at);
        assert_eq!(rhythm.next(at), Action::Data { bare: false });
        assert_eq!(rhythm.next(start + seconds(10)), Action::Config);
        rhythm.config_done(false, start + seconds(10));
        rhythm.reload(at);
        assert_eq!(rhythm.next(at), Action::Config);
    }

    #[test]
    fn a_burst_ends() {
        let start = now();
        let mut rhythm = Rhythm::new(
            Intervals {
                config: seconds(1000),
                heartbeat: seconds(1000),
                ..Intervals::default()
            },
            start,
        );
        rhythm.config_done(true, start);
        rhythm.heartbeat_done(start);
        for n in 0..60 {
            rhythm.data_done(Uploaded::Accepted { more: true }, start + seconds(n));
            assert_eq!(
                rhythm.next(start + seconds(n)),
                Action::Data { bare: false }
            );
        }
        let at = start + seconds(60);
        rhythm.data_done(Uploaded::Accepted { more: true }, at);
        assert_eq!(rhythm.next(at), Action::Wait(at + seconds(1)));
    }
}
