//! Readings of items: what proxies report of any item, and agents and senders of their own.

use std::borrow::Cow;

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::super::json::{BadField, Num, Text};
use super::rows::{Raw, entry};

/// What a log item adds to a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogMeta<'a> {
    /// Seconds, from the log line itself.
    pub timestamp: Option<i64>,
    /// Source of an event log entry.
    pub source: Option<Cow<'a, str>>,
    /// Severity of an event log entry.
    pub severity: Option<i64>,
    /// Id of an event log entry.
    pub eventid: Option<i64>,
    /// Bytes read; without a value this is a position update.
    pub lastlogsize: Option<u64>,
    /// Modification time of the log file.
    pub mtime: Option<i64>,
}

impl LogMeta<'_> {
    fn serialize_entries<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        entry(map, "timestamp", self.timestamp.as_ref())?;
        entry(map, "source", self.source.as_ref())?;
        entry(map, "severity", self.severity.as_ref())?;
        entry(map, "eventid", self.eventid.as_ref())
    }

    fn serialize_position<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        entry(map, "lastlogsize", self.lastlogsize.as_ref())?;
        entry(map, "mtime", self.mtime.as_ref())
    }
}

/// One row of `history data`: a value that is already preprocessed (contract, section 3.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow<'a> {
    /// Grows over a session; `None` for 0 and absent, which makes no claim about repeats.
    pub id: Option<u64>,
    /// The item as numbered in the configuration.
    pub itemid: u64,
    /// Seconds.
    pub clock: i64,
    /// Below 10^9.
    pub ns: u32,
    /// The item is not supported; `value` is why.
    pub not_supported: bool,
    /// Absent for "no value" rows, which only move the item's next check.
    pub value: Option<Cow<'a, str>>,
    /// What a log item adds.
    pub log: Option<Box<LogMeta<'a>>>,
}

/// A row of `history data` as it stands in the message; it has no host and no key.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct RawHistory<'a>(#[serde(borrow)] RawReading<'a>);

impl<'de> Raw<'de> for RawHistory<'de> {
    type Row = HistoryRow<'de>;

    fn check(self) -> Result<HistoryRow<'de>, BadField> {
        let Self(mut raw) = self;
        let log = raw.log()?;
        Ok(HistoryRow {
            id: claim(raw.id)?,
            itemid: raw.itemid.unsigned()?.ok_or(BadField)?,
            clock: clock(raw.clock)?.ok_or(BadField)?,
            ns: nanoseconds(raw.ns)?.ok_or(BadField)?,
            not_supported: raw.state.unsigned()? == Some(1),
            value: raw.value.text()?,
            log,
        })
    }
}

impl Serialize for HistoryRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "id", self.id.as_ref())?;
        map.serialize_entry("itemid", &self.itemid)?;
        map.serialize_entry("clock", &self.clock)?;
        map.serialize_entry("ns", &self.ns)?;
        if let Some(log) = &self.log {
            log.serialize_entries(&mut map)?;
        }
        entry(&mut map, "value", self.value.as_ref())?;
        if self.not_supported {
            map.serialize_entry("state", &1)?;
        }
        if let Some(log) = &self.log {
            log.serialize_position(&mut map)?;
        }
        map.end()
    }
}

/// Which item a row of an agent or sender is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemRef<'a> {
    /// As numbered in the list of active checks.
    Id(u64),
    /// By name.
    Key {
        /// The host.
        host: Cow<'a, str>,
        /// The item's key.
        key: Cow<'a, str>,
    },
}

/// One row of `agent data` or `sender data` (contract, sections 8.3 and 8.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueRow<'a> {
    /// Grows over a session; `None` for 0 and absent.
    pub id: Option<u64>,
    /// Whose value it is.
    pub item: ItemRef<'a>,
    /// Seconds; a sender may leave it out.
    pub clock: Option<i64>,
    /// Below 10^9.
    pub ns: Option<u32>,
    /// The item is not supported; `value` is why.
    pub not_supported: bool,
    /// The value.
    pub value: Option<Cow<'a, str>>,
    /// What a log item adds.
    pub log: Option<Box<LogMeta<'a>>>,
}

/// A reading as it stands in a message, its members read one by one.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawReading<'a> {
    id: Num,
    itemid: Num,
    #[serde(borrow)]
    host: Text<'a>,
    #[serde(borrow)]
    key: Text<'a>,
    clock: Num,
    ns: Num,
    state: Num,
    #[serde(borrow)]
    value: Text<'a>,
    timestamp: Num,
    #[serde(borrow)]
    source: Text<'a>,
    severity: Num,
    eventid: Num,
    lastlogsize: Num,
    mtime: Num,
}

impl<'a> RawReading<'a> {
    /// What a log item adds; the source is taken out.
    fn log(&mut self) -> Result<Option<Box<LogMeta<'a>>>, BadField> {
        let meta = LogMeta {
            timestamp: self.timestamp.signed()?,
            source: std::mem::take(&mut self.source).text()?,
            severity: self.severity.signed()?,
            eventid: self.eventid.signed()?,
            lastlogsize: self.lastlogsize.unsigned()?,
            mtime: self.mtime.signed()?,
        };
        Ok((meta != LogMeta::default()).then(|| Box::new(meta)))
    }
}

impl<'de> Raw<'de> for RawReading<'de> {
    type Row = ValueRow<'de>;

    fn check(mut self) -> Result<ValueRow<'de>, BadField> {
        let log = self.log()?;
        let item = match (self.key.text()?, self.itemid.unsigned()?) {
            (Some(key), _) => ItemRef::Key {
                host: self.host.text()?.ok_or(BadField)?,
                key,
            },
            (None, Some(itemid)) => ItemRef::Id(itemid),
            (None, None) => return Err(BadField),
        };
        let value = self.value.text()?;
        if value.is_none() && log.is_none() {
            return Err(BadField);
        }
        Ok(ValueRow {
            id: claim(self.id)?,
            item,
            clock: clock(self.clock)?,
            ns: nanoseconds(self.ns)?,
            not_supported: self.state.unsigned()? == Some(1),
            value,
            log,
        })
    }
}

impl Serialize for ValueRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.item {
            ItemRef::Id(itemid) => {
                entry(&mut map, "id", self.id.as_ref())?;
                map.serialize_entry("itemid", itemid)?;
            }
            ItemRef::Key { host, key } => {
                map.serialize_entry("host", host)?;
                map.serialize_entry("key", key)?;
            }
        }
        entry(&mut map, "value", self.value.as_ref())?;
        if self.not_supported {
            map.serialize_entry("state", &1)?;
        }
        if let Some(log) = &self.log {
            log.serialize_position(&mut map)?;
            log.serialize_entries(&mut map)?;
        }
        if matches!(self.item, ItemRef::Key { .. }) {
            entry(&mut map, "id", self.id.as_ref())?;
        }
        entry(&mut map, "clock", self.clock.as_ref())?;
        entry(&mut map, "ns", self.ns.as_ref())?;
        map.end()
    }
}

/// The id of a row as a claim to be told apart from a repeat. 0 claims nothing; from 2^63 on the
/// row is refused.
fn claim(id: Num) -> Result<Option<u64>, BadField> {
    match id.unsigned()? {
        Some(id) if id > i64::MAX.unsigned_abs() => Err(BadField),
        id => Ok(id.filter(|id| *id != 0)),
    }
}

/// Seconds since 1970. What lies in the future is the server's business, below 1970 is no clock.
pub(in super::super) fn clock(clock: Num) -> Result<Option<i64>, BadField> {
    match clock.signed()? {
        Some(clock) if clock < 0 => Err(BadField),
        clock => Ok(clock),
    }
}

/// Nanoseconds of a clock.
pub(super) fn nanoseconds(ns: Num) -> Result<Option<u32>, BadField> {
    match ns.narrow::<u32>()? {
        Some(ns) if ns >= 1_000_000_000 => Err(BadField),
        ns => Ok(ns),
    }
}
