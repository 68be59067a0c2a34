//! When to try again: exponential back-off with jitter, as a value.

use jiff::SignedDuration;
use rand_core::Rng;

/// How waits grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first wait, before jitter.
    pub first: SignedDuration,
    /// The factor from one wait to the next.
    pub factor: f64,
    /// The longest wait, before jitter.
    pub max: SignedDuration,
    /// How much of a wait is random: 0 none, 1 all of it.
    pub jitter: f64,
}

impl Backoff {
    /// The wait after `failures` failures in a row; 0 counts as 1.
    pub fn wait(&self, failures: u32, rng: &mut impl Rng) -> SignedDuration {
        let exponent = i32::try_from(failures.saturating_sub(1).min(64)).unwrap_or(64);
        let grown = self.first.as_secs_f64() * self.factor.powi(exponent);
        let capped = grown.min(self.max.as_secs_f64());
        let chance = f64::from(rng.next_u32()) / f64::from(u32::MAX);
        let jitter = self.jitter.clamp(0.0, 1.0);
        let wait = capped * (1.0 - jitter) + capped * jitter * chance;
        SignedDuration::try_from_secs_f64(wait).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    #[test]
    fn waits_grow_to_the_cap() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let plain = Backoff {
            first: SignedDuration::from_secs(1),
            factor: 2.0,
            max: SignedDuration::from_secs(30),
            jitter: 0.0,
        };
        let waits: Vec<_> = (0..8).map(|n| plain.wait(n, &mut rng).as_secs()).collect();
        assert_eq!(waits, [1, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(plain.wait(u32::MAX, &mut rng).as_secs(), 30);
        let jittered = Backoff {
            jitter: 1.0,
            ..plain
        };
        for n in 0..50 {
            assert!(jittered.wait(n, &mut rng) <= plain.wait(n, &mut rng));
        }
    }
}
