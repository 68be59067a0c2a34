//! Hosts: one record for one machine, however many wires tell of it.
//!
//! Joining is by evidence: serial number, then system UUID, then MAC address, then name. Weak
//! evidence never joins two records whose strong evidence differs.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;

use crate::agent::Wire;
use crate::id::{AgentId, HostId};
use crate::sample::Monitoring;
use crate::words;

/// What one message says about one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Its name: host name, sysName or declared name.
    pub name: Option<String>,
    /// Chassis serial number.
    pub serial: Option<String>,
    /// SMBIOS system UUID.
    pub uuid: Option<String>,
    /// Its MAC addresses.
    pub macs: BTreeSet<String>,
    /// Its addresses, without loopback where it has others.
    pub addresses: BTreeSet<IpAddr>,
    /// Name of the operating system.
    pub os_name: Option<String>,
    /// Its version.
    pub os_version: Option<String>,
    /// `computer`, `networking`, `printer`, `storage`, `power`, `phone`, `video`, `kvm`.
    pub device_type: Option<String>,
}

words! {
    /// What kind of telling a source is.
    pub enum SourceKind("source") {
        /// Seen on the network.
        Discovery = "discovery",
        /// Told by itself.
        Inventory = "inventory",
        /// Measured to or from.
        Measurement = "measurement",
        /// Declared to be monitored, or sending values.
        Monitoring = "monitoring",
        /// Read by SNMP in depth.
        Netinventory = "netinventory",
        /// Installed or retired.
        Provisioning = "provisioning",
    }
}

/// Who told what about a host, last.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Over which wire; `None` for what a person declared.
    pub wire: Option<Wire>,
    /// Which agent; `None` for what a person declared.
    pub agent: Option<AgentId>,
    /// What kind of telling.
    pub what: SourceKind,
    /// When.
    pub at: Timestamp,
    /// What it said, kept as evidence.
    pub facts: HostFacts,
}

/// A machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Our id.
    pub id: HostId,
    /// The facts of all sources together.
    pub facts: HostFacts,
    /// Who told what.
    pub sources: Vec<Source>,
    /// How it is monitored, if it is.
    pub monitoring: Option<Monitoring>,
    /// First heard of.
    pub created: Timestamp,
}

/// Why two tellings are about one machine, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// Same name, nothing stronger speaks against it.
    Name,
    /// A MAC address in common.
    Mac,
    /// Same system UUID.
    Uuid,
    /// Same serial number.
    Serial,
}

impl HostFacts {
    /// Puts values into their canonical form and drops those that identify nothing.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        self.serial = self.serial.and_then(|serial| clean_serial(&serial));
        self.uuid = self.uuid.and_then(|uuid| clean_uuid(&uuid));
        self.macs = self.macs.iter().filter_map(|mac| clean_mac(mac)).collect();
        self.name = self
            .name
            .and_then(|name| clean(&name, 255))
            .filter(|name| !names_loopback(name));
        self.os_name = self.os_name.and_then(|name| clean(&name, 255));
        self.os_version = self.os_version.and_then(|version| clean(&version, 255));
        self.device_type = self.device_type.map(|word| word.to_ascii_lowercase());
        if self.addresses.iter().any(|address| !address.is_loopback()) {
            self.addresses.retain(|address| !address.is_loopback());
        }
        self
    }

    /// Whether nothing but addresses is known.
    pub fn is_anonymous(&self) -> bool {
        self.name.is_none() && self.serial.is_none() && self.uuid.is_none() && self.macs.is_empty()
    }

    /// Whether both are about one machine, and by what. Both must be [`normalised`](Self::normalised).
    pub fn same_machine(&self, other: &Self) -> Option<Evidence> {
        let agree = |a: &Option<String>, b: &Option<String>| match (a, b) {
            (Some(a), Some(b)) => Some(a.eq_ignore_ascii_case(b)),
            (Some(_), None) | (None, Some(_)) | (None, None) => None,
        };
        match (
            agree(&self.serial, &other.serial),
            agree(&self.uuid, &other.uuid),
        ) {
            (Some(true), _) => return Some(Evidence::Serial),
            (_, Some(true)) => return Some(Evidence::Uuid),
            (Some(false), _) | (_, Some(false)) => return None,
            (None, None) => {}
        }
        if !self.macs.is_disjoint(&other.macs) {
            return Some(Evidence::Mac);
        }
        let both_know_macs = !self.macs.is_empty() && !other.macs.is_empty();
        let same_name = match (&self.name, &other.name) {
            (Some(a), Some(b)) => same_name(a, b),
            (Some(_), None) | (None, Some(_)) | (None, None) => false,
        };
        (same_name && !both_know_macs).then_some(Evidence::Name)
    }

    /// Takes over what `newer` says; sets grow, single values are replaced.
    pub fn absorb(&mut self, newer: &Self) {
        let take = |mine: &mut Option<String>, theirs: &Option<String>| {
            if theirs.is_some() {
                mine.clone_from(theirs);
            }
        };
        if self.name.is_none() {
            self.name.clone_from(&newer.name);
        }
        take(&mut self.serial, &newer.serial);
        take(&mut self.uuid, &newer.uuid);
        take(&mut self.os_name, &newer.os_name);
        take(&mut self.os_version, &newer.os_version);
        take(&mut self.device_type, &newer.device_type);
        self.macs.extend(newer.macs.iter().cloned());
        self.addresses.extend(&newer.addresses);
        if self.addresses.iter().any(|address| !address.is_loopback()) {
            self.addresses.retain(|address| !address.is_loopback());
        }
    }
}

/// A host name and a fully qualified one are the same when the first labels agree and one of them
/// has no domain.
fn same_name(a: &str, b: &str) -> bool {
    if a.eq_ignore_ascii_case(b) {
        return true;
    }
    let first = |name: &str| {
        name.split('.')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase()
    };
    (a.contains('.') != b.contains('.')) && first(a) == first(b) && first(a) != "localhost"
}

/// Every machine calls itself so; some agents report a pinged address as a name.
fn names_loopback(name: &str) -> bool {
    name.parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback())
        || name
            .split('.')
            .next()
            .is_some_and(|label| label.eq_ignore_ascii_case("localhost"))
}

fn clean(text: &str, max: usize) -> Option<String> {
    let kept: String = text
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(max)
        .collect();
    (!kept.is_empty()).then_some(kept)
}

/// Serial numbers that vendors leave in place of one.
const JUNK_SERIALS: [&str; 14] = [
    "0",
    "00000000",
    "0123456789",
    "1234567890",
    "123456789",
    "chassis serial number",
    "default string",
    "empty",
    "n/a",
    "none",
    "not specified",
    "system serial number",
    "to be filled by o.e.m.",
    "unknown",
];

fn clean_serial(serial: &str) -> Option<String> {
    let serial = clean(serial, 255)?;
    let lower = serial.to_ascii_lowercase();
    let same_letter = lower.chars().all(|c| lower.starts_with(c));
    (!JUNK_SERIALS.contains(&lower.as_str()) && !same_letter && serial.len() > 2).then_some(serial)
}

fn clean_uuid(text: &str) -> Option<String> {
    let uuid = uuid::Uuid::try_parse(text.trim()).ok()?;
    let bytes = uuid.as_bytes();
    // All zeros, all ones and a vendor's placeholder name no machine.
    let placeholder = bytes.iter().all(|b| *b == 0)
        || bytes.iter().all(|b| *b == 0xff)
        || uuid.to_string() == "03000200-0400-0500-0006-000700080009";
    (!placeholder).then(|| uuid.to_string())
}

/// Lower case with colons; `None` for what is no MAC or identifies no interface.
pub fn clean_mac(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let separators_only = text
        .chars()
        .all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '-' | '.'));
    if digits.len() != 12 || !separators_only {
        return None;
    }
    let lower = digits.to_ascii_lowercase();
    if lower.bytes().all(|b| b == b'0') || lower.bytes().all(|b| b == b'f') {
        return None;
    }
    let pairs: Vec<&str> = (0..6).filter_map(|n| lower.get(n * 2..n * 2 + 2)).collect();
    Some(pairs.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, serial: &str, uuid: &str, macs: &[&str]) -> HostFacts {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        HostFacts {
            name: some(name),
            serial: some(serial),
            uuid: some(uuid),
            macs: macs.iter().map(|mac| (*mac).to_owned()).collect(),
            ..HostFacts::default()
        }
        .normalised()
    }

    const U1: &str = "4C4C4544-0042-4E10-8054-C2C04F4E3732";

    #[test]
    fn evidence_in_order() {
        let cases = [
            (
                facts("a", "S123", "", &[]),
                facts("b", "s123", "", &[]),
                Some(Evidence::Serial),
            ),
            (
                facts("a", "", U1, &[]),
                facts("b", "", &U1.to_lowercase(), &[]),
                Some(Evidence::Uuid),
            ),
            (
                facts("a", "", "", &["02-4D-53-01-00-00"]),
                facts("b", "", "", &["024d.5301.0000"]),
                Some(Evidence::Mac),
            ),
            (
                facts("lab", "", "", &[]),
                facts("LAB.example.org", "", "", &["02:4d:53:01:00:00"]),
                Some(Evidence::Name),
            ),
            // Strong evidence that differs outweighs what agrees below it.
            (
                facts("a", "S123", "", &[]),
                facts("a", "S124", "", &[]),
                None,
            ),
            (
                facts("a", "", "", &["02:00:00:00:00:01"]),
                facts("a", "", "", &["02:00:00:00:00:02"]),
                None,
            ),
            (
                facts("a.x.org", "", "", &[]),
                facts("a.y.org", "", "", &[]),
                None,
            ),
            (facts("", "", "", &[]), facts("", "", "", &[]), None),
        ];
        for (a, b, expected) in cases {
            assert_eq!(a.same_machine(&b), expected, "{a:?} {b:?}");
            assert_eq!(b.same_machine(&a), expected, "{b:?} {a:?}");
        }
    }

    #[test]
    fn what_identifies_nothing_is_dropped() {
        for serial in [
            "0",
            "To Be Filled By O.E.M.",
            "  ",
            "xxxxxx",
            "Default string",
        ] {
            assert_eq!(facts("", serial, "", &[]).serial, None, "{serial}");
        }
        for uuid in [
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "no",
        ] {
            assert_eq!(facts("", "", uuid, &[]).uuid, None, "{uuid}");
        }
        for mac in [
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "02:00",
            "zz:00:00:00:00:01",
        ] {
            assert!(facts("", "", "", &[mac]).macs.is_empty(), "{mac}");
        }
    }

    #[test]
    fn absorbing_keeps_the_name_and_grows_the_sets() {
        let mut host = facts("lab", "", "", &["02:00:00:00:00:01"]);
        host.addresses
            .insert("127.0.0.1".parse().expect("an address"));
        let mut newer = facts("other", "S123", "", &["02:00:00:00:00:02"]);
        newer
            .addresses
            .insert("10.0.0.1".parse().expect("an address"));
        host.absorb(&newer);
        assert_eq!(host.name.as_deref(), Some("lab"));
        assert_eq!(host.serial.as_deref(), Some("S123"));
        assert_eq!(host.macs.len(), 2);
        assert_eq!(
            host.addresses.len(),
            1,
            "loopback says nothing once another is known"
        );
    }
}
