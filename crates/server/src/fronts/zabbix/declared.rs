//! Declared hosts and items in the words of the wire: proxy configuration and lists of active checks.

use jiff::SignedDuration;
use muster_core::sample::{Item, ItemType, ValueType};
use muster_proto::zabbix::config::{Configuration, HostRow, InterfaceRow, ItemRow, item_kind};
use muster_proto::zabbix::wire::ActiveItem;

use crate::control::Monitored;

/// What a proxy is to know of the hosts it monitors.
pub(super) fn configuration(monitored: &[Monitored]) -> Configuration {
    let mut out = Configuration::default();
    for Monitored { host, items } in monitored {
        let (Some(monitoring), Some(name)) = (&host.monitoring, &host.facts.name) else {
            continue;
        };
        let number = monitoring.number;
        out.hosts.push(HostRow {
            hostid: number,
            host: name.clone(),
            status: 0,
            name: name.clone(),
        });
        let is_ip = monitoring.ip().is_some();
        let address = monitoring.address.clone();
        let (ip, dns) = if is_ip {
            (address, String::new())
        } else {
            (String::new(), address)
        };
        // One interface for each host, under the host's own number.
        out.interfaces.push(InterfaceRow {
            interfaceid: number,
            hostid: number,
            kind: 1,
            ip,
            dns,
            use_ip: is_ip,
            main: true,
            port: monitoring.port.to_string(),
        });
        out.items
            .extend(items.iter().filter_map(|item| item_row(item, number)));
    }
    out
}

/// `None` for types whose further columns cannot be declared yet: a proxy refuses the whole
/// configuration over one of them.
fn item_row(item: &Item, host: u64) -> Option<ItemRow> {
    let (kind, at_interface) = match item.item_type {
        ItemType::Agent => (item_kind::AGENT, true),
        ItemType::AgentActive => (item_kind::AGENT_ACTIVE, false),
        ItemType::External => (item_kind::EXTERNAL, true),
        ItemType::Internal => (item_kind::INTERNAL, false),
        ItemType::Simple => (item_kind::SIMPLE, true),
        ItemType::Trapper => (item_kind::TRAPPER, false),
        ItemType::Dependent | ItemType::Http | ItemType::Script | ItemType::Snmp => return None,
    };
    Some(ItemRow {
        itemid: item.number,
        hostid: host,
        kind,
        key: item.key.clone(),
        delay: delay(item.delay),
        status: 0,
        value_type: value_type(item.value_type),
        interfaceid: at_interface.then_some(host),
        master_itemid: None,
        flags: 0,
    })
}

/// Items that an active agent is to collect for this host.
pub(super) fn active_items(monitored: &Monitored) -> Vec<ActiveItem<'_>> {
    monitored
        .items
        .iter()
        .filter(|item| item.item_type == ItemType::AgentActive)
        .map(|item| ActiveItem {
            key: item.key.as_str().into(),
            itemid: item.number,
            delay: delay(item.delay).into(),
            lastlogsize: 0,
            mtime: 0,
        })
        .collect()
}

/// Whole seconds, at least one; `0` for what is sent unasked.
fn delay(delay: Option<SignedDuration>) -> String {
    match delay {
        Some(delay) => format!("{}s", delay.as_secs().max(1)),
        None => "0".to_owned(),
    }
}

fn value_type(value_type: ValueType) -> u8 {
    match value_type {
        ValueType::Float => 0,
        ValueType::String => 1,
        ValueType::Log => 2,
        ValueType::Unsigned => 3,
        ValueType::Text => 4,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use muster_core::host::{Host, HostFacts};
    use muster_core::sample::Monitoring;
    use muster_core::{HostId, ItemId};
    use muster_proto::zabbix::wire::Payload;
    use uuid::Uuid;

    use super::*;

    fn item(number: u64, item_type: ItemType, delay: Option<i64>) -> Item {
        Item {
            id: ItemId::from_uuid(Uuid::nil()),
            number,
            host: HostId::from_uuid(Uuid::nil()),
            name: String::new(),
            key: format!("k[{number}]"),
            item_type,
            value_type: ValueType::Unsigned,
            unit: String::new(),
            delay: delay.map(SignedDuration::from_millis),
            allowed: Vec::new(),
        }
    }

    fn monitored(address: &str) -> Monitored {
        let items = ItemType::ALL.into_iter().zip(1..);
        Monitored {
            host: Host {
                id: HostId::from_uuid(Uuid::nil()),
                facts: HostFacts {
                    name: Some("h".into()),
                    ..HostFacts::default()
                },
                sources: Vec::new(),
                monitoring: Some(Monitoring {
                    number: 7,
                    proxy: None,
                    address: address.into(),
                    port: 10_050,
                }),
                created: Timestamp::UNIX_EPOCH,
            },
            items: items
                .map(|(item_type, n)| item(n, item_type, Some(2000)))
                .collect(),
        }
    }

    #[test]
    fn a_configuration_reads_back_at_a_proxy() {
        for (address, use_ip) in [("127.0.0.1", true), ("agent.example", false)] {
            let written = configuration(&[monitored(address)]);
            let text = written.encode().into_bytes();
            let payload = Payload::check(text, &muster_proto::zabbix::Limits::default()).unwrap();
            let read = Configuration::decode(&payload).unwrap();
            assert_eq!(read, written);
            assert_eq!(read.interfaces[0].use_ip, use_ip);
            let kinds: Vec<_> = read.items.iter().map(|item| item.kind).collect();
            assert_eq!(kinds, [0, 7, 10, 5, 3, 2]);
            let placed: Vec<_> = read.items.iter().map(|item| item.interfaceid).collect();
            assert_eq!(placed, [Some(7), None, Some(7), None, Some(7), None]);
        }
    }

    #[test]
    fn active_checks_are_the_active_items() {
        let monitored = monitored("127.0.0.1");
        let items = active_items(&monitored);
        assert_eq!(items.len(), 1);
        assert_eq!(
            (items[0].key.as_ref(), items[0].delay.as_ref()),
            ("k[2]", "2s")
        );
    }

    #[test]
    fn delays_are_whole_seconds() {
        assert_eq!(delay(None), "0");
        assert_eq!(delay(Some(SignedDuration::from_millis(100))), "1s");
        assert_eq!(delay(Some(SignedDuration::from_mins(5))), "300s");
    }
}
