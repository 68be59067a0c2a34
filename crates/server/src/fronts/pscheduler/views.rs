//! How tasks and runs look from outside (pScheduler contract, sections 4 and 5).

use std::collections::BTreeMap;

use jiff::Timestamp;
use muster_core::run::{EndKind, RunState};
use muster_core::task::{Task, TaskState};
use muster_proto::pscheduler::plugins::{SchedulingClass, participant_result};
use muster_proto::pscheduler::time::{IsoDuration, Stamp};
use muster_proto::pscheduler::wire::{self, Base, RunView, TaskDetail, TaskView};
use muster_store::runs::{Latest, StoredRun};
use serde_json::{Map, Value, json};

use super::stamp;
use crate::reconcile::Status;

/// What the limits say when there is no limits file.
pub(super) const NO_LIMITS: &str = "No limits were applied";

/// What was put down when the task was taken, secrets left out.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Meta {
    pub(super) document: Value,
    pub(super) tool: String,
    pub(super) participants: Vec<Option<String>>,
    pub(super) cli: Vec<String>,
    pub(super) start: Option<Stamp>,
    pub(super) requester: Option<String>,
    pub(super) server: Option<String>,
}

impl Meta {
    pub(super) fn of(task: &Task) -> Self {
        let peer = task
            .peer
            .as_ref()
            .and_then(|peer| serde_json::from_str(peer.expose()).ok());
        let peer: Value = peer.unwrap_or_default();
        let text = |member: &str| peer.get(member).and_then(Value::as_str).map(str::to_owned);
        let texts = |member: &str| -> Vec<Option<String>> {
            let list = peer.get(member).and_then(Value::as_array);
            list.into_iter()
                .flatten()
                .map(|entry| entry.as_str().map(str::to_owned))
                .collect()
        };
        Self {
            document: peer.get("document").cloned().unwrap_or_else(|| json!({})),
            tool: text("tool").unwrap_or_default(),
            participants: texts("participants"),
            cli: texts("cli").into_iter().flatten().collect(),
            start: text("start").and_then(|text| Stamp::parse(&text).ok()),
            requester: text("requester"),
            server: text("server"),
        }
    }

    fn hosts(&self, base: &Base) -> Vec<String> {
        let here = || base.host().to_owned();
        self.participants
            .iter()
            .map(|host| host.clone().unwrap_or_else(here))
            .collect()
    }
}

/// A task as it is shown.
pub(super) fn task(
    task: &Task,
    runs: &[StoredRun],
    class: Option<SchedulingClass>,
    base: &Base,
) -> TaskView {
    let meta = Meta::of(task);
    let begun = |run: &&StoredRun| match &run.run.state {
        RunState::Proposed | RunState::Planned | RunState::Offered { .. } => false,
        RunState::Running { .. } | RunState::Collecting { .. } => true,
        RunState::Overdue { since, .. } => since.is_some(),
        RunState::Ended(end) => end.since.is_some(),
    };
    TaskView {
        id: task.id.uuid(),
        detail: TaskDetail {
            added: stamp(task.created),
            start: meta.start,
            slip: task.schedule.slip.map(iso),
            duration: iso(task.length),
            cli: meta.cli.clone(),
            diags: NO_LIMITS.to_owned(),
            enabled: task.state != TaskState::Cancelled,
            requester: meta.requester.clone(),
            server: meta.server.clone(),
            participants: meta.hosts(base),
            runs: runs.len() as u64,
            runs_started: runs.iter().filter(begun).count() as u64,
            class: class.unwrap_or(SchedulingClass::Background),
        },
        document: meta.document,
        tool: meta.tool,
    }
}

fn iso(duration: jiff::SignedDuration) -> IsoDuration {
    IsoDuration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(0))
}

/// A run that is still negotiated is not shown, nor one that was called off before its time: the
/// original deletes those (contract, section 6).
pub(super) fn is_visible(stored: &StoredRun) -> bool {
    match &stored.run.state {
        RunState::Proposed => false,
        RunState::Ended(end) if end.kind == EndKind::Cancelled => {
            end.since.is_some() || end.at >= stored.run.window.start
        }
        RunState::Planned
        | RunState::Offered { .. }
        | RunState::Running { .. }
        | RunState::Collecting { .. }
        | RunState::Overdue { .. }
        | RunState::Ended(_) => true,
    }
}

/// The interface's word for where a run is (architecture, section 4).
pub(super) fn state(state: &RunState) -> wire::RunState {
    match state {
        RunState::Proposed => wire::RunState::Scheduling,
        RunState::Planned => wire::RunState::Pending,
        RunState::Offered { .. } => wire::RunState::OnDeck,
        RunState::Running { .. } => wire::RunState::Running,
        RunState::Collecting { .. } => wire::RunState::Cleanup,
        RunState::Overdue { .. } => wire::RunState::Overdue,
        RunState::Ended(end) => match end.kind {
            EndKind::Cancelled => wire::RunState::Canceled,
            EndKind::Expired | EndKind::Missed => wire::RunState::Missed,
            EndKind::Failed => wire::RunState::Failed,
            EndKind::Preempted => wire::RunState::Preempted,
            EndKind::Refused => wire::RunState::Nonstart,
            EndKind::Succeeded => wire::RunState::Finished,
        },
    }
}

/// Our words for runs in one of the interface's states, as the store counts them.
pub(super) fn our_words(state: wire::RunState) -> &'static [&'static str] {
    match state {
        wire::RunState::Scheduling => &["proposed"],
        wire::RunState::Pending => &["planned"],
        wire::RunState::OnDeck => &["offered"],
        wire::RunState::Running => &["running"],
        wire::RunState::Cleanup => &["collecting"],
        wire::RunState::Finished => &["succeeded"],
        wire::RunState::Overdue => &["overdue"],
        wire::RunState::Missed => &["missed", "expired"],
        wire::RunState::Failed => &["failed"],
        wire::RunState::Preempted => &["preempted"],
        wire::RunState::Nonstart => &["refused"],
        wire::RunState::Canceled => &["cancelled"],
    }
}

/// The test-standard result of a run that has ended with one.
pub(super) fn merged(stored: &StoredRun) -> Option<Value> {
    let RunState::Ended(end) = &stored.run.state else {
        return None;
    };
    let own = stored
        .result
        .as_deref()
        .and_then(|text| serde_json::from_str::<Value>(text).ok());
    let mut members = match own {
        Some(Value::Object(members)) => members,
        Some(other @ (Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_))) => {
            Map::from_iter([("result".to_owned(), other)])
        }
        Some(Value::Null) | None => Map::new(),
    };
    match end.kind {
        EndKind::Succeeded => {}
        EndKind::Failed => {
            for (member, text) in [("error", &end.reason), ("diags", &stored.diags)] {
                if let Some(text) = text {
                    members
                        .entry(member)
                        .or_insert_with(|| Value::from(text.as_str()));
                }
            }
        }
        EndKind::Preempted => {
            members.insert("diags".to_owned(), Value::from("Run was preempted."));
        }
        EndKind::Cancelled | EndKind::Expired | EndKind::Missed | EndKind::Refused => return None,
    }
    members.entry("schema").or_insert_with(|| Value::from(1));
    members.insert(
        "succeeded".to_owned(),
        Value::from(end.kind == EndKind::Succeeded),
    );
    Some(Value::Object(members))
}

/// A run as it is shown.
pub(super) fn run(task: &Task, stored: &StoredRun, base: &Base) -> RunView {
    let run = &stored.run;
    let meta = Meta::of(task);
    let planned_end = run.window.end();
    let (end, errors) = match &run.state {
        RunState::Ended(end) => {
            let end_time = match end.kind {
                // Whatever ends well or badly ends its slot (contract, section 5).
                EndKind::Succeeded | EndKind::Failed => end.at.min(planned_end),
                EndKind::Cancelled
                | EndKind::Expired
                | EndKind::Missed
                | EndKind::Preempted
                | EndKind::Refused => planned_end,
            };
            let errors = (end.kind != EndKind::Succeeded)
                .then(|| end.reason.clone())
                .flatten();
            (end_time, errors)
        }
        RunState::Proposed
        | RunState::Planned
        | RunState::Offered { .. }
        | RunState::Running { .. }
        | RunState::Collecting { .. }
        | RunState::Overdue { .. } => (planned_end, None),
    };
    let merged = merged(stored);
    let priority = meta.document.get("priority").and_then(Value::as_i64);
    RunView {
        id: run.id.uuid(),
        task: task.id.uuid(),
        start: stamp(run.window.start),
        end: stamp(end),
        added: stamp(run.created),
        state: state(&run.state),
        participants: meta.hosts(base),
        result: merged
            .as_ref()
            .map(|merged| participant_result(task.kind.as_str(), merged)),
        merged,
        errors,
        priority: priority.and_then(|priority| i32::try_from(priority).ok()),
        limit_diags: NO_LIMITS.to_owned(),
    }
}

/// What each of the original's services is here, how often it looks, and after which silence it is
/// called dead.
const SERVICES: [(&str, &str, u64); 4] = [
    ("archiver", "retain", 60),
    ("runner", "lapse", 1),
    ("scheduler", "schedule", 2),
    ("ticker", "lapse", 1),
];
/// Silence beyond the expected time before a service is shown as overdue.
const OVERDUE_AFTER_SECS: i64 = 30;

/// The health object (contract, section 3).
pub(super) fn status(
    now: Timestamp,
    started: Timestamp,
    statuses: &[Status],
    latest: Latest,
) -> Value {
    let since = |from: Timestamp| {
        IsoDuration::from_secs(u64::try_from(now.duration_since(from).as_secs()).unwrap_or(0))
    };
    let mut services = BTreeMap::new();
    for (name, ours, every) in SERVICES {
        let seen = statuses.iter().find(|status| status.name == ours);
        let last = seen.and_then(|status| status.at);
        let expected = last.map(|last| {
            let every = jiff::SignedDuration::from_secs(i64::try_from(every).unwrap_or(0));
            muster_core::time::saturating_add(last, every)
        });
        let late = |at: Timestamp| now.duration_since(at).as_secs() > OVERDUE_AFTER_SECS;
        let overdue = expected
            .filter(|at| late(*at))
            .map(|at| since(at).to_string());
        services.insert(
            name,
            json!({
                "uptime": since(started).to_string(),
                "updates": seen.map_or(0, |status| status.times),
                "last": last.map(|last| stamp(last).seconds()),
                "next_time": IsoDuration::from_secs(every).to_string(),
                "expected": expected.map(|at| stamp(at).seconds()),
                "overdue": overdue
            }),
        );
    }
    json!({
        "time": stamp(now).zulu(),
        "limits": { "ok": true },
        "services": services,
        "runs": {
            "last-finished": latest.ended.map(|at| stamp(at).seconds()),
            "last-scheduled": latest.planned.map(|at| stamp(at).seconds())
        }
    })
}
