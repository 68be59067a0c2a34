//! "Why did nothing happen?": walks the recorded chain and ends in one next action.

use std::str::FromStr;

use jiff::Timestamp;
use muster_core::UnknownWord;
use muster_core::agent::{Agent, AgentState};
use muster_core::run::RunState;
use muster_core::sample::ItemType;
use muster_core::task::{Assignee, TaskState};
use muster_core::time::format_duration;
use muster_core::{EndKind, TaskId};
use muster_store::agents;
use muster_store::journal::{self, Refusal};
use muster_store::runs::{self, StoredRun};

use super::error::{Result, Trouble};
use super::{AgentView, Control, ItemView, RunView, TaskView, lookup};

/// What is to be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An agent, or an address or name that never became one.
    Agent,
    /// A machine.
    Host,
    /// Something sampled.
    Item,
    /// One execution.
    Run,
    /// An intent.
    Task,
}

impl Subject {
    /// The word on the command line and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Host => "host",
            Self::Item => "item",
            Self::Run => "run",
            Self::Task => "task",
        }
    }
}

impl FromStr for Subject {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        [Self::Agent, Self::Host, Self::Item, Self::Run, Self::Task]
            .into_iter()
            .find(|subject| subject.word() == text)
            .ok_or_else(|| {
                UnknownWord::new("subject", text, &["agent", "host", "item", "run", "task"])
            })
    }
}

/// One link of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When it was decided or seen; `None` for what holds now.
    pub at: Option<Timestamp>,
    /// What was checked.
    pub check: String,
    /// Whether it lets things go on; `None` where it neither does nor does not.
    pub ok: Option<bool>,
    /// In a sentence.
    pub detail: String,
}

/// The chain, what it comes to, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What is explained.
    pub subject: Subject,
    /// Its id; empty for a peer that never became anything.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// The chain in order.
    pub steps: Vec<Step>,
    /// What it comes to, in a sentence.
    pub verdict: String,
    /// The one next action.
    pub next: String,
}

/// Builds a chain; the first broken link gives the verdict.
struct Chain {
    steps: Vec<Step>,
    broken: Option<(String, String)>,
}

impl Chain {
    fn new() -> Self {
        Self {
            steps: Vec::new(),
            broken: None,
        }
    }

    fn note(
        &mut self,
        at: Option<Timestamp>,
        check: &str,
        ok: Option<bool>,
        detail: impl Into<String>,
    ) {
        self.steps.push(Step {
            at,
            check: check.to_owned(),
            ok,
            detail: detail.into(),
        });
    }

    /// A link that holds, or is broken with a verdict and a next action.
    fn link(
        &mut self,
        at: Option<Timestamp>,
        check: &str,
        outcome: Result<String, (String, String)>,
    ) {
        match outcome {
            Ok(detail) => self.note(at, check, Some(true), detail),
            Err((why, next)) => {
                self.note(at, check, Some(false), why.clone());
                self.broken.get_or_insert((why, next));
            }
        }
    }

    fn end(
        self,
        subject: Subject,
        id: String,
        name: String,
        fine: &str,
        nothing: &str,
    ) -> Explanation {
        let (verdict, next) = self
            .broken
            .unwrap_or_else(|| (fine.to_owned(), nothing.to_owned()));
        Explanation {
            subject,
            id,
            name,
            steps: self.steps,
            verdict,
            next,
        }
    }
}

impl Control {
    /// Walks the chain of a subject, by id, unique prefix or name.
    ///
    /// # Errors
    /// Not found. An agent that is unknown is explained by what its address or name was refused.
    pub async fn explain(&self, subject: Subject, name: &str) -> Result<Explanation> {
        self.flush_refusals().await?;
        match subject {
            Subject::Agent => self.explain_agent(name).await,
            Subject::Host => self.explain_host(name).await,
            Subject::Item => self.explain_item(name).await,
            Subject::Run => {
                let view = self.find_run(name).await?;
                self.explain_run(view).await
            }
            Subject::Task => {
                let view = self.find_task(name).await?;
                self.explain_task(view).await
            }
        }
    }

    async fn refusals_of(&self, name: &str) -> Result<Vec<Refusal>> {
        let name = name.to_owned();
        Ok(self
            .inner
            .store
            .read(move |tx| journal::refusals_of(tx, &name))
            .await?)
    }

    async fn explain_agent(&self, name: &str) -> Result<Explanation> {
        let view = match self.find_agent(name).await {
            Ok(view) => view,
            Err(error) if error.trouble == Trouble::NotFound => {
                let refusals = self.refusals_of(name).await?;
                if refusals.is_empty() {
                    let mut chain = Chain::new();
                    chain.link(None, "contacted", Err((
                        format!("no agent, address or peer called {name:?} has ever made contact"),
                        "point it at this server: `muster status` shows the addresses, `muster agent key create` makes a key".into(),
                    )));
                    return Ok(chain.end(Subject::Agent, String::new(), name.to_owned(), "", ""));
                }
                return Ok(explain_stranger(name, &refusals));
            }
            Err(error) => return Err(error),
        };
        let mut chain = Chain::new();
        let now = self.now();
        self.agent_links(&mut chain, &view, now).await?;
        let agent = &view.agent;
        let open = runs::Filter {
            agent: Some(agent.id),
            ..runs::Filter::default()
        };
        let runs = self.runs(open, None, 1000).await?.rows;
        let waiting = runs
            .iter()
            .filter(|view| view.run.run.state == RunState::Planned)
            .count();
        let busy = runs
            .iter()
            .filter(|view| matches!(view.run.run.state.word(), "offered" | "running" | "overdue"))
            .count();
        chain.note(
            None,
            "work",
            None,
            format!("{waiting} runs wait for it, {busy} are with it"),
        );
        Ok(chain.end(
            Subject::Agent,
            agent.id.to_string(),
            agent.name.clone(),
            "it is approved, in contact, and gets the work it can do",
            &format!("muster task create KIND --agent {}", agent.name),
        ))
    }

    /// Contact, approval, conflicts: what every chain that needs an agent goes through.
    async fn agent_links(&self, chain: &mut Chain, view: &AgentView, now: Timestamp) -> Result<()> {
        let agent = &view.agent;
        let by_check = |decisions: Vec<journal::Decision>, check: &str| {
            decisions
                .into_iter()
                .find(|decision| decision.check == check)
        };
        let subject = format!("agent:{}", agent.id);
        let decisions = self
            .inner
            .store
            .read(move |tx| journal::decisions(tx, &subject))
            .await?;
        chain.note(
            Some(agent.first_seen),
            "contacted",
            Some(true),
            format!(
                "{} {} on {}, from {}",
                if agent.software.is_empty() {
                    "an agent"
                } else {
                    &agent.software
                },
                agent.version,
                agent
                    .wires
                    .iter()
                    .map(|wire| wire.word())
                    .collect::<Vec<_>>()
                    .join(", "),
                agent.address.map_or_else(
                    || "an unknown address".into(),
                    |address| address.to_string()
                ),
            ),
        );
        let identity = by_check(decisions, "identity");
        let at = identity.as_ref().map(|decision| decision.at);
        let name = &agent.name;
        chain.link(at, "approved", match agent.state {
            AgentState::Pending => Err((
                format!("agent {name:?} is pending: nobody has approved it"),
                format!("muster agent approve {name}"),
            )),
            AgentState::Disabled => Err((
                format!("agent {name:?} is disabled"),
                format!("muster agent approve {name}"),
            )),
            AgentState::Approved => match identity {
                Some(decision) if !decision.ok => Err((
                    format!("agent {name:?} is held: {}", decision.detail),
                    format!("if the change is meant, `muster agent approve {name}` binds it to where it is; else find out who uses its name"),
                )),
                Some(decision) => Ok(decision.detail),
                None => Ok("approved".into()),
            },
        });
        let silent = now.duration_since(agent.last_seen);
        chain.link(
            Some(agent.last_seen),
            "in contact",
            if view.online {
                Ok(format!(
                    "last heard of {} ago",
                    format_duration(jiff::SignedDuration::from_secs(silent.as_secs().max(0)))
                ))
            } else {
                Err((
                    format!(
                        "agent {name:?} was expected by {} and has been silent since {}",
                        agent.expected_by, agent.last_seen
                    ),
                    format!(
                        "look at the agent on {}: is it running, and can it reach this server?",
                        agent
                            .address
                            .map_or_else(|| name.clone(), |a| a.to_string())
                    ),
                ))
            },
        );
        for refusal in self.refusals_of(name).await?.iter().take(3) {
            chain.note(
                Some(refusal.last),
                "refused",
                None,
                format!(
                    "{} times: {}: {}",
                    refusal.times, refusal.reason, refusal.detail
                ),
            );
        }
        chain.note(
            None,
            "capable",
            None,
            format!("it can do: {}", lookup::kinds_of(agent)),
        );
        Ok(())
    }

    async fn explain_task(&self, view: TaskView) -> Result<Explanation> {
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
        let subject = format!("task:{id}");
        let decisions = self
            .inner
            .store
            .read(move |tx| journal::decisions(tx, &subject))
            .await?;
        for decision in &decisions {
            if decision.check == "credential" {
                continue;
            }
            let next = match decision.check.as_str() {
                "slot" => "give it more --slip, another --start, or cancel what is in the way",
                "policy" | "agent" => {
                    "change the policy file on the agent, or give the work to another agent"
                }
                _ => "see the detail",
            };
            chain.link(
                Some(decision.at),
                &decision.check,
                if decision.ok {
                    Ok(decision.detail.clone())
                } else {
                    Err((decision.detail.clone(), next.to_owned()))
                },
            );
        }
        let runs = self.runs_of(task.id, 1000).await?;
        self.credential_link(&mut chain, task.id, runs.last())
            .await?;
        if let Some(last) = runs
            .iter()
            .max_by_key(|stored| (stored.run.created, stored.run.window.start))
        {
            let run = self.explain_run_chain(last, &mut chain, now).await?;
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

    /// Whether the work came with what devices want to see. Without, a run that found something is
    /// still fine; one that found nothing is explained by it.
    async fn credential_link(
        &self,
        chain: &mut Chain,
        task: TaskId,
        run: Option<&StoredRun>,
    ) -> Result<()> {
        let subject = format!("task:{task}");
        let decisions = self
            .inner
            .store
            .read(move |tx| journal::decisions(tx, &subject))
            .await?;
        let Some(decision) = decisions.into_iter().find(|d| d.check == "credential") else {
            return Ok(());
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
                decision.detail,
            );
        } else {
            let next = "submit it again with a credential: --credential v2c:COMMUNITY";
            chain.link(
                Some(decision.at),
                "credential",
                Err((decision.detail, next.to_owned())),
            );
        }
        Ok(())
    }

    fn capability_link(&self, chain: &mut Chain, agent: &Agent, kind: &str) {
        let can = agent
            .capabilities
            .iter()
            .find(|capability| capability.kind.as_str() == kind);
        chain.link(
            None,
            "capable",
            match can {
                Some(capability) if capability.assumed => Ok(format!(
                    "{} is assumed to do {kind}; it never says",
                    agent.name
                )),
                Some(capability) => {
                    Ok(format!("{} does {kind} {}", agent.name, capability.version))
                }
                None => Err((
                    format!(
                        "agent {:?} cannot do {kind}; it can do: {}",
                        agent.name,
                        lookup::kinds_of(agent)
                    ),
                    format!("give the work to another: muster task create {kind} --any"),
                )),
            },
        );
    }

    async fn explain_run(&self, view: RunView) -> Result<Explanation> {
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
        self.credential_link(&mut chain, stored.run.task, Some(stored))
            .await?;
        let (events, parts) = self.run_story(stored.run.id).await?;
        for event in &events {
            chain.note(
                Some(event.at),
                &event.verb,
                Some(event.ok),
                event.detail.clone(),
            );
        }
        let said = self.explain_run_chain(stored, &mut chain, now).await?;
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
        chain: &mut Chain,
        now: Timestamp,
    ) -> Result<String> {
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
                EndKind::Refused => Err((
                    said.clone(),
                    "give it more --slip, another --start, or another agent".to_owned(),
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

    async fn explain_host(&self, name: &str) -> Result<Explanation> {
        let host = self.find_host(name).await?;
        let mut chain = Chain::new();
        chain.note(
            Some(host.created),
            "known",
            Some(true),
            format!(
                "serial {}, uuid {}, {} MAC addresses, {} addresses",
                host.facts.serial.as_deref().unwrap_or("unknown"),
                host.facts.uuid.as_deref().unwrap_or("unknown"),
                host.facts.macs.len(),
                host.facts.addresses.len()
            ),
        );
        for source in &host.sources {
            let by = match source.agent {
                Some(id) => self
                    .agent(id)
                    .await
                    .map_or_else(|_| id.to_string(), |view| view.agent.name),
                None => "a person".into(),
            };
            chain.note(
                Some(source.at),
                source.what.word(),
                Some(true),
                format!(
                    "by {by}{}",
                    source
                        .wire
                        .map(|wire| format!(" over {wire}"))
                        .unwrap_or_default()
                ),
            );
        }
        if let Some(monitoring) = &host.monitoring {
            match monitoring.proxy {
                Some(proxy) => match self.agent(proxy).await {
                    Ok(view) => self.agent_links(&mut chain, &view, self.now()).await?,
                    Err(_) => chain.link(
                        None,
                        "proxy",
                        Err((
                            "the proxy that is to monitor it was removed".into(),
                            "declare the host again with another --proxy".into(),
                        )),
                    ),
                },
                None => chain.note(None, "proxy", None, "this server monitors it"),
            }
            let items = self.items(Some(host.id), None, 1000).await?.rows;
            let silent = items
                .iter()
                .filter(|view| view.last.as_ref().is_none_or(|last| last.value.is_none()))
                .count();
            chain.link(None, "items", if items.is_empty() {
                Err(("it is monitored but has no items".into(), format!("muster item create --host {name} --key agent.ping --type agent --value-type unsigned --delay 30s")))
            } else if silent == items.len() {
                let first = items.first().map(|view| view.item.id.to_string()).unwrap_or_default();
                Err((format!("none of its {silent} items has a value yet"), format!("muster explain item {first}")))
            } else {
                Ok(format!("{} items, {silent} without a value", items.len()))
            });
        }
        let shown = host.facts.name.clone().unwrap_or_default();
        let next = format!("muster host show {shown}");
        Ok(chain.end(
            Subject::Host,
            host.id.to_string(),
            shown,
            "everything that tells of it is in one record",
            &next,
        ))
    }

    async fn explain_item(&self, name: &str) -> Result<Explanation> {
        let view: ItemView = self.find_item(name).await?;
        let mut chain = Chain::new();
        let item = &view.item;
        chain.note(
            None,
            "declared",
            Some(true),
            format!(
                "{} on {}, {} of {}",
                item.key,
                view.host,
                item.item_type.word(),
                item.value_type.word()
            ),
        );
        let host = self.find_host(&item.host.to_string()).await?;
        let monitoring = host.monitoring.as_ref();
        match monitoring.and_then(|monitoring| monitoring.proxy) {
            Some(proxy) => match self.agent(proxy).await {
                Ok(view) => self.agent_links(&mut chain, &view, self.now()).await?,
                Err(_) => chain.link(None, "proxy", Err((
                    "the proxy that is to sample it was removed".into(),
                    "declare the host again with another --proxy".into(),
                ))),
            },
            None if matches!(item.item_type, ItemType::AgentActive | ItemType::Trapper) => {
                chain.note(None, "proxy", None, "its values come to this server directly");
            }
            None => chain.link(None, "proxy", Err((
                format!("items of type {} are polled by a proxy, and the host has none", item.item_type.word()),
                format!("connect a Zabbix proxy and declare the host with `muster host create {} --proxy NAME`", view.host),
            ))),
        }
        let subject = format!("item:{}", item.id);
        for decision in self
            .inner
            .store
            .read(move |tx| journal::decisions(tx, &subject))
            .await?
        {
            chain.note(
                Some(decision.at),
                &decision.check,
                Some(decision.ok),
                decision.detail,
            );
        }
        if let Some(not_supported) = view
            .last
            .as_ref()
            .and_then(|last| last.not_supported.as_ref())
        {
            chain.link(
                Timestamp::from_second(not_supported.clock).ok(),
                "supported",
                Err((
                    format!("the agent says: {}", not_supported.error),
                    "correct the key, or what the agent may read, on the monitored host".into(),
                )),
            );
        }
        chain.link(
            view.last.as_ref().and_then(|last| last.value.as_ref()).and_then(|value| Timestamp::from_second(value.clock).ok()),
            "value",
            match view.last.as_ref().and_then(|last| last.value.as_ref()) {
                Some(sample) => Ok(format!("the newest value is {}", sample.value.to_string().chars().take(80).collect::<String>())),
                None => Err((
                    "no value has arrived".into(),
                    "wait one delay after the proxy has fetched its configuration; `muster explain host` shows the proxy".into(),
                )),
            },
        );
        let next = format!("muster item history {}", item.id);
        Ok(chain.end(
            Subject::Item,
            item.id.to_string(),
            format!("{}:{}", view.host, item.key),
            "its values arrive",
            &next,
        ))
    }
}

fn explain_stranger(name: &str, refusals: &[Refusal]) -> Explanation {
    let mut chain = Chain::new();
    for refusal in refusals {
        let who = if refusal.peer.is_empty() {
            refusal.address.clone()
        } else {
            format!("{:?} at {}", refusal.peer, refusal.address)
        };
        let next = match refusal.reason.as_str() {
            "tls" => {
                "compare the TLS settings of the peer with this server's certificate and `muster status`"
            }
            "framing" | "malformed" => {
                "see that the peer speaks the protocol of the port it connects to"
            }
            "not_authenticated" | "bad_token" => {
                "make a key with `muster agent key create` and give it to the peer"
            }
            "unknown_peer" => {
                "let it make contact as an agent first, or approve it: `muster agent list`"
            }
            _ => "see the detail and the server's log",
        };
        chain.link(
            Some(refusal.last),
            &refusal.reason,
            Err((
                format!(
                    "{who} was refused {} times on {}: {}",
                    refusal.times, refusal.wire, refusal.detail
                ),
                next.to_owned(),
            )),
        );
    }
    chain.end(Subject::Agent, String::new(), name.to_owned(), "", "")
}
