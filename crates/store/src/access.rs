//! Rows of enrolment keys and API tokens. Only hashes are kept.

use jiff::Timestamp;
use muster_core::EnrolKeyId;

use crate::error::StoreError;
use crate::params;
use crate::sql::{Row, Tx};

/// A key that lets agents enrol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolKey {
    /// Our id.
    pub id: EnrolKeyId,
    /// SHA-256 of the key, in hex.
    pub hash: String,
    /// For people.
    pub label: String,
    /// Whether it enrols one agent only.
    pub once: bool,
    /// When it was made.
    pub created: Timestamp,
    /// When it stops enrolling; tokens made of it go on.
    pub expires: Option<Timestamp>,
    /// How many agents it enrolled.
    pub used: i64,
}

impl EnrolKey {
    /// Whether it may enrol one more agent.
    pub fn enrols(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires) && !(self.once && self.used > 0)
    }
}

/// Writes a new key.
pub fn insert_key(tx: &mut Tx<'_>, key: &EnrolKey) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO enrol_keys (id, hash, label, once, created, expires, used) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        params![
            key.id.uuid(),
            &key.hash,
            &key.label,
            key.once,
            key.created,
            key.expires,
            key.used
        ],
    )?;
    Ok(())
}

/// Looks a key up by its hash.
pub fn key_by_hash(tx: &mut Tx<'_>, hash: &str) -> Result<Option<EnrolKey>, StoreError> {
    let row = tx.query_opt("SELECT * FROM enrol_keys WHERE hash = $1", params![hash])?;
    row.as_ref().map(read_key).transpose()
}

/// All keys, oldest first.
pub fn keys(tx: &mut Tx<'_>) -> Result<Vec<EnrolKey>, StoreError> {
    tx.query("SELECT * FROM enrol_keys ORDER BY created, id", params![])?
        .iter()
        .map(read_key)
        .collect()
}

/// Counts a use. False when the key was for one agent and another was quicker.
pub fn use_key(tx: &mut Tx<'_>, id: EnrolKeyId) -> Result<bool, StoreError> {
    let changed = tx.execute(
        "UPDATE enrol_keys SET used = used + 1 WHERE id = $1 AND (once = 0 OR used = 0)",
        params![id.uuid()],
    )?;
    Ok(changed == 1)
}

/// A token of the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiToken {
    /// SHA-256 of the token, in hex.
    pub hash: String,
    /// Who holds it, for people and the audit.
    pub label: String,
    /// `viewer`, `operator` or `admin`.
    pub role: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it stops counting.
    pub expires: Option<Timestamp>,
}

/// Writes a token, or gives a known one a new label, role and expiry.
pub fn put_token(tx: &mut Tx<'_>, token: &ApiToken) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO api_tokens (hash, label, role, created, expires) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (hash) DO UPDATE SET label = $2, role = $3, expires = $5",
        params![
            &token.hash,
            &token.label,
            &token.role,
            token.created,
            token.expires
        ],
    )?;
    Ok(())
}

/// Removes every token with this label but the one with this hash.
pub fn retire_tokens(tx: &mut Tx<'_>, label: &str, but_hash: &str) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM api_tokens WHERE label = $1 AND hash <> $2",
        params![label, but_hash],
    )
}

/// Looks a token up by its hash.
pub fn token_by_hash(tx: &mut Tx<'_>, hash: &str) -> Result<Option<ApiToken>, StoreError> {
    let row = tx.query_opt("SELECT * FROM api_tokens WHERE hash = $1", params![hash])?;
    row.map(|row| {
        Ok(ApiToken {
            hash: row.text("hash")?.to_owned(),
            label: row.text("label")?.to_owned(),
            role: row.text("role")?.to_owned(),
            created: row.timestamp("created")?,
            expires: row.opt_timestamp("expires")?,
        })
    })
    .transpose()
}

fn read_key(row: &Row) -> Result<EnrolKey, StoreError> {
    Ok(EnrolKey {
        id: EnrolKeyId::from_uuid(row.uuid("id")?),
        hash: row.text("hash")?.to_owned(),
        label: row.text("label")?.to_owned(),
        once: row.bool("once")?,
        created: row.timestamp("created")?,
        expires: row.opt_timestamp("expires")?,
        used: row.int("used")?,
    })
}
