//! Leases that ran out, windows that passed, agents that went silent.

use jiff::Timestamp;
use muster_core::run::RunState;
use muster_store::runs::{self, StoredRun};
use muster_store::{StoreError, Tx, agents};

use crate::control::work::{move_run, settle_task};
use crate::control::{Control, Result};

/// Runs moved in one transaction.
const BATCH: i64 = 200;

/// Moves what time has overtaken; returns how many runs it moved.
///
/// # Errors
/// When the database does not answer.
pub async fn activate(control: &Control) -> Result<u64> {
    let mut moved = 0;
    loop {
        let now = control.clock().now();
        let stale = control.store().read(move |tx| stale(tx, now)).await?;
        if stale.is_empty() {
            break;
        }
        let step = control
            .store()
            .write(move |tx| {
                let mut step = 0;
                for stored in stale_again(tx, &stale)? {
                    step += u64::from(review(tx, &stored, now)?);
                }
                Ok(step)
            })
            .await?;
        moved += step;
        if step == 0 {
            break;
        }
        control.run_moved();
    }
    if moved > 0 {
        control.nudge_work();
    }
    Ok(moved)
}

/// Runs that would move at `now`.
fn stale(tx: &mut Tx<'_>, now: Timestamp) -> Result<Vec<StoredRun>, StoreError> {
    let mut stale = runs::to_review(tx, now, BATCH)?;
    stale.retain(|stored| next(stored, now).is_some());
    Ok(stale)
}

fn stale_again(tx: &mut Tx<'_>, stale: &[StoredRun]) -> Result<Vec<StoredRun>, StoreError> {
    let mut fresh = Vec::new();
    for stored in stale {
        fresh.extend(runs::by_id(tx, stored.run.id)?);
    }
    Ok(fresh)
}

fn next(stored: &StoredRun, now: Timestamp) -> Option<(&'static str, RunState)> {
    let run = &stored.run;
    let state = run.state.clone();
    let moved = match &run.state {
        RunState::Planned => ("lapse", state.lapse(&run.window, now)),
        RunState::Offered { lease } if lease.expires < now => {
            ("lapse", state.lapse(&run.window, now))
        }
        RunState::Running { .. } | RunState::Collecting { .. }
            if run.overdue_at().is_some_and(|due| due < now) =>
        {
            ("overdue", state.overdue(now))
        }
        RunState::Overdue { .. } if run.patience_ends().is_some_and(|end| end < now) => {
            ("give_up", state.give_up(now))
        }
        RunState::Proposed
        | RunState::Offered { .. }
        | RunState::Running { .. }
        | RunState::Collecting { .. }
        | RunState::Overdue { .. }
        | RunState::Ended(_) => return None,
    };
    let (verb, state) = moved;
    state
        .ok()
        .filter(|state| *state != run.state)
        .map(|state| (verb, state))
}

fn review(tx: &mut Tx<'_>, stored: &StoredRun, now: Timestamp) -> Result<bool, StoreError> {
    let Some((verb, state)) = next(stored, now) else {
        return Ok(false);
    };
    let run = &stored.run;
    let detail = match (&run.state, &state) {
        (_, RunState::Ended(end)) => end.reason.clone().unwrap_or_default(),
        (RunState::Offered { lease }, _) => {
            let agent = agents::by_id(tx, lease.agent)?
                .map_or_else(|| lease.agent.to_string(), |known| known.agent.name);
            format!(
                "{agent} was offered it and had not begun by {}; it is offered again",
                lease.expires
            )
        }
        (_, _) => "nothing was heard by the end of its time".to_owned(),
    };
    // An agent that lets a run lapse of a kind it never said it had is no longer believed to have it.
    if let RunState::Offered { lease } = &run.state {
        agents::settle_assumed(tx, lease.agent, &stored.kind, false)?;
    }
    let ended = state.is_ended();
    let moved = move_run(tx, run, state, verb, &detail, now)?;
    if moved && ended {
        settle_task(tx, run.task, now)?;
    }
    Ok(moved)
}
