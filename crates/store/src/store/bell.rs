//! Word between the processes that share a PostgreSQL that something changed (`LISTEN` and `NOTIFY`).
//!
//! A hint, never the truth: it says that looking may be worth while, not what there is to see. What a process
//! tells it does not hear itself.

use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use postgres::NoTls;
use postgres::fallible_iterator::FallibleIterator as _;
use tokio::sync::Notify;

use crate::error::StoreError;
use crate::params;
use crate::sql::Tx;

/// What may have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topics(u8);

impl Topics {
    /// Items, hosts and what proxies should know of them.
    pub const ITEMS: Self = Self(1);
    /// A run has moved.
    pub const RUNS: Self = Self(2);
    /// Work may have become due, or an agent may take some.
    pub const WORK: Self = Self(4);
    /// Any of it.
    pub const ALL: Self = Self(7);

    /// Whether all of `other` is in it.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Rung by anyone, answered by one who waits; topics rung before the answer are answered together.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicU8,
    notify: Notify,
}

impl Bell {
    /// Rings; never waits.
    pub fn ring(&self, topics: Topics) {
        self.rung.fetch_or(topics.0, Ordering::SeqCst);
        self.notify.notify_one();
    }

    /// Waits until it is rung and answers with everything it was rung for since the last answer. Safe to drop.
    pub async fn rung(&self) -> Topics {
        loop {
            let rung = self.rung.swap(0, Ordering::SeqCst);
            if rung != 0 {
                return Topics(rung);
            }
            self.notify.notified().await;
        }
    }
}

/// How long the listening thread waits at a time; it then looks whether anybody still wants to hear.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long it waits before it connects again: at first, and at most.
const AGAIN_FIRST: Duration = Duration::from_millis(250);
const AGAIN_MOST: Duration = Duration::from_secs(10);

/// The thread of a store that hears of others, while somebody wants it.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// The backend that listens, by which this process knows its own word; 0 while there is none.
    backend: AtomicI32,
    bell: Mutex<Weak<Bell>>,
}

impl Listener {
    /// The bell of the running thread, or of one that is started.
    pub(super) fn start(self: &Arc<Self>, config: postgres::Config) -> Arc<Bell> {
        let mut kept = self.bell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = kept.upgrade() {
            return bell;
        }
        let bell = Arc::new(Bell::default());
        *kept = Arc::downgrade(&bell);
        drop(kept);
        let (listener, weak) = (Arc::clone(self), Arc::downgrade(&bell));
        // A thread of its own: it blocks, and a client of PostgreSQL must not be used on a runtime's.
        std::thread::spawn(move || {
            let mut again = AGAIN_FIRST;
            while weak.strong_count() > 0 {
                if listener.follow(&config, &weak).is_ok() {
                    again = AGAIN_FIRST;
                } else {
                    again = (again * 2).min(AGAIN_MOST);
                }
                listener.backend.store(0, Ordering::SeqCst);
                if weak.strong_count() > 0 {
                    std::thread::sleep(again);
                }
            }
        });
        bell
    }

    /// Listens until the connection is lost or nobody wants to hear any more.
    fn follow(&self, config: &postgres::Config, bell: &Weak<Bell>) -> Result<(), postgres::Error> {
        let mut client = config.connect(NoTls)?;
        let row = client.query_one(
            &format!("SELECT pg_backend_pid() AS backend, {CHANNEL} AS channel"),
            &[],
        )?;
        let (backend, channel): (i32, String) = (row.try_get("backend")?, row.try_get("channel")?);
        client.batch_execute(&format!("LISTEN {channel}"))?;
        self.backend.store(backend, Ordering::SeqCst);
        // Whatever was told while nobody listened.
        if let Some(bell) = bell.upgrade() {
            bell.ring(Topics::ALL);
        }
        while !client.is_closed() {
            let mut notifications = client.notifications();
            let mut heard = notifications.timeout_iter(LOOK_EVERY);
            while let Some(notification) = heard.next()? {
                let Some(bell) = bell.upgrade() else {
                    return Ok(());
                };
                match parse(notification.payload()) {
                    Some((from, _)) if from == backend => {}
                    Some((_, topics)) => bell.ring(topics),
                    // Word of a later release.
                    None => bell.ring(Topics::ALL),
                }
            }
            if bell.strong_count() == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What this process says of `topics`.
    pub(super) fn payload(&self, topics: Topics) -> String {
        format!("{} {}", self.backend.load(Ordering::SeqCst), topics.0)
    }
}

/// Channels belong to a database, and a schema in it is one fleet.
const CHANNEL: &str = "'muster_' || md5(current_schema())";

/// Says `payload` to whoever listens, when the transaction commits.
pub(super) fn notify(tx: &mut Tx<'_>, payload: &str) -> Result<(), StoreError> {
    tx.query(
        &format!("SELECT pg_notify({CHANNEL}, $1)::text"),
        params![payload],
    )
    .map(drop)
}

fn parse(payload: &str) -> Option<(i32, Topics)> {
    let (backend, topics) = payload.split_once(' ')?;
    Some((backend.parse().ok()?, Topics(topics.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, StoreUrl};
    use crate::testing::{for_each_durable_url, runtime};

    /// Far more than a word needs, for a machine that is busy with other tests.
    const PATIENCE: Duration = Duration::from_secs(60);

    async fn heard(bell: &Bell) -> Topics {
        tokio::time::timeout(PATIENCE, bell.rung())
            .await
            .expect("the bell rings")
    }

    #[tokio::test]
    async fn what_is_rung_before_the_answer_is_answered_together() {
        let bell = Bell::default();
        bell.ring(Topics::RUNS);
        bell.ring(Topics::WORK);
        let both = bell.rung().await;
        assert!(both.contains(Topics::RUNS) && both.contains(Topics::WORK));
        assert!(!both.contains(Topics::ITEMS));
        let waiting = bell.rung();
        tokio::pin!(waiting);
        assert!(futures_pending(&mut waiting).await);
        bell.ring(Topics::ITEMS);
        assert_eq!(waiting.await, Topics::ITEMS);
    }

    async fn futures_pending<F: Future + Unpin>(future: &mut F) -> bool {
        tokio::select! {
            biased;
            _ = future => false,
            () = tokio::task::yield_now() => true,
        }
    }

    #[test]
    fn processes_on_one_postgres_hear_of_each_other_and_not_of_themselves() {
        for_each_durable_url(|url| {
            let shared = matches!(url, StoreUrl::Postgres(_));
            runtime().block_on(async {
                let here = Store::open(url.clone()).await.unwrap();
                let there = Store::open(url.clone()).await.unwrap();
                let (Some(hears_here), Some(hears_there)) = (here.hear(), there.hear()) else {
                    assert!(!shared);
                    return here.tell(Topics::ALL).await.unwrap();
                };
                // Each hears once that it may have missed something.
                assert_eq!(heard(&hears_here).await, Topics::ALL);
                assert_eq!(heard(&hears_there).await, Topics::ALL);
                here.tell(Topics::RUNS).await.unwrap();
                assert_eq!(heard(&hears_there).await, Topics::RUNS);
                // Were its own word heard here, it would come before or with this.
                there.tell(Topics::ITEMS).await.unwrap();
                assert_eq!(heard(&hears_here).await, Topics::ITEMS);
            });
        });
    }

    #[test]
    fn a_listener_whose_connection_was_cut_looks_at_everything_again() {
        for_each_durable_url(|url| {
            if !matches!(url, StoreUrl::Postgres(_)) {
                return;
            }
            runtime().block_on(async {
                let here = Store::open(url.clone()).await.unwrap();
                let bell = here.hear().unwrap();
                assert_eq!(heard(&bell).await, Topics::ALL);
                let backend = here.inner.listener.backend.load(Ordering::SeqCst);
                here.write(move |tx| {
                    tx.query(
                        "SELECT pg_terminate_backend(CAST(CAST($1 AS BIGINT) AS INT), 5000) AS ended",
                        params![i64::from(backend)],
                    )
                    .map(drop)
                })
                .await
                .unwrap();
                assert_eq!(heard(&bell).await, Topics::ALL);
            });
        });
    }
}
