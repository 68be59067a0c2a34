//! JSON as pScheduler reads and writes it.
//!
//! Reading follows Python's decoder down to its error texts, because clients print them to people;
//! it adds the limits Muster keeps on anything from outside. Writing is compact or "pretty" the way
//! the original writes it. Comments, secrets and containment (contract, sections 1 and 3) are plain
//! functions over [`Value`]. This module knows no endpoint and no task.

use serde_json::{Map, Number, Value};

/// What bounds a JSON document from outside.
#[derive(Debug, Clone, Copy)]
pub struct JsonLimits {
    /// Objects and arrays inside each other.
    pub depth_max: usize,
    /// Members of one object.
    pub members_max: usize,
    /// Elements of one array.
    pub elements_max: usize,
    /// Bytes of one string after decoding.
    pub string_bytes_max: usize,
    /// Characters of one number.
    pub number_chars_max: usize,
}

impl Default for JsonLimits {
    fn default() -> Self {
        // The threat model's table for JSON on every wire.
        Self {
            depth_max: 64,
            members_max: 10_000,
            elements_max: 1_000_000,
            string_bytes_max: 8 << 20,
            number_chars_max: 64,
        }
    }
}

/// Why a document is not JSON we take. `Display` is Python's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: line {line} column {column} (char {char})")]
pub struct JsonError {
    /// The fault, in Python's words where Python has them.
    pub what: &'static str,
    /// Line of the fault, from 1.
    pub line: usize,
    /// Column of the fault in characters, from 1.
    pub column: usize,
    /// Offset of the fault in characters, from 0.
    pub char: usize,
}

/// Reads one JSON document. Of members given twice the last one counts, as in the original.
///
/// # Errors
/// [`JsonError`] for anything that is not JSON or exceeds a limit.
pub fn parse(text: &str, limits: &JsonLimits) -> Result<Value, JsonError> {
    let mut reader = Reader {
        text,
        at: 0,
        limits,
    };
    reader.skip_space();
    let value = reader.value(0)?;
    reader.skip_space();
    if reader.at < text.len() {
        return Err(reader.error("Extra data", reader.at));
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    limits: &'a JsonLimits,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn bump(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes).min(self.text.len());
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.bump(1);
        }
    }

    fn error(&self, what: &'static str, at: usize) -> JsonError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before
            .bytes()
            .filter(|b| *b == b'\n')
            .count()
            .saturating_add(1);
        let last = before.rsplit('\n').next().unwrap_or("");
        JsonError {
            what,
            line,
            column: last.chars().count().saturating_add(1),
            char: before.chars().count(),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, JsonError> {
        let start = self.at;
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                for (word, value) in [
                    ("null", Value::Null),
                    ("true", Value::Bool(true)),
                    ("false", Value::Bool(false)),
                ] {
                    if self.rest().starts_with(word) {
                        self.bump(word.len());
                        return Ok(value);
                    }
                }
                Err(self.error("Expecting value", start))
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, JsonError> {
        if depth >= self.limits.depth_max {
            return Err(self.error("Too deeply nested", self.at));
        }
        self.bump(1);
        let mut members = Map::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.bump(1);
            return Ok(Value::Object(members));
        }
        loop {
            if self.peek() != Some(b'"') {
                let what = "Expecting property name enclosed in double quotes";
                return Err(self.error(what, self.at));
            }
            if members.len() >= self.limits.members_max {
                return Err(self.error("Too many members", self.at));
            }
            let name = self.string()?;
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.error("Expecting ':' delimiter", self.at));
            }
            self.bump(1);
            self.skip_space();
            let value = self.value(depth.saturating_add(1))?;
            members.insert(name, value);
            self.skip_space();
            match self.peek() {
                Some(b',') => {
                    self.bump(1);
                    self.skip_space();
                }
                Some(b'}') => {
                    self.bump(1);
                    return Ok(Value::Object(members));
                }
                _ => return Err(self.error("Expecting ',' delimiter", self.at)),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, JsonError> {
        if depth >= self.limits.depth_max {
            return Err(self.error("Too deeply nested", self.at));
        }
        self.bump(1);
        let mut elements = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.bump(1);
            return Ok(Value::Array(elements));
        }
        loop {
            if elements.len() >= self.limits.elements_max {
                return Err(self.error("Too many elements", self.at));
            }
            elements.push(self.value(depth.saturating_add(1))?);
            self.skip_space();
            match self.peek() {
                Some(b',') => {
                    self.bump(1);
                    self.skip_space();
                }
                Some(b']') => {
                    self.bump(1);
                    return Ok(Value::Array(elements));
                }
                _ => return Err(self.error("Expecting ',' delimiter", self.at)),
            }
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        let begin = self.at;
        self.bump(1);
        let mut out = String::new();
        loop {
            let run = self
                .rest()
                .bytes()
                .position(|b| b == b'"' || b == b'\\' || b < 0x20)
                .unwrap_or(self.rest().len());
            out.push_str(self.rest().get(..run).unwrap_or(""));
            if out.len() > self.limits.string_bytes_max {
                return Err(self.error("String too long", begin));
            }
            self.bump(run);
            match self.peek() {
                None => return Err(self.error("Unterminated string starting at", begin)),
                Some(b'"') => {
                    self.bump(1);
                    return Ok(out);
                }
                Some(b'\\') => self.escape(begin, &mut out)?,
                Some(_) => return Err(self.error("Invalid control character at", self.at)),
            }
        }
    }

    fn escape(&mut self, begin: usize, out: &mut String) -> Result<(), JsonError> {
        let at = self.at;
        self.bump(1);
        let Some(kind) = self.peek() else {
            return Err(self.error("Unterminated string starting at", begin));
        };
        let plain = match kind {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.bump(1);
                let first = self.hex4(at)?;
                out.push(self.code_point(first));
                return Ok(());
            }
            _ => return Err(self.error("Invalid \\escape", at)),
        };
        self.bump(1);
        out.push(plain);
        Ok(())
    }

    /// A surrogate without its partner has no place in a Rust string: U+FFFD stands for it.
    fn code_point(&mut self, first: u32) -> char {
        let surrogate = (0xd800..0xdc00).contains(&first);
        if surrogate && self.rest().starts_with("\\u") {
            let mark = self.at;
            self.bump(2);
            if let Ok(second) = self.hex4(mark)
                && (0xdc00..0xe000).contains(&second)
            {
                let offset = ((first & 0x3ff) << 10) | (second & 0x3ff);
                return char::from_u32(0x1_0000_u32.saturating_add(offset)).unwrap_or('\u{fffd}');
            }
            self.at = mark;
        }
        char::from_u32(first).unwrap_or('\u{fffd}')
    }

    fn hex4(&mut self, at: usize) -> Result<u32, JsonError> {
        let digits = self.rest().get(..4).unwrap_or("");
        if digits.len() == 4
            && digits.bytes().all(|b| b.is_ascii_hexdigit())
            && let Ok(value) = u32::from_str_radix(digits, 16)
        {
            self.bump(4);
            return Ok(value);
        }
        Err(self.error("Invalid \\uXXXX escape", at.saturating_add(1)))
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let begin = self.at;
        if self.peek() == Some(b'-') {
            self.bump(1);
        }
        match self.peek() {
            Some(b'0') => self.bump(1),
            Some(b'1'..=b'9') => self.digits(),
            _ => {
                return Err(self.error("Expecting value", begin));
            }
        }
        let mut whole = true;
        let mark = self.at;
        if self.peek() == Some(b'.') {
            self.bump(1);
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                self.digits();
                whole = false;
            } else {
                self.at = mark;
            }
        }
        let mark = self.at;
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.bump(1);
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.bump(1);
            }
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                self.digits();
                whole = false;
            } else {
                self.at = mark;
            }
        }
        let text = self.text.get(begin..self.at).unwrap_or("");
        if text.len() > self.limits.number_chars_max {
            return Err(self.error("Number too long", begin));
        }
        let number = if whole {
            text.parse::<i64>()
                .map(Number::from)
                .ok()
                .or_else(|| text.parse::<u64>().map(Number::from).ok())
        } else {
            text.parse::<f64>().ok().and_then(Number::from_f64)
        };
        number
            .map(Value::Number)
            .ok_or_else(|| self.error("Number out of range", begin))
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.bump(1);
        }
    }
}

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

/// A value as Python prints it: the validator's messages quote instances this way. Secrets are left
/// out, as messages end in logs.
#[must_use]
pub fn python_repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => python_quote(text),
        Value::Array(elements) => {
            let inner: Vec<_> = elements.iter().map(python_repr).collect();
            format!("[{}]", inner.join(", "))
        }
        Value::Object(members) => {
            let shown = |name: &str, value: &Value| match name.starts_with('_') {
                true => "None".to_owned(),
                false => python_repr(value),
            };
            let inner: Vec<_> = members
                .iter()
                .map(|(name, value)| format!("{}: {}", python_quote(name), shown(name, value)))
                .collect();
            format!("{{{}}}", inner.join(", "))
        }
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
    use proptest::prelude::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Value, String> {
        parse(text, &JsonLimits::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn faults_are_told_in_pythons_words() {
        for (text, want) in [
            (
                "{bad",
                "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
            ),
            ("", "Expecting value: line 1 column 1 (char 0)"),
            ("xx", "Expecting value: line 1 column 1 (char 0)"),
            ("[1,", "Expecting value: line 1 column 4 (char 3)"),
            (
                "{\"a\" 1}",
                "Expecting ':' delimiter: line 1 column 6 (char 5)",
            ),
            (
                "{\"a\":1 \n 2}",
                "Expecting ',' delimiter: line 2 column 2 (char 9)",
            ),
            (
                "\"abc",
                "Unterminated string starting at: line 1 column 1 (char 0)",
            ),
            (
                "\"a\nb\"",
                "Invalid control character at: line 1 column 3 (char 2)",
            ),
            ("\"\\q\"", "Invalid \\escape: line 1 column 2 (char 1)"),
            (
                "\"\\u12g4\"",
                "Invalid \\uXXXX escape: line 1 column 3 (char 2)",
            ),
            ("1 2", "Extra data: line 1 column 3 (char 2)"),
            ("NaN", "Expecting value: line 1 column 1 (char 0)"),
            ("-", "Expecting value: line 1 column 1 (char 0)"),
            ("1.", "Extra data: line 1 column 2 (char 1)"),
            ("01", "Extra data: line 1 column 2 (char 1)"),
            ("1e999", "Number out of range: line 1 column 1 (char 0)"),
            (
                "18446744073709551616",
                "Number out of range: line 1 column 1 (char 0)",
            ),
            (
                "[\"\u{e9}\", x]",
                "Expecting value: line 1 column 7 (char 6)",
            ),
        ] {
            assert_eq!(read(text).expect_err(text), want, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded_before_the_stack_is() {
        let fits = format!("{}{}", "[".repeat(64), "]".repeat(64));
        assert!(read(&fits).is_ok());
        for deep in ["[".repeat(100_000), "{\"a\":".repeat(100_000)] {
            assert!(
                read(&deep)
                    .expect_err("too deep")
                    .starts_with("Too deeply nested")
            );
        }
    }

    #[test]
    fn the_last_of_two_members_counts_and_surrogates_join() {
        assert_eq!(read("{\"a\":1,\"a\":2}"), Ok(json!({"a": 2})));
        assert_eq!(read("\"\\ud83d\\ude00\""), Ok(json!("\u{1f600}")));
        assert_eq!(read("\"\\udbff\\udfff\""), Ok(json!("\u{10ffff}")));
        assert_eq!(read("\"\\ud83dx\""), Ok(json!("\u{fffd}x")));
        assert_eq!(read("\"\\ud83d\\u0041\""), Ok(json!("\u{fffd}A")));
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

        #[test]
        fn any_text_is_read_or_refused_as_serde_does(text in "[\\[\\]{}\",:0-9.eE+tfn\\\\u a-z-]{0,40}") {
            let ours = read(&text);
            let theirs: Result<Value, _> = serde_json::from_str(&text);
            match (ours, theirs) {
                (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours, theirs),
                (Err(_), Err(_)) => {}
                // serde keeps whole numbers beyond 64 bits as floats and refuses lone surrogates.
                (Err(error), Ok(_)) => prop_assert!(error.starts_with("Number out of range")),
                (Ok(_), Err(error)) => prop_assert!(error.to_string().contains("surrogate")
                    || error.to_string().contains("hex escape")),
            }
        }
    }
}
