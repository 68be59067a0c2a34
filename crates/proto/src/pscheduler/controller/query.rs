//! The query of a request, and JSON that comes in one or in a body.

use serde_json::Value;

use crate::json::parse;
use crate::pscheduler::json::strip_comments;
use crate::pscheduler::wire::{Limits, Reject};

/// Parameters of a query. Of one given twice the first counts.
pub(super) struct Query {
    parameters: Vec<(String, String)>,
}

impl Query {
    /// Splits a query.
    ///
    /// # Errors
    /// 400 for more parameters than any call has.
    pub(super) fn of(text: &str, limits: &Limits) -> Result<Self, Reject> {
        let mut parameters = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if parameters.len() >= limits.parameters_max {
                return Err(Reject::new(400, "Too many parameters."));
            }
            parameters.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self { parameters })
    }

    /// The value of a parameter.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.as_str())
    }

    /// The same, to be kept.
    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// Whether a parameter says yes (contract, section 1).
    pub(super) fn flag(&self, name: &str) -> bool {
        match self.text(name) {
            None => false,
            Some(value) => {
                value.is_empty()
                    || ["true", "yes", "1"]
                        .iter()
                        .any(|yes| value.eq_ignore_ascii_case(yes))
            }
        }
    }
}

/// Reads JSON and drops its comments.
///
/// # Errors
/// The text for a 400.
pub(super) fn read_json(text: &str, limits: &Limits) -> Result<Value, String> {
    let mut value = parse(text, &limits.json).map_err(|error| format!("Invalid JSON: {error}"))?;
    strip_comments(&mut value);
    Ok(value)
}
