//! Processor use over windows of one, five and fifteen minutes, from counters sampled each second.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Seconds of history: the longest window and the sample before it.
const SAMPLES_MAX: usize = 15 * 60 + 1;
/// Processors that are told apart; more are only counted in the sum.
const PROCESSORS_MAX: usize = 64;

/// Counters of one processor in ticks, in the order of `/proc/stat`.
type Counters = [u64; 10];

/// What time is spent on, in the order of `/proc/stat`.
pub(super) const STATES: [&str; 10] = [
    "user",
    "nice",
    "system",
    "idle",
    "iowait",
    "interrupt",
    "softirq",
    "steal",
    "guest",
    "guest_nice",
];

/// The counters of all processors together, then of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) rows: Vec<Counters>,
}

impl Stat {
    pub(super) fn parse(text: &str) -> Self {
        let mut rows = Vec::new();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("cpu") else {
                continue;
            };
            let Some((number, counters)) = rest.split_once(' ') else {
                continue;
            };
            let position = if number.is_empty() {
                Some(0)
            } else {
                number.parse().ok().map(|n: usize| n + 1)
            };
            let Some(position) = position.filter(|position| *position <= PROCESSORS_MAX) else {
                continue;
            };
            let mut row = Counters::default();
            for (slot, text) in row.iter_mut().zip(counters.split_whitespace()) {
                *slot = text.parse().unwrap_or(0);
            }
            // The kernel counts guests' time in user and nice as well.
            row[0] = row[0].saturating_sub(row[8]);
            row[1] = row[1].saturating_sub(row[9]);
            if rows.len() <= position {
                rows.resize(position + 1, Counters::default());
            }
            rows[position] = row;
        }
        Self { rows }
    }
}

/// The last fifteen minutes.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<(Instant, Stat)>,
}

impl History {
    pub(super) fn add(&mut self, now: Instant, stat: Stat) {
        // Two samples within half a second would make windows of noise.
        if let Some((newest, _)) = self.samples.back()
            && now.saturating_duration_since(*newest) < Duration::from_millis(500)
        {
            return;
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, stat));
    }

    /// Percent of the last `window` that processor `row` (0 for all) spent in a state. With one
    /// sample only: since the machine started, as the original agent answers then.
    pub(super) fn percent(&self, row: usize, state: usize, window: Duration) -> Option<f64> {
        let (now, newest) = self.samples.back()?;
        let newest = newest.rows.get(row)?;
        let zero = Counters::default();
        let oldest = self
            .samples
            .iter()
            .rev()
            .skip(1)
            .take_while(|(at, _)| now.saturating_duration_since(*at) <= window)
            .last()
            .or_else(|| self.samples.iter().rev().nth(1))
            .map_or(Some(&zero), |(_, stat)| stat.rows.get(row))?;
        let spent = |index: usize| {
            let (new, old) = (newest.get(index)?, oldest.get(index)?);
            Some(new.saturating_sub(*old) as f64)
        };
        let total = (0..STATES.len()).filter_map(spent).sum::<f64>();
        Some(if total == 0.0 {
            0.0
        } else {
            100.0 * spent(state)? / total
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn stat(user: u64, idle: u64) -> Stat {
        Stat::parse(&format!(
            "cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 {user} 0 0 {idle} 0 0 0 0 0 0\n"
        ))
    }

    #[test]
    fn guests_are_not_counted_twice() {
        let stat = Stat::parse("cpu  100 20 3 4 5 6 7 8 60 10\nintr 5\ncpu1 1 2 3 4\n");
        assert_eq!(stat.rows[0], [40, 10, 3, 4, 5, 6, 7, 8, 60, 10]);
        assert_eq!(stat.rows.len(), 3);
        assert_eq!(stat.rows[2], [1, 2, 3, 4, 0, 0, 0, 0, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn windows_look_back_as_far_as_they_say() {
        let clock = muster_net::clock::Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let mut history = History::default();
        assert_eq!(history.percent(0, 0, Duration::from_secs(60)), None);
        // Busy for ten minutes, then idle for one.
        let (mut user, mut idle) = (0, 0);
        for second in 0..=660 {
            history.add(clock.instant(), stat(user, idle));
            if second == 0 {
                assert_eq!(history.percent(0, 0, Duration::from_secs(60)), Some(0.0));
            }
            tokio::time::advance(Duration::from_secs(1)).await;
            if second < 600 {
                user += 100
            } else {
                idle += 100
            }
        }
        let percent = |seconds| history.percent(0, 0, Duration::from_secs(seconds)).unwrap();
        assert_eq!(percent(60), 0.0);
        assert_eq!(percent(120), 50.0);
        assert_eq!(percent(300), 80.0);
        assert!((percent(900) - 90.9).abs() < 0.1);
        assert_eq!(history.percent(5, 0, Duration::from_secs(60)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let text = (0..500)
            .map(|n| format!("cpu{n} 1 1 1 1\n"))
            .collect::<String>();
        assert_eq!(Stat::parse(&text).rows.len(), PROCESSORS_MAX + 1);
    }
}
