//! What people type, as types: durations, moments, specifications, credentials.
//!
//! Everything is parsed once, here, by the core's own parsers; what comes out cannot be wrong any
//! more.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use muster_core::credential::Snmp;
use muster_core::range::AddressRange;
use muster_core::time::{self, BadTime};
use serde_json::Value;

use super::error::{CliError, Code, Exit};

/// A length of time: ISO 8601 (`PT30S`, `P1D`) or `30s`, `5m`, `2h`, `1d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period(pub(crate) SignedDuration);

/// A moment: ISO 8601, or `+` and a length of time from the present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment(String);

impl FromStr for Period {
    type Err = BadTime;

    fn from_str(text: &str) -> Result<Self, BadTime> {
        time::parse_duration_or_zero(text).map(Self)
    }
}

impl fmt::Display for Period {
    /// ISO 8601.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&time::format_duration(self.0))
    }
}

impl Period {
    /// The same as the standard library's type.
    pub(crate) fn std(self) -> std::time::Duration {
        self.0.unsigned_abs()
    }
}

impl FromStr for Moment {
    type Err = BadTime;

    fn from_str(text: &str) -> Result<Self, BadTime> {
        // Whatever the present is: the form is the same.
        time::parse_time(text, Timestamp::UNIX_EPOCH).map(|_| Self(text.to_owned()))
    }
}

impl Moment {
    /// The moment on the calendar.
    pub(crate) fn at(&self, now: Timestamp) -> Timestamp {
        time::parse_time(&self.0, now).unwrap_or(Timestamp::MAX)
    }
}

/// Reads `--spec`: a JSON object, or `@FILE` that holds one.
pub(crate) fn spec(text: Option<&str>) -> Result<Option<Value>, CliError> {
    let Some(text) = text else { return Ok(None) };
    let (source, body) = match text.strip_prefix('@') {
        None => ("--spec".to_owned(), text.to_owned()),
        Some(file) => {
            let body = std::fs::read_to_string(file)
                .map_err(|e| CliError::usage(format!("cannot read {file}: {e}")))?;
            (file.to_owned(), body)
        }
    };
    match serde_json::from_str::<Value>(&body) {
        Ok(value) if value.is_object() => Ok(Some(value)),
        Ok(_) => Err(CliError::usage(format!("{source} is no JSON object"))),
        Err(e) => Err(CliError::usage(format!("{source} is not JSON: {e}"))),
    }
}

/// A range must be one before it is sent anywhere.
pub(crate) fn check_range(text: &str) -> Result<(), CliError> {
    AddressRange::parse_list(text)
        .map(drop)
        .map_err(|e| CliError::usage(e.to_string()))
}

/// A credential must be one before it is sent anywhere; the text of it is in no message. `@NAME` names a
/// declared one; no command of this build declares any.
pub(crate) fn credential(text: &str) -> Result<Snmp, CliError> {
    if let Some(name) = text.strip_prefix('@') {
        let title = format!("no credential {name:?} is declared");
        return Err(CliError::new(Exit::NotFound, Code::NOT_FOUND, title)
            .line("this version declares no credentials")
            .next("give the credential itself: v2c:COMMUNITY[@PORT]"));
    }
    text.parse()
        .map_err(|e| CliError::usage("--credential is not one").line(format!("{e}")))
}

#[cfg(test)]
mod tests {
    use muster_server::kinds::credential_json;
    use serde_json::json;

    use super::*;

    #[test]
    fn periods_print_as_iso() {
        for (text, iso) in [
            ("30s", "PT30S"),
            ("5m", "PT5M"),
            ("2h", "PT2H"),
            ("1d", "P1D"),
            ("PT0S", "PT0S"),
        ] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), iso, "{text}");
        }
        for text in ["", "5x", "-5s", "P1M", "367d"] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }

    #[test]
    fn moments_on_the_calendar_and_from_now() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (text, at) in [
            ("2026-12-31T23:59:00Z", "2026-12-31T23:59:00Z"),
            ("2026-12-31T23:59:00+02:00", "2026-12-31T21:59:00Z"),
            ("+PT30S", "2026-01-01T00:00:30Z"),
            ("+5m", "2026-01-01T00:05:00Z"),
        ] {
            let moment: Moment = text.parse().unwrap();
            assert_eq!(moment.at(now).to_string(), at, "{text}");
        }
        for text in ["", "tomorrow", "+", "+P1Y", "2026-13-01T00:00:00Z"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_spec_is_an_object() {
        assert_eq!(spec(None).unwrap(), None);
        assert!(spec(Some(r#"{"schema":1}"#)).unwrap().is_some());
        for text in ["[]", "3", "{", "@/no/such/file"] {
            let error = spec(Some(text)).unwrap_err();
            assert_eq!(
                (error.exit, error.code.name()),
                (Exit::Usage, "USAGE"),
                "{text}"
            );
        }
    }

    #[test]
    fn credentials_in_the_form_of_the_tools() {
        for (text, object) in [
            ("v1:public", json!({"version": "1", "community": "public"})),
            (
                "v2c:public@1161",
                json!({"version": "2c", "community": "public", "port": 1161}),
            ),
            (
                "v3:foo,sha1,barbarbar,aes,bazbazbaz",
                json!({"version": "3", "username": "foo", "authprotocol": "sha1",
                    "authpassword": "barbarbar", "privprotocol": "aes128",
                    "privpassword": "bazbazbaz"}),
            ),
        ] {
            assert_eq!(credential_json(&credential(text).unwrap()), object);
        }
    }

    #[test]
    fn a_wrong_credential_is_not_repeated() {
        for text in ["v9:hunter2", "v3:hunter2,sha1", "hunter2", "v2c:"] {
            let error = credential(text).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn ranges_are_checked() {
        for text in [
            "10.0.0.0/24",
            "10.0.0.1-10.0.0.9",
            "host",
            "10.0.0.1,10.0.0.3",
        ] {
            assert!(check_range(text).is_ok(), "{text}");
        }
        for text in ["10.0.0.9-10.0.0.1", "10.0.0.0/99", "a b"] {
            assert_eq!(check_range(text).unwrap_err().exit, Exit::Usage, "{text}");
        }
    }

    #[test]
    fn a_declared_credential_is_looked_for_and_not_found() {
        let error = credential("@lab").expect_err("none is declared");
        assert_eq!(error.exit, Exit::NotFound);
        assert!(error.title.contains("\"lab\""));
        // What may be a secret is in no message.
        let error = credential("v2c@hunter2").expect_err("no such form");
        assert_eq!(error.exit, Exit::Usage);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
