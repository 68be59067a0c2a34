//! Comparing facts with a specification of the same shape.
//!
//! A specification mirrors the facts. A scalar wants the same value; an object whose members are all
//! rules (`equals`, `min`, `max`, `count`, `one_of`) wants each of them; any other object is
//! descended into. Texts are compared without regard to case.

use std::fmt;

use serde_json::{Value, json};

use crate::tools::SpecError;

const RULES: [&str; 5] = ["count", "equals", "max", "min", "one_of"];

/// What came of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fail,
    Pass,
    /// The machine does not tell.
    Unknown,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Pass => "pass",
            Self::Unknown => "unknown",
        }
    }
}

/// One rule against one fact.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Check {
    path: String,
    rule: &'static str,
    expected: Value,
    found: Value,
    pub(super) verdict: Verdict,
}

impl Check {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "path": self.path,
            "rule": self.rule,
            "expected": self.expected,
            "found": self.found,
            "verdict": self.verdict.word(),
        })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            expected,
            found,
            ..
        } = self;
        match self.rule {
            "count" => write!(f, "{path} has {found} entries, wanted {expected}"),
            "max" => write!(f, "{path} is {found}, wanted at most {expected}"),
            "min" => write!(f, "{path} is {found}, wanted at least {expected}"),
            "one_of" => write!(f, "{path} is {found}, wanted one of {expected}"),
            _ => write!(f, "{path} is {found}, wanted {expected}"),
        }
    }
}

/// Refuses a specification whose rules cannot be applied.
pub(super) fn check(wanted: &Value, path: &str) -> Result<(), SpecError> {
    let Some(members) = wanted.as_object() else {
        return Err(SpecError::at(path, "must be an object"));
    };
    let rules = is_rules(wanted);
    for (name, value) in members {
        let path = format!("{path}/{name}");
        let problem = match name.as_str() {
            "count" if rules && value.as_u64().is_none() => Some("must be a whole number"),
            "max" | "min" if rules && !value.is_number() => Some("must be a number"),
            "one_of" if rules && !value.is_array() => Some("must be a list"),
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(SpecError::at(path, problem));
        }
        if !rules && value.is_object() {
            check(value, &path)?;
        }
    }
    Ok(())
}

/// Applies a checked specification.
pub(super) fn compare(facts: &Value, wanted: &Value) -> Vec<Check> {
    let mut checks = Vec::new();
    descend(facts, wanted, "", &mut checks);
    checks
}

/// The worst verdict.
pub(super) fn overall(checks: &[Check]) -> &'static str {
    let any = |verdict| checks.iter().any(|check| check.verdict == verdict);
    if checks.is_empty() {
        "none"
    } else if any(Verdict::Fail) {
        "fail"
    } else if any(Verdict::Unknown) {
        "unknown"
    } else {
        "pass"
    }
}

fn is_rules(wanted: &Value) -> bool {
    wanted.as_object().is_some_and(|members| {
        !members.is_empty() && members.keys().all(|name| RULES.contains(&name.as_str()))
    })
}

fn descend(fact: &Value, wanted: &Value, path: &str, checks: &mut Vec<Check>) {
    if is_rules(wanted) {
        for rule in RULES {
            if let Some(expected) = wanted.get(rule) {
                checks.push(apply(rule, fact, expected, path));
            }
        }
    } else if let Some(members) = wanted.as_object() {
        for (name, wanted) in members {
            let fact = fact.get(name).unwrap_or(&Value::Null);
            descend(fact, wanted, &format!("{path}/{name}"), checks);
        }
    } else {
        checks.push(apply("equals", fact, wanted, path));
    }
}

fn apply(rule: &'static str, fact: &Value, expected: &Value, path: &str) -> Check {
    let passes = match rule {
        "count" => fact
            .as_array()
            .map(|entries| Some(entries.len() as u64) == expected.as_u64()),
        "max" => number(fact)
            .zip(number(expected))
            .map(|(fact, most)| fact <= most),
        "min" => number(fact)
            .zip(number(expected))
            .map(|(fact, least)| fact >= least),
        "one_of" => expected
            .as_array()
            .filter(|_| !fact.is_null())
            .map(|choices| choices.iter().any(|choice| same(fact, choice))),
        _ => Some(same(fact, expected)).filter(|_| !fact.is_null()),
    };
    let found = match (rule, fact.as_array()) {
        ("count", Some(entries)) => json!(entries.len()),
        _ => fact.clone(),
    };
    let verdict = match passes {
        Some(true) => Verdict::Pass,
        Some(false) => Verdict::Fail,
        None => Verdict::Unknown,
    };
    Check {
        path: path.to_owned(),
        rule,
        expected: expected.clone(),
        found,
        verdict,
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64()
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.eq_ignore_ascii_case(b),
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn rules_pass_fail_or_are_unknown() {
        let facts = json!({"n": 8, "t": "Intel", "list": [1, 2], "absent": null});
        for (wanted, verdict) in [
            (json!({"n": 8}), Verdict::Pass),
            (json!({"n": 8.0}), Verdict::Pass),
            (json!({"n": {"min": 8, "max": 8}}), Verdict::Pass),
            (json!({"n": {"min": 9}}), Verdict::Fail),
            (json!({"n": {"max": 7.5}}), Verdict::Fail),
            (json!({"t": "INTEL"}), Verdict::Pass),
            (json!({"t": {"one_of": ["AMD", "intel"]}}), Verdict::Pass),
            (json!({"t": {"one_of": ["AMD"]}}), Verdict::Fail),
            (json!({"t": {"min": 1}}), Verdict::Unknown),
            (json!({"list": {"count": 2}}), Verdict::Pass),
            (json!({"list": {"count": 3}}), Verdict::Fail),
            (json!({"absent": 1}), Verdict::Unknown),
            (json!({"absent": {"one_of": [null]}}), Verdict::Unknown),
            (json!({"never": {"heard": {"of": 1}}}), Verdict::Unknown),
        ] {
            check(&wanted, "").unwrap();
            let checks = compare(&facts, &wanted);
            assert!(!checks.is_empty());
            let worst = checks.iter().find(|check| check.verdict != Verdict::Pass);
            assert_eq!(
                worst.map_or(Verdict::Pass, |check| check.verdict),
                verdict,
                "{wanted}"
            );
        }
        assert_eq!(overall(&[]), "none");
    }
}
