//! Time and chance: the one place that reads a clock or asks the system for randomness.
//!
//! Everything below the binary takes `now` and a generator as arguments; what hands them in holds a
//! [`Clock`] and an [`Entropy`]. Both have a real and a simulated constructor and one concrete type,
//! so that a simulation runs the same code.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rand::TryRng as _;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// Wall-clock and monotonic time from one source.
///
/// The monotonic side is always tokio's clock, which stands still and jumps under paused time; the
/// simulated wall clock is derived from it, so the two never part.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    System,
    Simulated {
        epoch: Timestamp,
        start: tokio::time::Instant,
    },
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self {
            source: Source::System,
        }
    }

    /// A clock that shows `epoch` at this moment and moves with tokio's time from here.
    ///
    /// # Panics
    /// Outside a tokio runtime only if tokio's time was paused there.
    pub fn simulated(epoch: Timestamp) -> Self {
        Self {
            source: Source::Simulated {
                epoch,
                start: tokio::time::Instant::now(),
            },
        }
    }

    /// Wall-clock time, for stamping and calendars.
    #[expect(clippy::disallowed_methods, reason = "the clock itself")]
    pub fn now(&self) -> Timestamp {
        match &self.source {
            Source::System => Timestamp::now(),
            Source::Simulated { epoch, start } => {
                let passed = SignedDuration::try_from(start.elapsed()).unwrap_or_default();
                epoch.saturating_add(passed).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// Monotonic time, for deadlines and session timers.
    pub fn instant(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// Runs what blocks away from the runtime's own threads; in simulated time in place, since which of
    /// several threads comes first is the one thing that a seed does not decide. `None` when the runtime
    /// is ending, or `work` panicked.
    pub async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        match &self.source {
            Source::System => tokio::task::spawn_blocking(work).await.ok(),
            Source::Simulated { .. } => Some(work()),
        }
    }

    /// Returns after `duration` of this clock.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Returns when this clock's monotonic side reaches `deadline`.
    pub async fn sleep_until(&self, deadline: Instant) {
        tokio::time::sleep_until(deadline.into()).await;
    }
}

/// A source of random generators.
#[derive(Clone, Debug)]
pub struct Entropy {
    /// Present when everything follows from one seed.
    seeded: Option<Arc<Mutex<ChaCha20Rng>>>,
}

impl Entropy {
    /// Generators seeded by the operating system.
    pub fn system() -> Self {
        Self { seeded: None }
    }

    /// Generators that follow from `seed` and the order in which they are asked for.
    pub fn seeded(seed: u64) -> Self {
        Self {
            seeded: Some(Arc::new(Mutex::new(ChaCha20Rng::seed_from_u64(seed)))),
        }
    }

    /// A new generator, independent of those handed out before.
    ///
    /// # Panics
    /// When the operating system has no randomness to give, which no secret may be made without.
    pub fn rng(&self) -> ChaCha20Rng {
        let mut seed = [0; 32];
        match &self.seeded {
            None => rand::rngs::SysRng
                .try_fill_bytes(&mut seed)
                .expect("the operating system hands out randomness"),
            Some(parent) => {
                parent
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .fill_bytes(&mut seed);
            }
        }
        ChaCha20Rng::from_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn simulated_time_moves_with_tokio() {
        let epoch: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let clock = Clock::simulated(epoch);
        let before = clock.instant();
        assert_eq!(clock.now(), epoch);
        clock.sleep(Duration::from_secs(90)).await;
        assert_eq!(clock.now().to_string(), "2026-01-01T00:01:30Z");
        assert_eq!(clock.instant() - before, Duration::from_secs(90));
    }

    #[test]
    fn one_seed_gives_one_story() {
        let draw = |entropy: &Entropy| (entropy.rng().next_u64(), entropy.rng().next_u64());
        assert_eq!(draw(&Entropy::seeded(7)), draw(&Entropy::seeded(7)));
        assert_ne!(draw(&Entropy::seeded(7)), draw(&Entropy::seeded(8)));
        let (first, second) = draw(&Entropy::seeded(7));
        assert_ne!(first, second);
    }

    #[test]
    fn system_generators_differ() {
        let entropy = Entropy::system();
        assert_ne!(entropy.rng().next_u64(), entropy.rng().next_u64());
    }
}
