//! One transaction of the intake: several uploads, their id sets, their blocks.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::block::{self, Block, Reading};
use crate::error::StoreError;
use crate::idset::{INTERVALS_MAX, IdSet};
use crate::params;
use crate::sql::Tx;

use super::last::{self, Entry, Slice};
use super::{Accepted, Batch, IngestError, damaged};

/// Something an upload does beside storing readings.
pub(super) type Work = Box<dyn FnMut(&mut Tx<'_>) -> Result<(), StoreError> + Send>;

/// One upload of a group.
pub(super) struct Member {
    pub(super) batch: Batch,
    pub(super) bytes: usize,
    pub(super) now: Timestamp,
    pub(super) work: Option<Work>,
}

/// Uploads that are committed together.
pub(super) struct Group {
    members: Vec<Member>,
    writer: String,
    period: i64,
    first_seq: i64,
    now: Timestamp,
}

/// What a committed group did.
pub(super) struct Done {
    pub(super) outcomes: Vec<Result<Accepted, IngestError>>,
    pub(super) next_seq: i64,
    /// Newest readings of the items in it.
    pub(super) fresh: BTreeMap<u64, Entry>,
    /// Newest readings that were written down.
    pub(super) slice: Slice,
}

/// More blocks than a group can have: numbers to skip after one whose fate is unknown.
pub(super) const BLOCKS_MAX: i64 = 1 << 24;

/// An encoded item set longer than this is left out of its block's row; then the range of items serves.
const ITEMS_BYTES_MAX: usize = 2048;
/// Newest values written down with each group, at least, and one for so many readings.
const SLICE_LEAST: usize = 256;
const SLICE_SHARE: usize = 16;

type SessionKey = (String, String);

impl Group {
    pub(super) fn new(
        members: Vec<Member>,
        writer: String,
        period: i64,
        first_seq: i64,
        now: Timestamp,
    ) -> Self {
        Self {
            members,
            writer,
            period,
            first_seq,
            now,
        }
    }

    /// Does it all in `tx`; may be called again after a rollback. `next_slice` says which newest values to
    /// write down along with it, given how many and the group's own.
    pub(super) fn commit(
        &mut self,
        tx: &mut Tx<'_>,
        next_slice: impl FnOnce(usize, &BTreeMap<u64, Entry>) -> Slice,
    ) -> Result<Done, StoreError> {
        let keys: BTreeSet<SessionKey> = self
            .members
            .iter()
            .filter_map(|member| session_key(&member.batch))
            .collect();
        // In the order of the keys, so that two replicas with the same sessions do not deadlock.
        let mut sessions = BTreeMap::new();
        for key in keys {
            let ids = lock_session(tx, &key, self.now)?;
            sessions.insert(
                key,
                Session {
                    ids,
                    changed: false,
                },
            );
        }
        let mut outcomes = Vec::with_capacity(self.members.len());
        let mut accepted: Vec<&Reading> = Vec::new();
        for member in &mut self.members {
            let kept = accepted.len();
            let outcome = match &mut member.work {
                None => take(&member.batch, &mut sessions, &mut accepted),
                Some(work) => {
                    let mut refusal = None;
                    let batch = &member.batch;
                    let part = tx.savepoint(|tx| {
                        work(tx)?;
                        match take(batch, &mut sessions, &mut accepted) {
                            Ok(taken) => Ok(taken),
                            Err(error) => {
                                refusal = Some(error);
                                Err(StoreError::Poisoned)
                            }
                        }
                    });
                    match (part, refusal) {
                        (Ok(taken), _) => Ok(taken),
                        (Err(_), Some(refusal)) => Err(refusal),
                        (Err(error), None) if tx.is_transient() => return Err(error),
                        (Err(error), None) => Err(IngestError::Store(error.into())),
                    }
                }
            };
            if outcome.is_err() {
                accepted.truncate(kept);
            }
            outcomes.push(outcome);
        }

        let count = accepted.len();
        let blocks =
            block::split(accepted).map_err(|source| damaged("sample_block", "new", source))?;
        let mut fresh = BTreeMap::new();
        let mut seq = self.first_seq;
        if !blocks.is_empty() {
            tx.execute(
                "INSERT INTO sample_mark (writer, seq) VALUES ($1, 0) ON CONFLICT (writer) DO NOTHING",
                params![&self.writer],
            )?;
        }
        for block in &blocks {
            insert_block(tx, (self.period, &self.writer, seq), block)?;
            for reading in &block.readings {
                last::note(&mut fresh, reading);
            }
            seq += 1;
        }
        for (key, session) in &sessions {
            if session.changed {
                save_session(tx, key, &session.ids)?;
            }
        }
        let slice = next_slice(SLICE_LEAST.max(count / SLICE_SHARE), &fresh);
        last::save(tx, &slice)?;
        Ok(Done {
            outcomes,
            next_seq: seq,
            fresh,
            slice,
        })
    }
}

struct Session {
    ids: IdSet,
    changed: bool,
}

fn session_key(batch: &Batch) -> Option<SessionKey> {
    let session = batch.session.as_ref()?;
    let claims = batch
        .rows
        .iter()
        .any(|row| row.id.is_some_and(|id| id != 0));
    claims.then(|| (batch.peer.clone(), session.clone()))
}

/// Takes the readings of an upload that are new. An upload is taken whole or not at all.
fn take<'b>(
    batch: &'b Batch,
    sessions: &mut BTreeMap<SessionKey, Session>,
    accepted: &mut Vec<&'b Reading>,
) -> Result<Accepted, IngestError> {
    let mut outcome = Accepted::default();
    let mut session = session_key(batch).and_then(|key| sessions.get_mut(&key));
    let before = session
        .as_ref()
        .filter(|s| s.ids.interval_count().saturating_add(batch.rows.len()) > INTERVALS_MAX)
        .map(|s| (s.ids.clone(), s.changed));
    for row in &batch.rows {
        match (&mut session, row.id) {
            (Some(session), Some(id)) if id != 0 => {
                if !session.ids.insert(id) {
                    outcome.duplicates += 1;
                    continue;
                }
                session.changed = true;
            }
            (Some(_) | None, Some(_) | None) => {}
        }
        outcome.stored += 1;
        accepted.push(&row.reading);
    }
    if let Some(session) = session
        && session.ids.interval_count() > INTERVALS_MAX
    {
        if let Some((ids, changed)) = before {
            *session = Session { ids, changed };
        }
        return Err(IngestError::Holes {
            peer: batch.peer.clone(),
            session: batch.session.clone().unwrap_or_default(),
            limit: INTERVALS_MAX,
        });
    }
    Ok(outcome)
}

/// The ids a session has had, its row locked until the end of the transaction: the upsert does both at once
/// on either engine.
fn lock_session(
    tx: &mut Tx<'_>,
    (peer, session): &SessionKey,
    now: Timestamp,
) -> Result<IdSet, StoreError> {
    let row = tx.query_one(
        "INSERT INTO sample_session (peer, session, ids, touched_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (peer, session) DO UPDATE SET touched_at = excluded.touched_at RETURNING ids",
        params![peer, session, IdSet::new().encode(), now],
    )?;
    IdSet::decode(row.bytes("ids")?).map_err(|source| StoreError::Damaged {
        table: "sample_session",
        key: format!("{peer} {session}"),
        source: Box::new(source),
    })
}

fn save_session(
    tx: &mut Tx<'_>,
    (peer, session): &SessionKey,
    ids: &IdSet,
) -> Result<(), StoreError> {
    tx.execute_one(
        "upload session",
        "UPDATE sample_session SET ids = $3 WHERE peer = $1 AND session = $2",
        params![peer, session, ids.encode()],
    )
}

fn insert_block(
    tx: &mut Tx<'_>,
    (period, writer, seq): (i64, &str, i64),
    block: &Block<&Reading>,
) -> Result<(), StoreError> {
    let items: IdSet = block.readings.iter().map(|r| r.item).collect();
    let mut encoded = items.encode();
    if encoded.len() > ITEMS_BYTES_MAX {
        encoded.clear();
    }
    let bound = |item: Option<u64>| item.and_then(|i| i64::try_from(i).ok()).unwrap_or(i64::MAX);
    let clocks = || block.readings.iter().map(|r| r.clock);
    tx.execute(
        "INSERT INTO sample_block (period, writer, seq, value_count, clock_min, clock_max, \
         item_min, item_max, items, data) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        params![
            period,
            writer,
            seq,
            block.readings.len(),
            clocks().min().unwrap_or_default(),
            clocks().max().unwrap_or_default(),
            bound(block.readings.first().map(|r| r.item)),
            bound(block.readings.last().map(|r| r.item)),
            encoded,
            block.data.as_slice(),
        ],
    )?;
    Ok(())
}
