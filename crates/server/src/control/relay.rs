//! Word between replicas on one database: what changed here may concern who waits there.
//!
//! Only a hint, so that nobody waits for the next look; what there is to do stands in the rows.

use std::time::Duration;

use muster_store::{Bell, Topics};

use super::Control;

/// Between two words to the others: what changes meanwhile is told together.
const TELL_EVERY: Duration = Duration::from_millis(10);

impl Control {
    /// Tells other replicas what changes here and wakes who waits here for what changes there, for as long as
    /// it is polled. Returns at once where the database is this process's alone.
    pub async fn relay(&self) {
        if let Some(others) = self.inner.store.hear() {
            tokio::join!(self.relay_in(&others), self.relay_out());
        }
    }

    async fn relay_in(&self, others: &Bell) {
        loop {
            let topics = others.rung().await;
            if topics.contains(Topics::ITEMS)
                && let Err(error) = self.refresh_items().await
            {
                tracing::warn!("reading the items that changed: {}", error.chain());
            }
            if topics.contains(Topics::RUNS) {
                self.inner.runs.changed();
            }
            if topics.contains(Topics::WORK) {
                self.inner.work.changed();
            }
        }
    }

    async fn relay_out(&self) {
        loop {
            let topics = self.inner.outbox.rung().await;
            if let Err(error) = self.inner.store.tell(topics).await {
                // They find out by themselves, only later.
                tracing::debug!("telling other replicas: {error}");
            }
            self.clock().sleep(TELL_EVERY).await;
        }
    }
}
