//! When an agent dials again.
//!
//! The original multiplies a delay of one second by e before each wait, up to two minutes, with a
//! jitter of twelve percent, and starts over at every TCP connect: a server that accepts and closes
//! is called every 2.7 seconds for ever. Here the delay starts over only after a connection that was
//! good, and the whole delay is jittered, so that a fleet does not come back in step (teeth
//! contract, section 5).

use std::time::{Duration, Instant};

use rand_core::Rng;

/// The growth of the delay, as the original has it.
const FACTOR: f64 = std::f64::consts::E;
/// The delay before the first multiplication.
const FIRST: Duration = Duration::from_secs(1);
/// The longest delay before jitter.
const MAX: Duration = Duration::from_secs(120);
/// The shortest wait after jitter: no reconnect is worth a busy loop.
const MIN: Duration = Duration::from_millis(100);
/// A connection that lived this long counts as good even without a handshake.
const GOOD_AFTER: Duration = Duration::from_secs(60);

/// The delays of one endpoint. Pure: the caller passes time and chance.
#[derive(Clone, Debug)]
pub struct Backoff {
    delay: Duration,
    connected: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            delay: FIRST,
            connected: None,
        }
    }
}

impl Backoff {
    /// A connection was opened.
    pub fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// The handshake was accepted: the next wait is the shortest again.
    pub fn established(&mut self) {
        self.delay = FIRST;
    }

    /// The connection was lost or could not be opened. Returns how long to wait before the next.
    pub fn lost(&mut self, rng: &mut impl Rng, now: Instant) -> Duration {
        if let Some(since) = self.connected.take()
            && now.saturating_duration_since(since) >= GOOD_AFTER
        {
            self.delay = FIRST;
        }
        self.delay = self.delay.mul_f64(FACTOR).min(MAX);
        let fraction = f64::from(rng.next_u32()) / f64::from(u32::MAX);
        self.delay.mul_f64(fraction).max(MIN)
    }

    /// The longest that the next wait can be.
    pub fn next_max(&self) -> Duration {
        self.delay.mul_f64(FACTOR).min(MAX)
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need one instant to count from"
)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn refused_connects_grow_to_two_minutes() {
        let now = Instant::now();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        let mut bounds = Vec::new();
        for _ in 0..7 {
            let bound = backoff.next_max();
            bounds.push(bound.as_secs_f64());
            let wait = backoff.lost(&mut rng, now);
            assert!(wait >= MIN && wait <= bound, "{wait:?} is over {bound:?}");
        }
        let want = [FACTOR, 7.389, 20.0855, 54.598, 120.0, 120.0, 120.0];
        for (bound, want) in bounds.iter().zip(want) {
            assert!((bound - want).abs() < 0.01, "{bounds:?}");
        }
    }

    #[test]
    fn only_a_good_connection_starts_over() {
        let start = Instant::now();
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.connected(start);
            backoff.lost(&mut rng, start);
        }
        assert_eq!(
            backoff.next_max(),
            MAX,
            "a server that closes at once does not reset it"
        );
        backoff.connected(start);
        backoff.established();
        assert!(backoff.next_max() < Duration::from_secs(3));
        for _ in 0..5 {
            backoff.lost(&mut rng, start);
        }
        backoff.connected(start);
        let wait = backoff.lost(&mut rng, start + GOOD_AFTER);
        assert!(wait <= Duration::from_millis(2719));
    }

    #[test]
    fn the_whole_delay_is_jittered() {
        let now = Instant::now();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let waits: Vec<Duration> = (0..200)
            .map(|_| Backoff::default().lost(&mut rng, now))
            .collect();
        assert!(waits.iter().any(|wait| *wait < Duration::from_millis(500)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_millis(2200)));
    }
}
