//! What every list shares: ids by prefix, and pages by key.

use std::str::FromStr;

use crate::error::StoreError;
use crate::params;
use crate::sql::Tx;

/// The ids of `table` that begin with `prefix`, at most `limit`. The prefix is compared as a range,
/// so that no character of it has a meaning.
pub(crate) fn ids_by_prefix<T: FromStr>(
    tx: &mut Tx<'_>,
    table: &'static str,
    prefix: &str,
    limit: i64,
) -> Result<Vec<T>, StoreError> {
    let prefix = prefix.to_ascii_lowercase();
    // '~' sorts after every character of a UUID.
    let end = format!("{prefix}~");
    let rows = tx.query(
        &format!("SELECT id FROM {table} WHERE id >= $1 AND id < $2 ORDER BY id LIMIT $3"),
        params![prefix, end, limit],
    )?;
    rows.iter().map(|row| row.parse("id")).collect()
}
