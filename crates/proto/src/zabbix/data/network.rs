//! What proxies report beside values: interfaces, discovered addresses, agents that asked, hosts.

use std::borrow::Cow;

use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::super::json::{BadField, Num, Text};
use super::rows::Raw;
use super::values::clock;

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
