//! The work an agent can do, one [`Tool`] for each kind.
//!
//! A tool takes a JSON spec that its [`Tool::check`] has approved and gives a JSON result. It
//! reaches the outside only through what its [`Context`] hands it: the root of the file system,
//! the clock, a seed, the permit of the local policy, a cancellation token and a way to tell what
//! it has found so far. It knows no wire: a link translates specs and results.
//!
//! # Adding a tool
//!
//! Implement [`Tool`] in a file of this directory and add it to [`registry`]. A tool that works on
//! named machines asks [`Context::permit`] about every address before the first packet to it.
//! A tool never blocks the runtime: file system work goes through `tokio::task::spawn_blocking`.

pub mod clock;
pub mod discover;
pub mod idle;
pub mod inventory;
pub mod items;
pub mod names;
pub mod noop;
pub mod qc;
pub mod rtt;
pub mod snmp;
pub mod spec;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::crew::Reporter;
use crate::policy::{ActionClass, Permit};
use muster_net::clock::Clock;

/// What a tool call ends in: a result in JSON, or why there is none.
pub type Outcome = Result<Value, Failure>;

/// One kind of work.
pub trait Tool: Send + Sync + 'static {
    /// Name of the kind, as in task specs and capabilities (`netdiscovery`, `rtt`, `decom.qc`).
    fn kind(&self) -> &'static str;

    /// Version told to servers beside the kind.
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// Class of the local policy that a job with this spec falls into.
    fn class(&self, spec: &Value) -> ActionClass;

    /// Refuses a spec that [`Tool::run`] could not work with, before anything is done.
    ///
    /// # Errors
    /// [`SpecError`] with the path of the offending member.
    fn check(&self, spec: &Value) -> Result<(), SpecError>;

    /// Member of the spec that takes a target given as a bare string.
    fn target_member(&self) -> &'static str {
        "target"
    }

    /// Splits a job into the specs of its targets, each to be run on its own.
    ///
    /// A target that is an object is laid over the spec, a string is put under
    /// [`Tool::target_member`]. No targets: the spec itself is the only one.
    ///
    /// # Errors
    /// [`SpecError`] for a target that is neither.
    fn expand(&self, spec: &Value, targets: &[Value]) -> Result<Vec<Value>, SpecError> {
        if targets.is_empty() {
            return Ok(vec![spec.clone()]);
        }
        targets
            .iter()
            .enumerate()
            .map(|(index, target)| lay_over(spec, target, self.target_member(), index))
            .collect()
    }

    /// Joins the outcomes of the targets, in their order, into the outcome of the job.
    fn gather(&self, parts: Vec<(Value, Outcome)>) -> Outcome {
        gather_list(parts)
    }

    /// Does the work. Ends soon after [`Context::cancel`] is set.
    fn run<'a>(&'a self, ctx: Context, spec: Value) -> BoxFuture<'a, Outcome>;
}

/// What a tool may use.
#[derive(Clone, Debug)]
pub struct Context {
    /// Root of the file system to look at; `/` except in tests with fixture trees.
    pub root: PathBuf,
    /// The agent's own state folder (`STATE/agent`), for what a tool must keep between runs.
    pub state: PathBuf,
    /// The clock.
    pub clock: Clock,
    /// Seed of everything random in this call; see [`Context::rng`].
    pub seed: [u8; 32],
    /// What the local policy lets this call touch.
    pub permit: Permit,
    /// Set when the work shall stop: cancelled, past its deadline, or the agent is ending.
    pub cancel: CancellationToken,
    /// Takes progress and partial results.
    pub report: Reporter,
}

impl Context {
    /// A generator of this call's random numbers. Each call of this function starts it anew.
    #[must_use]
    pub fn rng(&self) -> ChaCha20Rng {
        ChaCha20Rng::from_seed(self.seed)
    }

    /// What a one-shot command at a terminal runs a tool with: the real file system, the local
    /// operator's own permission, nobody listening for partial results.
    #[must_use]
    pub fn operator(clock: Clock, seed: [u8; 32], state: PathBuf) -> Self {
        Self {
            root: PathBuf::from("/"),
            state,
            clock,
            seed,
            permit: Permit::operator(),
            cancel: CancellationToken::new(),
            report: Reporter::silent(),
        }
    }
}

/// Why a tool gave no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// What kind of end this is.
    pub cause: Cause,
    /// One sentence for a person, a lower-case fragment.
    pub reason: String,
    /// What to do about it, where that is known.
    pub remedy: Option<String>,
    /// What was found before it failed, in the shape of a result.
    pub result: Option<Value>,
}

/// What kind of end a [`Failure`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Cancelled from outside.
    Cancelled,
    /// The deadline of the job passed.
    Deadline,
    /// The local policy does not allow it.
    Denied,
    /// The work itself failed.
    Failed,
    /// The agent ended or was restarted meanwhile.
    Interrupted,
    /// This process may not do it; see the remedy.
    Permission,
}

impl Cause {
    /// The word used in stored endings.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Permission => "permission",
        }
    }

    /// Reads the word of [`Cause::word`].
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::Cancelled,
            Self::Deadline,
            Self::Denied,
            Self::Failed,
            Self::Interrupted,
            Self::Permission,
        ]
        .into_iter()
        .find(|cause| cause.word() == word)
    }
}

impl Failure {
    /// The work failed for `reason`.
    #[must_use]
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::new(Cause::Failed, reason)
    }

    /// The work was cancelled.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::new(Cause::Cancelled, "cancelled")
    }

    /// The local policy forbids it.
    #[must_use]
    pub fn denied(reason: impl Into<String>) -> Self {
        Self::new(Cause::Denied, reason)
    }

    /// A failure of the given kind.
    #[must_use]
    pub fn new(cause: Cause, reason: impl Into<String>) -> Self {
        Self {
            cause,
            reason: reason.into(),
            remedy: None,
            result: None,
        }
    }

    /// The same failure with a way out of it.
    #[must_use]
    pub fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }

    /// The same failure with what was found until then.
    #[must_use]
    pub fn with_result(self, result: Value) -> Self {
        Self {
            result: Some(result),
            ..self
        }
    }
}

/// A spec that a tool cannot work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {path}: {problem}")]
pub struct SpecError {
    /// Where, as a JSON pointer; `/` for the spec itself.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

impl SpecError {
    /// A problem at a path.
    #[must_use]
    pub fn at(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            problem: problem.into(),
        }
    }
}

/// The tools of one agent, by kind.
#[derive(Clone, Default)]
pub struct Registry {
    tools: BTreeMap<&'static str, Arc<dyn Tool>>,
}

impl Registry {
    /// A registry without tools.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The same registry with one more tool; a later tool of the same kind replaces the earlier.
    #[must_use]
    pub fn with(mut self, tool: impl Tool) -> Self {
        self.tools.insert(tool.kind(), Arc::new(tool));
        self
    }

    /// The tool for a kind.
    #[must_use]
    pub fn find(&self, kind: &str) -> Option<Arc<dyn Tool>> {
        self.tools.get(kind).cloned()
    }

    /// Kinds with their versions, in alphabetical order: what the agent says it can do.
    pub fn capabilities(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.tools
            .values()
            .map(|tool| (tool.kind(), tool.version()))
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.tools.keys()).finish()
    }
}

/// Every tool of this build.
#[must_use]
pub fn registry() -> Registry {
    Registry::empty()
        .with(clock::Clocks)
        .with(discover::NetDiscovery::default())
        .with(idle::Idle::Beside)
        .with(idle::Idle::Alone)
        .with(inventory::Inventory)
        .with(qc::Qc)
        .with(noop::Noop)
        .with(rtt::Rtt)
}

fn lay_over(spec: &Value, target: &Value, member: &str, index: usize) -> Result<Value, SpecError> {
    let mut merged = match spec {
        Value::Object(members) => members.clone(),
        Value::Null => Map::new(),
        Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            return Err(SpecError::at("/", "the spec is not an object"));
        }
    };
    match target {
        Value::Object(members) => {
            for (name, value) in members {
                merged.insert(name.clone(), value.clone());
            }
        }
        Value::String(_) => {
            merged.insert(member.to_owned(), target.clone());
        }
        Value::Array(_) | Value::Bool(_) | Value::Null | Value::Number(_) => {
            return Err(SpecError::at(
                format!("/targets/{index}"),
                "a target is an object or a string",
            ));
        }
    }
    Ok(Value::Object(merged))
}

fn gather_list(mut parts: Vec<(Value, Outcome)>) -> Outcome {
    if parts.len() == 1
        && let Some((_, only)) = parts.pop()
    {
        return only;
    }
    let failed = parts.iter().filter(|(_, outcome)| outcome.is_err()).count();
    let total = parts.len();
    let mut first_failure = None;
    let rows = parts
        .into_iter()
        .map(|(target, outcome)| {
            let mut row = Map::new();
            row.insert("target".to_owned(), without_secrets(target));
            match outcome {
                Ok(result) => row.insert("result".to_owned(), result),
                Err(failure) => {
                    let reason = failure.reason.clone();
                    first_failure.get_or_insert(failure);
                    row.insert("error".to_owned(), Value::String(reason))
                }
            };
            Value::Object(row)
        })
        .collect::<Vec<_>>();
    let result = Value::Object(Map::from_iter([("targets".to_owned(), Value::Array(rows))]));
    match first_failure {
        Some(failure) if failed == total => Err(Failure {
            result: Some(result),
            ..failure
        }),
        Some(_) | None => Ok(result),
    }
}

/// The same spec without what must not be shown again: credentials and members that begin with `_`.
fn without_secrets(spec: Value) -> Value {
    match spec {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .filter(|(name, _)| !name.starts_with('_') && name != "credentials")
                .collect(),
        ),
        other @ (Value::Array(_)
        | Value::Bool(_)
        | Value::Null
        | Value::Number(_)
        | Value::String(_)) => other,
    }
}
