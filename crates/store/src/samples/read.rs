//! Reading an item's values out of blocks, and dropping old ones.

use std::collections::BinaryHeap;

use jiff::Timestamp;
use muster_core::sample::Sample;

use crate::block::{self, Content};
use crate::error::StoreError;
use crate::idset::IdSet;
use crate::params;
use crate::sql::{Engine, Row, Tx};

use super::damaged;

/// Which values of an item are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// From this second on.
    pub from: i64,
    /// Up to and with this second.
    pub to: i64,
    /// Which ones when there are more than `limit`.
    pub order: Order,
    /// How many at most; [`LIMIT_MAX`] bounds it.
    pub limit: usize,
}

impl Span {
    /// The newest values of all time.
    #[must_use]
    pub const fn newest(limit: usize) -> Self {
        Self {
            from: i64::MIN,
            to: i64::MAX,
            order: Order::Newest,
            limit,
        }
    }
}

/// Which end of a range counts when it holds more than is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The newest values of the range.
    Newest,
    /// The oldest values of the range.
    Oldest,
}

/// Values in one answer (surface, section 5).
pub const LIMIT_MAX: usize = 100_000;
/// Rows of blocks looked at together.
const PAGE: usize = 256;

/// A value on the heap: the greatest is the first to go, and ties go by order of reading.
struct Ranked {
    rank: (i64, i64, i64),
    sample: Sample,
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

/// Values of `item` in `span`, oldest first.
///
/// Blocks are visited from the wanted end on, and no further than one that can still improve the answer.
pub(super) fn range(tx: &mut Tx<'_>, item: u64, span: Span) -> Result<Vec<Sample>, StoreError> {
    let limit = span.limit.min(LIMIT_MAX);
    let Ok(key) = i64::try_from(item) else {
        return Ok(Vec::new());
    };
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut best: BinaryHeap<Ranked> = BinaryHeap::new();
    let mut count = 0i64;
    let mut after: Option<(i64, String, i64)> = None;
    'pages: loop {
        let page = page(tx, key, span, after.as_ref())?;
        for row in &page {
            let near = row.int("edge")?;
            let reach = match span.order {
                Order::Newest => near.saturating_neg(),
                Order::Oldest => near,
            };
            if best.len() >= limit && best.peek().is_some_and(|worst| worst.rank.0 < reach) {
                break 'pages;
            }
            after = Some((near, row.text("writer")?.to_owned(), row.int("seq")?));
            if !may_hold(row, item)? {
                continue;
            }
            for sample in samples_of(tx, row, item)? {
                if sample.clock < span.from || sample.clock > span.to {
                    continue;
                }
                let ns = i64::from(sample.ns);
                let rank = match span.order {
                    Order::Newest => (sample.clock.saturating_neg(), -ns, -count),
                    Order::Oldest => (sample.clock, ns, count),
                };
                count += 1;
                best.push(Ranked { rank, sample });
                if best.len() > limit {
                    best.pop();
                }
            }
        }
        if page.len() < PAGE {
            break;
        }
    }
    let mut found: Vec<Sample> = best
        .into_sorted_vec()
        .into_iter()
        .map(|r| r.sample)
        .collect();
    if span.order == Order::Newest {
        found.reverse();
    }
    found.sort_by_key(|sample| (sample.clock, sample.ns));
    Ok(found)
}

fn page(
    tx: &mut Tx<'_>,
    item: i64,
    span: Span,
    after: Option<&(i64, String, i64)>,
) -> Result<Vec<Row>, StoreError> {
    let (edge, direction, compare) = match span.order {
        Order::Newest => ("clock_max", "DESC", "<"),
        Order::Oldest => ("clock_min", "ASC", ">"),
    };
    let beyond = match after {
        Some(_) => format!("AND ({edge}, writer, seq) {compare} ($6, $7, $8)"),
        None => String::new(),
    };
    let sql = format!(
        "SELECT period, writer, seq, items, {edge} AS edge FROM sample_block \
         WHERE item_min <= $1 AND item_max >= $2 AND clock_max >= $3 AND clock_min <= $4 {beyond} \
         ORDER BY {edge} {direction}, writer {direction}, seq {direction} LIMIT $5"
    );
    let mut params = params![item, item, span.from, span.to, PAGE].to_vec();
    if let Some((edge, writer, seq)) = after {
        params.extend_from_slice(params![*edge, writer, *seq]);
    }
    tx.query(&sql, &params)
}

fn may_hold(row: &Row, item: u64) -> Result<bool, StoreError> {
    let items = row.bytes("items")?;
    if items.is_empty() {
        return Ok(true);
    }
    let items = IdSet::decode(items).map_err(|source| StoreError::Damaged {
        table: "sample_block",
        key: block_key(row),
        source: Box::new(source),
    })?;
    Ok(items.contains(item))
}

fn block_key(row: &Row) -> String {
    let part = |column| row.int(column).unwrap_or_default();
    format!(
        "{} {} {}",
        part("period"),
        row.text("writer").unwrap_or("?"),
        part("seq")
    )
}

fn samples_of(tx: &mut Tx<'_>, row: &Row, item: u64) -> Result<Vec<Sample>, StoreError> {
    let data = tx.query_one(
        "SELECT data FROM sample_block WHERE period = $1 AND writer = $2 AND seq = $3",
        params![row.int("period")?, row.text("writer")?, row.int("seq")?],
    )?;
    let readings = block::decode(data.bytes("data")?)
        .map_err(|source| damaged("sample_block", block_key(row), source))?;
    Ok(readings
        .into_iter()
        .filter(|r| r.item == item && matches!(r.content, Content::Value(_)))
        .filter_map(|r| r.into_sample())
        .collect())
}

/// Makes the partition of a period, on PostgreSQL. Replicas take turns, as making it twice at once fails.
pub(super) fn ensure_period(tx: &mut Tx<'_>, period: i64) -> Result<(), StoreError> {
    tx.query(
        "SELECT pg_advisory_xact_lock(hashtext('muster period ' || current_schema()))::text",
        &[],
    )?;
    tx.batch(&format!(
        "CREATE TABLE IF NOT EXISTS sample_block_{} PARTITION OF sample_block \
         FOR VALUES FROM ({period}) TO ({})",
        partition_suffix(period),
        period + 1
    ))
}

/// Names of partitions end in their period; before 1970 in `n` and its distance.
fn partition_suffix(period: i64) -> String {
    if period < 0 {
        format!("n{}", period.unsigned_abs())
    } else {
        format!("p{period}")
    }
}

fn partition_period(name: &str) -> Option<i64> {
    let suffix = name.strip_prefix("sample_block_")?;
    match (suffix.strip_prefix('p'), suffix.strip_prefix('n')) {
        (Some(number), _) => number.parse().ok(),
        (None, Some(number)) => number.parse::<i64>().ok().map(|n| -n),
        (None, None) => None,
    }
}

/// Drops blocks of periods before `period`: on PostgreSQL whole periods, on SQLite at most `limit` blocks, for
/// nothing else is written meanwhile. Answers how many of either.
pub(super) fn drop_before(tx: &mut Tx<'_>, period: i64, limit: i64) -> Result<u64, StoreError> {
    let dropped = match tx.engine() {
        Engine::Sqlite => tx.execute(
            "DELETE FROM sample_block WHERE (period, writer, seq) IN (\
             SELECT period, writer, seq FROM sample_block WHERE period < $1 \
             ORDER BY period, writer, seq LIMIT $2)",
            params![period, limit],
        )?,
        Engine::Postgres => {
            let rows = tx.query(
                "SELECT c.relname::text AS name FROM pg_inherits i \
                 JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent \
                 JOIN pg_namespace n ON n.oid = p.relnamespace \
                 WHERE p.relname = 'sample_block' AND n.nspname = current_schema()",
                &[],
            )?;
            let mut dropped = 0;
            for row in rows {
                let name = row.text("name")?;
                if partition_period(name).is_some_and(|p| p < period) {
                    // Another replica may have dropped it since.
                    tx.batch(&format!("DROP TABLE IF EXISTS {name}"))?;
                    dropped += 1;
                }
            }
            dropped
        }
    };
    Ok(dropped)
}

/// Forgets which ids sessions had that were last heard of before `before`.
pub(super) fn forget_sessions(tx: &mut Tx<'_>, before: Timestamp) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM sample_session WHERE touched_at < $1",
        params![before],
    )
}

/// How much is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks.
    pub blocks: u64,
    /// Readings in them.
    pub readings: u64,
    /// Their encoded size.
    pub bytes: u64,
    /// Upload sessions remembered.
    pub sessions: u64,
}

pub(super) fn stats(tx: &mut Tx<'_>) -> Result<Stats, StoreError> {
    let blocks = tx.query_one(
        "SELECT COUNT(*) AS blocks, COALESCE(SUM(value_count), 0) AS readings, \
         COALESCE(SUM(LENGTH(data)), 0) AS bytes FROM sample_block",
        &[],
    )?;
    let sessions = tx.query_one("SELECT COUNT(*) AS n FROM sample_session", &[])?;
    Ok(Stats {
        blocks: blocks.number("blocks")?,
        readings: blocks.number("readings")?,
        bytes: blocks.number("bytes")?,
        sessions: sessions.number("n")?,
    })
}
