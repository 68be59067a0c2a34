//! Runs, and what they brought.

use std::collections::BTreeSet;
use std::net::IpAddr;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use muster_core::host::{Host, HostFacts};
use muster_core::run::RunState;
use muster_proto::pscheduler::text::{self, Form, Medium};
use muster_store::runs::Filter;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

use super::Admin;
use super::page::{self, Page, Query};
use super::problem::{Problem, Refusal};
use super::views::{self, AgentRef, HostRef, RunView};
use crate::control;
use crate::kinds;

/// Devices of a result whose hosts are looked up; a run with more shows those of the first.
const DEVICES_MAX: usize = 1000;

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

/// Lists runs in the order they were planned.
#[utoipa::path(get, path = "/runs", tag = "work", params(RunQuery),
    responses((status = 200, description = "What was asked for", body = Page<RunView>), Refusal))]
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
    responses((status = 200, description = "What was asked for", content(
        (Value = "application/json"), (String = "text/plain"), (String = "text/html"))),
        Refusal))]
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

/// A result in words, as the test of its kind has them.
fn words(kind: &str, medium: Medium, mut result: Value) -> String {
    if let Value::Object(members) = &mut result {
        members.entry("succeeded").or_insert(Value::Bool(true));
    }
    match kinds::catalogue().test(kind) {
        Ok(test) => test.render(medium, &result),
        Err(_) => text::render(Form::Json, medium, &result),
    }
}
