//! When a task wants its runs.
//!
//! Relative times are resolved once, when the task is submitted; from there on a [`Schedule`] is
//! absolute and its arithmetic pure: [`Schedule::next`] says when the next run is wanted, given
//! what has run (pScheduler contract, section 6).

use std::str::FromStr;

use croner::Cron;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::run::{STRAGGLE, Window};
use crate::time::{saturating_add, whole_seconds};

/// How long work without a named time waits for its agent when the task says nothing.
pub const PATIENCE: SignedDuration = SignedDuration::from_hours(24);

/// The most runs a task may ask for (threat model, section 4).
pub const RUNS_MAX: u32 = 1_000_000;

/// When the first run is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// As soon as it can be.
    #[default]
    Soonest,
    /// At a time.
    At(Timestamp),
}

/// A cron expression that has at least one match.
#[derive(Clone, Debug)]
pub struct CronExpr {
    text: String,
    cron: Cron,
}

impl PartialEq for CronExpr {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl CronExpr {
    /// The expression as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first match strictly after `time`, in UTC.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let zoned = time.to_zoned(TimeZone::UTC);
        self.cron
            .find_next_occurrence(&zoned, false)
            .ok()
            .map(|next| next.timestamp())
    }
}

impl FromStr for CronExpr {
    type Err = BadSchedule;

    fn from_str(text: &str) -> Result<Self, BadSchedule> {
        let bad = || BadSchedule::Cron(text.chars().take(80).collect());
        if text.len() > 256 {
            return Err(bad());
        }
        let cron = Cron::from_str(text).map_err(|_| bad())?;
        let expr = Self {
            text: text.to_owned(),
            cron,
        };
        // An expression without a match (30 February) is refused when it is given.
        expr.next_after(Timestamp::UNIX_EPOCH).ok_or_else(bad)?;
        Ok(expr)
    }
}

/// When a task wants its runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    /// When the first run is wanted.
    pub start: Start,
    /// How much later than wanted a run may begin.
    pub slip: Option<SignedDuration>,
    /// Begin at a random time within the slip instead of the earliest.
    pub random_slip: bool,
    /// Wanted again after this long, counted from the first start.
    pub repeat: Option<SignedDuration>,
    /// Wanted at each match. With `repeat` too, the earlier next time wins.
    pub cron: Option<CronExpr>,
    /// No run is wanted from here on.
    pub until: Option<Timestamp>,
    /// How many runs are wanted at most.
    pub max_runs: Option<u32>,
}

/// A schedule that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSchedule {
    /// Not a cron expression, or one that never matches.
    #[error("{0:?} is not a cron expression with a match")]
    Cron(String),
    /// A number of runs that cannot be.
    #[error("max-runs is {0}; it must be 1 to 1000000")]
    MaxRuns(u64),
    /// Repeats without a pause.
    #[error("repeat must be longer than zero")]
    Repeat,
    /// Ends before it begins.
    #[error("until ({until}) is not after the start ({start})")]
    UntilBeforeStart {
        /// The end.
        until: Timestamp,
        /// The start.
        start: Timestamp,
    },
    /// Begins later than anyone means.
    #[error("start ({0}) is more than a hundred years away")]
    StartTooFar(Timestamp),
    /// Ends in the past.
    #[error("until ({0}) has passed")]
    UntilPassed(Timestamp),
}

/// How far away a start may be; beyond it is a slip of the pen, and arithmetic nears the end of the calendar.
pub const STARTS_WITHIN: SignedDuration = SignedDuration::from_hours(100 * 366 * 24);

/// What a task's past says about its next run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Planned start of its first run.
    pub first: Option<Timestamp>,
    /// Planned start of its latest run.
    pub latest: Option<Timestamp>,
    /// How many runs it has had.
    pub runs: u32,
}

impl Schedule {
    /// Checks what depends on more than one member.
    ///
    /// # Errors
    /// [`BadSchedule`] names the member.
    pub fn check(&self, now: Timestamp) -> Result<(), BadSchedule> {
        if self.max_runs.is_some_and(|n| n == 0 || n > RUNS_MAX) {
            return Err(BadSchedule::MaxRuns(u64::from(self.max_runs.unwrap_or(0))));
        }
        if self
            .repeat
            .is_some_and(|repeat| repeat <= SignedDuration::ZERO)
        {
            return Err(BadSchedule::Repeat);
        }
        if let Start::At(start) = self.start
            && start > saturating_add(now, STARTS_WITHIN)
        {
            return Err(BadSchedule::StartTooFar(start));
        }
        let Some(until) = self.until else {
            return Ok(());
        };
        if until <= now {
            return Err(BadSchedule::UntilPassed(until));
        }
        match self.start {
            Start::At(start) if until <= start => {
                Err(BadSchedule::UntilBeforeStart { until, start })
            }
            Start::At(_) | Start::Soonest => Ok(()),
        }
    }

    /// Whether more than one run may be wanted.
    pub fn repeats(&self) -> bool {
        self.repeat.is_some() || self.cron.is_some()
    }

    /// When the next run is wanted; `None` when no more is.
    pub fn next(&self, history: &History, now: Timestamp) -> Option<Timestamp> {
        if self.max_runs.is_some_and(|max| history.runs >= max) {
            return None;
        }
        let start = match self.start {
            Start::At(start) => start,
            Start::Soonest => history.first.unwrap_or(now),
        };
        let wanted = if !self.repeats() {
            if history.runs > 0 {
                return None;
            }
            start.max(now)
        } else {
            let by_interval = self
                .repeat
                .and_then(|repeat| next_by_interval(repeat, start, history, now));
            let by_cron = self.cron.as_ref().and_then(|cron| {
                let after = history.latest.unwrap_or(start).max(start).max(now);
                // A start that itself matches is wanted too.
                match history.latest {
                    Some(_) => cron.next_after(after),
                    None => cron.next_after(saturating_add(after, SignedDuration::from_secs(-1))),
                }
            });
            match (by_interval, by_cron) {
                (Some(a), Some(b)) => a.min(b),
                (Some(a), None) => a,
                (None, b) => b?,
            }
        };
        // A single run does not look at `until`: there it only says how long to wait for an agent.
        let over = self.repeats() && self.until.is_some_and(|until| wanted >= until);
        (!over).then_some(wanted)
    }

    /// The slip a run may use: repeating tasks must be done before their next turn.
    pub fn usable_slip(&self, length: SignedDuration) -> SignedDuration {
        let slip = self.slip.unwrap_or(SignedDuration::ZERO);
        match self.repeat {
            Some(repeat) => {
                slip.min((repeat - length - SignedDuration::from_secs(1)).max(SignedDuration::ZERO))
            }
            None => slip,
        }
    }

    /// The window of a run that is to start at `start`. Where the task named a time, it must begin
    /// within its slip and [`STRAGGLE`]; else it waits until the task's `until`, or [`PATIENCE`].
    pub fn window(&self, start: Timestamp, wanted: Timestamp, length: SignedDuration) -> Window {
        let named = self.repeats() || self.start != Start::Soonest || self.slip.is_some();
        let latest_start = if named {
            saturating_add(saturating_add(wanted, self.usable_slip(length)), STRAGGLE)
        } else {
            self.until
                .unwrap_or_else(|| saturating_add(start, PATIENCE))
        };
        Window {
            start,
            latest_start: latest_start.max(start),
            length,
        }
    }
}

/// The first `origin + k * repeat` strictly after everything that has been.
fn next_by_interval(
    repeat: SignedDuration,
    start: Timestamp,
    history: &History,
    now: Timestamp,
) -> Option<Timestamp> {
    let Some(latest) = history.latest else {
        return Some(start.max(now));
    };
    let origin = history.first.unwrap_or(start);
    let after = latest.max(now).max(start);
    let elapsed = after.duration_since(origin).as_nanos().max(0);
    let step = repeat.as_nanos().max(1);
    let turns = elapsed / step + 1;
    let offset = i64::try_from((turns * step) / 1_000_000_000).unwrap_or(i64::MAX);
    let nanos = i32::try_from((turns * step) % 1_000_000_000).unwrap_or(0);
    origin.checked_add(SignedDuration::new(offset, nanos)).ok()
}

/// Rounds a wanted start to the whole second pScheduler speaks in, never into the past.
pub fn round_start(time: Timestamp) -> Timestamp {
    let floor = whole_seconds(time);
    if floor == time {
        time
    } else {
        saturating_add(floor, SignedDuration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn t(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn secs(n: i64) -> SignedDuration {
        SignedDuration::from_secs(n)
    }

    const NOW: &str = "2026-11-24T12:00:00Z";

    fn repeating(n: i64) -> Schedule {
        Schedule {
            repeat: Some(secs(n)),
            ..Schedule::default()
        }
    }

    #[test]
    fn next_runs() {
        let ran = |first: &str, latest: &str, runs| History {
            first: Some(t(first)),
            latest: Some(t(latest)),
            runs,
        };
        let at = |text| Schedule {
            start: Start::At(t(text)),
            ..Schedule::default()
        };
        let cron = |text: &str| Schedule {
            cron: Some(text.parse().expect("cron")),
            ..Schedule::default()
        };
        let cases: Vec<(&str, Schedule, History, Option<&str>)> = vec![
            (
                "once, soonest",
                Schedule::default(),
                History::default(),
                Some(NOW),
            ),
            ("once, done", Schedule::default(), ran(NOW, NOW, 1), None),
            (
                "once, later",
                at("2026-11-24T13:00:00Z"),
                History::default(),
                Some("2026-11-24T13:00:00Z"),
            ),
            (
                "once, past start",
                at("2026-11-24T11:00:00Z"),
                History::default(),
                Some(NOW),
            ),
            (
                "repeat, first",
                repeating(60),
                History::default(),
                Some(NOW),
            ),
            (
                "repeat, counted from the first",
                repeating(60),
                ran("2026-11-24T11:30:07Z", "2026-11-24T11:59:07Z", 30),
                Some("2026-11-24T12:00:07Z"),
            ),
            (
                "repeat, latest lies ahead",
                repeating(60),
                ran(NOW, "2026-11-24T12:05:00Z", 6),
                Some("2026-11-24T12:06:00Z"),
            ),
            (
                "repeat, turns slept through are left out",
                repeating(60),
                ran("2026-11-24T10:00:00Z", "2026-11-24T10:00:00Z", 1),
                Some("2026-11-24T12:01:00Z"),
            ),
            (
                "max runs",
                Schedule {
                    max_runs: Some(2),
                    ..repeating(60)
                },
                ran(NOW, NOW, 2),
                None,
            ),
            (
                "until",
                Schedule {
                    until: Some(t("2026-11-24T12:01:00Z")),
                    ..repeating(60)
                },
                ran(NOW, NOW, 1),
                None,
            ),
            (
                "cron, first",
                cron("30 * * * *"),
                History::default(),
                Some("2026-11-24T12:30:00Z"),
            ),
            (
                "cron, a start that matches counts",
                cron("0 * * * *"),
                History::default(),
                Some(NOW),
            ),
            (
                "cron, next",
                cron("0 * * * *"),
                ran(NOW, NOW, 1),
                Some("2026-11-24T13:00:00Z"),
            ),
            (
                "both: the earlier",
                Schedule {
                    repeat: Some(secs(600)),
                    ..cron("30 * * * *")
                },
                ran(NOW, NOW, 1),
                Some("2026-11-24T12:10:00Z"),
            ),
        ];
        for (name, schedule, history, expected) in cases {
            assert_eq!(schedule.next(&history, t(NOW)), expected.map(t), "{name}");
        }
    }

    #[test]
    fn senseless_schedules_are_refused() {
        let now = t(NOW);
        assert!(Schedule::default().check(now).is_ok());
        assert!(matches!(repeating(0).check(now), Err(BadSchedule::Repeat)));
        let past = Schedule {
            until: Some(now),
            ..Schedule::default()
        };
        assert!(matches!(past.check(now), Err(BadSchedule::UntilPassed(_))));
        let far = Schedule {
            start: Start::At(t("9999-12-30T00:00:00Z")),
            ..Schedule::default()
        };
        assert!(matches!(far.check(now), Err(BadSchedule::StartTooFar(_))));
        let backwards = Schedule {
            start: Start::At(t("2026-11-25T12:00:00Z")),
            until: Some(t("2026-11-24T13:00:00Z")),
            ..Schedule::default()
        };
        assert!(matches!(
            backwards.check(now),
            Err(BadSchedule::UntilBeforeStart { .. })
        ));
        for n in [0, RUNS_MAX + 1] {
            let schedule = Schedule {
                max_runs: Some(n),
                ..Schedule::default()
            };
            assert!(matches!(schedule.check(now), Err(BadSchedule::MaxRuns(_))));
        }
        for text in ["", "x", "61 * * * *", "0 0 30 2 *", &"1,".repeat(400)] {
            assert!(text.parse::<CronExpr>().is_err(), "{text}");
        }
    }

    #[test]
    fn windows() {
        let now = t(NOW);
        let window = Schedule::default().window(now, now, secs(5));
        assert_eq!(
            window.latest_start,
            saturating_add(now, PATIENCE),
            "work for a pulling agent waits"
        );
        let named = Schedule {
            start: Start::At(now),
            slip: Some(secs(300)),
            ..Schedule::default()
        };
        assert_eq!(
            named.window(now, now, secs(5)).latest_start,
            saturating_add(now, secs(330))
        );
        let tight = Schedule {
            slip: Some(secs(300)),
            ..repeating(60)
        };
        assert_eq!(
            tight.usable_slip(secs(5)),
            secs(54),
            "done before the next turn"
        );
    }

    proptest! {
        /// A repeating task never runs twice at one time and always moves on.
        #[test]
        fn turns_grow_strictly(repeat in 1i64..100_000, gap in 0i64..1_000_000, n in 1u32..50) {
            let schedule = repeating(repeat);
            let mut now = t(NOW);
            let mut history = History::default();
            for _ in 0..n {
                let next = schedule.next(&history, now).expect("repeats for ever");
                prop_assert!(next >= now || history.runs == 0);
                if let Some(latest) = history.latest {
                    prop_assert!(next > latest);
                    let first = history.first.expect("has run");
                    prop_assert_eq!(next.duration_since(first).as_secs() % repeat, 0);
                }
                history = History { first: history.first.or(Some(next)), latest: Some(next), runs: history.runs + 1 };
                now = saturating_add(now, secs(gap));
            }
        }

        #[test]
        fn any_text_is_a_cron_expression_or_refused(text in ".{0,60}") {
            let _ = text.parse::<CronExpr>();
        }
    }

    #[test]
    fn turns_end_where_the_calendar_does() {
        let last = Timestamp::MAX;
        let yearly = Schedule {
            start: Start::At(last),
            repeat: Some(SignedDuration::from_hours(24 * 366)),
            ..Schedule::default()
        };
        let begun = History {
            first: Some(last),
            latest: Some(last),
            runs: 1,
        };
        assert_eq!(yearly.next(&History::default(), last), Some(last));
        assert_eq!(yearly.next(&begun, last), None);
    }
}
