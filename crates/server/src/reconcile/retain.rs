//! Writes down what is only in memory and lets go of what is old.

use muster_core::time::saturating_sub;
use muster_store::{runs, tasks};

use crate::control::{Control, Result};

/// Runs, or tasks, dropped in one transaction, so that others wait for milliseconds.
const BATCH: i64 = 200;
/// Transactions of one activation; what is left then is old a minute later as well.
const BATCHES_MAX: u32 = 100;

/// Writes refusals and newest values down, looks whether another replica changed the items, and drops what the
/// configuration no longer keeps.
///
/// # Errors
/// When the database does not answer.
pub async fn activate(control: &Control) -> Result<u64> {
    let refusals = control.flush_refusals().await?;
    control.settle_values().await?;
    control.refresh_items().await?;
    let dropped = drop_runs(control).await? + control.drop_values().await?;
    Ok(dropped.saturating_add(u64::try_from(refusals).unwrap_or(u64::MAX)))
}

/// Drops runs that ended too long ago, and the tasks that are done and have none left.
async fn drop_runs(control: &Control) -> Result<u64> {
    let Some(keep) = control.settings().retain_runs else {
        return Ok(0);
    };
    let before = saturating_sub(control.clock().now(), keep);
    let mut dropped = 0;
    for _ in 0..BATCHES_MAX {
        let step = control
            .store()
            .write(move |tx| {
                let ended = runs::forget_ended(tx, before, BATCH)?;
                let done = tasks::forget_done(tx, before, BATCH)?;
                Ok(ended.max(done))
            })
            .await?;
        dropped += step;
        if step < BATCH.unsigned_abs() {
            break;
        }
    }
    Ok(dropped)
}
