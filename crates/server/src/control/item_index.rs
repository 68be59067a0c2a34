//! Every item in memory, by number and by host and key, for uploads to be checked by.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use ipnet::IpNet;
use muster_core::AgentId;
use muster_core::sample::{ItemType, ValueType};
use muster_store::{Topics, hosts};

use super::Control;
use super::error::Result;

/// What an upload needs to know of an item.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemEntry {
    /// Its number.
    pub number: u64,
    /// The name of its host.
    pub host: Arc<str>,
    /// How it is obtained.
    pub item_type: ItemType,
    /// What its values are.
    pub value_type: ValueType,
    /// The proxy that monitors its host; `None`: this server.
    pub proxy: Option<AgentId>,
    /// Addresses that may send values beside those that always may.
    pub allowed: Arc<[IpNet]>,
}

/// Every item.
#[derive(Debug, Default)]
pub struct ItemIndex {
    by_number: BTreeMap<u64, ItemEntry>,
    by_key: BTreeMap<String, BTreeMap<String, u64>>,
    revision: u64,
}

impl ItemIndex {
    /// An item by number.
    pub fn by_number(&self, number: u64) -> Option<&ItemEntry> {
        self.by_number.get(&number)
    }

    /// An item by the name of its host, as it is written, and its key.
    pub fn by_key(&self, host: &str, key: &str) -> Option<&ItemEntry> {
        self.by_key
            .get(host)?
            .get(key)
            .and_then(|number| self.by_number.get(number))
    }

    /// Whether a monitored host with items has this name.
    pub fn has_host(&self, host: &str) -> bool {
        self.by_key.contains_key(host)
    }

    /// Which state of the declarations it shows.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

impl Control {
    /// The items as of the last change this process knows of.
    pub fn item_index(&self) -> Arc<ItemIndex> {
        Arc::clone(
            &self
                .inner
                .index
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Reads the items again if another replica has changed them.
    ///
    /// # Errors
    /// When the database does not answer; the index stays as it was.
    pub async fn refresh_items(&self) -> Result<()> {
        let revision = self
            .inner
            .store
            .read(|tx| hosts::counter(tx, super::fleet::REVISION))
            .await?;
        if revision == self.item_index().revision() {
            Ok(())
        } else {
            self.reload_items().await
        }
    }

    /// Reads the items again after they were changed here, and lets other replicas do the same.
    pub(super) async fn items_changed(&self) -> Result<()> {
        self.reload_items().await?;
        self.inner.outbox.ring(Topics::ITEMS);
        Ok(())
    }

    pub(super) async fn reload_items(&self) -> Result<()> {
        let (rows, revision) = self
            .inner
            .store
            .read(|tx| {
                Ok((
                    hosts::all_items(tx)?,
                    hosts::counter(tx, super::fleet::REVISION)?,
                ))
            })
            .await?;
        let mut index = ItemIndex {
            revision,
            ..ItemIndex::default()
        };
        let mut last: Arc<str> = Arc::from("");
        for (item, host, proxy) in rows {
            if *last != *host {
                last = Arc::from(host.as_str());
            }
            index
                .by_key
                .entry(host)
                .or_default()
                .insert(item.key, item.number);
            index.by_number.insert(
                item.number,
                ItemEntry {
                    number: item.number,
                    host: Arc::clone(&last),
                    item_type: item.item_type,
                    value_type: item.value_type,
                    proxy,
                    allowed: item.allowed.into(),
                },
            );
        }
        *self
            .inner
            .index
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
        Ok(())
    }
}
