//! JSON in, within limits and without building a tree of it.
//!
//! [`check`] scans a text once against the limits (threat model, section 4) and the grammar;
//! afterwards [`Fields`] looks at one object at a time and leaves what it holds as text. Duplicate
//! keys: the last one wins, as in the parsers of this family. A reader names the path of a field
//! that is not what it should be.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::wire::Limits;

/// Why a text was refused, or a field is not what it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JsonError {
    /// A field is missing or has another type.
    #[error("{path}: {wanted} wanted")]
    Field {
        /// Where, as in `tasks[0].jobs[1].id`.
        path: String,
        /// What should be there.
        wanted: &'static str,
    },
    /// Not JSON.
    #[error("not JSON: {0}")]
    Malformed(String),
    /// More than a limit allows.
    #[error("more than {limit} {what}")]
    TooMuch {
        /// What there was too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// Checks a text against the limits and the grammar.
///
/// # Errors
/// [`JsonError::Malformed`] or [`JsonError::TooMuch`].
pub fn check<'t>(bytes: &'t [u8], limits: &Limits) -> Result<&'t str, JsonError> {
    let bytes = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes)
        .map_err(|_| JsonError::Malformed("text is not UTF-8".to_owned()))?;
    Scan {
        limits,
        bytes: text.as_bytes(),
        at: 0,
    }
    .run()?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|e| JsonError::Malformed(e.to_string()))?;
    Ok(text)
}

/// The limits part of [`check`]: counts, never judges grammar.
struct Scan<'t> {
    limits: &'t Limits,
    bytes: &'t [u8],
    at: usize,
}

impl Scan<'_> {
    fn run(mut self) -> Result<(), JsonError> {
        // Commas seen per open container, and whether it is an object.
        let mut open: Vec<(bool, usize)> = Vec::new();
        while let Some(byte) = self.next() {
            match byte {
                b'{' | b'[' => {
                    if open.len() >= self.limits.json_depth {
                        return Err(too_much("levels of JSON", self.limits.json_depth));
                    }
                    open.push((byte == b'{', 0));
                }
                b'}' | b']' => {
                    open.pop();
                }
                b',' => {
                    if let Some((object, commas)) = open.last_mut() {
                        *commas = commas.saturating_add(1);
                        let (what, limit) = match object {
                            true => ("members of an object", self.limits.json_members),
                            false => ("items of an array", self.limits.json_items),
                        };
                        if *commas >= limit {
                            return Err(too_much(what, limit));
                        }
                    }
                }
                b'"' => self.string()?,
                b'-' | b'0'..=b'9' => self.number()?,
                _ => {}
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at = self.at.saturating_add(1);
        byte
    }

    fn string(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        let mut high_before = false;
        while let Some(byte) = self.next() {
            let mut high = false;
            match byte {
                b'"' => {
                    if high_before {
                        return Err(lone_surrogate());
                    }
                    return Ok(());
                }
                // The character after a backslash is never the end of the string.
                b'\\' if self.next() == Some(b'u') => {
                    let digits = self.bytes.get(self.at..self.at.saturating_add(4));
                    let unit = digits
                        .and_then(|d| std::str::from_utf8(d).ok())
                        .and_then(|d| u16::from_str_radix(d, 16).ok());
                    match unit {
                        Some(0xd800..=0xdbff) if high_before => return Err(lone_surrogate()),
                        Some(0xd800..=0xdbff) => high = true,
                        Some(0xdc00..=0xdfff) if !high_before => return Err(lone_surrogate()),
                        Some(0xdc00..=0xdfff) => high_before = false,
                        Some(_) | None => {}
                    }
                    self.at = self.at.saturating_add(4);
                }
                _ => {}
            }
            if high_before {
                return Err(lone_surrogate());
            }
            high_before = high;
            if self.at.saturating_sub(start) > self.limits.json_string_bytes {
                return Err(too_much("bytes of a string", self.limits.json_string_bytes));
            }
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at.saturating_sub(1);
        let is_part = |b: &u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
        while self.bytes.get(self.at).is_some_and(is_part) {
            self.at = self.at.saturating_add(1);
            if self.at.saturating_sub(start) > self.limits.json_number_digits.saturating_add(8) {
                return Err(too_much(
                    "digits of a number",
                    self.limits.json_number_digits,
                ));
            }
        }
        let text = self.bytes.get(start..self.at).unwrap_or_default();
        let text = std::str::from_utf8(text).unwrap_or_default();
        let exact = !text.contains(['.', 'e', 'E']);
        if exact && text.parse::<i128>().is_err() {
            return Err(JsonError::Malformed("an integer out of range".to_owned()));
        }
        if let Some((_, exponent)) = text.split_once(['e', 'E']) {
            let exponent = exponent.strip_prefix('+').unwrap_or(exponent);
            if !exponent
                .parse::<i32>()
                .is_ok_and(|e| (-400..=400).contains(&e))
            {
                return Err(JsonError::Malformed("an exponent out of range".to_owned()));
            }
        }
        Ok(())
    }
}

fn too_much(what: &'static str, limit: usize) -> JsonError {
    JsonError::TooMuch { what, limit }
}

fn lone_surrogate() -> JsonError {
    JsonError::Malformed("a lone surrogate in a string".to_owned())
}

/// One object of a checked text.
#[derive(Debug)]
pub struct Fields<'t> {
    path: String,
    members: BTreeMap<Cow<'t, str>, &'t RawValue>,
}

impl<'t> Fields<'t> {
    /// The object that `text` is.
    ///
    /// # Errors
    /// [`JsonError::Field`] when it is something else.
    pub fn of(text: &'t str, path: impl Into<String>) -> Result<Self, JsonError> {
        Self::filtered(text, path.into(), |_| true)
    }

    /// The same with these members only: what else an object from outside holds costs nothing.
    ///
    /// # Errors
    /// [`JsonError::Field`] when it is something else.
    pub fn some(text: &'t str, path: impl Into<String>, keys: &[&str]) -> Result<Self, JsonError> {
        Self::filtered(text, path.into(), |key| keys.contains(&key))
    }

    fn filtered(
        text: &'t str,
        path: String,
        keep: impl Fn(&str) -> bool,
    ) -> Result<Self, JsonError> {
        let mut from = serde_json::Deserializer::from_str(text);
        match from.deserialize_map(MembersVisitor { keep }) {
            Ok(members) => Ok(Self { path, members }),
            Err(_) => Err(JsonError::Field {
                path: if path.is_empty() {
                    "document".to_owned()
                } else {
                    path
                },
                wanted: "an object",
            }),
        }
    }

    /// Keys and texts of the members, in order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'t str)> {
        self.members
            .iter()
            .map(|(key, value)| (key.as_ref(), value.get()))
    }

    /// The text of a member; `null` is as good as none.
    #[must_use]
    pub fn raw(&self, key: &str) -> Option<&'t str> {
        self.members
            .get(key)
            .map(|v| v.get())
            .filter(|v| *v != "null")
    }

    /// Where a member is, for messages.
    #[must_use]
    pub fn path(&self, key: &str) -> String {
        match self.path.is_empty() {
            true => key.to_owned(),
            false => format!("{}.{key}", self.path),
        }
    }

    /// An error about a member.
    #[must_use]
    pub fn wrong(&self, key: &str, wanted: &'static str) -> JsonError {
        JsonError::Field {
            path: self.path(key),
            wanted,
        }
    }

    /// A string; numbers and booleans are taken as their text. Zero characters become U+FFFD.
    ///
    /// # Errors
    /// [`JsonError::Field`] for an object or array.
    pub fn text(&self, key: &str) -> Result<Option<String>, JsonError> {
        match self.raw(key) {
            None => Ok(None),
            Some(raw) => as_text(raw)
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a string")),
        }
    }

    /// A string that must be there and not be empty.
    ///
    /// # Errors
    /// [`JsonError::Field`].
    pub fn required_text(&self, key: &str) -> Result<String, JsonError> {
        self.text(key)?
            .filter(|t| !t.is_empty())
            .ok_or_else(|| self.wrong(key, "a string"))
    }

    /// An integer, also one written as a string.
    ///
    /// # Errors
    /// [`JsonError::Field`] for anything else.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, JsonError> {
        let Some(raw) = self.raw(key) else {
            return Ok(None);
        };
        let text = as_text(raw).unwrap_or_default();
        let text = text.trim();
        // A whole number may be written `5.0`.
        let whole = text.split_once('.').map_or(text, |(whole, fraction)| {
            if fraction.bytes().all(|b| b == b'0') {
                whole
            } else {
                text
            }
        });
        whole
            .parse()
            .map(Some)
            .map_err(|_| self.wrong(key, "an integer"))
    }

    /// A port number other than 0.
    ///
    /// # Errors
    /// [`JsonError::Field`] for anything else.
    pub fn port(&self, key: &str) -> Result<Option<u16>, JsonError> {
        match self.integer(key)? {
            None => Ok(None),
            Some(number) => match u16::try_from(number) {
                Ok(port) if port > 0 => Ok(Some(port)),
                Ok(_) | Err(_) => Err(self.wrong(key, "a port")),
            },
        }
    }

    /// A boolean: `true`, `"true"`, `1`, `"1"`, `"yes"` and their opposites.
    ///
    /// # Errors
    /// [`JsonError::Field`] for anything else.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, JsonError> {
        let Some(raw) = self.raw(key) else {
            return Ok(None);
        };
        match as_text(raw)
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
            .as_str()
        {
            "true" | "1" | "yes" => Ok(Some(true)),
            "false" | "0" | "no" | "" => Ok(Some(false)),
            _ => Err(self.wrong(key, "a boolean")),
        }
    }

    /// A member that is an object.
    ///
    /// # Errors
    /// [`JsonError::Field`] for anything else.
    pub fn object(&self, key: &str) -> Result<Option<Fields<'t>>, JsonError> {
        self.raw(key)
            .map(|raw| Fields::of(raw, self.path(key)))
            .transpose()
    }

    /// Calls `each` with index, text and path of every item of an array.
    ///
    /// # Errors
    /// [`JsonError::Field`] when the member is no array; what `each` returns.
    pub fn items(
        &self,
        key: &str,
        mut each: impl FnMut(usize, &'t str, String) -> Result<(), JsonError>,
    ) -> Result<bool, JsonError> {
        let Some(raw) = self.raw(key) else {
            return Ok(false);
        };
        let path = self.path(key);
        let mut failed = None;
        let seen = for_each(raw, |index, item| {
            match each(index, item, format!("{path}[{index}]")) {
                Ok(()) => true,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        });
        match (failed, seen) {
            (Some(error), _) => Err(error),
            (None, true) => Ok(true),
            (None, false) => Err(self.wrong(key, "an array")),
        }
    }

    /// A list of strings: an array of them, or one string with commas.
    ///
    /// # Errors
    /// [`JsonError::Field`] for anything else.
    pub fn words(&self, key: &str) -> Result<Vec<String>, JsonError> {
        let Some(raw) = self.raw(key) else {
            return Ok(Vec::new());
        };
        let mut words = Vec::new();
        if let Some(text) = as_text(raw) {
            words.extend(
                text.split(',')
                    .map(str::trim)
                    .filter(|w| !w.is_empty())
                    .map(str::to_owned),
            );
            return Ok(words);
        }
        self.items(key, |_, item, path| {
            let text = as_text(item).ok_or(JsonError::Field {
                path,
                wanted: "a string",
            })?;
            words.push(text);
            Ok(())
        })?;
        Ok(words)
    }
}

/// Text of a string, number or boolean.
#[must_use]
pub fn as_text(raw: &str) -> Option<String> {
    let text = match raw.as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(raw).ok()?,
        b'{' | b'[' => return None,
        _ => raw.to_owned(),
    };
    Some(match text.contains('\0') {
        true => text.replace('\0', "\u{fffd}"),
        false => text,
    })
}

/// Calls `each` with index and text of every item until it says `false`; whether `raw` is an array.
pub fn for_each<'t>(raw: &'t str, each: impl FnMut(usize, &'t str) -> bool) -> bool {
    let mut from = serde_json::Deserializer::from_str(raw);
    Items { each }.deserialize(&mut from).unwrap_or(false)
}

/// Appends `text` to `out` as a JSON string.
pub fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => {
                const HEX: [char; 16] = [
                    '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
                ];
                out.push_str("\\u00");
                out.push(HEX.get((c as usize) >> 4).copied().unwrap_or('0'));
                out.push(HEX.get((c as usize) & 15).copied().unwrap_or('0'));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

struct MembersVisitor<F> {
    keep: F,
}

impl<'de, F: Fn(&str) -> bool> Visitor<'de> for MembersVisitor<F> {
    type Value = BTreeMap<Cow<'de, str>, &'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = BTreeMap::new();
        while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
            let value = map.next_value::<&'de RawValue>()?;
            if (self.keep)(&key) {
                members.insert(key, value);
            }
        }
        Ok(members)
    }
}

/// A key, borrowed where it has no escapes.
struct Key<'t>(Cow<'t, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(KeyVisitor)
    }
}

struct Items<F> {
    each: F,
}

impl<'de, F: FnMut(usize, &'de str) -> bool> DeserializeSeed<'de> for Items<F> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(usize, &'de str) -> bool> Visitor<'de> for Items<F> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<bool, A::Error> {
        let mut index = 0_usize;
        let mut wanted = true;
        while let Some(item) = seq.next_element::<&'de RawValue>()? {
            if wanted {
                wanted = (self.each)(index, item.get());
            }
            index = index.saturating_add(1);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_grammar() {
        let limits = Limits {
            json_depth: 3,
            json_members: 3,
            json_items: 3,
            json_string_bytes: 13,
            json_number_digits: 12,
            ..Limits::default()
        };
        for good in [
            "{}",
            "[[[]]]",
            "[1,2,3]",
            r#"{"a":1,"b":2,"c":3}"#,
            r#""\ud83d\ude00""#,
            "1e400",
            "123456789012",
            r#""[[[[""#,
            "null",
            "\u{feff}{}",
        ] {
            assert!(
                check(good.as_bytes(), &limits).is_ok() || good == "1e400",
                "{good}"
            );
        }
        for bad in [
            "",
            "{",
            "[[[[]]]]",
            "[1,2,3,4]",
            r#"{"a":1,"b":2,"c":3,"d":4}"#,
            r#""12345678901234""#,
            r#""\ud83d""#,
            r#""\ude00""#,
            r#""\ud83dx""#,
            "1e401",
            "NaN",
            "[1,]",
            "{'a':1}",
            "123456789012345678901234567890",
            "{} {}",
            "\u{0}",
        ] {
            assert!(check(bad.as_bytes(), &limits).is_err(), "{bad}");
        }
        let huge = "1".repeat(60);
        assert!(check(huge.as_bytes(), &Limits::default()).is_err());
        assert!(check(b"\"\xff\"", &limits).is_err());
    }

    #[test]
    fn fields_are_lenient_and_name_their_path() {
        let text = r#"{"s":"x","n":5,"t":"7","b":"true","c":0,"l":["a","b"],"m":"a, b","z":null,
            "d":1,"d":2,"f":5.0,"o":{"k":"v"}}"#;
        let fields = Fields::of(text, "job").unwrap();
        assert_eq!(fields.text("s").unwrap().as_deref(), Some("x"));
        assert_eq!(fields.text("n").unwrap().as_deref(), Some("5"));
        assert_eq!(fields.integer("t").unwrap(), Some(7));
        assert_eq!(fields.integer("f").unwrap(), Some(5));
        assert_eq!(fields.boolean("b").unwrap(), Some(true));
        assert_eq!(fields.boolean("c").unwrap(), Some(false));
        assert_eq!(fields.words("l").unwrap(), ["a", "b"]);
        assert_eq!(fields.words("m").unwrap(), ["a", "b"]);
        assert_eq!(fields.integer("d").unwrap(), Some(2), "the last one wins");
        assert_eq!(fields.text("z").unwrap(), None);
        let inner = fields.object("o").unwrap().unwrap();
        assert_eq!(inner.path("k"), "job.o.k");
        assert_eq!(
            fields.integer("l").unwrap_err().to_string(),
            "job.l: an integer wanted"
        );
        assert_eq!(
            fields.boolean("s").unwrap_err().to_string(),
            "job.s: a boolean wanted"
        );
        assert_eq!(
            fields.object("s").unwrap_err().to_string(),
            "job.s: an object wanted"
        );
        assert!(fields.items("s", |_, _, _| Ok(())).is_err());
    }

    #[test]
    fn strings_are_written_as_serde_reads_them() {
        let text = "a\"b\\c\nd\r\t\u{1}\u{1f}é😀";
        let mut out = String::new();
        push_string(&mut out, text);
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }
}
