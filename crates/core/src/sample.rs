//! Items and their values. A value is not a row: storage keeps them in blocks.

use std::fmt;
use std::net::IpAddr;

use jiff::SignedDuration;

use crate::id::{AgentId, HostId, ItemId};
use crate::words;

words! {
    /// What values of an item are.
    pub enum ValueType("value type") {
        /// A double.
        Float = "float",
        /// A character string of at most 255 characters.
        String = "string",
        /// A line of a log, with where it came from.
        Log = "log",
        /// An unsigned 64-bit number.
        Unsigned = "unsigned",
        /// A text of at most 64 KiB.
        Text = "text",
    }
}

words! {
    /// How values of an item are obtained.
    pub enum ItemType("item type") {
        /// Polled from a Zabbix agent.
        Agent = "agent",
        /// Sent by an active Zabbix agent.
        AgentActive = "agent_active",
        /// Made of another item's value.
        Dependent = "dependent",
        /// By a script of the proxy.
        External = "external",
        /// By an HTTP request.
        Http = "http",
        /// About the monitoring itself.
        Internal = "internal",
        /// By a script in the item.
        Script = "script",
        /// ICMP and TCP checks.
        Simple = "simple",
        /// Polled by SNMP.
        Snmp = "snmp",
        /// Sent by whoever may.
        Trapper = "trapper",
    }
}

/// Something sampled on a host.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Our id.
    pub id: ItemId,
    /// The number peers know it by (Zabbix `itemid`), also the key of its samples.
    pub number: u64,
    /// The host it is about.
    pub host: HostId,
    /// For people.
    pub name: String,
    /// What is sampled, with parameters: `vfs.fs.size[/,free]`.
    pub key: String,
    /// How.
    pub item_type: ItemType,
    /// What its values are.
    pub value_type: ValueType,
    /// For people: `B`, `%`.
    pub unit: String,
    /// How often; `None` for items that are sent unasked.
    pub delay: Option<SignedDuration>,
    /// Addresses that may send values of a trapper item beside those that always may.
    pub allowed: Vec<ipnet::IpNet>,
}

/// How a declared host is monitored.
#[derive(Clone, Debug, PartialEq)]
pub struct Monitoring {
    /// The number peers know the host by (Zabbix `hostid`).
    pub number: u64,
    /// The proxy that monitors it; `None`: this server.
    pub proxy: Option<AgentId>,
    /// Where its Zabbix agent listens: address or name.
    pub address: String,
    /// The port there.
    pub port: u16,
}

impl Monitoring {
    /// The address when it is one, not a name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.parse().ok()
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A finite double.
    Float(f64),
    /// A line of a log.
    Log(LogLine),
    /// A string or text.
    Text(String),
    /// An unsigned number, exact also beyond 2^53.
    Unsigned(u64),
}

/// A log value and where it came from (Zabbix contract, section 3.5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogLine {
    /// The line.
    pub text: String,
    /// The program or event source.
    pub source: String,
    /// Time in the line itself, Unix seconds; 0 when none.
    pub timestamp: i64,
    /// Severity as the source counts it.
    pub severity: i32,
    /// Event id of the source.
    pub event_id: i64,
}

/// A value at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The item's number.
    pub item: u64,
    /// Unix seconds.
    pub clock: i64,
    /// Nanoseconds within the second, below 10^9.
    pub ns: u32,
    /// The value.
    pub value: Value,
}

/// A value that does not fit its item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("value {value:?} does not fit value type {value_type}")]
pub struct Unfit {
    /// The value, cut to 64 characters.
    pub value: String,
    /// The item's type.
    pub value_type: &'static str,
}

/// The longest `string` value, in characters.
pub const STRING_CHARS_MAX: usize = 255;
/// The longest `text` or `log` value kept, in bytes; what is beyond is cut.
pub const TEXT_BYTES_MAX: usize = 65_536;

impl Value {
    /// Reads a value as peers send it, as text, into the type of its item.
    ///
    /// # Errors
    /// [`Unfit`] when the text is no such number.
    pub fn parse(value_type: ValueType, text: &str) -> Result<Self, Unfit> {
        let unfit = || Unfit {
            value: text.chars().take(64).collect(),
            value_type: value_type.word(),
        };
        match value_type {
            ValueType::Float => {
                let number: f64 = text.trim().parse().map_err(|_| unfit())?;
                if number.is_finite() {
                    Ok(Self::Float(number))
                } else {
                    Err(unfit())
                }
            }
            ValueType::Unsigned => {
                let trimmed = text.trim();
                if let Ok(number) = trimmed.parse() {
                    return Ok(Self::Unsigned(number));
                }
                // A fraction is cut off, as the original server does with "3.0".
                let (whole, fraction) = trimmed.split_once('.').ok_or_else(unfit)?;
                if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(unfit());
                }
                whole.parse().map(Self::Unsigned).map_err(|_| unfit())
            }
            ValueType::String => Ok(Self::Text(text.chars().take(STRING_CHARS_MAX).collect())),
            ValueType::Text => Ok(Self::Text(cut_bytes(text, TEXT_BYTES_MAX).to_owned())),
            ValueType::Log => Ok(Self::Log(LogLine {
                text: cut_bytes(text, TEXT_BYTES_MAX).to_owned(),
                ..LogLine::default()
            })),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(number) => number.fmt(f),
            Self::Log(line) => f.write_str(&line.text),
            Self::Text(text) => f.write_str(text),
            Self::Unsigned(number) => number.fmt(f),
        }
    }
}

fn cut_bytes(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_peers_send_them() {
        use ValueType::*;
        for (value_type, text, expected) in [
            (Float, "385.15620000000001", Some(Value::Float(385.1562))),
            (Float, "1e3", Some(Value::Float(1000.0))),
            (Float, "nan", None),
            (Float, "inf", None),
            (
                Unsigned,
                "18446744073709551615",
                Some(Value::Unsigned(u64::MAX)),
            ),
            (Unsigned, "18446744073709551616", None),
            (Unsigned, "3.0", Some(Value::Unsigned(3))),
            (Unsigned, "-1", None),
            (Unsigned, "x", None),
            (Text, "", Some(Value::Text("".to_owned()))),
        ] {
            assert_eq!(
                Value::parse(value_type, text).ok(),
                expected,
                "{value_type:?} {text}"
            );
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let long = "é".repeat(40_000);
        let Ok(Value::Text(kept)) = Value::parse(ValueType::Text, &long) else {
            panic!("a text")
        };
        assert_eq!(kept.len(), TEXT_BYTES_MAX);
        let Ok(Value::Text(kept)) = Value::parse(ValueType::String, &long) else {
            panic!("a text")
        };
        assert_eq!(kept.chars().count(), STRING_CHARS_MAX);
    }

    #[test]
    fn words_read_back() {
        for value_type in ValueType::ALL {
            assert_eq!(value_type.word().parse(), Ok(value_type));
        }
        for item_type in ItemType::ALL {
            assert_eq!(item_type.word().parse(), Ok(item_type));
        }
    }
}
