//! The end that asks: calls of a client to a server, and what it makes of the answers.
//!
//! Used where we are a participant's peer, where the `clock` test asks other nodes, and by load
//! generators. Answers are read within [`Limits`]; a peer's text is kept short and without controls.
//! Whom to call, and whether it may be called, is decided elsewhere.

use bytes::Bytes;
use http::{Method, Request, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::json::compact;
use super::time::Stamp;
use super::wire::{Limits, RunState};
use crate::json::parse;

/// Everything but what RFC 3986 calls unreserved.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// One call of a client.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// The highest API level.
    Api,
    /// The time there.
    Clock,
    /// Calls a task off.
    DeleteTask {
        /// The task.
        id: Uuid,
        /// The key it was posted with.
        key: Option<String>,
    },
    /// Whether it is a pScheduler at all.
    Ping,
    /// Posts a task.
    PostTask {
        /// The task object.
        task: Value,
    },
    /// The result of a run.
    Result {
        /// The task.
        task: Uuid,
        /// The run.
        run: Uuid,
        /// The form, a media type.
        format: &'static str,
    },
    /// The first run of a task, as soon as there is one.
    RunFirst {
        /// The task.
        task: Uuid,
    },
    /// A run, with its merged result if that comes in time.
    RunMerged {
        /// The task.
        task: Uuid,
        /// The run.
        run: Uuid,
        /// Seconds to wait.
        wait_secs: u64,
    },
    /// A task with its detail.
    Task {
        /// The task.
        id: Uuid,
    },
    /// The tools there that can run a test.
    Tools {
        /// The test.
        test: String,
        /// Its specification.
        spec: Value,
        /// The level that the peer's `/api` answered.
        api: u32,
    },
}

impl Call {
    /// The request, with a path and no host: the connection knows where it goes.
    #[must_use]
    pub fn request(&self, authority: &str) -> Request<Bytes> {
        let key = |key: &Option<String>| {
            key.as_ref()
                .map_or_else(String::new, |key| format!("?key={}", quoted(key)))
        };
        let (method, target, body) = match self {
            Self::Api => (Method::GET, "/api".to_owned(), None),
            Self::Clock => (Method::GET, "/clock".to_owned(), None),
            Self::DeleteTask { id, key: own } => {
                (Method::DELETE, format!("/tasks/{id}{}", key(own)), None)
            }
            Self::Ping => (Method::GET, "/".to_owned(), None),
            Self::PostTask { task } => (Method::POST, "/tasks".to_owned(), Some(compact(task))),
            Self::Result { task, run, format } => (
                Method::GET,
                format!("/tasks/{task}/runs/{run}/result?format={}", quoted(format)),
                None,
            ),
            Self::RunFirst { task } => (Method::GET, format!("/tasks/{task}/runs/first"), None),
            Self::RunMerged {
                task,
                run,
                wait_secs,
            } => (
                Method::GET,
                format!("/tasks/{task}/runs/{run}?wait-merged=True&wait={wait_secs}"),
                None,
            ),
            Self::Task { id } => (Method::GET, format!("/tasks/{id}?detail=True"), None),
            Self::Tools { test, spec, api } => {
                let test = compact(&json!({ "type": test, "spec": spec }));
                (
                    Method::GET,
                    format!("/tools?test={}&api={api}", quoted(&test)),
                    None,
                )
            }
        };
        let has_body = body.is_some();
        let mut request = Request::new(Bytes::from(body.unwrap_or_default()));
        *request.method_mut() = method;
        if let Ok(uri) = format!("/pscheduler{target}").parse() {
            *request.uri_mut() = uri;
        }
        let headers = request.headers_mut();
        if let Ok(host) = authority.parse() {
            headers.insert(http::header::HOST, host);
        }
        headers.insert(http::header::ACCEPT, http::HeaderValue::from_static("*/*"));
        if has_body {
            let mime = http::HeaderValue::from_static("application/json");
            headers.insert(http::header::CONTENT_TYPE, mime);
        }
        request
    }
}

fn quoted(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string()
}

/// What a peer answered that is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It refused, in these words.
    #[error("{status}: {text}")]
    Refused {
        /// The status.
        status: u16,
        /// Its text, shortened.
        text: String,
    },
    /// It answered something of another shape.
    #[error("answer is not {wanted}")]
    Misshapen {
        /// What would have been right.
        wanted: &'static str,
    },
    /// It answered more than is taken.
    #[error("answer has {bytes} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// The JSON of an answer.
///
/// # Errors
/// [`PeerError`] for another status than 200, another shape or size.
pub fn answer_json(response: &Response<Bytes>, limits: &Limits) -> Result<Value, PeerError> {
    let bytes = response.body().len();
    if bytes > limits.answer_bytes_max {
        return Err(PeerError::TooLarge { bytes });
    }
    let text = String::from_utf8_lossy(response.body());
    if response.status() != http::StatusCode::OK {
        let text = text
            .trim()
            .chars()
            .filter(|c| !c.is_control() || *c == '\n')
            .take(512)
            .collect();
        return Err(PeerError::Refused {
            status: response.status().as_u16(),
            text,
        });
    }
    parse(&text, &limits.json).map_err(|_| PeerError::Misshapen { wanted: "JSON" })
}

/// The clock of a node, checked: a time, whether it is synchronised, and what else it told.
///
/// # Errors
/// [`PeerError`].
pub fn answer_clock(
    response: &Response<Bytes>,
    limits: &Limits,
) -> Result<(Stamp, Value), PeerError> {
    let clock = answer_json(response, limits)?;
    let time = clock
        .get("time")
        .and_then(Value::as_str)
        .and_then(|text| Stamp::parse(text).ok());
    match (time, clock.get("synchronized").and_then(Value::as_bool)) {
        (Some(time), Some(_)) => Ok((time, clock)),
        _ => Err(PeerError::Misshapen { wanted: "a clock" }),
    }
}

/// The id at the end of a task's address, as POST answers it.
///
/// # Errors
/// [`PeerError`].
pub fn answer_task_id(response: &Response<Bytes>, limits: &Limits) -> Result<Uuid, PeerError> {
    let answer = answer_json(response, limits)?;
    let id = answer
        .as_str()
        .and_then(|url| url.rsplit_once("/pscheduler/tasks/"));
    id.and_then(|(_, id)| Uuid::try_parse(id).ok())
        .ok_or(PeerError::Misshapen {
            wanted: "a task's address",
        })
}

/// What a client reads from a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunNews {
    /// Its id, from its address.
    pub id: Uuid,
    /// When it starts.
    pub start: Stamp,
    /// When it ends.
    pub end: Stamp,
    /// How it stands.
    pub state: RunState,
    /// The merged result, once there is one.
    pub merged: Option<Value>,
    /// What went wrong.
    pub errors: Option<String>,
}

/// A run.
///
/// # Errors
/// [`PeerError`].
pub fn answer_run(response: &Response<Bytes>, limits: &Limits) -> Result<RunNews, PeerError> {
    let run = answer_json(response, limits)?;
    let text = |member: &str| run.get(member).and_then(Value::as_str);
    let moment = |member: &str| text(member).and_then(|text| Stamp::parse(text).ok());
    let id = text("href").and_then(|href| href.rsplit_once('/'));
    let id = id.and_then(|(_, id)| Uuid::try_parse(id).ok());
    let state = text("state").and_then(RunState::of_str);
    match (id, moment("start-time"), moment("end-time"), state) {
        (Some(id), Some(start), Some(end), Some(state)) => Ok(RunNews {
            id,
            start,
            end,
            state,
            merged: run
                .get("result-merged")
                .filter(|merged| !merged.is_null())
                .cloned(),
            errors: text("errors").map(str::to_owned),
        }),
        _ => Err(PeerError::Misshapen { wanted: "a run" }),
    }
}

/// The names of the tools that said yes, in the peer's order, from either form of the answer
/// (contract, section 3).
///
/// # Errors
/// [`PeerError`].
pub fn answer_tools(response: &Response<Bytes>, limits: &Limits) -> Result<Vec<String>, PeerError> {
    let answer = answer_json(response, limits)?;
    let wanted = || PeerError::Misshapen {
        wanted: "a list of tools",
    };
    let mut names = Vec::new();
    for entry in answer.as_array().ok_or_else(wanted)? {
        let (tool, can_run) = match entry.get("tool") {
            Some(tool) => {
                let can_run = entry.pointer("/can-run/can-run").and_then(Value::as_bool);
                (tool, can_run.ok_or_else(wanted)?)
            }
            None => (entry, true),
        };
        let name = tool
            .get("name")
            .and_then(Value::as_str)
            .ok_or_else(wanted)?;
        if can_run {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pscheduler::controller::{What, decode};

    fn answer(status: u16, body: &str) -> Response<Bytes> {
        Response::builder()
            .status(status)
            .body(Bytes::copy_from_slice(body.as_bytes()))
            .expect("response")
    }

    #[test]
    fn what_one_end_asks_the_other_reads() {
        let id = Uuid::from_u128(7);
        let limits = Limits::default();
        let spec = json!({"dest": "a&b=c d", "x": "\u{e9}?#"});
        let read = |call: &Call| {
            let ask = decode(&call.request("ps1:8443"), &limits).expect("ask");
            assert_eq!(ask.authority.as_deref(), Some("ps1:8443"));
            (ask.what, ask.api)
        };
        let call = Call::Tools {
            test: "rtt".to_owned(),
            spec: spec.clone(),
            api: 6,
        };
        assert_eq!(
            read(&call),
            (
                What::ToolsFor {
                    test: "rtt".to_owned(),
                    spec
                },
                6
            )
        );
        let call = Call::DeleteTask {
            id,
            key: Some("k&y".to_owned()),
        };
        assert_eq!(
            read(&call).0,
            What::DeleteTask {
                id,
                key: Some("k&y".to_owned())
            }
        );
        let task = json!({"test": {"type": "idle"}});
        let call = Call::PostTask { task: task.clone() };
        assert_eq!(
            read(&call).0,
            What::PostTask {
                document: task,
                expanded: false,
                detail: false
            }
        );
        for call in [
            Call::Api,
            Call::Clock,
            Call::Ping,
            Call::Task { id },
            Call::RunFirst { task: id },
            Call::RunMerged {
                task: id,
                run: id,
                wait_secs: 3,
            },
            Call::Result {
                task: id,
                run: id,
                format: "text/plain",
            },
        ] {
            read(&call);
        }
    }

    #[test]
    fn answers_of_real_servers_are_read() {
        let limits = Limits::default();
        let clock = r#"{"time":"2026-11-21T19:27:22.879020+00:00","synchronized":false,"source":"unknown"}"#;
        let (time, _) = answer_clock(&answer(200, clock), &limits).expect("clock");
        assert_eq!(time.with_micros(), "2026-11-21T19:27:22.879020+00:00");
        let url =
            "\"https://ps1.example.net/pscheduler/tasks/a696ca36-aa06-4586-a60a-f4a4a5198638\"\n";
        let id = answer_task_id(&answer(200, url), &limits).expect("id");
        assert_eq!(id.to_string(), "a696ca36-aa06-4586-a60a-f4a4a5198638");
        let new = r#"[{"can-run":{"can-run":true},"tool":{"name":"ping"}},{"can-run":{"can-run":false,"reasons":["x"]},"tool":{"name":"tcpping"}}]"#;
        assert_eq!(
            answer_tools(&answer(200, new), &limits),
            Ok(vec!["ping".to_owned()])
        );
        let old = r#"[{"name":"ping"},{"name":"twping"}]"#;
        assert_eq!(
            answer_tools(&answer(200, old), &limits).map(|tools| tools.len()),
            Ok(2)
        );
    }

    #[test]
    fn answers_of_another_shape_are_told_apart() {
        let limits = Limits {
            answer_bytes_max: 64,
            ..Limits::default()
        };
        assert_eq!(
            answer_clock(&answer(403, "Forbidden\n"), &limits),
            Err(PeerError::Refused {
                status: 403,
                text: "Forbidden".to_owned()
            })
        );
        assert_eq!(
            answer_clock(&answer(200, "{}"), &limits),
            Err(PeerError::Misshapen { wanted: "a clock" })
        );
        assert_eq!(
            answer_run(&answer(200, "<html>"), &limits),
            Err(PeerError::Misshapen { wanted: "JSON" })
        );
        assert_eq!(
            answer_json(&answer(200, &"1".repeat(65)), &limits),
            Err(PeerError::TooLarge { bytes: 65 })
        );
        assert!(answer_task_id(&answer(200, "\"https://x/tasks/1\""), &limits).is_err());
        assert!(answer_tools(&answer(200, "[{}]"), &limits).is_err());
    }
}
