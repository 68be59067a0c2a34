//! The working end: builds requests and reads answers.
//!
//! FusionInventory contract, sections 1, 2 and 4 as an agent lives them, and section 6 for when to
//! come again. Holds no socket and no clock.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rand_core::Rng;

use super::body::{self, BodyError, Packing};
use super::json::{self, Fields, JsonError};
use super::news::JobNews;
use super::p1::{TaskList, TasksQuery};
use super::reply::{Reply, ReplyError};
use super::wire::{Limits, PeerName, short};
use super::{p2, p3};

/// Why an answer is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The body's packing or size.
    #[error("answer could not be unpacked")]
    Body(#[from] BodyError),
    /// Nothing in it: an error in every dialect.
    #[error("answer is empty")]
    Empty,
    /// JSON that is not what it should be.
    #[error("answer is not valid: {0}")]
    Json(#[from] JsonError),
    /// A redirect, which would lose what was sent.
    #[error("server redirects to {0}")]
    Redirect(String),
    /// The server refuses.
    #[error("server answers {status}: {message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// The server's words.
        message: String,
        /// When to try again.
        retry_after: Option<Duration>,
    },
    /// Neither dialect: a login page, a captive portal.
    #[error("answer is not of this protocol: {0:?}")]
    Stranger(String),
    /// XML that is not what it should be.
    #[error("answer is not valid")]
    Xml(#[from] ReplyError),
}

/// What an answer to a PROLOG may be.
#[derive(Clone, Debug, PartialEq)]
pub enum PrologAnswer {
    /// A P2 server.
    Legacy(Reply),
    /// A P3 server.
    Native(p3::Answer),
}

/// Characters that are not sent as they are in a path or query value.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// How this agent names itself to servers.
#[must_use]
pub fn user_agent(version: &str) -> String {
    format!("Muster-Agent_v{version}")
}

/// `GET {base}/api/tasks`. `base` is a path without a slash at its end.
#[must_use]
pub fn tasks_request(base: &str, query: &TasksQuery) -> Request<Bytes> {
    let mut request = Request::new(Bytes::new());
    set_target(
        &mut request,
        &format!("{base}/api/tasks?{}", query.to_query()),
    );
    request
        .headers_mut()
        .insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    request
}

/// `POST {base}/` with a P2 message.
#[must_use]
pub fn message_request(base: &str, message: &p2::Message, packing: Packing) -> Request<Bytes> {
    post(
        &format!("{base}/"),
        message.to_xml(),
        packing,
        "application/xml",
    )
}

/// `POST {base}/` with a P3 message of the agent `agent_id`, a UUID.
#[must_use]
pub fn native_request(
    base: &str,
    message: &p3::Message,
    agent_id: uuid::Uuid,
    packing: Packing,
) -> Request<Bytes> {
    let mut request = post(
        &format!("{base}/"),
        message.to_json(),
        packing,
        "application/json",
    );
    if let Ok(value) = HeaderValue::from_str(&agent_id.hyphenated().to_string()) {
        request.headers_mut().insert("glpi-agent-id", value);
    }
    request
}

/// `POST {base}/api/results` with news of a P1 job.
#[must_use]
pub fn news_request(
    base: &str,
    agent: &PeerName,
    task: &str,
    job: &str,
    news: &JobNews,
) -> Request<Bytes> {
    let value = |text| utf8_percent_encode(text, QUERY);
    let target = format!(
        "{base}/api/results?agentid={}&task={}&job={}",
        value(agent.as_str()),
        value(task),
        value(job)
    );
    post(&target, news.to_json(), Packing::Plain, "application/json")
}

fn post(target: &str, body: String, packing: Packing, plain: &'static str) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from(packing.pack(body.into_bytes())));
    *request.method_mut() = Method::POST;
    set_target(&mut request, target);
    request.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(packing.content_type(plain)),
    );
    request
}

fn set_target(request: &mut Request<Bytes>, target: &str) {
    if let Ok(uri) = target.parse() {
        *request.uri_mut() = uri;
    }
}

/// Reads the answer to [`tasks_request`].
///
/// # Errors
/// [`AnswerError`]; the agent then keeps the plan it has and comes again later (1.5).
pub fn decode_tasks(response: &Response<Bytes>, limits: &Limits) -> Result<TaskList, AnswerError> {
    let body = accepted(response, limits)?;
    match first(&body) {
        Some(b'{' | b'[') => Ok(TaskList::parse(&body, limits)?),
        Some(_) | None => Err(stranger(&body)),
    }
}

/// Reads the answer to [`message_request`].
///
/// # Errors
/// [`AnswerError`].
pub fn decode_reply(response: &Response<Bytes>, limits: &Limits) -> Result<Reply, AnswerError> {
    let body = accepted(response, limits)?;
    match first(&body) {
        Some(b'<') => Reply::parse(&body, limits).map_err(|error| match error {
            ReplyError::NotAReply => stranger(&body),
            // A page of HTML is rarely well formed.
            ReplyError::Xml(_) if is_html(&body) => stranger(&body),
            ReplyError::Xml(_) => AnswerError::Xml(error),
        }),
        Some(_) | None => Err(stranger(&body)),
    }
}

/// Reads the answer to [`native_request`].
///
/// # Errors
/// [`AnswerError`].
pub fn decode_native(
    response: &Response<Bytes>,
    limits: &Limits,
) -> Result<p3::Answer, AnswerError> {
    let body = accepted(response, limits)?;
    match first(&body) {
        Some(b'{' | b'[') => Ok(p3::Answer::parse(&body, limits)?),
        Some(_) | None => Err(stranger(&body)),
    }
}

/// Reads the answer to a PROLOG that carried an agent id: it tells which kind of server this is.
///
/// # Errors
/// [`AnswerError`].
pub fn decode_prolog(
    response: &Response<Bytes>,
    limits: &Limits,
) -> Result<PrologAnswer, AnswerError> {
    let body = accepted(response, limits)?;
    match first(&body) {
        Some(b'{') => Ok(PrologAnswer::Native(p3::Answer::parse(&body, limits)?)),
        Some(_) | None => decode_reply(response, limits).map(PrologAnswer::Legacy),
    }
}

/// Reads the answer to [`news_request`].
///
/// # Errors
/// [`AnswerError`].
pub fn decode_accepted(response: &Response<Bytes>, limits: &Limits) -> Result<(), AnswerError> {
    let body = accepted(response, limits)?;
    match first(&body) {
        Some(b'{') => {
            json::check(&body, limits)?;
            Ok(())
        }
        Some(_) | None => Err(stranger(&body)),
    }
}

/// The body of a 2xx answer without its packing; the server's words out of any other.
fn accepted<'r>(
    response: &'r Response<Bytes>,
    limits: &Limits,
) -> Result<Cow<'r, [u8]>, AnswerError> {
    let headers = response.headers();
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let status = response.status();
    if status.is_redirection() {
        return Err(AnswerError::Redirect(short(
            text(header::LOCATION).unwrap_or("nowhere"),
        )));
    }
    // Servers label bodies wrongly; what is in them decides.
    let declared = Packing::declared(text(header::CONTENT_TYPE));
    let packing = body::recognise(response.body(), declared)?;
    let packing = match first(response.body()) {
        None => Packing::Plain,
        Some(_) => packing,
    };
    let body = match body::unpack(response.body(), packing, limits.message_bytes) {
        // Plain text under a packed type.
        Err(BodyError::Corrupt(_)) if response.body().is_ascii() => {
            Cow::Borrowed(response.body().as_ref())
        }
        other => other?,
    };
    if status.is_success() {
        return match first(&body) {
            None => Err(AnswerError::Empty),
            Some(_) => Ok(body),
        };
    }
    Err(AnswerError::Refused {
        status,
        message: refusal(&body, limits),
        retry_after: text(header::RETRY_AFTER)
            .and_then(|t| t.trim().parse::<u32>().ok())
            .map(|s| Duration::from_secs(u64::from(s))),
    })
}

fn refusal(body: &[u8], limits: &Limits) -> String {
    let words = match first(body) {
        Some(b'{') => json::check(body, limits)
            .ok()
            .and_then(|text| Fields::of(text, "").ok())
            .and_then(|f| f.text("message").ok().flatten()),
        Some(b'<') => Reply::parse(body, limits)
            .ok()
            .and_then(|reply| reply.error),
        Some(_) | None => None,
    };
    words.map_or_else(|| first_line(body), |text| short(&text))
}

fn first(body: &[u8]) -> Option<&u8> {
    let body = body.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(body);
    body.iter().find(|b| !b.is_ascii_whitespace())
}

fn is_html(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body.get(..body.len().min(512)).unwrap_or_default());
    let text = text.to_ascii_lowercase();
    text.contains("<html") || text.contains("<!doctype html")
}

fn stranger(body: &[u8]) -> AnswerError {
    AnswerError::Stranger(first_line(body))
}

fn first_line(body: &[u8]) -> String {
    let start = body.get(..body.len().min(1024)).unwrap_or_default();
    let text = String::from_utf8_lossy(start);
    short(text.trim_start().lines().next().unwrap_or_default())
}

/// How long to wait for `next_contact`, both in Unix seconds.
///
/// The past means "now", with a floor of one second and up to one more of chance, so that a wrong
/// clock cannot make a tight loop; more than 30 days ahead is 30 days (1.5).
#[must_use]
pub fn contact_delay(next_contact: i64, now: i64, rng: &mut impl Rng) -> Duration {
    const FARTHEST: u64 = 30 * 24 * 3600;
    match u64::try_from(next_contact.saturating_sub(now)) {
        Ok(ahead) if ahead > 0 => Duration::from_secs(ahead.min(FARTHEST)),
        Ok(_) | Err(_) => {
            let chance = u64::from(rng.next_u32() % 1000);
            Duration::from_millis(1000_u64.saturating_add(chance))
        }
    }
}

/// Waits between attempts while a server cannot be reached: a minute, doubled each time, never more
/// than the cap (section 6).
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    next: Duration,
    cap: Duration,
}

impl Backoff {
    /// Begins at `first` (a minute in the field, less where a person waits), ends at `cap`.
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            next: first,
            cap,
        }
    }

    /// The wait after one more failure.
    pub fn failed(&mut self) -> Duration {
        let wait = self.next.min(self.cap);
        self.next = self.next.saturating_mul(2).min(self.cap);
        wait
    }

    /// Something worked: begin anew.
    pub fn succeeded(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    use super::*;

    #[test]
    fn when_to_come_again() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut secs = |next, now| contact_delay(next, now, &mut rng).as_secs_f64();
        assert_eq!(secs(1100, 1000), 100.0);
        assert_eq!(secs(1001, 1000), 1.0);
        for past in [1000, 999, 0, -5, i64::MIN] {
            let wait = secs(past, 1000);
            assert!((1.0..2.0).contains(&wait), "{past}: {wait}");
        }
        for far in [i64::MAX, 1000 + 31 * 86_400] {
            assert_eq!(secs(far, 1000), 30.0 * 86_400.0);
        }
        assert_eq!(secs(i64::MAX, i64::MIN), 30.0 * 86_400.0);
    }

    #[test]
    fn waits_double_up_to_the_cap() {
        let mut backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(200));
        let waits: Vec<u64> = (0..4).map(|_| backoff.failed().as_secs()).collect();
        assert_eq!(waits, [60, 120, 200, 200]);
        backoff.succeeded();
        assert_eq!(backoff.failed().as_secs(), 60);
    }

    fn response(status: u16, kind: &str, body: &[u8]) -> Response<Bytes> {
        Response::builder()
            .status(status)
            .header("content-type", kind)
            .header("retry-after", "7")
            .body(Bytes::copy_from_slice(body))
            .unwrap()
    }

    #[test]
    fn answers_that_are_none() {
        let limits = Limits::default();
        let cases: &[(u16, &str, &[u8], &str)] = &[
            (200, "application/json", b"", "empty"),
            (200, "application/x-compress-zlib", b"", "empty"),
            (200, "application/json", b"  \n", "empty"),
            (
                200,
                "text/html",
                b"<html><body>login page</body></html>",
                "login page",
            ),
            (200, "application/json", b"{", "not JSON"),
            (
                200,
                "text/plain",
                b"Inventory is disabled",
                "Inventory is disabled",
            ),
            (302, "text/plain", b"", "redirects to nowhere"),
            (
                503,
                "application/json",
                b"{\"status\":\"error\",\"message\":\"busy\"}",
                "503 Service Unavailable: busy",
            ),
            (
                500,
                "application/xml",
                b"<REPLY><ERROR>bad</ERROR></REPLY>",
                ": bad",
            ),
            (404, "text/plain", b"first\nsecond", ": first"),
        ];
        for (status, kind, body, what) in cases {
            let response = response(*status, kind, body);
            let error = decode_tasks(&response, &limits).unwrap_err();
            assert!(error.to_string().contains(what), "{status} {what}: {error}");
            assert!(decode_reply(&response, &limits).is_err(), "{what}");
            assert!(decode_native(&response, &limits).is_err(), "{what}");
            assert!(decode_prolog(&response, &limits).is_err(), "{what}");
        }
        let refused = decode_tasks(&response(503, "a/b", b"x"), &limits).unwrap_err();
        let AnswerError::Refused { retry_after, .. } = refused else {
            panic!("{refused}")
        };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_wrongly_labelled_answer_is_read() {
        let limits = Limits::default();
        let zlib = Packing::Zlib.pack(b"<REPLY></REPLY>".to_vec());
        for kind in [
            "application/xml",
            "application/x-compress-gzip",
            "text/plain",
        ] {
            assert!(
                decode_reply(&response(200, kind, &zlib), &limits).is_ok(),
                "{kind}"
            );
            let plain = response(200, kind, b"<REPLY></REPLY>");
            assert!(decode_reply(&plain, &limits).is_ok(), "{kind}");
        }
    }
}
