//! What the handshake and `status` say of the machine.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde_json::{Value, json};

/// The MAC address of the interface that routes to the server, lower case with colons (teeth
/// contract, section 6). Where that interface has none (loopback), of the one with the default
/// route, else of the first that has one.
#[must_use]
pub fn primary_mac(root: &Path, server: Option<IpAddr>) -> Option<String> {
    let routes = routes(root);
    let towards = |address: Ipv4Addr| {
        let address = u32::from(address);
        routes
            .iter()
            .filter(move |route| address & route.mask == route.network)
            .max_by_key(|route| route.mask)
            .map(|route| route.interface.clone())
    };
    let server = match server {
        Some(IpAddr::V4(address)) => towards(address),
        Some(IpAddr::V6(_)) | None => None,
    };
    let default = towards(Ipv4Addr::UNSPECIFIED);
    let routed = server
        .into_iter()
        .chain(default)
        .find_map(|name| mac(root, &name));
    routed.or_else(|| interfaces(root).iter().find_map(|name| mac(root, name)))
}

/// Changes with each boot of the machine.
pub(super) fn boot_id(root: &Path) -> Option<String> {
    text(root, "proc/sys/kernel/random/boot_id")
}

/// A few facts for the operator who asks how the agent is. Blocks on the file system.
pub(super) fn summary(root: &Path) -> Value {
    let cpus = text(root, "proc/cpuinfo").map(|info| {
        info.lines()
            .filter(|line| line.starts_with("processor"))
            .count()
    });
    let memory_kib = text(root, "proc/meminfo").and_then(|info| {
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    json!({
        "kernel": text(root, "proc/sys/kernel/osrelease"),
        "cpus": cpus,
        "memory_bytes": memory_kib.and_then(|kib| kib.checked_mul(1024)),
        "vendor": text(root, "sys/class/dmi/id/sys_vendor"),
        "product": text(root, "sys/class/dmi/id/product_name"),
        "serial": text(root, "sys/class/dmi/id/product_serial"),
    })
}

/// Seconds since the machine was started.
pub(super) fn host_uptime(root: &Path) -> Option<f64> {
    text(root, "proc/uptime")?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()
}

struct Route {
    interface: String,
    network: u32,
    mask: u32,
}

/// The IPv4 routes of the kernel: interface, destination and mask in hexadecimal, in host order of
/// a little-endian machine.
fn routes(root: &Path) -> Vec<Route> {
    let table = text(root, "proc/net/route").unwrap_or_default();
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let hex = |at: usize| {
                u32::from_str_radix(fields.get(at)?, 16)
                    .ok()
                    .map(u32::swap_bytes)
            };
            Some(Route {
                interface: (*fields.first()?).to_owned(),
                network: hex(1)?,
                mask: hex(7)?,
            })
        })
        .collect()
}

fn interfaces(root: &Path) -> Vec<String> {
    let Ok(listing) = fs::read_dir(root.join("sys/class/net")) else {
        return Vec::new();
    };
    let mut names: Vec<String> = listing
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn mac(root: &Path, interface: &str) -> Option<String> {
    let mac = text(root, &format!("sys/class/net/{interface}/address"))?.to_ascii_lowercase();
    (mac.len() == 17 && mac != "00:00:00:00:00:00").then_some(mac)
}

fn text(root: &Path, path: &str) -> Option<String> {
    let text = fs::read_to_string(root.join(path)).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_interface_that_routes_to_the_server_names_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, content: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        put("sys/class/net/lo/address", "00:00:00:00:00:00\n");
        put("sys/class/net/eth0/address", "52:54:00:AA:00:01\n");
        put("sys/class/net/eth1/address", "52:54:00:aa:00:02\n");
        put("sys/class/net/aaa0/address", "52:54:00:aa:00:03\n");
        let at = |server: &str| primary_mac(dir.path(), server.parse().ok());
        assert_eq!(
            at("10.1.0.9").as_deref(),
            Some("52:54:00:aa:00:03"),
            "no routes: the first"
        );
        put(
            "proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
             eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth1\t0000010A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n",
        );
        assert_eq!(at("10.1.0.9").as_deref(), Some("52:54:00:aa:00:02"));
        assert_eq!(at("192.0.2.1").as_deref(), Some("52:54:00:aa:00:01"));
        assert_eq!(at("127.0.0.1").as_deref(), Some("52:54:00:aa:00:01"));
        assert_eq!(
            primary_mac(dir.path(), None).as_deref(),
            Some("52:54:00:aa:00:01")
        );
    }
}
