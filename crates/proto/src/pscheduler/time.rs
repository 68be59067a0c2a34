//! Durations and timestamps in ISO 8601, as pScheduler reads and writes them (contract, section 13).
//!
//! A duration has weeks, days, hours, minutes and seconds, never months or years. A timestamp is
//! microseconds since 1970 in UTC; what comes without a zone is taken as UTC. Nothing here reads a
//! clock.

use std::fmt;

const MICROS: u64 = 1_000_000;
const DAY_MICROS: i64 = 86_400 * 1_000_000;

/// A length of time, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IsoDuration(u64);

/// A text that is no duration, or one beyond what 64 bits of microseconds hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a valid ISO 8601 duration.")]
pub struct BadDuration(pub String);

impl IsoDuration {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// From microseconds.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// From whole seconds, saturating.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(MICROS))
    }

    /// In microseconds.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// In seconds, rounded up: how the original makes room for a tool (contract, section 6).
    #[must_use]
    pub const fn secs_up(self) -> u64 {
        self.0.div_ceil(MICROS)
    }

    /// As a standard duration.
    #[must_use]
    pub const fn as_std(self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0)
    }

    /// The sum, saturating.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The product, saturating.
    #[must_use]
    pub const fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// In milliseconds, for tables that people read.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "shown with four decimals")]
    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// Reads `PnWnDTnHnMnS`, each part with an optional fraction. `P` and `PT` alone are zero, as in
    /// the original.
    ///
    /// # Errors
    /// [`BadDuration`] for any other text.
    pub fn parse(text: &str) -> Result<Self, BadDuration> {
        let bad = || BadDuration(text.chars().take(64).collect());
        let body = text.strip_prefix('P').ok_or_else(bad)?;
        let (days, times) = match body.split_once('T') {
            Some((days, times)) => (days, Some(times)),
            None => (body, None),
        };
        let mut total = 0_u64;
        for (part, units) in [
            (days, [('W', 604_800), ('D', 86_400)].as_slice()),
            (
                times.unwrap_or(""),
                [('H', 3600), ('M', 60), ('S', 1)].as_slice(),
            ),
        ] {
            let mut rest = part;
            for (letter, secs) in units {
                if let Some((number, after)) = rest.split_once(*letter) {
                    let micros = scaled(number, *secs).ok_or_else(bad)?;
                    total = total.checked_add(micros).ok_or_else(bad)?;
                    rest = after;
                }
            }
            if !rest.is_empty() {
                return Err(bad());
            }
        }
        Ok(Self(total))
    }
}

/// `\d+(\.\d+)?` units of `secs` seconds, in microseconds.
fn scaled(number: &str, secs: u64) -> Option<u64> {
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !fraction.is_none_or(digits) {
        return None;
    }
    let unit = secs.checked_mul(MICROS)?;
    let mut micros = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if let Some(fraction) = fraction {
        // Twelve digits of a week are less than a microsecond apart.
        let kept: String = fraction
            .chars()
            .chain("000000000000".chars())
            .take(12)
            .collect();
        let part = u128::from(kept.parse::<u64>().ok()?).checked_mul(u128::from(unit))?;
        let part = u64::try_from(part.checked_div(1_000_000_000_000)?).ok()?;
        micros = micros.checked_add(part)?;
    }
    Some(micros)
}

impl fmt::Display for IsoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0 / MICROS;
        let micros = self.0 % MICROS;
        let (days, hours) = (secs / 86_400, secs / 3600 % 24);
        let (minutes, seconds) = (secs / 60 % 60, secs % 60);
        f.write_str("P")?;
        if self.0 == 0 {
            return f.write_str("0D");
        }
        if days > 0 {
            write!(f, "{days}D")?;
        }
        if hours > 0 || minutes > 0 || seconds > 0 || micros > 0 {
            f.write_str("T")?;
        }
        if hours > 0 {
            write!(f, "{hours}H")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}M")?;
        }
        if micros > 0 {
            let fraction = format!("{micros:06}");
            write!(f, "{seconds}.{}S", fraction.trim_end_matches('0'))?;
        } else if seconds > 0 {
            write!(f, "{seconds}S")?;
        }
        Ok(())
    }
}

/// A moment, in microseconds since 1970-01-01T00:00:00Z; years 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(i64);

/// A text that is no timestamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid timestamp '{0}'")]
pub struct BadStamp(pub String);

/// 0001-01-01 and 9999-12-31T23:59:59.999999 in microseconds since 1970.
const FIRST: i64 = -62_135_596_800_000_000;
const LAST: i64 = 253_402_300_799_999_999;

impl Stamp {
    /// From microseconds since 1970; outside the years 1 to 9999 the nearest moment inside.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        if micros < FIRST {
            Self(FIRST)
        } else if micros > LAST {
            Self(LAST)
        } else {
            Self(micros)
        }
    }

    /// Microseconds since 1970.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Later by a duration, or `None` after the year 9999.
    #[must_use]
    pub fn checked_add(self, duration: IsoDuration) -> Option<Self> {
        let micros = self.0.checked_add(i64::try_from(duration.0).ok()?)?;
        (micros <= LAST).then_some(Self(micros))
    }

    /// Earlier by a duration, or `None` before the year 1.
    #[must_use]
    pub fn checked_sub(self, duration: IsoDuration) -> Option<Self> {
        let micros = self.0.checked_sub(i64::try_from(duration.0).ok()?)?;
        (micros >= FIRST).then_some(Self(micros))
    }

    /// The moment with its fraction of a second cut off.
    #[must_use]
    pub fn whole_secs(self) -> Self {
        Self(self.0.saturating_sub(self.0.rem_euclid(1_000_000)))
    }

    /// Absolute distance between two moments.
    #[must_use]
    pub const fn distance(self, other: Self) -> IsoDuration {
        IsoDuration(self.0.abs_diff(other.0))
    }

    /// Reads ISO 8601: calendar, week or ordinal date, basic or extended, with an optional time and
    /// zone.
    ///
    /// # Errors
    /// [`BadStamp`] for any other text, or a moment that does not exist.
    pub fn parse(text: &str) -> Result<Self, BadStamp> {
        parse_stamp(text).ok_or_else(|| BadStamp(text.chars().take(64).collect()))
    }

    /// `2026-11-21T19:27:44+00:00`: how runs and tasks show their times.
    #[must_use]
    pub fn seconds(self) -> String {
        let (date, time, _) = self.parts();
        format!("{date}T{time}+00:00")
    }

    /// `2026-11-21T19:27:44.206050+00:00`: how `/clock` shows it.
    #[must_use]
    pub fn with_micros(self) -> String {
        let (date, time, micros) = self.parts();
        format!("{date}T{time}.{micros:06}+00:00")
    }

    /// `2026-11-21T19:27:44Z`: how `/status` shows its own time.
    #[must_use]
    pub fn zulu(self) -> String {
        let (date, time, _) = self.parts();
        format!("{date}T{time}Z")
    }

    fn parts(self) -> (String, String, i64) {
        let days = self.0.div_euclid(DAY_MICROS);
        let rest = self.0.rem_euclid(DAY_MICROS);
        let secs = rest / 1_000_000;
        let (year, month, day) = civil_from_days(days);
        (
            format!("{year:04}-{month:02}-{day:02}"),
            format!("{:02}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60),
            rest % 1_000_000,
        )
    }
}

fn parse_stamp(text: &str) -> Option<Stamp> {
    if !text.is_ascii() || text.len() > 40 {
        return None;
    }
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (text.get(..at)?, Some(text.get(at.checked_add(1)?..)?)),
        None => (text, None),
    };
    let days = parse_date(date)?;
    let (micros, offset_secs) = match time {
        Some(time) => parse_time(time)?,
        None => (0, 0),
    };
    let micros = days
        .checked_mul(DAY_MICROS)?
        .checked_add(micros)?
        .checked_sub(offset_secs.checked_mul(1_000_000)?)?;
    (FIRST..=LAST).contains(&micros).then_some(Stamp(micros))
}

fn number(text: &str, width: usize) -> Option<i64> {
    (text.len() == width && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

fn parse_date(date: &str) -> Option<i64> {
    let year = number(date.get(..4)?, 4)?;
    if year == 0 {
        return None;
    }
    let rest = date.get(4..)?;
    let (extended, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if let Some(week) = rest.strip_prefix('W') {
        let (week, day) = match week.len() {
            2 => (number(week, 2)?, 1),
            _ if extended => {
                let (week, day) = week.split_once('-')?;
                (number(week, 2)?, number(day, 1)?)
            }
            _ => (number(week.get(..2)?, 2)?, number(week.get(2..)?, 1)?),
        };
        return week_date(year, week, day);
    }
    match (extended, rest.len()) {
        (_, 3) => {
            let day = number(rest, 3)?;
            let length = if is_leap(year) { 366 } else { 365 };
            (1..=length).contains(&day).then(|| {
                days_from_civil(year, 1, 1)
                    .saturating_add(day)
                    .saturating_sub(1)
            })
        }
        (true, 5) => {
            let (month, day) = rest.split_once('-')?;
            civil_date(year, number(month, 2)?, number(day, 2)?)
        }
        (false, 4) => civil_date(year, number(rest.get(..2)?, 2)?, number(rest.get(2..)?, 2)?),
        (true, 2) => civil_date(year, number(rest, 2)?, 1),
        _ => None,
    }
}

fn civil_date(year: i64, month: i64, day: i64) -> Option<i64> {
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => return None,
    };
    (1..=length)
        .contains(&day)
        .then(|| days_from_civil(year, month, day))
}

fn week_date(year: i64, week: i64, day: i64) -> Option<i64> {
    if !(1..=53).contains(&week) || !(1..=7).contains(&day) {
        return None;
    }
    // The week with January 4th is the first one; 1970-01-01 was a Thursday.
    let fourth = days_from_civil(year, 1, 4);
    let monday = fourth.saturating_sub(fourth.saturating_add(3).rem_euclid(7));
    let days = monday
        .saturating_add(week.saturating_sub(1).saturating_mul(7))
        .saturating_add(day.saturating_sub(1));
    if week == 53 {
        let next = days_from_civil(year.saturating_add(1), 1, 4);
        let next_monday = next.saturating_sub(next.saturating_add(3).rem_euclid(7));
        if days >= next_monday {
            return None;
        }
    }
    Some(days)
}

/// Microseconds of the day, and the zone's offset in seconds.
fn parse_time(time: &str) -> Option<(i64, i64)> {
    let (clock, offset) = match time.find(['Z', 'z', '+', '-']) {
        Some(at) => (time.get(..at)?, parse_zone(time.get(at..)?)?),
        None => (time, 0),
    };
    let (clock, fraction) = match clock.find(['.', ',']) {
        Some(at) => (clock.get(..at)?, Some(clock.get(at.checked_add(1)?..)?)),
        None => (clock, None),
    };
    let plain: String = clock.chars().filter(|c| *c != ':').collect();
    let colons = clock.len().checked_sub(plain.len())?;
    let fields = plain.len() / 2;
    if !matches!(plain.len(), 2 | 4 | 6) || colons != 0 && colons != fields.saturating_sub(1) {
        return None;
    }
    if colons > 0 && !clock.split(':').all(|field| field.len() == 2) {
        return None;
    }
    let field = |at: usize| match plain.get(at..at.saturating_add(2)) {
        Some(text) => number(text, 2),
        None => Some(0),
    };
    let (hour, minute, second) = (field(0)?, field(2)?, field(4)?);
    if hour > 24 || minute > 59 || second > 59 || hour == 24 && (minute > 0 || second > 0) {
        return None;
    }
    let secs = hour
        .checked_mul(3600)?
        .checked_add(minute.checked_mul(60)?)?
        .checked_add(second)?;
    let micros = match fraction {
        None => 0,
        Some(fraction) => {
            if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) || hour == 24 {
                return None;
            }
            // The fraction belongs to the last field that was given.
            let unit: i128 = match fields {
                1 => 3_600_000_000,
                2 => 60_000_000,
                _ => 1_000_000,
            };
            let kept: String = fraction
                .chars()
                .chain("000000000000".chars())
                .take(12)
                .collect();
            let part = kept.parse::<i128>().ok()?.checked_mul(unit)?;
            i64::try_from(part.checked_div(1_000_000_000_000)?).ok()?
        }
    };
    Some((secs.checked_mul(1_000_000)?.checked_add(micros)?, offset))
}

fn parse_zone(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let zone = zone.get(1..)?;
    let (hours, minutes) = match zone.len() {
        2 => (number(zone, 2)?, 0),
        4 => (number(zone.get(..2)?, 2)?, number(zone.get(2..)?, 2)?),
        5 => {
            let (hours, minutes) = zone.split_once(':')?;
            (number(hours, 2)?, number(minutes, 2)?)
        }
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    hours
        .checked_mul(3600)?
        .checked_add(minutes.checked_mul(60)?)?
        .checked_mul(sign)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days since 1970-01-01 of a date of the years 1 to 10000.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// When a task starts: `TimestampAbsoluteRelative` and the server's own word `soonest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At this moment.
    At(Stamp),
    /// That long after the task was taken.
    In(IsoDuration),
    /// At the next multiple of the duration, counted from 1970.
    NextMultiple(IsoDuration),
    /// As soon as there is room.
    Soonest,
}

impl Start {
    /// Reads the member `start`.
    ///
    /// # Errors
    /// [`BadStamp`] for a text that is none of the forms.
    pub fn parse(text: &str) -> Result<Self, BadStamp> {
        let bad = || BadStamp(text.chars().take(64).collect());
        if text == "soonest" {
            return Ok(Self::Soonest);
        }
        if let Some(multiple) = text.strip_prefix('@') {
            let duration = IsoDuration::parse(multiple).map_err(|_| bad())?;
            return Ok(Self::NextMultiple(duration));
        }
        if text.starts_with('P') {
            return IsoDuration::parse(text).map(Self::In).map_err(|_| bad());
        }
        Stamp::parse(text).map(Self::At)
    }

    /// The moment meant, for a task taken at `now`; `None` for as soon as possible.
    ///
    /// # Errors
    /// [`BadStamp`] when the moment is outside the calendar, or the multiple is of nothing.
    pub fn resolve(self, now: Stamp) -> Result<Option<Stamp>, BadStamp> {
        match self {
            Self::Soonest => Ok(None),
            Self::At(stamp) => Ok(Some(stamp)),
            Self::In(duration) => match now.checked_add(duration) {
                Some(stamp) => Ok(Some(stamp)),
                None => Err(BadStamp(duration.to_string())),
            },
            Self::NextMultiple(duration) => {
                let bad = || BadStamp(format!("@{duration}"));
                let step = i64::try_from(duration.0).ok().filter(|step| *step > 0);
                let step = step.ok_or_else(bad)?;
                let into = now.0.rem_euclid(step);
                let micros = now.0.checked_sub(into).and_then(|at| at.checked_add(step));
                match micros {
                    Some(micros) if micros <= LAST => Ok(Some(Stamp(micros))),
                    _ => Err(bad()),
                }
            }
        }
    }
}

/// Until when a task repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Up to a moment given like a start.
    Moment(Start),
    /// Without end: `forever`, `infinity`, `doomsday`.
    Forever,
}

impl Until {
    /// Reads the member `until`.
    ///
    /// # Errors
    /// [`BadStamp`] for a text that is none of the forms.
    pub fn parse(text: &str) -> Result<Self, BadStamp> {
        if matches!(text, "forever" | "infinity" | "doomsday") {
            return Ok(Self::Forever);
        }
        match Start::parse(text)? {
            Start::Soonest => Err(BadStamp(text.to_owned())),
            moment @ (Start::At(_) | Start::In(_) | Start::NextMultiple(_)) => {
                Ok(Self::Moment(moment))
            }
        }
    }

    /// The moment meant, for a task taken at `now`; `None` for never.
    ///
    /// # Errors
    /// [`BadStamp`] when the moment is outside the calendar.
    pub fn resolve(self, now: Stamp) -> Result<Option<Stamp>, BadStamp> {
        match self {
            Self::Forever => Ok(None),
            Self::Moment(start) => start.resolve(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_and_write_as_the_original() {
        for (text, micros, back) in [
            ("PT3S", 3_000_000, "PT3S"),
            ("P", 0, "P0D"),
            ("PT", 0, "P0D"),
            ("PT0.0005S", 500, "PT0.0005S"),
            ("PT1M", 60_000_000, "PT1M"),
            ("P1D", 86_400_000_000, "P1D"),
            ("P1W", 604_800_000_000, "P7D"),
            ("P0.5D", 43_200_000_000, "PT12H"),
            ("PT5M2S", 302_000_000, "PT5M2S"),
            ("P1DT2H", 93_600_000_000, "P1DT2H"),
            ("PT1.5H", 5_400_000_000, "PT1H30M"),
            ("PT0.0000001S", 0, "P0D"),
        ] {
            let duration = IsoDuration::parse(text).expect(text);
            assert_eq!(duration.micros(), micros, "{text}");
            assert_eq!(duration.to_string(), back, "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_its_text() {
        for text in [
            "",
            "xx",
            "pt5s",
            "5S",
            "P1Y",
            "P1M",
            "-PT1S",
            "PT1",
            "P1S",
            "PTS",
            "PT.5S",
            "PT1.S",
            "R5/PT1M",
            "P1D1W",
            "PT1S1M",
            "PT99999999999999999999S",
            "P 1D",
            "PT1SPT1S",
            "P1DT1D",
        ] {
            let error = IsoDuration::parse(text).expect_err(text);
            assert_eq!(
                error.to_string(),
                format!("'{text}' is not a valid ISO 8601 duration.")
            );
        }
    }

    #[test]
    fn timestamps_in_every_form_the_original_takes() {
        for text in [
            "2026-11-21T19:27:44+00:00",
            "2026-11-21T19:27:44Z",
            "20261121T192744Z",
            "2026-11-21T20:27:44+01:00",
            "2026-11-21T14:27:44-0500",
            "2026-325T19:27:44Z",
            "2026325T192744",
            "2026-W47-6T19:27:44Z",
            "2026W476T192744Z",
            "2026-11-21 19:27:44",
            "2026-11-21T19:27.734Z",
        ] {
            let stamp = Stamp::parse(text).expect(text);
            assert_eq!(stamp.seconds(), "2026-11-21T19:27:44+00:00", "{text}");
        }
        let clock = Stamp::parse("2017-08-04T14:16:13.744876-04:00").expect("published form");
        assert_eq!(clock.with_micros(), "2017-08-04T18:16:13.744876+00:00");
        assert_eq!(Stamp::parse("1970-01-01").map(Stamp::micros), Ok(0));
        assert_eq!(Stamp::parse("2020-W53-5"), Stamp::parse("2021-01-01"));
        assert_eq!(
            Stamp::parse("2026-11-21T24:00Z"),
            Stamp::parse("2026-11-22")
        );
    }

    #[test]
    fn moments_that_do_not_exist_are_refused() {
        for text in [
            "",
            "x",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "2026-00-01",
            "2026-366",
            "2026-W54-1",
            "2021-W53-1",
            "2026-11-21T25:00Z",
            "2026-11-21T19:60",
            "2026-11-21T19:27:60",
            "2026-11-21T1:2:3",
            "2026-11-21T19:2744",
            "2026-11-21T19:27:44+25:00",
            "0000-01-01",
            "10000-01-01",
            "9999-12-31T23:59:59-01:00",
            "2026-11-21T",
            "2026-11-21T19:27:44.",
            "2026-11-21T19:27:44Zx",
            "\u{661}970-01-01",
        ] {
            assert!(Stamp::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn starts_resolve_against_the_time_the_task_was_taken() {
        let now = Stamp::parse("2026-11-21T19:27:44.5Z").expect("now");
        let at = |text: &str| {
            Start::parse(text)
                .expect(text)
                .resolve(now)
                .map(|stamp| stamp.map(Stamp::seconds).unwrap_or_default())
        };
        assert_eq!(at("soonest").as_deref(), Ok(""));
        assert_eq!(at("PT16S").as_deref(), Ok("2026-11-21T19:28:00+00:00"));
        assert_eq!(at("@PT1H").as_deref(), Ok("2026-11-21T20:00:00+00:00"));
        assert_eq!(
            at("2026-12-01T00:00:00Z").as_deref(),
            Ok("2026-12-01T00:00:00+00:00")
        );
        assert!(at("@PT0S").is_err());
        assert!(at("P9000000D").is_err());
        assert!(Start::parse("tomorrow").is_err());
        assert_eq!(Until::parse("doomsday"), Ok(Until::Forever));
        assert!(Until::parse("soonest").is_err());
    }

    proptest! {
        #[test]
        fn a_duration_reads_back(micros in any::<u64>()) {
            let duration = IsoDuration::from_micros(micros);
            prop_assert_eq!(IsoDuration::parse(&duration.to_string()), Ok(duration));
        }

        #[test]
        fn a_stamp_reads_back(micros in FIRST..=LAST) {
            let stamp = Stamp::from_micros(micros);
            prop_assert_eq!(Stamp::parse(&stamp.with_micros()), Ok(stamp));
            prop_assert_eq!(Stamp::parse(&stamp.seconds()), Ok(stamp.whole_secs()));
        }

        #[test]
        fn no_text_panics(text in "[PTWDHMSZ0-9:.+@ -]{0,30}") {
            let _ = IsoDuration::parse(&text);
            let _ = Start::parse(&text).map(|start| start.resolve(Stamp::from_micros(i64::MAX)));
            let _ = Until::parse(&text);
        }

        #[test]
        fn any_text_at_all_is_only_refused(text in any::<String>()) {
            let _ = IsoDuration::parse(&text);
            let _ = Start::parse(&text);
        }
    }
}
