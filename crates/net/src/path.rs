//! What this machine can tell about the way to another: whether an address is its own, and whether
//! a large packet gets through.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::time::Duration;

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, ip_mtu, ipv6_mtu, set_ip_mtu_discover,
    set_ipv6_mtu_discover,
};
use tokio::net::UdpSocket;

use crate::clock::Clock;
use crate::egress::{Egress, EgressError};

/// Where probes go: nobody listens there, so that the far end says so.
const PROBE_PORT: u16 = 33_434;
/// Probes of one size before silence counts as "it got there".
const PROBES: u32 = 3;
/// How long each is waited for.
const PROBE_WAIT: Duration = Duration::from_millis(400);
/// Sizes tried: each answer lowers the size, and no path has that many narrow links.
const SIZES_MAX: u32 = 8;

/// Whether an address is one of this machine's: it can be bound.
pub fn is_own_address(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || StdUdpSocket::bind((address, 0)).is_ok() && !address.is_multicast()
}

/// What is known of the largest packet on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMtu {
    /// Somewhere it becomes smaller.
    Drops {
        /// Bytes of a packet on our own link.
        from: u32,
        /// Bytes that get through.
        to: u32,
    },
    /// The other end is this machine or on a link of it.
    Local,
    /// Packets of our own link's size get through, as far as can be told.
    Whole {
        /// Bytes of a packet.
        mtu: u32,
    },
}

/// Why nothing is known of a path.
#[derive(Debug, thiserror::Error)]
pub enum PathMtuError {
    /// The host is unknown, or none to go to for a peer.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// The socket failed: there is no way to the host, for one.
    #[error("it cannot be reached")]
    Io(#[from] io::Error),
}

/// Probes the path to a host that a peer named, with packets that may not be split. Takes up to a few
/// seconds.
///
/// # Errors
/// When the host is unknown, not permitted or cannot be reached at all.
pub async fn path_mtu(host: &str, egress: &Egress, clock: &Clock) -> Result<PathMtu, PathMtuError> {
    let far = egress.resolve(host, PROBE_PORT).await?;
    Ok(path_mtu_to(far, clock).await?)
}

async fn path_mtu_to(far: SocketAddr, clock: &Clock) -> io::Result<PathMtu> {
    if is_own_address(far.ip()) || on_link(far.ip()).await {
        return Ok(PathMtu::Local);
    }
    let any: SocketAddr = match far {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(far).await?;
    let headers = match far {
        SocketAddr::V4(_) => {
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?;
            28
        }
        SocketAddr::V6(_) => {
            set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?;
            48
        }
    };
    let mtu = || match far {
        SocketAddr::V4(_) => ip_mtu(&socket),
        SocketAddr::V6(_) => ipv6_mtu(&socket),
    };
    let link = mtu()?;
    let mut known = link;
    for _ in 0..SIZES_MAX {
        let payload = vec![0; known.saturating_sub(headers).min(65_000) as usize];
        probe(&socket, &payload, clock).await;
        let now = mtu()?;
        if now >= known {
            break;
        }
        known = now;
    }
    Ok(if known < link {
        PathMtu::Drops {
            from: link,
            to: known,
        }
    } else {
        PathMtu::Whole { mtu: link }
    })
}

/// Sends one size until somebody answers. What came back is read from the socket's MTU afterwards.
async fn probe(socket: &UdpSocket, payload: &[u8], clock: &Clock) {
    for _ in 0..PROBES {
        if socket.send(payload).await.is_err() {
            return;
        }
        let mut answer = [0; 16];
        tokio::select! {
            // A refused port comes as an error: the packet arrived. A message that it is too big
            // comes as one too.
            _ = socket.recv(&mut answer) => return,
            () = clock.sleep(PROBE_WAIT) => {}
        }
    }
}

/// Whether the kernel's routes lead to an address without a gateway.
async fn on_link(address: IpAddr) -> bool {
    let (file, reads): (_, fn(&str, IpAddr) -> bool) = match address {
        IpAddr::V4(_) => ("/proc/net/route", without_gateway_v4),
        IpAddr::V6(_) => ("/proc/net/ipv6_route", without_gateway_v6),
    };
    match tokio::fs::read_to_string(file).await {
        Ok(table) => reads(&table, address),
        Err(_) => false,
    }
}

/// Reads `/proc/net/route`: numbers in hexadecimal, as the processor stores them.
fn without_gateway_v4(table: &str, address: IpAddr) -> bool {
    let IpAddr::V4(address) = address else {
        return false;
    };
    let address = u32::from(address);
    let mut best: Option<(u32, bool)> = None;
    for line in table.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        let number = |at: usize| {
            let field = fields.get(at)?;
            u32::from_str_radix(field, 16)
                .ok()
                .map(|raw| u32::from_be_bytes(raw.to_ne_bytes()))
        };
        let (Some(net), Some(gateway), Some(mask)) = (number(1), number(2), number(7)) else {
            continue;
        };
        let bits = mask.count_ones();
        if address & mask == net && best.is_none_or(|(longest, _)| bits > longest) {
            best = Some((bits, gateway == 0));
        }
    }
    best.is_some_and(|(_, direct)| direct)
}

/// Reads `/proc/net/ipv6_route`.
fn without_gateway_v6(table: &str, address: IpAddr) -> bool {
    let IpAddr::V6(address) = address else {
        return false;
    };
    let address = u128::from(address);
    let mut best: Option<(u32, bool)> = None;
    for line in table.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let wide = |at: usize| u128::from_str_radix(fields.get(at)?, 16).ok();
        let bits = fields
            .get(1)
            .and_then(|bits| u32::from_str_radix(bits, 16).ok());
        // Routes of unreachable networks have the flag REJECT.
        let flags = fields
            .get(8)
            .and_then(|flags| u32::from_str_radix(flags, 16).ok());
        let (Some(net), Some(bits), Some(gateway)) = (wide(0), bits, wide(4)) else {
            continue;
        };
        if flags.unwrap_or(0) & 0x200 != 0 || bits > 128 {
            continue;
        }
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        if address & mask == net && best.is_none_or(|(longest, _)| bits > longest) {
            best = Some((bits, gateway == 0));
        }
    }
    best.is_some_and(|(_, direct)| direct)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_can_be_bound() {
        for own in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(is_own_address(own.parse().expect(own)), "{own}");
        }
        for other in ["192.0.2.1", "2001:db8::1", "224.0.0.1"] {
            assert!(!is_own_address(other.parse().expect(other)), "{other}");
        }
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_most_specific_route_decides() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0101630A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0000630A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            eth0\t0002630A\t0101630A\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let direct = |text: &str| without_gateway_v4(table, text.parse().expect(text));
        assert!(direct("10.99.1.7"));
        assert!(!direct("10.99.2.7"), "behind a gateway inside the network");
        assert!(!direct("192.0.2.1"));
        assert!(!without_gateway_v4(
            "",
            "10.0.0.1".parse().expect("address")
        ));
    }

    #[test]
    fn the_most_specific_ipv6_route_decides() {
        let zero = "0".repeat(32);
        let route = |net: &str, bits: &str, gateway: &str, flags: &str| {
            format!("{net} {bits} {zero} 00 {gateway} 00000400 00000001 00000000 {flags} eth0\n")
        };
        let gateway = "fe800000000000000000000000000001";
        let table = route("fd000000000000000000000000000000", "40", &zero, "00000001")
            + &route(&zero, "00", gateway, "00000003")
            + &route(&zero, "00", &zero, "00200200");
        let direct = |text: &str| without_gateway_v6(&table, text.parse().expect(text));
        assert!(direct("fd00::7"));
        assert!(!direct("fd00:0:0:1::7"));
        assert!(!direct("2001:db8::1"));
    }

    #[tokio::test]
    async fn this_machine_is_local_to_whoever_may_ask() {
        let clock = Clock::system();
        let loopback = Egress {
            loopback: true,
            ..Egress::default()
        };
        assert_eq!(
            path_mtu("127.0.0.1", &loopback, &clock)
                .await
                .expect("loopback"),
            PathMtu::Local
        );
        let refused = path_mtu("127.0.0.1", &Egress::default(), &clock).await;
        assert!(
            matches!(
                refused,
                Err(PathMtuError::Egress(EgressError::Refused { .. }))
            ),
            "{refused:?}"
        );
    }
}
