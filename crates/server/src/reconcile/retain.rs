//! Writes down what is only in memory and lets go of what is old.

use crate::control::{Control, Result};

/// Writes refusals and newest values down, and looks whether another replica changed the items.
///
/// # Errors
/// When the database does not answer.
pub async fn activate(control: &Control) -> Result<u64> {
    let refusals = control.flush_refusals().await?;
    control.settle_values().await?;
    control.refresh_items().await?;
    Ok(u64::try_from(refusals).unwrap_or(u64::MAX))
}
