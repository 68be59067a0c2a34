//! Reconcilers: idempotent, bounded, without input, woken by period or nudge.
//!
//! What a crash leaves and what an ordinary day brings are the same to them. Every replica runs
//! them all; rows are moved under guards, so there is no leader.

pub mod lapse;
pub mod retain;
pub mod schedule;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::{Control, ControlError};

/// The last activation of a reconciler.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Its name.
    pub name: &'static str,
    /// When it last began.
    pub at: Option<Timestamp>,
    /// How long that took, in microseconds.
    pub took_us: i64,
    /// How many things it moved.
    pub moved: u64,
    /// How often it has run.
    pub times: u64,
    /// Why the last activation failed, if it did.
    pub error: Option<String>,
}

/// The reconcilers' last activations, for `/status`, the admin API and `muster status`.
#[derive(Clone, Debug, Default)]
pub struct Statuses {
    inner: Arc<Mutex<Vec<Status>>>,
}

impl Statuses {
    /// The last activation of each.
    pub fn all(&self) -> Vec<Status> {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn record(
        &self,
        name: &'static str,
        at: Timestamp,
        end: Timestamp,
        outcome: Result<u64, &ControlError>,
    ) {
        let mut all = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let at_index = all.iter().position(|status| status.name == name);
        let status = match at_index.and_then(|index| all.get_mut(index)) {
            Some(status) => status,
            None => {
                all.push(Status {
                    name,
                    ..Status::default()
                });
                let Some(status) = all.last_mut() else { return };
                status
            }
        };
        status.at = Some(at);
        status.took_us = i64::try_from(end.duration_since(at).as_micros()).unwrap_or(i64::MAX);
        status.times += 1;
        match outcome {
            Ok(moved) => {
                status.moved = moved;
                status.error = None;
            }
            Err(error) => status.error = Some(error.chain()),
        }
    }
}

/// How long a reconciler waits between two activations that nothing asked for.
const SCHEDULE_EVERY: Duration = Duration::from_secs(2);
const LAPSE_EVERY: Duration = Duration::from_secs(1);
const RETAIN_EVERY: Duration = Duration::from_secs(60);

/// Starts every reconciler, and the word between replicas; they stop when `cancel` says so.
pub fn spawn_all(control: &Control, tracker: &TaskTracker, cancel: &CancellationToken) -> Statuses {
    let statuses = Statuses::default();
    let run = |name: &'static str, every: Duration, nudged: bool| {
        let (control, cancel, statuses) = (control.clone(), cancel.clone(), statuses.clone());
        tracker.spawn(async move {
            let mut work = control.work_changes();
            loop {
                work.borrow_and_update();
                activate(name, &control, &statuses).await;
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    () = control.clock().sleep(every) => {}
                    changed = work.changed(), if nudged => if changed.is_err() { return },
                }
            }
        });
    };
    run("schedule", SCHEDULE_EVERY, true);
    run("lapse", LAPSE_EVERY, false);
    run("retain", RETAIN_EVERY, false);
    let (control, cancel) = (control.clone(), cancel.clone());
    tracker.spawn(async move { cancel.run_until_cancelled(control.relay()).await });
    statuses
}

/// Runs one reconciler once, by name, and notes how it went.
pub async fn activate(name: &'static str, control: &Control, statuses: &Statuses) {
    let at = control.clock().now();
    let outcome = match name {
        "schedule" => schedule::activate(control).await,
        "lapse" => lapse::activate(control).await,
        _ => retain::activate(control).await,
    };
    if let Err(error) = &outcome {
        tracing::warn!(reconciler = name, "activation failed: {}", error.chain());
    }
    statuses.record(name, at, control.clock().now(), outcome.as_ref().copied());
}
