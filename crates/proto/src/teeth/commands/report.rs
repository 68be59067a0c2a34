//! What an agent tells: lines of its log, and news of its tasks.

use serde_json::{Map, Value};

use super::super::json::Json;
use super::super::wire::Limits;
use super::hello::name;
use super::{BadParams, missing, task_id};

/// A line of an agent's log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// What is logged; not a string in the hands of a careless peer, then its JSON.
    pub message: String,
    /// Unix seconds.
    pub time: f64,
    /// All parameters with whatever else the agent added.
    pub fields: Json,
}

impl LogLine {
    /// A line of our own.
    pub fn new(message: &str, time: f64, mut fields: Map<String, Value>) -> Self {
        fields.insert("message".to_owned(), message.into());
        fields.insert("time".to_owned(), time.into());
        Self {
            message: message.to_owned(),
            time,
            fields: Json::from(Value::Object(fields)),
        }
    }

    pub(super) fn read(params: &Json) -> Result<Self, BadParams> {
        let [message, time] = params.members(["message", "time"]);
        let message = message.ok_or_else(|| missing("message", "log"))?.to_text();
        let time = time
            .ok_or_else(|| missing("time", "log"))?
            .as_number()
            .ok_or(BadParams::Invalid {
                name: "time",
                want: "a number",
            })?;
        Ok(Self {
            message,
            time,
            fields: params.clone(),
        })
    }
}

/// The state of a task on the wire.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskState {
    /// Done. Terminal.
    Complete,
    /// Failed, cancelled or cut short. Terminal.
    Error {
        /// Why, for people.
        msg: String,
    },
    /// Under way.
    Running {
        /// Seconds of work left.
        eta: f64,
        /// Work done, 0 to 100.
        percent: f64,
    },
}

impl TaskState {
    /// Whether nothing comes after it.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Complete | Self::Error { .. } => true,
            Self::Running { .. } => false,
        }
    }
}

/// One `task_status`.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The task, as the server named it.
    pub task_id: String,
    /// Its state.
    pub state: TaskState,
    /// What came out, an object; usually with `complete`.
    pub result: Option<Json>,
    /// What the task is doing.
    pub step: Option<String>,
    /// Counts the reports of a task.
    pub seq: Option<u64>,
}

impl Report {
    pub(super) fn read(params: &Json, limits: &Limits) -> Result<Self, BadParams> {
        const METHOD: &str = "task_status";
        let task_id = task_id(params, METHOD, limits)?;
        let [state, eta, percent, msg, result, step, seq] =
            params.members(["state", "eta", "percent", "msg", "result", "step", "seq"]);
        let state = state.ok_or_else(|| missing("state", METHOD))?;
        let state = match state.as_text().as_deref() {
            Some("complete") => TaskState::Complete,
            Some("error") => {
                let msg = msg.ok_or_else(|| missing("msg", METHOD))?.to_text();
                TaskState::Error { msg }
            }
            Some("running") => {
                let eta = eta.ok_or_else(|| missing("eta", METHOD))?;
                let percent = percent.ok_or_else(|| missing("percent", METHOD))?;
                let eta = eta.as_number().filter(|eta| *eta >= 0.0);
                let percent = percent.as_number().filter(|p| (0.0..=100.0).contains(p));
                TaskState::Running {
                    eta: eta.ok_or(BadParams::Invalid {
                        name: "eta",
                        want: "a number of seconds, not negative",
                    })?,
                    percent: percent.ok_or(BadParams::Invalid {
                        name: "percent",
                        want: "a number from 0 to 100",
                    })?,
                }
            }
            _ => return Err(BadParams::TaskState),
        };
        Ok(Self {
            task_id,
            state,
            result: result.filter(Json::is_object),
            step: step
                .and_then(|step| step.as_text())
                .and_then(|step| name(&step, limits)),
            seq: seq.and_then(|seq| seq.decode().ok()),
        })
    }

    /// Reads what [`Report::to_params`] wrote, for a report that was kept on disk.
    pub fn from_params(params: &Json, limits: &Limits) -> Option<Self> {
        Self::read(params, limits).ok()
    }

    /// The parameters of `task_status`.
    pub fn to_params(&self) -> Json {
        let mut params = Map::new();
        params.insert("task_id".to_owned(), self.task_id.as_str().into());
        let state = match &self.state {
            TaskState::Complete => "complete",
            TaskState::Error { msg } => {
                params.insert("msg".to_owned(), msg.as_str().into());
                "error"
            }
            TaskState::Running { eta, percent } => {
                params.insert("eta".to_owned(), (*eta).into());
                params.insert("percent".to_owned(), (*percent).into());
                "running"
            }
        };
        params.insert("state".to_owned(), state.into());
        if let Some(step) = &self.step {
            params.insert("step".to_owned(), step.as_str().into());
        }
        if let Some(seq) = self.seq {
            params.insert("seq".to_owned(), seq.into());
        }
        if let Some(result) = self
            .result
            .as_ref()
            .and_then(|result| result.to_value().ok())
        {
            params.insert("result".to_owned(), result);
        }
        Json::from(Value::Object(params))
    }
}
