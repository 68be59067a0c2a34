//! What one replica does at a time: a lease by name, taken and renewed under a guard.

use jiff::Timestamp;
use uuid::Uuid;

use crate::error::StoreError;
use crate::params;
use crate::sql::Tx;

/// Takes the duty until `expires`, or renews it. False while another holder's time is not up.
pub fn hold(
    tx: &mut Tx<'_>,
    duty: &str,
    holder: Uuid,
    now: Timestamp,
    expires: Timestamp,
) -> Result<bool, StoreError> {
    let changed = tx.execute(
        "INSERT INTO duties (name, holder, expires) VALUES ($1, $2, $3) \
         ON CONFLICT (name) DO UPDATE SET holder = $2, expires = $3 \
         WHERE duties.holder = $2 OR duties.expires <= $4",
        params![duty, holder, expires, now],
    )?;
    Ok(changed == 1)
}

/// Gives the duty up, if it is this holder's.
pub fn release(tx: &mut Tx<'_>, duty: &str, holder: Uuid) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM duties WHERE name = $1 AND holder = $2",
        params![duty, holder],
    )?;
    Ok(())
}
