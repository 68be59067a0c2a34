//! What peers are refused: counted at once, written now and then.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use muster_core::agent::Wire;
use muster_store::journal::{self, Refusal};

use super::{Control, Result, lock};

/// Different refusals kept between two writes; beyond them only the metric counts.
const PENDING_MAX: usize = 2000;

/// One refusal as it is counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalNote {
    /// First time since the last write: worth a line in the log.
    pub first: bool,
}

#[derive(Default)]
pub(super) struct Tally {
    counts: BTreeMap<(Wire, String), u64>,
    pending: BTreeMap<(Wire, String, String, String), Pending>,
}

struct Pending {
    detail: String,
    times: i64,
    first: Timestamp,
    last: Timestamp,
}

impl Control {
    /// Counts a refusal of a peer at `address` that called itself `peer` (empty when it got no
    /// further than bytes). `reason` is a stable word, `detail` a sentence. Logged once per peer
    /// and write, then only counted.
    pub fn refused(
        &self,
        wire: Wire,
        address: IpAddr,
        reason: &str,
        peer: &str,
        detail: &str,
    ) -> RefusalNote {
        self.refused_at(wire, &address.to_string(), reason, peer, detail)
    }

    /// The same for a peer that was dialled, by the name it was dialled at.
    pub fn refused_at(
        &self,
        wire: Wire,
        address: &str,
        reason: &str,
        peer: &str,
        detail: &str,
    ) -> RefusalNote {
        let now = self.now();
        let clean = |text: &str, max: usize| -> String {
            text.chars().filter(|c| !c.is_control()).take(max).collect()
        };
        let reason = clean(reason, 64).to_ascii_lowercase();
        let mut tally = lock(&self.inner.refusals);
        *tally.counts.entry((wire, reason.clone())).or_insert(0) += 1;
        let key = (wire, clean(address, 64), reason, clean(peer, 128));
        let room = tally.pending.len() < PENDING_MAX;
        if let Some(pending) = tally.pending.get_mut(&key) {
            pending.times = pending.times.saturating_add(1);
            pending.last = now;
            return RefusalNote { first: false };
        }
        if !room {
            return RefusalNote { first: false };
        }
        tracing::info!(
            wire = wire.word(), peer.address = %key.1, peer.name = %key.3, reason = %key.2,
            "refused a peer: {}", clean(detail, 512)
        );
        let pending = Pending {
            detail: clean(detail, 512),
            times: 1,
            first: now,
            last: now,
        };
        tally.pending.insert(key, pending);
        RefusalNote { first: true }
    }

    /// How often each reason was given on each wire since the process began.
    pub fn refused_counts(&self) -> Vec<(Wire, String, u64)> {
        lock(&self.inner.refusals)
            .counts
            .iter()
            .map(|((wire, reason), count)| (*wire, reason.clone(), *count))
            .collect()
    }

    /// Writes what was counted since the last time; returns how many kinds of it there were.
    ///
    /// # Errors
    /// When the database does not answer; what was counted is kept then.
    pub async fn flush_refusals(&self) -> Result<usize> {
        let pending = std::mem::take(&mut lock(&self.inner.refusals).pending);
        if pending.is_empty() {
            return Ok(0);
        }
        let rows: Vec<Refusal> = pending
            .iter()
            .map(|((wire, address, reason, peer), pending)| Refusal {
                wire: *wire,
                address: address.clone(),
                reason: reason.clone(),
                peer: peer.clone(),
                detail: pending.detail.clone(),
                times: pending.times,
                first: pending.first,
                last: pending.last,
            })
            .collect();
        let written = self
            .inner
            .store
            .write(move |tx| {
                rows.iter().try_for_each(|row| journal::refuse(tx, row))?;
                journal::trim_refusals(tx)?;
                Ok(rows.len())
            })
            .await;
        if written.is_err() {
            let mut tally = lock(&self.inner.refusals);
            for (key, kept) in pending {
                tally.pending.entry(key).or_insert(kept);
            }
        }
        Ok(written?)
    }
}
