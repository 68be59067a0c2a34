//! Rows of uploads: what proxies, agents and senders report.
//!
//! Decoding is as lenient as a real server is: a row that makes no sense is counted and skipped, a
//! section that is no array is nothing. Texts are borrowed from the message. The same types encode,
//! in the order and with the omissions of a real proxy. Contract: Zabbix page, sections 3.3 to 3.8,
//! 8.3 and 8.4.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::json::{BadField, Num, Text};
use super::task::TaskEntry;

/// The rows of one section, and how many could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<T> {
    /// The good rows, in order.
    pub rows: Vec<T>,
    /// Rows that are no object or lack what a row must have.
    pub bad: u64,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            bad: 0,
        }
    }
}

impl<T> From<Vec<T>> for Rows<T> {
    fn from(rows: Vec<T>) -> Self {
        Self { rows, bad: 0 }
    }
}

impl<T> Rows<T> {
    /// Whether the section told nothing at all.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.bad == 0
    }

    fn append(&mut self, mut other: Self) {
        self.rows.append(&mut other.rows);
        self.bad = self.bad.saturating_add(other.bad);
    }
}

impl<T: Serialize> Serialize for Rows<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.rows.serialize(serializer)
    }
}

/// A row as decoded field by field, before it is known to make sense.
pub(super) trait Raw<'de>: Deserialize<'de> {
    type Row;

    fn check(self) -> Result<Self::Row, BadField>;
}

pub(super) struct RowsOf<R>(PhantomData<R>);

impl<'de, R: Raw<'de>> RowsOf<R> {
    pub(super) fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Rows<R::Row>, D::Error> {
        d.deserialize_any(Self(PhantomData))
    }
}

impl<'de, R: Raw<'de>> Visitor<'de> for RowsOf<R> {
    type Value = Rows<R::Row>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut rows = Rows::default();
        while let Some(Maybe(row)) = seq.next_element::<Maybe<R>>()? {
            match row.ok_or(BadField).and_then(R::check) {
                Ok(row) => {
                    // A doubling vector would hold twice what the text can justify.
                    if rows.rows.len() == rows.rows.capacity() {
                        rows.rows.reserve_exact((rows.rows.len() / 4).max(16));
                    }
                    rows.rows.push(row);
                }
                Err(BadField) => rows.bad = rows.bad.saturating_add(1),
            }
        }
        Ok(rows)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Rows {
            rows: Vec::new(),
            bad: 1,
        })
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Rows {
            rows: Vec::new(),
            bad: 1,
        })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Rows {
            rows: Vec::new(),
            bad: 1,
        })
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Rows {
            rows: Vec::new(),
            bad: 1,
        })
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Rows {
            rows: Vec::new(),
            bad: 1,
        })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Rows {
            rows: Vec::new(),
            bad: 1,
        })
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Rows::default())
    }
}

/// An object decoded as `R`, or anything else decoded as `None`.
struct Maybe<R>(Option<R>);

impl<'de, R: Deserialize<'de>> Deserialize<'de> for Maybe<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MaybeVisitor(PhantomData))
    }
}

struct MaybeVisitor<R>(PhantomData<R>);

impl<'de, R: Deserialize<'de>> Visitor<'de> for MaybeVisitor<R> {
    type Value = Maybe<R>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Maybe<R>, A::Error> {
        R::deserialize(MapAccessDeserializer::new(map)).map(|row| Maybe(Some(row)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Maybe<R>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Maybe(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Maybe<R>, E> {
        Ok(Maybe(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Maybe<R>, E> {
        Ok(Maybe(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Maybe<R>, E> {
        Ok(Maybe(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Maybe<R>, E> {
        Ok(Maybe(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Maybe<R>, E> {
        Ok(Maybe(None))
    }

    fn visit_unit<E>(self) -> Result<Maybe<R>, E> {
        Ok(Maybe(None))
    }
}

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

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawHistory<'a> {
    id: Num,
    itemid: Num,
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

impl<'de> Raw<'de> for RawHistory<'de> {
    type Row = HistoryRow<'de>;

    fn check(self) -> Result<HistoryRow<'de>, BadField> {
        Ok(HistoryRow {
            id: claim(self.id)?,
            itemid: self.itemid.unsigned()?.ok_or(BadField)?,
            clock: clock(self.clock)?.ok_or(BadField)?,
            ns: nanoseconds(self.ns)?.ok_or(BadField)?,
            not_supported: self.state.unsigned()? == Some(1),
            value: self.value.text()?,
            log: log_meta(
                self.timestamp,
                self.source,
                self.severity,
                self.eventid,
                self.lastlogsize,
                self.mtime,
            )?,
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

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawValue<'a> {
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

impl<'de> Raw<'de> for RawValue<'de> {
    type Row = ValueRow<'de>;

    fn check(self) -> Result<ValueRow<'de>, BadField> {
        let item = match (self.key.text()?, self.itemid.unsigned()?) {
            (Some(key), _) => ItemRef::Key {
                host: self.host.text()?.ok_or(BadField)?,
                key,
            },
            (None, Some(itemid)) => ItemRef::Id(itemid),
            (None, None) => return Err(BadField),
        };
        let log = log_meta(
            self.timestamp,
            self.source,
            self.severity,
            self.eventid,
            self.lastlogsize,
            self.mtime,
        )?;
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

/// One row of `interface availability` (contract, section 3.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AvailabilityRow<'a> {
    /// The interface as numbered in the configuration.
    pub interfaceid: u64,
    /// 0 unknown, 1 available, 2 unavailable.
    pub available: u8,
    /// Why it is unavailable.
    pub error: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawAvailability<'a> {
    interfaceid: Num,
    available: Num,
    #[serde(borrow)]
    error: Text<'a>,
}

impl<'de> Raw<'de> for RawAvailability<'de> {
    type Row = AvailabilityRow<'de>;

    fn check(self) -> Result<AvailabilityRow<'de>, BadField> {
        Ok(AvailabilityRow {
            interfaceid: self.interfaceid.unsigned()?.ok_or(BadField)?,
            available: self
                .available
                .narrow()?
                .filter(|a| *a <= 2)
                .ok_or(BadField)?,
            error: self.error.text()?.unwrap_or_default(),
        })
    }
}

/// One row of `discovery data` (contract, section 3.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryRow<'a> {
    /// Seconds.
    pub clock: i64,
    /// The rule as numbered in the configuration.
    pub drule: u64,
    /// The check; `None` in a host row, which ends the services of its address.
    pub dcheck: Option<u64>,
    /// The address as written; empty in the row that ends a rule (7.0).
    pub ip: Cow<'a, str>,
    /// More about it, apart so that a bare row stays small.
    pub detail: Option<Box<DiscoveryDetail<'a>>>,
    /// 0 for ICMP.
    pub port: u16,
    /// 0 up, 1 down, 4 the rule has ended (7.0).
    pub status: u8,
}

/// What else a check told, or is known of the address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryDetail<'a> {
    /// The address's name, if it has one.
    pub dns: Cow<'a, str>,
    /// What the check gave.
    pub value: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawDiscovery<'a> {
    clock: Num,
    drule: Num,
    dcheck: Num,
    #[serde(borrow)]
    ip: Text<'a>,
    #[serde(borrow)]
    dns: Text<'a>,
    port: Num,
    #[serde(borrow)]
    value: Text<'a>,
    status: Num,
}

impl<'de> Raw<'de> for RawDiscovery<'de> {
    type Row = DiscoveryRow<'de>;

    fn check(self) -> Result<DiscoveryRow<'de>, BadField> {
        let ip = self.ip.text()?.ok_or(BadField)?;
        if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
            return Err(BadField);
        }
        let detail = DiscoveryDetail {
            dns: self.dns.text()?.unwrap_or_default(),
            value: self.value.text()?.unwrap_or_default(),
        };
        Ok(DiscoveryRow {
            clock: clock(self.clock)?.ok_or(BadField)?,
            drule: self.drule.unsigned()?.ok_or(BadField)?,
            dcheck: self.dcheck.unsigned()?,
            ip,
            detail: (detail != DiscoveryDetail::default()).then(|| Box::new(detail)),
            port: self.port.narrow()?.unwrap_or(0),
            status: self.status.narrow()?.unwrap_or(0),
        })
    }
}

impl Serialize for DiscoveryRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("clock", &self.clock)?;
        map.serialize_entry("drule", &self.drule)?;
        map.serialize_entry("dcheck", &self.dcheck)?;
        map.serialize_entry("ip", &self.ip)?;
        let (dns, value) = match &self.detail {
            Some(detail) => (detail.dns.as_ref(), detail.value.as_ref()),
            None => ("", ""),
        };
        map.serialize_entry("dns", dns)?;
        if self.port != 0 {
            map.serialize_entry("port", &self.port)?;
        }
        if !value.is_empty() {
            map.serialize_entry("value", value)?;
        }
        if self.status != 0 {
            map.serialize_entry("status", &self.status)?;
        }
        map.end()
    }
}

/// One row of `auto registration` (contract, section 3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoregRow<'a> {
    /// Seconds.
    pub clock: i64,
    /// The name the agent gave.
    pub host: Cow<'a, str>,
    /// More about it, apart so that a bare row stays small.
    pub detail: Option<Box<AutoregDetail<'a>>>,
    /// Where it listens.
    pub port: u16,
    /// 0 default, 1 connect by address, 2 by name.
    pub flags: u8,
    /// 1 plain, 2 PSK, 4 certificate.
    pub tls_accepted: u8,
}

/// What else an agent told, or is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AutoregDetail<'a> {
    /// Where it came from.
    pub ip: Cow<'a, str>,
    /// Its name, if it has one.
    pub dns: Cow<'a, str>,
    /// What it says about itself.
    pub host_metadata: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawAutoreg<'a> {
    clock: Num,
    #[serde(borrow)]
    host: Text<'a>,
    #[serde(borrow)]
    ip: Text<'a>,
    #[serde(borrow)]
    dns: Text<'a>,
    port: Num,
    #[serde(borrow)]
    host_metadata: Text<'a>,
    flags: Num,
    tls_accepted: Num,
}

impl<'de> Raw<'de> for RawAutoreg<'de> {
    type Row = AutoregRow<'de>;

    fn check(self) -> Result<AutoregRow<'de>, BadField> {
        let detail = AutoregDetail {
            ip: self.ip.text()?.unwrap_or_default(),
            dns: self.dns.text()?.unwrap_or_default(),
            host_metadata: self.host_metadata.text()?.unwrap_or_default(),
        };
        Ok(AutoregRow {
            clock: clock(self.clock)?.ok_or(BadField)?,
            host: self.host.text()?.ok_or(BadField)?,
            detail: (detail != AutoregDetail::default()).then(|| Box::new(detail)),
            port: self.port.narrow()?.unwrap_or(0),
            flags: self.flags.narrow()?.unwrap_or(0),
            tls_accepted: self.tls_accepted.narrow()?.unwrap_or(1),
        })
    }
}

impl Serialize for AutoregRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("clock", &self.clock)?;
        map.serialize_entry("host", &self.host)?;
        if let Some(detail) = &self.detail {
            let texts = [
                ("ip", &detail.ip),
                ("dns", &detail.dns),
                ("host_metadata", &detail.host_metadata),
            ];
            for (name, text) in texts {
                if !text.is_empty() {
                    map.serialize_entry(name, text)?;
                }
            }
        }
        if self.port != 0 {
            map.serialize_entry("port", &self.port.to_string())?;
        }
        if self.flags != 0 {
            map.serialize_entry("flags", &self.flags.to_string())?;
        }
        map.serialize_entry("tls_accepted", &self.tls_accepted)?;
        map.end()
    }
}

/// One row of `host data`: availability of active checks (contract, section 3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HostDataRow {
    /// The host as numbered in the configuration.
    pub hostid: u64,
    /// 0 unknown, 1 available, 2 not available.
    pub active_status: u8,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawHostData {
    hostid: Num,
    active_status: Num,
}

impl<'de> Raw<'de> for RawHostData {
    type Row = HostDataRow;

    fn check(self) -> Result<HostDataRow, BadField> {
        Ok(HostDataRow {
            hostid: self.hostid.unsigned()?.ok_or(BadField)?,
            active_status: self.active_status.narrow()?.ok_or(BadField)?,
        })
    }
}

/// A `proxy data` upload, or the same object as a passive proxy hands it over (without `request`
/// and `host`). Contract: section 3.3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyData<'a> {
    /// Whether this is a request of an active proxy.
    pub active: bool,
    /// The proxy's name.
    pub host: Option<Cow<'a, str>>,
    /// 32 characters, new at each start of a real proxy.
    pub session: Option<Cow<'a, str>>,
    /// Changed interfaces.
    pub availability: Rows<AvailabilityRow<'a>>,
    /// Values.
    pub history: Rows<HistoryRow<'a>>,
    /// Network discovery.
    pub discovery: Rows<DiscoveryRow<'a>>,
    /// Agents that asked for their checks.
    pub autoregistration: Rows<AutoregRow<'a>>,
    /// Availability of active checks.
    pub host_data: Rows<HostDataRow>,
    /// Task results.
    pub tasks: Rows<TaskEntry<'a>>,
    /// More rows wait.
    pub more: bool,
    /// The proxy's version.
    pub version: Option<Cow<'a, str>>,
    /// The proxy's clock, seconds.
    pub clock: Option<i64>,
    /// The proxy's clock, nanoseconds.
    pub ns: Option<u32>,
    /// Seconds since the first unsent row was written.
    pub proxy_delay: Option<u64>,
    /// The id by which Muster's own agents are one on every wire; real servers pass over it.
    pub muster: Option<Cow<'a, str>>,
}

impl ProxyData<'_> {
    /// Whether a throttling server would refuse this: it holds rows other than task results.
    pub fn has_data(&self) -> bool {
        !(self.availability.is_empty()
            && self.history.is_empty()
            && self.discovery.is_empty()
            && self.autoregistration.is_empty()
            && self.host_data.is_empty())
    }

    /// Rows that could not be read, over all sections.
    pub fn bad_rows(&self) -> u64 {
        [
            self.availability.bad,
            self.history.bad,
            self.discovery.bad,
            self.autoregistration.bad,
            self.host_data.bad,
            self.tasks.bad,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for ProxyData<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ProxyDataVisitor)
    }
}

struct ProxyDataVisitor;

impl<'de> Visitor<'de> for ProxyDataVisitor {
    type Value = ProxyData<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a proxy data message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ProxyData<'de>, A::Error> {
        let mut out = ProxyData::default();
        while let Some(key) = map.next_key::<Text<'de>>()? {
            match key.or_empty().as_ref() {
                "request" => {
                    out.active = matches!(map.next_value()?, Text::Given(_));
                }
                "host" => out.host = map.next_value::<Text<'_>>()?.text().ok().flatten(),
                "session" => out.session = map.next_value::<Text<'_>>()?.text().ok().flatten(),
                "version" => out.version = map.next_value::<Text<'_>>()?.text().ok().flatten(),
                "muster" => out.muster = map.next_value::<Text<'_>>()?.text().ok().flatten(),
                "interface availability" => {
                    out.availability
                        .append(section::<RawAvailability<'_>, _>(&mut map)?);
                }
                "history data" => {
                    let rows = section::<RawHistory<'_>, _>(&mut map)?;
                    if out.history.is_empty() {
                        out.history = rows;
                    } else {
                        out.history.append(rows);
                    }
                }
                "discovery data" => {
                    out.discovery
                        .append(section::<RawDiscovery<'_>, _>(&mut map)?);
                }
                "auto registration" => {
                    out.autoregistration
                        .append(section::<RawAutoreg<'_>, _>(&mut map)?);
                }
                "host data" => out.host_data.append(section::<RawHostData, _>(&mut map)?),
                "tasks" => {
                    out.tasks
                        .append(section::<super::task::RawTask<'_>, _>(&mut map)?);
                }
                "more" => out.more = map.next_value::<Num>()? == Num::Unsigned(1),
                "clock" => out.clock = map.next_value::<Num>()?.signed().ok().flatten(),
                "ns" => out.ns = map.next_value::<Num>()?.narrow().ok().flatten(),
                "proxy_delay" => {
                    out.proxy_delay = map.next_value::<Num>()?.unsigned().ok().flatten();
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(out)
    }
}

struct SectionSeed<R>(PhantomData<R>);

impl<'de, R: Raw<'de>> serde::de::DeserializeSeed<'de> for SectionSeed<R> {
    type Value = Rows<R::Row>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        RowsOf::<R>::deserialize(deserializer)
    }
}

fn section<'de, R: Raw<'de>, A: MapAccess<'de>>(map: &mut A) -> Result<Rows<R::Row>, A::Error> {
    map.next_value_seed(SectionSeed::<R>(PhantomData))
}

impl Serialize for ProxyData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if self.active {
            map.serialize_entry("request", "proxy data")?;
        }
        entry(&mut map, "host", self.host.as_ref())?;
        entry(&mut map, "session", self.session.as_ref())?;
        rows(&mut map, "interface availability", &self.availability)?;
        rows(&mut map, "history data", &self.history)?;
        rows(&mut map, "discovery data", &self.discovery)?;
        rows(&mut map, "auto registration", &self.autoregistration)?;
        rows(&mut map, "host data", &self.host_data)?;
        rows(&mut map, "tasks", &self.tasks)?;
        if self.more {
            map.serialize_entry("more", &1)?;
        }
        entry(&mut map, "version", self.version.as_ref())?;
        entry(&mut map, "clock", self.clock.as_ref())?;
        entry(&mut map, "ns", self.ns.as_ref())?;
        entry(
            &mut map,
            "proxy_delay",
            self.proxy_delay.filter(|delay| *delay > 0).as_ref(),
        )?;
        entry(&mut map, "muster", self.muster.as_ref())?;
        map.end()
    }
}

/// An `agent data` upload (contract, section 8.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentData<'a> {
    /// The host of all rows: agent2 and all of 7.0, which name items by id.
    pub host: Option<Cow<'a, str>>,
    /// 32 characters.
    pub session: Option<Cow<'a, str>>,
    /// The agent's version.
    pub version: Option<Cow<'a, str>>,
    /// 1 agentd, 2 agent2.
    pub variant: Option<u8>,
    /// Values.
    pub rows: Rows<ValueRow<'a>>,
    /// Whether `data` was there at all.
    pub has_rows: bool,
    /// The agent's clock, seconds.
    pub clock: Option<i64>,
    /// The agent's clock, nanoseconds.
    pub ns: Option<u32>,
    /// The id by which Muster's own agents are one on every wire; real servers pass over it.
    pub muster: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawAgentData<'a> {
    #[serde(borrow)]
    host: Text<'a>,
    #[serde(borrow)]
    session: Text<'a>,
    #[serde(borrow)]
    version: Text<'a>,
    variant: Num,
    #[serde(borrow, deserialize_with = "value_rows")]
    data: Option<Rows<ValueRow<'a>>>,
    clock: Num,
    ns: Num,
    #[serde(borrow)]
    muster: Text<'a>,
}

fn value_rows<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Rows<ValueRow<'de>>>, D::Error> {
    RowsOf::<RawValue<'de>>::deserialize(d).map(Some)
}

impl<'a> From<RawAgentData<'a>> for AgentData<'a> {
    fn from(raw: RawAgentData<'a>) -> Self {
        Self {
            host: raw.host.text().ok().flatten(),
            session: raw.session.text().ok().flatten(),
            version: raw.version.text().ok().flatten(),
            variant: raw.variant.narrow().ok().flatten(),
            has_rows: raw.data.is_some(),
            rows: raw.data.unwrap_or_default(),
            clock: raw.clock.signed().ok().flatten(),
            ns: nanoseconds(raw.ns).ok().flatten(),
            muster: raw.muster.text().ok().flatten(),
        }
    }
}

impl Serialize for AgentData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("request", "agent data")?;
        entry(&mut map, "session", self.session.as_ref())?;
        map.serialize_entry("data", &self.rows)?;
        entry(&mut map, "host", self.host.as_ref())?;
        entry(&mut map, "version", self.version.as_ref())?;
        entry(&mut map, "variant", self.variant.as_ref())?;
        entry(&mut map, "clock", self.clock.as_ref())?;
        entry(&mut map, "ns", self.ns.as_ref())?;
        entry(&mut map, "muster", self.muster.as_ref())?;
        map.end()
    }
}

/// A `sender data` upload (contract, section 8.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SenderData<'a> {
    /// Values.
    pub rows: Rows<ValueRow<'a>>,
    /// Whether `data` was there at all.
    pub has_rows: bool,
    /// The sender's clock, seconds; only when its rows have clocks.
    pub clock: Option<i64>,
    /// The sender's clock, nanoseconds.
    pub ns: Option<u32>,
}

impl<'a> From<RawAgentData<'a>> for SenderData<'a> {
    fn from(raw: RawAgentData<'a>) -> Self {
        let AgentData {
            rows,
            has_rows,
            clock,
            ns,
            ..
        } = AgentData::from(raw);
        Self {
            rows,
            has_rows,
            clock,
            ns,
        }
    }
}

impl Serialize for SenderData<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("request", "sender data")?;
        map.serialize_entry("data", &self.rows)?;
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
pub(super) fn clock(clock: Num) -> Result<Option<i64>, BadField> {
    match clock.signed()? {
        Some(clock) if clock < 0 => Err(BadField),
        clock => Ok(clock),
    }
}

fn nanoseconds(ns: Num) -> Result<Option<u32>, BadField> {
    match ns.narrow::<u32>()? {
        Some(ns) if ns >= 1_000_000_000 => Err(BadField),
        ns => Ok(ns),
    }
}

fn log_meta<'a>(
    timestamp: Num,
    source: Text<'a>,
    severity: Num,
    eventid: Num,
    lastlogsize: Num,
    mtime: Num,
) -> Result<Option<Box<LogMeta<'a>>>, BadField> {
    let meta = LogMeta {
        timestamp: timestamp.signed()?,
        source: source.text()?,
        severity: severity.signed()?,
        eventid: eventid.signed()?,
        lastlogsize: lastlogsize.unsigned()?,
        mtime: mtime.signed()?,
    };
    Ok((meta != LogMeta::default()).then(|| Box::new(meta)))
}

pub(super) fn entry<M: SerializeMap, T: Serialize + ?Sized>(
    map: &mut M,
    key: &'static str,
    value: Option<&T>,
) -> Result<(), M::Error> {
    match value {
        Some(value) => map.serialize_entry(key, value),
        None => Ok(()),
    }
}

fn rows<M: SerializeMap, T: Serialize>(
    map: &mut M,
    key: &'static str,
    rows: &Rows<T>,
) -> Result<(), M::Error> {
    if rows.rows.is_empty() {
        Ok(())
    } else {
        map.serialize_entry(key, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy_data(json: &str) -> ProxyData<'_> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn good_rows_are_kept_and_bad_ones_counted() {
        let json = r#"{"request":"proxy data","host":"px","history data":[
            {"id":1,"itemid":10,"clock":5,"ns":7,"value":"1"},
            {"id":"2","itemid":"11","clock":"5","ns":"7","value":"2","state":"1"},
            {"itemid":12,"clock":5,"ns":7},
            {"id":0,"itemid":12,"clock":5,"ns":7,"value":null},
            {"id":3,"itemid":-1,"clock":5,"ns":7,"value":"x"},
            {"id":3,"itemid":1,"clock":-5,"ns":7,"value":"x"},
            {"id":3,"itemid":1,"clock":5,"ns":1000000000,"value":"x"},
            {"id":9223372036854775808,"itemid":1,"clock":5,"ns":1,"value":"x"},
            {"id":3,"itemid":1,"clock":1.5,"ns":1,"value":"x"},
            {"id":3,"itemid":1,"clock":5,"ns":1,"value":["x"]},
            {"id":3,"itemid":1,"ns":1,"value":"x"},
            {}, [], 7, null, "row", true, -1, 1.5
        ]}"#;
        let data = proxy_data(json);
        let ids: Vec<_> = data
            .history
            .rows
            .iter()
            .map(|row| (row.id, row.itemid))
            .collect();
        assert_eq!(ids, [(Some(1), 10), (Some(2), 11), (None, 12), (None, 12)]);
        assert!(data.history.rows[1].not_supported);
        assert_eq!(data.history.bad, 15);
        assert!(data.has_data());
    }

    #[test]
    fn a_section_that_is_no_array_is_nothing() {
        for other in ["{}", "{\"a\":1}", "\"x\"", "1", "-1", "1.5", "true"] {
            let json = format!("{{\"history data\":{other},\"host\":\"p\"}}");
            let data = proxy_data(&json);
            assert_eq!(
                (data.history.rows.len(), data.history.bad),
                (0, 1),
                "{other}"
            );
            assert_eq!(data.host.as_deref(), Some("p"));
        }
        assert!(proxy_data("{\"history data\":null}").history.is_empty());
    }

    #[test]
    fn repeated_sections_are_one_array_in_order() {
        let json = r#"{"history data":[{"itemid":1,"clock":1,"ns":1}],"more":1,
            "history data":[{"itemid":2,"clock":1,"ns":1},{}]}"#;
        let data = proxy_data(json);
        let items: Vec<_> = data.history.rows.iter().map(|row| row.itemid).collect();
        assert_eq!((items, data.history.bad, data.more), (vec![1, 2], 1, true));
    }

    #[test]
    fn rows_encode_as_real_proxies_write_them() {
        let json = concat!(
            r#"{"request":"proxy data","host":"px","session":"0123456789abcdef0123456789abcdef","#,
            r#""interface availability":[{"interfaceid":2,"available":2,"error":"e"}],"#,
            r#""history data":[{"id":1,"itemid":7,"clock":5,"ns":6,"value":"v"},"#,
            r#"{"id":2,"itemid":7,"clock":5,"ns":6,"value":"why","state":1},"#,
            r#"{"id":3,"itemid":7,"clock":5,"ns":6},"#,
            r#"{"id":4,"itemid":8,"clock":5,"ns":6,"value":"line","lastlogsize":20,"mtime":0}],"#,
            r#""discovery data":[{"clock":5,"drule":1,"dcheck":2,"ip":"10.0.0.1","dns":"","port":22,"status":1},"#,
            r#"{"clock":5,"drule":1,"dcheck":null,"ip":"10.0.0.1","dns":""}],"#,
            r#""auto registration":[{"clock":5,"host":"h","ip":"10.0.0.1","port":"10050","tls_accepted":1}],"#,
            r#""host data":[{"hostid":3,"active_status":1}],"more":1,"version":"6.0.14","clock":5,"ns":6}"#
        );
        assert_eq!(serde_json::to_string(&proxy_data(json)).unwrap(), json);
    }

    #[test]
    fn sender_rows_need_a_key_or_an_id_and_a_value() {
        let json = r#"{"request":"sender data","data":[{"host":"h","key":"k","value":"v"},
            {"host":"h","key":"k","value":"v","clock":5,"ns":6},{"itemid":4,"value":"v"},
            {"host":"h","key":"k"},{"host":"h","value":"v"},{"key":"k","value":"v"},
            {"host":"h","key":"k","lastlogsize":7}]}"#;
        let raw: RawAgentData<'_> = serde_json::from_str(json).unwrap();
        let data = SenderData::from(raw);
        assert_eq!(
            (data.rows.rows.len(), data.rows.bad, data.has_rows),
            (4, 3, true)
        );
        let absent: RawAgentData<'_> = serde_json::from_str("{}").unwrap();
        assert!(!SenderData::from(absent).has_rows);
    }

    #[test]
    fn rows_are_small_beside_their_text() {
        // The shortest rows that are kept have 31 and 33 bytes; a vector doubles.
        assert!(size_of::<HistoryRow<'_>>() <= 120);
        assert!(size_of::<ValueRow<'_>>() <= 132);
    }
}
