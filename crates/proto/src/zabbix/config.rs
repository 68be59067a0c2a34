//! Proxy configuration in the 6.0 form: what a server writes and what a proxy reads.
//!
//! Tables with named columns; column order is data, never assumed when reading. Only the columns
//! that are not at their defaults are written, which real 6.0 proxies accept. Contract: Zabbix
//! page, sections 6.1, 6.3 and 10.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::json::Text;
use super::wire::{Payload, text_of};

/// What a proxy is to collect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Hosts, each before what belongs to it.
    pub hosts: Vec<HostRow>,
    /// Where hosts can be reached.
    pub interfaces: Vec<InterfaceRow>,
    /// Items, masters before their dependants.
    pub items: Vec<ItemRow>,
}

/// A row of `hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRow {
    /// Record id.
    pub hostid: u64,
    /// The technical name, by which agents call themselves.
    pub host: String,
    /// 0 monitored, 1 not monitored, 3 template.
    pub status: u8,
    /// The visible name.
    pub name: String,
}

/// A row of `interface`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceRow {
    /// Record id.
    pub interfaceid: u64,
    /// Whose it is.
    pub hostid: u64,
    /// 1 agent, 2 SNMP, 3 IPMI, 4 JMX.
    pub kind: u8,
    /// Address, when `use_ip`.
    pub ip: String,
    /// Name, when not.
    pub dns: String,
    /// Which of the two is used.
    pub use_ip: bool,
    /// The default one of its kind.
    pub main: bool,
    /// A number, or a macro.
    pub port: String,
}

/// A row of `items`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemRow {
    /// Record id.
    pub itemid: u64,
    /// Whose it is.
    pub hostid: u64,
    /// Item type: contract, section 10.
    pub kind: u8,
    /// The key.
    pub key: String,
    /// The update interval.
    pub delay: String,
    /// 0 enabled, 1 disabled.
    pub status: u8,
    /// 0 float, 1 string, 2 log, 3 unsigned, 4 text.
    pub value_type: u8,
    /// Where it is collected, for kinds that need it.
    pub interfaceid: Option<u64>,
    /// A dependent item's master.
    pub master_itemid: Option<u64>,
    /// 0 plain, 1 discovery rule, 4 discovered.
    pub flags: u8,
}

/// Item types on the wire (contract, section 10).
pub mod item_kind {
    /// Polled from an agent.
    pub const AGENT: u8 = 0;
    /// Sent by whoever may.
    pub const TRAPPER: u8 = 2;
    /// Checked over the network.
    pub const SIMPLE: u8 = 3;
    /// About the server or proxy itself.
    pub const INTERNAL: u8 = 5;
    /// Sent by an active agent.
    pub const AGENT_ACTIVE: u8 = 7;
    /// Given by a script of the proxy.
    pub const EXTERNAL: u8 = 10;
    /// Computed from another item.
    pub const DEPENDENT: u8 = 18;
    /// Fetched over HTTP.
    pub const HTTP: u8 = 19;
    /// Polled over SNMP.
    pub const SNMP: u8 = 20;
    /// Computed by a script.
    pub const SCRIPT: u8 = 21;
}

impl Configuration {
    /// The whole reply to a 6.0 `proxy config`. Tables that are present and empty clear what an
    /// earlier server may have left there.
    pub fn encode(&self) -> String {
        text_of(&Tables(self))
    }

    /// Reads the reply to a 6.0 `proxy config`. Unknown tables and columns are passed over.
    ///
    /// # Errors
    /// A table that is needed does not hold what it must; nothing of the reply is to be used.
    pub fn decode(payload: &Payload) -> Result<Self, ConfigError> {
        Self::parse(payload.text())
    }

    /// Reads the object of tables, which a passive proxy gets inside of a request.
    ///
    /// # Errors
    /// As [`Configuration::decode`].
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let tables: RawTables<'_> =
            serde_json::from_str(text).map_err(|_| ConfigError::NoTables)?;
        let hosts = read(tables.hosts, "hosts", |row| {
            Ok(HostRow {
                hostid: row.id("hostid")?,
                host: row.text("host")?,
                status: row.small("status", 0)?,
                name: row.text("name")?,
            })
        })?;
        let interfaces = read(tables.interface, "interface", |row| {
            Ok(InterfaceRow {
                interfaceid: row.id("interfaceid")?,
                hostid: row.id("hostid")?,
                kind: row.small("type", 0)?,
                ip: row.text("ip")?,
                dns: row.text("dns")?,
                use_ip: row.small("useip", 1)? != 0,
                main: row.small("main", 0)? != 0,
                port: row.text("port")?,
            })
        })?;
        let items = read(tables.items, "items", |row| {
            Ok(ItemRow {
                itemid: row.id("itemid")?,
                hostid: row.id("hostid")?,
                kind: row.small("type", 0)?,
                key: row.text("key_")?,
                delay: row.text("delay")?,
                status: row.small("status", 0)?,
                value_type: row.small("value_type", 0)?,
                interfaceid: row.optional_id("interfaceid")?,
                master_itemid: row.optional_id("master_itemid")?,
                flags: row.small("flags", 0)?,
            })
        })?;
        Ok(Self {
            hosts,
            interfaces,
            items,
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawTables<'a> {
    #[serde(borrow)]
    hosts: Option<&'a RawValue>,
    #[serde(borrow)]
    interface: Option<&'a RawValue>,
    #[serde(borrow)]
    items: Option<&'a RawValue>,
}

/// Why a configuration cannot be used, in the words of a real proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value is not what its column holds.
    #[error("invalid value of field \"{table}.{field}\"")]
    BadValue {
        /// The table.
        table: &'static str,
        /// The column.
        field: &'static str,
    },
    /// A column that is needed is not there.
    #[error("missing field \"{table}.{field}\"")]
    MissingField {
        /// The table.
        table: &'static str,
        /// The column.
        field: &'static str,
    },
    /// A table that is needed is not there.
    #[error("cannot find {table} data")]
    MissingTable {
        /// The table.
        table: &'static str,
    },
    /// Not an object of tables.
    #[error("there are no tables")]
    NoTables,
    /// A row has not as many values as there are fields.
    #[error("invalid number of fields in a row of \"{table}\"")]
    RowLength {
        /// The table.
        table: &'static str,
    },
    /// A table is not an object of `fields` and `data`.
    #[error("invalid table \"{table}\"")]
    Table {
        /// The table.
        table: &'static str,
    },
}

/// A row while it is being read, its columns found by name.
struct RowView<'r, 'a> {
    table: &'static str,
    fields: &'r [Cow<'a, str>],
    cells: &'r [Text<'a>],
}

impl<'a> RowView<'_, 'a> {
    fn cell(&self, field: &'static str) -> Option<&Text<'a>> {
        let at = self.fields.iter().position(|name| name == field)?;
        self.cells.get(at)
    }

    fn number(&self, field: &'static str) -> Result<Option<u64>, ConfigError> {
        let bad = ConfigError::BadValue {
            table: self.table,
            field,
        };
        match self.cell(field) {
            None | Some(Text::Absent) => Ok(None),
            Some(Text::Given(text)) => text.parse().map(Some).map_err(|_| bad),
            Some(Text::Bad) => Err(bad),
        }
    }

    fn id(&self, field: &'static str) -> Result<u64, ConfigError> {
        self.number(field)?.ok_or(ConfigError::MissingField {
            table: self.table,
            field,
        })
    }

    /// 0 stands for none as well as `null` does.
    fn optional_id(&self, field: &'static str) -> Result<Option<u64>, ConfigError> {
        Ok(self.number(field)?.filter(|id| *id != 0))
    }

    fn small(&self, field: &'static str, default: u8) -> Result<u8, ConfigError> {
        let bad = ConfigError::BadValue {
            table: self.table,
            field,
        };
        match self.number(field)? {
            Some(n) => u8::try_from(n).map_err(|_| bad),
            None => Ok(default),
        }
    }

    fn text(&self, field: &'static str) -> Result<String, ConfigError> {
        match self.cell(field) {
            None => Ok(String::new()),
            Some(Text::Given(text)) => Ok(text.clone().into_owned()),
            Some(Text::Absent | Text::Bad) => Err(ConfigError::BadValue {
                table: self.table,
                field,
            }),
        }
    }
}

fn read<T>(
    raw: Option<&RawValue>,
    table: &'static str,
    row: impl Fn(&RowView<'_, '_>) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    #[derive(Deserialize)]
    struct Table<'a> {
        #[serde(borrow)]
        fields: Vec<Cow<'a, str>>,
        #[serde(borrow)]
        data: &'a RawValue,
    }
    let raw = raw.ok_or(ConfigError::MissingTable { table })?;
    let parts: Table<'_> =
        serde_json::from_str(raw.get()).map_err(|_| ConfigError::Table { table })?;
    let mut out = Vec::new();
    let mut failed = None;
    let mut take = |cells: Vec<Text<'_>>| {
        if cells.len() != parts.fields.len() {
            failed.get_or_insert(ConfigError::RowLength { table });
            return;
        }
        match row(&RowView {
            table,
            fields: &parts.fields,
            cells: &cells,
        }) {
            Ok(row) => out.push(row),
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    };
    let mut deserializer = serde_json::Deserializer::from_str(parts.data.get());
    deserializer
        .deserialize_seq(EachRow(&mut take))
        .map_err(|_| ConfigError::Table { table })?;
    failed.map_or(Ok(out), Err)
}

/// Hands rows over one by one, so that a table is never held as cells.
struct EachRow<F>(F);

impl<'de, F: FnMut(Vec<Text<'de>>)> Visitor<'de> for EachRow<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(row) = seq.next_element()? {
            (self.0)(row);
        }
        Ok(())
    }
}

struct Tables<'a>(&'a Configuration);

impl Serialize for Tables<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Configuration {
            hosts,
            interfaces,
            items,
        } = self.0;
        let mut map = serializer.serialize_map(None)?;
        let none: &[(); 0] = &[];
        let globalmacro = ["globalmacroid", "macro", "value", "type"];
        map.serialize_entry("globalmacro", &Table(&globalmacro, none))?;
        map.serialize_entry(
            "hosts",
            &Table(&["hostid", "host", "status", "name"], hosts),
        )?;
        let interface = [
            "interfaceid",
            "hostid",
            "main",
            "type",
            "useip",
            "ip",
            "dns",
            "port",
        ];
        map.serialize_entry("interface", &Table(&interface, interfaces))?;
        let hosts_templates = ["hosttemplateid", "hostid", "templateid"];
        map.serialize_entry("hosts_templates", &Table(&hosts_templates, none))?;
        let hostmacro = ["hostmacroid", "hostid", "macro", "value", "type"];
        map.serialize_entry("hostmacro", &Table(&hostmacro, none))?;
        let columns = [
            "itemid",
            "type",
            "hostid",
            "key_",
            "delay",
            "status",
            "value_type",
            "interfaceid",
            "master_itemid",
            "flags",
        ];
        map.serialize_entry("items", &Table(&columns, items))?;
        let rtdata: Vec<_> = items.iter().map(|item| (item.itemid, 0, 0)).collect();
        map.serialize_entry(
            "item_rtdata",
            &Table(&["itemid", "lastlogsize", "mtime"], &rtdata),
        )?;
        let item_preproc = [
            "item_preprocid",
            "itemid",
            "step",
            "type",
            "params",
            "error_handler",
            "error_handler_params",
        ];
        map.serialize_entry("item_preproc", &Table(&item_preproc, none))?;
        map.end()
    }
}

struct Table<'a, R>(&'a [&'static str], &'a [R]);

impl<R: Serialize> Serialize for Table<'_, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("fields", self.0)?;
        map.serialize_entry("data", self.1)?;
        map.end()
    }
}

impl Serialize for HostRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.hostid, &self.host, self.status, &self.name).serialize(serializer)
    }
}

impl Serialize for InterfaceRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (main, use_ip) = (u8::from(self.main), u8::from(self.use_ip));
        let ids = (self.interfaceid, self.hostid);
        (
            ids.0, ids.1, main, self.kind, use_ip, &self.ip, &self.dns, &self.port,
        )
            .serialize(serializer)
    }
}

impl Serialize for ItemRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(10))?;
        seq.serialize_element(&self.itemid)?;
        seq.serialize_element(&self.kind)?;
        seq.serialize_element(&self.hostid)?;
        seq.serialize_element(&self.key)?;
        seq.serialize_element(&self.delay)?;
        seq.serialize_element(&self.status)?;
        seq.serialize_element(&self.value_type)?;
        seq.serialize_element(&self.interfaceid)?;
        seq.serialize_element(&self.master_itemid)?;
        seq.serialize_element(&self.flags)?;
        seq.end()
    }
}

/// Seconds of a simple update interval: a number, maybe with one of `s m h d w`.
///
/// `None` for anything else: a macro, flexible or scheduling intervals, zero or more than a year.
pub fn simple_delay(text: &str) -> Option<u64> {
    let (digits, unit) = match text.char_indices().last()? {
        (at, 's') => (text.get(..at)?, 1),
        (at, 'm') => (text.get(..at)?, 60),
        (at, 'h') => (text.get(..at)?, 3600),
        (at, 'd') => (text.get(..at)?, 86_400),
        (at, 'w') => (text.get(..at)?, 604_800),
        (_, _) => (text, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: u64 = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    (1..=366 * 86_400).contains(&seconds).then_some(seconds)
}

/// The next second after `now` in which an item is polled every `delay` seconds. Polls are spread: an
/// item's second is its number's share of the interval (contract, section 10).
pub fn next_poll(itemid: u64, delay: u64, now: i64) -> i64 {
    let delay = delay.max(1);
    let phase = i64::try_from(itemid.checked_rem(delay).unwrap_or(0)).unwrap_or(0);
    let delay = i64::try_from(delay).unwrap_or(i64::MAX);
    let begun = now.checked_rem_euclid(delay).unwrap_or(0);
    let next = now.saturating_sub(begun).saturating_add(phase);
    if next > now {
        next
    } else {
        next.saturating_add(delay)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Limits;
    use super::*;

    fn payload(json: &str) -> Payload {
        Payload::check(json.as_bytes().to_vec(), &Limits::default()).unwrap()
    }

    fn configuration() -> Configuration {
        Configuration {
            hosts: vec![HostRow {
                hostid: 101,
                host: "h1".into(),
                status: 0,
                name: "Host \"1\"".into(),
            }],
            interfaces: vec![InterfaceRow {
                interfaceid: 201,
                hostid: 101,
                kind: 1,
                ip: "127.0.0.1".into(),
                dns: String::new(),
                use_ip: true,
                main: true,
                port: "20150".into(),
            }],
            items: vec![
                ItemRow {
                    itemid: 301,
                    hostid: 101,
                    kind: item_kind::AGENT,
                    key: "agent.ping".into(),
                    delay: "2s".into(),
                    status: 0,
                    value_type: 3,
                    interfaceid: Some(201),
                    master_itemid: None,
                    flags: 0,
                },
                ItemRow {
                    itemid: 302,
                    hostid: 101,
                    kind: item_kind::TRAPPER,
                    key: "trap".into(),
                    delay: "0".into(),
                    status: 0,
                    value_type: 4,
                    interfaceid: None,
                    master_itemid: None,
                    flags: 0,
                },
            ],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let wanted = configuration();
        assert_eq!(
            Configuration::decode(&payload(&wanted.encode())).unwrap(),
            wanted
        );
    }

    #[test]
    fn rows_are_as_long_as_their_fields() {
        let text = configuration().encode();
        let tables: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        for (name, table) in tables {
            let fields = table["fields"].as_array().unwrap().len();
            for row in table["data"].as_array().unwrap() {
                assert_eq!(row.as_array().unwrap().len(), fields, "{name}");
            }
        }
    }

    #[test]
    fn a_configuration_that_lies_is_refused_whole() {
        let hosts = r#""hosts":{"fields":["hostid","host"],"data":[[1,"h"]]}"#;
        let interface = r#""interface":{"fields":["interfaceid","hostid"],"data":[]}"#;
        let items = r#""items":{"fields":["itemid","hostid","key_"],"data":[[7,1,"k"]]}"#;
        let good = format!("{{{hosts},{interface},{items},\"new\":{{}}}}");
        assert_eq!(
            Configuration::decode(&payload(&good)).unwrap().items.len(),
            1
        );
        let cases = [
            (
                good.replace("[[7,1,\"k\"]]", "[[7,1]]"),
                "invalid number of fields in a row of \"items\"",
            ),
            (
                good.replace("[[7,1,\"k\"]]", "[[7,null,\"k\"]]"),
                "missing field \"items.hostid\"",
            ),
            (
                good.replace("[[7,1,\"k\"]]", "[[\"x\",1,\"k\"]]"),
                "invalid value of field \"items.itemid\"",
            ),
            (
                good.replace("[[7,1,\"k\"]]", "[[7,1,{}]]"),
                "invalid value of field \"items.key_\"",
            ),
            (
                good.replace("[[7,1,\"k\"]]", "{}"),
                "invalid table \"items\"",
            ),
            (
                good.replace("[[7,1,\"k\"]]", "[7]"),
                "invalid table \"items\"",
            ),
            (format!("{{{hosts},{interface}}}"), "cannot find items data"),
            (
                good.replace(hosts, "\"hosts\":[]"),
                "invalid table \"hosts\"",
            ),
        ];
        for (json, error) in cases {
            let refused = Configuration::decode(&payload(&json)).unwrap_err();
            assert_eq!(refused.to_string(), error, "{json}");
        }
    }

    #[test]
    fn polls_are_spread_over_their_interval() {
        let cases = [
            (1, 10, 1000, 1001),
            (1, 10, 1001, 1011),
            (13, 10, 1000, 1003),
            (7, 1, 1000, 1001),
            (0, 10, 1000, 1010),
            (5, 0, 1000, 1001),
            (u64::MAX, u64::MAX, 1000, i64::MAX),
        ];
        for (item, delay, now, next) in cases {
            assert_eq!(next_poll(item, delay, now), next, "{item} {delay} {now}");
        }
    }

    #[test]
    fn update_intervals() {
        let cases = [
            ("5", Some(5)),
            ("5s", Some(5)),
            ("1m", Some(60)),
            ("2h", Some(7200)),
            ("1d", Some(86_400)),
            ("1w", Some(604_800)),
            ("0", None),
            ("", None),
            ("s", None),
            ("{$DELAY}", None),
            ("5s;10s/1-5,09:00-18:00", None),
            ("-5", None),
            ("99999999999999999999w", None),
            ("99999999999999w", None),
            ("5ü", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(simple_delay(text), wanted, "{text}");
        }
    }
}
