//! Values in and out, and what a proxy should know.

use std::collections::BTreeMap;

use muster_core::host::Host;
use muster_core::sample::{Item, Sample};
use muster_core::{AgentId, HostId};
use muster_store::samples::{Batch, IngestError, Last, Order, Span, Stats};
use muster_store::{StoreError, hosts};

use super::Control;
use super::error::{ControlError, Result, Trouble};

pub use muster_store::samples::{Accepted as UploadOutcome, Batch as Upload};

/// Which values of an item are wanted.
#[derive(Clone, Copy, Debug)]
pub struct HistoryRange {
    /// From this Unix second on.
    pub from: Option<i64>,
    /// Up to and with this one.
    pub to: Option<i64>,
    /// The newest so many.
    pub limit: usize,
}

/// A host with its items, as the proxy that monitors it should know it.
#[derive(Clone, Debug)]
pub struct Monitored {
    /// The host; it has [`muster_core::host::Host::monitoring`].
    pub host: Host,
    /// Its items by number.
    pub items: Vec<Item>,
}

impl Control {
    /// Stores an upload and answers after it is durable. Values of the same (peer, session, id) as
    /// before are not stored again.
    ///
    /// # Errors
    /// `Unavailable` when too much waits already or the database does not answer; then nothing of
    /// it was stored and the peer is to repeat it. `Invalid` for rows that cannot be stored at all:
    /// fronts drop those first.
    pub async fn ingest(&self, upload: Batch) -> Result<UploadOutcome> {
        self.inner
            .values
            .ingest(upload, self.now())
            .await
            .map_err(ingest_error)
    }

    /// Values of an item, oldest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn history(&self, item: u64, range: HistoryRange) -> Result<Vec<Sample>> {
        let span = Span {
            from: range.from.unwrap_or(i64::MIN),
            to: range.to.unwrap_or(i64::MAX),
            order: Order::Newest,
            limit: range.limit,
        };
        Ok(self.inner.values.range(item, span).await?)
    }

    /// Newest values and states of items.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn last_values(&self, items: &[u64]) -> Result<BTreeMap<u64, Last>> {
        Ok(self.inner.values.last(items).await?)
    }

    /// How much is stored.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn value_stats(&self) -> Result<Stats> {
        Ok(self.inner.values.stats().await?)
    }

    /// What a proxy should know, or with `None` what this server monitors itself; and the revision
    /// of the declarations it shows.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn monitored(&self, proxy: Option<AgentId>) -> Result<(u64, Vec<Monitored>)> {
        Ok(self
            .inner
            .store
            .read(move |tx| {
                let revision = hosts::counter(tx, super::fleet::REVISION)?;
                let mut monitored = Vec::new();
                for host in hosts::monitored_by(tx, proxy)? {
                    let items = hosts::items_of(tx, host.id)?;
                    monitored.push(Monitored { host, items });
                }
                Ok((revision, monitored))
            })
            .await?)
    }

    /// One monitored host by the name its agent gives.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn monitored_host(&self, name: &str) -> Result<Option<Monitored>> {
        let name = name.to_owned();
        Ok(self
            .inner
            .store
            .read(move |tx| {
                let Some(host) =
                    hosts::by_name(tx, &name)?.filter(|host| host.monitoring.is_some())
                else {
                    return Ok(None);
                };
                let items = hosts::items_of(tx, host.id)?;
                Ok(Some(Monitored { host, items }))
            })
            .await?)
    }

    /// The name of the host with an id.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn host_name(&self, id: HostId) -> Result<String> {
        Ok(self
            .inner
            .store
            .read(move |tx| super::lookup::host_name(tx, id))
            .await?)
    }

    /// Writes down newest values that only young blocks hold.
    pub(crate) async fn settle_values(&self) -> Result<(), StoreError> {
        self.inner.values.settle().await
    }

    /// Drops values that the configuration no longer keeps; the newest of each item stays.
    pub(crate) async fn drop_values(&self) -> Result<u64, StoreError> {
        match self.settings().retain_values {
            Some(keep) => {
                let before = muster_core::time::saturating_sub(self.now(), keep);
                self.inner.values.retain(before).await
            }
            None => Ok(0),
        }
    }
}

fn ingest_error(error: IngestError) -> ControlError {
    match &error {
        IngestError::Full { .. } | IngestError::Stopped | IngestError::Store(_) => {
            ControlError::new(
                Trouble::Unavailable,
                "INGEST_NOT_NOW",
                "values cannot be taken just now",
            )
            .because(error.to_string())
            .next("the peer keeps them and repeats the upload")
            .caused_by(error)
        }
        IngestError::Impossible { .. } | IngestError::Holes { .. } | IngestError::Nul { .. } => {
            ControlError::invalid("INGEST_IMPOSSIBLE", "an upload holds what cannot be stored")
                .because(error.to_string())
                .caused_by(error)
        }
    }
}
