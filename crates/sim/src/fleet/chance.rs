//! Chance out of one seed, and the line that it makes bad.

use std::time::Duration;

use muster_net::Clock;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;

/// A generator with the questions that a story asks.
pub(super) struct Dice(ChaCha20Rng);

impl Dice {
    pub(super) fn new(rng: ChaCha20Rng) -> Self {
        Self(rng)
    }

    /// A number below `bound`; 0 for 0.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        self.0.next_u32().checked_rem(bound).unwrap_or(0)
    }

    /// True once in `n` times.
    pub(super) fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    pub(super) fn millis(&mut self, below: u32) -> Duration {
        Duration::from_millis(self.below(below).into())
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let bound = u32::try_from(from.len()).unwrap_or(u32::MAX);
        from.get(self.below(bound) as usize)
    }

    pub(super) fn pick_mut<'a, T>(&mut self, from: &'a mut [T]) -> Option<&'a mut T> {
        let bound = u32::try_from(from.len()).unwrap_or(u32::MAX);
        from.get_mut(self.below(bound) as usize)
    }

    pub(super) fn fork(&mut self) -> Self {
        use rand_core::SeedableRng as _;
        let mut seed = [0; 32];
        self.0.fill_bytes(&mut seed);
        Self(ChaCha20Rng::from_seed(seed))
    }
}

/// Carries bytes between two ends: late, in other pieces, and perhaps not to the end.
pub(super) struct BadLine {
    pub(super) ends: (DuplexStream, DuplexStream),
    pub(super) dice: Dice,
    pub(super) clock: Clock,
    /// Bytes in one direction after which the line is cut; `None` for never.
    pub(super) cut_after: Option<u64>,
    /// The longest delay of a piece, in milliseconds.
    pub(super) delay_max: u32,
}

impl BadLine {
    /// Runs until an end closes, the line is cut by itself, or `cut`.
    pub(super) async fn carry(mut self, cut: CancellationToken) {
        let (near, far) = self.ends;
        let (near_read, near_write) = tokio::io::split(near);
        let (far_read, far_write) = tokio::io::split(far);
        let out = Way {
            dice: self.dice.fork(),
            clock: self.clock.clone(),
            left: self.cut_after,
            delay_max: self.delay_max,
        };
        let back = Way {
            dice: self.dice,
            clock: self.clock,
            left: self.cut_after,
            delay_max: self.delay_max,
        };
        tokio::select! {
            biased;
            () = cut.cancelled() => {}
            () = both(out.carry(near_read, far_write), back.carry(far_read, near_write)) => {}
        }
    }
}

/// Both directions: a cut of one cuts the line, an end of stream only that direction.
async fn both(out: impl Future<Output = Carried>, back: impl Future<Output = Carried>) {
    tokio::pin!(out, back);
    let (mut out_ended, mut back_ended) = (false, false);
    while !(out_ended && back_ended) {
        let carried = tokio::select! {
            biased;
            carried = &mut out, if !out_ended => { out_ended = true; carried }
            carried = &mut back, if !back_ended => { back_ended = true; carried }
        };
        if carried == Carried::Cut {
            return;
        }
    }
}

#[derive(PartialEq, Eq)]
enum Carried {
    Cut,
    Ended,
}

struct Way {
    dice: Dice,
    clock: Clock,
    left: Option<u64>,
    delay_max: u32,
}

impl Way {
    async fn carry(
        mut self,
        mut from: ReadHalf<DuplexStream>,
        mut to: WriteHalf<DuplexStream>,
    ) -> Carried {
        let mut buffer = [0; 512];
        loop {
            let room = 1 + self.dice.below(511) as usize;
            let Some(space) = buffer.get_mut(..room) else {
                return Carried::Cut;
            };
            let Ok(count) = from.read(space).await else {
                return Carried::Cut;
            };
            let delay = self.dice.millis(self.delay_max);
            if !delay.is_zero() {
                self.clock.sleep(delay).await;
            }
            if count == 0 {
                let _ = to.shutdown().await;
                return Carried::Ended;
            }
            let passed = match self.left {
                Some(left) => count.min(usize::try_from(left).unwrap_or(usize::MAX)),
                None => count,
            };
            let piece = space.get(..passed).unwrap_or_default();
            if to.write_all(piece).await.is_err() {
                return Carried::Cut;
            }
            if let Some(left) = &mut self.left {
                *left = left.saturating_sub(count as u64);
                if *left == 0 {
                    return Carried::Cut;
                }
            }
        }
    }
}
