//! What an HTTP agent shows to be believed, and how often it may be wrong.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use muster_core::credential::Secret;

use crate::control::Proof;

/// Wrong credentials of one address in [`WINDOW`] before it has to wait (threat model, section 2).
const FAILURES_MAX: u32 = 10;
/// How long failures count.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered; beyond them the oldest is forgotten.
const ADDRESSES_MAX: usize = 10_000;
/// Longest credential looked at.
const SECRET_BYTES_MAX: usize = 512;

/// An enrolment key as `Bearer`, or as the password of `Basic`; the user name says nothing.
pub(super) fn proof(headers: &HeaderMap) -> Proof {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Proof::None;
    };
    let Some((scheme, rest)) = value.to_str().ok().and_then(|text| text.split_once(' ')) else {
        return Proof::None;
    };
    let rest = rest.trim();
    let secret = if scheme.eq_ignore_ascii_case("bearer") {
        Some(rest.to_owned())
    } else if scheme.eq_ignore_ascii_case("basic") {
        STANDARD
            .decode(rest)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|pair| {
                pair.split_once(':')
                    .map(|(_, password)| password.to_owned())
            })
    } else {
        None
    };
    match secret {
        Some(secret) if !secret.is_empty() && secret.len() <= SECRET_BYTES_MAX => {
            Proof::Key(Secret::new(secret))
        }
        Some(_) | None => Proof::None,
    }
}

/// Wrong credentials, by address.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    by_address: Mutex<BTreeMap<IpAddr, Count>>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    failures: u32,
}

impl Attempts {
    /// Counts one failure; the seconds to wait when there were too many.
    pub(super) fn failed(&self, address: IpAddr, now: Instant) -> Option<u32> {
        let mut counts = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= ADDRESSES_MAX && !counts.contains_key(&address) {
            let oldest = counts
                .iter()
                .min_by_key(|(_, count)| count.since)
                .map(|(ip, _)| *ip);
            oldest.map(|ip| counts.remove(&ip));
        }
        let count = counts.entry(address).or_insert(Count {
            since: now,
            failures: 0,
        });
        if now.saturating_duration_since(count.since) >= WINDOW {
            *count = Count {
                since: now,
                failures: 0,
            };
        }
        count.failures = count.failures.saturating_add(1);
        if count.failures <= FAILURES_MAX {
            return None;
        }
        let left = WINDOW.saturating_sub(now.saturating_duration_since(count.since));
        Some(u32::try_from(left.as_secs()).unwrap_or(60).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().expect("a header"));
        match proof(&headers) {
            Proof::Key(secret) => Some(secret.expose().to_owned()),
            Proof::None => None,
        }
    }

    #[test]
    fn keys_in_every_form() {
        assert_eq!(shown("Bearer mek_1").as_deref(), Some("mek_1"));
        assert_eq!(shown("bearer  mek_1").as_deref(), Some("mek_1"));
        // "agent:mek_1"
        assert_eq!(shown("Basic YWdlbnQ6bWVrXzE=").as_deref(), Some("mek_1"));
        for none in [
            "Bearer ",
            "Basic !!",
            "Basic YWdlbnQ=",
            "Digest x",
            "Bearer",
        ] {
            assert_eq!(shown(none), None, "{none}");
        }
        assert_eq!(shown(&format!("Bearer {}", "x".repeat(600))), None);
    }

    #[tokio::test(start_paused = true)]
    async fn ten_wrong_ones_a_minute() {
        let attempts = Attempts::default();
        let address: IpAddr = "10.0.0.1".parse().expect("an address");
        let start = tokio::time::Instant::now().into_std();
        for _ in 0..10 {
            assert_eq!(attempts.failed(address, start), None);
        }
        assert_eq!(attempts.failed(address, start), Some(60));
        let other: IpAddr = "10.0.0.2".parse().expect("an address");
        assert_eq!(attempts.failed(other, start), None);
        assert_eq!(
            attempts.failed(address, start + Duration::from_secs(45)),
            Some(15)
        );
        assert_eq!(attempts.failed(address, start + WINDOW), None);
    }
}
