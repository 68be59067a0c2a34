//! Answers and refusals as responses (contract, section 1).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value};

use super::ResultFormat;
use crate::pscheduler::json::{compact, pretty, sanitise};
use crate::pscheduler::time::Stamp;
use crate::pscheduler::wire::Reject;

/// What is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// JSON with secrets replaced by null.
    Json(Value),
    /// JSON as it is, for who knew the key.
    JsonWithSecrets(Value),
    /// The plain texts that the original sends as HTML: `OK`, figures, command lines.
    Bare(String),
    /// A result in words.
    Formatted {
        /// Its form; for JSON use [`Answer::Json`].
        format: ResultFormat,
        /// The words.
        text: String,
    },
    /// Look there: the answer to an expanded POST.
    See(String),
}

/// Writes an answer.
#[must_use]
pub fn encode(answer: Answer, ask_pretty: bool) -> Response<Bytes> {
    let json_text = |value: &Value| {
        let text = if ask_pretty {
            pretty(value)
        } else {
            compact(value)
        };
        format!("{text}\n")
    };
    match answer {
        Answer::Json(mut value) => {
            sanitise(&mut value);
            response(200, "application/json", json_text(&value))
        }
        Answer::JsonWithSecrets(value) => response(200, "application/json", json_text(&value)),
        Answer::Bare(text) => response(200, "text/html; charset=utf-8", format!("{text}\n")),
        Answer::Formatted { format, text } => {
            let mime = match format {
                ResultFormat::Html => "text/html; charset=utf-8",
                ResultFormat::Json => "application/json",
                ResultFormat::Plain => "text/plain; charset=utf-8",
            };
            response(200, mime, format!("{}\n", text.trim_end()))
        }
        Answer::See(url) => {
            let mut response = response(303, "text/html; charset=utf-8", format!("{url}\n"));
            if let Ok(location) = HeaderValue::from_str(&url) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
    }
}

/// Writes a refusal.
#[must_use]
pub fn encode_reject(reject: &Reject) -> Response<Bytes> {
    let mut response = response(
        reject.status,
        "text/plain; charset=utf-8",
        format!("{}\n", reject.text),
    );
    if let Some(allow) = reject.allow {
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    response
}

fn response(status: u16, mime: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(mime));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// The answer of `/clock` (contract, section 3).
#[must_use]
pub fn clock(now: Stamp, sync: Option<&ClockSource>) -> Value {
    let mut clock = Map::new();
    clock.insert("time".to_owned(), Value::from(now.with_micros()));
    clock.insert("synchronized".to_owned(), Value::from(sync.is_some()));
    let source = sync.map_or("unknown", |sync| sync.source.as_str());
    clock.insert("source".to_owned(), Value::from(source));
    if let Some(sync) = sync {
        clock.insert("reference".to_owned(), Value::from(sync.reference.as_str()));
        clock.insert("offset".to_owned(), Value::from(sync.offset_secs));
    }
    Value::Object(clock)
}

/// What keeps a clock right.
#[derive(Debug, Clone, PartialEq)]
pub struct ClockSource {
    /// `ntp`, `chrony` …
    pub source: String,
    /// What that follows.
    pub reference: String,
    /// How far off it believes to be.
    pub offset_secs: f64,
}
