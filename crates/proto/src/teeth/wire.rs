//! Framing and messages of teeth, and the limits of both ends.
//!
//! [`LineBuffer`] cuts the stream into lines, [`decode`] judges one line in the order of the
//! contract (sections 2 and 4) up to the point where the answer depends on who is reading it, and
//! the `encode_*` functions write one line each. Nothing here knows a session.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::de::IgnoredAny;

use super::json::{Json, members};

/// The one version that every real peer speaks.
pub const VERSION: &str = "v1";

/// Every limit of the protocol, in one place (threat model, section 4; teeth contract, section 5).
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Longest line in bytes, without its newline but with a carriage return before it: what the
    /// original peers take, so a longer one could not be sent on either.
    pub line_bytes: usize,
    /// Deepest nesting of a line: deeper than any real message by far, shallow enough for every
    /// recursive reader.
    pub depth: usize,
    /// Most members of one object of a line: a bound on work for each message.
    pub object_keys: usize,
    /// Most digits of one number, so that nobody pays for arithmetic on numbers of a page's length.
    pub number_digits: usize,
    /// Greatest decimal exponent of a number, either sign.
    pub number_exponent: u32,
    /// Bytes that may wait to be written before the connection is closed: a reader that never
    /// reads must not hold our memory.
    pub output_bytes: usize,
    /// Calls that may be unanswered at once, in each direction.
    pub calls: usize,
    /// How long a call waits for its answer. The original never gave up; sixty seconds is what its
    /// authors planned.
    pub call_age: Duration,
    /// How many ids of calls that were given up are remembered, so that a late answer is ignored
    /// and not fatal.
    pub expired_ids: usize,
    /// Silence after which a connection is dropped: the timer of both original ends.
    pub idle: Duration,
    /// Distance of the agent's pings: a third of the idle time, as in the original.
    pub ping: Duration,
    /// Time to a good handshake where a credential is required.
    pub handshake: Duration,
    /// Bytes before a good handshake where a credential is required: a handshake is 200 bytes.
    pub handshake_bytes: usize,
    /// Log lines and blank lines taken from an agent each second; more are answered, dropped and
    /// counted.
    pub log_lines_per_second: u32,
    /// Longest name a peer may give itself, in characters.
    pub name_chars: usize,
    /// Longest task id in bytes.
    pub task_id_bytes: usize,
    /// Most method names taken from a handshake, and the longest of them in bytes.
    pub methods: usize,
    /// Longest method name kept, in bytes.
    pub method_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line_bytes: 524_288,
            depth: 64,
            object_keys: 10_000,
            number_digits: 64,
            number_exponent: 400,
            output_bytes: 1024 * 1024,
            calls: 64,
            call_age: Duration::from_secs(60),
            expired_ids: 1024,
            idle: Duration::from_secs(60),
            ping: Duration::from_secs(20),
            handshake: Duration::from_secs(10),
            handshake_bytes: 4096,
            log_lines_per_second: 100,
            name_chars: 128,
            task_id_bytes: 256,
            methods: 128,
            method_bytes: 128,
        }
    }
}

/// Reasons to end a connection with a `fatal_error` line (teeth contract, section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// Not JSON, or JSON beyond the limits of depth, members or digits.
    Decode,
    /// JSON, but not an object, or an object that is no kind of message.
    Malformed,
    /// A line over the limit. The original closes without a word.
    LineTooLong,
    /// `version` absent, null or otherwise false.
    MissingVersion,
    /// `id` absent, null or otherwise false.
    MissingId,
    /// A command without `params`.
    MissingParams,
    /// A command whose `params` is no object.
    ParamsNotObject,
    /// A response to a call that was never made.
    UnknownId,
    /// A command of another version than `v1`.
    UnknownVersion(Side),
    /// A command nobody knows, from a peer that did not list its methods.
    UnknownMethod(Side),
    /// A second handshake that names another machine.
    OtherIdentity,
    /// No good handshake in time, where one is required.
    HandshakeTooSlow,
    /// Too many bytes before a good handshake, where one is required.
    HandshakeTooLong,
    /// A text of the caller's: a refused handshake, or a handshake without a parameter.
    Other(String),
}

/// Which end words a fatal error: the original agent and the original endpoint differ in two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that dials and works.
    Agent,
    /// The end that listens and commands.
    Controller,
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Decode => "protocol error: unable to decode message.",
            Self::Malformed => "protocol error: malformed message.",
            Self::LineTooLong => "protocol error: line too long.",
            Self::MissingVersion => "protocol violation: missing message version.",
            Self::MissingId => "protocol violation: missing message id.",
            Self::MissingParams => "protocol violation: missing message params.",
            Self::ParamsNotObject => "protocol violation: message params must be an object.",
            Self::UnknownId => "protocol violation: unknown message id referenced.",
            Self::UnknownVersion(Side::Agent) => "unknown message version",
            Self::UnknownVersion(Side::Controller) => "unknown command version",
            Self::UnknownMethod(Side::Agent) => "unknown message method",
            Self::UnknownMethod(Side::Controller) => "unknown command method",
            Self::OtherIdentity => "protocol violation: handshake with another id.",
            Self::HandshakeTooSlow => "handshake refused: too slow",
            Self::HandshakeTooLong => "handshake refused: too long",
            Self::Other(text) => text,
        })
    }
}

/// What one line says.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// White space only. It counts as traffic.
    Blank,
    /// A command to be answered.
    Command(Command),
    /// The answer to a command of ours that went well.
    Result {
        /// The id of the command, whatever JSON it is.
        id: Json,
        /// Any JSON, `null` included.
        result: Json,
    },
    /// The answer to a command of ours that failed.
    Error {
        /// The id of the command, whatever JSON it is.
        id: Json,
        /// Why, reduced to a text.
        error: RemoteError,
    },
    /// The peer ends the connection and must not be answered.
    FatalError {
        /// Why, in the peer's words.
        text: String,
    },
}

/// A command as it stands on the line. Its version and method are not judged yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// Copied to the answer verbatim.
    pub id: Json,
    /// Copied to the answer verbatim.
    pub version: Json,
    /// Usually a string.
    pub method: Json,
    /// Always an object.
    pub params: Json,
}

impl Command {
    /// Whether the version is the one we speak.
    pub fn is_v1(&self) -> bool {
        self.version.as_text().as_deref() == Some(VERSION)
    }
}

/// A failed command as its peer told it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}")]
pub struct RemoteError {
    /// The reason for people: the `msg` of an object, a bare string as it stands (the real agent
    /// sends those), `unknown error` for null, else the JSON.
    pub msg: String,
}

impl RemoteError {
    fn read(error: &str) -> Self {
        let json = Json::from_checked(error);
        let msg = if json.as_str() == "null" {
            "unknown error".to_owned()
        } else {
            let [msg] = json.members(["msg"]);
            msg.and_then(|msg| msg.as_text())
                .unwrap_or_else(|| json.to_text())
        };
        Self { msg }
    }
}

/// Judges one line, without its newline, in the order of the contract (section 4, rows 1-8, 12, 13
/// and 15). Versions and methods (rows 9-11) and the ids of responses (row 14) are the session's.
///
/// # Errors
/// The fatal error the line deserves.
pub fn decode(line: &[u8], limits: &Limits) -> Result<Message, Fatal> {
    let line = trim(line);
    if line.is_empty() {
        return Ok(Message::Blank);
    }
    let text = std::str::from_utf8(line).map_err(|_| Fatal::Decode)?;
    within_limits(line, limits)?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| Fatal::Decode)?;
    if !text.starts_with('{') {
        return Err(Fatal::Malformed);
    }
    let [fatal, version, id, method, params, error, result] = members(
        text,
        [
            "fatal_error",
            "version",
            "id",
            "method",
            "params",
            "error",
            "result",
        ],
    );
    if let Some(fatal) = fatal {
        return Ok(Message::FatalError {
            text: Json::from_checked(fatal).to_text(),
        });
    }
    let truthy = |member: Option<&str>| member.map(Json::from_checked).filter(|m| !m.is_falsy());
    let version = truthy(version).ok_or(Fatal::MissingVersion)?;
    let id = truthy(id).ok_or(Fatal::MissingId)?;
    if let Some(method) = method {
        let params = Json::from_checked(params.ok_or(Fatal::MissingParams)?);
        if !params.is_object() {
            return Err(Fatal::ParamsNotObject);
        }
        let method = Json::from_checked(method);
        return Ok(Message::Command(Command {
            id,
            version,
            method,
            params,
        }));
    }
    if let Some(error) = error {
        return Ok(Message::Error {
            id,
            error: RemoteError::read(error),
        });
    }
    if let Some(result) = result {
        return Ok(Message::Result {
            id,
            result: Json::from_checked(result),
        });
    }
    Err(Fatal::Malformed)
}

/// A command line of ours.
pub fn encode_command(id: &str, method: &str, params: &Json) -> Vec<u8> {
    let id = Json::from(serde_json::Value::from(id));
    let method = Json::from(serde_json::Value::from(method));
    format!("{{\"id\":{id},\"version\":\"{VERSION}\",\"method\":{method},\"params\":{params}}}\n")
        .into_bytes()
}

/// A success response: `id` and `version` as the command had them.
pub fn encode_result(id: &Json, version: &Json, result: &Json) -> Vec<u8> {
    format!("{{\"id\":{id},\"version\":{version},\"result\":{result}}}\n").into_bytes()
}

/// An error response with the published `msg` object.
pub fn encode_error(id: &Json, version: &Json, msg: &str) -> Vec<u8> {
    let msg = Json::from(serde_json::Value::from(msg));
    format!("{{\"id\":{id},\"version\":{version},\"error\":{{\"msg\":{msg}}}}}\n").into_bytes()
}

/// The last line of a connection.
pub fn encode_fatal(fatal: &Fatal) -> Vec<u8> {
    let text = Json::from(serde_json::Value::from(fatal.to_string()));
    format!("{{\"fatal_error\":{text}}}\n").into_bytes()
}

/// Cuts a byte stream into lines. Holds at most one unfinished line, grown as bytes arrive.
#[derive(Debug, Default)]
pub struct LineBuffer {
    partial: Vec<u8>,
}

/// What [`LineBuffer::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<'a> {
    /// A whole line without its newline.
    Line(Cow<'a, [u8]>),
    /// The input is used up; the unfinished line is kept.
    More,
    /// The line is over the limit, finished or not.
    TooLong,
}

impl LineBuffer {
    /// Takes the next line from what is kept and `input`, and moves `input` on.
    pub fn take<'a>(&mut self, input: &mut &'a [u8], line_bytes_max: usize) -> Taken<'a> {
        let newline = input.iter().position(|&byte| byte == b'\n');
        let (piece, rest) = match newline {
            Some(at) => {
                let (piece, rest) = input.split_at(at);
                (piece, rest.get(1..).unwrap_or_default())
            }
            None => (*input, Default::default()),
        };
        if self.partial.len().saturating_add(piece.len()) > line_bytes_max {
            self.partial = Vec::new();
            *input = Default::default();
            return Taken::TooLong;
        }
        *input = rest;
        if newline.is_none() {
            self.partial.extend_from_slice(piece);
            return Taken::More;
        }
        if self.partial.is_empty() {
            return Taken::Line(Cow::Borrowed(piece));
        }
        let mut line = std::mem::take(&mut self.partial);
        line.extend_from_slice(piece);
        Taken::Line(Cow::Owned(line))
    }
}

/// The line without leading and trailing ASCII white space, vertical tab included as the original
/// strips it.
fn trim(line: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0B | 0x0C);
    let start = line
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(line.len());
    let end = line
        .iter()
        .rposition(|byte| !blank(byte))
        .map_or(start, |at| at.saturating_add(1));
    line.get(start..end).unwrap_or_default()
}

/// Refuses a text beyond the limits of depth, members or digits before any parser sees it. Does not
/// judge syntax.
fn within_limits(text: &[u8], limits: &Limits) -> Result<(), Fatal> {
    let mut keys_of_open: Vec<usize> = Vec::new();
    let mut in_string = false;
    let mut escaped = false;
    let mut digits = 0_usize;
    let mut exponent: Option<u32> = None;
    for &byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match (byte, exponent) {
            (b'0'..=b'9', None) => digits = digits.saturating_add(1),
            (b'0'..=b'9', Some(so_far)) => {
                let digit = u32::from(byte.saturating_sub(b'0'));
                exponent = Some(so_far.saturating_mul(10).saturating_add(digit));
            }
            (b'e' | b'E', None) if digits > 0 => exponent = Some(0),
            (b'+' | b'-' | b'.', _) if digits > 0 => {}
            _ => {
                digits = 0;
                exponent = None;
            }
        }
        if digits > limits.number_digits || exponent.is_some_and(|e| e > limits.number_exponent) {
            return Err(Fatal::Decode);
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                if keys_of_open.len() >= limits.depth {
                    return Err(Fatal::Decode);
                }
                keys_of_open.push(0);
            }
            b'}' | b']' => {
                keys_of_open.pop();
            }
            b':' => {
                if let Some(keys) = keys_of_open.last_mut() {
                    *keys = keys.saturating_add(1);
                    if *keys > limits.object_keys {
                        return Err(Fatal::Decode);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fatal(line: &str) -> String {
        match decode(line.as_bytes(), &Limits::default()) {
            Err(fatal) => fatal.to_string(),
            other => panic!("{line} is {other:?}"),
        }
    }

    #[test]
    fn checks_run_in_the_order_of_the_contract() {
        for (line, text) in [
            ("invalid json!", "protocol error: unable to decode message."),
            ("{", "protocol error: unable to decode message."),
            ("{\"a\":NaN}", "protocol error: unable to decode message."),
            ("{} {}", "protocol error: unable to decode message."),
            ("\u{feff}{}", "protocol error: unable to decode message."),
            ("[]", "protocol error: malformed message."),
            ("5", "protocol error: malformed message."),
            ("\"fatal_error\"", "protocol error: malformed message."),
            ("null", "protocol error: malformed message."),
            ("{}", "protocol violation: missing message version."),
            (
                r#"{"version":0,"id":1}"#,
                "protocol violation: missing message version.",
            ),
            (
                r#"{"version":null,"id":"foo"}"#,
                "protocol violation: missing message version.",
            ),
            (
                r#"{"version":"v913"}"#,
                "protocol violation: missing message id.",
            ),
            (
                r#"{"version":"v1","id":[]}"#,
                "protocol violation: missing message id.",
            ),
            (
                r#"{"version":"v1","id":"1","method":"x"}"#,
                "protocol violation: missing message params.",
            ),
            (
                r#"{"version":"v1","id":"1","method":"x","params":null}"#,
                "protocol violation: message params must be an object.",
            ),
            (
                r#"{"version":"v1","id":"1"}"#,
                "protocol error: malformed message.",
            ),
        ] {
            assert_eq!(fatal(line), text, "{line}");
        }
    }

    #[test]
    fn kinds_win_over_each_other_in_order() {
        let limits = Limits::default();
        let all = br#"{"id":1,"version":"v1","method":"m","params":{},"error":"e","result":1}"#;
        assert!(matches!(decode(all, &limits), Ok(Message::Command(_))));
        let both = br#"{"id":1,"version":"v1","error":"e","result":1}"#;
        assert!(matches!(decode(both, &limits), Ok(Message::Error { .. })));
        let fatal = br#"{"fatal_error":null,"id":1,"version":"v1","method":"m","params":{}}"#;
        assert!(matches!(
            decode(fatal, &limits),
            Ok(Message::FatalError { .. })
        ));
        for blank in [&b""[..], b" \t\r", b"\x0b\x0c"] {
            assert_eq!(decode(blank, &limits), Ok(Message::Blank));
        }
    }

    #[test]
    fn remote_errors_come_in_four_shapes() {
        for (error, msg) in [
            ("\"boom\"", "boom"),
            ("{\"msg\":\"boom\"}", "boom"),
            ("null", "unknown error"),
            ("{\"code\":5}", "{\"code\":5}"),
            ("{\"msg\":7}", "{\"msg\":7}"),
            ("[1, 2]", "[1,2]"),
        ] {
            let line = format!("{{\"id\":\"x\",\"version\":\"v1\",\"error\":{error}}}");
            match decode(line.as_bytes(), &Limits::default()) {
                Ok(Message::Error { error, .. }) => assert_eq!(error.msg, msg),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn depth_members_and_digits_have_limits() {
        let limits = Limits::default();
        let nested = |depth: usize| {
            let inner = "[".repeat(depth - 2) + &"]".repeat(depth - 2);
            format!(r#"{{"id":"1","version":"v1","method":"ping","params":{{"a":{inner}}}}}"#)
        };
        assert!(decode(nested(64).as_bytes(), &limits).is_ok());
        assert_eq!(decode(nested(65).as_bytes(), &limits), Err(Fatal::Decode));
        let with = |value: &str| {
            let line = format!(r#"{{"id":"1","version":"v1","result":{value}}}"#);
            decode(line.as_bytes(), &limits).is_ok()
        };
        assert!(with(&"9".repeat(64)));
        assert!(!with(&"9".repeat(65)));
        assert!(with("1e400") && with("1.5E-400") && with("[-1,2,-3,1e1]"));
        assert!(!with("1e401") && !with("1E-99999999999999999999"));
        assert!(with(&format!("\"{}\"", "9".repeat(100))));
        let keys = |n: usize| {
            let members: Vec<String> = (0..n).map(|i| format!("\"{i}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(with(&keys(10_000)));
        assert!(!with(&keys(10_001)));
    }

    #[test]
    fn lines_are_counted_without_the_newline_and_with_the_carriage_return() {
        let mut buffer = LineBuffer::default();
        let mut input: &[u8] = b"abcd\nabc\r\nabcde\nx";
        assert_eq!(
            buffer.take(&mut input, 4),
            Taken::Line(Cow::Borrowed(b"abcd"))
        );
        assert_eq!(
            buffer.take(&mut input, 4),
            Taken::Line(Cow::Borrowed(b"abc\r"))
        );
        assert_eq!(buffer.take(&mut input, 4), Taken::TooLong);
        let mut buffer = LineBuffer::default();
        let mut input: &[u8] = b"abc";
        assert_eq!(buffer.take(&mut input, 4), Taken::More);
        let mut input: &[u8] = b"de";
        assert_eq!(buffer.take(&mut input, 4), Taken::TooLong);
    }

    #[test]
    fn emitted_lines_have_one_newline_and_no_blanks() {
        let line = encode_command("i\n\"d", "status", &Json::parse("{ \"a\" : 1 }").unwrap());
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"id\":\"i\\n\\\"d\",\"version\":\"v1\",\"method\":\"status\",\"params\":{\"a\":1}}\n"
        );
        let fatal = encode_fatal(&Fatal::Other("missing parameter \"id\"".to_owned()));
        assert_eq!(
            fatal,
            b"{\"fatal_error\":\"missing parameter \\\"id\\\"\"}\n"
        );
    }
}
