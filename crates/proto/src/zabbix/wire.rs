//! Requests, replies, names, versions, and every limit of this protocol.
//!
//! A payload becomes a [`Payload`] (inflated, checked, owned), and a [`Request`] that borrows from
//! it. Replies are texts in the words of a real server. Contract: Zabbix page, sections 2, 3, 4
//! and 8.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::data::{AgentData, ProxyData, RawAgentData, SenderData};
use super::frame::{FrameError, Header, Packet};
use super::json::{self, Checked, JsonError, JsonLimits, Num, Text, excerpt};
use super::task::TaskEntry;

/// Limits on one peer, by how well it is known (threats page, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// `DATALEN` of one frame.
    pub frame_bytes_max: u64,
    /// The payload after inflating.
    pub inflated_bytes_max: u64,
    /// From accepting to a whole header.
    pub header_time: Duration,
    /// From a whole header to a whole frame, before what each mebibyte adds.
    pub frame_time: Duration,
    /// What each declared mebibyte adds.
    pub frame_time_per_mib: Duration,
    /// For writing the reply.
    pub reply_time: Duration,
}

/// Every limit of the Zabbix wire.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Peers whose address and TLS identity tell nothing.
    pub stranger: PeerLimits,
    /// Peers at an address, or with a TLS identity, of an approved proxy or agent. A real proxy
    /// packs up to 512 MiB of JSON and repeats a refused packet for ever, so these lie above that.
    pub known: PeerLimits,
    /// Inflated bytes for each byte on the wire: zlib cannot give more than 1032.
    pub ratio_max: u64,
    /// The payload's JSON.
    pub json: JsonLimits,
    /// Characters of proxy and host names, as in the real schema.
    pub name_chars_max: usize,
    /// Bytes of an item's key, as in the real schema.
    pub key_bytes_max: usize,
    /// Bytes of a text value that are kept; a real server keeps as many.
    pub value_bytes_kept: usize,
    /// Bytes of `host_metadata` that are kept: what 7.0 allows.
    pub metadata_bytes_kept: usize,
    /// Waiting for the front to answer; a real active proxy waits as long.
    pub answer_time: Duration,
    /// Waiting for a reply to `proxy data` and `proxy config`.
    pub upload_reply_time: Duration,
    /// Waiting for any other reply.
    pub short_reply_time: Duration,
    /// A passive proxy waiting for the server's word about what it gave, as a real one does.
    pub word_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            stranger: PeerLimits {
                frame_bytes_max: 16 * MIB,
                inflated_bytes_max: 64 * MIB,
                header_time: Duration::from_secs(3),
                frame_time: Duration::from_secs(30),
                frame_time_per_mib: Duration::from_secs(1),
                reply_time: Duration::from_secs(30),
            },
            known: PeerLimits {
                frame_bytes_max: 640 * MIB,
                inflated_bytes_max: 640 * MIB,
                header_time: Duration::from_secs(3),
                frame_time: Duration::from_secs(300),
                frame_time_per_mib: Duration::ZERO,
                reply_time: Duration::from_secs(300),
            },
            ratio_max: 1100,
            json: JsonLimits::default(),
            name_chars_max: 128,
            key_bytes_max: 2048,
            value_bytes_kept: 64 * 1024,
            metadata_bytes_kept: 65_535,
            answer_time: Duration::from_secs(600),
            upload_reply_time: Duration::from_secs(600),
            short_reply_time: Duration::from_secs(60),
            word_time: Duration::from_secs(3),
        }
    }
}

impl Limits {
    /// Whether a payload is more than a stranger may send: such are taken one at a time, on disk.
    pub fn is_large(&self, header: &Header) -> bool {
        header.length > self.stranger.frame_bytes_max
            || header.opened_len() > self.stranger.inflated_bytes_max
    }

    /// The limits for a peer that is known, or not.
    pub fn of(&self, known: bool) -> &PeerLimits {
        if known { &self.known } else { &self.stranger }
    }
}

/// An opened and checked payload; requests and replies borrow from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    checked: Checked,
}

impl Payload {
    /// Inflates and checks what a frame carried.
    ///
    /// # Errors
    /// The frame is to be dropped without a word, or the text to be refused with one.
    pub fn open(packet: Packet, limits: &Limits, peer: &PeerLimits) -> Result<Self, OpenError> {
        let bytes = packet.open(limits, peer).map_err(OpenError::Frame)?;
        Self::check(bytes, limits).map_err(OpenError::Json)
    }

    /// Checks a text that needs no inflating.
    ///
    /// # Errors
    /// The text is to be refused.
    pub fn check(bytes: Vec<u8>, limits: &Limits) -> Result<Self, JsonError> {
        Ok(Self {
            checked: json::check(bytes, &limits.json)?,
        })
    }

    /// The JSON text.
    pub fn text(&self) -> &str {
        self.checked.text()
    }

    /// Whether U+FFFD took the place of something in a `value`.
    pub fn replaced(&self) -> bool {
        self.checked.replaced()
    }

    /// The top-level `request`, if it is a string.
    pub fn request_name(&self) -> Option<&str> {
        self.checked.request()
    }

    /// The request in it.
    ///
    /// # Errors
    /// It is none that this end answers; the error is the reply.
    pub fn request(&self) -> Result<Request<'_>, Reject> {
        let name = self.checked.request();
        if self.checked.repeated_sections() && name != Some("proxy data") {
            return Err(Reject::new(
                "cannot parse as a valid JSON object: a key occurs twice",
            ));
        }
        match name {
            Some("proxy heartbeat") => Ok(Request::ProxyHeartbeat(self.decode()?)),
            Some("proxy config") => Ok(Request::ProxyConfig(self.decode()?)),
            Some("proxy data") => {
                let data: ProxyData<'_> = self.decode()?;
                if !data.history.is_empty() {
                    session_length(data.session.as_deref())?;
                }
                Ok(Request::ProxyData(Box::new(data)))
            }
            Some("active checks") => {
                let raw: RawActiveChecks<'_> = self.decode()?;
                Ok(Request::ActiveChecks(Box::new(raw.check()?)))
            }
            Some("active check heartbeat") => Ok(Request::AgentHeartbeat(self.decode()?)),
            Some("agent data") => {
                let data = AgentData::from(self.decode::<RawAgentData<'_>>()?);
                session_length(data.session.as_deref())?;
                if !data.has_rows {
                    return Err(Reject::missing("data"));
                }
                Ok(Request::AgentData(Box::new(data)))
            }
            Some("sender data") => {
                let data = SenderData::from(self.decode::<RawAgentData<'_>>()?);
                if !data.has_rows {
                    return Err(Reject::missing("data"));
                }
                Ok(Request::SenderData(Box::new(data)))
            }
            // They need a frontend's session or an allow-list, which nobody has here.
            Some("zabbix.stats" | "queue.get" | "status.get" | "command") => {
                Err(Reject::new("Permission denied."))
            }
            Some(_) | None => Err(self.unknown_request()),
        }
    }

    /// The refusal of a request that this end does not answer.
    pub(super) fn unknown_request(&self) -> Reject {
        match self.request_name() {
            Some(name) => {
                let name = excerpt(name.as_bytes());
                Reject::new(format!("unknown request \"{name}\""))
            }
            None => Reject::missing("request"),
        }
    }

    /// Decodes the whole text as one message.
    pub(super) fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Reject> {
        serde_json::from_str(self.text())
            .map_err(|error| Reject::new(format!("cannot parse as a valid JSON object: {error}")))
    }
}

/// Why a payload could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Close without a word.
    #[error("the frame is refused")]
    Frame(#[source] FrameError),
    /// Answer `failed`, then close.
    #[error("the payload is refused")]
    Json(#[source] JsonError),
}

/// A request to the commanding end.
#[derive(Clone, Debug, PartialEq)]
pub enum Request<'a> {
    /// An agent asks what to collect; also how it registers itself.
    ActiveChecks(Box<ActiveChecks<'a>>),
    /// Values of an active agent.
    AgentData(Box<AgentData<'a>>),
    /// A 6.2+ agent is alive. No reply.
    AgentHeartbeat(Hello<'a>),
    /// A proxy asks for its configuration.
    ProxyConfig(ConfigRequest<'a>),
    /// A proxy uploads, or asks for tasks with an empty upload.
    ProxyData(Box<ProxyData<'a>>),
    /// A proxy up to 6.2 is alive.
    ProxyHeartbeat(Hello<'a>),
    /// Values of a sender.
    SenderData(Box<SenderData<'a>>),
}

/// A message that says no more than who sends it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Hello<'a> {
    #[serde(borrow)]
    host: Text<'a>,
    #[serde(borrow)]
    version: Text<'a>,
    #[serde(borrow)]
    muster: Text<'a>,
}

impl Hello<'_> {
    /// The name it gives, unchecked.
    pub fn host(&self) -> Option<&str> {
        given(&self.host)
    }

    /// The version it gives, unchecked.
    pub fn version(&self) -> Option<&str> {
        given(&self.version)
    }

    /// The id by which Muster's own agents are one on every wire, unchecked.
    pub fn muster(&self) -> Option<&str> {
        given(&self.muster)
    }
}

/// `proxy config` (contract, section 6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ConfigRequest<'a> {
    #[serde(borrow)]
    host: Text<'a>,
    #[serde(borrow)]
    version: Text<'a>,
    #[serde(borrow)]
    session: Text<'a>,
    #[serde(borrow)]
    muster: Text<'a>,
    config_revision: Num,
}

impl ConfigRequest<'_> {
    /// The id by which Muster's own agents are one on every wire, unchecked.
    pub fn muster(&self) -> Option<&str> {
        given(&self.muster)
    }

    /// The proxy's name, unchecked.
    pub fn host(&self) -> Option<&str> {
        given(&self.host)
    }

    /// The proxy's version, unchecked.
    pub fn version(&self) -> Option<&str> {
        given(&self.version)
    }

    /// 7.0: the proxy's session.
    pub fn session(&self) -> Option<&str> {
        given(&self.session)
    }

    /// 7.0: the last revision it applied.
    pub fn config_revision(&self) -> Option<u64> {
        self.config_revision.unsigned().ok().flatten()
    }
}

fn given<'t>(text: &'t Text<'_>) -> Option<&'t str> {
    match text {
        Text::Given(text) => Some(text),
        Text::Absent | Text::Bad => None,
    }
}

/// `active checks` (contract, section 8.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveChecks<'a> {
    /// The agent's name, checked.
    pub host: Cow<'a, str>,
    /// Absent counts as 4.2.
    pub version: Version,
    /// What the agent says about itself.
    pub host_metadata: Option<Cow<'a, str>>,
    /// Where it says that it can be reached.
    pub ip: Option<std::net::IpAddr>,
    /// The port there.
    pub port: Option<u16>,
    /// 1 agentd, 2 agent2.
    pub variant: Option<u8>,
    /// 7.0: the agent's session.
    pub session: Option<Cow<'a, str>>,
    /// 7.0: the revision it has.
    pub config_revision: Option<u64>,
    /// The id by which Muster's own agents are one on every wire, unchecked.
    pub muster: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawActiveChecks<'a> {
    #[serde(borrow)]
    host: Text<'a>,
    #[serde(borrow)]
    version: Text<'a>,
    #[serde(borrow)]
    host_metadata: Text<'a>,
    #[serde(borrow)]
    ip: Text<'a>,
    port: Num,
    variant: Num,
    #[serde(borrow)]
    session: Text<'a>,
    config_revision: Num,
    #[serde(borrow)]
    muster: Text<'a>,
}

impl<'a> RawActiveChecks<'a> {
    fn check(self) -> Result<ActiveChecks<'a>, Reject> {
        let Some(host) = self.host.text().ok().flatten() else {
            return Err(Reject::missing("host"));
        };
        if !host_name_is_valid(&host) {
            let name = excerpt(host.as_bytes());
            return Err(Reject::new(format!("invalid host name [{name}]")));
        }
        let ip = match self.ip.text().ok().flatten() {
            Some(ip) => Some(ip.parse().map_err(|_| {
                let ip = excerpt(ip.as_bytes());
                Reject::new(format!("\"{ip}\" is not a valid IP address"))
            })?),
            None => None,
        };
        Ok(ActiveChecks {
            host,
            version: self
                .version
                .text()
                .ok()
                .flatten()
                .and_then(|version| Version::parse(&version))
                .unwrap_or(Version {
                    major: 4,
                    minor: 2,
                    patch: 0,
                }),
            host_metadata: self.host_metadata.text().ok().flatten(),
            ip,
            port: self.port.narrow().ok().flatten(),
            variant: self.variant.narrow().ok().flatten(),
            session: self.session.text().ok().flatten(),
            config_revision: self.config_revision.unsigned().ok().flatten(),
            muster: self.muster.text().ok().flatten(),
        })
    }
}

fn session_length(session: Option<&str>) -> Result<(), Reject> {
    match session.map(|session| session.chars().count()) {
        None | Some(SESSION_CHARS) => Ok(()),
        Some(length) => Err(Reject::new(format!(
            "invalid session token length {length}"
        ))),
    }
}

/// Characters of a session token.
pub const SESSION_CHARS: usize = 32;

/// A request that is answered `failed`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{info}")]
pub struct Reject {
    /// Why, in the words of a real server.
    pub info: String,
}

impl Reject {
    /// A refusal with this text.
    pub fn new(info: impl Into<String>) -> Self {
        Self { info: info.into() }
    }

    pub(super) fn missing(name: &str) -> Self {
        Self::new(format!("cannot find pair with name \"{name}\""))
    }

    /// The reply.
    pub fn reply(&self) -> String {
        failed(&self.info)
    }
}

/// A peer's `major.minor.patch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major.
    pub major: u16,
    /// Minor; with major it decides compatibility.
    pub minor: u16,
    /// Patch.
    pub patch: u16,
}

impl Version {
    /// Reads `6.0.14`, `6.0` or `7.0.0rc1`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let patch = match parts.next() {
            Some(part) => {
                let digits = part
                    .trim_end_matches(|c: char| c.is_ascii_alphanumeric() && !c.is_ascii_digit());
                let end = digits
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(digits.len());
                digits.get(..end)?.parse().ok()?
            }
            None => 0,
        };
        Some(Self {
            major,
            minor,
            patch,
        })
    }

    /// The dialect a peer of this version speaks.
    pub fn dialect(self) -> Dialect {
        if (self.major, self.minor) >= (6, 4) {
            Dialect::V70
        } else {
            Dialect::V60
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The two ways to speak (contract, section 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// 5.4 to 6.2.
    V60,
    /// From 6.4 on.
    V70,
}

/// Checks the name a proxy gives.
///
/// # Errors
/// The name is absent or has a character no proxy name has; the error is a real server's.
pub fn proxy_name(host: Option<&str>) -> Result<&str, Reject> {
    let Some(name) = host else {
        return Err(Reject::new("missing name of proxy"));
    };
    let invalid = |why: String| {
        let name = excerpt(name.as_bytes());
        Err(Reject::new(format!("invalid proxy name \"{name}\": {why}")))
    };
    if name.is_empty() {
        return invalid("name is empty".to_owned());
    }
    if name.chars().count() > NAME_CHARS_MAX {
        return invalid("name is too long".to_owned());
    }
    // Real servers refuse `#`; the published description names its proxy "Proxy #12".
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-' | '#');
    match name.chars().find(|c| !allowed(*c)) {
        Some(c) => {
            let c = excerpt(c.encode_utf8(&mut [0; 4]).as_bytes());
            invalid(format!("name contains invalid character '{c}'"))
        }
        None => Ok(name),
    }
}

/// Characters of a proxy's or host's name.
pub const NAME_CHARS_MAX: usize = 128;

/// Whether a host's name is printable, short enough, and free of controls and of characters that
/// turn the direction of text.
pub fn host_name_is_valid(name: &str) -> bool {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !name.is_empty()
        && name.chars().count() <= NAME_CHARS_MAX
        && !name.chars().any(|c| c.is_control() || turns(c))
}

/// Whether a server takes more rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    /// Bare packets only, until this turns.
    Disabled,
    /// Send on.
    Enabled,
}

impl Upload {
    fn word(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Enabled => "enabled",
        }
    }
}

/// `{"response":"success"}`.
pub fn success() -> String {
    r#"{"response":"success"}"#.to_owned()
}

/// `{"response":"failed","info":…}`.
pub fn failed(info: &str) -> String {
    text_of(&Reply {
        response: "failed",
        info: Some(info),
        ..Reply::default()
    })
}

/// The bare refusal of a proxy version (contract, section 2.1).
pub fn failed_without_info() -> String {
    r#"{"response":"failed"}"#.to_owned()
}

/// Refuses a proxy's request for configuration.
///
/// The reply stays below 128 bytes: a longer one is read as tables (contract, section 4).
pub fn config_refused(info: &str, version: Option<Version>) -> String {
    let version = version.map(|version| version.to_string());
    let mut info = info.to_owned();
    loop {
        let reply = Reply {
            response: "failed",
            info: Some(&info),
            version: version.as_deref(),
            ..Reply::default()
        };
        let text = text_of(&reply);
        if text.len() < 128 || info.pop().is_none() {
            return text;
        }
    }
}

/// The reply to `proxy data`.
pub fn proxy_data_reply(
    upload: Upload,
    accepted: bool,
    info: Option<&str>,
    tasks: &[TaskEntry<'_>],
) -> String {
    text_of(&Reply {
        upload: Some(upload.word()),
        response: if accepted { "success" } else { "failed" },
        info,
        tasks,
        ..Reply::default()
    })
}

/// The reply to `agent data` and `sender data`. `zabbix_sender` parses this text.
pub fn processed_reply(processed: u64, failed: u64, spent: Duration) -> String {
    let total = processed.saturating_add(failed);
    let seconds = spent.as_secs_f64();
    let info = format!(
        "processed: {processed}; failed: {failed}; total: {total}; seconds spent: {seconds:.6}"
    );
    text_of(&Reply {
        response: "success",
        info: Some(&info),
        ..Reply::default()
    })
}

/// `success` with a text: what `agent data` of an unknown host gets.
pub fn success_with(info: &str) -> String {
    text_of(&Reply {
        response: "success",
        info: Some(info),
        ..Reply::default()
    })
}

/// One item in the reply to `active checks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveItem<'a> {
    /// The key with its macros resolved.
    pub key: Cow<'a, str>,
    /// The item's number.
    pub itemid: u64,
    /// The update interval as configured.
    pub delay: Cow<'a, str>,
    /// Where a log item goes on.
    pub lastlogsize: u64,
    /// Where a log item goes on.
    pub mtime: i64,
}

/// The reply to `active checks`, in the form that the agent's version reads.
pub fn active_checks_reply(
    version: Version,
    items: &[ActiveItem<'_>],
    config_revision: u64,
) -> String {
    let by_id = (version.major, version.minor) >= (4, 4);
    let v70 = version.dialect() == Dialect::V70;
    let data = items
        .iter()
        .map(|item| ActiveItemWire {
            key: &item.key,
            itemid: by_id.then_some(item.itemid),
            delay: if by_id {
                DelayWire::Text(&item.delay)
            } else {
                DelayWire::Seconds(super::config::simple_delay(&item.delay).unwrap_or(0))
            },
            lastlogsize: item.lastlogsize,
            mtime: item.mtime,
            timeout: v70.then_some("3s"),
        })
        .collect();
    text_of(&ActiveChecksWire {
        response: "success",
        config_revision: v70.then_some(config_revision),
        data,
    })
}

#[derive(Serialize)]
struct ActiveChecksWire<'a> {
    response: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    config_revision: Option<u64>,
    data: Vec<ActiveItemWire<'a>>,
}

#[derive(Serialize)]
struct ActiveItemWire<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    itemid: Option<u64>,
    delay: DelayWire<'a>,
    lastlogsize: u64,
    mtime: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum DelayWire<'a> {
    Seconds(u64),
    Text(&'a str),
}

#[derive(Default, Serialize)]
struct Reply<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    upload: Option<&'static str>,
    response: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tasks: &'a [TaskEntry<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
}

/// Text of a message of ours. Our types have string keys only, which is all that can fail.
pub(super) fn text_of<T: Serialize>(message: &T) -> String {
    serde_json::to_string(message).unwrap_or_else(|_| failed_without_info())
}

#[cfg(test)]
mod tests;
