//! What a device is, from what its SNMP agent says: the rules of the FusionInventory contract,
//! section 7.3, over our own small table of enterprises and models.

use std::collections::BTreeMap;
use std::net::IpAddr;

use async_snmp::Value;

use super::tables::{self, MODELS, VENDORS, WORDS};
use crate::tools::snmp::{Objects, SYS_DESCR, arcs};

/// What SNMP told about a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are the protocol's own (section 2.4)"
)]
pub struct Identity {
    pub description: Option<String>,
    pub hostname: Option<String>,
    pub location: Option<String>,
    pub contact: Option<String>,
    pub uptime: Option<String>,
    /// Device type, lower case.
    pub kind: Option<String>,
    pub manufacturer: Option<String>,
    pub model: Option<String>,
    pub serial: Option<String>,
    pub firmware: Option<String>,
    pub mac: Option<String>,
    /// Sorted as strings.
    pub ips: Vec<String>,
}

/// A table of `sysobject.ids` form that an operator may add: what stands below
/// `1.3.6.1.4.1.` to vendor, type, model.
#[derive(Clone, Debug, Default)]
pub struct ObjectIds {
    rows: BTreeMap<Vec<u32>, ObjectId>,
}

#[derive(Clone, Debug)]
struct ObjectId {
    vendor: String,
    kind: Option<String>,
    model: Option<String>,
}

impl ObjectIds {
    /// Reads such a table; lines that are none are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let rows = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let mut fields = line.split('\t').map(str::trim);
                let oid = arcs(fields.next()?);
                let vendor = fields.next()?.to_owned();
                let mut next = || {
                    fields
                        .next()
                        .filter(|field| !field.is_empty())
                        .map(ToOwned::to_owned)
                };
                let kind = next().map(|kind| kind.to_lowercase());
                (!oid.is_empty() && !vendor.is_empty()).then(|| {
                    (
                        oid,
                        ObjectId {
                            vendor,
                            kind,
                            model: next(),
                        },
                    )
                })
            });
        Self {
            rows: rows.collect(),
        }
    }

    /// The longest entry that `rest` begins with.
    fn find(&self, rest: &[u32]) -> Option<&ObjectId> {
        (1..=rest.len())
            .rev()
            .find_map(|length| self.rows.get(rest.get(..length)?))
    }
}

const SYS_OBJECT_ID: &str = "1.3.6.1.2.1.1.2.0";
const SYS_UPTIME: &str = "1.3.6.1.2.1.1.3.0";
const SYS_CONTACT: &str = "1.3.6.1.2.1.1.4.0";
const SYS_NAME: &str = "1.3.6.1.2.1.1.5.0";
const SYS_LOCATION: &str = "1.3.6.1.2.1.1.6.0";
const PRINTER_PORT_NAME: &str = "1.3.6.1.4.1.2699.1.2.1.2.1.1.2.1";
const BRIDGE_ADDRESS: &str = "1.3.6.1.2.1.17.1.1.0";
const UPS_MANUFACTURER: &str = "1.3.6.1.2.1.33.1.1.1.0";
const UPS_MODEL: &str = "1.3.6.1.2.1.33.1.1.2.0";
const UPS_FIRMWARE: &str = "1.3.6.1.2.1.33.1.1.3.0";
const APC_SERIAL: &str = "1.3.6.1.4.1.318.1.1.1.1.2.3.0";
const CISCO_VERSION: &str = "1.3.6.1.4.1.9.9.25.1.1.1.2.5";

const ENTITY_FIRMWARE: &str = "1.3.6.1.2.1.47.1.1.1.1.9";
const ENTITY_SOFTWARE: &str = "1.3.6.1.2.1.47.1.1.1.1.10";
const ENTITY_SERIAL: &str = "1.3.6.1.2.1.47.1.1.1.1.11";
const ENTITY_MODEL: &str = "1.3.6.1.2.1.47.1.1.1.1.13";
const SUPPLY_DESCRIPTION: &str = "1.3.6.1.2.1.43.11.1.1.6.1";
const PRINTER_SERIAL: &str = "1.3.6.1.2.1.43.5.1.1.17";
const PRINTER_MAKER: &str = "1.3.6.1.2.1.43.8.2.1.14.1";
const DEVICE_DESCRIPTION: &str = "1.3.6.1.2.1.25.3.2.1.3";
const ADDRESS_INTERFACE: &str = "1.3.6.1.2.1.4.20.1.2";
const INTERFACE_MAC: &str = "1.3.6.1.2.1.2.2.1.6";
const INTERFACE_SPEED: &str = "1.3.6.1.2.1.2.2.1.5";

/// Reads a device's objects and says what it is. `address` is what we reached it by.
pub async fn identify(objects: &impl Objects, address: IpAddr, extra: &ObjectIds) -> Identity {
    let singles = [
        SYS_DESCR,
        SYS_OBJECT_ID,
        SYS_UPTIME,
        SYS_CONTACT,
        SYS_NAME,
        SYS_LOCATION,
        BRIDGE_ADDRESS,
        UPS_MANUFACTURER,
        UPS_MODEL,
        UPS_FIRMWARE,
    ];
    let values = objects.get(&singles).await;
    let single = |oid: &str| {
        let position = singles.iter().position(|name| *name == oid)?;
        values.get(position)?.as_ref()
    };
    let words = |oid: &str| single(oid).and_then(text);
    let description = words(SYS_DESCR);
    let object_id = single(SYS_OBJECT_ID)
        .and_then(Value::as_oid)
        .map(|oid| oid.arcs().to_vec());
    let rest = object_id
        .as_deref()
        .and_then(|oid| oid.strip_prefix(&[1, 3, 6, 1, 4, 1]));
    let described = description.as_deref().unwrap_or_default();

    let mut found = Identity {
        uptime: single(SYS_UPTIME).and_then(Value::as_u32).map(uptime),
        contact: words(SYS_CONTACT).filter(|text| !is_default(text)),
        location: words(SYS_LOCATION).filter(|text| !is_default(text)),
        hostname: words(SYS_NAME),
        ..Identity::default()
    };
    name_vendor(&mut found, rest, described, extra);

    let is_ups = words(UPS_MODEL).is_some() || words(UPS_MANUFACTURER).is_some();
    if is_ups {
        found.kind = Some("power".to_owned());
    }
    if found.kind.is_none() {
        let supply = first(objects, SUPPLY_DESCRIPTION).await;
        let device = match supply {
            Some(_) => supply,
            None => first(objects, DEVICE_DESCRIPTION).await,
        };
        found.kind = device.map(|_| "printer".to_owned());
    }
    let is_printer = found.kind.as_deref() == Some("printer");
    if is_printer && found.hostname.is_none() {
        found.hostname = objects
            .get(&[PRINTER_PORT_NAME])
            .await
            .pop()
            .flatten()
            .as_ref()
            .and_then(text);
    }
    if found.manufacturer.is_none() {
        found.manufacturer = match words(UPS_MANUFACTURER) {
            Some(maker) => Some(maker),
            None => first(objects, PRINTER_MAKER).await,
        };
    }
    if found.model.is_none() {
        found.model = if is_printer {
            first(objects, DEVICE_DESCRIPTION).await
        } else if is_ups {
            words(UPS_MODEL)
        } else {
            first(objects, ENTITY_MODEL).await
        };
    }
    found.serial = serial(objects, is_ups).await;
    found.firmware = match words(UPS_FIRMWARE) {
        Some(version) => Some(version),
        None => firmware(objects, described).await,
    };
    let owners = owners(objects).await;
    found.ips = owners.keys().map(ToString::to_string).collect();
    found.ips.sort();
    found.mac = match single(BRIDGE_ADDRESS)
        .and_then(Value::as_bytes)
        .and_then(mac)
    {
        Some(mac) => Some(mac),
        None => interface_mac(objects, address, &owners).await,
    };
    found.description = description;
    found
}

/// Vendor, type and model from the object id, then from the description.
fn name_vendor(found: &mut Identity, rest: Option<&[u32]>, description: &str, extra: &ObjectIds) {
    if let Some(entry) = rest.and_then(|rest| extra.find(rest)) {
        found.manufacturer = Some(entry.vendor.clone());
        found.kind.clone_from(&entry.kind);
        found.model.clone_from(&entry.model);
    }
    if let Some(rest) = rest {
        let vendor = VENDORS
            .iter()
            .filter(|vendor| rest.starts_with(vendor.oid))
            .max_by_key(|vendor| vendor.oid.len());
        if let Some(vendor) = vendor {
            found
                .manufacturer
                .get_or_insert_with(|| vendor.name.to_owned());
            if found.kind.is_none() {
                found.kind = vendor.kind.map(ToOwned::to_owned);
            }
        }
    }
    if found.model.is_none() {
        let fitting = MODELS
            .iter()
            .filter(|(oid, _)| rest.is_some_and(|rest| rest.starts_with(oid)));
        let longest = fitting.max_by_key(|(oid, _)| oid.len());
        found.model = longest.map(|(_, model)| (*model).to_owned());
    }
    let first_word = description
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .next()
        .unwrap_or_default()
        .to_lowercase();
    if let Some(word) = WORDS.iter().find(|word| word.word == first_word) {
        found
            .manufacturer
            .get_or_insert_with(|| word.name.to_owned());
        if found.kind.is_none() {
            found.kind = word.kind.map(ToOwned::to_owned);
        }
    }
    if found.kind.is_none() {
        if description.contains("Switch") {
            found.kind = Some("networking".to_owned());
        } else if description.contains("JETDIRECT") {
            found.kind = Some("printer".to_owned());
        } else if tables::is_qnap(description) {
            found.kind = Some("storage".to_owned());
            found.manufacturer.get_or_insert_with(|| "Qnap".to_owned());
        }
    }
}

async fn serial(objects: &impl Objects, is_ups: bool) -> Option<String> {
    let mut found = None;
    if is_ups {
        found = objects
            .get(&[APC_SERIAL])
            .await
            .pop()
            .flatten()
            .as_ref()
            .and_then(text);
    }
    for column in [ENTITY_SERIAL, PRINTER_SERIAL] {
        if found.is_none() {
            found = first(objects, column).await;
        }
    }
    // Printable characters only, without the runs of dots that some vendors fill up with.
    let printable = found?
        .chars()
        .filter(|c| c.is_ascii_graphic() || *c == ' ')
        .collect::<String>();
    let clean = printable.replace("..", "");
    Some(clean.trim().to_owned()).filter(|serial| !serial.is_empty())
}

async fn firmware(objects: &impl Objects, description: &str) -> Option<String> {
    for column in [ENTITY_SOFTWARE, ENTITY_FIRMWARE, CISCO_VERSION] {
        if let Some(version) = first(objects, column).await {
            return Some(version);
        }
    }
    // HP's print servers tell it in their description: "…,EEPROM V.36.75,…".
    let after = description.split_once("EEPROM ")?.1;
    after
        .split([',', ' '])
        .next()
        .filter(|version| !version.is_empty())
        .map(ToOwned::to_owned)
}

/// The first value of a column that says something.
async fn first(objects: &impl Objects, column: &str) -> Option<String> {
    objects
        .column(column)
        .await
        .iter()
        .find_map(|(_, value)| text(value))
}

/// Addresses of the device and the interfaces that own them.
async fn owners(objects: &impl Objects) -> BTreeMap<IpAddr, u32> {
    let rows = objects.column(ADDRESS_INTERFACE).await;
    let rows = rows.iter().filter_map(|(index, value)| {
        let octets = index
            .iter()
            .map(|arc| u8::try_from(*arc).ok())
            .collect::<Option<Vec<_>>>()?;
        let address = <[u8; 4]>::try_from(octets).ok()?;
        Some((IpAddr::from(address), u32::try_from(value.as_i32()?).ok()?))
    });
    rows.collect()
}

/// Rule 7 of the section: the interface we talk to, else the only one with an address, else the
/// lower of the first two that follow each other, else the first that has a speed.
async fn interface_mac(
    objects: &impl Objects,
    address: IpAddr,
    owners: &BTreeMap<IpAddr, u32>,
) -> Option<String> {
    let macs = objects.column(INTERFACE_MAC).await;
    let macs = macs
        .iter()
        .filter_map(|(index, value)| Some((*index.first()?, mac(value.as_bytes()?)?)))
        .collect::<BTreeMap<_, _>>();
    if let Some(own) = owners
        .get(&address)
        .and_then(|interface| macs.get(interface))
    {
        return Some(own.clone());
    }
    let mut with_address = owners
        .values()
        .filter_map(|interface| macs.get(interface).cloned())
        .collect::<Vec<_>>();
    with_address.sort();
    with_address.dedup();
    if let [only] = with_address.as_slice() {
        return Some(only.clone());
    }
    let number = |mac: &str| u64::from_str_radix(&mac.replace(':', ""), 16).unwrap_or(0);
    let neighbours = with_address.windows(2).find_map(|pair| match pair {
        [low, high] if number(high) == number(low) + 1 => Some(low.clone()),
        _ => None,
    });
    if neighbours.is_some() {
        return neighbours;
    }
    let speeds = objects.column(INTERFACE_SPEED).await;
    speeds.iter().find_map(|(index, speed)| {
        let is_fast = speed.as_u32().is_some_and(|speed| speed > 0);
        index
            .first()
            .filter(|_| is_fast)
            .and_then(|interface| macs.get(interface).cloned())
    })
}

/// Net-SNMP's texts for what nobody has configured.
fn is_default(text: &str) -> bool {
    let lower = text.to_lowercase();
    (lower.contains("edit /etc/") || lower.contains("configure /etc/")) && lower.contains("snmp")
}

/// A value as text: bytes as UTF-8 or Latin-1, quotes stripped, cut at the first control that is
/// no line break, trimmed; absent when nothing is left.
fn text(value: &Value) -> Option<String> {
    let text = match value.as_bytes() {
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
        },
        None => value.to_string(),
    };
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let cut = text
        .split(|c: char| c.is_control() && c != '\n')
        .next()
        .unwrap_or_default();
    let clean = cut.trim().trim_matches('"').trim();
    (!clean.is_empty()).then(|| clean.to_owned())
}

/// A MAC address from its bytes, in any of the forms devices send; none for zeros and world-wide
/// names.
#[must_use]
pub fn mac(bytes: &[u8]) -> Option<String> {
    let raw: [u8; 6] = match bytes {
        [a, b, c, d, e, f] => [*a, *b, *c, *d, *e, *f],
        [0x10, 0x00, ..] | [0x20..=0x2f, _, _, _, _, _, _, _] if bytes.len() == 8 => return None,
        _ => {
            let digits = std::str::from_utf8(bytes).ok().filter(|text| {
                text.chars()
                    .all(|c| c.is_ascii_hexdigit() || ":-. ".contains(c))
            });
            match digits {
                Some(text) => {
                    let hex = text
                        .chars()
                        .filter(char::is_ascii_hexdigit)
                        .collect::<String>();
                    let number = u64::from_str_radix(&hex, 16)
                        .ok()
                        .filter(|_| hex.len() == 12)?;
                    let [_, _, rest @ ..] = number.to_be_bytes();
                    rest
                }
                None => bytes.get(bytes.len().checked_sub(6)?..)?.try_into().ok()?,
            }
        }
    };
    if raw == [0; 6] {
        return None;
    }
    Some(raw.map(|byte| format!("{byte:02x}")).join(":"))
}

/// Ticks of a hundredth of a second in the family's own words (section 2.4).
#[must_use]
pub fn uptime(ticks: u32) -> String {
    let plural =
        |count: u32, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let (hundredths, seconds) = (ticks % 100, ticks / 100);
    let (s, minutes) = (seconds % 60, seconds / 60);
    let (m, hours) = (minutes % 60, minutes / 60);
    let (h, days) = (hours % 24, hours / 24);
    if days > 0 {
        format!(
            "{}, {h:02}:{m:02}:{s:02}.{hundredths:02}",
            plural(days, "day")
        )
    } else if h > 0 {
        format!("{}, {m:02}:{s:02}.{hundredths:02}", plural(h, "hour"))
    } else if m > 0 {
        format!("{}, {s:02}.{hundredths:02}", plural(m, "minute"))
    } else {
        format!("{s}.{hundredths:02} seconds")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::tools::snmp::tests::Recorded;

    async fn of(walk: &str) -> Identity {
        identify(
            &Recorded::read(walk),
            [127, 0, 0, 2].into(),
            &ObjectIds::default(),
        )
        .await
    }

    fn check(found: &Identity, expected: [&str; 6]) {
        let shown = |field: &Option<String>| field.clone().unwrap_or_default();
        let got = [
            shown(&found.kind),
            shown(&found.manufacturer),
            shown(&found.model),
            shown(&found.serial),
            shown(&found.firmware),
            shown(&found.mac),
        ];
        assert_eq!(got.each_ref().map(String::as_str), expected, "{found:?}");
    }

    /// The identities that real agents report of the recorded devices.
    #[tokio::test]
    async fn recorded_devices_are_recognised() {
        let switch = of("switch-procurve.snmprec").await;
        check(
            &switch,
            [
                "networking",
                "Hewlett-Packard",
                "ProCurve 2610-24",
                "CN000MUST1",
                "R.11.25",
                "02:4d:53:01:00:00",
            ],
        );
        assert_eq!(switch.hostname.as_deref(), Some("sw-lab-1"));
        assert_eq!(switch.uptime.as_deref(), Some("100 days, 00:20:34.56"));
        assert_eq!(switch.ips, ["127.0.0.1", "192.0.2.2"]);
        assert_eq!(switch.location.as_deref(), Some("Lab rack 3"));

        let printer = of("printer-laserjet.snmprec").await;
        check(
            &printer,
            [
                "printer",
                "Hewlett-Packard",
                "HP Color LaserJet CP4025",
                "JPBCD00001",
                "V.36.75",
                "02:50:52:01:00:01",
            ],
        );
        assert_eq!(printer.uptime.as_deref(), Some("1 day, 10:17:36.78"));

        let router = of("router-ios.snmprec").await;
        check(
            &router,
            [
                "networking",
                "Cisco",
                "2811",
                "FTX0000MUST",
                "12.4(24)T",
                "02:4d:53:02:00:01",
            ],
        );
        assert_eq!(router.ips, ["10.255.0.1", "192.0.2.1", "198.51.100.1"]);
        let lines = router.description.as_deref().unwrap().lines().count();
        assert_eq!(
            lines, 3,
            "line breaks of the description are kept, without CR"
        );

        // Real 2.6 agents say NETWORKING here; POWER is right.
        let ups = of("ups-smart.snmprec").await;
        check(
            &ups,
            [
                "power",
                "APC",
                "Smart-UPS 1500",
                "AS0000MUST01",
                "UPS 08.3",
                "02:55:50:01:00:01",
            ],
        );

        let host = of("host-minimal.snmprec").await;
        assert_eq!(host.kind.as_deref(), Some("computer"));
        assert_eq!(host.manufacturer.as_deref(), Some("Net-SNMP"));
        assert_eq!(host.model.as_deref(), Some("Linux"));
        assert_eq!(host.hostname.as_deref(), Some("node"));
    }

    #[tokio::test]
    async fn an_operators_table_goes_first() {
        let extra = ObjectIds::parse(
            "# comment\n\n8072.3.2\tAcme\tVIDEO\tEye\n8072.3.2.10\tAcme\tSTORAGE\tBox 10\tmodule\nbad line\n",
        );
        let walk = Recorded::read("host-minimal.snmprec");
        let found = identify(&walk, [127, 0, 0, 1].into(), &extra).await;
        assert_eq!(found.kind.as_deref(), Some("storage"));
        assert_eq!(
            (found.manufacturer.as_deref(), found.model.as_deref()),
            (Some("Acme"), Some("Box 10"))
        );
    }

    #[tokio::test]
    async fn descriptions_help_where_object_ids_do_not() {
        for (description, kind, maker) in [
            (
                "ProCurve J1234",
                Some("networking"),
                Some("Hewlett-Packard"),
            ),
            ("RICOH Aficio", Some("printer"), Some("Ricoh")),
            ("Some 24-port Switch", Some("networking"), None),
            ("FOO,JETDIRECT,J7934G", Some("printer"), None),
            ("Linux TS-453A 4.2.8", Some("storage"), Some("Qnap")),
            ("Linux box 6.1", None, None),
            ("", None, None),
        ] {
            let walk = Recorded::parse(&format!("1.3.6.1.2.1.1.1.0|4|{description}"));
            let found = identify(&walk, [127, 0, 0, 1].into(), &ObjectIds::default()).await;
            assert_eq!(found.kind.as_deref(), kind, "{description}");
            assert_eq!(found.manufacturer.as_deref(), maker, "{description}");
        }
    }

    #[tokio::test]
    async fn defaults_of_the_package_are_not_reported() {
        let walk = Recorded::parse(
            "1.3.6.1.2.1.1.4.0|4|Root <root@localhost> (configure /etc/snmp/snmp.local.conf)\n\
             1.3.6.1.2.1.1.6.0|4|Unknown (edit /etc/snmp/snmpd.conf)",
        );
        let found = identify(&walk, [127, 0, 0, 1].into(), &ObjectIds::default()).await;
        assert_eq!((found.contact, found.location), (None, None));
    }

    #[test]
    fn macs_in_every_form() {
        for (bytes, expected) in [
            (&[2, 0xaa, 0, 0, 0, 1][..], Some("02:aa:00:00:00:01")),
            (b"02AA00000001", Some("02:aa:00:00:00:01")),
            (b"02:aa:00:00:00:01", Some("02:aa:00:00:00:01")),
            (b"02-AA-00-00-00-01", Some("02:aa:00:00:00:01")),
            (&[0, 1, 0, 2, 0xaa, 0, 0, 0, 1], Some("02:aa:00:00:00:01")),
            (&[0; 6], None),
            (&[0x10, 0, 1, 2, 3, 4, 5, 6], None),
            (&[0x21, 0, 1, 2, 3, 4, 5, 6], None),
            (b"", None),
            (b"abc", None),
        ] {
            assert_eq!(mac(bytes).as_deref(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn uptimes_in_the_familys_words() {
        for (ticks, expected) in [
            (864_123_456, "100 days, 00:20:34.56"),
            (12_345_678, "1 day, 10:17:36.78"),
            (10_030, "1 minute, 40.30"),
            (137_791, "22 minutes, 57.91"),
            (0, "0.00 seconds"),
            (4242, "42.42 seconds"),
            (360_000, "1 hour, 00:00.00"),
        ] {
            assert_eq!(uptime(ticks), expected);
        }
    }
}
