//! What people and peers write in words: lengths, times, cron expressions, ranges, credentials, tokens, values.

use jiff::{SignedDuration, Timestamp};
use muster_core::credential::Snmp;
use muster_core::range::{ADDRESSES_MAX, AddressRange};
use muster_core::run::OfferToken;
use muster_core::sample::{Value, ValueType};
use muster_core::schedule::{CronExpr, History, Schedule, Start};
use muster_core::time::{
    DURATION_MAX, format_duration, parse_duration, parse_duration_or_zero, parse_time,
};

/// A word, given to every reader of words.
///
/// # Panics
/// When what was read is outside what its reader promises, or does not come back as it was written.
pub fn all(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    lengths_and_times(text);
    if let Ok(cron) = text.parse::<CronExpr>() {
        schedule(cron);
    }
    if let Ok(ranges) = AddressRange::parse_list(text) {
        for range in ranges {
            assert!(range.len() <= ADDRESSES_MAX);
            assert_eq!(range.to_string().parse().as_ref(), Ok(&range));
        }
    }
    let _ = text.parse::<Snmp>();
    if let Ok(token) = text.parse::<OfferToken>() {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
    for value_type in ValueType::ALL {
        if let Ok(Value::Float(number)) = Value::parse(value_type, text) {
            assert!(number.is_finite());
        }
    }
}

fn lengths_and_times(text: &str) {
    if let Ok(length) = parse_duration_or_zero(text) {
        assert!(!length.is_negative() && length <= DURATION_MAX);
        assert_eq!(parse_duration_or_zero(&format_duration(length)), Ok(length));
        assert_eq!(parse_duration(text).is_ok(), !length.is_zero());
    }
    for now in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        if let Ok(time) = parse_time(text, now) {
            assert!(!text.starts_with('+') || time >= now);
        }
    }
}

/// Turns of a schedule come one after the other, and it ends where the calendar does.
fn schedule(cron: CronExpr) {
    for start in [Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        let schedule = Schedule {
            start: Start::At(start),
            repeat: Some(SignedDuration::from_hours(24 * 366)),
            cron: Some(cron.clone()),
            ..Schedule::default()
        };
        let mut history = History::default();
        for runs in 1..=3 {
            let Some(next) = schedule.next(&history, start) else {
                break;
            };
            assert!(history.latest.is_none_or(|latest| next > latest));
            history = History {
                runs,
                first: history.first.or(Some(next)),
                latest: Some(next),
            };
        }
    }
}
