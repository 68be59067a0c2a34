//! Durations and times as people and peers write them.
//!
//! ISO 8601 (`PT30S`, `P1DT2H`) and the short forms of the command line (`30s`, `5m`, `2h`, `1d`).
//! Months and years are refused: their length depends on a date.

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, Unit};

/// The longest duration a task may name: 366 days (threat model, section 4).
pub const DURATION_MAX: SignedDuration = SignedDuration::from_hours(366 * 24);

/// A duration or time that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTime {
    /// Neither ISO 8601 nor a short form.
    #[error("{0:?} is not a duration: write ISO 8601 (PT30S, P1D) or 30s, 5m, 2h, 1d")]
    Duration(String),
    /// Years or months, whose length is not fixed.
    #[error("{0:?} has years or months, whose length is not fixed: write days")]
    CalendarUnits(String),
    /// Outside what is allowed.
    #[error("{0:?} is out of range: durations are positive and at most 366 days")]
    Range(String),
    /// Neither an ISO 8601 time nor `+` and a duration.
    #[error("{0:?} is not a time: write ISO 8601 with an offset (2026-01-31T12:00:00Z) or +PT30S")]
    Time(String),
}

/// Reads a duration that is greater than zero and at most [`DURATION_MAX`].
///
/// # Errors
/// [`BadTime`] with the text, cut to 64 characters.
pub fn parse_duration(text: &str) -> Result<SignedDuration, BadTime> {
    let duration = parse_duration_or_zero(text)?;
    if duration.is_zero() {
        Err(BadTime::Range(cut(text)))
    } else {
        Ok(duration)
    }
}

/// As [`parse_duration`], but zero will do: slip, time to live and waits may be nothing.
///
/// # Errors
/// [`BadTime`] with the text, cut to 64 characters.
pub fn parse_duration_or_zero(text: &str) -> Result<SignedDuration, BadTime> {
    let duration = match short_form(text) {
        Some(duration) => duration.ok_or_else(|| BadTime::Range(cut(text)))?,
        None => iso_duration(text)?,
    };
    if duration.is_negative() || duration > DURATION_MAX {
        return Err(BadTime::Range(cut(text)));
    }
    Ok(duration)
}

/// Reads an absolute time, or `+DURATION` after `now`.
///
/// # Errors
/// [`BadTime`] with the text, cut to 64 characters.
pub fn parse_time(text: &str, now: Timestamp) -> Result<Timestamp, BadTime> {
    if let Some(offset) = text.strip_prefix('+') {
        let duration = parse_duration_or_zero(offset)?;
        return now
            .checked_add(duration)
            .map_err(|_| BadTime::Time(cut(text)));
    }
    text.parse::<Timestamp>()
        .map_err(|_| BadTime::Time(cut(text)))
}

/// Writes a duration as ISO 8601 with days: `P1DT2H`, `PT0.25S`, `PT0S`.
pub fn format_duration(duration: SignedDuration) -> String {
    let total = duration.as_secs();
    let (days, rest) = (total / 86_400, total % 86_400);
    let span = Span::new()
        .try_days(days)
        .and_then(|span| span.try_hours(rest / 3600))
        .and_then(|span| span.try_minutes(rest % 3600 / 60))
        .and_then(|span| span.try_seconds(rest % 60))
        .and_then(|span| span.try_nanoseconds(i64::from(duration.subsec_nanos())));
    span.map_or_else(|_| duration.to_string(), |span| span.to_string())
}

/// The time without its fraction of a second.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// `time + duration`, stopping at the end of the calendar.
pub fn saturating_add(time: Timestamp, duration: SignedDuration) -> Timestamp {
    time.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

/// `time - duration`, at the earliest the first time there is.
pub fn saturating_sub(time: Timestamp, duration: SignedDuration) -> Timestamp {
    time.saturating_sub(duration).unwrap_or(Timestamp::MIN)
}

fn short_form(text: &str) -> Option<Option<SignedDuration>> {
    let unit = text.chars().last()?;
    let seconds: i64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count = digits.parse::<i64>().ok();
    Some(
        count
            .and_then(|n| n.checked_mul(seconds))
            .map(SignedDuration::from_secs),
    )
}

fn iso_duration(text: &str) -> Result<SignedDuration, BadTime> {
    if !text.starts_with(['P', 'p']) || text.len() > 64 {
        return Err(BadTime::Duration(cut(text)));
    }
    let span: Span = text.parse().map_err(|_| BadTime::Duration(cut(text)))?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err(BadTime::CalendarUnits(cut(text)));
    }
    let nanos = span
        .total((Unit::Nanosecond, SpanRelativeTo::days_are_24_hours()))
        .map_err(|_| BadTime::Range(cut(text)))?;
    if !nanos.is_finite() || nanos.abs() > DURATION_MAX.as_secs_f64() * 1e9 {
        return Err(BadTime::Range(cut(text)));
    }
    span.to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| BadTime::Range(cut(text)))
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        for (text, secs) in [
            ("PT30S", 30),
            ("P1D", 86_400),
            ("P1DT2H", 93_600),
            ("P1W", 604_800),
            ("PT1.5H", 5400),
            ("pt5s", 5),
            ("30s", 30),
            ("5m", 300),
            ("2h", 7200),
            ("1d", 86_400),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(SignedDuration::from_secs(secs)),
                "{text}"
            );
        }
        assert_eq!(parse_duration_or_zero("PT0S"), Ok(SignedDuration::ZERO));
        assert_eq!(
            parse_duration("PT0.25S"),
            Ok(SignedDuration::from_millis(250)),
            "fractions are exact"
        );
    }

    #[test]
    fn refused_durations() {
        for text in [
            "",
            "P",
            "P1DT",
            "5",
            "s",
            "-PT5S",
            "PT0S",
            "0s",
            "P400D",
            "99999999999999999999s",
            "1.5h",
            "5 m",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_duration("P1M"),
            Err(BadTime::CalendarUnits("P1M".into()))
        );
        assert_eq!(
            parse_duration("P1Y"),
            Err(BadTime::CalendarUnits("P1Y".into()))
        );
    }

    #[test]
    fn times() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().expect("a time");
        assert_eq!(
            parse_time("+PT30S", now).expect("relative").to_string(),
            "2026-11-24T12:00:30Z"
        );
        assert_eq!(
            parse_time("2026-11-24T14:00:00+02:00", now).expect("absolute"),
            now
        );
        assert!(parse_time("tomorrow", now).is_err());
        assert!(
            parse_time("2026-11-24T14:00:00", now).is_err(),
            "an offset is required"
        );
    }

    #[test]
    fn durations_are_written_as_iso_8601() {
        for (secs, text) in [
            (0, "PT0S"),
            (30, "PT30S"),
            (93_600, "P1DT2H"),
            (3661, "PT1H1M1S"),
        ] {
            assert_eq!(format_duration(SignedDuration::from_secs(secs)), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(millis in 1i64..=366 * 86_400_000) {
            let duration = SignedDuration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let _ = parse_duration(&text);
            let _ = parse_time(&text, Timestamp::UNIX_EPOCH);
        }
    }
}
