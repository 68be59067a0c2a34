//! Tasks submitted, runs offered, news reported.

use std::num::NonZeroU32;

use jiff::{SignedDuration, Timestamp};
use muster_core::agent::AgentState;
use muster_core::kind::Kind;
use muster_core::result::{News, Outcome};
use muster_core::run::{Lease, OfferToken, Run, RunState, Window};
use muster_core::schedule::{History, Schedule};
use muster_core::task::{Assignee, Origin, Spec, Task, TaskState};
use muster_core::time::saturating_add;
use muster_core::{AgentId, RunId, TaskId};
use muster_store::journal::{self, Decision};
use muster_store::runs::{self, RunEvent, StoredRun};
use muster_store::tasks::{self, StoredTask};
use muster_store::{StoreError, Tx, agents};
use serde_json::Value;

use super::error::{ControlError, Result, Trouble};
use super::{Control, lookup};

/// The largest spec kept, in bytes; what pScheduler passes in a request target fits many times.
const SPEC_MAX: usize = 1 << 20;
/// The most targets of one task.
const TARGETS_MAX: usize = 10_000;
/// The most parts kept of one result.
const PARTS_MAX: i64 = 1_000_000;
/// The largest result, or part of one, kept, in bytes.
const RESULT_MAX: usize = 16 << 20;

/// A task to be submitted.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// The id to give it; minted when `None`.
    pub id: Option<TaskId>,
    /// The kind of work.
    pub kind: Kind,
    /// Where it comes from.
    pub origin: Origin,
    /// What is to be done: a JSON object; members that begin with `_` are secret.
    pub spec: Value,
    /// Things to do in parallel up to `workers`.
    pub targets: Vec<String>,
    /// How many at once.
    pub workers: Option<NonZeroU32>,
    /// When.
    pub schedule: Schedule,
    /// By whom.
    pub assignee: Assignee,
    /// Higher wins.
    pub priority: i32,
    /// How long a run takes; the kind's usual length when `None`.
    pub length: Option<SignedDuration>,
    /// What its wire needs to show it again; members that begin with `_` are secret.
    pub peer: Option<Value>,
}

impl NewTask {
    /// A task of a kind, to be done once, soon, by any agent that can.
    pub fn new(kind: Kind, origin: Origin, spec: Value) -> Self {
        Self {
            id: None,
            kind,
            origin,
            spec,
            targets: Vec::new(),
            workers: None,
            schedule: Schedule::default(),
            assignee: Assignee::Any,
            priority: 0,
            length: None,
            peer: None,
        }
    }
}

/// What a front asks for on behalf of an agent.
#[derive(Clone, Debug)]
pub struct DueAsk {
    /// The kinds the wire can carry to it.
    pub kinds: Vec<Kind>,
    /// How long the agent has to begin.
    pub lease: SignedDuration,
    /// How long before its start a run may be handed over: zero for work done on receipt.
    pub ahead: SignedDuration,
    /// How many runs at most.
    pub limit: i64,
}

/// A run handed to an agent.
#[derive(Clone, Debug)]
pub struct Offer {
    /// What the agent is to echo.
    pub token: OfferToken,
    /// The task.
    pub task: TaskId,
    /// The kind.
    pub kind: Kind,
    /// The spec, secrets included.
    pub spec: Spec,
    /// The targets.
    pub targets: Vec<String>,
    /// How many targets at once.
    pub workers: Option<NonZeroU32>,
    /// When it may begin and how long it takes.
    pub window: Window,
    /// When the offer lapses.
    pub expires: Timestamp,
}

/// What became of an agent's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reported {
    /// It counted.
    Counted,
    /// It had been said before; nothing changed.
    Repeat,
    /// It did not count, and why.
    Stale(String),
}

impl Control {
    /// Stores a task and plans its first turn.
    ///
    /// # Errors
    /// Invalid or refused, with the reason; nothing is stored then.
    pub async fn submit(&self, new: NewTask) -> Result<Task> {
        let now = self.now();
        let mut rng = self.rng();
        new.schedule.check(now).map_err(|error| {
            ControlError::invalid(
                "BAD_SCHEDULE",
                format!("the schedule of the {} task makes no sense", new.kind),
            )
            .because(error.to_string())
        })?;
        if !new.spec.is_object() {
            return Err(ControlError::invalid(
                "BAD_SPEC",
                format!("the spec of the {} task is not a JSON object", new.kind),
            ));
        }
        if new.targets.len() > TARGETS_MAX
            || new
                .targets
                .iter()
                .any(|t| t.is_empty() || t.len() > 1024 || t.contains(['\n', '\r', '\0']))
        {
            return Err(ControlError::invalid(
                "BAD_TARGET",
                format!(
                    "a task has at most {TARGETS_MAX} targets, each of 1 to 1024 characters on one line"
                ),
            ));
        }
        let credentials = credentials_given(&new);
        let whole = new.spec.to_string();
        if whole.len() > SPEC_MAX {
            return Err(ControlError::new(
                Trouble::TooMuch,
                "SPEC_TOO_LARGE",
                format!("the spec is larger than {SPEC_MAX} bytes"),
            ));
        }
        let seal = |text: &str, rng: &mut rand_chacha::ChaCha20Rng| {
            self.inner
                .sealer
                .seal(text.as_bytes(), rng)
                .map_err(sealing)
        };
        let known = new.kind.known();
        let length = new
            .length
            .or_else(|| known.map(|known| SignedDuration::from_secs(known.duration_secs)))
            .unwrap_or(SignedDuration::from_mins(5));
        let peer_sealed = match &new.peer {
            Some(peer) => Some(seal(&peer.to_string(), &mut rng)?),
            None => None,
        };
        let stored = StoredTask {
            sealed: seal(&whole, &mut rng)?,
            peer_sealed,
            history: History::default(),
            task: Task {
                id: new.id.unwrap_or_else(|| TaskId::mint(&mut rng)),
                kind: new.kind,
                origin: new.origin,
                spec: Spec::from_json(sanitised(&new.spec).to_string()),
                targets: new.targets,
                workers: new.workers,
                schedule: new.schedule,
                assignee: new.assignee,
                priority: new.priority,
                length,
                state: TaskState::Active,
                created: now,
                generation: 1,
                peer: new
                    .peer
                    .as_ref()
                    .map(|peer| Spec::from_json(sanitised(peer).to_string())),
            },
        };
        let id = stored.task.id;
        self.inner
            .store
            .write(move |tx| {
                if let Err(error) = check_assignee(tx, &stored.task)? {
                    return Ok(Err(error));
                }
                if tasks::by_id(tx, id)?.is_some() {
                    return Ok(Err(ControlError::new(
                        Trouble::Conflict,
                        "TASK_EXISTS",
                        format!("task {id} exists already"),
                    )));
                }
                tasks::insert(tx, &stored)?;
                if let Some(given) = credentials {
                    let decision = Decision {
                        check: "credential".into(),
                        at: now,
                        ok: given > 0,
                        detail: match given {
                            0 => "no credential was given: devices are found but not asked what they are".into(),
                            n => format!("{n} credentials were given"),
                        },
                    };
                    journal::decide(tx, &format!("task:{id}"), &decision)?;
                }
                let mut rng = rng.clone();
                crate::reconcile::schedule::plan_task(tx, id, now, &mut rng)?;
                tasks::by_id(tx, id)?
                    .map(|stored| Ok(stored.task))
                    .map_or_else(
                        || Ok(Err(ControlError::not_found("task", &id.to_string()))),
                        Ok,
                    )
            })
            .await?
            .inspect(|_| {
                self.run_moved();
                self.nudge_work();
            })
    }

    /// Calls a task off: its runs that have not ended end as cancelled. Again changes nothing.
    ///
    /// # Errors
    /// Not found.
    pub async fn cancel(&self, id: TaskId, by: &str) -> Result<Task> {
        let now = self.now();
        let reason = format!("called off by {by}");
        let cancelled = self
            .inner
            .store
            .write(move |tx| {
                if tasks::by_id(tx, id)?.is_none() {
                    return Ok(None);
                }
                if tasks::finish(tx, id, TaskState::Cancelled)? {
                    for stored in runs::of_task(tx, id, i64::MAX)? {
                        if let Ok(next) = stored.run.state.clone().cancel(&reason, now) {
                            move_run(tx, &stored.run, next, "cancel", &reason, now)?;
                        }
                    }
                }
                Ok(tasks::by_id(tx, id)?.map(|stored| stored.task))
            })
            .await?;
        self.run_moved();
        self.nudge_work();
        cancelled.ok_or_else(|| ControlError::not_found("task", &id.to_string()))
    }

    /// Calls one run off.
    ///
    /// # Errors
    /// Not found.
    pub async fn cancel_run(&self, id: RunId, by: &str) -> Result<()> {
        let now = self.now();
        let reason = format!("called off by {by}");
        let found = self
            .inner
            .store
            .write(move |tx| {
                let Some(stored) = runs::by_id(tx, id)? else {
                    return Ok(false);
                };
                if let Ok(next) = stored.run.state.clone().cancel(&reason, now) {
                    move_run(tx, &stored.run, next, "cancel", &reason, now)?;
                    settle_task(tx, stored.run.task, now)?;
                }
                Ok(true)
            })
            .await?;
        self.run_moved();
        if found {
            Ok(())
        } else {
            Err(ControlError::not_found("run", &id.to_string()))
        }
    }

    /// Hands an approved agent its due runs. A run it was handed before and did not begin is handed
    /// again under the next generation: the reply was lost.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn due(&self, agent: AgentId, ask: DueAsk) -> Result<Vec<Offer>> {
        let now = self.now();
        let ready = saturating_add(now, ask.ahead);
        let (kinds, limit) = (ask.kinds.clone(), ask.limit);
        let waiting = self
            .inner
            .store
            .read(move |tx| {
                let able = able_kinds(tx, agent, &kinds)?;
                Ok((!runs::due(tx, agent, &able, now, ready, limit)?.is_empty()).then_some(able))
            })
            .await?;
        let Some(able) = waiting else {
            return Ok(Vec::new());
        };
        let lease = ask.lease;
        // On another wire of the agent another replica may be handing it work, too.
        let alone = able.iter().any(|kind| !kind.scheduling().anytime());
        let offered = self
            .inner
            .store
            .write(move |tx| {
                let mut offered = Vec::new();
                let enrolled = match alone {
                    true => agents::by_id_locked(tx, agent)?,
                    false => agents::by_id(tx, agent)?,
                };
                let name = enrolled.map(|enrolled| enrolled.agent.name);
                let name = name.unwrap_or_else(|| agent.to_string());
                for stored in runs::due(tx, agent, &able, now, ready, limit)? {
                    let mut run = stored.run.clone();
                    let generation = run.generation.saturating_add(1);
                    let lease = Lease {
                        agent,
                        expires: saturating_add(now, lease),
                        generation,
                    };
                    let Ok(next) = run.state.clone().offer(lease) else {
                        continue;
                    };
                    run.state = next;
                    run.generation = generation;
                    if !runs::update(tx, &run, &stored.run.state, stored.run.generation)? {
                        continue;
                    }
                    let event = RunEvent {
                        at: now,
                        verb: "offer".into(),
                        ok: true,
                        detail: format!(
                            "to agent {name}, offer {generation}, until {}",
                            lease.expires
                        ),
                    };
                    runs::add_event(tx, run.id, &event)?;
                    if let Some(task) = tasks::by_id(tx, run.task)? {
                        offered.push((run, lease, task));
                    }
                }
                Ok(offered)
            })
            .await?;
        self.run_moved();
        offered
            .into_iter()
            .map(|(run, lease, stored)| {
                Ok(Offer {
                    token: OfferToken {
                        run: run.id,
                        generation: lease.generation,
                    },
                    task: stored.task.id,
                    kind: stored.task.kind.clone(),
                    spec: self.open_spec(&stored.sealed)?,
                    targets: stored.task.targets,
                    workers: stored.task.workers,
                    window: run.window,
                    expires: lease.expires,
                })
            })
            .collect()
    }

    /// When the agent's next planned run begins, or the next after a time, for saying when to come
    /// again.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn next_start(
        &self,
        agent: AgentId,
        kinds: Vec<Kind>,
        after: Option<Timestamp>,
    ) -> Result<Option<Timestamp>> {
        Ok(self
            .inner
            .store
            .read(move |tx| {
                let able = able_kinds(tx, agent, &kinds)?;
                runs::next_start(tx, agent, &able, after)
            })
            .await?)
    }

    /// Takes an agent's word about a run it was offered. It counts only under the lease it was
    /// given; anything else is recorded and dropped.
    ///
    /// # Errors
    /// When the database does not answer; then the word was not taken and must be said again.
    pub async fn report(&self, token: OfferToken, agent: AgentId, news: News) -> Result<Reported> {
        let now = self.now();
        let reported = self
            .inner
            .store
            .write(move |tx| take_news(tx, token, agent, &news, now))
            .await?;
        if reported == Reported::Counted {
            self.run_moved();
        }
        Ok(reported)
    }

    /// Gives back what an agent was offered and did not begin: its connection ended.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn release(&self, agent: AgentId, why: &str) -> Result<usize> {
        let now = self.now();
        let why = why.to_owned();
        let released = self
            .inner
            .store
            .write(move |tx| {
                let mut released = 0;
                for stored in runs::leased_to(tx, agent, "offered")? {
                    if let Ok(next) = stored.run.state.clone().lapse(&stored.run.window, now) {
                        move_run(tx, &stored.run, next, "lapse", &why, now)?;
                        released += 1;
                    }
                }
                Ok(released)
            })
            .await?;
        if released > 0 {
            self.run_moved();
            self.nudge_work();
        }
        Ok(released)
    }

    /// An inventory that came unasked also closes the open `inventory` runs of its agent.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn close_by_observation(
        &self,
        agent: AgentId,
        kind: &Kind,
        outcome: Outcome,
    ) -> Result<usize> {
        let kind = kind.clone();
        let open = self
            .inner
            .store
            .read(move |tx| runs::open_of_kind(tx, agent, &kind))
            .await?;
        let mut closed = 0;
        for stored in open {
            let token = OfferToken {
                run: stored.run.id,
                generation: stored.run.generation,
            };
            let word = self
                .report(token, agent, News::Finished(outcome.clone()))
                .await?;
            closed += usize::from(word == Reported::Counted);
        }
        Ok(closed)
    }

    /// What an agent holds of a kind: offered to it or with it, not ended. For peers that echo less
    /// than a whole token.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn held(&self, agent: AgentId, kind: &Kind) -> Result<Vec<OfferToken>> {
        let kind = kind.clone();
        let open = self
            .inner
            .store
            .read(move |tx| runs::open_of_kind(tx, agent, &kind))
            .await?;
        Ok(open
            .into_iter()
            .map(|stored| OfferToken {
                run: stored.run.id,
                generation: stored.run.generation,
            })
            .collect())
    }

    /// The whole spec of a task, secrets included, for who proved it may see it.
    ///
    /// # Errors
    /// Not found.
    pub async fn task_secrets(&self, id: TaskId) -> Result<(Spec, Option<Spec>)> {
        let found = self
            .inner
            .store
            .read(move |tx| tasks::by_id(tx, id))
            .await?;
        let stored = found.ok_or_else(|| ControlError::not_found("task", &id.to_string()))?;
        let peer = stored
            .peer_sealed
            .as_deref()
            .map(|sealed| self.open_spec(sealed))
            .transpose()?;
        Ok((self.open_spec(&stored.sealed)?, peer))
    }

    fn open_spec(&self, sealed: &[u8]) -> Result<Spec> {
        let plain = self.inner.sealer.open(sealed).map_err(sealing)?;
        let text = std::str::from_utf8(&plain).map_err(|error| {
            ControlError::new(Trouble::Bug, "INTERNAL", "a sealed spec is not text")
                .caused_by(error)
        })?;
        Ok(Spec::from_json(text))
    }

    /// Waits until `done` says so of the run, or `deadline` of the clock has passed; returns it as
    /// it is then. Holds no database connection while it waits.
    ///
    /// # Errors
    /// Not found.
    pub async fn wait_run(
        &self,
        id: RunId,
        deadline: Timestamp,
        done: impl Fn(&StoredRun) -> bool,
    ) -> Result<StoredRun> {
        // Other replicas are not heard here, so it looks now and then as well.
        const LOOK_EVERY: SignedDuration = SignedDuration::from_secs(1);
        let mut changes = self.run_changes();
        loop {
            changes.borrow_and_update();
            let run = self.run(id).await?;
            let now = self.now();
            if done(&run) || now >= deadline {
                return Ok(run);
            }
            let wait = deadline.duration_since(now).min(LOOK_EVERY).unsigned_abs();
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = self.clock().sleep(wait) => {}
            }
        }
    }
}

/// How many credentials came with work that sees little without; `None` for other kinds.
fn credentials_given(new: &NewTask) -> Option<usize> {
    let member = new.kind.known()?.credentials?;
    let given = new.spec.get(member).and_then(Value::as_array);
    Some(given.map_or(0, Vec::len))
}

fn sealing(error: muster_store::sealed::SealError) -> ControlError {
    ControlError::new(Trouble::Bug, "SECRETS_KEY", "a secret could not be sealed or opened")
        .next("check that the key in the state folder's `secrets` is the one this database was written with")
        .caused_by(error)
}

/// The value with every member whose name begins with `_` replaced by null, at any depth.
pub(crate) fn sanitised(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .iter()
                .map(|(name, member)| {
                    let shown = if name.starts_with('_') {
                        Value::Null
                    } else {
                        sanitised(member)
                    };
                    (name.clone(), shown)
                })
                .collect(),
        ),
        Value::Array(elements) => Value::Array(elements.iter().map(sanitised).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Which of `kinds` the agent is recorded to do.
fn able_kinds(tx: &mut Tx<'_>, agent: AgentId, kinds: &[Kind]) -> Result<Vec<Kind>, StoreError> {
    let Some(enrolled) = agents::by_id(tx, agent)? else {
        return Ok(Vec::new());
    };
    if enrolled.agent.state != AgentState::Approved {
        return Ok(Vec::new());
    }
    Ok(kinds
        .iter()
        .filter(|kind| enrolled.agent.can(kind))
        .cloned()
        .collect())
}

/// Named agents must exist, be approved and able; for any, one must.
fn check_assignee(tx: &mut Tx<'_>, task: &Task) -> Result<Result<()>, StoreError> {
    for id in task.assignee.agents() {
        let Some(enrolled) = agents::by_id(tx, *id)? else {
            return Ok(Err(ControlError::not_found("agent", &id.to_string())));
        };
        let agent = enrolled.agent;
        if agent.state != AgentState::Approved {
            return Ok(Err(ControlError::new(
                Trouble::Refused,
                "AGENT_NOT_APPROVED",
                format!("agent {:?} cannot be given work", agent.name),
            )
            .because(format!("it is {}", agent.state.word()))
            .next(format!("muster agent approve {}", agent.name))));
        }
        if !agent.can(&task.kind) {
            return Ok(Err(lacks_capability(&agent, &task.kind)));
        }
    }
    if task.assignee == Assignee::Named(Vec::new()) {
        return Ok(Err(ControlError::invalid(
            "NO_AGENT",
            "the task names no agent",
        )
        .next(
            "name one with --agent, or let any capable agent do it with --any",
        )));
    }
    if task.assignee == Assignee::Any
        && task.kind.known().is_none()
        && agents::able(tx, &task.kind)?.is_empty()
    {
        return Ok(Err(ControlError::new(
            Trouble::Refused,
            "UNKNOWN_KIND",
            format!(
                "no agent can do {:?}, and this build does not know it",
                task.kind.as_str()
            ),
        )
        .next(
            "`muster kind list` shows the kinds and which agents can do them",
        )));
    }
    Ok(Ok(()))
}

fn lacks_capability(agent: &muster_core::Agent, kind: &Kind) -> ControlError {
    let said = lookup::kinds_of(agent);
    let hint = match (kind.as_str(), agent.software.as_str()) {
        ("netdiscovery" | "netinventory", "fusioninventory-agent") => format!(
            "install fusioninventory-agent-task-network on {}, or `muster task create {kind} --any ...`",
            agent.name
        ),
        _ => format!(
            "`muster kind list` shows who can do {kind}; or `muster task create {kind} --any ...`"
        ),
    };
    ControlError::new(
        Trouble::Refused,
        "AGENT_LACKS_CAPABILITY",
        format!("agent {:?} cannot run {kind}", agent.name),
    )
    .because(format!(
        "it is {} {} and said it has: {said}",
        agent.software, agent.version
    ))
    .next(hint)
}

/// Writes a move of a run and its record. False when somebody else was quicker.
pub(crate) fn move_run(
    tx: &mut Tx<'_>,
    run: &Run,
    next: RunState,
    verb: &str,
    detail: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    if next == run.state {
        return Ok(true);
    }
    let moved = Run {
        state: next,
        ..run.clone()
    };
    if !runs::update(tx, &moved, &run.state, run.generation)? {
        return Ok(false);
    }
    // Progress is not a move worth a line: a run that reports each second would fill the record.
    if moved.state.word() != run.state.word() {
        let event = RunEvent {
            at: now,
            verb: verb.to_owned(),
            ok: true,
            detail: detail.to_owned(),
        };
        runs::add_event(tx, run.id, &event)?;
    }
    Ok(true)
}

/// A task that wants no more runs and has none open has ended.
pub(crate) fn settle_task(tx: &mut Tx<'_>, id: TaskId, now: Timestamp) -> Result<(), StoreError> {
    let Some(stored) = tasks::by_id(tx, id)? else {
        return Ok(());
    };
    if stored.task.state == TaskState::Active
        && stored.task.schedule.next(&stored.history, now).is_none()
        && runs::count_open(tx, id)? == 0
    {
        tasks::finish(tx, id, TaskState::Ended)?;
    }
    Ok(())
}

fn take_news(
    tx: &mut Tx<'_>,
    token: OfferToken,
    agent: AgentId,
    news: &News,
    now: Timestamp,
) -> Result<Reported, StoreError> {
    // Two words about one run at once must each find the record of the other.
    let Some(stored) = runs::by_id_locked(tx, token.run)? else {
        return Ok(Reported::Stale(format!("there is no run {}", token.run)));
    };
    let run = &stored.run;
    if let RunState::Ended(_) = run.state {
        let same = run.generation == token.generation && stored.holder == Some(agent);
        if same && says_the_same(&run.state, news) {
            return Ok(Reported::Repeat);
        }
        return drop_word(
            tx,
            run,
            format!("the run has ended: {}", run.state),
            news,
            now,
        );
    }
    if let Err(stale) = run.state.admits(agent, token.generation) {
        return drop_word(tx, run, stale.to_string(), news, now);
    }
    let (verb, detail, next) = match news {
        News::Began => ("begin", String::new(), run.state.clone().begin(None, now)),
        News::Progress(progress) => (
            "begin",
            String::new(),
            run.state.clone().begin(Some(*progress), now),
        ),
        News::Part(part) => {
            let count = runs::count_parts(tx, run.id)?;
            if part.len() <= RESULT_MAX
                && count < PARTS_MAX
                && !runs::add_part(tx, run.id, part)?
                && run.state.word() == "running"
            {
                return Ok(Reported::Repeat);
            }
            ("begin", String::new(), run.state.clone().begin(None, now))
        }
        News::Finished(outcome) => {
            keep_outcome(tx, &stored, outcome)?;
            let detail = outcome.diags.clone().unwrap_or_default();
            let why = (!outcome.succeeded).then(|| {
                outcome
                    .diags
                    .clone()
                    .unwrap_or_else(|| "the agent gave no reason".into())
            });
            (
                "close",
                detail,
                run.state
                    .clone()
                    .close(outcome.succeeded, why.as_deref(), now),
            )
        }
        News::Declined { reason } => {
            let subject = format!("task:{}", run.task);
            let decision = Decision {
                check: "agent".into(),
                at: now,
                ok: false,
                detail: reason.clone(),
            };
            journal::decide(tx, &subject, &decision)?;
            let declined = match run.state.clone().refuse(reason, now) {
                Ok(next) => Ok(next),
                // It had begun and then would not: that is a failure.
                Err(_) => run.state.clone().close(false, Some(reason), now),
            };
            ("refuse", reason.clone(), declined)
        }
    };
    let next = match next {
        Ok(next) => next,
        Err(illegal) => return drop_word(tx, run, illegal.to_string(), news, now),
    };
    let ended = next.is_ended();
    let changed = next != run.state;
    if !move_run(tx, run, next, verb, &detail, now)? {
        return Err(StoreError::Conflict {
            what: format!("run {}", run.id),
        });
    }
    if ended {
        if matches!(news, News::Finished(_)) {
            agents::settle_assumed(tx, agent, &stored.kind, true)?;
        }
        settle_task(tx, run.task, now)?;
    }
    Ok(if changed {
        Reported::Counted
    } else {
        Reported::Repeat
    })
}

fn says_the_same(state: &RunState, news: &News) -> bool {
    let RunState::Ended(end) = state else {
        return false;
    };
    use muster_core::EndKind::{Failed, Refused, Succeeded};
    match news {
        News::Finished(outcome) => end.kind == if outcome.succeeded { Succeeded } else { Failed },
        News::Declined { .. } => matches!(end.kind, Refused | Failed),
        // What led to the end may be said again after it.
        News::Began | News::Progress(_) | News::Part(_) => matches!(end.kind, Succeeded | Failed),
    }
}

fn drop_word(
    tx: &mut Tx<'_>,
    run: &Run,
    why: String,
    news: &News,
    now: Timestamp,
) -> Result<Reported, StoreError> {
    let said = match news {
        News::Began => "began",
        News::Progress(_) => "progress",
        News::Part(_) => "a part of the result",
        News::Finished(_) => "the end",
        News::Declined { .. } => "that it declines",
    };
    // A run's record stays readable however often a confused agent repeats itself.
    const DROPPED_MAX: usize = 50;
    let events = runs::events(tx, run.id)?;
    if events.iter().filter(|event| !event.ok).count() < DROPPED_MAX {
        let event = RunEvent {
            at: now,
            verb: "dropped".into(),
            ok: false,
            detail: format!("word of {said} did not count: {why}"),
        };
        runs::add_event(tx, run.id, &event)?;
    }
    Ok(Reported::Stale(why))
}

fn keep_outcome(tx: &mut Tx<'_>, stored: &StoredRun, outcome: &Outcome) -> Result<(), StoreError> {
    let id = stored.run.id;
    let gathered;
    let result = match &outcome.result {
        Some(result) if result.len() <= RESULT_MAX => Some(result.as_str()),
        Some(_) => Some(r#"{"error":"the result was larger than 16 MiB and was not kept"}"#),
        None => {
            let parts = runs::parts(tx, id)?;
            let member = stored.kind.known().and_then(|known| known.parts);
            match (member, parts.is_empty()) {
                (None, true) => None,
                (member, _) => {
                    let member = member.unwrap_or("parts");
                    gathered = format!(
                        r#"{{"succeeded":{},"{member}":[{}]}}"#,
                        outcome.succeeded,
                        parts.join(",")
                    );
                    Some(gathered.as_str())
                }
            }
        }
    };
    runs::put_outcome(tx, id, result, outcome.diags.as_deref())
}
