//! Rows of uploads: what proxies, agents and senders report.
//!
//! Decoding is as lenient as a real server is: a row that makes no sense is counted and skipped, a
//! section that is no array is nothing. Texts are borrowed from the message. The same types encode,
//! in the order and with the omissions of a real proxy. Contract: Zabbix page, sections 3.3 to 3.8,
//! 8.3 and 8.4.

mod network;
mod rows;
mod values;

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::json::{Num, Text};
use super::task::TaskEntry;

pub use network::{
    AutoregDetail, AutoregRow, AvailabilityRow, DiscoveryDetail, DiscoveryRow, HostDataRow,
};
use network::{RawAutoreg, RawAvailability, RawDiscovery, RawHostData};
pub use rows::Rows;
pub(super) use rows::{Raw, RowsOf, entry};
use rows::{rows, section};
pub(super) use values::clock;
pub use values::{HistoryRow, ItemRef, LogMeta, ValueRow};
use values::{RawHistory, RawReading, nanoseconds};

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
    RowsOf::<RawReading<'de>>::deserialize(d).map(Some)
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
