//! Tasks and runs.

use jiff::Timestamp;
use muster_core::EndKind;
use muster_core::run::RunState;
use muster_core::task::{Assignee, TaskState};
use muster_store::agents;
use muster_store::journal::Decision;
use muster_store::runs::{RunEvent, StoredRun};

use super::{Chain, Explanation, Subject};
use crate::control::error::{Result, Trouble};
use crate::control::{Control, RunView, TaskView};

impl Control {
    pub(super) async fn explain_task(&self, view: TaskView) -> Result<Explanation> {
        let task = &view.task;
        let now = self.now();
        let mut chain = Chain::new();
        let id = task.id.to_string();
        chain.note(
            Some(task.created),
            "submitted",
            Some(true),
            format!("{} by {}", task.kind, task.origin.word()),
        );
        chain.link(
            None,
            "enabled",
            match task.state {
                TaskState::Cancelled => Err((
                    "the task was called off".into(),
                    "submit it again if it is still wanted".into(),
                )),
                TaskState::Active => Ok("it is active".into()),
                TaskState::Ended => Ok("it has had all its runs".into()),
            },
        );
        self.assignee_links(&mut chain, &view, now).await?;
        let decisions = self.decisions("task", task.id).await?;
        for decision in decisions.iter().filter(|d| d.check != "credential") {
            chain.link(
                Some(decision.at),
                &decision.check,
                if decision.ok {
                    Ok(decision.detail.clone())
                } else {
                    Err((
                        decision.detail.clone(),
                        remedy(decision, task.kind.as_str()),
                    ))
                },
            );
        }
        let runs = self.runs_of(task.id, 1000).await?;
        credential_link(&mut chain, &decisions, runs.last());
        if let Some(last) = runs
            .iter()
            .max_by_key(|stored| (stored.run.created, stored.run.window.start))
        {
            let (events, _) = self.run_story(last.run.id).await?;
            let run = self
                .explain_run_chain(last, &events, &mut chain, now)
                .await?;
            chain.note(
                None,
                "runs",
                None,
                format!(
                    "{} runs so far; the latest is {}: {run}",
                    view.runs, last.run.id
                ),
            );
        } else {
            chain.link(
                None,
                "planned",
                Err((
                    "no run has been planned yet".into(),
                    "look again in a few seconds; `muster status` shows whether the scheduler runs"
                        .into(),
                )),
            );
        }
        let next = runs.last().map_or_else(
            || "nothing needs doing".to_owned(),
            |stored| format!("muster run show {}", stored.run.id),
        );
        Ok(chain.end(
            Subject::Task,
            id,
            task.kind.to_string(),
            "every check passed",
            &next,
        ))
    }

    /// Whether somebody can do the task: approved, in contact, capable.
    async fn assignee_links(
        &self,
        chain: &mut Chain,
        view: &TaskView,
        now: Timestamp,
    ) -> Result<()> {
        let task = &view.task;
        match &task.assignee {
            Assignee::Named(agents) => {
                for id in agents {
                    match self.agent(*id).await {
                        Ok(agent) => {
                            self.agent_links(chain, &agent, now).await?;
                            self.capability_link(chain, &agent.agent, task.kind.as_str());
                        }
                        Err(error) if error.trouble == Trouble::NotFound => chain.link(
                            None,
                            "matched",
                            Err((
                                format!("agent {id} was removed"),
                                format!("muster task create {} --any", task.kind),
                            )),
                        ),
                        Err(error) => return Err(error),
                    }
                }
            }
            Assignee::Any => {
                let kind = task.kind.clone();
                let able = self
                    .inner
                    .store
                    .read(move |tx| agents::able(tx, &kind))
                    .await?;
                chain.link(None, "matched", if able.is_empty() {
                    Err((
                        format!("no approved agent can do {}", task.kind),
                        format!("connect one that can, or approve it: `muster agent list`, `muster kind list`; then {} runs by itself", task.kind),
                    ))
                } else {
                    Ok(format!("{} can do {}", able.iter().map(|e| e.agent.name.as_str()).collect::<Vec<_>>().join(", "), task.kind))
                });
            }
        }
        Ok(())
    }

    pub(super) async fn explain_run(&self, view: RunView) -> Result<Explanation> {
        let now = self.now();
        let stored = &view.run;
        let mut chain = Chain::new();
        let task = self.task(stored.run.task).await?;
        chain.note(
            Some(task.task.created),
            "submitted",
            Some(true),
            format!(
                "task {} ({}) by {}",
                task.task.id,
                task.task.kind,
                task.task.origin.word()
            ),
        );
        // Who was to do it matters while nobody has: afterwards the run's own record tells.
        if matches!(stored.run.state.word(), "proposed" | "planned" | "offered") {
            match stored.holder.or(stored.run.agent) {
                Some(id) => match self.agent(id).await {
                    Ok(agent) => {
                        self.agent_links(&mut chain, &agent, now).await?;
                        self.capability_link(&mut chain, &agent.agent, stored.kind.as_str());
                    }
                    Err(error) if error.trouble == Trouble::NotFound => {}
                    Err(error) => return Err(error),
                },
                None => self.assignee_links(&mut chain, &task, now).await?,
            }
        }
        let decisions = self.decisions("task", stored.run.task).await?;
        credential_link(&mut chain, &decisions, Some(stored));
        let (events, parts) = self.run_story(stored.run.id).await?;
        for event in &events {
            chain.note(
                Some(event.at),
                &event.verb,
                Some(event.ok),
                event.detail.clone(),
            );
        }
        let said = self
            .explain_run_chain(stored, &events, &mut chain, now)
            .await?;
        if !parts.is_empty() {
            chain.note(
                None,
                "result",
                None,
                format!("{} parts so far", parts.len()),
            );
        }
        let next = match &stored.run.state {
            RunState::Ended(_) => format!("muster run result {}", stored.run.id),
            RunState::Planned => format!(
                "wait until {}, or `muster run watch {}`",
                stored.run.window.start, stored.run.id
            ),
            RunState::Proposed
            | RunState::Offered { .. }
            | RunState::Running { .. }
            | RunState::Collecting { .. }
            | RunState::Overdue { .. } => format!("muster run watch {}", stored.run.id),
        };
        Ok(chain.end(
            Subject::Run,
            stored.run.id.to_string(),
            stored.kind.to_string(),
            &said,
            &next,
        ))
    }

    /// Adds where the run is to the chain; returns it as a sentence.
    async fn explain_run_chain(
        &self,
        stored: &StoredRun,
        events: &[RunEvent],
        chain: &mut Chain,
        now: Timestamp,
    ) -> Result<String> {
        if let (RunState::Planned, Some(lapse)) = (&stored.run.state, events.last())
            && lapse.verb == "lapse"
        {
            chain.link(Some(lapse.at), "lease", Err((
                format!("the lease lapsed: {}", lapse.detail),
                "see that the agent comes for its work and begins it; it gets this run again at its next contact".into(),
            )));
        }
        let run = &stored.run;
        let agent = match stored.holder.or(run.agent) {
            Some(id) => self
                .agent(id)
                .await
                .map_or_else(|_| id.to_string(), |view| view.agent.name),
            None => "any agent".into(),
        };
        let said = match &run.state {
            RunState::Proposed => "it is being put to its participants".to_owned(),
            RunState::Planned if run.window.start > now => {
                format!("it waits for {}", run.window.start)
            }
            RunState::Planned => format!(
                "it waits for {agent} to ask for work, at the latest until {}",
                run.window.latest_start
            ),
            RunState::Offered { lease } => format!(
                "it was handed to {agent}, which has until {} to begin",
                lease.expires
            ),
            RunState::Running {
                since, progress, ..
            } => format!(
                "{agent} has been at it since {since}{}",
                progress
                    .and_then(|p| p.percent)
                    .map(|p| format!(", {p:.0} %"))
                    .unwrap_or_default()
            ),
            RunState::Collecting { .. } => "its parts are being gathered".to_owned(),
            RunState::Overdue { noticed, .. } => {
                format!("nothing was heard of it from {agent} by {noticed}")
            }
            RunState::Ended(end) => match &end.reason {
                Some(reason) => format!("it ended {}: {reason}", end.kind.word()),
                None => format!("it ended {}", end.kind.word()),
            },
        };
        let outcome = match &run.state {
            RunState::Ended(end) => match end.kind {
                EndKind::Succeeded => Ok(said.clone()),
                EndKind::Cancelled => Err((
                    said.clone(),
                    "submit it again if it is still wanted".to_owned(),
                )),
                EndKind::Refused | EndKind::Failed if said.contains("policy") => Err((
                    said.clone(),
                    format!("change the policy file on {agent} if it is to do this"),
                )),
                EndKind::Failed => Err((
                    said.clone(),
                    format!("muster run result {} shows what the agent said", run.id),
                )),
                EndKind::Missed | EndKind::Expired => Err((
                    said.clone(),
                    format!("see whether {agent} comes for work: muster explain agent {agent}"),
                )),
                EndKind::Preempted => Err((
                    said.clone(),
                    "give it a higher priority or another time".to_owned(),
                )),
                EndKind::Refused if events.iter().any(|event| event.verb == "slot") => {
                    Err((said.clone(), SLOT_REMEDY.to_owned()))
                }
                EndKind::Refused => Err((
                    said.clone(),
                    format!(
                        "ask for what {agent} can do, or give the work to another: muster task create {} --any",
                        stored.kind
                    ),
                )),
            },
            RunState::Overdue { .. } => {
                Err((said.clone(), format!("muster explain agent {agent}")))
            }
            RunState::Proposed
            | RunState::Planned
            | RunState::Offered { .. }
            | RunState::Running { .. }
            | RunState::Collecting { .. } => {
                chain.note(None, run.state.word(), None, said.clone());
                return Ok(said);
            }
        };
        chain.link(None, run.state.word(), outcome);
        Ok(said)
    }
}

/// Whether the work came with what devices want to see. Without, a run that found something is
/// still fine; one that found nothing is explained by it.
fn credential_link(chain: &mut Chain, decisions: &[Decision], run: Option<&StoredRun>) {
    let Some(decision) = decisions.iter().find(|d| d.check == "credential") else {
        return;
    };
    let found_nothing = run.is_some_and(|stored| {
        matches!(&stored.run.state, RunState::Ended(end) if end.kind == EndKind::Succeeded)
            && stored
                .result
                .as_deref()
                .is_none_or(|result| result.contains("\"devices\":[]"))
    });
    if decision.ok || !found_nothing {
        chain.note(
            Some(decision.at),
            "credential",
            Some(decision.ok),
            decision.detail.clone(),
        );
    } else {
        let next = "submit it again with a credential: --credential v2c:COMMUNITY";
        chain.link(
            Some(decision.at),
            "credential",
            Err((decision.detail.clone(), next.to_owned())),
        );
    }
}

/// What to do about a check of a task that did not hold.
fn remedy(decision: &Decision, kind: &str) -> String {
    match decision.check.as_str() {
        "slot" => SLOT_REMEDY.to_owned(),
        "agent" if decision.detail.contains("policy") => {
            "change the policy file on the agent, or give the work to another agent".to_owned()
        }
        _ => format!(
            "ask for what the agent can do, or give the work to another: muster task create {kind} --any"
        ),
    }
}

/// What to do when other work has the time.
const SLOT_REMEDY: &str = "give it more --slip, another --start, or cancel what is in the way";
