//! The end that is asked: requests to [`Ask`], answers to responses (contract, sections 1 to 3).
//!
//! [`decode`] checks what can be checked about one request by itself, in the order and with the
//! texts of the original; where that answers 500 to a caller's mistake this answers the fitting 4xx.
//! Whether a test, a task or a run is there is the front's to say. Paths are decoded once, names are
//! looked up, ids are checked by grammar.

mod answer;
mod query;
mod route;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{Request, header};
use serde_json::Value;
use uuid::Uuid;

use self::query::Query;
use super::time::Stamp;
use super::wire::{Class, Limits, Reject, RunState};

pub use answer::{Answer, ClockSource, clock, encode, encode_reject};

/// One request: what is asked, and how the answer should look.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Whether JSON is written for people.
    pub pretty: bool,
    /// The API level the client wants, 1 if it does not say.
    pub api: u32,
    /// Host and port as the client named them; `None` when it named none.
    pub authority: Option<String>,
    /// The matter.
    pub what: What,
}

/// Which run of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunRef {
    /// The earliest.
    First,
    /// The one with this id.
    Id(Uuid),
    /// The earliest that has not begun.
    Next,
}

/// What a call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFor {
    /// Nothing, save that `first` and `next` wait for a run to exist.
    Existence,
    /// The tool's result.
    Local,
    /// The merged result.
    Merged,
}

/// The form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultFormat {
    /// `text/html`
    Html,
    /// `application/json`
    Json,
    /// `text/plain`
    Plain,
}

/// The matter of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// `GET /api`
    Api,
    /// `GET /clock`
    Clock,
    /// `DELETE /tasks/ID`
    DeleteTask {
        /// The task.
        id: Uuid,
        /// What the caller shows for it.
        key: Option<String>,
    },
    /// `DELETE /tasks/ID/runs/RID`
    DeleteRun {
        /// The task.
        task: Uuid,
        /// The run.
        run: Uuid,
        /// What the caller shows for it.
        key: Option<String>,
    },
    /// `GET /hostname`
    Hostname,
    /// `GET /limits?proposal=`
    LimitsCheck {
        /// The task whose passing is asked.
        proposal: Value,
    },
    /// `GET /mtu-safe?dest=`
    MtuSafe {
        /// The far end.
        dest: String,
    },
    /// `GET /tests/N` and the like
    Plugin {
        /// The class.
        class: Class,
        /// The name.
        name: String,
    },
    /// `GET /archivers/N/data-is-valid` and the same for contexts
    PluginDataIsValid {
        /// The class.
        class: Class,
        /// The name.
        name: String,
    },
    /// `GET /tests` and the like
    Plugins {
        /// The class.
        class: Class,
        /// Objects instead of addresses.
        expanded: bool,
    },
    /// `POST /tasks`
    PostTask {
        /// What was posted, without comments, of no checked shape.
        document: Value,
        /// Answer with a redirection to the task.
        expanded: bool,
        /// With its detail.
        detail: bool,
    },
    /// `GET /tasks/ID/runs/RID/result`
    Result {
        /// The task.
        task: Uuid,
        /// The run.
        run: RunRef,
        /// The form.
        format: ResultFormat,
        /// Seconds to wait for it.
        wait_secs: u64,
        /// What secrets are shown for.
        key: Option<String>,
    },
    /// `GET /`
    Root,
    /// `GET /tasks/ID/runs/RID`
    Run {
        /// The task.
        task: Uuid,
        /// The run.
        run: RunRef,
        /// What to wait for.
        wait_for: WaitFor,
        /// Seconds to wait.
        wait_secs: u64,
        /// What secrets are shown for.
        key: Option<String>,
    },
    /// `GET /tasks/ID/runs`
    Runs {
        /// The task.
        task: Uuid,
        /// Only runs that begin at or after it.
        start: Option<Stamp>,
        /// Only runs that end at or before it.
        end: Option<Stamp>,
        /// Only runs to come.
        upcoming: bool,
        /// At most so many.
        limit: Option<u64>,
    },
    /// `GET /schedule-horizon`
    ScheduleHorizon,
    /// `GET /stat/…`
    Stat(Stat),
    /// `GET /status`
    Status,
    /// `GET /tasks/ID`
    Task {
        /// The task.
        id: Uuid,
        /// With its detail.
        detail: bool,
        /// What secrets are shown for.
        key: Option<String>,
    },
    /// `GET /tasks/ID/cli`
    TaskCli {
        /// The task.
        id: Uuid,
    },
    /// `GET /tasks`
    Tasks {
        /// Objects instead of addresses.
        expanded: bool,
        /// With their detail.
        detail: bool,
        /// What a task must contain.
        pattern: Option<Value>,
    },
    /// `GET /tests/N/participants?spec=`
    TestParticipants {
        /// The test.
        test: String,
        /// Its specification.
        spec: Value,
    },
    /// `GET /tests/N/spec?args=`
    TestSpec {
        /// The test.
        test: String,
        /// Command line arguments.
        args: Vec<String>,
    },
    /// `GET /tests/N/spec/is-valid?spec=`
    TestSpecIsValid {
        /// The test.
        test: String,
        /// Its specification, or why it is no JSON.
        spec: Result<Value, String>,
    },
    /// `GET /tests/N/tools`
    TestTools {
        /// The test.
        test: String,
        /// Objects instead of addresses.
        expanded: bool,
    },
    /// `GET /tools?test=`
    ToolsFor {
        /// The test.
        test: String,
        /// Its specification.
        spec: Value,
    },
}

/// A figure of `/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stat {
    /// Whether runs are held back: `{"is_paused":false}`.
    Pause,
    /// Archivings and calls to other participants, waiting or to come: a server with one participant
    /// and no archivers has none.
    Queue,
    /// Runs in a state.
    Runs(RunState),
}

/// Reads a request. The path may still carry the `/pscheduler` it is served under.
///
/// # Errors
/// The refusal to be sent instead of an answer.
pub fn decode(request: &Request<Bytes>, limits: &Limits) -> Result<Ask, Reject> {
    if request.body().len() > limits.body_bytes_max {
        return Err(Reject::new(413, "Request too large."));
    }
    if let Some(encoding) = request.headers().get(header::CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(Reject::new(415, "Content encoding is not supported."));
    }
    let query = Query::of(request.uri().query().unwrap_or(""), limits)?;
    let api = match query.text("api") {
        None => 1,
        Some(text) => match text.trim().parse::<i64>() {
            Ok(level) if level > i64::from(super::API_LEVEL) => {
                let highest = super::API_LEVEL;
                return Err(Reject::new(
                    501,
                    format!("No API above {highest} is supported"),
                ));
            }
            Ok(level) => u32::try_from(level).unwrap_or(1),
            Err(_) => {
                let text = super::plugins::shown(text);
                return Err(Reject::new(
                    400,
                    format!(
                        "Invalid API value '{text}': Invalid API value {text}: Invalid integer."
                    ),
                ));
            }
        },
    };
    Ok(Ask {
        pretty: query.flag("pretty"),
        api,
        authority: authority_of(request)?,
        what: route::route(request, &query, limits)?,
    })
}

/// Host and port a client named, checked by grammar: they return in addresses.
fn authority_of(request: &Request<Bytes>) -> Result<Option<String>, Reject> {
    let named = match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => match request.headers().get(header::HOST) {
            None => None,
            Some(host) => Some(
                host.to_str()
                    .map_err(|_| Reject::new(400, "Invalid Host header"))?,
            ),
        },
    };
    match named {
        None | Some("") => Ok(None),
        Some(name) => {
            let allowed = |b: u8| {
                b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']')
            };
            if name.len() > 262 || !name.bytes().all(allowed) {
                return Err(Reject::new(400, "Invalid Host header"));
            }
            Ok(Some(name.to_owned()))
        }
    }
}
