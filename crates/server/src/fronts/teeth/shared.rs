//! What the connections of one process know of each other: which is the current one of an agent,
//! which spelling of a command an old agent understood.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_core::AgentId;
use muster_core::run::OfferToken;
use muster_proto::teeth::commands::Spellings;

/// Runs remembered with the boot they were handed to, for each agent.
const HANDED_MAX: usize = 1024;

#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    epochs: u64,
    current: BTreeMap<AgentId, u64>,
    handed: BTreeMap<AgentId, BTreeMap<OfferToken, Option<String>>>,
    spellings: Spellings,
}

/// A connection's claim to be the current one of its agent; given up when dropped.
pub(super) struct Epoch {
    shared: Arc<Shared>,
    agent: AgentId,
    number: u64,
}

impl Shared {
    /// Makes a connection the current one of its agent.
    pub(super) fn enter(self: &Arc<Self>, agent: AgentId) -> Epoch {
        let mut state = self.state();
        state.epochs = state.epochs.wrapping_add(1);
        let number = state.epochs;
        state.current.insert(agent, number);
        drop(state);
        Epoch {
            shared: Arc::clone(self),
            agent,
            number,
        }
    }

    pub(super) fn connected(&self) -> usize {
        self.state().current.len()
    }

    pub(super) fn spellings<T>(&self, with: impl FnOnce(&mut Spellings) -> T) -> T {
        with(&mut self.state().spellings)
    }

    /// Remembers which boot of the agent a run was handed to.
    pub(super) fn handed(&self, agent: AgentId, token: OfferToken, boot_id: Option<String>) {
        let mut state = self.state();
        let runs = state.handed.entry(agent).or_default();
        runs.insert(token, boot_id);
        while runs.len() > HANDED_MAX {
            runs.pop_first();
        }
    }

    /// Forgets a run: it has ended.
    pub(super) fn settled(&self, agent: AgentId, token: OfferToken) {
        let mut state = self.state();
        if let Some(runs) = state.handed.get_mut(&agent) {
            runs.remove(&token);
            if runs.is_empty() {
                state.handed.remove(&agent);
            }
        }
    }

    /// What is remembered to be with an agent, with the boot it was handed to.
    pub(super) fn with(&self, agent: AgentId) -> Vec<(OfferToken, Option<String>)> {
        let state = self.state();
        let runs = state.handed.get(&agent);
        runs.into_iter()
            .flatten()
            .map(|(token, boot)| (*token, boot.clone()))
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Epoch {
    /// Whether no newer connection of the agent has come.
    pub(super) fn is_current(&self) -> bool {
        self.shared.state().current.get(&self.agent) == Some(&self.number)
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.current.get(&self.agent) == Some(&self.number) {
            state.current.remove(&self.agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_connection_is_the_current_one() {
        let shared = Arc::new(Shared::default());
        let agent = AgentId::from_uuid(uuid::Uuid::from_u128(1));
        let old = shared.enter(agent);
        assert!(old.is_current());
        let new = shared.enter(agent);
        assert!(!old.is_current() && new.is_current());
        drop(old);
        assert!(new.is_current(), "an old one closing takes nothing along");
        drop(new);
        assert_eq!(shared.connected(), 0);
    }
}
