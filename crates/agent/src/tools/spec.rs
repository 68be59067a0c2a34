//! Reading specs: typed members of a JSON object, with errors that name the member.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use muster_core::range::is_host_name;
use muster_core::time::parse_duration_or_zero;
use serde_json::{Map, Value};

use super::SpecError;

/// The members of a spec.
#[derive(Clone, Copy, Debug)]
pub struct Members<'a> {
    path: &'a str,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Members<'a> {
    /// The members of an object; `null` has none. `path` is where it stands.
    ///
    /// # Errors
    /// Anything else is not a spec.
    pub fn of(value: &'a Value, path: &'a str) -> Result<Self, SpecError> {
        match value {
            Value::Object(map) => Ok(Self {
                path,
                map: Some(map),
            }),
            Value::Null => Ok(Self { path, map: None }),
            Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                let path = if path.is_empty() { "/" } else { path };
                Err(SpecError::at(path, "is not an object"))
            }
        }
    }

    /// A member as it is; `null` counts as absent.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&'a Value> {
        self.map?.get(name).filter(|value| !value.is_null())
    }

    /// An error about a member.
    #[must_use]
    pub fn wrong(&self, name: &str, problem: impl Into<String>) -> SpecError {
        SpecError::at(format!("{}/{name}", self.path), problem)
    }

    /// A string.
    ///
    /// # Errors
    /// When it is there and no string.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, SpecError> {
        match self.raw(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "is not a string")),
        }
    }

    /// A whole number within a range; a string of digits will do.
    ///
    /// # Errors
    /// When it is there and is none, or lies outside.
    pub fn integer(
        &self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, SpecError> {
        let Some(value) = self.raw(name) else {
            return Ok(None);
        };
        let number = value
            .as_i64()
            .or_else(|| value.as_str()?.trim().parse().ok());
        match number {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            Some(_) => {
                let (low, high) = (range.start(), range.end());
                Err(self.wrong(name, format!("is not within {low} to {high}")))
            }
            None => Err(self.wrong(name, "is not a whole number")),
        }
    }

    /// A boolean; the strings `true` and `false` will do (FusionInventory contract, section 1.2).
    ///
    /// # Errors
    /// When it is there and is none.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, SpecError> {
        match self.raw(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(Value::String(text)) if text == "true" => Ok(Some(true)),
            Some(Value::String(text)) if text == "false" => Ok(Some(false)),
            Some(_) => Err(self.wrong(name, "is not a boolean")),
        }
    }

    /// A length of time, as an ISO 8601 duration, a short form (`2s`), or a number of seconds.
    ///
    /// # Errors
    /// When it is there and is none.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>, SpecError> {
        let Some(value) = self.raw(name) else {
            return Ok(None);
        };
        let duration = match value {
            Value::String(text) => parse_duration_or_zero(text)
                .ok()
                .and_then(|duration| Duration::try_from(duration).ok()),
            Value::Number(number) => number
                .as_f64()
                .filter(|seconds| (0.0..=366.0 * 86_400.0).contains(seconds))
                .map(Duration::from_secs_f64),
            Value::Array(_) | Value::Bool(_) | Value::Null | Value::Object(_) => None,
        };
        duration
            .map(Some)
            .ok_or_else(|| self.wrong(name, "is not a duration"))
    }

    /// A host: an address or a name.
    ///
    /// # Errors
    /// When it is there and is neither.
    pub fn host(&self, name: &str) -> Result<Option<&'a str>, SpecError> {
        match self.text(name)? {
            None => Ok(None),
            Some(host) if host.parse::<IpAddr>().is_ok() || is_host_name(host) => Ok(Some(host)),
            Some(_) => Err(self.wrong(name, "is neither an address nor a host name")),
        }
    }

    /// A list; a single value counts as a list of one.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<&'a Value> {
        match self.raw(name) {
            None => Vec::new(),
            Some(Value::Array(values)) => values.iter().collect(),
            Some(single) => vec![single],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn members_are_typed_and_errors_name_them() {
        let spec = json!({
            "text": "a", "count": 5, "digits": " 7 ", "yes": "true", "no": false, "none": null,
            "iso": "PT1.5S", "short": "2m", "seconds": 0.25, "host": "a-b.example", "v6": "::1",
            "bad": [1], "dash": "-x", "neg": -1, "one": 3, "many": [1, 2],
        });
        let m = Members::of(&spec, "/spec").unwrap();
        assert_eq!(m.text("text"), Ok(Some("a")));
        assert_eq!(m.text("none"), Ok(None));
        assert_eq!(m.integer("count", 1..=9), Ok(Some(5)));
        assert_eq!(m.integer("digits", 1..=9), Ok(Some(7)));
        assert_eq!(
            (m.boolean("yes"), m.boolean("no")),
            (Ok(Some(true)), Ok(Some(false)))
        );
        assert_eq!(m.duration("iso"), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(m.duration("short"), Ok(Some(Duration::from_secs(120))));
        assert_eq!(m.duration("seconds"), Ok(Some(Duration::from_millis(250))));
        assert_eq!(m.host("host"), Ok(Some("a-b.example")));
        assert_eq!(m.host("v6"), Ok(Some("::1")));
        assert_eq!(
            (
                m.list("one").len(),
                m.list("many").len(),
                m.list("absent").len()
            ),
            (1, 2, 0)
        );
        for error in [
            m.text("bad").unwrap_err(),
            m.integer("bad", 0..=1).unwrap_err(),
            m.boolean("bad").unwrap_err(),
            m.duration("bad").unwrap_err(),
        ] {
            assert_eq!(error.path, "/spec/bad");
        }
        assert_eq!(
            m.integer("neg", 1..=9).unwrap_err().problem,
            "is not within 1 to 9"
        );
        assert!(m.duration("neg").is_err());
        assert!(m.host("dash").is_err(), "would be an option to a program");
        assert_eq!(
            Members::of(&json!([]), "").unwrap_err().to_string(),
            "at /: is not an object"
        );
    }
}
