//! Sample values: taken in by group commit, read back by item and time (architecture, section 10).
//!
//! A value is not a row: what several uploads bring becomes a few blocks, written in one transaction with the
//! id sets of their sessions. The uploads that wait while one transaction runs are the next group, so there
//! is no timer. An upload is answered only after its commit, and a repeat of it stores nothing.
//!
//! Who may upload what, and what a value means, is decided by the callers.

mod group;
mod last;
mod read;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::block::{self, BlockError, Reading};
use crate::error::StoreError;
use crate::sql::{Engine, Tx};
use crate::store::Store;

use group::{Group, Member};
use last::LastValues;
pub use last::{Last, NotSupported};
pub use read::{LIMIT_MAX, Order, Span, Stats};

/// What one upload brings.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Who uploads: a name that is the same for the same peer each time.
    pub peer: String,
    /// The peer's session, under which its ids are unique; without one nothing is a duplicate.
    pub session: Option<String>,
    /// The readings.
    pub rows: Vec<Row>,
}

/// A reading and the id its peer gave it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Unique within the session; without one, or 0, the reading is never a duplicate.
    pub id: Option<u64>,
    /// The reading.
    pub reading: Reading,
}

/// What became of an upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Readings that are durable since this upload.
    pub stored: usize,
    /// Readings that were accepted earlier.
    pub duplicates: usize,
}

/// Why an upload was not taken; nothing of it was stored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IngestError {
    /// Too much is waiting already; come again.
    #[error("{waiting} readings wait to be stored already")]
    Full {
        /// How many wait.
        waiting: usize,
    },
    /// A reading that no block can hold.
    #[error("reading {index} of the upload has an impossible {what}")]
    Impossible {
        /// Its place in the upload.
        index: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A name that PostgreSQL cannot hold.
    #[error("the {what} of the upload holds U+0000")]
    Nul {
        /// Which name.
        what: &'static str,
    },
    /// Its session has more holes between its ids than are kept apart.
    #[error("session {session:?} of {peer:?} leaves more than {limit} holes between its ids")]
    Holes {
        /// The peer.
        peer: String,
        /// Its session.
        session: String,
        /// How many may be.
        limit: usize,
    },
    /// The process is ending.
    #[error("storing stopped before this upload was committed")]
    Stopped,
    /// The database failed.
    #[error("storing failed")]
    Store(#[source] Arc<StoreError>),
}

/// Bounds of what waits and of what is committed at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Readings that may wait; an upload that comes when nothing waits is taken whatever its size. Two of
    /// the largest uploads (threats, section 4).
    pub waiting_readings: usize,
    /// Text in them, in bytes.
    pub waiting_bytes: usize,
    /// Readings of one transaction (an upload is never divided): keeps others' wait for the writer short.
    pub group_readings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            waiting_readings: 2_000_000,
            waiting_bytes: 256 * 1024 * 1024,
            group_readings: 250_000,
        }
    }
}

/// Handle for taking in and reading sample values; clones share it. One per process and store.
#[derive(Clone)]
pub struct Samples {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    writer: String,
    limits: Limits,
    queue: Mutex<Queue>,
    last: Mutex<LastValues>,
    /// Held while a transaction of the intake runs, so that there is one at a time.
    committer: tokio::sync::Mutex<Committer>,
}

/// Uploads that wait for a transaction.
#[derive(Default)]
struct Queue {
    members: VecDeque<Waiting>,
    readings: usize,
    bytes: usize,
    running: bool,
}

struct Waiting {
    member: Member,
    answer: oneshot::Sender<Result<Accepted, IngestError>>,
}

/// What only the one that commits touches.
struct Committer {
    next_seq: i64,
    periods: BTreeSet<i64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Samples {
    /// Opens the samples of a migrated store and reads the newest values. `writer` names this process among
    /// all that ever wrote to the store: a fresh id each start.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    pub async fn open(store: Store, writer: Uuid, limits: Limits) -> Result<Self, StoreError> {
        let (entries, marks) = store.read(last::load).await?;
        let writer = writer.simple().to_string();
        let committer = Committer {
            next_seq: 1,
            periods: BTreeSet::new(),
        };
        let samples = Self {
            shared: Arc::new(Shared {
                store,
                writer: writer.clone(),
                limits,
                queue: Mutex::default(),
                last: Mutex::new(LastValues::new(writer, entries, marks)),
                committer: tokio::sync::Mutex::new(committer),
            }),
        };
        refresh(&samples.shared, true).await?;
        Ok(samples)
    }

    /// Stores an upload; returns after it is durable.
    ///
    /// # Errors
    /// [`IngestError`]; then nothing of it was stored (save where the database was lost during the commit:
    /// then nobody knows, and the peer's repeat settles it).
    pub async fn ingest(&self, batch: Batch, now: Timestamp) -> Result<Accepted, IngestError> {
        self.submit(batch, now, None).await
    }

    /// Stores an upload and does `work` in the same transaction, before the readings; if `work` fails, the
    /// readings are not stored either. It may run several times, as in [`Store::write`].
    ///
    /// # Errors
    /// As [`Samples::ingest`], and what `work` returns.
    pub async fn ingest_with<T, F>(
        &self,
        batch: Batch,
        now: Timestamp,
        mut work: F,
    ) -> Result<(Accepted, T), IngestError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let slot = Arc::new(Mutex::new(None));
        let result = Arc::clone(&slot);
        let work: group::Work = Box::new(move |tx| {
            let value = work(tx)?;
            *lock(&result) = Some(value);
            Ok(())
        });
        let accepted = self.submit(batch, now, Some(work)).await?;
        let value = lock(&slot).take().ok_or(IngestError::Stopped)?;
        Ok((accepted, value))
    }

    async fn submit(
        &self,
        batch: Batch,
        now: Timestamp,
        work: Option<group::Work>,
    ) -> Result<Accepted, IngestError> {
        // One text that the database refuses would undo the whole group.
        for (what, text) in [
            ("peer", Some(&batch.peer)),
            ("session", batch.session.as_ref()),
        ] {
            if text.is_some_and(|text| text.contains('\0')) {
                return Err(IngestError::Nul { what });
            }
        }
        let mut bytes = 0usize;
        for (index, row) in batch.rows.iter().enumerate() {
            check(&row.reading).map_err(|what| IngestError::Impossible { index, what })?;
            bytes = bytes.saturating_add(row.reading.text_len());
        }
        if batch.rows.is_empty() && work.is_none() {
            return Ok(Accepted::default());
        }
        let (answer, answered) = oneshot::channel();
        let start = {
            let mut queue = lock(&self.shared.queue);
            let readings = queue.readings.saturating_add(batch.rows.len());
            let total = queue.bytes.saturating_add(bytes);
            let limits = &self.shared.limits;
            if !queue.members.is_empty()
                && (readings > limits.waiting_readings || total > limits.waiting_bytes)
            {
                return Err(IngestError::Full {
                    waiting: queue.readings,
                });
            }
            queue.readings = readings;
            queue.bytes = total;
            let member = Member {
                batch,
                bytes,
                now,
                work,
            };
            queue.members.push_back(Waiting { member, answer });
            !std::mem::replace(&mut queue.running, true)
        };
        if start {
            // Ends by itself when nothing waits.
            tokio::spawn(drain(Arc::clone(&self.shared)));
        }
        answered.await.unwrap_or(Err(IngestError::Stopped))
    }

    /// Newest value and state of items; those never heard of are left out.
    ///
    /// # Errors
    /// [`StoreError`] when other processes' values cannot be read.
    pub async fn last(&self, items: &[u64]) -> Result<BTreeMap<u64, Last>, StoreError> {
        if self.shared.store.engine() == Engine::Postgres || lock(&self.shared.last).is_behind() {
            refresh(&self.shared, false).await?;
        }
        let last = lock(&self.shared.last);
        Ok(items
            .iter()
            .filter_map(|item| last.get(*item).map(|l| (*item, l)))
            .collect())
    }

    /// Values of an item, oldest first.
    ///
    /// # Errors
    /// [`StoreError`], among them [`StoreError::Damaged`] for a block that does not decode.
    pub async fn range(
        &self,
        item: u64,
        span: Span,
    ) -> Result<Vec<muster_core::sample::Sample>, StoreError> {
        self.shared
            .store
            .read(move |tx| read::range(tx, item, span))
            .await
    }

    /// Drops what arrived on days before the one of `before`, and forgets sessions not heard of since. The
    /// newest value of each item stays. Answers how many periods (PostgreSQL) or blocks (SQLite) went.
    ///
    /// # Errors
    /// [`StoreError`]; then some of it may be dropped already, and the rest is next time.
    pub async fn retain(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.settle().await?;
        let period = period_of(before);
        let mut dropped = 0;
        loop {
            let step = self
                .shared
                .store
                .write(move |tx| read::drop_before(tx, period, DROP_BLOCKS))
                .await?;
            dropped += step;
            if step < DROP_BLOCKS.unsigned_abs() {
                break;
            }
        }
        self.shared
            .store
            .write(move |tx| read::forget_sessions(tx, before))
            .await?;
        self.shared
            .committer
            .lock()
            .await
            .periods
            .retain(|kept| *kept >= period);
        Ok(dropped)
    }

    /// Writes down the newest values that only young blocks hold, so that the next start reads little.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn settle(&self) -> Result<(), StoreError> {
        let _turn = self.shared.committer.lock().await;
        loop {
            let slice = lock(&self.shared.last).next_slice(SETTLE_ITEMS, &BTreeMap::new());
            if slice.is_empty() {
                return Ok(());
            }
            let written = slice.clone();
            self.shared
                .store
                .write(move |tx| last::save(tx, &written))
                .await?;
            lock(&self.shared.last).saved(&slice);
        }
    }

    /// How much is stored.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        self.shared.store.read(read::stats).await
    }
}

/// Blocks dropped in one transaction: some 8 MiB, so that uploads wait for milliseconds.
const DROP_BLOCKS: i64 = 500;

/// Items written down at once outside of a group.
const SETTLE_ITEMS: usize = 2000;

/// Whether a block can hold the reading, and BIGINT its item.
fn check(reading: &Reading) -> Result<(), &'static str> {
    if reading.item > i64::MAX.cast_unsigned() {
        return Err("item number");
    }
    if reading.ns >= 1_000_000_000 {
        return Err("fraction of a second");
    }
    if reading.text_len() > block::TEXT_BYTES_MAX {
        return Err("length");
    }
    Ok(())
}

/// The day of arrival, by which retention goes.
fn period_of(now: Timestamp) -> i64 {
    now.as_second().div_euclid(86_400)
}

async fn refresh(shared: &Shared, at_start: bool) -> Result<(), StoreError> {
    let seen = lock(&shared.last).seen();
    let news = shared.store.read(move |tx| last::news(tx, &seen)).await?;
    lock(&shared.last).learn(news, at_start);
    Ok(())
}

/// Commits group after group until nothing waits.
async fn drain(shared: Arc<Shared>) {
    while let Some(group) = next_group(&shared) {
        // A panic while storing answers this group with `Stopped`, not every later one with silence.
        let _ = tokio::spawn(commit(Arc::clone(&shared), group)).await;
    }
}

fn next_group(shared: &Shared) -> Option<Vec<Waiting>> {
    let mut queue = lock(&shared.queue);
    let mut group = Vec::new();
    let mut readings = 0usize;
    while let Some(next) = queue.members.front() {
        readings = readings.saturating_add(next.member.batch.rows.len());
        if !group.is_empty() && readings > shared.limits.group_readings {
            break;
        }
        let Some(next) = queue.members.pop_front() else {
            break;
        };
        queue.readings = queue.readings.saturating_sub(next.member.batch.rows.len());
        queue.bytes = queue.bytes.saturating_sub(next.member.bytes);
        group.push(next);
    }
    if group.is_empty() {
        queue.running = false;
        return None;
    }
    Some(group)
}

async fn commit(shared: Arc<Shared>, waiting: Vec<Waiting>) {
    let (members, answers): (Vec<Member>, Vec<_>) =
        waiting.into_iter().map(|w| (w.member, w.answer)).unzip();
    match try_commit(&shared, members).await {
        Ok(outcomes) => {
            for (answer, outcome) in answers.into_iter().zip(outcomes) {
                let _ = answer.send(outcome);
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for answer in answers {
                let _ = answer.send(Err(IngestError::Store(Arc::clone(&error))));
            }
        }
    }
}

async fn try_commit(
    shared: &Arc<Shared>,
    members: Vec<Member>,
) -> Result<Vec<Result<Accepted, IngestError>>, StoreError> {
    let mut committer = shared.committer.lock().await;
    if lock(&shared.last).is_behind() {
        refresh(shared, false).await?;
    }
    let now = members
        .iter()
        .map(|member| member.now)
        .max()
        .unwrap_or(Timestamp::UNIX_EPOCH);
    let period = period_of(now);
    if shared.store.engine() == Engine::Postgres && !committer.periods.contains(&period) {
        shared
            .store
            .write(move |tx| read::ensure_period(tx, period))
            .await?;
        committer.periods.insert(period);
    }
    let first_seq = committer.next_seq;
    let mut group = Group::new(members, shared.writer.clone(), period, first_seq, now);
    let inside = Arc::clone(shared);
    let done = shared
        .store
        .write(move |tx| {
            group.commit(tx, |quota, fresh| {
                lock(&inside.last).next_slice(quota, fresh)
            })
        })
        .await;
    match done {
        Ok(done) => {
            committer.next_seq = done.next_seq;
            let mut last = lock(&shared.last);
            last.committed(first_seq, done.next_seq, &done.fresh);
            last.saved(&done.slice);
            Ok(done.outcomes)
        }
        Err(error) => {
            // Whether it was committed after all is not known; its numbers are not used again.
            committer.next_seq += group::BLOCKS_MAX;
            lock(&shared.last).set_behind();
            Err(error)
        }
    }
}

/// A block that does not decode, as an error of the store.
fn damaged(table: &'static str, key: impl ToString, source: BlockError) -> StoreError {
    StoreError::Damaged {
        table,
        key: key.to_string(),
        source: Box::new(source),
    }
}
