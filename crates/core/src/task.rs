//! Tasks: the intent to have work done, once or again and again.

use std::fmt;
use std::num::NonZeroU32;

use jiff::{SignedDuration, Timestamp};

use crate::id::{AgentId, TaskId};
use crate::kind::Kind;
use crate::schedule::Schedule;
use crate::words;

words! {
    /// Where a task came from.
    pub enum Origin("origin") {
        /// A program over the admin API.
        Api = "api",
        /// A person at the command line.
        Cli = "cli",
        /// A pScheduler client or server.
        Pscheduler = "pscheduler",
        /// `muster up`: the first work of a new server.
        Up = "up",
        /// A Zabbix server or proxy.
        Zabbix = "zabbix",
    }
}

words! {
    /// Whether a task may still have runs.
    pub enum TaskState("task state") {
        /// Wants runs, or has some under way.
        Active = "active",
        /// Called off.
        Cancelled = "cancelled",
        /// Has had all its runs.
        Ended = "ended",
    }
}

/// Who is to do the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assignee {
    /// Any approved agent that can.
    Any,
    /// Each of these; every one gets its own run at every turn.
    Named(Vec<AgentId>),
}

impl Assignee {
    /// The named agents, none for [`Assignee::Any`].
    pub fn agents(&self) -> &[AgentId] {
        match self {
            Self::Any => &[],
            Self::Named(agents) => agents,
        }
    }
}

/// What is to be done, in the words of the kind. Opaque to the core; a JSON object as text.
///
/// Members whose name begins with `_` are secret: they go to the agent and are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Spec(String);

impl Spec {
    /// Wraps JSON text that the caller has parsed.
    pub fn from_json(json: impl Into<String>) -> Self {
        Self(json.into())
    }

    /// The JSON text, secrets included.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spec({} bytes)", self.0.len())
    }
}

/// An intent to have work done.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Our id.
    pub id: TaskId,
    /// The kind of work.
    pub kind: Kind,
    /// Where it came from.
    pub origin: Origin,
    /// What is to be done.
    pub spec: Spec,
    /// Things to do in parallel up to `workers`: networks, hosts.
    pub targets: Vec<String>,
    /// How many targets at once; absent: one after another.
    pub workers: Option<NonZeroU32>,
    /// When.
    pub schedule: Schedule,
    /// By whom.
    pub assignee: Assignee,
    /// Who gets the place when two want it; higher wins.
    pub priority: i32,
    /// How long one run is planned to take.
    pub length: SignedDuration,
    /// Whether it may still have runs.
    pub state: TaskState,
    /// When it was submitted.
    pub created: Timestamp,
    /// Counts its changes; a plan made for another generation does not apply.
    pub generation: u32,
    /// What the wire it came over needs to show it again (for pScheduler: the posted task), as
    /// JSON; may hold secrets under `_`.
    pub peer: Option<Spec>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_not_shown_by_debug() {
        let spec = Spec::from_json(r#"{"_credentials":"s3cret"}"#);
        assert!(!format!("{spec:?}").contains("s3cret"));
    }

    #[test]
    fn words_read_back() {
        for origin in Origin::ALL {
            assert_eq!(origin.word().parse(), Ok(origin));
        }
        for state in [TaskState::Active, TaskState::Cancelled, TaskState::Ended] {
            assert_eq!(state.word().parse(), Ok(state));
        }
    }
}
