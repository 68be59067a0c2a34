//! The strict pass over every payload, and scalars as lenient as real parsers read them.
//!
//! [`check`] walks the text once, without recursion, before anything is decoded: depth, sizes,
//! numbers, duplicate keys, names that hold NUL. It also mends what would otherwise come again for
//! ever: a lone surrogate or invalid UTF-8 inside a `value` becomes U+FFFD, and a bare number there
//! becomes the string real parsers read it as. Everything after it may trust the text and decodes
//! with serde into borrowed types. Contract: Zabbix page, section 1.4.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Limits on a JSON payload.
#[derive(Clone, Copy, Debug)]
pub struct JsonLimits {
    /// Nested objects and arrays: real messages have six.
    pub depth_max: usize,
    /// Keys of one object.
    pub object_keys_max: usize,
    /// Members of one array; also the values of one upload.
    pub array_items_max: usize,
    /// Bytes of one string as written, `value` excepted, which has the frame's limit.
    pub string_bytes_max: usize,
    /// Digits of one number.
    pub number_digits_max: usize,
    /// Absolute value of a number's exponent.
    pub exponent_max: u32,
}

impl Default for JsonLimits {
    fn default() -> Self {
        Self {
            depth_max: 64,
            object_keys_max: 10_000,
            array_items_max: 1_000_000,
            string_bytes_max: 8 * 1024 * 1024,
            number_digits_max: 64,
            exponent_max: 400,
        }
    }
}

/// A payload that passed [`check`]: one JSON object in valid UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    text: String,
    request: Option<String>,
    repeated_sections: bool,
    replaced: bool,
}

impl Checked {
    /// The text, mended where it had to be.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The top-level `request`, if it is a string.
    pub fn request(&self) -> Option<&str> {
        self.request.as_deref()
    }

    /// Whether an array section occurs twice at the top, which only `proxy data` may have.
    pub fn repeated_sections(&self) -> bool {
        self.repeated_sections
    }

    /// Whether U+FFFD took the place of something in a `value`.
    pub fn replaced(&self) -> bool {
        self.replaced
    }
}

/// Checks a payload as it came out of its frame. Trailing whitespace is trimmed.
///
/// # Errors
/// The payload is not one JSON object within `limits`.
pub fn check(payload: Vec<u8>, limits: &JsonLimits) -> Result<Checked, JsonError> {
    let input = payload.as_slice();
    let mut scanner = Scanner {
        total: input.len(),
        rest: input,
        utf8: std::str::from_utf8(input).is_ok(),
        limits,
        levels: Vec::new(),
        keys: Vec::new(),
        mends: Vec::new(),
        request: None,
        repeated_sections: false,
        replaced: false,
    };
    scanner.run()?;
    let Scanner {
        mends,
        request,
        repeated_sections,
        replaced,
        ..
    } = scanner;
    let bytes = if mends.is_empty() {
        payload
    } else {
        mend(&payload, &mends)
    };
    let text = String::from_utf8(bytes).map_err(|_| JsonError::Utf8)?;
    Ok(Checked {
        text,
        request,
        repeated_sections,
        replaced,
    })
}

/// Array sections that `proxy data` may repeat at its top (the published example has `tasks` twice).
const SECTIONS: [&[u8]; 6] = [
    b"interface availability",
    b"history data",
    b"discovery data",
    b"auto registration",
    b"host data",
    b"tasks",
];

struct Level {
    array: bool,
    members: usize,
    /// Where this object's keys begin in the common list.
    keys_from: usize,
    /// Hashes of the keys once there are too many to compare one by one. A collision refuses a
    /// message that only its sender can have made so.
    many: Option<BTreeSet<u64>>,
}

struct Mend {
    range: Range<usize>,
    /// `None` puts the range in quotes.
    with: Option<Box<[u8]>>,
}

struct Scanner<'a> {
    total: usize,
    rest: &'a [u8],
    utf8: bool,
    limits: &'a JsonLimits,
    levels: Vec<Level>,
    keys: Vec<Cow<'a, [u8]>>,
    mends: Vec<Mend>,
    request: Option<String>,
    repeated_sections: bool,
    replaced: bool,
}

/// Which string is being read; it decides what may be in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Key,
    Plain,
    Value,
}

struct Token<'a> {
    raw: &'a [u8],
    escaped: bool,
}

impl<'a> Scanner<'a> {
    fn run(&mut self) -> Result<(), JsonError> {
        self.space();
        if self.rest.first() != Some(&b'{') {
            return Err(JsonError::NotAnObject);
        }
        self.open(false)?;
        while let Some(level) = self.levels.last() {
            let (array, members) = (level.array, level.members);
            self.space();
            let end = if array { b']' } else { b'}' };
            match self.rest.first() {
                Some(found) if *found == end => {
                    self.step();
                    self.close();
                    continue;
                }
                Some(b',') if members > 0 => {
                    self.step();
                    self.space();
                }
                Some(_) if members == 0 => {}
                Some(_) => return Err(self.syntax("a comma or an end is missing")),
                None => return Err(self.syntax(unexpected_end(array))),
            }
            self.count_member(array)?;
            let mut role = Role::Plain;
            let mut key = None;
            if !array {
                let token = self.string(Role::Key)?;
                let name = self.unescape(&token);
                if name.as_ref() == b"value" {
                    role = Role::Value;
                }
                self.space();
                if self.rest.first() != Some(&b':') {
                    return Err(self.syntax(match self.rest.first() {
                        Some(_) => "a colon is missing",
                        None => unexpected_end(array),
                    }));
                }
                self.step();
                self.space();
                self.remember(name.clone())?;
                key = Some(name);
            }
            self.value(role, key.as_deref())?;
        }
        self.space();
        // A C string ends at NUL: some senders count it in.
        if self.rest.iter().any(|byte| *byte != 0) {
            return Err(self.syntax("something follows the object"));
        }
        if !self.rest.is_empty() {
            let from = self.at();
            self.mends.push(Mend {
                range: from..self.total,
                with: Some(Box::default()),
            });
        }
        Ok(())
    }

    fn value(&mut self, role: Role, key: Option<&[u8]>) -> Result<(), JsonError> {
        match self.rest.first() {
            Some(b'{') => self.open(false),
            Some(b'[') => self.open(true),
            Some(b'"') => {
                let token = self.string(role)?;
                if self.levels.len() == 1 && key == Some(b"request") {
                    let name = self.unescape(&token);
                    self.request = Some(String::from_utf8_lossy(&name).into_owned());
                }
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') => self.number(role),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            Some(_) => Err(self.syntax("invalid value")),
            None => Err(self.syntax("unexpected end of object value")),
        }
    }

    fn open(&mut self, array: bool) -> Result<(), JsonError> {
        if self.levels.len() >= self.limits.depth_max {
            return Err(JsonError::Depth {
                limit: self.limits.depth_max,
            });
        }
        self.step();
        self.levels.push(Level {
            array,
            members: 0,
            keys_from: self.keys.len(),
            many: None,
        });
        Ok(())
    }

    fn close(&mut self) {
        if let Some(level) = self.levels.pop() {
            self.keys.truncate(level.keys_from);
        }
    }

    fn count_member(&mut self, array: bool) -> Result<(), JsonError> {
        let limit = if array {
            self.limits.array_items_max
        } else {
            self.limits.object_keys_max
        };
        let Some(level) = self.levels.last_mut() else {
            return Ok(());
        };
        level.members = level.members.saturating_add(1);
        if level.members > limit {
            return Err(if array {
                JsonError::Items { limit }
            } else {
                JsonError::Keys { limit }
            });
        }
        Ok(())
    }

    /// Refuses a key that this object already has.
    fn remember(&mut self, name: Cow<'a, [u8]>) -> Result<(), JsonError> {
        let top = self.levels.len() == 1;
        let Some(level) = self.levels.last_mut() else {
            return Ok(());
        };
        let known = self.keys.get(level.keys_from..).unwrap_or_default();
        let twice = match &mut level.many {
            Some(many) => !many.insert(hash(&name)),
            None if known.len() < FEW_KEYS => known.contains(&name),
            None => {
                let mut many: BTreeSet<_> = known.iter().map(|key| hash(key)).collect();
                let twice = !many.insert(hash(&name));
                level.many = Some(many);
                twice
            }
        };
        if twice {
            if top && SECTIONS.contains(&name.as_ref()) && self.rest.first() == Some(&b'[') {
                self.repeated_sections = true;
                return Ok(());
            }
            return Err(JsonError::DuplicateKey {
                key: excerpt(&name),
            });
        }
        if level.many.is_none() {
            self.keys.push(name);
        }
        Ok(())
    }

    /// Reads the string that begins here, quotes left out.
    fn string(&mut self, role: Role) -> Result<Token<'a>, JsonError> {
        let Some((b'"', inside)) = self.rest.split_first() else {
            return Err(self.syntax("a string is missing"));
        };
        let from = self.at().saturating_add(1);
        let mut rest = inside;
        let (mut escaped, mut lone) = (false, false);
        let length = loop {
            let stop = |byte: &u8| matches!(*byte, b'"' | b'\\' | 0..0x20);
            let Some(found) = rest.iter().position(stop) else {
                return Err(self.syntax("unexpected end of string data"));
            };
            let (byte, after) = match rest.get(found..).and_then(<[u8]>::split_first) {
                Some((byte, after)) => (*byte, after),
                None => return Err(self.syntax("unexpected end of string data")),
            };
            match byte {
                b'"' => {
                    rest = after;
                    break inside.len().saturating_sub(after.len()).saturating_sub(1);
                }
                b'\\' => {
                    escaped = true;
                    let escape = Escape::read(after)
                        .ok_or_else(|| self.syntax("invalid escape sequence in a string"))?;
                    match escape.unit {
                        Unit::Lone => lone = true,
                        Unit::Char('\0') if role != Role::Value => return Err(JsonError::Nul),
                        Unit::Char(_) => {}
                    }
                    rest = after.get(escape.length..).unwrap_or_default();
                }
                _ => return Err(self.syntax("a control character in a string")),
            }
        };
        let raw = inside.get(..length).unwrap_or_default();
        if role != Role::Value && raw.len() > self.limits.string_bytes_max {
            return Err(JsonError::StringTooLong {
                limit: self.limits.string_bytes_max,
            });
        }
        let broken = !self.utf8 && std::str::from_utf8(raw).is_err();
        if lone || broken {
            if role != Role::Value {
                return Err(JsonError::Utf8);
            }
            self.replaced = true;
            self.mends.push(Mend {
                range: from..from.saturating_add(raw.len()),
                with: Some(replace_broken(raw).into_boxed_slice()),
            });
        }
        self.rest = rest;
        Ok(Token { raw, escaped })
    }

    fn number(&mut self, role: Role) -> Result<(), JsonError> {
        let from = self.at();
        let start = self.rest.len();
        if self.rest.first() == Some(&b'-') {
            self.step();
        }
        let whole = self.digits();
        let leading_zero = whole.len() > 1 && whole.first() == Some(&b'0');
        let mut digits = whole.len();
        let mut bad = whole.is_empty() || leading_zero;
        if self.rest.first() == Some(&b'.') {
            self.step();
            let fraction = self.digits();
            bad |= fraction.is_empty();
            digits = digits.saturating_add(fraction.len());
        }
        if matches!(self.rest.first(), Some(b'e' | b'E')) {
            self.step();
            if matches!(self.rest.first(), Some(b'+' | b'-')) {
                self.step();
            }
            let exponent = self.digits();
            bad |= exponent.is_empty();
            let value = exponent.iter().fold(0_u32, |value, digit| {
                value
                    .saturating_mul(10)
                    .saturating_add(u32::from(digit.saturating_sub(b'0')))
            });
            if value > self.limits.exponent_max {
                return Err(JsonError::Number);
            }
        }
        if bad {
            return Err(self.syntax("invalid number"));
        }
        if digits > self.limits.number_digits_max {
            return Err(JsonError::Number);
        }
        if role == Role::Value {
            let length = start.saturating_sub(self.rest.len());
            self.mends.push(Mend {
                range: from..from.saturating_add(length),
                with: None,
            });
        }
        Ok(())
    }

    fn digits(&mut self) -> &'a [u8] {
        let length = self
            .rest
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let (digits, rest) = self
            .rest
            .split_at_checked(length)
            .unwrap_or((self.rest, b""));
        self.rest = rest;
        digits
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), JsonError> {
        match self.rest.strip_prefix(word) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(self.syntax("invalid value")),
        }
    }

    fn space(&mut self) {
        while let Some((b' ' | b'\t' | b'\r' | b'\n', rest)) = self.rest.split_first() {
            self.rest = rest;
        }
    }

    fn step(&mut self) {
        self.rest = self.rest.get(1..).unwrap_or_default();
    }

    fn at(&self) -> usize {
        self.total.saturating_sub(self.rest.len())
    }

    fn syntax(&self, detail: &'static str) -> JsonError {
        JsonError::Syntax {
            detail,
            at: self.at(),
        }
    }

    fn unescape(&self, token: &Token<'a>) -> Cow<'a, [u8]> {
        if !token.escaped {
            return Cow::Borrowed(token.raw);
        }
        let mut out = Vec::with_capacity(token.raw.len());
        let mut rest = token.raw;
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            if *byte != b'\\' {
                out.push(*byte);
                continue;
            }
            let Some(escape) = Escape::read(after) else {
                break;
            };
            let unit = match escape.unit {
                Unit::Char(unit) => unit,
                Unit::Lone => char::REPLACEMENT_CHARACTER,
            };
            out.extend_from_slice(unit.encode_utf8(&mut [0; 4]).as_bytes());
            rest = after.get(escape.length..).unwrap_or_default();
        }
        Cow::Owned(out)
    }
}

/// Objects of real peers have fewer keys; above, a set takes over from comparing one by one.
const FEW_KEYS: usize = 24;

/// FNV-1a.
fn hash(key: &[u8]) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

enum Unit {
    Char(char),
    /// Half of a surrogate pair.
    Lone,
}

/// One escape sequence, its backslash left out.
struct Escape {
    unit: Unit,
    length: usize,
}

impl Escape {
    fn read(after: &[u8]) -> Option<Self> {
        let simple = |unit| {
            Some(Self {
                unit: Unit::Char(unit),
                length: 1,
            })
        };
        match after.first()? {
            b'"' => simple('"'),
            b'\\' => simple('\\'),
            b'/' => simple('/'),
            b'b' => simple('\u{8}'),
            b'f' => simple('\u{c}'),
            b'n' => simple('\n'),
            b'r' => simple('\r'),
            b't' => simple('\t'),
            b'u' => {
                let first = hex4(after.get(1..5)?)?;
                let second = match after.get(5..11) {
                    Some([b'\\', b'u', digits @ ..]) => hex4(digits),
                    _ => None,
                };
                if let (0xd800..0xdc00, Some(second @ 0xdc00..0xe000)) = (first, second) {
                    let high = first.wrapping_sub(0xd800) << 10;
                    let low = second.wrapping_sub(0xdc00);
                    let unit = char::from_u32(0x1_0000_u32.saturating_add(high | low))?;
                    return Some(Self {
                        unit: Unit::Char(unit),
                        length: 11,
                    });
                }
                let unit = char::from_u32(first).map_or(Unit::Lone, Unit::Char);
                Some(Self { unit, length: 5 })
            }
            _ => None,
        }
    }
}

fn hex4(digits: &[u8]) -> Option<u32> {
    if digits.len() != 4 {
        return None;
    }
    digits.iter().try_fold(0_u32, |value, digit| {
        Some(value << 4 | char::from(*digit).to_digit(16)?)
    })
}

/// A string as written, with U+FFFD for what is not Unicode in it.
fn replace_broken(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    let mut plain = raw;
    while let Some(found) = rest.iter().position(|byte| *byte == b'\\') {
        let after = rest.get(found.saturating_add(1)..).unwrap_or_default();
        let Some(escape) = Escape::read(after) else {
            break;
        };
        let next = after.get(escape.length..).unwrap_or_default();
        if matches!(escape.unit, Unit::Lone) {
            let before = plain.len().saturating_sub(rest.len()).saturating_add(found);
            let before = plain.get(..before).unwrap_or_default();
            out.extend_from_slice(String::from_utf8_lossy(before).as_bytes());
            out.extend_from_slice("\u{fffd}".as_bytes());
            plain = next;
        }
        rest = next;
    }
    out.extend_from_slice(String::from_utf8_lossy(plain).as_bytes());
    out
}

fn mend(payload: &[u8], mends: &[Mend]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len());
    let mut from = 0;
    for Mend { range, with } in mends {
        out.extend_from_slice(payload.get(from..range.start).unwrap_or_default());
        match with {
            Some(with) => out.extend_from_slice(with),
            None => {
                out.push(b'"');
                out.extend_from_slice(payload.get(range.clone()).unwrap_or_default());
                out.push(b'"');
            }
        }
        from = range.end;
    }
    out.extend_from_slice(payload.get(from..).unwrap_or_default());
    out
}

fn unexpected_end(array: bool) -> &'static str {
    if array {
        "unexpected end of array"
    } else {
        "unexpected end of object"
    }
}

/// At most 64 characters of a peer's text, controls escaped, for an error message.
pub fn excerpt(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == 64 {
            out.push('…');
            break;
        }
        match c {
            '"' | '\'' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out
}

/// Why a payload is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Nested deeper than the limit.
    #[error("cannot parse as a valid JSON object: nested deeper than {limit}")]
    Depth {
        /// The limit.
        limit: usize,
    },
    /// A key occurs twice in one object: an intermediary may have read the other one.
    #[error("cannot parse as a valid JSON object: key \"{key}\" occurs twice")]
    DuplicateKey {
        /// The key, escaped and cut.
        key: String,
    },
    /// An array has too many members.
    #[error("an array has more than {limit} members")]
    Items {
        /// The limit.
        limit: usize,
    },
    /// An object has too many keys.
    #[error("an object has more than {limit} keys")]
    Keys {
        /// The limit.
        limit: usize,
    },
    /// The top level is not an object.
    #[error("cannot parse as a valid JSON object: it does not begin with {{")]
    NotAnObject,
    /// NUL outside a value.
    #[error("cannot parse as a valid JSON object: NUL in a name")]
    Nul,
    /// A number is longer than any real one.
    #[error("cannot parse as a valid JSON object: a number is out of range")]
    Number,
    /// A string is longer than the limit.
    #[error("a string is longer than {limit} bytes")]
    StringTooLong {
        /// The limit, bytes.
        limit: usize,
    },
    /// The text is not JSON.
    #[error("cannot parse as a valid JSON object: {detail} at byte {at}")]
    Syntax {
        /// What is wrong.
        detail: &'static str,
        /// Bytes before it.
        at: usize,
    },
    /// Invalid UTF-8 or half a surrogate pair outside a `value`.
    #[error("cannot parse as a valid JSON object: invalid UTF-8 in a name")]
    Utf8,
}

/// A number as real parsers read it: bare or quoted, `null` the same as absent.
///
/// Decoding never fails: what is no integer is [`Num::Bad`], for whether that costs the row or the
/// message is the row's business.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Num {
    /// Not there, or `null`.
    #[default]
    Absent,
    /// Not an integer that 64 bits hold.
    Bad,
    /// Below zero.
    Negative(i64),
    /// Zero or more.
    Unsigned(u64),
}

impl Num {
    /// The number as unsigned, `None` when absent.
    ///
    /// # Errors
    /// It is there and is no unsigned number.
    pub fn unsigned(self) -> Result<Option<u64>, BadField> {
        match self {
            Self::Absent => Ok(None),
            Self::Unsigned(n) => Ok(Some(n)),
            Self::Bad | Self::Negative(_) => Err(BadField),
        }
    }

    /// The number as signed, `None` when absent.
    ///
    /// # Errors
    /// It is there and does not fit.
    pub fn signed(self) -> Result<Option<i64>, BadField> {
        match self {
            Self::Absent => Ok(None),
            Self::Unsigned(n) => i64::try_from(n).map(Some).map_err(|_| BadField),
            Self::Negative(n) => Ok(Some(n)),
            Self::Bad => Err(BadField),
        }
    }

    /// The number in a narrower type, `None` when absent.
    ///
    /// # Errors
    /// It is there and does not fit.
    pub fn narrow<T: TryFrom<u64>>(self) -> Result<Option<T>, BadField> {
        self.unsigned()?
            .map(T::try_from)
            .transpose()
            .map_err(|_| BadField)
    }

    fn parse(text: &str) -> Self {
        if text.len() > 20 {
            return Self::Bad;
        }
        match text.strip_prefix('-') {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map_or(Self::Bad, Self::Negative)
            }
            None if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map_or(Self::Bad, Self::Unsigned)
            }
            Some(_) | None => Self::Bad,
        }
    }
}

/// A field that is there and is not what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a field is malformed")]
pub struct BadField;

impl<'de> Deserialize<'de> for Num {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumVisitor)
    }
}

struct NumVisitor;

impl<'de> Visitor<'de> for NumVisitor {
    type Value = Num;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a quoted number")
    }

    fn visit_u64<E>(self, n: u64) -> Result<Num, E> {
        Ok(Num::Unsigned(n))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Num, E> {
        Ok(u64::try_from(n).map_or(Num::Negative(n), Num::Unsigned))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Num, E> {
        Ok(Num::Bad)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Num, E> {
        Ok(Num::Bad)
    }

    fn visit_unit<E>(self) -> Result<Num, E> {
        Ok(Num::Absent)
    }

    fn visit_str<E>(self, text: &str) -> Result<Num, E> {
        Ok(Num::parse(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Num, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Num::Bad)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Num, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Num::Bad)
    }
}

/// A text as real parsers read it: a string, or a number taken by its digits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Text<'a> {
    /// Not there, or `null`.
    #[default]
    Absent,
    /// An array, an object, a boolean or a fraction.
    Bad,
    /// The text, borrowed from the message unless it had escapes.
    Given(Cow<'a, str>),
}

impl<'a> Text<'a> {
    /// The text, `None` when absent.
    ///
    /// # Errors
    /// It is there and is no text.
    pub fn text(self) -> Result<Option<Cow<'a, str>>, BadField> {
        match self {
            Self::Absent => Ok(None),
            Self::Given(text) => Ok(Some(text)),
            Self::Bad => Err(BadField),
        }
    }

    /// The text, empty when absent or no text.
    pub fn or_empty(self) -> Cow<'a, str> {
        match self {
            Self::Absent | Self::Bad => Cow::Borrowed(""),
            Self::Given(text) => text,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text::Given(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text::Given(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Text<'de>, E> {
        Ok(Text::Given(Cow::Owned(text)))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Text<'de>, E> {
        Ok(Text::Given(Cow::Owned(n.to_string())))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Text<'de>, E> {
        Ok(Text::Given(Cow::Owned(n.to_string())))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text<'de>, E> {
        Ok(Text::Bad)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text<'de>, E> {
        Ok(Text::Bad)
    }

    fn visit_unit<E>(self) -> Result<Text<'de>, E> {
        Ok(Text::Absent)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::Bad)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::Bad)
    }
}

#[cfg(test)]
mod tests;
