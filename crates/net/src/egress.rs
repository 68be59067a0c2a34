//! Where this server may go for an address that a peer named.
//!
//! A peer must not make the server talk to what only the server can reach (threat model, section 5):
//! a name is resolved once, the addresses it leads to are judged, and what follows goes to one that
//! was permitted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// Which addresses are permitted: public ones, and those the configuration adds.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    /// Networks that are permitted whatever else is said.
    pub allow: Vec<IpNet>,
    /// Whether loopback is: while all listeners are on loopback, nobody from elsewhere asks.
    pub loopback: bool,
}

/// Why a peer's address is not used.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The address is not one to go to for a peer.
    #[error("{address} is {what}, which is not in egress.allow")]
    Refused {
        /// The address.
        address: IpAddr,
        /// What kind of address.
        what: &'static str,
    },
    /// The name leads nowhere.
    #[error("the name {0} was not found")]
    Unknown(String),
}

impl Egress {
    /// Resolves a host once, to the first address that is permitted.
    ///
    /// # Errors
    /// [`EgressError::Refused`] with the last address when the name leads to none that is permitted.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, EgressError> {
        let unknown = || EgressError::Unknown(host.to_owned());
        let found = tokio::net::lookup_host((host, port)).await;
        let mut refused = unknown();
        for address in found.map_err(|_| unknown())? {
            match self.check(address.ip()) {
                Ok(()) => return Ok(address),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// Whether one address is permitted.
    ///
    /// # Errors
    /// What stands against it.
    pub fn check(&self, address: IpAddr) -> Result<(), EgressError> {
        let address = address.to_canonical();
        if self.allow.iter().any(|network| network.contains(&address)) {
            return Ok(());
        }
        match kind(address) {
            None => Ok(()),
            Some("loopback") if self.loopback => Ok(()),
            Some(what) => Err(EgressError::Refused { address, what }),
        }
    }
}

/// The kind of an address that is not a public one.
fn kind(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            if address.is_loopback() {
                Some("loopback")
            } else if address.is_private() || (a == 100 && b & 0xc0 == 64) {
                Some("private")
            } else if address.is_link_local() {
                Some("link-local")
            } else if address.is_multicast() {
                Some("multicast")
            } else if a == 0 || a >= 240 || address == Ipv4Addr::BROADCAST {
                Some("reserved")
            } else {
                None
            }
        }
        IpAddr::V6(address) => {
            let [first, second, ..] = address.segments();
            if address.is_loopback() {
                Some("loopback")
            } else if address.is_multicast() {
                Some("multicast")
            } else if address == Ipv6Addr::UNSPECIFIED {
                Some("reserved")
            } else if first & 0xffc0 == 0xfe80 {
                Some("link-local")
            } else if first & 0xfe00 == 0xfc00 {
                Some("private")
            } else if (first == 0x64 && second == 0xff9b) || first == 0x2002 {
                // These hold an IPv4 address that the checks above would not see.
                Some("a translated address")
            } else {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(egress: &Egress, address: &str) -> Option<&'static str> {
        match egress.check(address.parse().expect(address)) {
            Ok(()) => None,
            Err(EgressError::Refused { what, .. }) => Some(what),
            Err(EgressError::Unknown(_)) => panic!("an address is no name"),
        }
    }

    #[test]
    fn only_public_addresses_are_permitted() {
        let egress = Egress::default();
        for public in [
            "192.0.2.1",
            "8.8.8.8",
            "100.63.0.1",
            "2001:db8::1",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(judge(&egress, public), None, "{public}");
        }
        for (inside, what) in [
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("10.0.0.1", "private"),
            ("172.31.0.1", "private"),
            ("192.168.1.1", "private"),
            ("100.64.0.1", "private"),
            ("::ffff:10.0.0.1", "private"),
            ("fd00::1", "private"),
            ("169.254.169.254", "link-local"),
            ("fe80::1", "link-local"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("0.0.0.0", "reserved"),
            ("255.255.255.255", "reserved"),
            ("::", "reserved"),
            ("64:ff9b::7f00:1", "a translated address"),
            ("2002:7f00:1::", "a translated address"),
        ] {
            assert_eq!(judge(&egress, inside), Some(what), "{inside}");
        }
    }

    #[test]
    fn what_is_allowed_is_permitted() {
        let egress = Egress {
            allow: vec!["10.0.0.0/8".parse().expect("network")],
            loopback: true,
        };
        assert_eq!(judge(&egress, "10.9.9.9"), None);
        assert_eq!(judge(&egress, "::ffff:10.9.9.9"), None);
        assert_eq!(judge(&egress, "127.0.0.1"), None);
        assert_eq!(judge(&egress, "192.168.0.1"), Some("private"));
    }

    #[tokio::test]
    async fn names_are_judged_by_what_they_lead_to() {
        let none = Egress::default();
        let text = |outcome: Result<SocketAddr, EgressError>| match outcome {
            Ok(found) => panic!("{found:?}"),
            Err(error) => error.to_string(),
        };
        let refused = text(none.resolve("localhost", 443).await);
        assert!(
            refused.ends_with("is loopback, which is not in egress.allow"),
            "{refused}"
        );
        assert_eq!(
            text(none.resolve("no.such.host.invalid", 443).await),
            "the name no.such.host.invalid was not found"
        );
        let local = Egress {
            loopback: true,
            ..Egress::default()
        };
        let found = local.resolve("localhost", 443).await.expect("localhost");
        assert!(found.ip().is_loopback());
    }
}
