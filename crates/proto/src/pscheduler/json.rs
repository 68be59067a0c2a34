//! What pScheduler does with JSON besides reading it, which is [`crate::json`]'s.
//!
//! Writing is compact or "pretty" the way the original writes it. Comments, secrets and containment
//! (contract, sections 1 and 3) are plain functions over [`Value`]. This module knows no endpoint and
//! no task.

use serde_json::Value;

/// Drops every member whose name starts with `#`, at any depth (contract, section 1).
pub fn strip_comments(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !name.starts_with('#'));
            members.values_mut().for_each(strip_comments);
        }
        Value::Array(elements) => elements.iter_mut().for_each(strip_comments),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Replaces the value of every member whose name starts with `_` by null, at any depth. The member
/// stays: peers look for it (contract, section 19, quirk 8).
pub fn sanitise(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                if name.starts_with('_') {
                    *value = Value::Null;
                } else {
                    sanitise(value);
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(sanitise),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// How many comparisons one containment question may cost before it is refused.
pub const CONTAINMENT_STEPS: u32 = 2_000_000;

/// Whether `value` contains `pattern` in the sense of PostgreSQL's `jsonb @>`.
///
/// `steps` is what the question may still cost, shared by the questions of one request; `None` is
/// the answer when it is spent.
pub fn contains(value: &Value, pattern: &Value, steps: &mut u32) -> Option<bool> {
    *steps = steps.checked_sub(1)?;
    match (value, pattern) {
        (Value::Object(have), Value::Object(want)) => {
            for (name, want) in want {
                match have.get(name) {
                    Some(have) if contains(have, want, steps)? => {}
                    _ => return Some(false),
                }
            }
            Some(true)
        }
        (Value::Array(have), Value::Array(want)) => {
            for want in want {
                if !any_contains(have, want, steps)? {
                    return Some(false);
                }
            }
            Some(true)
        }
        _ => Some(scalar_equal(value, pattern)),
    }
}

/// The one exception of `@>`: an array contains a bare scalar, but only at the top.
pub fn contains_at_top(value: &Value, pattern: &Value, steps: &mut u32) -> Option<bool> {
    match (value, pattern) {
        (
            Value::Array(have),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_),
        ) => any_contains(have, pattern, steps),
        _ => contains(value, pattern, steps),
    }
}

fn any_contains(have: &[Value], want: &Value, steps: &mut u32) -> Option<bool> {
    for have in have {
        if contains(have, want, steps)? {
            return Some(true);
        }
    }
    Some(false)
}

fn scalar_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            a == b || (a.as_i64().is_none() || b.as_i64().is_none()) && a.as_f64() == b.as_f64()
        }
        (Value::Object(_) | Value::Array(_), _) | (_, Value::Object(_) | Value::Array(_)) => false,
        _ => a == b,
    }
}

/// Writes JSON on one line without blanks, ASCII only, without the final newline.
#[must_use]
pub fn compact(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, None, 0);
    out
}

/// Writes JSON for people: sorted members, four blanks a level and a blank after each comma.
#[must_use]
pub fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, Some(4), 0);
    out
}

fn write(out: &mut String, value: &Value, indent: Option<usize>, level: usize) {
    let deeper = level.saturating_add(1);
    match value {
        Value::Object(members) if members.is_empty() => out.push_str("{}"),
        Value::Array(elements) if elements.is_empty() => out.push_str("[]"),
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            out.push('{');
            for (at, (name, value)) in sorted.into_iter().enumerate() {
                separate(out, at, indent, deeper);
                write_string(out, name);
                out.push_str(if indent.is_some() { ": " } else { ":" });
                write(out, value, indent, deeper);
            }
            line(out, indent, level);
            out.push('}');
        }
        Value::Array(elements) => {
            out.push('[');
            for (at, value) in elements.iter().enumerate() {
                separate(out, at, indent, deeper);
                write(out, value, indent, deeper);
            }
            line(out, indent, level);
            out.push(']');
        }
        Value::String(text) => write_string(out, text),
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
}

fn separate(out: &mut String, at: usize, indent: Option<usize>, level: usize) {
    if at > 0 {
        out.push_str(if indent.is_some() { ", " } else { "," });
    }
    line(out, indent, level);
}

fn line(out: &mut String, indent: Option<usize>, level: usize) {
    if let Some(width) = indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', width.saturating_mul(level)));
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                let mut units = [0_u16; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

/// More of a value than any message shows.
const REPR_BYTES_MAX: usize = 8 << 10;

/// A value as Python prints it: the validator's messages quote instances this way. Secrets are left
/// out, as messages end in logs; what comes after [`REPR_BYTES_MAX`] is too.
#[must_use]
pub fn python_repr(value: &Value) -> String {
    let mut out = String::new();
    repr(&mut out, value);
    out
}

fn repr(out: &mut String, value: &Value) {
    if out.len() >= REPR_BYTES_MAX {
        return;
    }
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => out.push_str(&quoted(text)),
        Value::Array(elements) => {
            out.push('[');
            for (at, element) in elements.iter().enumerate().take(REPR_BYTES_MAX) {
                out.push_str(if at > 0 { ", " } else { "" });
                repr(out, element);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (at, (name, value)) in members.iter().enumerate().take(REPR_BYTES_MAX) {
                out.push_str(if at > 0 { ", " } else { "" });
                out.push_str(&quoted(name));
                out.push_str(": ");
                match name.starts_with('_') {
                    true => out.push_str("None"),
                    false => repr(out, value),
                }
            }
            out.push('}');
        }
    }
}

fn quoted(text: &str) -> String {
    match text.char_indices().nth(REPR_BYTES_MAX) {
        None => python_quote(text),
        Some((at, _)) => python_quote(text.get(..at).unwrap_or("")),
    }
}

/// A string in Python's quotes: single ones, unless the text has those and no double ones.
#[must_use]
pub fn python_quote(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{JsonLimits, parse};
    use proptest::prelude::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Value, String> {
        parse(text, &JsonLimits::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn comments_go_and_secrets_become_null() {
        let mut value = json!({"#": "x", "a": [{"#b": 1, "_c": {"d": 1}}], "_key": "k"});
        strip_comments(&mut value);
        assert_eq!(value, json!({"a": [{"_c": {"d": 1}}], "_key": "k"}));
        sanitise(&mut value);
        assert_eq!(value, json!({"a": [{"_c": null}], "_key": null}));
    }

    #[test]
    fn containment_is_that_of_jsonb() {
        let steps = || CONTAINMENT_STEPS;
        for (value, pattern, want) in [
            (
                json!({"a": 1, "b": {"c": [1, 2, {"d": 3}]}}),
                json!({"b": {"c": [{"d": 3}]}}),
                true,
            ),
            (json!({"a": 1}), json!({}), true),
            (json!({"a": 1}), json!({"a": 1.0}), true),
            (json!({"a": 1}), json!({"a": "1"}), false),
            (json!([1, 2]), json!([2, 2, 1]), true),
            (json!([[1], 2]), json!([1]), false),
            (json!(["x"]), json!("x"), true),
            (json!({"a": ["x"]}), json!({"a": "x"}), false),
            (json!({"a": null}), json!({"a": null}), true),
            (json!({}), json!({"a": null}), false),
        ] {
            assert_eq!(
                contains_at_top(&value, &pattern, &mut steps()),
                Some(want),
                "{value} @> {pattern}"
            );
        }
        let wide = json!(vec![json!([1]); 3000]);
        let needle = json!(vec![json!([2]); 3000]);
        assert_eq!(contains(&wide, &needle, &mut 1000), None);
    }

    #[test]
    fn pretty_has_a_blank_after_each_comma() {
        let value = json!({"b": [1, {}], "a": {"c": []}, "e": "\u{e9}"});
        assert_eq!(compact(&value), r#"{"a":{"c":[]},"b":[1,{}],"e":"\u00e9"}"#);
        assert_eq!(
            pretty(&value),
            "{\n    \"a\": {\n        \"c\": []\n    }, \n    \"b\": [\n        1, \n        {}\n    ], \n    \"e\": \"\\u00e9\"\n}"
        );
    }

    #[test]
    fn instances_are_quoted_as_python_does() {
        assert_eq!(
            python_repr(&json!({"a": [null, true, "it's", "b\"c"], "d": 1.5})),
            "{'a': [None, True, \"it's\", 'b\"c'], 'd': 1.5}"
        );
        assert_eq!(python_repr(&json!({"_key": "s"})), "{'_key': None}");
        assert_eq!(python_quote("a'b\"c\n"), "'a\\'b\"c\\n'");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e12..1e12).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in any_json()) {
            prop_assert_eq!(read(&compact(&value)), Ok(value.clone()));
            prop_assert_eq!(read(&pretty(&value)), Ok(value.clone()));
            prop_assert!(contains(&value, &value, &mut u32::MAX.clone()).unwrap_or(false));
        }
    }
}
