//! What messages say of agents and machines, in domain words.

use std::collections::BTreeMap;
use std::net::IpAddr;

use muster_core::AgentId;
use muster_core::agent::Capability;
use muster_core::host::HostFacts;
use muster_core::kind::Kind;
use muster_proto::fusion::controller::Software;
use muster_proto::fusion::inventory::Identity;
use muster_proto::fusion::p2::Device;
use muster_proto::fusion::p3::Contact;
use muster_proto::fusion::snmp::DeviceType;

/// Our own agents' name for themselves in `User-Agent`.
const OWN_SOFTWARE: &str = "Muster-Agent";

/// The id of one of our own agents: its P1 agent id is it.
pub(super) fn own_id(peer: &str, software: Option<&Software>) -> Option<AgentId> {
    software.filter(|s| s.name == OWN_SOFTWARE)?;
    peer.parse().ok()
}

/// `FusionInventory-Agent` as it is called elsewhere: `fusioninventory-agent`.
pub(super) fn software_name(name: &str) -> String {
    match name {
        OWN_SOFTWARE => "muster".to_owned(),
        other => other.to_ascii_lowercase(),
    }
}

/// `lab-host-2026-11-21-19-09-02` is made of a host name and the time of the first start.
pub(super) fn host_of_device_id(id: &str) -> &str {
    const STAMP: &[u8] = b"-dddd-dd-dd-dd-dd-dd";
    let Some(at) = id.len().checked_sub(STAMP.len()).filter(|at| *at > 0) else {
        return id;
    };
    let Some((name, stamp)) = id.split_at_checked(at) else {
        return id;
    };
    let fits = stamp
        .bytes()
        .zip(STAMP)
        .all(|(found, wanted)| match wanted {
            b'd' => found.is_ascii_digit(),
            other => found == *other,
        });
    if fits { name } else { id }
}

/// The modules of a P1 request. Names that cannot be kinds of work are left out.
pub(super) fn capabilities(modules: &BTreeMap<String, String>) -> Vec<Capability> {
    modules
        .iter()
        .filter_map(|(name, version)| {
            Some(Capability {
                kind: name.parse().ok()?,
                version: version.clone(),
                assumed: false,
            })
        })
        .collect()
}

/// What a P2 agent is taken to have: it never lists its modules (surface, section 5).
pub(super) fn assumed() -> Vec<Capability> {
    [
        ("inventory", false),
        ("netdiscovery", true),
        ("netinventory", true),
    ]
    .into_iter()
    .filter_map(|(name, assumed)| {
        Some(Capability {
            kind: name.parse().ok()?,
            version: String::new(),
            assumed,
        })
    })
    .collect()
}

/// What a contact message says; installed counts where enabled is not said.
pub(super) fn of_contact(contact: &Contact) -> Vec<Capability> {
    let said = if contact.enabled.is_empty() {
        &contact.installed
    } else {
        &contact.enabled
    };
    let version = contact.version.clone().unwrap_or_default();
    // Network tasks run over P2, where the agent says nothing of them.
    let mut modules: BTreeMap<String, String> = said
        .iter()
        .map(|name| (name.clone(), version.clone()))
        .collect();
    modules.entry("inventory".to_owned()).or_insert(version);
    capabilities(&modules)
}

/// The kind an unasked inventory closes runs of.
pub(super) fn inventory_kind() -> Kind {
    #[expect(clippy::unwrap_used, reason = "a literal that is a kind")]
    "inventory".parse().unwrap()
}

fn addresses<'t>(texts: impl IntoIterator<Item = &'t str>) -> std::collections::BTreeSet<IpAddr> {
    texts
        .into_iter()
        .filter_map(|text| text.trim().parse().ok())
        .collect()
}

/// The machine an inventory is about.
pub(super) fn of_inventory(identity: &Identity) -> HostFacts {
    HostFacts {
        name: identity.name.clone(),
        serial: identity.serial.clone(),
        uuid: identity.uuid.clone(),
        macs: identity.macs.iter().cloned().collect(),
        addresses: addresses(identity.addresses.iter().map(String::as_str)),
        os_name: identity.os_name.clone(),
        os_version: identity.os_version.clone(),
        device_type: Some("computer".to_owned()),
    }
}

/// The machine a device message is about.
pub(super) fn of_device(device: &Device) -> HostFacts {
    HostFacts {
        name: device.name().map(str::to_owned),
        serial: device.serial.clone(),
        uuid: None,
        macs: device.mac.iter().cloned().collect(),
        addresses: addresses(
            std::iter::once(device.ip.as_str()).chain(device.ips.iter().map(String::as_str)),
        ),
        os_name: None,
        os_version: None,
        device_type: device.kind.map(DeviceType::as_lower).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_no_part_of_the_name() {
        for (id, name) in [
            ("lab-host-2026-11-21-19-09-02", "lab-host"),
            ("agent-2026-11-21-19-01-50", "agent"),
            ("-2026-11-21-19-01-50", "-2026-11-21-19-01-50"),
            ("2026-11-21-19-01-50", "2026-11-21-19-01-50"),
            (
                "lab-host-2026-11-21-19-09-0x",
                "lab-host-2026-11-21-19-09-0x",
            ),
            ("xyz", "xyz"),
            ("ééééé-11-21-19-09-02é", "ééééé-11-21-19-09-02é"),
        ] {
            assert_eq!(host_of_device_id(id), name);
        }
    }

    #[test]
    fn only_our_agents_have_our_ids() {
        let software = |name: &str| {
            Some(Software {
                name: name.to_owned(),
                version: None,
            })
        };
        let id = "0192f0c1-8a3b-7c4d-9e5f-001122334455";
        assert!(own_id(id, software("Muster-Agent").as_ref()).is_some());
        assert!(own_id(id, software("GLPI-Agent").as_ref()).is_none());
        assert!(own_id("xyz", software("Muster-Agent").as_ref()).is_none());
        assert!(own_id(id, None).is_none());
    }
}
