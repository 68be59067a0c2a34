//! How often wrong credentials may be shown (threat model, section 2).
//!
//! Only failures are counted: a right credential always passes, so that nobody can lock another out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong credentials from one address in [`WINDOW`] before it has to wait.
pub(crate) const FAILURES_MAX: u32 = 10;
/// Wrong credentials for one account, from wherever, before who tries has to wait.
pub(crate) const ACCOUNT_FAILURES_MAX: u32 = 5;
/// How long failures count together.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses, and accounts, remembered; beyond them the oldest is forgotten.
const REMEMBERED_MAX: usize = 10_000;

/// Wrong credentials, by address and by account.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    by_address: BTreeMap<IpAddr, Count>,
    by_account: BTreeMap<String, Count>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    failures: u32,
}

impl Attempts {
    /// Counts one failure of an address, and of the account it tried where the credential names one;
    /// the seconds to wait when there were too many of either.
    pub(crate) fn failed(
        &self,
        address: IpAddr,
        account: Option<&str>,
        now: Instant,
    ) -> Option<u32> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = count(&mut counts.by_address, address, FAILURES_MAX, now);
        let of_account = account.and_then(|account| {
            let account = account.to_owned();
            count(&mut counts.by_account, account, ACCOUNT_FAILURES_MAX, now)
        });
        of_address.max(of_account)
    }
}

fn count<K: Ord + Clone>(
    counts: &mut BTreeMap<K, Count>,
    key: K,
    max: u32,
    now: Instant,
) -> Option<u32> {
    if counts.len() >= REMEMBERED_MAX && !counts.contains_key(&key) {
        let oldest = counts.iter().min_by_key(|(_, count)| count.since);
        let oldest = oldest.map(|(key, _)| key.clone());
        oldest.map(|key| counts.remove(&key));
    }
    let fresh = Count {
        since: now,
        failures: 0,
    };
    let count = counts.entry(key).or_insert(fresh);
    if now.saturating_duration_since(count.since) >= WINDOW {
        *count = fresh;
    }
    count.failures = count.failures.saturating_add(1);
    if count.failures <= max {
        return None;
    }
    let left = WINDOW.saturating_sub(now.saturating_duration_since(count.since));
    Some(u32::try_from(left.as_secs()).unwrap_or(60).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[tokio::test(start_paused = true)]
    async fn ten_wrong_ones_a_minute_from_an_address() {
        let attempts = Attempts::default();
        let address: IpAddr = "10.0.0.1".parse().expect("an address");
        let start = start();
        for _ in 0..10 {
            assert_eq!(attempts.failed(address, None, start), None);
        }
        assert_eq!(attempts.failed(address, None, start), Some(60));
        let other: IpAddr = "10.0.0.2".parse().expect("an address");
        assert_eq!(attempts.failed(other, None, start), None);
        let later = start + Duration::from_secs(45);
        assert_eq!(attempts.failed(address, None, later), Some(15));
        assert_eq!(attempts.failed(address, None, start + WINDOW), None);
    }

    #[tokio::test(start_paused = true)]
    async fn five_for_an_account_from_wherever() {
        let attempts = Attempts::default();
        let start = start();
        let from = |n: u8| IpAddr::from([10, 0, 0, n]);
        for n in 0..5 {
            assert_eq!(attempts.failed(from(n), Some("lab-7"), start), None);
        }
        assert_eq!(attempts.failed(from(5), Some("lab-7"), start), Some(60));
        assert_eq!(attempts.failed(from(5), Some("lab-8"), start), None);
        let later = start + WINDOW;
        assert_eq!(attempts.failed(from(6), Some("lab-7"), later), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_has_a_bound() {
        let attempts = Attempts::default();
        let start = start();
        for n in 0..=u32::try_from(REMEMBERED_MAX).expect("small") {
            let address = IpAddr::from(n.to_be_bytes());
            attempts.failed(address, Some(&n.to_string()), start);
        }
        let counts = attempts.counts.lock().expect("whole");
        assert_eq!(counts.by_address.len(), REMEMBERED_MAX);
        assert_eq!(counts.by_account.len(), REMEMBERED_MAX);
    }
}
