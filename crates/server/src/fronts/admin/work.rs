//! Tasks, runs, kinds, explanations, limits and status.

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use muster_core::credential::{Snmp, SnmpAuth};
use muster_core::host::{Host, HostFacts};
use muster_core::kind::{KNOWN, Kind};
use muster_core::range::AddressRange;
use muster_core::run::RunState;
use muster_core::schedule::{Schedule, Start};
use muster_core::task::{Assignee, Origin};
use muster_core::time::{parse_duration, parse_duration_or_zero, parse_time};
use muster_store::runs::Filter;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::json::Strict;
use super::page::{self, Page, Query};
use super::problem::Problem;
use super::views::{
    self, AgentRef, ExplanationView, HostRef, KindView, ReconcilerView, RefusalView, RunView,
    StatusView, StepView, SubjectView, TaskView,
};
use super::{Admin, LimitView};
use crate::control::{self, NewTask, Subject};
use muster_proto::pscheduler::text::{self, Form, Medium};

/// Most targets of one task.
const TARGETS_MAX: usize = 10_000;

/// Most credentials of one task.
const CREDENTIALS_MAX: usize = 32;

/// Devices of a result whose hosts are looked up; a run with more shows those of the first.
const DEVICES_MAX: usize = 1000;

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

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// 1 to 1000; 100 if not given.
    pub limit: Option<u32>,
    /// The `next` of the page before.
    pub cursor: Option<String>,
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

/// Which runs.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RunQuery {
    /// Only runs of this task.
    pub task: Option<String>,
    /// Only runs in this state.
    pub state: Option<String>,
    /// Only runs of this agent.
    pub agent: Option<String>,
    /// 1 to 1000; 100 if not given.
    pub limit: Option<u32>,
    /// The `next` of the page before.
    pub cursor: Option<String>,
}

/// In which form a result is wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ResultQuery {
    /// json, text or html.
    pub format: Option<String>,
}

/// Creates a task.
#[utoipa::path(post, path = "/tasks", tag = "work", request_body = NewTaskBody,
    responses((status = 201, description = "What was made", body = TaskView), (status = "default", description = "A refusal",
            content_type = "application/problem+json", body = super::ProblemBody)))]
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
    Ok(able(admin, kind).await?.into_iter().next().is_some())
}

async fn able(admin: &Admin, kind: &Kind) -> Result<Vec<AgentRef>, Problem> {
    let kind = kind.clone();
    let agents = admin
        .control
        .store()
        .read(move |tx| muster_store::agents::able(tx, &kind))
        .await
        .map_err(control::ControlError::from)?;
    Ok(agents
        .into_iter()
        .map(|enrolled| AgentRef {
            id: enrolled.agent.id.to_string(),
            name: enrolled.agent.name,
        })
        .collect())
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
                credential_json(&snmp)
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

fn credential_json(snmp: &Snmp) -> Value {
    let mut object = match &snmp.auth {
        SnmpAuth::V1(community) => json!({"version": "1", "community": community.expose()}),
        SnmpAuth::V2c(community) => json!({"version": "2c", "community": community.expose()}),
        SnmpAuth::V3(usm) => {
            let mut object = json!({"version": "3", "username": usm.user});
            if let Some((protocol, secret)) = &usm.auth {
                object["authprotocol"] = json!(protocol.word());
                object["authpassword"] = json!(secret.expose());
            }
            if let Some((protocol, secret)) = &usm.privacy {
                object["privprotocol"] = json!(protocol.word());
                object["privpassword"] = json!(secret.expose());
            }
            object
        }
    };
    if let Some(port) = snmp.port {
        object["port"] = json!(port);
    }
    object
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
    responses((status = 200, description = "What was asked for", body = Page<TaskView>), (status = "default", description = "A refusal",
            content_type = "application/problem+json", body = super::ProblemBody)))]
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
    responses((status = 200, description = "What was asked for", body = TaskView), (status = "default", description = "A refusal",
            content_type = "application/problem+json", body = super::ProblemBody)))]
pub(super) async fn show_task(
    State(admin): State<Admin>,
    Path(task): Path<String>,
) -> Result<Json<TaskView>, Problem> {
    Ok(Json(task_view(admin.control.find_task(&task).await?)))
}

/// Cancels a task and the runs of it that have not ended.
#[utoipa::path(post, path = "/tasks/{task}/cancel", tag = "work",
    params(("task" = String, Path, description = "Id or a unique beginning of it")),
    responses((status = 200, description = "What was asked for", body = TaskView), (status = "default", description = "A refusal",
            content_type = "application/problem+json", body = super::ProblemBody)))]
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

/// Lists runs in the order they were planned.
#[utoipa::path(get, path = "/runs", tag = "work", params(RunQuery),
    responses((status = 200, description = "What was asked for", body = Page<RunView>), (status = "default", description = "A refusal",
            content_type = "application/problem+json", body = super::ProblemBody)))]
pub(super) async fn list_runs(
    State(admin): State<Admin>,
    Query(query): Query<RunQuery>,
) -> Result<Json<Page<RunView>>, Problem> {
    let limit = page::limit(query.limit)?;
    let cursor = page::key(query.cursor.as_deref())?;
    let mut filter = Filter::default();
    if let Some(task) = &query.task {
        filter.task = Some(admin.control.find_task(task).await?.task.id);
    }
    if let Some(agent) = &query.agent {
        filter.agent = Some(admin.control.find_agent(agent).await?.agent.id);
    }
    if let Some(state) = query.state {
        if !RUN_STATES.contains(&state.as_str()) {
            return Err(Problem::invalid(
                "state",
                format!("one of {}", RUN_STATES.join(", ")),
            ));
        }
        filter.state = Some(state);
    }
    let runs = admin.control.runs(filter, cursor, limit).await?;
    Ok(Json(Page::of(runs, |view| run_view(&view))))
}

/// States of a run, in order.
const RUN_STATES: [&str; 7] = [
    "proposed",
    "planned",
    "offered",
    "running",
    "collecting",
    "overdue",
    "ended",
];

/// A run as it is shown.
pub(super) fn run_view(view: &control::RunView) -> RunView {
    let agents = view
        .agents
        .iter()
        .map(|(id, name)| AgentRef {
            id: id.to_string(),
            name: name.clone(),
        })
        .collect();
    let stored = &view.run;
    views::run(
        &stored.run,
        stored.kind.as_str(),
        agents,
        stored.result.as_deref(),
    )
}

/// The hosts that a run's result is about: those whose evidence the devices it found share, and for
/// an inventory the one its agent runs on.
pub(super) async fn hosts_of(
    admin: &Admin,
    view: &control::RunView,
) -> Result<Vec<HostRef>, Problem> {
    let result: Value = match view.run.result.as_deref().map(serde_json::from_str) {
        Some(Ok(result)) => result,
        Some(Err(_)) | None => return Ok(Vec::new()),
    };
    let devices = result.get("devices").and_then(Value::as_array);
    let devices = devices.into_iter().flatten().take(DEVICES_MAX);
    let told: Vec<HostFacts> = devices.map(device_facts).collect();
    // What is seen on loopback is the machine that saw it.
    let saw_itself = |facts: &HostFacts| facts.addresses.iter().any(IpAddr::is_loopback);
    let own = (view.run.kind.as_str() == "inventory" || told.iter().any(saw_itself))
        .then(|| view.agents.first())
        .flatten();
    let own = own.map(|(agent, _)| *agent);
    let hosts = admin
        .control
        .store()
        .read(move |tx| {
            let mut hosts = BTreeSet::new();
            let mut add = |host: Host| {
                hosts.insert(HostRef {
                    name: host.facts.name.clone().unwrap_or_default(),
                    id: host.id.to_string(),
                })
            };
            for facts in &told {
                for host in muster_store::hosts::candidates(tx, facts)? {
                    if host.facts.same_machine(facts).is_some() {
                        add(host);
                    }
                }
            }
            if let Some(agent) = own
                && let Some(enrolled) = muster_store::agents::by_id(tx, agent)?
                && let Some(id) = enrolled.agent.host
                && let Some(host) = muster_store::hosts::by_id(tx, id)?
            {
                add(host);
            }
            Ok(hosts)
        })
        .await
        .map_err(control::ControlError::from)?;
    Ok(hosts.into_iter().collect())
}

/// What a device of a discovery says of its machine.
fn device_facts(device: &Value) -> HostFacts {
    let text = |members: &[&str]| {
        members
            .iter()
            .find_map(|member| device.get(*member).and_then(Value::as_str))
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    HostFacts {
        name: text(&["snmphostname", "netbiosname", "dnshostname", "name"]),
        serial: text(&["serial"]),
        macs: text(&["mac"]).into_iter().collect(),
        addresses: text(&["ip"])
            .and_then(|ip| ip.parse().ok())
            .into_iter()
            .collect(),
        ..HostFacts::default()
    }
    .normalised()
}

/// What a run brought: as JSON, as text, or as HTML.
#[utoipa::path(get, path = "/runs/{run}/result", tag = "work",
    params(("run" = String, Path, description = "Id or a unique beginning of it"), ResultQuery),
    responses((status = 200, description = "What was asked for", body = Object, content_type = "application/json"),
        (status = "default", description = "A refusal",
            content_type = "application/problem+json", body = super::ProblemBody)))]
pub(super) async fn run_result(
    State(admin): State<Admin>,
    Path(run): Path<String>,
    Query(query): Query<ResultQuery>,
) -> Result<Response, Problem> {
    let form = query.format.unwrap_or_else(|| "json".to_owned());
    let view = admin.control.find_run(&run).await?;
    let stored = &view.run;
    let Some(result) = stored.result.as_deref().filter(|text| !text.is_empty()) else {
        let ended = matches!(stored.run.state, RunState::Ended(_));
        let title = if ended {
            format!("run {} brought no result", stored.run.id)
        } else {
            format!("run {} has no result yet", stored.run.id)
        };
        return Err(
            Problem::new(StatusCode::NOT_FOUND, "RESULT_NOT_FOUND", title)
                .next(format!("`muster explain run {}`", stored.run.id)),
        );
    };
    let value: Value = serde_json::from_str(result).unwrap_or_else(|_| Value::from(result));
    let medium = match form.as_str() {
        "json" => return Ok(Json(value).into_response()),
        "text" => Medium::Plain,
        "html" => Medium::Html,
        _ => return Err(Problem::invalid("format", "one of json, text, html")),
    };
    let body = words(stored.kind.as_str(), medium, value);
    let content_type = match medium {
        Medium::Plain => "text/plain; charset=utf-8",
        Medium::Html => "text/html; charset=utf-8",
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if matches!(medium, Medium::Html) {
        // It is made of peers' words: a browser keeps it, and does not run it here.
        headers.insert(
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment; filename=\"result.html\""),
        );
    }
    Ok(response)
}

/// A result in words: the tests of pScheduler in its own, other kinds as their JSON.
fn words(kind: &str, medium: Medium, mut result: Value) -> String {
    let form = match kind {
        "clock" => Form::Clock,
        "idle" | "idleex" => Form::Idle,
        "noop" => Form::Noop,
        "rtt" => Form::Rtt,
        _ => {
            let pretty = format!("{result:#}");
            return match medium {
                Medium::Plain => pretty,
                Medium::Html => format!("<pre>{}</pre>", text::escape(&pretty)),
            };
        }
    };
    if let Value::Object(members) = &mut result {
        members.entry("succeeded").or_insert(Value::Bool(true));
    }
    text::render(form, medium, &result)
}

/// Lists all kinds of work, and which agents can do each.
#[utoipa::path(get, path = "/kinds", tag = "work", params(PageQuery),
    responses((status = 200, description = "What was asked for", body = Page<KindView>), (status = "default", description = "A refusal",
            content_type = "application/problem+json", body = super::ProblemBody)))]
pub(super) async fn list_kinds(
    State(admin): State<Admin>,
    Query(_): Query<PageQuery>,
) -> Result<Json<Page<KindView>>, Problem> {
    let mut offered: BTreeMap<Kind, Vec<AgentRef>> = BTreeMap::new();
    let mut cursor = None;
    loop {
        let agents = admin
            .control
            .agents(cursor, i64::from(page::PAGE_MAX))
            .await?;
        for view in &agents.rows {
            let approved = view.agent.state == muster_core::AgentState::Approved;
            for capability in view.agent.capabilities.iter().filter(|_| approved) {
                offered
                    .entry(capability.kind.clone())
                    .or_default()
                    .push(AgentRef {
                        id: view.agent.id.to_string(),
                        name: view.agent.name.clone(),
                    });
            }
        }
        cursor = agents.next;
        if cursor.is_none() {
            break;
        }
    }
    for known in KNOWN {
        if let Ok(kind) = known.name.parse() {
            offered.entry(kind).or_default();
        }
    }
    let kinds = offered.into_iter().map(|(kind, agents)| KindView {
        title: kind
            .known()
            .map_or_else(String::new, |known| known.title.to_owned()),
        class: kind.class().map(|class| class.word().to_owned()),
        scheduling: kind.scheduling().word().to_owned(),
        kind: kind.to_string(),
        agents,
    });
    Ok(Json(Page::whole(kinds.collect())))
}

/// Every limit this server keeps.
#[utoipa::path(get, path = "/limits", tag = "server",
    responses((status = 200, description = "What was asked for", body = Page<LimitView>), (status = "default", description = "A refusal",
            content_type = "application/problem+json", body = super::ProblemBody)))]
pub(super) async fn limits(State(admin): State<Admin>) -> Json<Page<LimitView>> {
    Json(Page::whole(admin.limits.as_ref().clone()))
}

/// What the server is doing.
#[utoipa::path(get, path = "/status", tag = "server",
    responses((status = 200, description = "What was asked for", body = StatusView), (status = "default", description = "A refusal",
            content_type = "application/problem+json", body = super::ProblemBody)))]
pub(super) async fn status(State(admin): State<Admin>) -> Result<Json<StatusView>, Problem> {
    let mut by_noun: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for (name, count) in admin.control.counts().await? {
        let (noun, word) = name.split_once('.').unwrap_or((name.as_str(), "known"));
        let count = u64::try_from(count).unwrap_or(0);
        by_noun
            .entry(noun.to_owned())
            .or_default()
            .insert(word.to_owned(), count);
    }
    let mut take = |noun: &str| by_noun.remove(noun).unwrap_or_default();
    let refusals = admin
        .control
        .store()
        .read(|tx| muster_store::journal::refusals(tx, 10))
        .await
        .map_err(control::ControlError::from)?;
    Ok(Json(StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: views::time(admin.control.started()),
        agents: take("agents"),
        tasks: take("tasks"),
        runs: take("runs"),
        hosts: take("hosts"),
        items: take("items"),
        reconcilers: admin
            .reconcilers
            .all()
            .into_iter()
            .map(|status| ReconcilerView {
                name: status.name.to_owned(),
                at: status.at.map(views::time),
                duration_ms: status.took_us as f64 / 1000.0,
                moved: status.moved,
                times: status.times,
                error: status.error,
            })
            .collect(),
        refusals: refusals
            .into_iter()
            .map(|refusal| RefusalView {
                wire: refusal.wire.word().to_owned(),
                address: refusal.address,
                reason: refusal.reason,
                peer: refusal.peer,
                detail: refusal.detail,
                times: u64::try_from(refusal.times).unwrap_or(0),
                last: views::time(refusal.last),
            })
            .collect(),
    }))
}

/// Walks the recorded chain of an agent, task, run, host or item.
#[utoipa::path(get, path = "/explain/{noun}/{name}", tag = "work",
    params(("noun" = String, Path, description = "agent, task, run, host or item"),
        ("name" = String, Path, description = "Id or a unique beginning of it; an agent or host by name too")),
    responses((status = 200, description = "What was asked for", body = ExplanationView), (status = "default", description = "A refusal",
            content_type = "application/problem+json", body = super::ProblemBody)))]
pub(super) async fn explain(
    State(admin): State<Admin>,
    Path((noun, name)): Path<(String, String)>,
) -> Result<Json<ExplanationView>, Problem> {
    let subject: Subject = noun
        .parse()
        .map_err(|_| Problem::invalid("noun", "one of agent, host, item, run, task"))?;
    let story = admin.control.explain(subject, &name).await?;
    Ok(Json(ExplanationView {
        subject: SubjectView {
            kind: story.subject.word().to_owned(),
            id: story.id,
            name: story.name,
        },
        steps: story
            .steps
            .into_iter()
            .map(|step| StepView {
                at: step.at.map(views::time),
                check: step.check,
                ok: step.ok,
                detail: step.detail,
            })
            .collect(),
        verdict: story.verdict,
        next: Some(story.next).filter(|next| !next.is_empty()),
    }))
}
