//! Whether the agents that a proxy polls can be reached, as it tells its server (contract, 3.4).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use muster_proto::zabbix::data::AvailabilityRow;

/// An interface that fails for so long is unavailable, as a real proxy has it.
const UNREACHABLE_PERIOD: Duration = Duration::from_secs(45);

const UNKNOWN: u8 = 0;
const AVAILABLE: u8 = 1;
const UNAVAILABLE: u8 = 2;

/// States of interfaces, shared by who polls and who uploads.
#[derive(Clone, Debug, Default)]
pub(super) struct Availability {
    states: Arc<Mutex<BTreeMap<u64, State>>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    available: u8,
    error: String,
    failing_since: Option<Instant>,
    told: bool,
}

impl Availability {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets interfaces that are no longer configured, and knows of new ones.
    pub(super) fn keep_only(&self, interfaces: impl Iterator<Item = u64>) {
        let interfaces: BTreeSet<u64> = interfaces.collect();
        let mut states = self.lock();
        states.retain(|interface, _| interfaces.contains(interface));
        for interface in interfaces {
            states.entry(interface).or_insert(State {
                available: UNKNOWN,
                ..State::default()
            });
        }
    }

    /// Its agent answered.
    pub(super) fn answered(&self, interface: u64) {
        let mut states = self.lock();
        let state = states.entry(interface).or_default();
        if state.available != AVAILABLE {
            *state = State {
                available: AVAILABLE,
                ..State::default()
            };
        }
        state.failing_since = None;
    }

    /// Its agent did not answer.
    pub(super) fn failed(&self, interface: u64, error: &str, now: Instant) {
        let mut states = self.lock();
        let state = states.entry(interface).or_default();
        let since = *state.failing_since.get_or_insert(now);
        let lasting = now.saturating_duration_since(since) >= UNREACHABLE_PERIOD;
        if lasting && state.available != UNAVAILABLE {
            state.available = UNAVAILABLE;
            state.error = error.to_owned();
            state.told = false;
        }
    }

    /// What the server has not heard.
    pub(super) fn unsent(&self) -> Vec<AvailabilityRow<'static>> {
        let states = self.lock();
        let unsent = states.iter().filter(|(_, state)| !state.told);
        unsent
            .map(|(interface, state)| AvailabilityRow {
                interfaceid: *interface,
                available: state.available,
                error: Cow::Owned(state.error.clone()),
            })
            .collect()
    }

    /// The server has heard it; what has changed since is to be told again.
    pub(super) fn sent(&self, rows: &[AvailabilityRow<'_>]) {
        let mut states = self.lock();
        for row in rows {
            if let Some(state) = states.get_mut(&row.interfaceid)
                && state.available == row.available
            {
                state.told = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "any instant does as the start of a story"
    )]
    fn changes_are_told_until_they_are_heard() {
        let start = Instant::now();
        let availability = Availability::default();
        availability.keep_only([1, 2].into_iter());
        let told = |availability: &Availability| -> Vec<(u64, u8)> {
            availability
                .unsent()
                .iter()
                .map(|row| (row.interfaceid, row.available))
                .collect()
        };
        assert_eq!(told(&availability), [(1, UNKNOWN), (2, UNKNOWN)]);
        let rows = availability.unsent();
        availability.answered(1);
        availability.sent(&rows);
        assert_eq!(
            told(&availability),
            [(1, AVAILABLE)],
            "it changed while it was told"
        );
        availability.sent(&availability.unsent());
        availability.failed(1, "refused", start);
        availability.failed(1, "refused", start + Duration::from_secs(44));
        assert!(told(&availability).is_empty());
        availability.failed(1, "refused", start + Duration::from_secs(45));
        assert_eq!(told(&availability), [(1, UNAVAILABLE)]);
        availability.answered(1);
        assert_eq!(told(&availability), [(1, AVAILABLE)]);
        availability.keep_only([2].into_iter());
        assert!(told(&availability).is_empty());
    }
}
