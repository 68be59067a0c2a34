//! Requests to addresses that a peer named: participants, archivers, result URLs.
//!
//! A peer must not make this server talk to what only this server can reach (threat model, section 5).
//! A name is resolved once and the connection goes to an address that was checked; every redirect is
//! checked again; no credentials travel along.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, LOCATION, PROXY_AUTHORIZATION};
use http::{Method, Request, Response, Uri};
use ipnet::IpNet;

use super::client::{ClientError, ClientLimits, builder, exchange};
use crate::tls::Trust;

/// Where the server may dial for what peers name.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    /// Networks that are allowed whatever else is said.
    pub allow: Vec<IpNet>,
    /// Whether loopback is allowed: while all listeners are on loopback, nobody from elsewhere asks.
    pub loopback: bool,
    /// Our own listeners, which are never dialled for a peer unless allowed by name.
    pub own: BTreeSet<SocketAddr>,
}

/// Why a URL of a peer is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressRefused {
    /// The address is not one the server may dial.
    #[error("{address} is {what}, which is not in egress.allow")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What kind of address.
        what: &'static str,
    },
    /// The URL names no host.
    #[error("the URL names no host")]
    NoHost,
    /// Too many redirects.
    #[error("more than {0} redirects")]
    Redirects(usize),
    /// A redirect that cannot be read, or leads from `https` to `http`.
    #[error("a redirect leads to {0:?}")]
    RedirectTo(String),
    /// Neither `http` nor `https`.
    #[error("the scheme {0:?} is neither http nor https")]
    Scheme(String),
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The exchange failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The URL is not followed.
    #[error(transparent)]
    Refused(#[from] EgressRefused),
    /// The name is unknown.
    #[error("the name {0} was not found")]
    Unknown(String),
}

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 3;

impl Egress {
    /// Whether the server may dial `address` for a peer.
    ///
    /// # Errors
    /// What stands against it.
    pub fn check(&self, address: SocketAddr) -> Result<(), EgressRefused> {
        let ip = address.ip().to_canonical();
        if self.allow.iter().any(|network| network.contains(&ip)) {
            return Ok(());
        }
        let refused = |what| Err(EgressRefused::Address { address, what });
        let own = |own: &SocketAddr| {
            own.port() == address.port() && (own.ip() == ip || own.ip().is_unspecified())
        };
        if self.own.iter().any(own) && !ip.is_loopback() {
            return refused("one of this server's own listeners");
        }
        match kind(ip) {
            None => Ok(()),
            Some("loopback") if self.loopback => Ok(()),
            Some(what) => refused(what),
        }
    }
}

/// The kind of an address that is not a public one.
fn kind(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            if ip.is_loopback() {
                Some("loopback")
            } else if ip.is_private() || (a == 100 && b & 0xc0 == 64) {
                Some("private")
            } else if ip.is_link_local() {
                Some("link-local")
            } else if ip.is_multicast() {
                Some("multicast")
            } else if a == 0 || a >= 240 || ip == Ipv4Addr::BROADCAST {
                Some("reserved")
            } else {
                None
            }
        }
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            if ip.is_loopback() {
                Some("loopback")
            } else if ip.is_multicast() {
                Some("multicast")
            } else if ip == Ipv6Addr::UNSPECIFIED {
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

/// Follows URLs of peers within an [`Egress`].
#[derive(Clone, Debug)]
pub struct EgressClient {
    egress: Arc<Egress>,
    trust: Trust,
    limits: ClientLimits,
}

impl EgressClient {
    /// A client with the bounds of the threat model, section 5: 10 s and 4 MiB.
    pub fn new(egress: Egress, trust: Trust) -> Self {
        let limits = ClientLimits {
            connect: Duration::from_secs(10),
            whole: Duration::from_secs(10),
            body_bytes: 4 << 20,
        };
        Self {
            egress: Arc::new(egress),
            trust,
            limits,
        }
    }

    /// The same with other bounds, where a wire's contract names its own.
    #[must_use]
    pub fn with_limits(self, limits: ClientLimits) -> Self {
        Self { limits, ..self }
    }

    /// Sends `request` and follows up to three redirects.
    ///
    /// # Errors
    /// See [`EgressError`].
    pub async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, EgressError> {
        let mut redirects = 0;
        loop {
            let uri = request.uri().clone();
            let method = request.method().clone();
            let again = request.clone();
            let response = self.send_once(&uri, request).await?;
            let Some(target) = redirect(&response) else {
                return Ok(response);
            };
            redirects += 1;
            if redirects > REDIRECTS_MAX {
                return Err(EgressRefused::Redirects(REDIRECTS_MAX).into());
            }
            let next = resolved(&uri, target)
                .filter(|next| {
                    uri.scheme_str() != Some("https") || next.scheme_str() == Some("https")
                })
                .ok_or_else(|| EgressRefused::RedirectTo(target.chars().take(256).collect()))?;
            request = again;
            if next.authority() != uri.authority() {
                for credential in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION] {
                    request.headers_mut().remove(credential);
                }
            }
            if response.status().as_u16() == 303 && method != Method::HEAD {
                *request.method_mut() = Method::GET;
                *request.body_mut() = Bytes::new();
            }
            *request.uri_mut() = next;
        }
    }

    async fn send_once(
        &self,
        uri: &Uri,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, EgressError> {
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            other => {
                return Err(EgressRefused::Scheme(other.unwrap_or_default().to_owned()).into());
            }
        };
        let host = uri.host().ok_or(EgressRefused::NoHost)?;
        let port = uri.port_u16().unwrap_or(default_port);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = tokio::net::lookup_host((bare, port)).await;
        let found: Vec<SocketAddr> = found
            .map_err(|_| EgressError::Unknown(host.to_owned()))?
            .collect();
        let mut refused = None;
        let mut permitted = Vec::new();
        for address in found {
            match self.egress.check(address) {
                Ok(()) => permitted.push(address),
                Err(error) => refused = Some(error),
            }
        }
        if permitted.is_empty() {
            return Err(match refused {
                Some(refused) => refused.into(),
                None => EgressError::Unknown(host.to_owned()),
            });
        }
        // A client for each request, so that the name cannot come to mean another address later.
        let client = builder(&self.trust, self.limits)?
            .resolve_to_addrs(bare, &permitted)
            .pool_max_idle_per_host(0)
            .build()
            .map_err(ClientError::Build)?;
        Ok(exchange(&client, request, self.limits).await?)
    }
}

fn redirect(response: &Response<Bytes>) -> Option<&str> {
    let follows = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    follows
        .then(|| response.headers().get(LOCATION)?.to_str().ok())
        .flatten()
}

/// The target of a redirect: an absolute URL, or an absolute path on the same host.
fn resolved(from: &Uri, target: &str) -> Option<Uri> {
    let target: Uri = target.parse().ok()?;
    if target.scheme().is_some() {
        return Some(target);
    }
    let path = target
        .path_and_query()
        .filter(|path| path.as_str().starts_with('/'))?;
    Uri::builder()
        .scheme(from.scheme()?.clone())
        .authority(from.authority()?.clone())
        .path_and_query(path.clone())
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        let ip: IpAddr = text.parse().unwrap();
        SocketAddr::new(ip, 80)
    }

    #[test]
    fn only_public_addresses_are_dialled() {
        let egress = Egress::default();
        for public in [
            "192.0.2.1",
            "8.8.8.8",
            "100.63.0.1",
            "2001:db8::1",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(egress.check(address(public)), Ok(()), "{public}");
        }
        for (inside, what) in [
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("10.0.0.1", "private"),
            ("172.31.0.1", "private"),
            ("192.168.1.1", "private"),
            ("100.64.0.1", "private"),
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
            let error = egress.check(address(inside)).unwrap_err();
            let EgressRefused::Address { what: found, .. } = error else {
                panic!("{error:?}")
            };
            assert_eq!(found, what, "{inside}");
        }
    }

    #[test]
    fn what_is_allowed_is_allowed() {
        let egress = Egress {
            allow: vec!["10.0.0.0/8".parse().unwrap()],
            loopback: true,
            own: BTreeSet::from(["192.0.2.7:80".parse().unwrap()]),
        };
        assert_eq!(egress.check(address("10.9.9.9")), Ok(()));
        assert_eq!(egress.check(address("127.0.0.1")), Ok(()));
        assert!(egress.check(address("192.168.0.1")).is_err());
        assert!(
            egress.check(address("192.0.2.7")).is_err(),
            "our own listener"
        );
        assert!(
            egress
                .check(SocketAddr::new(address("192.0.2.7").ip(), 81))
                .is_ok()
        );
        let everywhere = Egress {
            own: BTreeSet::from(["0.0.0.0:80".parse().unwrap()]),
            ..Egress::default()
        };
        assert!(everywhere.check(address("192.0.2.9")).is_err());
    }

    #[test]
    fn redirects_resolve_on_the_same_host_only_by_absolute_path() {
        let from: Uri = "https://a:1/x?y".parse().unwrap();
        for (target, expected) in [
            ("http://b/z", Some("http://b/z")),
            ("/z?q", Some("https://a:1/z?q")),
            ("z", None),
            ("", None),
            ("//b/z\0", None),
        ] {
            let found = resolved(&from, target).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), expected, "{target}");
        }
    }
}
