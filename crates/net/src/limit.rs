//! Bounds that several connections share, and the count of what was refused.
//!
//! One [`Refusals`] and one [`MemoryBudget`] serve all listeners of a process; a [`Gate`] guards one
//! listener. The numbers are those of the threat model, section 4.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use jiff::Timestamp;

use crate::clock::Clock;

/// Bytes held for peers that are not known yet, over all listeners.
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
    /// The default of the threat model: 256 MiB, then the newest is refused.
    pub const DEFAULT_BYTES: usize = 256 << 20;

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

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::new(Self::DEFAULT_BYTES)
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

/// Everything that was refused: counted for the metric `muster_refused_total{wire,reason}`, kept for
/// `explain`, and logged once per peer, reason and minute.
#[derive(Clone, Default)]
pub struct Refusals {
    inner: Arc<Mutex<Ledger>>,
    sink: Option<Arc<Sink>>,
}

/// Where refusals go beside the ledger.
type Sink = dyn Fn(&Refusal) + Send + Sync;

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refusals")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Ledger {
    counts: BTreeMap<(&'static str, &'static str), u64>,
    recent: VecDeque<Refusal>,
    logged: BTreeMap<(IpAddr, &'static str), Instant>,
}

/// One thing that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When.
    pub at: Timestamp,
    /// Name of the listener: `http`, `https`, `teeth`, `teeths` or `zabbix`.
    pub wire: &'static str,
    /// A short stable word for the metric.
    pub reason: &'static str,
    /// Who.
    pub peer: IpAddr,
    /// What exactly, for people; at most 1 KiB.
    pub detail: String,
}

/// Refusals kept for `explain`; older ones are only counted.
const RECENT_MAX: usize = 1000;
/// Peers remembered for the once-a-minute rule of the log.
const LOGGED_MAX: usize = 10_000;
/// Between two log lines about the same peer and reason.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// A field of a log line (threat model, section 4).
const DETAIL_MAX: usize = 1024;

impl Refusals {
    /// Refusals that are handed on to `sink`, which logs them in its own way.
    pub fn with_sink(sink: impl Fn(&Refusal) + Send + Sync + 'static) -> Self {
        Self {
            inner: Arc::default(),
            sink: Some(Arc::new(sink)),
        }
    }

    /// Records one refusal.
    pub fn note(
        &self,
        wire: &'static str,
        reason: &'static str,
        peer: IpAddr,
        detail: impl fmt::Display,
        clock: &Clock,
    ) {
        let now = clock.instant();
        let mut detail = detail.to_string();
        detail.truncate(detail.floor_char_boundary(DETAIL_MAX));
        let mut ledger = self.lock();
        *ledger.counts.entry((wire, reason)).or_default() += 1;
        if ledger.logged.len() >= LOGGED_MAX {
            ledger
                .logged
                .retain(|_, at| now.saturating_duration_since(*at) < LOG_EVERY);
        }
        let silent = match ledger.logged.get(&(peer, reason)) {
            Some(at) => now.saturating_duration_since(*at) < LOG_EVERY,
            None => ledger.logged.len() >= LOGGED_MAX,
        };
        if !silent && self.sink.is_none() {
            ledger.logged.insert((peer, reason), now);
            tracing::info!(wire, reason, peer.address = %peer, detail, "refused");
        }
        if ledger.recent.len() >= RECENT_MAX {
            ledger.recent.pop_front();
        }
        let refusal = Refusal {
            at: clock.now(),
            wire,
            reason,
            peer,
            detail,
        };
        ledger.recent.push_back(refusal.clone());
        drop(ledger);
        if let Some(sink) = &self.sink {
            sink(&refusal);
        }
    }

    /// How often each reason occurred on each wire.
    pub fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.lock()
            .counts
            .iter()
            .map(|(&(wire, reason), &count)| (wire, reason, count))
            .collect()
    }

    /// The last thousand, oldest first.
    pub fn recent(&self) -> Vec<Refusal> {
        self.lock().recent.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many connections one listener takes, in all and from one address.
#[derive(Clone, Debug)]
pub struct GateLimits {
    /// Open connections of the listener.
    pub connections: usize,
    /// Open connections of one address.
    pub connections_per_address: usize,
    /// New connections of one address per second, on average.
    pub rate_per_second: u32,
    /// New connections of one address at once.
    pub burst: u32,
    /// Networks without the limits per address; loopback always is.
    pub exempt: Vec<IpNet>,
}

impl Default for GateLimits {
    /// The bounds of the threat model, section 4.
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_address: 512,
            rate_per_second: 200,
            burst: 1000,
            exempt: Vec::new(),
        }
    }
}

/// Decides whether a connection is taken.
#[derive(Clone, Debug)]
pub struct Gate {
    limits: GateLimits,
    state: Arc<Mutex<GateState>>,
}

#[derive(Debug, Default)]
struct GateState {
    open: usize,
    addresses: BTreeMap<IpAddr, Address>,
}

/// What is known of one address.
#[derive(Debug)]
struct Address {
    open: usize,
    /// Connections it may still make at once; fractions are of one connection.
    tokens: f64,
    refilled: Instant,
}

/// Addresses remembered; over it those with nothing open and a full bucket are forgotten.
const ADDRESSES_MAX: usize = 65_536;

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateClosed {
    /// The listener is full.
    Full,
    /// The address has too many connections open.
    PerAddress,
    /// The address connects too fast.
    Rate,
}

impl GateClosed {
    /// The word for the metric.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Full => "connections",
            Self::PerAddress => "connections_per_address",
            Self::Rate => "connection_rate",
        }
    }
}

impl Gate {
    /// A gate with nobody in.
    pub fn new(limits: GateLimits) -> Self {
        Self {
            limits,
            state: Arc::default(),
        }
    }

    /// Lets a connection from `peer` in, or says why not.
    ///
    /// # Errors
    /// The bound that it would pass.
    pub fn enter(&self, peer: IpAddr, now: Instant) -> Result<Permit, GateClosed> {
        let peer = peer.to_canonical();
        let exempt = peer.is_loopback()
            || self
                .limits
                .exempt
                .iter()
                .any(|network| network.contains(&peer));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.open >= self.limits.connections {
            return Err(GateClosed::Full);
        }
        if !exempt {
            let burst = f64::from(self.limits.burst);
            let rate = f64::from(self.limits.rate_per_second);
            if state.addresses.len() >= ADDRESSES_MAX && !state.addresses.contains_key(&peer) {
                state.addresses.retain(|_, address| {
                    address.open > 0 || address.tokens_at(now, rate, burst) < burst
                });
                if state.addresses.len() >= ADDRESSES_MAX {
                    return Err(GateClosed::Full);
                }
            }
            let address = state.addresses.entry(peer).or_insert(Address {
                open: 0,
                tokens: burst,
                refilled: now,
            });
            address.tokens = address.tokens_at(now, rate, burst);
            address.refilled = now;
            if address.tokens < 1.0 {
                return Err(GateClosed::Rate);
            }
            if address.open >= self.limits.connections_per_address {
                return Err(GateClosed::PerAddress);
            }
            address.tokens -= 1.0;
            address.open += 1;
        }
        state.open += 1;
        Ok(Permit {
            state: Arc::clone(&self.state),
            address: (!exempt).then_some(peer),
        })
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open
    }
}

impl Address {
    fn tokens_at(&self, now: Instant, rate: f64, burst: f64) -> f64 {
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        (self.tokens + passed * rate).min(burst)
    }
}

/// The place of one connection behind a [`Gate`]; free again when dropped.
#[derive(Debug)]
pub struct Permit {
    state: Arc<Mutex<GateState>>,
    /// Absent for an exempt peer.
    address: Option<IpAddr>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.open = state.open.saturating_sub(1);
        if let Some(address) = self.address.and_then(|peer| state.addresses.get_mut(&peer)) {
            address.open = address.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(connections: usize, per_address: usize, burst: u32) -> Gate {
        Gate::new(GateLimits {
            connections,
            connections_per_address: per_address,
            rate_per_second: 2,
            burst,
            exempt: vec!["10.1.0.0/16".parse().unwrap()],
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_full_listener_takes_nobody() {
        let gate = gate(2, 9, 9);
        let now = Clock::system().instant();
        let first = gate.enter(ip("127.0.0.1"), now).unwrap();
        let _second = gate.enter(ip("192.0.2.1"), now).unwrap();
        assert_eq!(
            gate.enter(ip("127.0.0.1"), now).unwrap_err(),
            GateClosed::Full
        );
        drop(first);
        assert_eq!(gate.open(), 1);
        gate.enter(ip("127.0.0.1"), now).unwrap();
    }

    #[test]
    fn one_address_cannot_take_every_place() {
        let gate = gate(100, 2, 50);
        let now = Clock::system().instant();
        let stranger = ip("192.0.2.1");
        let held = [
            gate.enter(stranger, now).unwrap(),
            gate.enter(stranger, now).unwrap(),
        ];
        assert_eq!(
            gate.enter(stranger, now).unwrap_err(),
            GateClosed::PerAddress
        );
        // The same address written as IPv6 is the same address.
        assert_eq!(
            gate.enter(ip("::ffff:192.0.2.1"), now).unwrap_err(),
            GateClosed::PerAddress
        );
        gate.enter(ip("192.0.2.2"), now).unwrap();
        drop(held);
        gate.enter(stranger, now).unwrap();
    }

    #[test]
    fn one_address_cannot_connect_without_pause() {
        let gate = gate(100, 100, 3);
        let now = Clock::system().instant();
        for _ in 0..3 {
            gate.enter(ip("192.0.2.1"), now).unwrap();
        }
        assert_eq!(
            gate.enter(ip("192.0.2.1"), now).unwrap_err(),
            GateClosed::Rate
        );
        let later = now + Duration::from_millis(500);
        gate.enter(ip("192.0.2.1"), later).unwrap();
        assert_eq!(
            gate.enter(ip("192.0.2.1"), later).unwrap_err(),
            GateClosed::Rate
        );
    }

    #[test]
    fn loopback_and_exempt_networks_are_without_the_limits_per_address() {
        let gate = gate(100, 1, 1);
        let now = Clock::system().instant();
        for peer in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "10.1.2.3",
        ] {
            let permits: Vec<_> = (0..5).map(|_| gate.enter(ip(peer), now).unwrap()).collect();
            drop(permits);
        }
        assert_eq!(gate.open(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_counted_and_kept() {
        let clock = Clock::simulated(Timestamp::UNIX_EPOCH);
        let refusals = Refusals::default();
        for number in 0..RECENT_MAX + 5 {
            refusals.note("zabbix", "frame", ip("192.0.2.1"), number, &clock);
        }
        refusals.note("http", "head", ip("192.0.2.1"), "x".repeat(5000), &clock);
        let expected = [
            ("http", "head", 1),
            ("zabbix", "frame", RECENT_MAX as u64 + 5),
        ];
        assert_eq!(refusals.counts(), expected);
        let recent = refusals.recent();
        assert_eq!(recent.len(), RECENT_MAX);
        assert_eq!(recent[0].detail, "6");
        assert_eq!(recent[RECENT_MAX - 1].detail.len(), DETAIL_MAX);
    }

    #[test]
    fn a_budget_gives_back_what_a_share_held() {
        let budget = MemoryBudget::new(100);
        let mut first = budget.share();
        assert!(first.grow(60));
        let mut second = budget.share();
        assert!(!second.grow(41), "nothing is taken when it does not fit");
        assert!(second.grow(40));
        assert!(!second.grow(usize::MAX), "no overflow");
        drop(first);
        assert_eq!(budget.used(), 40);
        second.release();
        assert_eq!(budget.used(), 0);
    }
}
