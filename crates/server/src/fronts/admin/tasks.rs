//! Tasks: what is asked for, checked before anything is stored.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode, header};
use muster_core::credential::Snmp;
use muster_core::kind::Kind;
use muster_core::range::AddressRange;
use muster_core::schedule::{Schedule, Start};
use muster_core::task::{Assignee, Origin};
use muster_core::time::{parse_duration, parse_duration_or_zero, parse_time};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use super::auth::Caller;
use super::json::Strict;
use super::page::{self, Page, Query};
use super::problem::{Problem, Refusal};
use super::views::{self, TaskView};
use crate::control::{self, ControlError, NewTask};
use crate::kinds;

/// Most targets of one task.
const TARGETS_MAX: usize = 10_000;

/// Most credentials of one task.
const CREDENTIALS_MAX: usize = 32;

/// Longest target in bytes.
const TARGET_BYTES_MAX: usize = 1024;

/// A task to create; members are named as the options of `muster task create`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTaskBody {
    /// Kind of work.
    pub kind: String,
    /// The agent that does it, by name or id.
    pub agent: Option<String>,
    /// Several agents; each gets its own run.
    #[serde(default)]
    pub agents: Vec<String>,
    /// Any agent that can; so it is too when no agent is named.
    #[serde(default)]
    pub any: bool,
    /// What to do it to.
    #[serde(default, alias = "target")]
    pub targets: Vec<String>,
    /// What to present to devices, as texts (`v2c:COMMUNITY`) or objects; never shown again.
    #[serde(default, alias = "credential")]
    #[schema(value_type = Vec<Value>)]
    pub credentials: Vec<Value>,
    /// Targets at once.
    #[schema(value_type = Option<u32>, minimum = 1)]
    pub workers: Option<NonZeroU32>,
    /// When.
    #[serde(default)]
    pub schedule: ScheduleBody,
    /// What the kind wants to know; members that begin with `_` are secret and never shown again.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub spec: Map<String, Value>,
}

/// When a task wants its runs.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ScheduleBody {
    /// First start: RFC 3339, or + and a duration.
    pub start: Option<String>,
    /// How late a run may start.
    pub slip: Option<String>,
    /// Again after this long.
    pub repeat: Option<String>,
    /// Again at each match.
    pub repeat_cron: Option<String>,
    /// No run from here on: RFC 3339, or + and a duration.
    pub until: Option<String>,
    /// No more runs than this.
    pub max_runs: Option<u32>,
}

/// Which tasks.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TaskQuery {
    /// Only tasks of this kind.
    pub kind: Option<String>,
    /// 1 to 1000; 100 if not given.
    pub limit: Option<u32>,
    /// The `next` of the page before.
    pub cursor: Option<String>,
}

/// Creates a task.
#[utoipa::path(post, path = "/tasks", tag = "work", request_body = NewTaskBody,
    responses((status = 201, description = "What was made", body = TaskView), Refusal))]
pub(super) async fn create_task(
    State(admin): State<Admin>,
    headers: HeaderMap,
    Strict(body): Strict<NewTaskBody>,
) -> Result<Response, Problem> {
    let new = new_task(&admin, &headers, body).await?;
    let task = admin.control.submit(new).await?;
    Ok((StatusCode::CREATED, Json(views::task(&task, 0))).into_response())
}

async fn new_task(
    admin: &Admin,
    headers: &HeaderMap,
    body: NewTaskBody,
) -> Result<NewTask, Problem> {
    let kind: Kind = body.kind.parse().map_err(|_| unknown_kind(&body.kind))?;
    if kind.known().is_none() && !is_offered(admin, &kind).await? {
        return Err(unknown_kind(&body.kind));
    }
    let mut assignee = BTreeSet::new();
    for name in body.agent.iter().chain(&body.agents) {
        assignee.insert(admin.control.find_agent(name).await?.agent.id);
    }
    if body.any && !assignee.is_empty() {
        return Err(Problem::invalid("any", "an agent is named too"));
    }
    check_targets(&kind, &body.targets)?;
    let mut spec = body.spec;
    if !body.credentials.is_empty() {
        if spec.contains_key("_credentials") {
            return Err(Problem::invalid(
                "credentials",
                "the spec has _credentials too",
            ));
        }
        spec.insert("_credentials".to_owned(), credentials(&body.credentials)?);
    }
    kinds::complete(&kind, &mut spec);
    // A secret member that no schema names is between the task and whoever does it.
    let credentials = kind.known().and_then(|known| known.credentials);
    let mut checked = spec.clone();
    checked.retain(|name, _| !name.starts_with('_') || Some(name.as_str()) == credentials);
    kinds::check_spec(&kind, &Value::Object(checked), &body.targets).map_err(|misfit| {
        Problem::invalid(&dotted(&misfit.path), misfit.text)
            .next("docs/run-a-task.md lists what each kind wants to know")
    })?;
    let now = admin.control.clock().now();
    let mut new = NewTask::new(kind, origin(headers), Value::Object(spec));
    new.targets = body.targets;
    new.workers = body.workers;
    new.schedule = schedule(&body.schedule, now)?;
    if !assignee.is_empty() {
        new.assignee = Assignee::Named(assignee.into_iter().collect());
    }
    Ok(new)
}

/// A path within a spec as it is written everywhere else here: `spec._credentials[0].version`.
fn dotted(pointer: &str) -> String {
    let mut path = "spec".to_owned();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part.bytes().all(|b| b.is_ascii_digit()) {
            path += &format!("[{part}]");
        } else {
            path.push('.');
            path.extend(part.chars().take(64));
        }
    }
    path
}

fn unknown_kind(kind: &str) -> Problem {
    let shown: String = kind.chars().take(64).collect();
    Problem::new(
        StatusCode::NOT_FOUND,
        "KIND_NOT_FOUND",
        format!("there is no kind of work {shown:?}"),
    )
    .next("`muster kind list` shows those there are")
}

/// Whether any agent says it can do a kind this build does not know.
async fn is_offered(admin: &Admin, kind: &Kind) -> Result<bool, Problem> {
    let kind = kind.clone();
    let able = admin
        .control
        .store()
        .read(move |tx| muster_store::agents::able(tx, &kind))
        .await
        .map_err(ControlError::from)?;
    Ok(!able.is_empty())
}

fn check_targets(kind: &Kind, targets: &[String]) -> Result<(), Problem> {
    if targets.len() > TARGETS_MAX {
        return Err(Problem::invalid(
            "targets",
            format!("more than {TARGETS_MAX}"),
        ));
    }
    for (n, target) in targets.iter().enumerate() {
        let at = format!("targets[{n}]");
        if target.is_empty()
            || target.len() > TARGET_BYTES_MAX
            || target.chars().any(char::is_control)
        {
            return Err(Problem::invalid(
                &at,
                "a target is 1 to 1024 bytes without controls",
            ));
        }
        if kind.as_str() == "netdiscovery" {
            AddressRange::parse_list(target).map_err(|e| Problem::invalid(&at, e.to_string()))?;
        }
    }
    Ok(())
}

/// Credentials in the form of the surface page, section 6. No message repeats any of it.
fn credentials(given: &[Value]) -> Result<Value, Problem> {
    if given.len() > CREDENTIALS_MAX {
        return Err(Problem::invalid(
            "credentials",
            format!("more than {CREDENTIALS_MAX}"),
        ));
    }
    let mut list = Vec::with_capacity(given.len());
    for (n, credential) in given.iter().enumerate() {
        let at = format!("credentials[{n}]");
        list.push(match credential {
            Value::String(text) => {
                let snmp: Snmp =
                    text.parse()
                        .map_err(|e: muster_core::credential::BadCredential| {
                            Problem::invalid(&at, e.to_string())
                        })?;
                kinds::credential_json(&snmp)
            }
            Value::Object(members) if members.contains_key("version") => credential.clone(),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => {
                return Err(Problem::invalid(
                    &at,
                    "neither a text nor an object with a version",
                ));
            }
        });
    }
    Ok(Value::Array(list))
}

/// Our own command line says so in its User-Agent; everything else is a program.
fn origin(headers: &HeaderMap) -> Origin {
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok());
    if agent.is_some_and(|agent| agent.starts_with("muster/")) {
        Origin::Cli
    } else {
        Origin::Api
    }
}

fn schedule(body: &ScheduleBody, now: jiff::Timestamp) -> Result<Schedule, Problem> {
    let wrong = |member: &str| {
        let at = format!("schedule.{member}");
        move |why: String| Problem::invalid(&at, why)
    };
    let time = |member: &str, text: &Option<String>| {
        text.as_deref()
            .map(|text| parse_time(text, now).map_err(|e| wrong(member)(e.to_string())))
            .transpose()
    };
    let slip = body
        .slip
        .as_deref()
        .map(|text| parse_duration_or_zero(text).map_err(|e| wrong("slip")(e.to_string())))
        .transpose()?;
    let repeat = body
        .repeat
        .as_deref()
        .map(|text| parse_duration(text).map_err(|e| wrong("repeat")(e.to_string())))
        .transpose()?;
    let cron = body
        .repeat_cron
        .as_deref()
        .map(|text| {
            text.parse()
                .map_err(|e: muster_core::schedule::BadSchedule| {
                    wrong("repeat_cron")(e.to_string())
                })
        })
        .transpose()?;
    Ok(Schedule {
        start: time("start", &body.start)?.map_or(Start::Soonest, Start::At),
        slip,
        random_slip: false,
        repeat,
        cron,
        until: time("until", &body.until)?,
        max_runs: body.max_runs,
    })
}

/// Lists tasks in the order they were submitted.
#[utoipa::path(get, path = "/tasks", tag = "work", params(TaskQuery),
    responses((status = 200, description = "What was asked for", body = Page<TaskView>), Refusal))]
pub(super) async fn list_tasks(
    State(admin): State<Admin>,
    Query(query): Query<TaskQuery>,
) -> Result<Json<Page<TaskView>>, Problem> {
    let limit = page::limit(query.limit)?;
    let mut cursor = page::key(query.cursor.as_deref())?;
    let Some(kind) = query.kind else {
        let tasks = admin.control.tasks(cursor, limit).await?;
        return Ok(Json(Page::of(tasks, task_view)));
    };
    // Tasks are few; those of other kinds are passed over.
    loop {
        let mut tasks = admin.control.tasks(cursor, limit).await?;
        tasks.rows.retain(|view| view.task.kind.as_str() == kind);
        if !tasks.rows.is_empty() || tasks.next.is_none() {
            return Ok(Json(Page::of(tasks, task_view)));
        }
        cursor = tasks.next;
    }
}

fn task_view(view: control::TaskView) -> TaskView {
    views::task(&view.task, u64::try_from(view.runs).unwrap_or(0))
}

/// Shows a task.
#[utoipa::path(get, path = "/tasks/{task}", tag = "work",
    params(("task" = String, Path, description = "Id or a unique beginning of it")),
    responses((status = 200, description = "What was asked for", body = TaskView), Refusal))]
pub(super) async fn show_task(
    State(admin): State<Admin>,
    Path(task): Path<String>,
) -> Result<Json<TaskView>, Problem> {
    Ok(Json(task_view(admin.control.find_task(&task).await?)))
}

/// Cancels a task and the runs of it that have not ended.
#[utoipa::path(post, path = "/tasks/{task}/cancel", tag = "work",
    params(("task" = String, Path, description = "Id or a unique beginning of it")),
    responses((status = 200, description = "What was asked for", body = TaskView), Refusal))]
pub(super) async fn cancel_task(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(task): Path<String>,
) -> Result<Json<TaskView>, Problem> {
    let found = admin.control.find_task(&task).await?;
    let task = admin.control.cancel(found.task.id, &caller.label).await?;
    Ok(Json(views::task(
        &task,
        u64::try_from(found.runs).unwrap_or(0),
    )))
}
