//! Which matter a path and a method name, and what each takes from query and body (contract,
//! sections 2 and 3).

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, Request};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use uuid::Uuid;

use super::query::{Query, read_json};
use super::{ResultFormat, RunRef, Stat, WaitFor, What};
use crate::pscheduler::plugins::shown;
use crate::pscheduler::time::Stamp;
use crate::pscheduler::wire::{Class, Limits, Reject, RunState};

/// Names in the longest path: `tasks/ID/runs/RID/result`.
const NAMES_MAX: usize = 5;

/// Splits a path into names, each decoded once. What no name may hold finds nothing.
fn segments(path: &str) -> Option<Vec<Cow<'_, str>>> {
    let path = path.strip_prefix("/pscheduler").unwrap_or(path);
    let path = path.strip_prefix('/').unwrap_or(path);
    if path.is_empty() {
        return Some(Vec::new());
    }
    let mut names = Vec::new();
    for part in path.split('/') {
        if names.len() >= NAMES_MAX {
            return None;
        }
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

/// What a request asks by its path, method, query and body.
pub(super) fn route(
    request: &Request<Bytes>,
    query: &Query,
    limits: &Limits,
) -> Result<What, Reject> {
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

/// Arguments of the longest command line that is converted.
const ARGS_MAX: usize = 1000;

/// The arguments of a command line: the original takes numbers beside texts.
fn args(text: &str, limits: &Limits) -> Result<Vec<String>, Reject> {
    let wrong = || Reject::new(400, "Invalid JSON for this operation\n");
    // The blank before the newline is the original's.
    let list = read_json(text, limits)
        .map_err(|error| Reject::new(400, format!("JSON passed to 'args': {error} ")))?;
    let Value::Array(list) = list else {
        return Err(wrong());
    };
    if list.len() > ARGS_MAX {
        return Err(Reject::new(400, "Too many arguments."));
    }
    let one = |arg: Value| match arg {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(wrong()),
    };
    list.into_iter().map(one).collect()
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
            let shown = shown(other);
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

/// The body, whatever its type says (contract, section 1).
fn body_json(request: &Request<Bytes>, limits: &Limits) -> Result<Value, String> {
    let text = std::str::from_utf8(request.body())
        .map_err(|_| "Invalid JSON: The text is not UTF-8.".to_owned())?;
    read_json(text, limits)
}
