//! The newest value and state of each item, kept in memory.
//!
//! They follow from the blocks. So that a start need not read all blocks, each group also writes down a slice
//! of the newest values, and a writer's mark says up to which of its blocks that is complete: the newest of
//! an item is the newer one of its row and what the blocks after the marks say. Rows only ever become newer,
//! so several processes may write them.

use std::collections::{BTreeMap, BTreeSet};

use muster_core::sample::Sample;

use crate::block::{self, Content, Reading};
use crate::error::StoreError;
use crate::params;
use crate::sql::{Tx, Value};

use super::damaged;

/// Newest value and state of an item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Last {
    /// The newest value.
    pub value: Option<Sample>,
    /// Why it cannot be had, when that is newer than the value.
    pub not_supported: Option<NotSupported>,
}

/// Why an item cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotSupported {
    /// Since when, as far as known; Unix seconds.
    pub clock: i64,
    /// The peer's reason.
    pub error: String,
}

/// Newest value and newest error of an item.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Entry {
    value: Option<Reading>,
    error: Option<Reading>,
}

impl Entry {
    fn note(&mut self, reading: &Reading) {
        let slot = match reading.content {
            Content::Value(_) => &mut self.value,
            Content::NotSupported(_) => &mut self.error,
        };
        if slot.as_ref().is_none_or(|kept| kept.at() <= reading.at()) {
            *slot = Some(reading.clone());
        }
    }

    fn merge(&mut self, other: &Self) {
        for reading in other.value.iter().chain(&other.error) {
            self.note(reading);
        }
    }
}

/// Adds a reading to newest ones.
pub(super) fn note(entries: &mut BTreeMap<u64, Entry>, reading: &Reading) {
    entries.entry(reading.item).or_default().note(reading);
}

/// What blocks beyond the known ones say.
pub(super) struct News {
    entries: BTreeMap<u64, Entry>,
    seen: BTreeMap<String, i64>,
}

/// The newest of all items.
pub(super) struct LastValues {
    entries: BTreeMap<u64, Entry>,
    /// Last block of each writer that is in `entries`.
    seen: BTreeMap<String, i64>,
    /// Name of this process as a writer.
    own: String,
    /// Items of own and adopted blocks whose row may be older than `entries`.
    dirty: BTreeSet<u64>,
    /// Blocks that `dirty` and `sweep` cover: own ones, and those a writer that died had not covered.
    covers: BTreeMap<String, i64>,
    /// Items still to be written down until `sweep_marks` hold.
    sweep: BTreeSet<u64>,
    sweep_marks: BTreeMap<String, i64>,
    behind: bool,
}

impl LastValues {
    pub(super) fn new(
        own: String,
        entries: BTreeMap<u64, Entry>,
        marks: BTreeMap<String, i64>,
    ) -> Self {
        Self {
            entries,
            seen: marks,
            own,
            dirty: BTreeSet::new(),
            covers: BTreeMap::new(),
            sweep: BTreeSet::new(),
            sweep_marks: BTreeMap::new(),
            behind: false,
        }
    }

    pub(super) fn get(&self, item: u64) -> Option<Last> {
        let entry = self.entries.get(&item)?;
        let value_at = entry.value.as_ref().map(Reading::at);
        let not_supported = entry
            .error
            .as_ref()
            .filter(|error| value_at.is_none_or(|at| at <= error.at()))
            .and_then(|error| match &error.content {
                Content::NotSupported(text) => Some(NotSupported {
                    clock: error.clock,
                    error: text.clone(),
                }),
                Content::Value(_) => None,
            });
        Some(Last {
            value: entry.value.clone().and_then(Reading::into_sample),
            not_supported,
        })
    }

    pub(super) fn seen(&self) -> BTreeMap<String, i64> {
        self.seen.clone()
    }

    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    /// Own blocks may be in the store that are not known here.
    pub(super) fn set_behind(&mut self) {
        self.behind = true;
    }

    /// Takes over what blocks of others say. What was there before this process is written down by it, as
    /// nobody else may be left to do it; so is what of its own it did not know to be committed.
    pub(super) fn learn(&mut self, news: News, at_start: bool) {
        let own_news = news
            .seen
            .get(&self.own)
            .is_some_and(|seq| self.seen.get(&self.own) < Some(seq));
        if at_start || own_news {
            self.dirty.extend(news.entries.keys());
        }
        for (item, entry) in &news.entries {
            self.entries.entry(*item).or_default().merge(entry);
        }
        for (writer, seq) in news.seen {
            let known = self.seen.entry(writer.clone()).or_insert(0);
            if seq > *known {
                *known = seq;
                if at_start || writer == self.own {
                    self.covers.insert(writer, seq);
                }
            }
        }
        self.behind = false;
    }

    /// A group of own blocks was committed.
    pub(super) fn committed(
        &mut self,
        first_seq: i64,
        next_seq: i64,
        fresh: &BTreeMap<u64, Entry>,
    ) {
        if next_seq == first_seq {
            return;
        }
        for (item, entry) in fresh {
            self.entries.entry(*item).or_default().merge(entry);
            self.dirty.insert(*item);
        }
        self.seen.insert(self.own.clone(), next_seq - 1);
        self.covers.insert(self.own.clone(), next_seq - 1);
    }

    /// Up to `quota` newest values to write down next, `fresh` ones included, and the marks that then hold.
    /// May be called again after a rollback.
    pub(super) fn next_slice(&mut self, quota: usize, fresh: &BTreeMap<u64, Entry>) -> Slice {
        if self.sweep.is_empty() && self.sweep_marks.is_empty() {
            self.sweep = std::mem::take(&mut self.dirty);
            self.sweep_marks = std::mem::take(&mut self.covers);
        }
        let mut slice = Slice::default();
        for item in self.sweep.iter().take(quota) {
            let mut entry = self.entries.get(item).cloned().unwrap_or_default();
            if let Some(newer) = fresh.get(item) {
                entry.merge(newer);
            }
            slice.entries.insert(*item, entry);
        }
        if slice.entries.len() == self.sweep.len() {
            slice.marks = self.sweep_marks.clone();
        }
        slice
    }

    /// What [`LastValues::next_slice`] gave is committed.
    pub(super) fn saved(&mut self, slice: &Slice) {
        for item in slice.entries.keys() {
            self.sweep.remove(item);
        }
        for writer in slice.marks.keys() {
            self.sweep_marks.remove(writer);
        }
    }
}

/// Newest values to write down, and the marks that hold once they are.
#[derive(Clone, Default)]
pub(super) struct Slice {
    entries: BTreeMap<u64, Entry>,
    marks: BTreeMap<String, i64>,
}

impl Slice {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.marks.is_empty()
    }
}

pub(super) type Entries = BTreeMap<u64, Entry>;
pub(super) type Marks = BTreeMap<String, i64>;

/// The rows and marks that are written down.
pub(super) fn load(tx: &mut Tx<'_>) -> Result<(Entries, Marks), StoreError> {
    let mut entries: BTreeMap<u64, Entry> = BTreeMap::new();
    let mut after = -1i64;
    loop {
        let rows = tx.query(
            "SELECT item, value, error FROM sample_last WHERE item > $1 ORDER BY item LIMIT $2",
            params![after, ROWS_AT_ONCE],
        )?;
        for row in &rows {
            after = row.int("item")?;
            let item: u64 = row.number("item")?;
            for column in ["value", "error"] {
                if let Some(bytes) = row.opt_bytes(column)? {
                    let readings = block::decode(bytes)
                        .map_err(|source| damaged("sample_last", item, source))?;
                    for reading in &readings {
                        entries.entry(item).or_default().note(reading);
                    }
                }
            }
        }
        if rows.len() < ROWS_AT_ONCE {
            break;
        }
    }
    let mut marks = BTreeMap::new();
    for row in tx.query("SELECT writer, seq FROM sample_mark", &[])? {
        marks.insert(row.text("writer")?.to_owned(), row.int("seq")?);
    }
    Ok((entries, marks))
}

const ROWS_AT_ONCE: usize = 1000;
/// Blocks decoded at once: about a megabyte encoded.
const BLOCKS_AT_ONCE: usize = 64;

/// What blocks after `seen` say, also those of writers not seen yet.
pub(super) fn news(tx: &mut Tx<'_>, seen: &BTreeMap<String, i64>) -> Result<News, StoreError> {
    let mut news = News {
        entries: BTreeMap::new(),
        seen: BTreeMap::new(),
    };
    for row in tx.query("SELECT writer, seq FROM sample_mark ORDER BY writer", &[])? {
        let writer = row.text("writer")?;
        let mut after = seen.get(writer).copied().unwrap_or(0);
        loop {
            let blocks = tx.query(
                "SELECT seq, data FROM sample_block WHERE writer = $1 AND seq > $2 \
                 ORDER BY seq LIMIT $3",
                params![writer, after, BLOCKS_AT_ONCE],
            )?;
            for row in &blocks {
                after = row.int("seq")?;
                let readings = block::decode(row.bytes("data")?).map_err(|source| {
                    damaged("sample_block", format!("{writer} {after}"), source)
                })?;
                for reading in &readings {
                    note(&mut news.entries, reading);
                }
            }
            if blocks.len() < BLOCKS_AT_ONCE {
                break;
            }
        }
        news.seen.insert(writer.to_owned(), after);
    }
    Ok(news)
}

/// Writes newest values and marks down; what is newer already stays.
pub(super) fn save(tx: &mut Tx<'_>, slice: &Slice) -> Result<(), StoreError> {
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    for (item, entry) in &slice.entries {
        let key = i64::try_from(*item).unwrap_or(i64::MAX);
        for (reading, rows) in [(&entry.value, &mut values), (&entry.error, &mut errors)] {
            if let Some(reading) = reading {
                let data = block::encode(std::slice::from_ref(reading))
                    .map_err(|source| damaged("sample_last", item, source))?;
                rows.push([
                    key.into(),
                    reading.clock.into(),
                    reading.ns.into(),
                    data.into(),
                ]);
            }
        }
    }
    save_rows(tx, "value", &values)?;
    save_rows(tx, "error", &errors)?;
    for (writer, seq) in &slice.marks {
        tx.execute(SAVE_MARK, params![writer, *seq])?;
    }
    Ok(())
}

/// Rows of one statement, largest first: a statement for each row costs PostgreSQL a round trip each, and
/// one for every number of rows as many prepared statements.
const ROWS_OF_A_STATEMENT: [usize; 4] = [64, 16, 4, 1];
const CELLS: usize = 4;

fn save_rows(
    tx: &mut Tx<'_>,
    kind: &'static str,
    mut rows: &[[Value; CELLS]],
) -> Result<(), StoreError> {
    for size in ROWS_OF_A_STATEMENT {
        let mut sql = String::new();
        while let Some((now, later)) = rows.split_at_checked(size) {
            if sql.is_empty() {
                sql = save_sql(kind, size);
            }
            tx.execute(&sql, now.as_flattened())?;
            rows = later;
        }
    }
    Ok(())
}

fn save_sql(kind: &str, rows: usize) -> String {
    let places: Vec<String> = (0..rows)
        .map(|row| {
            let first = row * CELLS + 1;
            format!(
                "(${}, ${}, ${}, ${})",
                first,
                first + 1,
                first + 2,
                first + 3
            )
        })
        .collect();
    let places = places.join(", ");
    format!(
        "INSERT INTO sample_last (item, {kind}_clock, {kind}_ns, {kind}) VALUES {places} \
         ON CONFLICT (item) DO UPDATE SET {kind}_clock = excluded.{kind}_clock, \
         {kind}_ns = excluded.{kind}_ns, {kind} = excluded.{kind} \
         WHERE sample_last.{kind}_clock IS NULL OR sample_last.{kind}_clock < excluded.{kind}_clock \
         OR (sample_last.{kind}_clock = excluded.{kind}_clock \
             AND sample_last.{kind}_ns <= excluded.{kind}_ns)"
    )
}

const SAVE_MARK: &str = "\
    INSERT INTO sample_mark (writer, seq) VALUES ($1, $2) \
    ON CONFLICT (writer) DO UPDATE SET seq = excluded.seq WHERE sample_mark.seq < excluded.seq";
