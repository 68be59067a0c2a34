//! The run machine: one execution of a task, from proposal to end.
//!
//! ```text
//! Proposed --accept--> Planned --offer--> Offered --begin--> Running --gather--> Collecting
//!                         ^                 |                   |                     |
//!                         +------lapse------+                   +-------close---------+--> Ended
//!   Offered | Running | Collecting --overdue--> Overdue --close | give_up--> Ended
//!   refuse, cancel, preempt, expire: to Ended
//! ```
//!
//! **Invariant:** every verb is idempotent for the same news, `Ended` never changes, and an
//! agent's word counts only under the lease it was given ([`RunState::admits`]).

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use crate::id::{AgentId, RunId, TaskId};
use crate::time::saturating_add;
use crate::words;

/// How long after its window a silent run is called overdue, and how much later than `start + slip`
/// a run may still begin (pScheduler contract, section 6: straggle).
pub const STRAGGLE: SignedDuration = SignedDuration::from_secs(30);

/// When a run may begin and how long it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The agreed start.
    pub start: Timestamp,
    /// After this it may not begin any more.
    pub latest_start: Timestamp,
    /// How long it is planned to take.
    pub length: SignedDuration,
}

impl Window {
    /// When it is planned to be over.
    pub fn end(&self) -> Timestamp {
        saturating_add(self.start, self.length)
    }

    /// Whether two windows share an instant.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }
}

/// The right, until a time, to report on a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it.
    pub agent: AgentId,
    /// When it lapses unless the agent begins.
    pub expires: Timestamp,
    /// Counts the offers of this run; word under an older one is stale.
    pub generation: u32,
}

/// A run and the offer it is under, as peers echo it: the run's id, a dot, the generation. It goes
/// out as a job id, a process number or a `task_id`, so that late news of an old offer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OfferToken {
    /// The run.
    pub run: RunId,
    /// Which offer of it.
    pub generation: u32,
}

impl fmt::Display for OfferToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.run, self.generation)
    }
}

/// A text that is no offer token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a run and an offer of it")]
pub struct BadOfferToken;

impl FromStr for OfferToken {
    type Err = BadOfferToken;

    fn from_str(text: &str) -> Result<Self, BadOfferToken> {
        let (run, generation) = text.rsplit_once('.').ok_or(BadOfferToken)?;
        Ok(Self {
            run: run.parse().map_err(|_| BadOfferToken)?,
            generation: generation.parse().map_err(|_| BadOfferToken)?,
        })
    }
}

/// How far a running run says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// 0 to 100.
    pub percent: Option<f64>,
    /// Remaining time as the agent estimates it.
    pub eta: Option<SignedDuration>,
}

/// Where a run is.
#[derive(Clone, Debug, PartialEq)]
pub enum RunState {
    /// Put to the participants.
    Proposed,
    /// Agreed; waits for its agent and its time.
    Planned,
    /// Handed to an agent that has not begun.
    Offered {
        /// The agent's right to report.
        lease: Lease,
    },
    /// The agent said it began.
    Running {
        /// The agent's right to report.
        lease: Lease,
        /// When it began.
        since: Timestamp,
        /// The last it said.
        progress: Option<Progress>,
    },
    /// Own part done, the parts of others awaited.
    Collecting {
        /// The agent's right to report.
        lease: Lease,
        /// When it began.
        since: Timestamp,
    },
    /// Silent past its window.
    Overdue {
        /// The agent's right to report.
        lease: Lease,
        /// When it began, if it ever did.
        since: Option<Timestamp>,
        /// When it was called overdue.
        noticed: Timestamp,
    },
    /// Over.
    Ended(End),
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// In a word.
    pub kind: EndKind,
    /// In a sentence, where there is more to say.
    pub reason: Option<String>,
    /// When.
    pub at: Timestamp,
    /// When it had begun, if it ever did.
    pub since: Option<Timestamp>,
}

words! {
    /// The ways a run can end.
    pub enum EndKind("way to end") {
        /// A person or a peer called it off.
        Cancelled = "cancelled",
        /// The peer's time to live passed.
        Expired = "expired",
        /// The work was tried and did not come off.
        Failed = "failed",
        /// Nobody did it in time.
        Missed = "missed",
        /// Lost its place to a higher priority.
        Preempted = "preempted",
        /// No common window, a participant down, a limit, a policy.
        Refused = "refused",
        /// The work is done.
        Succeeded = "succeeded",
    }
}

/// A verb said in a state that does not know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a run that is {from} cannot {verb}")]
pub struct IllegalMove {
    /// The state's word.
    pub from: &'static str,
    /// The verb.
    pub verb: &'static str,
}

/// Why an agent's word about a run does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StaleWord {
    /// The run is not with any agent.
    #[error("the run is {0}, with no agent")]
    Unleased(&'static str),
    /// The lease is somebody else's.
    #[error("the run is leased to agent {0}")]
    OtherAgent(AgentId),
    /// The lease is an older one.
    #[error("the word is under offer {said}, the run is at offer {current}")]
    OtherGeneration {
        /// The generation the agent spoke under.
        said: u32,
        /// The one that counts.
        current: u32,
    },
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a state that a verb does not name refuses it; the table test lists every pair"
)]
impl RunState {
    /// The word used in JSON and in the database.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Planned => "planned",
            Self::Offered { .. } => "offered",
            Self::Running { .. } => "running",
            Self::Collecting { .. } => "collecting",
            Self::Overdue { .. } => "overdue",
            Self::Ended(_) => "ended",
        }
    }

    /// The lease in force.
    pub const fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Offered { lease }
            | Self::Running { lease, .. }
            | Self::Collecting { lease, .. }
            | Self::Overdue { lease, .. } => Some(lease),
            Self::Proposed | Self::Planned | Self::Ended(_) => None,
        }
    }

    /// Whether nothing more will happen.
    pub const fn is_ended(&self) -> bool {
        matches!(self, Self::Ended(_))
    }

    /// Whether word of `agent` under `generation` counts.
    ///
    /// # Errors
    /// [`StaleWord`] says why it does not; such word is logged and dropped.
    pub fn admits(&self, agent: AgentId, generation: u32) -> Result<(), StaleWord> {
        let lease = self.lease().ok_or(StaleWord::Unleased(self.word()))?;
        if lease.agent != agent {
            return Err(StaleWord::OtherAgent(lease.agent));
        }
        if lease.generation != generation {
            return Err(StaleWord::OtherGeneration {
                said: generation,
                current: lease.generation,
            });
        }
        Ok(())
    }

    /// Every participant took the window.
    ///
    /// # Errors
    /// Legal from `Proposed`; saying it again of a planned run changes nothing.
    pub fn accept(self) -> Result<Self, IllegalMove> {
        match self {
            Self::Proposed | Self::Planned => Ok(Self::Planned),
            other => other.illegal("accept"),
        }
    }

    /// No common window, a participant down, a limit or a policy.
    ///
    /// # Errors
    /// Legal from `Proposed` and `Planned`, and from `Offered` when the agent itself declines.
    pub fn refuse(self, reason: &str, at: Timestamp) -> Result<Self, IllegalMove> {
        match self {
            Self::Proposed | Self::Planned | Self::Offered { .. } => {
                Ok(Self::ended(EndKind::Refused, Some(reason), at, None))
            }
            Self::Ended(end) if end.kind == EndKind::Refused => Ok(Self::Ended(end)),
            other => other.illegal("refuse"),
        }
    }

    /// Handed to an agent. The same agent may ask again while it has not begun (the reply was
    /// lost): the same run, under the next generation.
    ///
    /// # Errors
    /// Legal from `Planned`, and from `Offered` to the same agent with a newer generation.
    pub fn offer(self, lease: Lease) -> Result<Self, IllegalMove> {
        match self {
            Self::Planned => Ok(Self::Offered { lease }),
            Self::Offered { lease: held } if held == lease => Ok(Self::Offered { lease }),
            Self::Offered { lease: held }
                if held.agent == lease.agent && held.generation < lease.generation =>
            {
                Ok(Self::Offered { lease })
            }
            other => other.illegal("offer"),
        }
    }

    /// The lease ran out before the agent began, or nobody was ever offered it: planned again,
    /// or missed when its latest start has passed.
    ///
    /// # Errors
    /// Legal from `Planned` and `Offered`.
    pub fn lapse(self, window: &Window, now: Timestamp) -> Result<Self, IllegalMove> {
        let late = now > window.latest_start;
        match self {
            Self::Planned if late => Ok(Self::ended(
                EndKind::Missed,
                Some("no agent took it before its latest start"),
                now,
                None,
            )),
            Self::Offered { lease } if late => Ok(Self::ended(
                EndKind::Missed,
                Some(&format!(
                    "agent {} was offered it and did not begin in time",
                    lease.agent
                )),
                now,
                None,
            )),
            Self::Planned | Self::Offered { .. } => Ok(Self::Planned),
            Self::Ended(end) if end.kind == EndKind::Missed => Ok(Self::Ended(end)),
            other => other.illegal("lapse"),
        }
    }

    /// First word from the agent; later percent and eta keep it running.
    ///
    /// # Errors
    /// Legal from `Offered`; saying it again changes at most the progress. A run that was called
    /// overdue runs again.
    pub fn begin(self, progress: Option<Progress>, at: Timestamp) -> Result<Self, IllegalMove> {
        match self {
            Self::Offered { lease } => Ok(Self::Running {
                lease,
                since: at,
                progress,
            }),
            Self::Running {
                lease,
                since,
                progress: before,
            } => Ok(Self::Running {
                lease,
                since,
                progress: progress.or(before),
            }),
            Self::Overdue {
                lease,
                since,
                noticed,
            } => Ok(Self::Overdue {
                lease,
                since: since.or(Some(at)),
                noticed,
            }),
            collecting @ Self::Collecting { .. } => Ok(collecting),
            other => other.illegal("begin"),
        }
    }

    /// Own part done, others' results awaited.
    ///
    /// # Errors
    /// Legal from `Running`.
    pub fn gather(self) -> Result<Self, IllegalMove> {
        match self {
            Self::Running { lease, since, .. } | Self::Collecting { lease, since } => {
                Ok(Self::Collecting { lease, since })
            }
            other => other.illegal("gather"),
        }
    }

    /// The outcome is complete. A final word implies that the agent had begun.
    ///
    /// # Errors
    /// Legal from `Offered`, `Running`, `Collecting` and `Overdue`; the same end again changes
    /// nothing.
    pub fn close(
        self,
        succeeded: bool,
        reason: Option<&str>,
        at: Timestamp,
    ) -> Result<Self, IllegalMove> {
        let kind = if succeeded {
            EndKind::Succeeded
        } else {
            EndKind::Failed
        };
        match self {
            Self::Offered { .. } => Ok(Self::ended(kind, reason, at, Some(at))),
            Self::Running { since, .. } | Self::Collecting { since, .. } => {
                Ok(Self::ended(kind, reason, at, Some(since)))
            }
            Self::Overdue { since, .. } => Ok(Self::ended(kind, reason, at, since.or(Some(at)))),
            Self::Ended(end) if end.kind == kind => Ok(Self::Ended(end)),
            other => other.illegal("close"),
        }
    }

    /// Window end and grace passed in silence.
    ///
    /// # Errors
    /// Legal from `Offered`, `Running` and `Collecting`.
    pub fn overdue(self, now: Timestamp) -> Result<Self, IllegalMove> {
        match self {
            Self::Offered { lease } => Ok(Self::Overdue {
                lease,
                since: None,
                noticed: now,
            }),
            Self::Running { lease, since, .. } | Self::Collecting { lease, since } => {
                Ok(Self::Overdue {
                    lease,
                    since: Some(since),
                    noticed: now,
                })
            }
            overdue @ Self::Overdue { .. } => Ok(overdue),
            other => other.illegal("overdue"),
        }
    }

    /// Patience ended: failed when the agent had begun, else missed.
    ///
    /// # Errors
    /// Legal from `Overdue`.
    pub fn give_up(self, now: Timestamp) -> Result<Self, IllegalMove> {
        match self {
            Self::Overdue {
                lease,
                since: Some(since),
                ..
            } => Ok(Self::ended(
                EndKind::Failed,
                Some(&format!(
                    "agent {} began it and was not heard of again",
                    lease.agent
                )),
                now,
                Some(since),
            )),
            Self::Overdue {
                lease, since: None, ..
            } => Ok(Self::ended(
                EndKind::Missed,
                Some(&format!(
                    "agent {} was offered it and was not heard of again",
                    lease.agent
                )),
                now,
                None,
            )),
            Self::Ended(end) if matches!(end.kind, EndKind::Failed | EndKind::Missed) => {
                Ok(Self::Ended(end))
            }
            other => other.illegal("give up"),
        }
    }

    /// The peer's time to live passed.
    ///
    /// # Errors
    /// Legal from `Planned` and `Offered`.
    pub fn expire(self, now: Timestamp) -> Result<Self, IllegalMove> {
        match self {
            Self::Planned | Self::Offered { .. } => Ok(Self::ended(
                EndKind::Expired,
                Some("its time to live passed before an agent began"),
                now,
                None,
            )),
            Self::Ended(end) if end.kind == EndKind::Expired => Ok(Self::Ended(end)),
            other => other.illegal("expire"),
        }
    }

    /// Lost its place to a higher priority.
    ///
    /// # Errors
    /// Legal from any state but `Ended`.
    pub fn preempt(self, reason: &str, now: Timestamp) -> Result<Self, IllegalMove> {
        self.call_off(EndKind::Preempted, "preempt", reason, now)
    }

    /// A person or a peer called it off.
    ///
    /// # Errors
    /// Legal from any state but `Ended`.
    pub fn cancel(self, reason: &str, now: Timestamp) -> Result<Self, IllegalMove> {
        self.call_off(EndKind::Cancelled, "cancel", reason, now)
    }

    fn call_off(
        self,
        kind: EndKind,
        verb: &'static str,
        reason: &str,
        now: Timestamp,
    ) -> Result<Self, IllegalMove> {
        let since = match &self {
            Self::Running { since, .. } | Self::Collecting { since, .. } => Some(*since),
            Self::Overdue { since, .. } => *since,
            Self::Proposed | Self::Planned | Self::Offered { .. } => None,
            Self::Ended(end) if end.kind == kind => return Ok(self),
            Self::Ended(_) => return self.illegal(verb),
        };
        Ok(Self::ended(kind, Some(reason), now, since))
    }

    fn ended(kind: EndKind, reason: Option<&str>, at: Timestamp, since: Option<Timestamp>) -> Self {
        Self::Ended(End {
            kind,
            reason: reason.map(str::to_owned),
            at,
            since,
        })
    }

    fn illegal(self, verb: &'static str) -> Result<Self, IllegalMove> {
        Err(IllegalMove {
            from: self.word(),
            verb,
        })
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if let Self::Ended(end) = self {
            end.kind.word()
        } else {
            self.word()
        })
    }
}

/// One execution of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Our id.
    pub id: RunId,
    /// The task it executes.
    pub task: TaskId,
    /// Who is to do it; `None` while any capable agent may take it.
    pub agent: Option<AgentId>,
    /// When it may begin and how long it takes.
    pub window: Window,
    /// Where it is.
    pub state: RunState,
    /// How often it was offered.
    pub generation: u32,
    /// Who gets its place when two want it; higher wins.
    pub priority: i32,
    /// When it was planned.
    pub created: Timestamp,
}

impl Run {
    /// When silence makes it overdue: the end of its planned time, counted from its actual
    /// start, plus [`STRAGGLE`].
    pub fn overdue_at(&self) -> Option<Timestamp> {
        let from = match &self.state {
            RunState::Running { since, .. } | RunState::Collecting { since, .. } => {
                (*since).max(self.window.start)
            }
            RunState::Offered { lease } => lease.expires.max(self.window.start),
            RunState::Proposed
            | RunState::Planned
            | RunState::Overdue { .. }
            | RunState::Ended(_) => {
                return None;
            }
        };
        Some(saturating_add(
            saturating_add(from, self.window.length),
            STRAGGLE,
        ))
    }

    /// When patience with an overdue run ends: as long again as it was planned to take, at least
    /// a minute and at most an hour after it was noticed.
    pub fn patience_ends(&self) -> Option<Timestamp> {
        let RunState::Overdue { noticed, .. } = &self.state else {
            return None;
        };
        let patience = self
            .window
            .length
            .clamp(SignedDuration::from_mins(1), SignedDuration::from_hours(1));
        Some(saturating_add(*noticed, patience))
    }

    /// The planned start until the run begins, then the actual one.
    pub fn start(&self) -> Timestamp {
        match &self.state {
            RunState::Running { since, .. } | RunState::Collecting { since, .. } => *since,
            RunState::Overdue {
                since: Some(since), ..
            }
            | RunState::Ended(End {
                since: Some(since), ..
            }) => *since,
            RunState::Proposed
            | RunState::Planned
            | RunState::Offered { .. }
            | RunState::Overdue { since: None, .. }
            | RunState::Ended(End { since: None, .. }) => self.window.start,
        }
    }

    /// The planned end until the run is over, then the actual one.
    pub fn finish(&self) -> Timestamp {
        match &self.state {
            RunState::Ended(end) => end.at,
            RunState::Proposed
            | RunState::Planned
            | RunState::Offered { .. }
            | RunState::Running { .. }
            | RunState::Collecting { .. }
            | RunState::Overdue { .. } => saturating_add(self.start(), self.window.length),
        }
    }
}
