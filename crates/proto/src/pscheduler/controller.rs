//! The end that is asked: requests to [`Ask`], answers to responses (contract, sections 1 to 3).
//!
//! [`decode`] checks what can be checked about one request by itself, in the order and with the
//! texts of the original; where that answers 500 to a caller's mistake this answers the fitting 4xx.
//! Whether a test, a task or a run is there is the front's to say. Paths are decoded once, names are
//! looked up, ids are checked by grammar.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::json::{self, compact, parse, pretty, strip_comments};
use super::time::Stamp;
use super::wire::{Class, Limits, Reject, RunState};

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
        what: route(request, &query, limits)?,
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

/// Splits a path into names, each decoded once. What no name may hold finds nothing.
fn segments(path: &str) -> Option<Vec<Cow<'_, str>>> {
    let path = path.strip_prefix("/pscheduler").unwrap_or(path);
    let path = path.strip_prefix('/').unwrap_or(path);
    if path.is_empty() {
        return Some(Vec::new());
    }
    let mut names = Vec::new();
    for part in path.split('/') {
        let name = percent_decode_str(part).decode_utf8().ok()?;
        let plain = !name.is_empty()
            && name.len() <= 128
            && name != ".."
            && name != "."
            && !name
                .chars()
                .any(|c| c.is_control() || c == '/' || c == '\\');
        if !plain {
            return None;
        }
        names.push(name);
    }
    Some(names)
}

const GET: &str = "GET, HEAD";

fn route(request: &Request<Bytes>, query: &Query, limits: &Limits) -> Result<What, Reject> {
    let names = segments(request.uri().path()).ok_or_else(Reject::not_found)?;
    let names: Vec<&str> = names.iter().map(Cow::as_ref).collect();
    let method = request.method();
    let get = |what: Result<What, Reject>| -> Result<What, Reject> {
        if method == Method::GET || method == Method::HEAD {
            what
        } else {
            Err(wrong_method(GET))
        }
    };
    match names.as_slice() {
        [] => get(Ok(What::Root)),
        ["api"] => get(Ok(What::Api)),
        ["hostname"] => get(Ok(What::Hostname)),
        ["clock"] => get(Ok(What::Clock)),
        ["schedule-horizon"] => get(Ok(What::ScheduleHorizon)),
        ["status"] => get(Ok(What::Status)),
        ["mtu-safe" | "mtu"] => get(match query.text("dest") {
            Some(dest) if is_host(dest) => Ok(What::MtuSafe {
                dest: dest.to_owned(),
            }),
            Some(_) => Err(Reject::new(400, "Invalid destination")),
            None => Err(Reject::new(400, "Missing destination")),
        }),
        ["limits"] => get(match query.text("proposal") {
            None => Err(Reject::new(400, "No proposal provided")),
            Some(text) => read_json(text, limits)
                .map(|proposal| What::LimitsCheck { proposal })
                .map_err(|error| Reject::new(400, error)),
        }),
        ["exception"] => Err(Reject::new(
            405,
            format!("{method} not allowed on this resource"),
        )),
        ["debug"] => Err(Reject::forbidden()),
        ["schedule"] => get(Err(Reject::not_supported("The schedule listing"))),
        ["monitor"] => get(Err(Reject::not_supported("The monitor listing"))),
        ["stat", rest @ ..] => get(match rest {
            ["control", "pause"] => Ok(What::Stat(Stat::Pause)),
            ["archiving", "backlog" | "upcoming"] | ["http-queue", "backlog" | "length"] => {
                Ok(What::Stat(Stat::Queue))
            }
            ["runs", state] => match RunState::of_str(state) {
                None | Some(RunState::Scheduling | RunState::Canceled) => Err(Reject::not_found()),
                Some(_) if query.text("start").is_some() || query.text("end").is_some() => {
                    Err(Reject::not_supported("Counting the runs of a period"))
                }
                Some(state) => Ok(What::Stat(Stat::Runs(state))),
            },
            _ => Err(Reject::not_found()),
        }),
        ["tools"] if query.text("test").is_some() => get(tools_for(query, limits)),
        [
            plural @ ("tests" | "tools" | "archivers" | "contexts"),
            rest @ ..,
        ] => get(plugins(class_of(plural), rest, query, limits)),
        ["tasks"] => match *method {
            Method::GET | Method::HEAD => tasks(query, limits),
            Method::POST => {
                check_requester(request)?;
                let document = body_json(request, limits).map_err(|error| {
                    Reject::new(400, format!("Invalid task specification: {error}"))
                })?;
                Ok(What::PostTask {
                    document,
                    expanded: query.flag("expanded"),
                    detail: query.flag("detail"),
                })
            }
            _ => Err(wrong_method("GET, HEAD, POST")),
        },
        ["tasks", id] => {
            let id = uuid(id)?;
            match *method {
                Method::GET | Method::HEAD => Ok(What::Task {
                    id,
                    detail: query.flag("detail"),
                    key: query.owned("key"),
                }),
                Method::DELETE => Ok(What::DeleteTask {
                    id,
                    key: query.owned("key"),
                }),
                Method::POST => Err(Reject::not_supported(
                    "Taking part in another server's task",
                )),
                _ => Err(wrong_method("GET, HEAD, POST, DELETE")),
            }
        }
        ["tasks", id, "cli"] => get(Ok(What::TaskCli { id: uuid(id)? })),
        ["tasks", id, "runtimes"] => {
            uuid(id)?;
            get(Err(Reject::not_supported("Asking for free time")))
        }
        ["tasks", id, "runs"] => {
            let task = uuid(id)?;
            match *method {
                Method::GET | Method::HEAD => runs(task, query),
                Method::POST => Err(Reject::not_supported("Posting runs")),
                _ => Err(wrong_method("GET, HEAD, POST")),
            }
        }
        ["tasks", id, "runs", run] => {
            let (task, run) = (uuid(id)?, run_ref(run)?);
            match *method {
                Method::GET | Method::HEAD => self::run(task, run, query, limits),
                Method::DELETE => match run {
                    RunRef::Id(run) => Ok(What::DeleteRun {
                        task,
                        run,
                        key: query.owned("key"),
                    }),
                    RunRef::First | RunRef::Next => Err(Reject::not_found()),
                },
                Method::PUT => Err(Reject::not_supported("Putting runs")),
                _ => Err(wrong_method("GET, HEAD, PUT, DELETE")),
            }
        }
        ["tasks", id, "runs", run, "result"] => {
            let (task, run) = (uuid(id)?, run_ref(run)?);
            get(result(task, run, query, limits))
        }
        _ => Err(Reject::not_found()),
    }
}

/// A proxy that submits for somebody else (contract, section 9). None is trusted without a limits
/// file, and a task is not taken as the proxy's own.
fn check_requester(request: &Request<Bytes>) -> Result<(), Reject> {
    let Some(header) = request.headers().get("x-pscheduler-requester") else {
        return Ok(());
    };
    let fields: Vec<_> = header.to_str().unwrap_or("").split(';').collect();
    let shaped = fields.len() == 3
        && fields
            .first()
            .is_some_and(|ip| ip.trim().parse::<std::net::IpAddr>().is_ok());
    Err(if shaped {
        Reject::new(403, "Requester proxying not allowed")
    } else {
        Reject::new(400, "Invalid X-pScheduler-Requester header")
    })
}

fn wrong_method(allow: &'static str) -> Reject {
    Reject {
        status: 405,
        text: "Method not allowed.".to_owned(),
        allow: Some(allow),
    }
}

fn class_of(plural: &str) -> Class {
    match plural {
        "archivers" => Class::Archiver,
        "contexts" => Class::Context,
        "tools" => Class::Tool,
        _ => Class::Test,
    }
}

fn plugins(class: Class, rest: &[&str], query: &Query, limits: &Limits) -> Result<What, Reject> {
    let expanded = query.flag("expanded");
    match (class, rest) {
        (_, []) => Ok(What::Plugins { class, expanded }),
        (_, [name]) => Ok(What::Plugin {
            class,
            name: (*name).to_owned(),
        }),
        (Class::Archiver | Class::Context, [name, "data-is-valid"]) => {
            Ok(What::PluginDataIsValid {
                class,
                name: (*name).to_owned(),
            })
        }
        (Class::Test, [test, "tools"]) => Ok(What::TestTools {
            test: (*test).to_owned(),
            expanded,
        }),
        (Class::Test, [test, "spec"]) => {
            let args = args(query.text("args").unwrap_or("[]"), limits)?;
            Ok(What::TestSpec {
                test: (*test).to_owned(),
                args,
            })
        }
        (Class::Test, [test, "spec", "is-valid"]) => match query.text("spec") {
            None => Err(Reject::new(400, "No test spec provided")),
            Some(text) => {
                let spec = read_json(text, limits);
                Ok(What::TestSpecIsValid {
                    test: (*test).to_owned(),
                    spec,
                })
            }
        },
        (Class::Test, [test, "participants"]) => match query.text("spec") {
            None => Err(Reject::new(400, "No test spec provided")),
            Some(text) => {
                let spec = read_json(text, limits).map_err(|error| Reject::new(400, error))?;
                Ok(What::TestParticipants {
                    test: (*test).to_owned(),
                    spec,
                })
            }
        },
        _ => Err(Reject::not_found()),
    }
}

/// The arguments of a command line: the original takes numbers beside texts.
fn args(text: &str, limits: &Limits) -> Result<Vec<String>, Reject> {
    let wrong = || Reject::new(400, "Invalid JSON for this operation\n");
    // The blank before the newline is the original's.
    let list = read_json(text, limits)
        .map_err(|error| Reject::new(400, format!("JSON passed to 'args': {error} ")))?;
    let list = list.as_array().ok_or_else(wrong)?;
    let one = |arg: &Value| match arg {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(wrong()),
    };
    list.iter().map(one).collect()
}

fn tools_for(query: &Query, limits: &Limits) -> Result<What, Reject> {
    let text = query.text("test").unwrap_or("");
    let mut asked = read_json(text, limits).map_err(|error| Reject::new(400, error))?;
    let test = asked.get("type").and_then(Value::as_str).map(str::to_owned);
    let spec = asked.get_mut("spec").map(Value::take);
    match (test, spec) {
        (Some(test), Some(spec)) => Ok(What::ToolsFor { test, spec }),
        _ => Err(Reject::new(
            400,
            "Invalid test: At /: 'type' and 'spec' are required properties",
        )),
    }
}

fn tasks(query: &Query, limits: &Limits) -> Result<What, Reject> {
    let pattern = match query.text("json") {
        None => None,
        Some(text) => Some(read_json(text, limits).map_err(|error| Reject::new(400, error))?),
    };
    Ok(What::Tasks {
        expanded: query.flag("expanded"),
        detail: query.flag("detail"),
        pattern,
    })
}

fn runs(task: Uuid, query: &Query) -> Result<What, Reject> {
    let moment = |name: &str| match query.text(name) {
        None => Ok(None),
        Some(text) => Stamp::parse(text)
            .map(Some)
            .map_err(|_| Reject::new(400, format!("Invalid {name} time"))),
    };
    let limit = match query.text("limit") {
        None => None,
        Some(text) => match text.trim().parse::<u64>() {
            Ok(limit) if limit > 0 => Some(limit),
            _ => return Err(Reject::new(400, "Invalid cardinal; expecting integer > 0")),
        },
    };
    Ok(What::Runs {
        task,
        start: moment("start")?,
        end: moment("end")?,
        upcoming: query.flag("upcoming"),
        limit,
    })
}

fn run(task: Uuid, run: RunRef, query: &Query, limits: &Limits) -> Result<What, Reject> {
    let wait_for = match (query.flag("wait-local"), query.flag("wait-merged")) {
        (true, true) => return Err(Reject::new(400, "Cannot wait on local and merged results")),
        (true, false) => WaitFor::Local,
        (false, true) => WaitFor::Merged,
        (false, false) => WaitFor::Existence,
    };
    let wait_secs = match query.text("wait") {
        None => 30,
        Some(text) => match text.trim().parse::<i64>() {
            Ok(wait) => u64::try_from(wait)
                .map_err(|_| Reject::new(400, "Wait time must be >= 0"))?
                .min(limits.wait_secs_max),
            Err(_) => return Err(Reject::new(400, "Invalid wait time: Invalid integer.")),
        },
    };
    Ok(What::Run {
        task,
        run,
        wait_for,
        wait_secs,
        key: query.owned("key"),
    })
}

fn result(task: Uuid, run: RunRef, query: &Query, limits: &Limits) -> Result<What, Reject> {
    let format = match query.text("format") {
        None | Some("" | "application/json") => ResultFormat::Json,
        Some("text/html") => ResultFormat::Html,
        Some("text/plain") => ResultFormat::Plain,
        Some(other) => {
            let shown = super::plugins::shown(other);
            return Err(Reject::new(400, format!("Unsupported format {shown}")));
        }
    };
    // The original answers null to `wait`; here it waits as long as the contract wishes.
    let wait_secs = match query.text("wait") {
        None => 0,
        Some(text) => match text.trim().parse::<i64>() {
            Ok(wait) => u64::try_from(wait)
                .map_err(|_| Reject::new(400, "Wait time must be >= 0"))?
                .min(limits.wait_secs_max),
            Err(_) if query.flag("wait") => 10,
            Err(_) => 0,
        },
    };
    Ok(What::Result {
        task,
        run,
        format,
        wait_secs,
        key: query.owned("key"),
    })
}

fn run_ref(name: &str) -> Result<RunRef, Reject> {
    match name {
        "first" => Ok(RunRef::First),
        "next" => Ok(RunRef::Next),
        id => uuid(id).map(RunRef::Id),
    }
}

/// The 8-4-4-4-12 form only; whatever else is not there.
fn uuid(text: &str) -> Result<Uuid, Reject> {
    if text.len() == 36
        && let Ok(id) = Uuid::try_parse(text)
    {
        return Ok(id);
    }
    Err(Reject::not_found())
}

/// A host name or address with nothing in it that a program could take for something else.
fn is_host(text: &str) -> bool {
    !text.starts_with('-')
        && (1..=255).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'))
}

fn read_json(text: &str, limits: &Limits) -> Result<Value, String> {
    let mut value = parse(text, &limits.json).map_err(|error| format!("Invalid JSON: {error}"))?;
    strip_comments(&mut value);
    Ok(value)
}

/// The body, whatever its type says (contract, section 1).
fn body_json(request: &Request<Bytes>, limits: &Limits) -> Result<Value, String> {
    let text = std::str::from_utf8(request.body())
        .map_err(|_| "Invalid JSON: The text is not UTF-8.".to_owned())?;
    read_json(text, limits)
}

/// Parameters of a query. Of one given twice the first counts.
struct Query {
    parameters: Vec<(String, String)>,
}

impl Query {
    fn of(text: &str, limits: &Limits) -> Result<Self, Reject> {
        let mut parameters = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if parameters.len() >= limits.parameters_max {
                return Err(Reject::new(400, "Too many parameters."));
            }
            parameters.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self { parameters })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.as_str())
    }

    fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    fn flag(&self, name: &str) -> bool {
        match self.text(name) {
            None => false,
            Some(value) => {
                value.is_empty()
                    || ["true", "yes", "1"]
                        .iter()
                        .any(|yes| value.eq_ignore_ascii_case(yes))
            }
        }
    }
}

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
            json::sanitise(&mut value);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, target: &str, body: &str) -> Result<Ask, Reject> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/pscheduler{target}"))
            .header("Host", "ps1.example.net")
            .body(Bytes::copy_from_slice(body.as_bytes()))
            .expect("request");
        decode(&request, &Limits::default())
    }

    fn what(target: &str) -> What {
        ask("GET", target, "").expect(target).what
    }

    fn refusal(method: &str, target: &str, body: &str) -> (u16, String) {
        let reject = ask(method, target, body).expect_err(target);
        (reject.status, reject.text)
    }

    const ID: &str = "a696ca36-aa06-4586-a60a-f4a4a5198638";

    #[test]
    fn booleans_are_true_in_every_way_clients_write_them() {
        for yes in [
            "detail",
            "detail=",
            "detail=True",
            "detail=1",
            "detail=YES",
            "x=1&detail",
        ] {
            let What::Task { detail, .. } = what(&format!("/tasks/{ID}?{yes}")) else {
                panic!("a task");
            };
            assert!(detail, "{yes}");
        }
        for no in ["", "detail=0", "detail=False", "detail=no", "detail=on"] {
            let What::Task { detail, .. } = what(&format!("/tasks/{ID}?{no}")) else {
                panic!("a task");
            };
            assert!(!detail, "{no}");
        }
    }

    #[test]
    fn refusals_have_the_texts_of_the_original() {
        for (method, target, body, status, text) in [
            ("GET", "/nosuch", "", 404, "Resource not found."),
            (
                "GET",
                "/nosuch?api=99",
                "",
                501,
                "No API above 6 is supported",
            ),
            (
                "GET",
                "/api?api=x",
                "",
                400,
                "Invalid API value 'x': Invalid API value x: Invalid integer.",
            ),
            ("GET", "/mtu-safe", "", 400, "Missing destination"),
            ("GET", "/mtu", "", 400, "Missing destination"),
            ("GET", "/limits", "", 400, "No proposal provided"),
            (
                "GET",
                "/tests/rtt/spec?args=%7bbad",
                "",
                400,
                "JSON passed to 'args': Invalid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1) ",
            ),
            (
                "GET",
                "/tests/rtt/spec/is-valid",
                "",
                400,
                "No test spec provided",
            ),
            (
                "GET",
                "/tests/rtt/participants",
                "",
                400,
                "No test spec provided",
            ),
            (
                "GET",
                "/tasks?json=%7bbad",
                "",
                400,
                "Invalid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
            ),
            (
                "POST",
                "/tasks",
                "{bad",
                400,
                "Invalid task specification: Invalid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
            ),
            ("GET", "/tasks/xyz", "", 404, "Resource not found."),
            (
                "GET",
                "/tasks/{a696ca36-aa06-4586-a60a-f4a4a5198638}",
                "",
                404,
                "Resource not found.",
            ),
            ("PUT", "/tasks", "", 405, "Method not allowed."),
            ("DELETE", "/tests", "", 405, "Method not allowed."),
            ("TRACE", "/tests", "", 405, "Method not allowed."),
            (
                "GET",
                "/exception",
                "",
                405,
                "GET not allowed on this resource",
            ),
            ("GET", "/debug", "", 403, "Forbidden"),
        ] {
            assert_eq!(
                refusal(method, target, body),
                (status, text.to_owned()),
                "{target}"
            );
        }
        let runs = format!("/tasks/{ID}/runs");
        for (target, status, text) in [
            (format!("{runs}/last"), 404, "Resource not found."),
            (
                format!("{runs}/{ID}?wait-merged&wait-local"),
                400,
                "Cannot wait on local and merged results",
            ),
            (
                format!("{runs}/first?wait=-1"),
                400,
                "Wait time must be >= 0",
            ),
            (
                format!("{runs}/{ID}/result?format=foo"),
                400,
                "Unsupported format foo",
            ),
            (
                format!("{runs}?limit=0"),
                400,
                "Invalid cardinal; expecting integer > 0",
            ),
            (format!("{runs}?start=x"), 400, "Invalid start time"),
        ] {
            assert_eq!(
                refusal("GET", &target, ""),
                (status, text.to_owned()),
                "{target}"
            );
        }
    }

    #[test]
    fn a_wrong_method_names_the_right_ones() {
        let reject = ask("PUT", &format!("/tasks/{ID}"), "").expect_err("405");
        let response = encode_reject(&reject);
        assert_eq!(response.status(), 405);
        assert_eq!(
            response.headers().get("allow").expect("allow"),
            "GET, HEAD, POST, DELETE"
        );
    }

    #[test]
    fn what_comes_with_later_issues_is_refused_by_name() {
        for (method, target) in [
            ("GET", "/schedule"),
            ("GET", "/monitor"),
            (
                "POST",
                "/tasks/a696ca36-aa06-4586-a60a-f4a4a5198638?participant=1",
            ),
            (
                "GET",
                "/tasks/a696ca36-aa06-4586-a60a-f4a4a5198638/runtimes",
            ),
            ("POST", "/tasks/a696ca36-aa06-4586-a60a-f4a4a5198638/runs"),
        ] {
            let (status, text) = refusal(method, target, "{}");
            assert_eq!(status, 501, "{target}");
            assert!(text.ends_with("is not supported by this server."), "{text}");
        }
    }

    #[test]
    fn nobody_submits_for_somebody_else() {
        for (header, status, text) in [
            ("192.0.2.7;proxy;key", 403, "Requester proxying not allowed"),
            (
                "192.0.2.7;proxy",
                400,
                "Invalid X-pScheduler-Requester header",
            ),
            (
                "nowhere;proxy;key",
                400,
                "Invalid X-pScheduler-Requester header",
            ),
        ] {
            let request = Request::builder()
                .method("POST")
                .uri("/pscheduler/tasks")
                .header("X-pScheduler-Requester", header)
                .body(Bytes::from_static(b"{}"))
                .expect("request");
            let reject = decode(&request, &Limits::default()).expect_err(header);
            assert_eq!(
                (reject.status, reject.text.as_str()),
                (status, text),
                "{header}"
            );
        }
    }

    #[test]
    fn names_are_decoded_once_and_never_climb() {
        for target in [
            "/tests/..",
            "/tests/%2e%2e",
            "/tests/%2fetc",
            "/tests/a%00",
            "/tests/a%5cb",
            "/tests//",
            "/tests/%c0%ae",
            "/tests/a/../rtt",
            "/tests/",
        ] {
            assert_eq!(refusal("GET", target, "").0, 404, "{target}");
        }
        let What::Plugin { name, .. } = what("/tests/%2572tt") else {
            panic!("a plugin")
        };
        assert_eq!(name, "%72tt");
    }

    #[test]
    fn hosts_that_do_not_belong_in_addresses_are_refused() {
        for host in ["a/b", "a b", "<x>", "user@host", "a?b"] {
            let request = Request::builder()
                .uri("/pscheduler/")
                .header("Host", host)
                .body(Bytes::new())
                .expect("request");
            let reject = decode(&request, &Limits::default()).expect_err(host);
            assert_eq!(reject.status, 400);
        }
    }

    #[test]
    fn encoded_bodies_and_oversized_ones_are_refused() {
        let request = Request::builder()
            .method("POST")
            .uri("/pscheduler/tasks")
            .header("Content-Encoding", "gzip")
            .body(Bytes::new())
            .expect("request");
        assert_eq!(
            decode(&request, &Limits::default()).map_err(|r| r.status),
            Err(415)
        );
        let limits = Limits {
            body_bytes_max: 4,
            ..Limits::default()
        };
        let request = Request::builder()
            .method("POST")
            .uri("/pscheduler/tasks")
            .body(Bytes::from_static(b"{    }"))
            .expect("request");
        assert_eq!(decode(&request, &limits).map_err(|r| r.status), Err(413));
    }

    #[test]
    fn comments_are_dropped_from_what_comes_in() {
        let ask = ask(
            "POST",
            "/tasks",
            r##"{"#": "x", "test": {"#y": 1, "type": "idle"}}"##,
        );
        let What::PostTask { document, .. } = ask.expect("ask").what else {
            panic!("a task")
        };
        assert_eq!(document, serde_json::json!({"test": {"type": "idle"}}));
    }

    #[test]
    fn answers_have_the_types_of_the_original() {
        let cases = [
            (
                Answer::Json(serde_json::json!({"_k": 1})),
                "application/json",
                "{\"_k\":null}\n",
            ),
            (
                Answer::JsonWithSecrets(serde_json::json!({"_k": 1})),
                "application/json",
                "{\"_k\":1}\n",
            ),
            (
                Answer::Bare("OK".to_owned()),
                "text/html; charset=utf-8",
                "OK\n",
            ),
            (
                Answer::Formatted {
                    format: ResultFormat::Plain,
                    text: "x \n\n".to_owned(),
                },
                "text/plain; charset=utf-8",
                "x\n",
            ),
        ];
        for (answer, mime, body) in cases {
            let response = encode(answer, false);
            assert_eq!(response.headers().get("content-type").expect("type"), mime);
            assert_eq!(response.body(), body);
        }
        let response = encode(
            Answer::See("https://h/pscheduler/tasks/1?detail".to_owned()),
            false,
        );
        assert_eq!(response.status(), 303);
        assert_eq!(
            response.headers().get("location").expect("location"),
            "https://h/pscheduler/tasks/1?detail"
        );
    }
}
