//! Section `networks`: one entry for each address, entries of one interface share its facts.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde_json::Value;

use super::tree::{Entry, Tree};

/// An address of an interface, as the system lists it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The interface.
    pub interface: String,
    /// The address with the length of its network's prefix.
    pub network: IpNet,
}

/// Addresses of this machine's interfaces.
#[must_use]
pub fn system_addresses() -> Vec<InterfaceAddress> {
    let Ok(list) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let ip = |storage: &nix::sys::socket::SockaddrStorage| {
        let v4 = storage
            .as_sockaddr_in()
            .map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| {
            storage
                .as_sockaddr_in6()
                .map(|address| IpAddr::V6(address.ip()))
        })
    };
    let mut found = list
        .filter_map(|entry| {
            let address = ip(entry.address.as_ref()?)?;
            let mask = ip(entry.netmask.as_ref()?)?;
            Some(InterfaceAddress {
                interface: entry.interface_name,
                network: IpNet::with_netmask(address, mask).ok()?,
            })
        })
        .collect::<Vec<_>>();
    found.sort();
    found
}

pub(super) fn networks(tree: Tree<'_>, addresses: &[InterfaceAddress]) -> Value {
    let gateways = gateways(tree);
    let mut entries = Vec::new();
    for name in tree.names("sys/class/net") {
        if !tree.exists(&format!("sys/class/net/{name}/type")) {
            continue;
        }
        let own = addresses.iter().filter(|address| address.interface == name);
        let own = own.map(|address| address.network).collect::<Vec<_>>();
        if own.is_empty() {
            entries.push(interface(tree, &name).done());
        }
        for network in own {
            let mut entry = interface(tree, &name);
            let (address, mask) = (network.addr().to_string(), network.netmask().to_string());
            let subnet = network.network().to_string();
            match network {
                IpNet::V4(_) => {
                    let gateway = gateways.iter().find(|(of, _)| *of == name);
                    entry
                        .put("ipaddress", address)
                        .put("ipmask", mask)
                        .put("ipsubnet", subnet)
                        .maybe("ipgateway", gateway.map(|(_, gateway)| gateway.to_string()));
                }
                IpNet::V6(_) => {
                    entry
                        .put("ipaddress6", address)
                        .put("ipmask6", mask)
                        .put("ipsubnet6", subnet);
                }
            }
            entries.push(entry.done());
        }
    }
    Value::Array(entries)
}

fn interface(tree: Tree<'_>, name: &str) -> Entry {
    let base = format!("sys/class/net/{name}");
    let at = |file: &str| format!("{base}/{file}");
    let kind = if tree.exists(&at("wireless")) || tree.exists(&at("phy80211")) {
        Some("wifi")
    } else if tree.exists(&at("bridge")) {
        Some("bridge")
    } else if tree.exists(&at("bonding")) {
        Some("aggregate")
    } else {
        match tree.number(&at("type")) {
            Some(1) => Some("ethernet"),
            Some(32) => Some("infiniband"),
            Some(512) => Some("dialup"),
            Some(772) => Some("loopback"),
            Some(_) | None => None,
        }
    };
    let flags = tree.value(&at("flags")).unwrap_or_default();
    let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
    let slaves = tree.value(&at("bonding/slaves")).or_else(|| {
        let ports = tree.names(&at("brif"));
        (!ports.is_empty()).then(|| ports.join(" "))
    });
    let mut entry = Entry::default();
    entry
        .put("description", name)
        .maybe("type", kind)
        .put("status", if flags & 1 == 1 { "up" } else { "down" })
        .maybe(
            "mac",
            tree.value(&at("address")).map(|mac| mac.to_lowercase()),
        )
        .maybe("mtu", tree.number(&at("mtu")))
        .maybe(
            "speed",
            tree.number(&at("speed"))
                .filter(|speed| *speed > 0)
                .map(|s| s.to_string()),
        )
        .put("virtualdev", !tree.exists(&at("device")))
        .maybe("driver", tree.link_name(&at("device/driver")))
        .maybe("slaves", slaves.map(|slaves| slaves.replace(' ', ",")));
    let slot = tree
        .link_name(&at("device"))
        .filter(|slot| slot.contains(':'));
    entry.maybe("pcislot", slot);
    entry
}

/// Default gateway of each interface that has one.
fn gateways(tree: Tree<'_>) -> Vec<(String, Ipv4Addr)> {
    let routes = tree.text("proc/net/route").unwrap_or_default();
    let found = routes.lines().skip(1).filter_map(|line| {
        let words = line.split_whitespace().collect::<Vec<_>>();
        let gateway = u32::from_str_radix(words.get(2)?, 16).ok()?;
        let is_default = *words.get(1)? == "00000000" && gateway != 0;
        is_default.then(|| (words[0].to_owned(), Ipv4Addr::from(gateway.swap_bytes())))
    });
    found.collect()
}
