//! Duties: what one replica does at a time, such as polling agents.
//!
//! A duty is a lease in the database. Who has it renews it long before it ends; who has not asks now
//! and then. A replica that dies loses it when its time is up, one that stops gives it back.

use std::time::{Duration, Instant};

use jiff::SignedDuration;
use muster_core::RunId;
use muster_core::time::saturating_add;
use muster_store::duties;
use uuid::Uuid;

use super::{Control, Result};

/// For how long a duty is taken: a replica that died is missed no longer.
const LEASE: Duration = Duration::from_secs(6);
/// How often it is renewed, or asked for.
const RENEWAL: Duration = Duration::from_secs(2);

/// One replica's side of a duty.
pub struct Duty {
    control: Control,
    name: &'static str,
    /// This replica, for this duty.
    holder: Uuid,
    /// Until when it is held, and when to ask again.
    held_until: Option<Instant>,
    next: Option<Instant>,
}

impl Duty {
    /// A duty that is not held yet.
    pub fn new(control: &Control, name: &'static str) -> Self {
        Self {
            control: control.clone(),
            name,
            holder: RunId::mint(&mut control.rng()).uuid(),
            held_until: None,
            next: None,
        }
    }

    /// Whether this replica is to do it now. Takes or renews the lease when that is due.
    pub async fn is_mine(&mut self) -> bool {
        let now = self.control.clock().instant();
        if self.next.is_none_or(|next| next <= now) {
            self.next = now.checked_add(RENEWAL);
            match self.ask().await {
                Ok(true) => self.held_until = now.checked_add(LEASE),
                Ok(false) => self.held_until = None,
                // What is held stays held as long as it was promised.
                Err(error) => tracing::warn!(
                    duty = self.name,
                    "a lease could not be renewed: {}",
                    error.chain()
                ),
            }
        }
        self.held_until.is_some_and(|until| now < until)
    }

    /// Gives it back, so that another replica need not wait.
    pub async fn release(&mut self) {
        if self.held_until.take().is_none() {
            return;
        }
        self.next = None;
        let (name, holder) = (self.name, self.holder);
        let released = self
            .control
            .store()
            .write(move |tx| duties::release(tx, name, holder));
        if let Err(error) = released.await {
            tracing::warn!(duty = self.name, "a lease runs out by itself: {error}");
        }
    }

    async fn ask(&self) -> Result<bool> {
        let (name, holder) = (self.name, self.holder);
        let now = self.control.clock().now();
        let lease = SignedDuration::try_from(LEASE).unwrap_or_default();
        let expires = saturating_add(now, lease);
        let asked = self
            .control
            .store()
            .write(move |tx| duties::hold(tx, name, holder, now, expires));
        Ok(asked.await?)
    }
}
