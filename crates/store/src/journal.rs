//! The record that `explain` walks: decisions where they were made, refusals as they were counted,
//! and the audit of who did what.

use jiff::Timestamp;
use muster_core::agent::Wire;

use crate::error::StoreError;
use crate::params;
use crate::sql::Tx;

/// The latest word of a check about a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The check: `capability`, `slot`, `policy`, ...
    pub check: String,
    /// When it was made.
    pub at: Timestamp,
    /// Whether it let the subject pass.
    pub ok: bool,
    /// In a sentence.
    pub detail: String,
}

/// Notes a decision about `subject` (`task:ID`, `agent:ID`, `item:ID`), in place of the same
/// check's last.
pub fn decide(tx: &mut Tx<'_>, subject: &str, decision: &Decision) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO decisions (subject, name, at, ok, detail) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (subject, name) DO UPDATE SET at = $3, ok = $4, detail = $5",
        params![
            subject,
            &decision.check,
            decision.at,
            decision.ok,
            &decision.detail
        ],
    )?;
    Ok(())
}

/// The latest word of every check about a subject, oldest first.
pub fn decisions(tx: &mut Tx<'_>, subject: &str) -> Result<Vec<Decision>, StoreError> {
    let rows = tx.query(
        "SELECT name, at, ok, detail FROM decisions WHERE subject = $1 ORDER BY at, name",
        params![subject],
    )?;
    rows.iter()
        .map(|row| {
            Ok(Decision {
                check: row.text("name")?.to_owned(),
                at: row.timestamp("at")?,
                ok: row.bool("ok")?,
                detail: row.text("detail")?.to_owned(),
            })
        })
        .collect()
}

/// What a stranger or a peer was refused, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The wire.
    pub wire: Wire,
    /// Where it came from, or was dialled at.
    pub address: String,
    /// The stable word of the reason: `tls`, `framing`, `unknown_peer`, ...
    pub reason: String,
    /// The name it used, empty if it got no further than bytes.
    pub peer: String,
    /// In a sentence; a refusing peer's own words.
    pub detail: String,
    /// How often.
    pub times: i64,
    /// First time.
    pub first: Timestamp,
    /// Last time.
    pub last: Timestamp,
}

/// The most refusals kept; beyond them the oldest go.
pub const REFUSALS_MAX: i64 = 10_000;

/// Counts a refusal; `times` and `first` of the argument are those of this batch.
pub fn refuse(tx: &mut Tx<'_>, refusal: &Refusal) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO refusals (wire, address, reason, peer, detail, times, first_at, last_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (wire, address, reason, peer) \
         DO UPDATE SET detail = $5, times = refusals.times + $6, last_at = $8",
        params![
            refusal.wire.word(),
            &refusal.address,
            &refusal.reason,
            &refusal.peer,
            &refusal.detail,
            refusal.times,
            refusal.first,
            refusal.last,
        ],
    )?;
    Ok(())
}

/// Drops the oldest refusals beyond [`REFUSALS_MAX`].
pub fn trim_refusals(tx: &mut Tx<'_>) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM refusals WHERE last_at < (SELECT MIN(last_at) FROM (SELECT last_at FROM refusals \
         ORDER BY last_at DESC LIMIT $1) AS kept)",
        params![REFUSALS_MAX],
    )
}

/// Refusals of an address or under a name, latest first, at most 50.
pub fn refusals_of(tx: &mut Tx<'_>, address_or_peer: &str) -> Result<Vec<Refusal>, StoreError> {
    read_refusals(
        tx,
        "SELECT * FROM refusals WHERE address = $1 OR peer = $1 ORDER BY last_at DESC LIMIT 50",
        params![address_or_peer],
    )
}

/// The latest refusals, at most `limit`.
pub fn refusals(tx: &mut Tx<'_>, limit: i64) -> Result<Vec<Refusal>, StoreError> {
    read_refusals(
        tx,
        "SELECT * FROM refusals ORDER BY last_at DESC LIMIT $1",
        params![limit],
    )
}

fn read_refusals(
    tx: &mut Tx<'_>,
    sql: &str,
    params: &[crate::sql::Value],
) -> Result<Vec<Refusal>, StoreError> {
    tx.query(sql, params)?
        .iter()
        .map(|row| {
            Ok(Refusal {
                wire: row.parse("wire")?,
                address: row.text("address")?.to_owned(),
                reason: row.text("reason")?.to_owned(),
                peer: row.text("peer")?.to_owned(),
                detail: row.text("detail")?.to_owned(),
                times: row.int("times")?,
                first: row.timestamp("first_at")?,
                last: row.timestamp("last_at")?,
            })
        })
        .collect()
}

/// Who did what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// When.
    pub at: Timestamp,
    /// Who: a token's label, `agent:ID`, `server`.
    pub actor: String,
    /// What: `agent.approve`, `policy.denied`, ...
    pub action: String,
    /// To what.
    pub subject: String,
    /// In a sentence.
    pub detail: String,
}

/// Adds a line to the audit.
pub fn audit(tx: &mut Tx<'_>, id: uuid::Uuid, line: &Audit) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO audit (id, at, actor, action, subject, detail) VALUES ($1, $2, $3, $4, $5, $6)",
        params![id, line.at, &line.actor, &line.action, &line.subject, &line.detail],
    )?;
    Ok(())
}

/// The latest lines of the audit, latest first.
pub fn audit_tail(tx: &mut Tx<'_>, limit: i64) -> Result<Vec<Audit>, StoreError> {
    tx.query(
        "SELECT * FROM audit ORDER BY at DESC, id LIMIT $1",
        params![limit],
    )?
    .iter()
    .map(|row| {
        Ok(Audit {
            at: row.timestamp("at")?,
            actor: row.text("actor")?.to_owned(),
            action: row.text("action")?.to_owned(),
            subject: row.text("subject")?.to_owned(),
            detail: row.text("detail")?.to_owned(),
        })
    })
    .collect()
}
