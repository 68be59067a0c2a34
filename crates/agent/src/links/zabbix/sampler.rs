//! When each item is collected: the half of the link that the server never makes wait.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use muster_net::Clock;
use muster_net::dial::Endpoint;
use muster_proto::zabbix::config::next_poll;
use muster_store::spool::Spool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::chain;
use super::collect::Collector;
use super::stock::{Kept, spool_values};

/// One item to be collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) item: u64,
    pub(super) key: String,
    /// Seconds; `None` for an update interval that cannot be read.
    pub(super) delay: Option<u64>,
    pub(super) how: How,
    /// Counts requests to collect it at once: a check that differs begins anew.
    pub(super) asked: u32,
}

/// Where its value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// From the Zabbix agent there.
    Agent { interface: u64, endpoint: Endpoint },
    /// From this machine.
    Here,
    /// From nowhere, and why.
    Never(String),
}

/// How long an item that has no usable interval rests between two words about it.
const UNUSABLE_DELAY: u64 = 600;

/// Which items are due when, in whole seconds of the wall clock.
#[derive(Debug, Default)]
pub(super) struct Plan {
    checks: BTreeMap<u64, (Check, i64)>,
}

impl Plan {
    /// Takes a new list. What stays keeps its time, what is new or changed begins within the first
    /// second.
    pub(super) fn update(&mut self, checks: Vec<Check>, now: i64) {
        let mut old = std::mem::take(&mut self.checks);
        for check in checks {
            let next = match old.remove(&check.item) {
                Some((known, next)) if known == check => next,
                Some(_) | None => now,
            };
            self.checks.insert(check.item, (check, next));
        }
    }

    /// Takes what is due. Seconds that were missed are not made up for.
    pub(super) fn due(&mut self, now: i64) -> Vec<Check> {
        let mut due = Vec::new();
        for (check, next) in self.checks.values_mut() {
            if *next > now {
                continue;
            }
            due.push(check.clone());
            *next = next_poll(check.item, check.delay.unwrap_or(UNUSABLE_DELAY), now);
        }
        due
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<i64> {
        self.checks.values().map(|(_, next)| *next).min()
    }
}

/// Collects what is due into the spool, until `cancel`.
pub(super) async fn run(
    spool: &Spool,
    queue: &str,
    mut given: watch::Receiver<Vec<Check>>,
    collector: Collector,
    clock: &Clock,
    cancel: &CancellationToken,
) {
    let mut plan = Plan::default();
    // Values that could not be spooled; tried again with the next ones.
    let mut waiting: Vec<Kept> = Vec::new();
    loop {
        let now = clock.now();
        let wait = match plan.next() {
            Some(next) => until(next, now),
            None => Duration::from_secs(1),
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            changed = given.changed() => {
                if changed.is_err() {
                    break;
                }
                let checks = given.borrow_and_update().clone();
                plan.update(checks, clock.now().as_second());
            }
            () = clock.sleep(wait.min(Duration::from_secs(1))) => {
                collector.tick();
                let due = plan.due(clock.now().as_second());
                if due.is_empty() && waiting.is_empty() {
                    continue;
                }
                waiting.extend(collector.collect(due).await);
                keep(spool, queue, &mut waiting, clock).await;
            }
        }
    }
    keep(spool, queue, &mut waiting, clock).await;
}

/// Values held in memory while the spool cannot be written.
const WAITING_MAX: usize = 100_000;

async fn keep(spool: &Spool, queue: &str, waiting: &mut Vec<Kept>, clock: &Clock) {
    if waiting.is_empty() {
        return;
    }
    match spool_values(spool, queue, waiting, clock.now()).await {
        Ok(()) => waiting.clear(),
        Err(error) => {
            tracing::error!("values cannot be spooled: {}", chain(&error));
            let over = waiting.len().saturating_sub(WAITING_MAX);
            waiting.drain(..over);
        }
    }
}

/// From `now` to the beginning of a second.
fn until(second: i64, now: Timestamp) -> Duration {
    match Timestamp::from_second(second) {
        Ok(at) => Duration::try_from(at.duration_since(now)).unwrap_or_default(),
        Err(_) => Duration::from_secs(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(item: u64, delay: Option<u64>) -> Check {
        Check {
            item,
            key: format!("k{item}"),
            delay,
            how: How::Here,
            asked: 0,
        }
    }

    fn items(due: &[Check]) -> Vec<u64> {
        due.iter().map(|check| check.item).collect()
    }

    #[test]
    fn items_are_spread_over_their_interval() {
        let mut plan = Plan::default();
        plan.update(
            vec![check(1, Some(10)), check(13, Some(10)), check(7, Some(1))],
            1000,
        );
        assert_eq!(items(&plan.due(1000)), [1, 7, 13], "new ones begin at once");
        let mut seen: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
        for now in 1001..=1020 {
            for check in plan.due(now) {
                seen.entry(check.item).or_default().push(now);
            }
        }
        assert_eq!(seen[&1], [1001, 1011]);
        assert_eq!(seen[&13], [1003, 1013]);
        assert_eq!(seen[&7], (1001..=1020).collect::<Vec<_>>());
    }

    #[test]
    fn what_stays_keeps_its_time_and_what_was_missed_is_gone() {
        let mut plan = Plan::default();
        plan.update(vec![check(3, Some(10))], 1000);
        plan.due(1000);
        assert_eq!(plan.next(), Some(1003));
        plan.update(vec![check(3, Some(10)), check(4, Some(10))], 1001);
        assert_eq!(items(&plan.due(1001)), [4]);
        assert_eq!(items(&plan.due(1059)), [3, 4]);
        assert_eq!(plan.next(), Some(1063));
        plan.update(vec![check(3, Some(20))], 1060);
        assert_eq!(plan.next(), Some(1060), "a changed one begins anew");
        plan.update(Vec::new(), 1060);
        assert_eq!((plan.next(), plan.due(2000).len()), (None, 0));
    }

    #[test]
    fn an_unusable_interval_is_told_now_and_then() {
        let mut plan = Plan::default();
        plan.update(vec![check(5, None)], 1000);
        assert_eq!(items(&plan.due(1000)), [5]);
        assert!(plan.next().is_some_and(|next| next > 1000 && next <= 1600));
    }
}
