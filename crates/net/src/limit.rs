//! Bounds that several connections share: memory for unknown peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes held for peers that are not known yet, over all listeners (threat model, section 4).
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    inner: Arc<Budget>,
}

#[derive(Debug)]
struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            inner: Arc::new(Budget {
                limit,
                used: AtomicUsize::new(0),
            }),
        }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.inner.used.load(Ordering::Relaxed)
    }

    /// An empty share, for one connection or one body.
    pub fn share(&self) -> MemoryShare {
        MemoryShare {
            budget: Arc::clone(&self.inner),
            held: 0,
        }
    }
}

/// What one connection or body holds of a [`MemoryBudget`]; given back when dropped.
#[derive(Debug)]
pub struct MemoryShare {
    budget: Arc<Budget>,
    held: usize,
}

impl MemoryShare {
    /// Takes `bytes` more, or nothing and returns `false` when the budget does not allow it.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let limit = self.budget.limit;
        let taken = self
            .budget
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= limit)
            });
        if taken.is_ok() {
            self.held += bytes;
        }
        taken.is_ok()
    }

    /// Gives everything back.
    pub fn release(&mut self) {
        self.budget.used.fetch_sub(self.held, Ordering::Relaxed);
        self.held = 0;
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.release();
    }
}
