//! The server itself: kinds of work, limits, status, and why something did not happen.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use muster_core::kind::{KNOWN, Kind};

use super::page::{self, Page, PageQuery, Query};
use super::problem::{Problem, Refusal};
use super::views::{
    self, AgentRef, ExplanationView, KindView, ReconcilerView, RefusalView, StatusView, StepView,
    SubjectView,
};
use super::{Admin, LimitView};
use crate::control::{self, Subject};

/// Lists all kinds of work, and which agents can do each.
#[utoipa::path(get, path = "/kinds", tag = "work", params(PageQuery),
    responses((status = 200, description = "What was asked for", body = Page<KindView>), Refusal))]
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
    responses((status = 200, description = "What was asked for", body = Page<LimitView>), Refusal))]
pub(super) async fn limits(State(admin): State<Admin>) -> Json<Page<LimitView>> {
    Json(Page::whole(admin.limits.as_ref().clone()))
}

/// What the server is doing.
#[utoipa::path(get, path = "/status", tag = "server",
    responses((status = 200, description = "What was asked for", body = StatusView), Refusal))]
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
    responses((status = 200, description = "What was asked for", body = ExplanationView), Refusal))]
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
