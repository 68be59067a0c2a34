//! The crew: takes jobs from the links, asks the local policy, runs the tools, tells what happens.
//!
//! - **At most once.** A job is known by its server and the server's name for the run. Before it
//!   acts its intent is durable; a job that comes again is not begun again but answered with what
//!   became of it, under the generation it came with.
//! - **Order.** Jobs in one lane run one after another in the order they were given, so that a
//!   link keeps the rule "tasks and jobs one after another" by naming its lane; jobs without a
//!   lane run at once. Within a job up to `workers` targets are worked on at a time, one after
//!   another without (FusionInventory contract, section 1.3).
//! - **Isolation.** A target that fails or panics ends only itself.
//! - **Policy.** Every decision and every end makes an audit line; what cannot be recorded is
//!   refused.
//!
//! The crew knows no wire. What it refuses comes back as [`Refusal`], for the link to put into its
//! protocol's words.

pub mod ledger;
pub mod news;
pub mod spooled;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use muster_net::clock::Clock;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::audit::{Audit, Decision, Entry};
use crate::policy::{
    ActionClass, Permit, PolicySource, Verdict, is_exclusive, is_harmless, may_repeat,
};
use crate::tools::{Cause, Context, Failure, Outcome, Registry, SpecError, Tool};

pub use ledger::{Ending, Intent, Ledger, LedgerError, MemoryLedger, Record};
pub use news::{News, Progress, Reporter, Word};
pub use spooled::SpoolLedger;

/// Jobs held at a time, running or waiting: far above what one agent is asked for, and a bound on
/// what a server can make it keep.
const JOBS_MAX: usize = 256;
/// Targets of one job worked on at a time, whatever the server asks for.
const WORKERS_MAX: usize = 256;
/// How long a tool may take to stop when told to, before it is dropped.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Longest single sleep towards a start or deadline, so that a jump of the wall clock is noticed.
const CLOCK_CHECK: Duration = Duration::from_secs(5);
/// What an unfinished task is reported with when the agent ends (teeth contract, section 7).
const SHUTDOWN_REASON: &str = "service being shutdown";

/// What it is reported with when the agent found it unfinished at its start.
const RESTART_REASON: &str = "the agent was restarted before the work ended";

/// Names a job: the server, its name for the run, and how often it has offered it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunKey {
    /// The server, as its link calls it (its URL).
    pub peer: String,
    /// The server's name for the run, without the generation.
    pub run: String,
    /// Grows with every offer of the same run.
    pub generation: u64,
}

impl RunKey {
    /// What stays the same over all offers of a run.
    #[must_use]
    pub fn identity(&self) -> (String, String) {
        (self.peer.clone(), self.run.clone())
    }
}

/// Work that a server wants done.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// What it is called.
    pub key: RunKey,
    /// Kind of work, which names the tool.
    pub kind: String,
    /// What the tool is given.
    pub spec: Value,
    /// What to do it to; empty for work that has no targets, or has them in its spec.
    pub targets: Vec<Value>,
    /// Targets worked on at a time; `None` is one after another, 0 counts as 1.
    pub workers: Option<u32>,
    /// Jobs that name the same lane run one after another.
    pub lane: Option<String>,
    /// Not before this time.
    pub start: Option<Timestamp>,
    /// Given up at this time.
    pub deadline: Option<Timestamp>,
    /// The server proved nothing of itself: whatever the policy allows, it is obeyed only in what
    /// observes, scans and measures (threat model, section 2).
    pub unproven: bool,
}

impl Job {
    /// A job that starts at once, alone.
    #[must_use]
    pub fn new(key: RunKey, kind: impl Into<String>, spec: Value) -> Self {
        Self {
            key,
            kind: kind.into(),
            spec,
            targets: Vec::new(),
            workers: None,
            lane: None,
            start: None,
            deadline: None,
            unproven: false,
        }
    }
}

/// What became of a job that was not refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Accepted {
    /// It will run; its news go to the sender that came with it.
    Started,
    /// It was under way already; from here on its news go to the sender that came with this offer.
    Running(Progress),
    /// It had ended already, this way. No news will come.
    Ended(Ending),
}

/// Why a job was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No tool for it.
    #[error("this agent cannot do {kind}")]
    UnknownKind {
        /// The kind asked for.
        kind: String,
    },
    /// The spec is no spec for that tool.
    #[error("the {kind} spec is not valid")]
    Spec {
        /// The kind asked for.
        kind: String,
        /// What is wrong with it.
        #[source]
        source: SpecError,
    },
    /// The local policy says no.
    #[error("denied by the agent's policy: {reason}")]
    Denied {
        /// Class of the job.
        class: ActionClass,
        /// Why.
        reason: String,
    },
    /// Another job that must be alone is under way.
    #[error("agent busy: task {run}")]
    Busy {
        /// That job.
        run: String,
    },
    /// The run's name stands for other work.
    #[error("task_id already in use")]
    InUse,
    /// Too much at once.
    #[error("{JOBS_MAX} jobs are under way or waiting; the agent takes no more")]
    Full,
    /// The agent is ending.
    #[error("the agent is shutting down")]
    Closed,
    /// The decision could not be recorded.
    #[error("the agent cannot write its audit trail")]
    Audit(#[source] std::io::Error),
    /// The intent could not be made durable.
    #[error("the agent cannot remember the job")]
    Ledger(#[source] LedgerError),
}

/// One job under way or waiting, for status reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Underway {
    /// What it is called, under its current generation.
    pub key: RunKey,
    /// Kind of work.
    pub kind: String,
    /// When it was accepted.
    pub since: Timestamp,
    /// How far it is.
    pub progress: Progress,
}

/// What a crew is made of.
#[derive(Debug)]
pub struct CrewParts {
    /// The tools.
    pub registry: Registry,
    /// Where the policy is read.
    pub policy: PolicySource,
    /// Where decisions are recorded.
    pub audit: Audit,
    /// The clock.
    pub clock: Clock,
    /// Seed of everything random in the tools.
    pub seed: [u8; 32],
    /// Root of the file system the tools look at.
    pub root: PathBuf,
    /// The agent's state folder (`STATE/agent`).
    pub state: PathBuf,
}

/// The executor. Clones share one crew.
#[derive(Clone)]
pub struct Crew {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    policy: PolicySource,
    audit: Audit,
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    root: PathBuf,
    state: PathBuf,
    rng: Mutex<ChaCha20Rng>,
    book: Mutex<Book>,
    /// One decision at a time: what is recalled of a run stays true until it is begun.
    gate: tokio::sync::Mutex<()>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
struct Book {
    jobs: BTreeMap<(String, String), Held>,
    /// Of each lane the job that was given last: set when it, and all before it, have ended.
    lanes: BTreeMap<String, CancellationToken>,
}

struct Held {
    kind: String,
    class: ActionClass,
    fingerprint: String,
    since: Timestamp,
    line: Arc<news::Line>,
    cancel: CancellationToken,
}

impl std::fmt::Debug for Crew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew")
            .field("registry", &self.inner.registry)
            .finish_non_exhaustive()
    }
}

impl Crew {
    /// A crew with its memory.
    #[must_use]
    pub fn new(parts: CrewParts, ledger: Arc<dyn Ledger>) -> Self {
        let CrewParts {
            registry,
            policy,
            audit,
            clock,
            seed,
            root,
            state,
        } = parts;
        let inner = Inner {
            registry,
            policy,
            audit,
            ledger,
            clock,
            root,
            state,
            rng: Mutex::new(ChaCha20Rng::from_seed(seed)),
            book: Mutex::default(),
            gate: tokio::sync::Mutex::new(()),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The tools of this crew.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Ends what a crash or restart cut off: every intent without an ending failed. To be called
    /// once, before the first job is taken; the links then tell the servers what
    /// [`Crew::unacknowledged`] lists.
    ///
    /// # Errors
    /// [`LedgerError`] when the memory fails.
    pub async fn recover(&self) -> Result<usize, LedgerError> {
        let open = self.inner.ledger.open().await?;
        for intent in &open {
            let failure = Failure::new(Cause::Interrupted, RESTART_REASON);
            let now = self.inner.clock.now();
            self.inner
                .ledger
                .conclude(&intent.key, &Ending::Failed(failure), now)
                .await?;
        }
        Ok(open.len())
    }

    /// Takes a job or says why not.
    ///
    /// Returns when the decision is durable; the work goes on by itself, and `news` hears of it.
    ///
    /// # Errors
    /// [`Refusal`], after which no news come.
    pub async fn submit(&self, job: Job, news: mpsc::Sender<News>) -> Result<Accepted, Refusal> {
        let inner = &self.inner;
        let _turn = inner.gate.lock().await;
        if inner.stop.is_cancelled() {
            return Err(Refusal::Closed);
        }
        let Some(tool) = inner.registry.find(&job.kind) else {
            let refusal = Refusal::UnknownKind {
                kind: job.kind.clone(),
            };
            self.record(&job, None, Decision::Deny, Some(refusal.to_string()))
                .await?;
            return Err(refusal);
        };
        let fingerprint = fingerprint(&job);
        if let Some(held) = inner.book().jobs.get(&job.key.identity()) {
            if held.fingerprint != fingerprint {
                return Err(Refusal::InUse);
            }
            held.line.attach(job.key, news);
            return Ok(Accepted::Running(held.line.shown()));
        }
        let bad_spec = |source| Refusal::Spec {
            kind: job.kind.clone(),
            source,
        };
        let parts = tool.expand(&job.spec, &job.targets).map_err(bad_spec)?;
        for part in &parts {
            tool.check(part).map_err(bad_spec)?;
        }
        let class = parts
            .iter()
            .map(|part| tool.class(part))
            .max()
            .unwrap_or(ActionClass::Destroy);

        let recalled = inner
            .ledger
            .recall(&job.key)
            .await
            .map_err(Refusal::Ledger)?;
        if let Some(ending) = known_ending(recalled, &job.key, &fingerprint, class)? {
            return Ok(Accepted::Ended(ending));
        }
        {
            let book = inner.book();
            if book.jobs.len() >= JOBS_MAX {
                return Err(Refusal::Full);
            }
            if is_exclusive(class)
                && let Some(other) = book.jobs.values().find(|held| is_exclusive(held.class))
            {
                return Err(Refusal::Busy {
                    run: other.line.key().run,
                });
            }
        }
        let permit = match self.verdict(class, job.unproven).await {
            Verdict::Allow(permit) => permit,
            Verdict::Deny(reason) => {
                self.record(&job, Some(class), Decision::Deny, Some(reason.clone()))
                    .await?;
                return Err(Refusal::Denied { class, reason });
            }
        };
        self.record(&job, Some(class), Decision::Allow, None)
            .await?;
        let since = inner.clock.now();
        let intent = Intent {
            key: job.key.clone(),
            kind: job.kind.clone(),
            fingerprint: fingerprint.clone(),
            at: since,
        };
        inner.ledger.intend(intent).await.map_err(Refusal::Ledger)?;

        let line = Arc::new(news::Line::new(
            job.key.clone(),
            news,
            parts.len(),
            inner.clock.clone(),
        ));
        let cancel = inner.stop.child_token();
        let held = Held {
            kind: job.kind.clone(),
            class,
            fingerprint,
            since,
            line: Arc::clone(&line),
            cancel: cancel.clone(),
        };
        let after = {
            let mut book = inner.book();
            book.jobs.insert(job.key.identity(), held);
            job.lane.as_ref().map(|lane| {
                let ended = CancellationToken::new();
                (
                    book.lanes.insert(lane.clone(), ended.clone()),
                    ended.drop_guard(),
                )
            })
        };
        let (before, ended) = after.unzip();
        let before = before.flatten();
        let work = Work {
            job,
            class,
            tool,
            parts,
            permit,
            line,
            cancel,
            before: before.clone(),
        };
        let crew = self.clone();
        inner.tracker.spawn(async move {
            crew.carry_out(work).await;
            // A job that was cancelled while it waited still keeps those behind it waiting.
            if let Some(before) = before {
                before.cancelled().await;
            }
            drop(ended);
        });
        Ok(Accepted::Started)
    }

    /// Cancels a job, whatever its generation. `false` when it is not under way.
    pub fn cancel(&self, peer: &str, run: &str) -> bool {
        let book = self.inner.book();
        match book.jobs.get(&(peer.to_owned(), run.to_owned())) {
            Some(held) => {
                held.cancel.cancel();
                true
            }
            None => false,
        }
    }

    /// Jobs under way or waiting, in the order of their names.
    #[must_use]
    pub fn underway(&self) -> Vec<Underway> {
        let book = self.inner.book();
        book.jobs
            .values()
            .map(|held| Underway {
                key: held.line.key(),
                kind: held.kind.clone(),
                since: held.since,
                progress: held.line.shown(),
            })
            .collect()
    }

    /// The server has heard how a job ended.
    ///
    /// # Errors
    /// [`LedgerError`] when the memory fails; the ending will then be told again.
    pub async fn acknowledge(&self, key: &RunKey) -> Result<(), LedgerError> {
        self.inner.ledger.acknowledge(key).await
    }

    /// Endings that a server has not acknowledged, oldest first: to be told after a reconnect.
    ///
    /// # Errors
    /// [`LedgerError`] when the memory fails.
    pub async fn unacknowledged(&self, peer: &str) -> Result<Vec<Record>, LedgerError> {
        self.inner.ledger.unacknowledged(peer).await
    }

    /// Drops the memory of jobs begun before a time whose ending is acknowledged.
    ///
    /// # Errors
    /// [`LedgerError`] when the memory fails.
    pub async fn forget(&self, before: Timestamp) -> Result<(), LedgerError> {
        self.inner.ledger.forget(before).await
    }

    /// Takes no more jobs, stops those under way, and returns when all have ended.
    pub async fn drain(&self) {
        self.inner.stop.cancel();
        // A submit that passed the check before the line above is waited for here.
        drop(self.inner.gate.lock().await);
        self.inner.tracker.close();
        self.inner.tracker.wait().await;
    }

    async fn verdict(&self, class: ActionClass, unproven: bool) -> Verdict {
        if unproven && !is_harmless(class) {
            return Verdict::Deny(format!(
                "{} is not taken from a server over plain http on another machine",
                class.word()
            ));
        }
        let policy = self.inner.policy.clone();
        let verdict = self
            .inner
            .clock
            .off_thread(move || policy.load().verdict(class))
            .await;
        verdict.unwrap_or_else(|| Verdict::Deny("it cannot be read".into()))
    }

    async fn carry_out(&self, work: Work) {
        let inner = &self.inner;
        let identity = work.job.key.identity();
        let ending = match self.outcome(&work).await {
            Ok(result) => Ending::Finished(result),
            Err(failure) => Ending::Failed(failure),
        };
        let key = work.line.key();
        if let Err(error) = inner
            .ledger
            .conclude(&key, &ending, inner.clock.now())
            .await
        {
            tracing::error!(
                run.id = key.run,
                error = &error as &dyn std::error::Error,
                "the ending of a job could not be written down"
            );
        }
        let (decision, reason) = match &ending {
            Ending::Finished(_) => (Decision::End, None),
            Ending::Failed(failure) if failure.cause == Cause::Denied => {
                (Decision::Deny, Some(failure.reason.clone()))
            }
            Ending::Failed(failure) => (Decision::End, Some(failure.reason.clone())),
        };
        if let Err(refusal) = self
            .record(&work.job, Some(work.class), decision, reason)
            .await
        {
            tracing::error!(
                run.id = key.run,
                error = &refusal as &dyn std::error::Error,
                "the end of a job could not be recorded"
            );
        }
        inner.book().jobs.remove(&identity);
        work.line.say(Word::ending(ending)).await;
    }

    /// Waits for the job's turn and start, runs its targets, and watches deadline and cancellation.
    async fn outcome(&self, work: &Work) -> Outcome {
        let inner = &self.inner;
        let stopped = || {
            if inner.stop.is_cancelled() {
                Failure::new(Cause::Interrupted, SHUTDOWN_REASON)
            } else {
                Failure::cancelled()
            }
        };
        let overdue = || Failure::new(Cause::Deadline, "the deadline passed");
        let waiting = async {
            if let Some(before) = &work.before {
                before.cancelled().await;
            }
            if let Some(start) = work.job.start {
                self.sleep_until(start).await;
            }
        };
        tokio::select! {
            biased;
            () = work.cancel.cancelled() => return Err(stopped()),
            () = self.deadline(work) => return Err(overdue()),
            () = waiting => {}
        }
        work.line.say(Word::Begun).await;

        let ctx = Context {
            root: inner.root.clone(),
            state: inner.state.clone(),
            clock: inner.clock.clone(),
            seed: [0; 32],
            permit: work.permit.clone(),
            cancel: work.cancel.clone(),
            report: Reporter::silent(),
        };
        let mut running = Box::pin(run_parts(ctx, work, || inner.seed()));
        let stop_reason = tokio::select! {
            biased;
            outcome = &mut running => return outcome,
            () = work.cancel.cancelled() => stopped(),
            () = self.deadline(work) => { work.cancel.cancel(); overdue() }
        };
        // A tool that ends in time may still hand over what it has.
        match tokio::time::timeout(STOP_GRACE, &mut running).await {
            Ok(Err(failure)) => Err(Failure {
                result: failure.result,
                ..stop_reason
            }),
            Ok(Ok(result)) => Err(stop_reason.with_result(result)),
            Err(_) => Err(stop_reason),
        }
    }

    async fn deadline(&self, work: &Work) {
        match work.job.deadline {
            Some(deadline) => self.sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    }

    async fn sleep_until(&self, time: Timestamp) {
        loop {
            let left = time.duration_since(self.inner.clock.now());
            let Ok(left) = Duration::try_from(left) else {
                return;
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(CLOCK_CHECK)).await;
        }
    }

    async fn record(
        &self,
        job: &Job,
        class: Option<ActionClass>,
        decision: Decision,
        reason: Option<String>,
    ) -> Result<(), Refusal> {
        let crew = self.clone();
        let (kind, key) = (job.kind.clone(), job.key.clone());
        let targets = job.targets.iter().map(target_name).collect::<Vec<_>>();
        let at = self.inner.clock.now();
        let recorded = self.inner.clock.off_thread(move || {
            crew.inner.audit.record(&Entry {
                at,
                decision,
                kind: &kind,
                class: class.map(ActionClass::word),
                peer: &key.peer,
                run: &key.run,
                targets: &targets,
                reason: reason.as_deref(),
            })
        });
        match recorded.await {
            Some(written) => written.map_err(Refusal::Audit),
            None => Err(Refusal::Closed),
        }
    }
}

impl Inner {
    fn book(&self) -> MutexGuard<'_, Book> {
        match self.book.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    fn seed(&self) -> [u8; 32] {
        let mut rng = match self.rng.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        };
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        seed
    }
}

struct Work {
    job: Job,
    class: ActionClass,
    tool: Arc<dyn Tool>,
    parts: Vec<Value>,
    permit: Permit,
    line: Arc<news::Line>,
    cancel: CancellationToken,
    before: Option<CancellationToken>,
}

/// Runs every target, up to `workers` at a time, each in a task of its own.
async fn run_parts(ctx: Context, work: &Work, seed: impl Fn() -> [u8; 32]) -> Outcome {
    let workers = usize::try_from(work.job.workers.unwrap_or(1)).unwrap_or(WORKERS_MAX);
    let runs = work
        .parts
        .clone()
        .into_iter()
        .enumerate()
        .map(|(index, part)| {
            let tool = Arc::clone(&work.tool);
            let ctx = Context {
                seed: seed(),
                report: Reporter::of_part(Arc::clone(&work.line), index),
                ..ctx.clone()
            };
            async move {
                if ctx.cancel.is_cancelled() {
                    return (index, Err(Failure::cancelled()));
                }
                let task = tokio::spawn(async move { tool.run(ctx, part).await });
                let outcome = match AbortOnDropHandle::new(task).await {
                    Ok(outcome) => outcome,
                    Err(error) if error.is_panic() => Err(Failure::failed(
                        "the tool failed unexpectedly; this is a bug",
                    )),
                    Err(_) => Err(Failure::cancelled()),
                };
                (index, outcome)
            }
        });
    let mut ended = futures_util::stream::iter(runs)
        .buffer_unordered(workers.clamp(1, WORKERS_MAX))
        .collect::<Vec<_>>()
        .await;
    ended.sort_by_key(|(index, _)| *index);
    let outcomes = ended.into_iter().map(|(_, outcome)| outcome);
    work.tool
        .gather(work.parts.iter().cloned().zip(outcomes).collect())
}

/// The ending to answer a repeated job with; `None` when it is to be worked on.
fn known_ending(
    recalled: Option<Record>,
    key: &RunKey,
    fingerprint: &str,
    class: ActionClass,
) -> Result<Option<Ending>, Refusal> {
    let Some(Record { intent, ending }) = recalled else {
        return Ok(None);
    };
    if intent.fingerprint != fingerprint {
        return Err(Refusal::InUse);
    }
    let ending =
        ending.unwrap_or_else(|| Ending::Failed(Failure::new(Cause::Interrupted, RESTART_REASON)));
    let interrupted =
        matches!(&ending, Ending::Failed(failure) if failure.cause == Cause::Interrupted);
    if interrupted && key.generation > intent.key.generation && may_repeat(class) {
        return Ok(None);
    }
    Ok(Some(ending))
}

/// Digest of what makes two jobs the same work: kind, spec, targets and workers, in any order of
/// members.
fn fingerprint(job: &Job) -> String {
    fn feed(hash: &mut Sha256, value: &Value) {
        match value {
            Value::Object(members) => {
                hash.update(b"{");
                let sorted = members.iter().collect::<BTreeMap<_, _>>();
                for (name, member) in sorted {
                    hash.update(Value::String(name.clone()).to_string());
                    hash.update(b":");
                    feed(hash, member);
                    hash.update(b",");
                }
                hash.update(b"}");
            }
            Value::Array(entries) => {
                hash.update(b"[");
                for entry in entries {
                    feed(hash, entry);
                    hash.update(b",");
                }
                hash.update(b"]");
            }
            Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => {
                hash.update(value.to_string());
            }
        }
    }
    let mut hash = Sha256::new();
    hash.update(job.kind.as_bytes());
    hash.update([0]);
    feed(&mut hash, &job.spec);
    hash.update([0]);
    feed(&mut hash, &Value::Array(job.targets.clone()));
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What a target is called in the audit trail; never a credential.
fn target_name(target: &Value) -> String {
    if let Value::String(text) = target {
        return text.clone();
    }
    ["network", "host", "dest", "address", "target"]
        .iter()
        .find_map(|member| target.get(member).and_then(Value::as_str))
        .unwrap_or("unnamed")
        .to_owned()
}

#[cfg(test)]
mod tests;
