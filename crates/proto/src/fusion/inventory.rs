//! Inventories: one document for both dialects, in the shape of P3.
//!
//! FusionInventory contract, section 8. P2 sends upper-case elements, P3 the same in lower case
//! with arrays, numbers and booleans. What arrives as XML is turned into the JSON shape, so that
//! everything behind the wire knows one form; our own agent's JSON is written as XML the other way.
//! Sections and fields that are not known are kept as they are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use serde_json::Value;

use super::json::{self, Fields};
use super::xml::{Element, Writer};

/// An inventory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Inventory {
    /// Sections by name, a JSON object.
    pub content: String,
    /// Only some sections: the others are as they were, never gone (section 8.4).
    pub partial: bool,
    /// The operator's tag.
    pub tag: Option<String>,
}

/// What says which machine an inventory is about.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// Host name.
    pub name: Option<String>,
    /// Chassis serial number; placeholders of vendors are none.
    pub serial: Option<String>,
    /// System UUID in lower case; all zeros or ones are none.
    pub uuid: Option<String>,
    /// MAC addresses of real interfaces, lower case, sorted.
    pub macs: Vec<String>,
    /// Addresses other than loopback and link-local, sorted.
    pub addresses: Vec<String>,
    /// Name of the operating system.
    pub os_name: Option<String>,
    /// Its version.
    pub os_version: Option<String>,
    /// What sent it, `FusionInventory-Agent_v2.6-3`.
    pub client: Option<String>,
}

impl Inventory {
    /// Looks for what identifies the machine.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let Ok(content) = Fields::of(&self.content, "content") else {
            return Identity::default();
        };
        let section = |name: &str| content.object(name).ok().flatten();
        let value = |fields: &Option<Fields<'_>>, key: &str| {
            let text = fields.as_ref()?.text(key).ok()??;
            let text = text.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let (hardware, bios) = (section("hardware"), section("bios"));
        let os = section("operatingsystem");
        let mut macs = Vec::new();
        let mut addresses = Vec::new();
        // A section that is no list is a section without interfaces.
        let _ = content.items("networks", |_, item, path| {
            if let Ok(network) = Fields::of(item, path) {
                read_network(&network, &mut macs, &mut addresses);
            }
            Ok(())
        });
        macs.sort();
        macs.dedup();
        addresses.sort();
        addresses.dedup();
        Identity {
            name: value(&hardware, "name").or_else(|| value(&os, "fqdn")),
            serial: value(&bios, "ssn").filter(|s| is_real_serial(s)),
            uuid: value(&hardware, "uuid")
                .map(|u| u.to_ascii_lowercase())
                .filter(|u| is_real_uuid(u)),
            macs,
            addresses,
            os_name: value(&os, "full_name")
                .or_else(|| value(&os, "name"))
                .or_else(|| value(&hardware, "osname")),
            os_version: value(&os, "version").or_else(|| value(&hardware, "osversion")),
            client: content.text("versionclient").ok().flatten(),
        }
    }

    /// This inventory as the next full one after `before`: a partial one replaces the sections it
    /// has and keeps the rest.
    #[must_use]
    pub fn merged_over(&self, before: &str) -> String {
        if !self.partial {
            return self.content.clone();
        }
        let mut sections: BTreeMap<&str, &str> = BTreeMap::new();
        let (old, new) = (Fields::of(before, ""), Fields::of(&self.content, ""));
        for fields in [&old, &new].into_iter().flatten() {
            sections.extend(fields.iter());
        }
        let mut out = String::with_capacity(before.len().saturating_add(self.content.len()));
        out.push('{');
        for (index, (name, text)) in sections.into_iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            json::push_string(&mut out, name);
            out.push(':');
            out.push_str(text);
        }
        out.push('}');
        out
    }
}

fn read_network(network: &Fields<'_>, macs: &mut Vec<String>, addresses: &mut Vec<String>) {
    let text = |key: &str| network.text(key).ok().flatten().unwrap_or_default();
    let kind = text("type").to_ascii_lowercase();
    let is_virtual = network
        .boolean("virtualdev")
        .ok()
        .flatten()
        .unwrap_or(false)
        || matches!(kind.as_str(), "loopback" | "bridge" | "alias");
    let mac = match text("mac") {
        mac if mac.is_empty() => text("macaddr"),
        mac => mac,
    };
    if let Some(mac) = clean_mac(&mac).filter(|_| !is_virtual) {
        macs.push(mac);
    }
    for key in ["ipaddress", "ipaddress6"] {
        let text = text(key);
        let address = text
            .split(['/', '%'])
            .next()
            .unwrap_or_default()
            .parse::<IpAddr>();
        if let Ok(address) = address {
            let is_local = match address {
                IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
                IpAddr::V6(v6) => {
                    v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local()
                }
            };
            if !is_local {
                addresses.push(address.to_string());
            }
        }
    }
}

/// A MAC address in lower case with colons; none for anything else and for all zeros.
#[must_use]
pub fn clean_mac(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let others = text
        .chars()
        .all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '-' | '.'));
    if digits.len() != 12 || !others || digits.bytes().all(|b| b == b'0') {
        return None;
    }
    let mut out = String::with_capacity(17);
    for (index, c) in digits.to_ascii_lowercase().chars().enumerate() {
        if index > 0 && index.is_multiple_of(2) {
            out.push(':');
        }
        out.push(c);
    }
    Some(out)
}

/// Whether a serial number names one machine: vendors leave placeholders.
#[must_use]
pub fn is_real_serial(text: &str) -> bool {
    const PLACEHOLDERS: [&str; 14] = [
        "none",
        "n/a",
        "na",
        "not specified",
        "not available",
        "not applicable",
        "unknown",
        "default string",
        "system serial number",
        "chassis serial number",
        "serial",
        "empty",
        "invalid",
        "to be filled by o.e.m.",
    ];
    let text = text.trim().to_ascii_lowercase();
    let first = text.chars().next();
    text.len() > 2
        && !PLACEHOLDERS.contains(&text.as_str())
        && !text.chars().all(|c| Some(c) == first)
        && text != "0123456789"
        && text != "123456789"
}

fn is_real_uuid(text: &str) -> bool {
    let digits: Vec<char> = text.chars().filter(char::is_ascii_hexdigit).collect();
    digits.len() == 32 && digits.iter().any(|d| Some(d) != digits.first())
}

/// Sections that come once; every other one is a list, also of one.
const SINGLE: [&str; 5] = [
    "accesslog",
    "bios",
    "hardware",
    "operatingsystem",
    "versionprovider",
];

/// Fields that are numbers in P3, by section (8.2, the ones marked `(i)`).
const INTEGERS: [(&str, &[&str]); 12] = [
    (
        "cpus",
        &["core", "corecount", "thread", "speed", "stepping"],
    ),
    ("drives", &["free", "total"]),
    ("hardware", &["memory", "swap", "etime"]),
    ("logical_volumes", &["size", "seg_count"]),
    ("memories", &["capacity", "numslots"]),
    ("networks", &["mtu"]),
    (
        "physical_volumes",
        &["free", "pv_pe_count", "size", "pe_size"],
    ),
    ("processes", &["pid", "virtualmemory"]),
    ("softwares", &["filesize"]),
    ("storages", &["disksize"]),
    ("versionprovider", &["etime"]),
    ("volume_groups", &["size", "free", "pv_count", "lv_count"]),
];

/// Fields that are booleans in P3, by section (8.2, the ones marked `(b)`).
const BOOLEANS: [(&str, &[&str]); 4] = [
    ("drives", &["systemdrive"]),
    ("memories", &["removable"]),
    ("networks", &["virtualdev", "management"]),
    ("softwares", &["no_remove"]),
];

/// Fields with another name in P3: section, P2 name, P3 name.
const RENAMED: [(&str, &str, &str); 4] = [
    ("local_groups", "member", "members"),
    ("networks", "macaddr", "mac"),
    ("softwares", "installdate", "install_date"),
    ("storages", "serialnumber", "serial"),
];

/// Sections with another name in P3.
const RENAMED_SECTIONS: [(&str, &str); 1] = [("firewall", "firewalls")];

/// The inventory that the `CONTENT` of a P2 message is.
pub(super) fn from_xml(content: &Element<'_>) -> Inventory {
    let mut tag = None;
    for account in content.all("ACCOUNTINFO") {
        if account.value("KEYNAME") == Some("TAG") {
            tag = account.value("KEYVALUE").map(str::to_owned);
        }
    }
    let mut out = String::with_capacity(content.document_len());
    out.push('{');
    for group in content.sorted_children().groups() {
        let Some((first, group)) = first_of(group) else {
            continue;
        };
        if matches!(first.name(), "ACCOUNTINFO" | "PROCESSNUMBER") {
            continue;
        }
        let name = first.name().to_ascii_lowercase();
        let name = renamed_section(&name);
        if out.len() > 1 {
            out.push(',');
        }
        json::push_string(&mut out, name);
        out.push(':');
        let is_single = SINGLE.contains(&name) || (group.len() == 1 && !first.has_children());
        push_values(&mut out, group, !is_single, &mut |out, e| {
            push_section(out, name, e)
        });
    }
    out.push('}');
    out.shrink_to_fit();
    Inventory {
        content: out,
        partial: false,
        tag,
    }
}

/// The first of a run of elements, and the run from it on.
fn first_of<'d, I: ExactSizeIterator<Item = Element<'d>>>(
    run: I,
) -> Option<(Element<'d>, std::iter::Peekable<I>)> {
    let mut run = run.peekable();
    let first = *run.peek()?;
    Some((first, run))
}

/// Appends any element as JSON: leaves as strings, repeated children as arrays, keys in lower case.
pub(super) fn push_json(out: &mut String, element: &Element<'_>) {
    if !element.has_children() {
        json::push_string(out, element.text().trim());
        return;
    }
    out.push('{');
    for (index, group) in element.sorted_children().groups().enumerate() {
        let Some((first, group)) = first_of(group) else {
            continue;
        };
        if index > 0 {
            out.push(',');
        }
        json::push_string(out, &first.name().to_ascii_lowercase());
        out.push(':');
        let is_list = group.len() > 1;
        push_values(out, group, is_list, &mut |out, e| push_json(out, e));
    }
    out.push('}');
}

fn push_section(out: &mut String, section: &str, element: &Element<'_>) {
    if !element.has_children() {
        json::push_string(out, element.text().trim());
        return;
    }
    out.push('{');
    for (index, group) in element.sorted_children().groups().enumerate() {
        let Some((first, group)) = first_of(group) else {
            continue;
        };
        if index > 0 {
            out.push(',');
        }
        let field = first.name().to_ascii_lowercase();
        let key = RENAMED
            .iter()
            .find(|(s, from, _)| *s == section && *from == field)
            .map_or(field.as_str(), |(_, _, to)| to);
        json::push_string(out, key);
        out.push(':');
        let is_list = group.len() > 1 || key == "members";
        push_values(out, group, is_list, &mut |out, e| {
            let text = e.text().trim();
            if e.has_children() {
                push_json(out, e);
            } else if is_listed(&INTEGERS, section, &field) && text.parse::<i64>().is_ok() {
                // Writing to a string cannot fail.
                let _ = write!(out, "{}", text.parse::<i64>().unwrap_or_default());
            } else if is_listed(&BOOLEANS, section, &field) && is_boolean(text) {
                out.push_str(if matches!(text, "1" | "true" | "yes") {
                    "true"
                } else {
                    "false"
                });
            } else {
                json::push_string(out, text);
            }
        });
    }
    out.push('}');
}

fn push_values<'d>(
    out: &mut String,
    group: impl Iterator<Item = Element<'d>>,
    is_list: bool,
    push: &mut dyn FnMut(&mut String, &Element<'_>),
) {
    if !is_list {
        if let Some(last) = group.last() {
            push(out, &last);
        }
        return;
    }
    out.push('[');
    for (index, element) in group.enumerate() {
        if index > 0 {
            out.push(',');
        }
        push(out, &element);
    }
    out.push(']');
}

fn renamed_section(name: &str) -> &str {
    RENAMED_SECTIONS
        .iter()
        .find(|(from, _)| *from == name)
        .map_or(name, |(_, to)| to)
}

fn is_listed(table: &[(&str, &[&str])], section: &str, field: &str) -> bool {
    table
        .iter()
        .any(|(s, fields)| *s == section && fields.contains(&field))
}

fn is_boolean(text: &str) -> bool {
    matches!(text, "0" | "1" | "true" | "false" | "yes" | "no")
}

/// Writes the sections of an inventory as P2 elements.
pub(super) fn write_xml(writer: &mut Writer, inventory: &Inventory) {
    if let Some(tag) = &inventory.tag {
        writer.element("ACCOUNTINFO", |w| {
            w.leaf("KEYNAME", "TAG");
            w.leaf("KEYVALUE", tag);
        });
    }
    let Ok(Value::Object(sections)) = serde_json::from_str(&inventory.content) else {
        return;
    };
    for (section, value) in &sections {
        let name = RENAMED_SECTIONS
            .iter()
            .find(|(_, to)| to == section)
            .map_or(section.as_str(), |(from, _)| from);
        let mut fields = value.clone();
        rename_back(section, &mut fields);
        write_value(writer, &name.to_ascii_uppercase(), &fields);
    }
}

fn rename_back(section: &str, value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| rename_back(section, item)),
        Value::Object(fields) => {
            for (_, from, to) in RENAMED.iter().filter(|(s, _, _)| *s == section) {
                if let Some(field) = fields.remove(*to) {
                    fields.insert((*from).to_owned(), field);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Writes a value as elements: an array as repeated ones, an object as one with children. A key
/// that is no name of an element is left out.
pub(super) fn write_value(writer: &mut Writer, name: &str, value: &Value) {
    let is_name = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if !is_name {
        return;
    }
    match value {
        Value::Null => {}
        Value::Bool(flag) => writer.leaf(name, if *flag { "1" } else { "0" }),
        Value::Number(number) => writer.leaf(name, &number.to_string()),
        Value::String(text) => writer.leaf(name, text),
        Value::Array(items) => items
            .iter()
            .for_each(|item| write_value(writer, name, item)),
        Value::Object(fields) => writer.element(name, |w| {
            for (key, value) in fields {
                write_value(w, &key.to_ascii_uppercase(), value);
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Limits;
    use super::super::xml::Document;
    use super::*;

    fn read(xml: &str) -> Inventory {
        let document = Document::parse(xml.as_bytes(), &Limits::default()).unwrap();
        from_xml(&document.root())
    }

    #[test]
    fn xml_becomes_the_json_shape() {
        let inventory = read(
            "<CONTENT><ACCOUNTINFO><KEYNAME>TAG</KEYNAME><KEYVALUE>lab</KEYVALUE></ACCOUNTINFO>\
             <HARDWARE><NAME>box</NAME><MEMORY>24105</MEMORY></HARDWARE>\
             <STORAGES><SERIALNUMBER>S1</SERIALNUMBER><DISKSIZE>10</DISKSIZE></STORAGES>\
             <FIREWALL><STATUS>off</STATUS></FIREWALL>\
             <LOCAL_GROUPS><MEMBER>a</MEMBER></LOCAL_GROUPS>\
             <NETWORKS><DESCRIPTION>e0</DESCRIPTION><MACADDR>02:AA:00:00:00:01</MACADDR>\
             <VIRTUALDEV>0</VIRTUALDEV><IPADDRESS>10.0.0.1</IPADDRESS></NETWORKS>\
             <NETWORKS><DESCRIPTION>lo</DESCRIPTION><TYPE>loopback</TYPE></NETWORKS>\
             <VERSIONCLIENT>V</VERSIONCLIENT><PROCESSNUMBER>7</PROCESSNUMBER></CONTENT>",
        );
        let value: Value = serde_json::from_str(&inventory.content).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "hardware": {"name": "box", "memory": 24105},
                "storages": [{"serial": "S1", "disksize": 10}],
                "firewalls": [{"status": "off"}],
                "local_groups": [{"members": ["a"]}],
                "networks": [
                    {"description": "e0", "mac": "02:AA:00:00:00:01", "virtualdev": false,
                     "ipaddress": "10.0.0.1"},
                    {"description": "lo", "type": "loopback"}],
                "versionclient": "V",
            })
        );
        assert_eq!(inventory.tag.as_deref(), Some("lab"));
        let identity = inventory.identity();
        assert_eq!(identity.name.as_deref(), Some("box"));
        assert_eq!(identity.macs, ["02:aa:00:00:00:01"]);
        assert_eq!(identity.addresses, ["10.0.0.1"]);
        assert_eq!(identity.client.as_deref(), Some("V"));
        assert_eq!(identity.serial, None);
    }

    #[test]
    fn json_becomes_xml_and_comes_back() {
        let inventory = Inventory {
            content: r#"{"bios":{"ssn":"X1"},"networks":[{"description":"e0","mac":"02:aa:00:00:00:01","mtu":1500}],"softwares":[{"install_date":"2026-01-01","name":"a"},{"name":"b"}],"versionclient":"Muster"}"#.to_owned(),
            partial: false,
            tag: Some("t".to_owned()),
        };
        let mut writer = Writer::new();
        writer.element("CONTENT", |w| write_xml(w, &inventory));
        let xml = writer.finish();
        assert!(
            xml.contains("<MACADDR>02:aa:00:00:00:01</MACADDR>"),
            "{xml}"
        );
        assert_eq!(read(&xml), inventory);
    }

    #[test]
    fn a_partial_inventory_keeps_the_other_sections() {
        let before = r#"{"hardware":{"name":"a"},"softwares":[{"name":"x"}]}"#;
        let partial = Inventory {
            content: r#"{"hardware":{"name":"b"},"drives":[]}"#.to_owned(),
            partial: true,
            tag: None,
        };
        let merged: Value = serde_json::from_str(&partial.merged_over(before)).unwrap();
        assert_eq!(
            merged,
            serde_json::json!({"hardware":{"name":"b"},"softwares":[{"name":"x"}],"drives":[]})
        );
        let full = Inventory {
            partial: false,
            ..partial
        };
        assert_eq!(full.merged_over(before), full.content);
    }

    #[test]
    fn placeholders_identify_nothing() {
        for text in [
            "",
            "0",
            "None",
            "To be filled by O.E.M.",
            "00000000",
            "Default string",
            "xx",
        ] {
            assert!(!is_real_serial(text), "{text}");
        }
        assert!(is_real_serial("CN000MUST1"));
        assert!(!is_real_uuid("00000000-0000-0000-0000-000000000000"));
        assert!(!is_real_uuid("ffffffff-ffff-ffff-ffff-ffffffffffff"));
        assert!(is_real_uuid("4c4c4544-0042-3010-8056-b4c04f4e3132"));
        assert_eq!(
            clean_mac("02-AA-00-00-00-01").as_deref(),
            Some("02:aa:00:00:00:01")
        );
        assert_eq!(
            clean_mac("02aa.0000.0001").as_deref(),
            Some("02:aa:00:00:00:01")
        );
        assert_eq!(clean_mac("00:00:00:00:00:00"), None);
        assert_eq!(clean_mac("02:aa:00:00:00"), None);
        assert_eq!(clean_mac("address 02aa00000001"), None);
    }
}
