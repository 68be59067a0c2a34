//! How often an address may show wrong credentials (threat model, section 2).
//!
//! Only failures are counted: a right credential always passes, so that nobody can lock another out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong credentials of one address in [`WINDOW`] before it has to wait.
pub(crate) const FAILURES_MAX: u32 = 10;
/// How long failures count together.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered; beyond them the oldest is forgotten.
const ADDRESSES_MAX: usize = 10_000;

/// Wrong credentials, by address.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    by_address: Mutex<BTreeMap<IpAddr, Count>>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    failures: u32,
}

impl Attempts {
    /// Counts one failure; the seconds to wait when there were too many.
    pub(crate) fn failed(&self, address: IpAddr, now: Instant) -> Option<u32> {
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
