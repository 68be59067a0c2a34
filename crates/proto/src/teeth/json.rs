//! JSON that is kept as text.
//!
//! A peer's parameters and results are looked at member by member and copied back verbatim far more
//! often than they are read whole. Keeping the checked text instead of a tree bounds memory by the
//! line (a tree of small numbers is thirty times its text), keeps numbers exact, and lets a `ping`
//! come back as it was sent. Anyone who wants a tree asks for one with [`Json::to_value`].

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// A JSON text without insignificant white space. Always syntactically valid.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Json(Box<str>);

impl Json {
    /// `null`.
    pub fn null() -> Self {
        Self("null".into())
    }

    /// `{}`.
    pub fn empty() -> Self {
        Self("{}".into())
    }

    /// Takes a text that a JSON parser has accepted and drops the white space between tokens.
    pub(super) fn from_checked(text: &str) -> Self {
        let mut out = String::with_capacity(text.len());
        let mut in_string = false;
        let mut escaped = false;
        for c in text.chars() {
            if in_string {
                out.push(c);
                if escaped {
                    escaped = false;
                } else if c == '\\' {
                    escaped = true;
                } else if c == '"' {
                    in_string = false;
                }
            } else if !matches!(c, ' ' | '\t' | '\r' | '\n') {
                in_string = c == '"';
                out.push(c);
            }
        }
        Self(out.into_boxed_str())
    }

    /// Reads any JSON text; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        Some(Self::from_checked(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Length of the text in bytes.
    pub fn len_bytes(&self) -> usize {
        self.0.len()
    }

    /// Whether this is an object.
    pub fn is_object(&self) -> bool {
        self.0.starts_with('{')
    }

    /// Whether the original peers would call this value false: `null`, `false`, zero in any
    /// notation, `""`, `[]` or `{}` (teeth contract, section 4).
    pub fn is_falsy(&self) -> bool {
        match &*self.0 {
            "null" | "false" | "\"\"" | "[]" | "{}" => true,
            text => {
                text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
                    && text
                        .chars()
                        .take_while(|c| !matches!(c, 'e' | 'E'))
                        .all(|c| matches!(c, '-' | '.' | '0'))
            }
        }
    }

    /// The text of a JSON string, with lone surrogates replaced; `None` for any other kind of value.
    pub fn as_text(&self) -> Option<String> {
        if self.0.starts_with('"') {
            self.decode().ok()
        } else {
            None
        }
    }

    /// The value as a number that is neither infinite nor out of range.
    pub fn as_number(&self) -> Option<f64> {
        if self.0.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
            self.decode::<f64>().ok().filter(|n| n.is_finite())
        } else {
            None
        }
    }

    /// A string as its text, anything else as its JSON: for people to read.
    pub fn to_text(&self) -> String {
        self.as_text().unwrap_or_else(|| self.0.to_string())
    }

    /// The value as a tree.
    ///
    /// # Errors
    /// When a number is beyond what a double holds.
    pub fn to_value(&self) -> Result<Value, serde_json::Error> {
        self.decode()
    }

    /// Decodes into a type of the caller's.
    ///
    /// # Errors
    /// When the value is not of that shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        match serde_json::from_str(&self.0) {
            Ok(value) => Ok(value),
            Err(error) => match mend_surrogates(&self.0) {
                Cow::Owned(mended) => serde_json::from_str(&mended),
                Cow::Borrowed(_) => Err(error),
            },
        }
    }

    /// The members of an object with these names, the last one where a name occurs twice. All
    /// `None` for anything but an object.
    pub fn members<const N: usize>(&self, names: [&str; N]) -> [Option<Json>; N] {
        members(&self.0, names).map(|found| found.map(Json::from_checked))
    }
}

impl From<&Value> for Json {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into_boxed_str())
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        Self::from(&value)
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Picks members of an object without building a tree; see [`Json::members`].
pub(super) fn members<'a, const N: usize>(text: &'a str, names: [&str; N]) -> [Option<&'a str>; N] {
    struct Pick<'n, const N: usize>([&'n str; N]);
    impl<'de, const N: usize> Visitor<'de> for Pick<'_, N> {
        type Value = [Option<&'de str>; N];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = [None; N];
            while let Some(slot) = map.next_key_seed(Key(&self.0))? {
                let value: &'de RawValue = map.next_value()?;
                if let Some(place) = slot.and_then(|index| found.get_mut(index)) {
                    *place = Some(value.get());
                }
            }
            Ok(found)
        }
    }
    let mut de = serde_json::Deserializer::from_str(text);
    serde::Deserializer::deserialize_map(&mut de, Pick(names)).unwrap_or([None; N])
}

/// Finds the index of a key among the wanted names.
struct Key<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, de: D) -> Result<Self::Value, D::Error> {
        struct Name<'n>(&'n [&'n str]);
        impl Visitor<'_> for Name<'_> {
            type Value = Option<usize>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }

            fn visit_bytes<E: serde::de::Error>(self, name: &[u8]) -> Result<Self::Value, E> {
                Ok(self.0.iter().position(|wanted| wanted.as_bytes() == name))
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
                self.visit_bytes(name.as_bytes())
            }
        }
        // Asking for bytes is what makes the parser pass lone surrogates in names.
        de.deserialize_bytes(Name(self.0))
    }
}

/// Replaces `\u` escapes of surrogates that have no partner by U+FFFD. The decoders of the original
/// peers pass them, ours refuses them, and one odd character in a message is no reason to lose it.
fn mend_surrogates(text: &str) -> Cow<'_, str> {
    fn unit(text: &str) -> Option<u16> {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    }
    let mut out = String::new();
    let mut rest = text;
    let mut mended = false;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let (take, replacement) = match unit(escape) {
            Some(0xD800..=0xDBFF) => match escape.get(6..).and_then(unit) {
                Some(0xDC00..=0xDFFF) => (12, None),
                _ => (6, Some("\\ufffd")),
            },
            Some(0xDC00..=0xDFFF) => (6, Some("\\ufffd")),
            Some(_) => (6, None),
            None => (2, None),
        };
        let Some((escape, after)) = escape.split_at_checked(take) else {
            return Cow::Borrowed(text);
        };
        mended |= replacement.is_some();
        out.push_str(replacement.unwrap_or(escape));
        rest = after;
    }
    out.push_str(rest);
    if mended {
        Cow::Owned(out)
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn falsy_is_what_the_original_peers_call_false() {
        for text in [
            "null",
            "false",
            "0",
            "-0",
            "0.0",
            "0e9",
            "-0.000E+5",
            "\"\"",
            "[]",
            "{}",
        ] {
            assert!(Json::parse(text).unwrap().is_falsy(), "{text}");
        }
        for text in [
            "true",
            "1",
            "0.1",
            "10",
            "\"0\"",
            "[0]",
            "{\"a\":0}",
            "-1e0",
            "\" \"",
        ] {
            assert!(!Json::parse(text).unwrap().is_falsy(), "{text}");
        }
        assert!(Json::parse("[ \t]").unwrap().is_falsy());
    }

    #[test]
    fn white_space_goes_only_between_tokens() {
        let json = Json::parse(" { \"a b\" : [ 1 , \"\\\" \\\\\" ] } ").unwrap();
        assert_eq!(json.as_str(), "{\"a b\":[1,\"\\\" \\\\\"]}");
    }

    #[test]
    fn members_take_the_last_of_a_name_and_read_escapes() {
        let json = Json::parse(r#"{"a":1,"b":2,"\u0061":3,"\ud800":4}"#).unwrap();
        let [a, b, c] = json.members(["a", "b", "c"]);
        assert_eq!(a.unwrap().as_str(), "3");
        assert_eq!(b.unwrap().as_str(), "2");
        assert!(c.is_none());
        assert_eq!(Json::parse("[1]").unwrap().members(["a"]), [None]);
    }

    #[test]
    fn lone_surrogates_become_replacement_characters() {
        for (text, want) in [
            (r#""\ud800""#, "\u{fffd}"),
            (r#""\udc00x""#, "\u{fffd}x"),
            (r#""\ud83d\ude00""#, "\u{1f600}"),
            (r#""\ud83d\n""#, "\u{fffd}\n"),
            (r#""\\ud800""#, "\\ud800"),
            (r#""\ud800\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
        ] {
            assert_eq!(
                Json::parse(text).unwrap().as_text().unwrap(),
                want,
                "{text}"
            );
        }
    }

    #[test]
    fn big_numbers_stay_exact_as_text() {
        let json = Json::parse("123456789012345678901234567890").unwrap();
        assert_eq!(json.as_str(), "123456789012345678901234567890");
        assert!(Json::parse("1e999").unwrap().as_number().is_none());
        assert_eq!(Json::parse("7").unwrap().as_number(), Some(7.0));
    }
}
