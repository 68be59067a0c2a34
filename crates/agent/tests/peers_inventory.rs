//! Our inventory of this machine beside that of the real FusionInventory agent.

use std::collections::BTreeSet;
use std::process::Command;

use muster_agent::tools::inventory::{collect, system_addresses};
use muster_net::Clock;
use serde_json::Value;

/// Texts of all elements of a name, within those sections that hold them.
fn texts<'x>(xml: &'x str, section: &str, name: &str) -> Vec<&'x str> {
    let (open, close) = (format!("<{section}>"), format!("</{section}>"));
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open)
        .skip(1)
        .filter_map(|rest| rest.split(&close).next())
        .filter_map(|body| body.split(&begin).nth(1)?.split(&end).next())
        .collect()
}

fn members(sections: &Value, name: &str) -> Vec<String> {
    let list = sections.as_array().cloned().unwrap_or_default();
    list.iter()
        .filter_map(|entry| entry[name].as_str().map(ToOwned::to_owned))
        .collect()
}

fn set<T: Into<String>>(values: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    values.into_iter().map(Into::into).collect()
}

#[test]
fn key_facts_agree_with_the_real_agent() {
    let output = Command::new("fusioninventory-inventory")
        .arg("--no-category=process,environment")
        .output()
        .expect("fusioninventory-inventory runs; `cargo xtask setup` installs it");
    let xml = String::from_utf8_lossy(&output.stdout).into_owned();
    let ours = collect(
        "/".as_ref(),
        &system_addresses(),
        Clock::system().now(),
        &[],
    );

    let one = |section: &str, name: &str| texts(&xml, section, name).first().copied();
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let number = |value: &Value| value.as_i64().map(|number| number.to_string());
    let hardware = &ours["hardware"];
    assert_eq!(text(&hardware["name"]).as_deref(), one("HARDWARE", "NAME"));
    assert_eq!(text(&hardware["uuid"]).as_deref(), one("HARDWARE", "UUID"));
    assert_eq!(
        number(&hardware["memory"]).as_deref(),
        one("HARDWARE", "MEMORY")
    );
    assert_eq!(text(&hardware["dns"]).as_deref(), one("HARDWARE", "DNS"));
    assert_eq!(
        text(&hardware["defaultgateway"]).as_deref(),
        one("HARDWARE", "DEFAULTGATEWAY")
    );
    let serial = one("BIOS", "SSN").filter(|serial| !serial.is_empty());
    assert_eq!(text(&ours["bios"]["ssn"]).as_deref(), serial);

    let system = &ours["operatingsystem"];
    for (member, name) in [
        ("arch", "ARCH"),
        ("fqdn", "FQDN"),
        ("full_name", "FULL_NAME"),
        ("hostid", "HOSTID"),
        ("kernel_version", "KERNEL_VERSION"),
        ("name", "NAME"),
        ("version", "VERSION"),
    ] {
        assert_eq!(
            text(&system[member]).as_deref(),
            one("OPERATINGSYSTEM", name),
            "{name}"
        );
    }

    let cpus = ours["cpus"].as_array().unwrap();
    assert_eq!(cpus.len(), texts(&xml, "CPUS", "NAME").len());
    assert_eq!(text(&cpus[0]["name"]).as_deref(), one("CPUS", "NAME"));
    assert_eq!(number(&cpus[0]["core"]).as_deref(), one("CPUS", "CORE"));
    assert_eq!(number(&cpus[0]["thread"]).as_deref(), one("CPUS", "THREAD"));

    let networks = &ours["networks"];
    for (member, name) in [
        ("description", "DESCRIPTION"),
        ("mac", "MACADDR"),
        ("ipaddress", "IPADDRESS"),
        ("ipaddress6", "IPADDRESS6"),
        ("ipmask", "IPMASK"),
        ("ipsubnet", "IPSUBNET"),
    ] {
        assert_eq!(
            set(members(networks, member)),
            set(texts(&xml, "NETWORKS", name)),
            "{name}"
        );
    }

    for (section, ours, member, name) in [
        ("SOFTWARES", &ours["softwares"], "name", "NAME"),
        ("SOFTWARES", &ours["softwares"], "version", "VERSION"),
        ("STORAGES", &ours["storages"], "name", "NAME"),
        ("STORAGES", &ours["storages"], "serial", "SERIALNUMBER"),
        ("DRIVES", &ours["drives"], "volumn", "VOLUMN"),
        ("LOCAL_USERS", &ours["local_users"], "login", "LOGIN"),
        ("LOCAL_GROUPS", &ours["local_groups"], "name", "NAME"),
        ("CONTROLLERS", &ours["controllers"], "pcislot", "PCISLOT"),
        (
            "CONTROLLERS",
            &ours["controllers"],
            "productid",
            "PRODUCTID",
        ),
    ] {
        assert_eq!(
            set(members(ours, member)),
            set(texts(&xml, section, name)),
            "{section} {name}"
        );
    }
    let packages = texts(&xml, "SOFTWARES", "NAME").len();
    assert_eq!(ours["softwares"].as_array().unwrap().len(), packages);
}
