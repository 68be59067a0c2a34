//! Values to forward: items sampled at their intervals, kept in the spool until a server has them.
//!
//! One [`Forwarder`] serves one server. Its queue in the spool has a session, under which the
//! server counts ids, so that a value that is sent twice is stored once (Zabbix contract, section
//! 3). The queue is bounded and gives up its oldest values; what cannot be written there waits in
//! memory, bounded as well. An item without a value is told once, when it becomes so, and tried
//! less often.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use muster_net::clock::Clock;
use muster_store::StoreError;
use muster_store::spool::{Added, Bound, Spool};
use rand_core::Rng;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::tools::items::{Items, wire_text};

/// How often items are looked at: the shortest interval of an item.
const TICK: Duration = Duration::from_secs(1);
/// How long an item without a value is left alone.
const UNSUPPORTED_PAUSE: Duration = Duration::from_secs(60);
/// Items of one server.
const ITEMS_MAX: usize = 10_000;
/// Values that wait in memory while the spool cannot be written.
const WAITING_MAX: usize = 10_000;

/// An item to sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The server's number for it; 0 where it has none.
    pub item: u64,
    /// Its key.
    pub key: String,
    /// How often; less than a second counts as one.
    pub every: Duration,
}

/// One reading of an item, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The server's number for the item; 0 where it has none.
    #[serde(rename = "i", default)]
    pub item: u64,
    /// The item's key.
    #[serde(rename = "k")]
    pub key: String,
    /// Unix seconds.
    #[serde(rename = "c")]
    pub clock: i64,
    /// Nanoseconds within the second.
    #[serde(rename = "n")]
    pub ns: u32,
    /// The value, as agents write it, or why there is none.
    #[serde(rename = "v")]
    pub value: Result<String, String>,
}

/// A reading with its id in the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its id; they grow by one and are never used again.
    pub id: u64,
    /// The reading.
    pub reading: Reading,
}

/// Samples items for one server.
#[derive(Debug)]
pub struct Forwarder {
    items: Arc<Items>,
    spool: Spool,
    queue: String,
    session: String,
    bound: Bound,
    clock: Clock,
    plan: Mutex<Plan>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Plan {
    items: BTreeMap<(u64, String), Due>,
    waiting: VecDeque<Reading>,
    lost: u64,
}

#[derive(Debug)]
struct Due {
    every: Duration,
    next: Option<Instant>,
    error: Option<String>,
}

impl Forwarder {
    /// The forwarder of a queue, which is made when it does not exist.
    ///
    /// # Errors
    /// [`StoreError`] when the spool fails.
    pub async fn open(
        items: Arc<Items>,
        spool: Spool,
        queue: impl Into<String>,
        bound: Bound,
        clock: Clock,
        rng: &mut impl Rng,
    ) -> Result<Self, StoreError> {
        let queue = queue.into();
        let session = spool.queue(&queue, rng).await?.session;
        let (plan, added) = (Mutex::default(), Notify::new());
        Ok(Self {
            items,
            spool,
            queue,
            session,
            bound,
            clock,
            plan,
            added,
        })
    }

    /// The session that the ids belong to: 32 hexadecimal digits, the same over restarts.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.session
    }

    /// Samples these items from here on, and no others. An item that was sampled before keeps its
    /// rhythm.
    pub fn watch(&self, list: impl IntoIterator<Item = Watched>) {
        let mut plan = self.plan();
        let mut items = BTreeMap::new();
        for Watched { item, key, every } in list.into_iter().take(ITEMS_MAX) {
            let every = every.max(TICK);
            let known = plan
                .items
                .remove(&(item, key.clone()))
                .filter(|due| due.every == every);
            items.insert(
                (item, key),
                known.unwrap_or(Due {
                    every,
                    next: None,
                    error: None,
                }),
            );
        }
        plan.items = items;
    }

    /// Samples until `cancel`.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => self.sample().await,
            }
        }
    }

    /// The oldest readings that were not acknowledged.
    ///
    /// # Errors
    /// [`StoreError`] when the spool fails.
    pub async fn pending(&self, most: usize, bytes: usize) -> Result<Vec<Pending>, StoreError> {
        let entries = self.spool.peek(&self.queue, most, bytes).await?;
        // An entry of another build that cannot be read is passed over; acknowledging what follows
        // drops it.
        let readings = entries.into_iter().filter_map(|entry| {
            let reading = serde_json::from_slice(&entry.body).ok()?;
            Some(Pending {
                id: entry.id,
                reading,
            })
        });
        Ok(readings.collect())
    }

    /// The server has every reading up to and with `id`.
    ///
    /// # Errors
    /// [`StoreError`] when the spool fails; the readings will then be sent again.
    pub async fn acknowledge(&self, id: u64) -> Result<(), StoreError> {
        self.spool.acknowledge(&self.queue, id).await.map(drop)
    }

    /// Returns when readings were added after the last call.
    pub async fn added(&self) {
        self.added.notified().await;
    }

    /// Looks at every item that is due and keeps what it says.
    async fn sample(&self) {
        let now = self.clock.instant();
        let due = self.take_due(now);
        let (items, at) = (Arc::clone(&self.items), self.clock.now());
        let read = tokio::task::spawn_blocking(move || {
            items.tick(now);
            let answers = due.into_iter().map(|(item, key)| {
                let answer = items.read_item(&key, at);
                (
                    item,
                    key,
                    answer.as_ref().map(wire_text).map_err(ToString::to_string),
                )
            });
            answers.collect::<Vec<_>>()
        });
        let Ok(answers) = read.await else { return };
        let bodies = {
            let mut plan = self.plan();
            for (item, key, value) in answers {
                plan.keep(item, key, value, at, now);
            }
            plan.waiting
                .iter()
                .filter_map(|reading| serde_json::to_vec(reading).ok())
                .collect::<Vec<_>>()
        };
        if bodies.is_empty() {
            return;
        }
        let count = bodies.len();
        match self.spool.add(&self.queue, bodies, self.bound, at).await {
            Ok(Added::Queued { dropped, .. }) => {
                let mut plan = self.plan();
                plan.waiting.drain(..count);
                let lost = dropped + std::mem::take(&mut plan.lost);
                drop(plan);
                if lost > 0 {
                    tracing::warn!(queue = self.queue, lost, "old values gave way to new ones");
                }
                self.added.notify_one();
            }
            Ok(Added::Refused) => {
                tracing::debug!(queue = self.queue, "the queue is full; values wait");
            }
            Err(error) => {
                tracing::warn!(
                    queue = self.queue,
                    error = &error as &dyn std::error::Error,
                    "values cannot be written to the spool; they wait in memory"
                );
            }
        }
    }

    fn take_due(&self, now: Instant) -> Vec<(u64, String)> {
        let mut plan = self.plan();
        let due = plan.items.iter_mut().filter_map(|((item, key), due)| {
            // A tick may come a little early for the interval it ends.
            let slack = Duration::from_millis(100);
            if due.next.is_some_and(|next| next > now + slack) {
                return None;
            }
            due.next = Some(match due.next {
                // On the rhythm, unless that is long past.
                Some(next) if next + due.every > now => next + due.every,
                Some(_) | None => now + due.every,
            });
            Some((*item, key.clone()))
        });
        due.collect()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        match self.plan.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

impl Plan {
    fn keep(
        &mut self,
        item: u64,
        key: String,
        value: Result<String, String>,
        at: Timestamp,
        now: Instant,
    ) {
        let Some(due) = self.items.get_mut(&(item, key.clone())) else {
            return;
        };
        let error = value.as_ref().err().cloned();
        if error.is_some() {
            due.next = Some(now + due.every.max(UNSUPPORTED_PAUSE));
            if due.error == error {
                return;
            }
        }
        due.error = error;
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
            self.lost += 1;
        }
        let ns = u32::try_from(at.subsec_nanosecond()).unwrap_or(0);
        self.waiting.push_back(Reading {
            item,
            key,
            clock: at.as_second(),
            ns,
            value,
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use muster_net::clock::Entropy;
    use muster_store::spool::Overflow;

    struct Bench {
        dir: tempfile::TempDir,
        spool: Spool,
        clock: Clock,
    }

    impl Bench {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("proc")).unwrap();
            let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
            let spool = Spool::open(None, clock.now()).await.unwrap();
            let bench = Self { dir, spool, clock };
            bench.uptime("10.00 1.00");
            bench
        }

        fn uptime(&self, text: &str) {
            std::fs::write(self.dir.path().join("proc/uptime"), text).unwrap();
        }

        async fn forwarder(&self, bound: Bound) -> Forwarder {
            let items = Arc::new(Items::new(self.dir.path(), "a"));
            let mut rng = Entropy::seeded(7).rng();
            Forwarder::open(
                items,
                self.spool.clone(),
                "zabbix",
                bound,
                self.clock.clone(),
                &mut rng,
            )
            .await
            .unwrap()
        }
    }

    fn watched(item: u64, key: &str, seconds: u64) -> Watched {
        Watched {
            item,
            key: key.to_owned(),
            every: Duration::from_secs(seconds),
        }
    }

    async fn run_for(forwarder: &Forwarder, seconds: u64) {
        // The last tick is awaited whole, as sampling leaves the runtime for the file system.
        for _ in 0..seconds {
            forwarder.sample().await;
            tokio::time::advance(TICK).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn items_are_sampled_at_their_intervals() {
        let bench = Bench::new().await;
        let forwarder = bench.forwarder(Bound::VALUES).await;
        assert_eq!(forwarder.session().len(), 32);
        forwarder.watch([watched(1, "agent.ping", 1), watched(2, "system.uptime", 3)]);
        run_for(&forwarder, 6).await;
        let pending = forwarder.pending(100, 1 << 20).await.unwrap();
        let of = |item: u64| {
            let own = pending.iter().filter(|p| p.reading.item == item);
            own.map(|p| p.reading.clock - 1_767_225_600)
                .collect::<Vec<_>>()
        };
        assert_eq!((of(1), of(2)), (vec![0, 1, 2, 3, 4, 5], vec![0, 3]));
        assert!(pending.iter().map(|p| p.id).eq(1..=8), "ids without a gap");
        assert_eq!(pending[0].reading.value, Ok("1".to_owned()));

        forwarder.acknowledge(5).await.unwrap();
        let rest = forwarder.pending(100, 1 << 20).await.unwrap();
        assert!(rest.iter().map(|p| p.id).eq(6..=8));
        forwarder.watch([watched(2, "system.uptime", 3)]);
        run_for(&forwarder, 3).await;
        let rest = forwarder.pending(100, 1 << 20).await.unwrap();
        assert_eq!(
            rest.last().unwrap().id,
            9,
            "an item that is kept keeps its rhythm"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn ids_and_session_go_on_after_a_restart() {
        let bench = Bench::new().await;
        let before = bench.forwarder(Bound::VALUES).await;
        before.watch([watched(1, "agent.ping", 1)]);
        run_for(&before, 2).await;
        before.acknowledge(2).await.unwrap();
        let session = before.session().to_owned();
        drop(before);
        let after = bench.forwarder(Bound::VALUES).await;
        assert_eq!(after.session(), session);
        after.watch([watched(1, "agent.ping", 1)]);
        run_for(&after, 1).await;
        assert_eq!(after.pending(10, 1 << 20).await.unwrap()[0].id, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_without_a_value_is_told_once_and_tried_again() {
        let bench = Bench::new().await;
        let forwarder = bench.forwarder(Bound::VALUES).await;
        forwarder.watch([watched(1, "system.uptime", 1), watched(2, "no.such.key", 1)]);
        bench.uptime("garbage");
        run_for(&forwarder, 30).await;
        let pending = forwarder.pending(100, 1 << 20).await.unwrap();
        assert_eq!(pending.len(), 2, "{pending:?}");
        assert_eq!(
            pending[1].reading.value,
            Err("Unsupported item key.".to_owned())
        );
        bench.uptime("77.00 1.00");
        run_for(&forwarder, 32).await;
        let pending = forwarder.pending(100, 1 << 20).await.unwrap();
        assert_eq!(pending[2].reading.value, Ok("77".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_gives_up_its_oldest() {
        let bench = Bench::new().await;
        let bound = Bound {
            entries: 3,
            bytes: 1 << 20,
            overflow: Overflow::DropOldest,
        };
        let forwarder = bench.forwarder(bound).await;
        forwarder.watch([watched(1, "agent.ping", 1)]);
        run_for(&forwarder, 10).await;
        let pending = forwarder.pending(100, 1 << 20).await.unwrap();
        assert!(pending.iter().map(|p| p.id).eq(8..=10), "{pending:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_while_the_queue_refuses() {
        let bench = Bench::new().await;
        let bound = Bound {
            entries: 0,
            bytes: 0,
            overflow: Overflow::Refuse,
        };
        let forwarder = bench.forwarder(bound).await;
        forwarder.watch((0..6_000).map(|item| watched(item, "agent.ping", 1)));
        run_for(&forwarder, 2).await;
        let plan = forwarder.plan();
        assert_eq!((plan.waiting.len(), plan.lost), (WAITING_MAX, 2_000));
    }

    #[test]
    fn readings_are_kept_as_small_texts() {
        let reading = Reading {
            item: 7,
            key: "agent.ping".to_owned(),
            clock: 5,
            ns: 9,
            value: Err("no".to_owned()),
        };
        let text = serde_json::to_string(&reading).unwrap();
        assert_eq!(
            text,
            r#"{"i":7,"k":"agent.ping","c":5,"n":9,"v":{"Err":"no"}}"#
        );
        assert_eq!(serde_json::from_str::<Reading>(&text).unwrap(), reading);
    }
}
