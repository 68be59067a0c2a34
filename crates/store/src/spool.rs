//! The spool of an agent: what it owes its servers, and what it has begun for them.
//!
//! An SQLite file of the agent's own (`STATE/agent/spool.db`), with the durability of [`Store`]: what a
//! method answered with `Ok` survives `kill -9` and a power cut. It holds three things: queues of outgoing
//! values and reports, bounded, from which entries go only when the server has acknowledged them; a record
//! of each job, written *before* the agent acts, so that it acts at most once (threats, section 6); and
//! small facts (the agent's id, pinned certificates).
//!
//! What is in an entry, and when to send it, is the links' business. No table of a server is here.

use std::path::PathBuf;

use jiff::Timestamp;
use rand_core::Rng;

use crate::error::StoreError;
use crate::migrate::{self, SPOOL};
use crate::params;
use crate::sql::{Row, Tx};
use crate::store::{Pause, Store, StoreUrl};

/// Handle of an open spool; clones share it.
#[derive(Clone, Debug)]
pub struct Spool {
    store: Store,
}

/// How much a queue may hold, and what happens beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Entries.
    pub entries: u64,
    /// Bytes of their bodies together.
    pub bytes: u64,
    /// What gives way.
    pub overflow: Overflow,
}

/// What gives way when a queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest entries, counted as dropped: for values, of which the newest matter.
    DropOldest,
    /// The new ones: for reports, whose maker can wait.
    Refuse,
}

impl Bound {
    /// For values: a day of a hundred a second, in 512 MiB.
    pub const VALUES: Self = Self {
        entries: 8_640_000,
        bytes: 512 * 1024 * 1024,
        overflow: Overflow::DropOldest,
    };
    /// For reports.
    pub const REPORTS: Self = Self {
        entries: 10_000,
        bytes: 256 * 1024 * 1024,
        overflow: Overflow::Refuse,
    };
}

/// Something a server has not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number within the queue and its session; they grow by one.
    pub id: u64,
    /// What it is, in the words of who put it there.
    pub body: Vec<u8>,
    /// When it was put there.
    pub made_at: Timestamp,
}

/// What became of entries that were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// They are in the queue, and so many old ones are not any more.
    Queued {
        /// Id of the first of them; the others follow.
        first: u64,
        /// Old entries that gave way, and new ones that alone exceed the bound.
        dropped: u64,
    },
    /// The queue is full; none of them is in it.
    Refused,
}

/// A queue at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// Name under which the server counts its ids: 32 hexadecimal digits.
    pub session: String,
    /// Id of the entry that was added last, whether it still waits or not; 0 before the first.
    pub last: u64,
    /// Entries that wait.
    pub entries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Entries lost to the bound since the queue was made.
    pub dropped: u64,
}

/// A job as it was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobIntent {
    /// The server.
    pub peer: String,
    /// The server's name for the run.
    pub run: String,
    /// Which offer of it.
    pub generation: u64,
    /// Kind of work.
    pub kind: String,
    /// Digest of what is to be done.
    pub fingerprint: String,
    /// When.
    pub at: Timestamp,
}

/// What is known of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// As it was begun.
    pub intent: JobIntent,
    /// How it ended, in the words of who concluded it; `None` while it runs, or when the agent was stopped
    /// meanwhile.
    pub ending: Option<String>,
    /// Whether the server has the ending.
    pub acknowledged: bool,
}

impl Spool {
    /// Opens the spool in `path`, or one in memory for tests and simulations, and brings its schema up to
    /// date.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be opened or belongs to a newer build.
    pub async fn open(path: Option<PathBuf>, now: Timestamp) -> Result<Self, StoreError> {
        let url = path.map_or(StoreUrl::Memory, StoreUrl::Sqlite);
        let store = Store::open(url).await?;
        store
            .write(move |tx| migrate::migrate(tx, SPOOL, now))
            .await?;
        Ok(Self { store })
    }

    /// As [`Store::in_place`]: the same spool, for an agent in a simulation.
    #[must_use]
    pub fn in_place(self, pause: Pause) -> Self {
        Self {
            store: self.store.in_place(pause),
        }
    }

    /// Makes a queue when it does not exist, with a new session, and says how it stands.
    ///
    /// # Errors
    /// [`StoreError`]; so for all methods.
    pub async fn queue(&self, name: &str, rng: &mut impl Rng) -> Result<QueueState, StoreError> {
        let name = name.to_owned();
        let mut token = [0u8; 16];
        rng.fill_bytes(&mut token);
        let session: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        self.store
            .write(move |tx| {
                tx.execute(
                    "INSERT INTO spool_queue (name, session, next_id, entries, size_bytes, dropped) \
                     VALUES ($1, $2, 1, 0, 0, 0) ON CONFLICT (name) DO NOTHING",
                    params![&name, &session],
                )?;
                let row = tx.query_one(
                    "SELECT name, session, next_id, entries, size_bytes, dropped FROM spool_queue \
                     WHERE name = $1",
                    params![&name],
                )?;
                Ok(QueueState {
                    session: row.text("session")?.to_owned(),
                    last: row.number::<u64>("next_id")?.saturating_sub(1),
                    entries: row.number("entries")?,
                    bytes: row.number("size_bytes")?,
                    dropped: row.number("dropped")?,
                })
            })
            .await
    }

    /// Adds entries to a queue that exists, all or none.
    ///
    /// # Errors
    /// [`StoreError::NoRow`] for a queue that [`Spool::queue`] has not made.
    pub async fn add(
        &self,
        queue: &str,
        bodies: Vec<Vec<u8>>,
        bound: Bound,
        now: Timestamp,
    ) -> Result<Added, StoreError> {
        let queue = queue.to_owned();
        self.store
            .write(move |tx| add(tx, &queue, &bodies, bound, now))
            .await
    }

    /// The oldest entries of a queue, at most `entries` of at most `bytes` together, but at least one when
    /// there is one.
    ///
    /// # Errors
    /// As [`Spool::queue`].
    pub async fn peek(
        &self,
        queue: &str,
        entries: usize,
        bytes: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let queue = queue.to_owned();
        self.store
            .read(move |tx| {
                let mut found = Vec::new();
                let mut size = 0usize;
                let mut after = 0i64;
                while found.len() < entries {
                    let page = PEEK_PAGE.min(entries - found.len());
                    let rows = tx.query(
                        "SELECT id, body, made_at FROM spool_entry \
                         WHERE queue = $1 AND id > $2 ORDER BY id LIMIT $3",
                        params![&queue, after, page],
                    )?;
                    for row in &rows {
                        let body = row.bytes("body")?.to_vec();
                        size = size.saturating_add(body.len());
                        if size > bytes && !found.is_empty() {
                            return Ok(found);
                        }
                        after = row.int("id")?;
                        let id = row.number("id")?;
                        found.push(Entry {
                            id,
                            body,
                            made_at: row.timestamp("made_at")?,
                        });
                    }
                    if rows.len() < page {
                        break;
                    }
                }
                Ok(found)
            })
            .await
    }

    /// The server has everything up to and with `id`; answers how many entries went. Saying it again, or of
    /// entries that are gone, changes nothing.
    ///
    /// # Errors
    /// As [`Spool::queue`].
    pub async fn acknowledge(&self, queue: &str, id: u64) -> Result<u64, StoreError> {
        let queue = queue.to_owned();
        let id = i64::try_from(id).unwrap_or(i64::MAX);
        self.store
            .write(move |tx| drop_entries(tx, &queue, id, 0))
            .await
    }

    /// What is known of a run of a server, whatever its generation.
    ///
    /// # Errors
    /// As [`Spool::queue`].
    pub async fn recall(&self, peer: &str, run: &str) -> Result<Option<JobRecord>, StoreError> {
        let (peer, run) = (peer.to_owned(), run.to_owned());
        self.store
            .read(move |tx| {
                tx.query_opt(
                    &format!("{JOB} WHERE peer = $1 AND run = $2"),
                    params![&peer, &run],
                )?
                .map(|row| job(&row))
                .transpose()
            })
            .await
    }

    /// Writes an intent down, durably before it returns; replaces an earlier one of the same run. Act after
    /// it, never before.
    ///
    /// # Errors
    /// As [`Spool::queue`]; then do not act.
    pub async fn intend(&self, intent: JobIntent) -> Result<(), StoreError> {
        self.store
            .write(move |tx| {
                tx.execute(
                    "INSERT INTO spool_job (peer, run, generation, kind, fingerprint, begun_at, \
                     ended_at, ending, acknowledged) VALUES ($1, $2, $3, $4, $5, $6, NULL, NULL, 0) \
                     ON CONFLICT (peer, run) DO UPDATE SET generation = excluded.generation, \
                     kind = excluded.kind, fingerprint = excluded.fingerprint, \
                     begun_at = excluded.begun_at, ended_at = NULL, ending = NULL, acknowledged = 0",
                    params![
                        &intent.peer,
                        &intent.run,
                        intent.generation.to_string(),
                        &intent.kind,
                        &intent.fingerprint,
                        intent.at
                    ],
                )?;
                Ok(())
            })
            .await
    }

    /// Writes an ending down, durably before it returns; a job that has one keeps it.
    ///
    /// # Errors
    /// As [`Spool::queue`].
    pub async fn conclude(
        &self,
        peer: &str,
        run: &str,
        ending: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let (peer, run, ending) = (peer.to_owned(), run.to_owned(), ending.to_owned());
        self.store
            .write(move |tx| {
                tx.execute(
                    "UPDATE spool_job SET ending = $3, ended_at = $4 \
                     WHERE peer = $1 AND run = $2 AND ending IS NULL",
                    params![&peer, &run, &ending, at],
                )?;
                Ok(())
            })
            .await
    }

    /// The server has the ending.
    ///
    /// # Errors
    /// As [`Spool::queue`].
    pub async fn acknowledge_job(&self, peer: &str, run: &str) -> Result<(), StoreError> {
        let (peer, run) = (peer.to_owned(), run.to_owned());
        self.store
            .write(move |tx| {
                tx.execute(
                    "UPDATE spool_job SET acknowledged = 1 \
                     WHERE peer = $1 AND run = $2 AND ending IS NOT NULL",
                    params![&peer, &run],
                )?;
                Ok(())
            })
            .await
    }

    /// Endings that one server does not have, oldest first.
    ///
    /// # Errors
    /// As [`Spool::queue`].
    pub async fn unacknowledged(&self, peer: &str) -> Result<Vec<JobRecord>, StoreError> {
        let peer = peer.to_owned();
        self.store
            .read(move |tx| {
                let sql = format!(
                    "{JOB} WHERE peer = $1 AND acknowledged = 0 AND ending IS NOT NULL \
                     ORDER BY begun_at, run"
                );
                tx.query(&sql, params![&peer])?.iter().map(job).collect()
            })
            .await
    }

    /// Jobs without an ending, oldest first: those that run, and at a start those that were cut off.
    ///
    /// # Errors
    /// As [`Spool::queue`].
    pub async fn unfinished(&self) -> Result<Vec<JobIntent>, StoreError> {
        self.store
            .read(|tx| {
                let sql = format!("{JOB} WHERE ending IS NULL ORDER BY begun_at, peer, run");
                tx.query(&sql, &[])?
                    .iter()
                    .map(|row| job(row).map(|record| record.intent))
                    .collect()
            })
            .await
    }

    /// Drops jobs whose ending was acknowledged and that were begun before a time.
    ///
    /// # Errors
    /// As [`Spool::queue`].
    pub async fn forget(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.store
            .write(move |tx| {
                tx.execute(
                    "DELETE FROM spool_job WHERE acknowledged = 1 AND begun_at < $1",
                    params![before],
                )
            })
            .await
    }

    /// A small fact kept under a name.
    ///
    /// # Errors
    /// As [`Spool::queue`].
    pub async fn kept(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let name = name.to_owned();
        self.store
            .read(move |tx| {
                tx.query_opt(
                    "SELECT name, body FROM spool_kept WHERE name = $1",
                    params![&name],
                )?
                .map(|row| Ok(row.bytes("body")?.to_vec()))
                .transpose()
            })
            .await
    }

    /// Keeps a small fact under a name, in place of what was there.
    ///
    /// # Errors
    /// As [`Spool::queue`].
    pub async fn keep(&self, name: &str, body: Vec<u8>) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.store
            .write(move |tx| {
                tx.execute(
                    "INSERT INTO spool_kept (name, body) VALUES ($1, $2) \
                     ON CONFLICT (name) DO UPDATE SET body = excluded.body",
                    params![&name, body.as_slice()],
                )?;
                Ok(())
            })
            .await
    }

    /// Where tests let transactions of this spool fail.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn faults(&self) -> &crate::testing::Faults {
        self.store.faults()
    }
}

/// Rows read together while peeking.
const PEEK_PAGE: usize = 1000;

const JOB: &str = "SELECT run, peer, generation, kind, fingerprint, begun_at, ending, acknowledged \
                   FROM spool_job";

fn job(row: &Row) -> Result<JobRecord, StoreError> {
    Ok(JobRecord {
        intent: JobIntent {
            peer: row.text("peer")?.to_owned(),
            run: row.text("run")?.to_owned(),
            generation: row.parse("generation")?,
            kind: row.text("kind")?.to_owned(),
            fingerprint: row.text("fingerprint")?.to_owned(),
            at: row.timestamp("begun_at")?,
        },
        ending: row.opt_text("ending")?.map(str::to_owned),
        acknowledged: row.bool("acknowledged")?,
    })
}

fn add(
    tx: &mut Tx<'_>,
    queue: &str,
    bodies: &[Vec<u8>],
    bound: Bound,
    now: Timestamp,
) -> Result<Added, StoreError> {
    let row = tx.query_one(
        "SELECT name, next_id, entries, size_bytes FROM spool_queue WHERE name = $1",
        params![queue],
    )?;
    let first = row.int("next_id")?;
    let held_entries: u64 = row.number("entries")?;
    let held_bytes: u64 = row.number("size_bytes")?;
    let new_entries = bodies.len() as u64;
    let new_bytes: u64 = bodies.iter().map(|body| body.len() as u64).sum();
    let full = held_entries.saturating_add(new_entries) > bound.entries
        || held_bytes.saturating_add(new_bytes) > bound.bytes;
    if full && bound.overflow == Overflow::Refuse {
        return Ok(Added::Refused);
    }
    let mut id = first;
    for body in bodies {
        tx.execute(
            "INSERT INTO spool_entry (queue, id, body, made_at) VALUES ($1, $2, $3, $4)",
            params![queue, id, body.as_slice(), now],
        )?;
        id += 1;
    }
    tx.execute_one(
        "spool queue",
        "UPDATE spool_queue SET next_id = $2, entries = entries + $3, size_bytes = size_bytes + $4 \
         WHERE name = $1",
        params![
            queue,
            id,
            bodies.len(),
            i64::try_from(new_bytes).unwrap_or(i64::MAX)
        ],
    )?;
    let mut dropped = 0;
    if full {
        let last = oldest_to_drop(
            tx,
            queue,
            (held_entries + new_entries).saturating_sub(bound.entries),
            (held_bytes + new_bytes).saturating_sub(bound.bytes),
        )?;
        if let Some(last) = last {
            dropped = drop_entries(tx, queue, last, 1)?;
        }
    }
    Ok(Added::Queued {
        first: first.cast_unsigned(),
        dropped,
    })
}

/// The last of the oldest entries that must go so that at least `entries` and `bytes` do.
fn oldest_to_drop(
    tx: &mut Tx<'_>,
    queue: &str,
    entries: u64,
    bytes: u64,
) -> Result<Option<i64>, StoreError> {
    let mut last = None;
    let (mut gone_entries, mut gone_bytes) = (0u64, 0u64);
    while gone_entries < entries || gone_bytes < bytes {
        let rows = tx.query(
            "SELECT id, LENGTH(body) AS size FROM spool_entry WHERE queue = $1 AND id > $2 \
             ORDER BY id LIMIT $3",
            params![queue, last.unwrap_or(0), PEEK_PAGE],
        )?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            if gone_entries >= entries && gone_bytes >= bytes {
                break;
            }
            last = Some(row.int("id")?);
            gone_entries += 1;
            gone_bytes += row.number::<u64>("size")?;
        }
    }
    Ok(last)
}

/// Removes entries up to and with `id`; `lost` is 1 when the bound takes them, 0 when the server has them.
fn drop_entries(tx: &mut Tx<'_>, queue: &str, id: i64, lost: i64) -> Result<u64, StoreError> {
    let sums = tx.query_one(
        "SELECT COUNT(*) AS entries, COALESCE(SUM(LENGTH(body)), 0) AS bytes FROM spool_entry \
         WHERE queue = $1 AND id <= $2",
        params![queue, id],
    )?;
    let (entries, bytes) = (sums.int("entries")?, sums.int("bytes")?);
    if entries == 0 {
        return Ok(0);
    }
    tx.execute(
        "DELETE FROM spool_entry WHERE queue = $1 AND id <= $2",
        params![queue, id],
    )?;
    tx.execute_one(
        "spool queue",
        "UPDATE spool_queue SET entries = entries - $2, size_bytes = size_bytes - $3, \
         dropped = dropped + $4 WHERE name = $1",
        params![queue, entries, bytes, entries * lost],
    )?;
    Ok(entries.cast_unsigned())
}

#[cfg(test)]
mod tests;
