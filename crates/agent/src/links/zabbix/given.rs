//! What a server gives to collect: a proxy's configuration, or the list of an active agent.

use muster_net::dial::Endpoint;
use muster_proto::zabbix::agent::ActiveCheck;
use muster_proto::zabbix::config::{Configuration, item_kind, simple_delay};

use super::sampler::{Check, How};

/// What an active agent of this build collects of its list.
pub(super) fn checks_of_list(list: Vec<ActiveCheck<'_>>) -> Vec<Check> {
    let checks = list.into_iter().filter_map(|check| {
        Some(Check {
            item: check.itemid?,
            key: check.key.into_owned(),
            delay: simple_delay(&check.delay),
            how: How::Here,
            asked: 0,
        })
    });
    checks.collect()
}

/// What a proxy of this build collects of a configuration.
pub(super) fn checks_of(tables: &Configuration) -> Vec<Check> {
    let monitored = |hostid: u64| {
        tables
            .hosts
            .iter()
            .any(|host| host.hostid == hostid && host.status == 0)
    };
    tables
        .items
        .iter()
        .filter(|item| item.status == 0 && monitored(item.hostid))
        .filter_map(|item| {
            let how = match item.kind {
                item_kind::AGENT => {
                    let interface = tables
                        .interfaces
                        .iter()
                        .find(|row| Some(row.interfaceid) == item.interfaceid);
                    let place = interface.and_then(|row| {
                        let host = if row.use_ip { &row.ip } else { &row.dns };
                        Some((
                            row.interfaceid,
                            Endpoint {
                                host: host.clone(),
                                port: row.port.parse().ok()?,
                            },
                        ))
                    });
                    match place {
                        Some((interface, endpoint)) => How::Agent {
                            interface,
                            endpoint,
                        },
                        None => How::Never("No interface of its host can be used.".into()),
                    }
                }
                // Sent by others, or made of other values.
                item_kind::AGENT_ACTIVE | item_kind::DEPENDENT | item_kind::TRAPPER => return None,
                _ => How::Never("This proxy polls Zabbix agents only.".into()),
            };
            Some(Check {
                item: item.itemid,
                key: item.key.clone(),
                delay: simple_delay(&item.delay),
                how,
                asked: 0,
            })
        })
        .collect()
}
