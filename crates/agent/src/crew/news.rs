//! What a link hears of a job, and how a tool says it.
//!
//! A job has one line to the link that gave it. Its words are ordered: `Begun` first, then
//! progress and findings, then exactly one `Finished` or `Failed`. The channel is bounded. A
//! finding waits for room, which holds the tool back; progress does not wait and may be lost,
//! since the next one says more. A line whose link has gone stays silent while the work goes on:
//! the ending is kept in the ledger.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use muster_net::clock::Clock;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Ending, RunKey};
use crate::tools::Failure;

/// Room in the channel that [`channel`] makes: enough that a sweep of fast answers does not stall
/// on a link that writes to a socket, small enough to bound memory.
const CHANNEL_CAPACITY: usize = 256;

/// A channel for the news of jobs.
#[must_use]
pub fn channel() -> (mpsc::Sender<News>, mpsc::Receiver<News>) {
    mpsc::channel(CHANNEL_CAPACITY)
}

/// One word about one job.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// The job, under the generation it was last offered with.
    pub key: RunKey,
    /// When it was said.
    pub at: Timestamp,
    /// What was said.
    pub word: Word,
}

/// What can be said about a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    /// The work has begun.
    Begun,
    /// It goes on.
    Progress(Progress),
    /// Something was found: part of the result, such as one discovered device.
    Found {
        /// Position of the target it belongs to.
        target: usize,
        /// What was found.
        value: Value,
    },
    /// The work has ended with a result.
    Finished(Value),
    /// It has ended without one; [`Failure::cause`] says whether the policy denied it.
    Failed(Failure),
}

impl Word {
    /// The word that tells an ending.
    #[must_use]
    pub fn ending(ending: Ending) -> Self {
        match ending {
            Ending::Finished(result) => Self::Finished(result),
            Ending::Failed(failure) => Self::Failed(failure),
        }
    }
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// 0 to 100, never falling within one job.
    pub percent: f64,
    /// Time left, where the tool can tell.
    pub eta: Option<Duration>,
}

/// A tool's end of the line.
#[derive(Clone, Debug)]
pub struct Reporter {
    line: Option<Arc<Line>>,
    part: usize,
}

impl Reporter {
    /// A reporter that nobody listens to.
    #[must_use]
    pub fn silent() -> Self {
        Self {
            line: None,
            part: 0,
        }
    }

    pub(super) fn of_part(line: Arc<Line>, part: usize) -> Self {
        Self {
            line: Some(line),
            part,
        }
    }

    /// Says how far this part of the job is. Never waits.
    pub fn progress(&self, percent: f64, eta: Option<Duration>) {
        if let Some(line) = &self.line {
            line.progress(self.part, percent, eta);
        }
    }

    /// Hands over a partial result. Waits while the link is behind.
    pub async fn found(&self, value: Value) {
        if let Some(line) = &self.line {
            line.say(Word::Found {
                target: self.part,
                value,
            })
            .await;
        }
    }
}

/// One job's line to whichever link asked for it last.
#[derive(Debug)]
pub(super) struct Line {
    clock: Clock,
    state: Mutex<LineState>,
}

#[derive(Debug)]
struct LineState {
    key: RunKey,
    sender: mpsc::Sender<News>,
    percents: Vec<f64>,
    shown: Progress,
}

impl Line {
    pub(super) fn new(key: RunKey, sender: mpsc::Sender<News>, parts: usize, clock: Clock) -> Self {
        let state = LineState {
            key,
            sender,
            percents: vec![0.0; parts.max(1)],
            shown: Progress {
                percent: 0.0,
                eta: None,
            },
        };
        Self {
            clock,
            state: Mutex::new(state),
        }
    }

    /// From here on the words go to another listener, under another generation.
    pub(super) fn attach(&self, key: RunKey, sender: mpsc::Sender<News>) {
        let mut state = self.lock();
        state.key = key;
        state.sender = sender;
    }

    pub(super) fn key(&self) -> RunKey {
        self.lock().key.clone()
    }

    pub(super) fn shown(&self) -> Progress {
        self.lock().shown
    }

    pub(super) async fn say(&self, word: Word) {
        let (sender, news) = {
            let state = self.lock();
            let news = News {
                key: state.key.clone(),
                at: self.clock.now(),
                word,
            };
            (state.sender.clone(), news)
        };
        // A closed channel is a link that is away; the ledger keeps what matters.
        let _ = sender.send(news).await;
    }

    fn progress(&self, part: usize, percent: f64, eta: Option<Duration>) {
        let mut state = self.lock();
        let Some(slot) = state.percents.get_mut(part) else {
            return;
        };
        if percent.is_finite() {
            *slot = slot.max(percent.clamp(0.0, 100.0));
        }
        let mean = state.percents.iter().sum::<f64>() / state.percents.len() as f64;
        state.shown = Progress {
            percent: state.shown.percent.max(mean),
            eta,
        };
        let news = News {
            key: state.key.clone(),
            at: self.clock.now(),
            word: Word::Progress(state.shown),
        };
        let _ = state.sender.try_send(news);
    }

    fn lock(&self) -> MutexGuard<'_, LineState> {
        match self.state.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}
