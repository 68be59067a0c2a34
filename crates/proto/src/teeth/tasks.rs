//! The agent's book of tasks: which it was told, how they stand, what must still be told.
//!
//! Outlives connections. Holds the rules of the contract's section 7 that concern the agent: a report
//! at once and every ten seconds, within a second of a new step, the last one at once and again after
//! each reconnect until it is acknowledged, then nothing; a repeated command starts nothing; one
//! destructive task at a time. Pure: the link carries out the tasks, sends what [`TaskBook::due`]
//! gives, and keeps on disk what must survive the process.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::channel::{CallId, later};
use super::commands::{Report, TaskCall, TaskState, Verb};
use super::json::Json;

/// Distance of the reports of a running task.
pub const REPORT_PERIOD: Duration = Duration::from_secs(10);
/// How soon a new step is told.
pub const STEP_DELAY: Duration = Duration::from_secs(1);
/// Tasks that may run at once: far more than one machine does, few enough to hold.
const RUNNING_MAX: usize = 256;
/// Ended and acknowledged tasks that are remembered, so that a repeated command finds them.
const ENDED_MAX: usize = 1024;

/// What a task command comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Begin the work.
    Begin,
    /// It is known already: answer success, begin nothing. Its report is due again.
    Repeat,
}

/// Why a task is not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartRefused {
    /// Another destructive task is under way.
    #[error("agent busy: task {task_id}")]
    Busy {
        /// That task.
        task_id: String,
    },
    /// The id belongs to other work.
    #[error("task_id already in use")]
    InUse,
    /// More tasks than an agent holds.
    #[error("agent busy: too many tasks")]
    TooMany,
}

#[derive(Debug)]
struct Entry {
    /// What was ordered; `None` for a report that was read back from disk.
    order: Option<(Verb, Json)>,
    report: Report,
    due: Option<Instant>,
    in_flight: Option<CallId>,
    acknowledged: bool,
}

/// All tasks of one agent towards one server.
#[derive(Debug, Default)]
pub struct TaskBook {
    tasks: BTreeMap<String, Entry>,
    /// Acknowledged ends, oldest first.
    ended: VecDeque<String>,
}

impl TaskBook {
    /// Judges a task command and writes the task down.
    ///
    /// # Errors
    /// The error response the command deserves.
    pub fn start(&mut self, call: &TaskCall, now: Instant) -> Result<Start, StartRefused> {
        if let Some(entry) = self.tasks.get_mut(&call.task_id) {
            let same = match &entry.order {
                Some((verb, params)) => *verb == call.verb && same_params(params, &call.params),
                // After a restart only the end is known, and it is the end of this id.
                None => true,
            };
            if !same {
                return Err(StartRefused::InUse);
            }
            entry.due = Some(now);
            entry.acknowledged = false;
            self.ended.retain(|ended| *ended != call.task_id);
            return Ok(Start::Repeat);
        }
        let running = || {
            self.tasks
                .iter()
                .filter(|(_, e)| !e.report.state.is_terminal())
        };
        if call.verb.is_destructive()
            && let Some((task_id, _)) = running().find(|(_, e)| {
                e.order
                    .as_ref()
                    .is_some_and(|(verb, _)| verb.is_destructive())
            })
        {
            return Err(StartRefused::Busy {
                task_id: task_id.clone(),
            });
        }
        if running().count() >= RUNNING_MAX {
            return Err(StartRefused::TooMany);
        }
        let report = Report {
            task_id: call.task_id.clone(),
            state: TaskState::Running {
                eta: 0.0,
                percent: 0.0,
            },
            result: None,
            step: None,
            seq: Some(0),
        };
        let entry = Entry {
            order: Some((call.verb, call.params.clone())),
            report,
            due: Some(now),
            in_flight: None,
            acknowledged: false,
        };
        self.tasks.insert(call.task_id.clone(), entry);
        Ok(Start::Begin)
    }

    /// Takes up a final report that was never acknowledged, after a restart.
    pub fn restore(&mut self, report: Report, now: Instant) {
        let task_id = report.task_id.clone();
        let entry = Entry {
            order: None,
            report,
            due: Some(now),
            in_flight: None,
            acknowledged: false,
        };
        self.tasks.insert(task_id, entry);
    }

    /// Drops a task: it was refused after all, or a newer offer of the same work took its place.
    pub fn forget(&mut self, task_id: &str) {
        self.tasks.remove(task_id);
        self.ended.retain(|ended| ended != task_id);
    }

    /// Replaces a result that is too long to be told.
    pub fn replace_result(&mut self, task_id: &str, result: Json) {
        if let Some(entry) = self.tasks.get_mut(task_id) {
            entry.report.result = Some(result);
        }
    }

    /// The task got on. Percentages never fall; a task that ended stays ended.
    pub fn progress(
        &mut self,
        task_id: &str,
        percent: f64,
        eta: f64,
        step: Option<&str>,
        now: Instant,
    ) {
        let Some(entry) = self.tasks.get_mut(task_id) else {
            return;
        };
        let TaskState::Running {
            eta: held_eta,
            percent: held,
        } = &mut entry.report.state
        else {
            return;
        };
        if percent.is_finite() {
            *held = held.max(percent.clamp(0.0, 100.0));
        }
        *held_eta = if eta.is_finite() { eta.max(0.0) } else { 0.0 };
        if step.is_some() && entry.report.step.as_deref() != step {
            entry.report.step = step.map(str::to_owned);
            let soon = later(now, STEP_DELAY);
            entry.due = Some(entry.due.map_or(soon, |due| due.min(soon)));
        }
    }

    /// The task ended well. Returns whether that is news.
    pub fn complete(&mut self, task_id: &str, result: Option<Json>, now: Instant) -> bool {
        self.end(task_id, TaskState::Complete, result, now)
    }

    /// The task ended badly. Returns whether that is news.
    pub fn fail(&mut self, task_id: &str, msg: &str, result: Option<Json>, now: Instant) -> bool {
        self.end(
            task_id,
            TaskState::Error {
                msg: msg.to_owned(),
            },
            result,
            now,
        )
    }

    fn end(&mut self, task_id: &str, state: TaskState, result: Option<Json>, now: Instant) -> bool {
        let Some(entry) = self.tasks.get_mut(task_id) else {
            return false;
        };
        if entry.report.state.is_terminal() {
            return false;
        }
        entry.report.state = state;
        entry.report.result = result;
        entry.due = Some(now);
        true
    }

    /// The reports to send now over a live connection. Each must be followed by
    /// [`TaskBook::sent`] when it was.
    pub fn due(&mut self, now: Instant) -> Vec<Report> {
        let mut reports = Vec::new();
        for entry in self.tasks.values_mut() {
            // A final report waits for its answer; a running one does not hold up the end.
            let waits = entry.in_flight.is_some() && entry.due.is_none();
            if waits || entry.acknowledged || entry.due.is_none_or(|due| due > now) {
                continue;
            }
            entry.report.seq = entry.report.seq.map(|seq| seq.saturating_add(1));
            reports.push(entry.report.clone());
        }
        reports
    }

    /// A report of [`TaskBook::due`] was sent by this call.
    pub fn sent(&mut self, task_id: &str, call: CallId, now: Instant) {
        if let Some(entry) = self.tasks.get_mut(task_id) {
            entry.in_flight = Some(call);
            entry.due = if entry.report.state.is_terminal() {
                None
            } else {
                Some(later(now, REPORT_PERIOD))
            };
        }
    }

    /// The server answered a report, however. Returns the task whose end is acknowledged by it.
    pub fn answered(&mut self, call: CallId) -> Option<String> {
        let (task_id, entry) = self
            .tasks
            .iter_mut()
            .find(|(_, entry)| entry.in_flight == Some(call))?;
        entry.in_flight = None;
        // News that came after the report was sent is not what was acknowledged.
        if !entry.report.state.is_terminal() || entry.due.is_some() {
            return None;
        }
        entry.acknowledged = true;
        let task_id = task_id.clone();
        self.ended.push_back(task_id.clone());
        while self.ended.len() > ENDED_MAX {
            if let Some(oldest) = self.ended.pop_front() {
                self.tasks.remove(&oldest);
            }
        }
        Some(task_id)
    }

    /// A report got no answer: it timed out or its connection is gone. It is due again.
    pub fn unanswered(&mut self, call: CallId, now: Instant) {
        if let Some(entry) = self
            .tasks
            .values_mut()
            .find(|entry| entry.in_flight == Some(call))
        {
            entry.in_flight = None;
            entry.due = Some(now);
        }
    }

    /// A due report could not be sent on a live connection: a little later.
    pub fn put_off(&mut self, task_id: &str, now: Instant) {
        if let Some(entry) = self.tasks.get_mut(task_id) {
            entry.due = Some(later(now, STEP_DELAY));
        }
    }

    /// Reports that were sent and have no answer.
    pub fn in_flight(&self) -> Vec<CallId> {
        self.tasks
            .values()
            .filter_map(|entry| entry.in_flight)
            .collect()
    }

    /// When the next report is due.
    pub fn next_due(&self) -> Option<Instant> {
        let open = self.tasks.values().filter(|entry| !entry.acknowledged);
        open.filter_map(|entry| entry.due).min()
    }

    /// Current reports of all tasks that are not ended and acknowledged, for `status`.
    pub fn reports(&self) -> Vec<&Report> {
        self.tasks
            .values()
            .filter(|e| !e.acknowledged)
            .map(|entry| &entry.report)
            .collect()
    }

    /// Whether the task is under way.
    pub fn is_running(&self, task_id: &str) -> bool {
        self.tasks
            .get(task_id)
            .is_some_and(|entry| !entry.report.state.is_terminal())
    }

    /// The current report of a task.
    pub fn report(&self, task_id: &str) -> Option<&Report> {
        self.tasks.get(task_id).map(|entry| &entry.report)
    }
}

/// Equal as JSON: member order and spelling of numbers do not matter.
fn same_params(a: &Json, b: &Json) -> bool {
    a == b || matches!((a.to_value(), b.to_value()), (Ok(a), Ok(b)) if a == b)
}
