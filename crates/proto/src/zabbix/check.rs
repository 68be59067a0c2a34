//! Passive checks: what a poller asks an agent on port 10050, and what comes back.
//!
//! Payload texts only; framing is [`super::frame`]'s and the exchange is [`super::agent::Session`]'s
//! on the asking side. Contract: Zabbix page, section 9.

use serde::{Deserialize, Serialize};

use super::data::{Raw, RowsOf};
use super::json::{BadField, Num, Text};
use super::wire::{Payload, text_of};

/// What an agent answers to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The item has no value: why.
    NotSupported(String),
    /// The value's text.
    Value(String),
}

/// The plain form marks an unsupported item so; NUL and the text follow.
const NOT_SUPPORTED: &[u8] = b"ZBX_NOTSUPPORTED";
/// The plain form's soft error.
const SOFT_ERROR: &[u8] = b"ZBX_ERROR";

/// What is asked of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// 7.0: JSON with one key.
    Json {
        /// The key.
        key: String,
    },
    /// Until 6.4: the bare key.
    Plain {
        /// The key.
        key: String,
    },
}

impl Question {
    /// Reads a request to an agent. A payload that begins with `{` is JSON, anything else a key.
    ///
    /// # Errors
    /// The payload is no UTF-8, or JSON without a key.
    pub fn parse(body: Vec<u8>, limits: &super::Limits) -> Result<Self, BadQuestion> {
        if body.first() == Some(&b'{') {
            return Self::parse_json(body, limits).map_err(|why| BadQuestion { json: true, why });
        }
        let key = String::from_utf8(body).map_err(|_| BadQuestion {
            json: false,
            why: "Invalid item key format.".to_owned(),
        })?;
        let key = key.trim_end_matches(['\r', '\n', '\0']).to_owned();
        Ok(Self::Plain { key })
    }

    fn parse_json(body: Vec<u8>, limits: &super::Limits) -> Result<Self, String> {
        let payload = Payload::check(body, limits).map_err(|error| error.to_string())?;
        if payload.request_name() != Some("passive checks") {
            return Err(payload.unknown_request().info);
        }
        let raw: RawQuestion<'_> =
            serde_json::from_str(payload.text()).map_err(|error| error.to_string())?;
        // Only the first element is answered, as 7.0 agents do.
        match raw.data.unwrap_or_default().into_iter().next() {
            Some(key) => Ok(Self::Json { key }),
            None => Err("received empty \"data\" tag".to_owned()),
        }
    }

    /// The key that is asked for.
    pub fn key(&self) -> &str {
        match self {
            Self::Json { key } | Self::Plain { key } => key,
        }
    }

    /// The payload of this question.
    pub fn encode(&self) -> String {
        match self {
            Self::Json { key } => text_of(&JsonQuestion {
                request: "passive checks",
                data: [JsonKey { key, timeout: 3 }],
            }),
            Self::Plain { key } => key.clone(),
        }
    }

    /// The payload that answers this question in its own form.
    pub fn answer(&self, answer: &Answer) -> Vec<u8> {
        match (self, answer) {
            (Self::Plain { .. }, Answer::Value(value)) => value.clone().into_bytes(),
            (Self::Plain { .. }, Answer::NotSupported(why)) => not_supported(why),
            (Self::Json { .. }, answer) => {
                let (value, error) = match answer {
                    Answer::Value(value) => (Some(value.as_str()), None),
                    Answer::NotSupported(why) => (None, Some(why.as_str())),
                };
                let data = Some([JsonValue { value, error }]);
                json_answer(data, None)
            }
        }
    }
}

/// A request to an agent that is no question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct BadQuestion {
    json: bool,
    /// Why not.
    pub why: String,
}

impl BadQuestion {
    /// The payload that says so, in the form of the request.
    pub fn answer(&self) -> Vec<u8> {
        if self.json {
            json_answer(None, Some(&self.why))
        } else {
            not_supported(&self.why)
        }
    }
}

fn not_supported(why: &str) -> Vec<u8> {
    [NOT_SUPPORTED, b"\0", why.as_bytes()].concat()
}

fn json_answer(data: Option<[JsonValue<'_>; 1]>, error: Option<&str>) -> Vec<u8> {
    let reply = JsonAnswer {
        version: "7.0.0",
        variant: 2,
        data,
        error,
    };
    text_of(&reply).into_bytes()
}

/// Reads an agent's answer to a plain question.
pub fn parse_plain_answer(body: &[u8]) -> Answer {
    for mark in [NOT_SUPPORTED, SOFT_ERROR] {
        if let Some(rest) = body.strip_prefix(mark)
            && matches!(rest.first(), None | Some(0))
        {
            let why = String::from_utf8_lossy(rest.get(1..).unwrap_or_default());
            let why = why.trim_end_matches('\0');
            let why = if why.is_empty() {
                "Not supported by Zabbix Agent"
            } else {
                why
            };
            return Answer::NotSupported(why.to_owned());
        }
    }
    let text = String::from_utf8_lossy(body);
    Answer::Value(text.trim_end_matches(['\r', '\n', ' ', '\0']).to_owned())
}

#[derive(Serialize)]
struct JsonQuestion<'a> {
    request: &'static str,
    data: [JsonKey<'a>; 1],
}

#[derive(Serialize)]
struct JsonKey<'a> {
    key: &'a str,
    timeout: u64,
}

#[derive(Serialize)]
struct JsonAnswer<'a> {
    version: &'static str,
    variant: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<[JsonValue<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct JsonValue<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawKey<'a> {
    #[serde(borrow)]
    key: Text<'a>,
    #[serde(rename = "timeout")]
    _timeout: Num,
}

impl<'de> Raw<'de> for RawKey<'de> {
    type Row = String;

    fn check(self) -> Result<String, BadField> {
        self.key
            .text()?
            .map(std::borrow::Cow::into_owned)
            .ok_or(BadField)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawQuestion<'a> {
    #[serde(deserialize_with = "keys")]
    data: Option<Vec<String>>,
    #[serde(skip)]
    _borrow: std::marker::PhantomData<&'a ()>,
}

fn keys<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
    RowsOf::<RawKey<'de>>::deserialize(d).map(|rows| Some(rows.rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &[u8]) -> Result<Question, BadQuestion> {
        Question::parse(body.to_vec(), &super::super::Limits::default())
    }

    #[test]
    fn both_forms_are_told_apart_by_their_first_byte() {
        let plain = parse(b"agent.ping\n").unwrap();
        assert_eq!(
            plain,
            Question::Plain {
                key: "agent.ping".into()
            }
        );
        let json = r#"{"request":"passive checks","data":[{"key":"agent.ping","timeout":"3s"}]}"#;
        let json = parse(json.as_bytes()).unwrap();
        assert_eq!(
            json,
            Question::Json {
                key: "agent.ping".into()
            }
        );
        assert_eq!(parse(json.encode().as_bytes()).unwrap(), json);
        let refused = [
            (&br#"{"request":"foo"}"#[..], "unknown request \"foo\""),
            (
                br#"{"request":"passive checks","data":[]}"#,
                "received empty \"data\" tag",
            ),
            (
                br#"{"request":"passive checks"}"#,
                "received empty \"data\" tag",
            ),
            (b"\xff", "Invalid item key format."),
        ];
        for (body, why) in refused {
            assert_eq!(parse(body).unwrap_err().why, why);
        }
        assert_eq!(
            parse(b"\xff").unwrap_err().answer(),
            b"ZBX_NOTSUPPORTED\0Invalid item key format."
        );
        assert_eq!(
            parse(b"{\"request\":\"foo\"}").unwrap_err().answer(),
            br#"{"version":"7.0.0","variant":2,"error":"unknown request \"foo\""}"#
        );
    }

    #[test]
    fn answers_come_back() {
        let plain = Question::Plain { key: "k".into() };
        for answer in [
            Answer::Value("1".into()),
            Answer::Value(String::new()),
            Answer::NotSupported("Unsupported item key.".into()),
        ] {
            assert_eq!(parse_plain_answer(&plain.answer(&answer)), answer);
        }
        assert_eq!(
            parse_plain_answer(b"ZBX_NOTSUPPORTED"),
            Answer::NotSupported("Not supported by Zabbix Agent".into())
        );
        assert_eq!(
            parse_plain_answer(b"ZBX_ERROR"),
            parse_plain_answer(b"ZBX_NOTSUPPORTED")
        );
        let json = Question::Json { key: "k".into() };
        assert_eq!(
            json.answer(&Answer::NotSupported("no".into())),
            br#"{"version":"7.0.0","variant":2,"data":[{"error":"no"}]}"#
        );
    }
}
