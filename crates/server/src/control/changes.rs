//! Counts of changes that many tasks wait on.
//!
//! What a watch channel would do, but whoever waited first is woken first: the order in which agents
//! hear of work is then the seed's and not the runtime's to choose.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Something that changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Signal {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    count: AtomicU64,
    notify: Notify,
}

/// One listener of it.
#[derive(Clone, Debug)]
pub struct Changes {
    signal: Signal,
    seen: u64,
}

impl Signal {
    /// Wakes every listener.
    pub(super) fn changed(&self) {
        self.inner.count.fetch_add(1, Ordering::SeqCst);
        self.inner.notify.notify_waiters();
    }

    /// A listener that has seen everything until now.
    pub(super) fn listen(&self) -> Changes {
        let seen = self.inner.count.load(Ordering::SeqCst);
        Changes {
            signal: self.clone(),
            seen,
        }
    }
}

impl Changes {
    /// Returns when something has changed since the last look. Safe to drop.
    ///
    /// # Errors
    /// Never; there is always another change to wait for.
    pub async fn changed(&mut self) -> Result<(), Infallible> {
        let inner = Arc::clone(&self.signal.inner);
        loop {
            // Made before the look: a change between the two wakes it.
            let notified = inner.notify.notified();
            if self.look() {
                return Ok(());
            }
            notified.await;
        }
    }

    /// Counts what has changed until now as seen.
    pub fn borrow_and_update(&mut self) {
        self.look();
    }

    fn look(&mut self) -> bool {
        let count = self.signal.inner.count.load(Ordering::SeqCst);
        let changed = count != self.seen;
        self.seen = count;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_listener_hears_and_none_twice() {
        let signal = Signal::default();
        let mut listeners: Vec<Changes> = (0..3).map(|_| signal.listen()).collect();
        signal.changed();
        signal.changed();
        for listener in &mut listeners {
            assert_eq!(listener.changed().await, Ok(()));
            let again = tokio::time::timeout(std::time::Duration::from_secs(1), listener.changed());
            assert!(again.await.is_err());
        }
        let mut late = signal.listen();
        let waiting = tokio::spawn(async move { late.changed().await });
        tokio::task::yield_now().await;
        signal.changed();
        assert!(waiting.await.is_ok());
    }
}
