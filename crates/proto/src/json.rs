//! Reading JSON from outside into a tree, within limits.
//!
//! For documents that become a [`Value`]: pScheduler's and those of the admin API. Reading follows
//! Python's decoder down to its error texts, because pScheduler's clients print them to people; it
//! adds the limits Muster keeps on anything from outside (threat model, section 4). The other wires
//! keep the text of what they carry and have checks of their own.
//!
//! **Invariant:** a tree never takes more than [`TREE_FACTOR`] times its text and [`TREE_FLOOR`] bytes:
//! a text whose tree would is refused before the memory is taken.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Map, Number, Value};

/// What a tree may take for each byte of its text.
pub const TREE_FACTOR: usize = 8;

/// What a tree may take however short its text is: of the 64 KiB that decoding a message may take,
/// what is left beside the message's other parts.
pub const TREE_FLOOR: usize = 56 << 10;

/// What bounds a document.
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
    /// Digits of one number before its exponent. Whole numbers are exact or refused.
    pub number_digits_max: usize,
    /// Greatest exponent of a number, either sign.
    pub number_exponent_max: u32,
    /// What becomes of a member that comes twice in one object.
    pub twice: Twice,
}

impl Default for JsonLimits {
    fn default() -> Self {
        // The threat model's table for JSON on every wire.
        Self {
            depth_max: 64,
            members_max: 10_000,
            elements_max: 1_000_000,
            string_bytes_max: 8 << 20,
            number_digits_max: 64,
            number_exponent_max: 400,
            twice: Twice::LastCounts,
        }
    }
}

/// What becomes of a member that comes twice (threat model, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Twice {
    /// The last one counts, as in pScheduler's own parser.
    LastCounts,
    /// The document is refused.
    Refused,
}

/// Why a document is not JSON we take. `Display` is Python's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// The fault, in Python's words where Python has them.
    pub what: Cow<'static, str>,
    /// Line of the fault, from 1.
    pub line: usize,
    /// Column of the fault in characters, from 1.
    pub column: usize,
    /// Offset of the fault in characters, from 0.
    pub char: usize,
}

impl std::error::Error for JsonError {}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            line,
            column,
            char,
        } = self;
        write!(f, "{what}: line {line} column {column} (char {char})")
    }
}

/// Reads one JSON document.
///
/// # Errors
/// [`JsonError`] for anything that is not JSON or exceeds a limit.
pub fn parse(text: &str, limits: &JsonLimits) -> Result<Value, JsonError> {
    let sizes = array_sizes(text, limits);
    let whole = text.len().saturating_mul(TREE_FACTOR);
    let counted = sizes.capacity().saturating_mul(size_of::<u32>());
    let mut reader = Reader {
        text,
        at: 0,
        limits,
        sizes: sizes.iter(),
        left: whole.saturating_add(TREE_FLOOR).saturating_sub(counted),
    };
    reader.skip_space();
    let value = reader.value(0)?;
    reader.skip_space();
    if reader.at < text.len() {
        return Err(reader.error("Extra data", reader.at));
    }
    Ok(value)
}

/// How many elements each array has, in the order in which they begin, so that each is given the
/// memory it needs and no more. Of a text that is no JSON it tells what holds up to the fault.
fn array_sizes(text: &str, limits: &JsonLimits) -> Vec<u32> {
    let mut sizes: Vec<u32> = Vec::new();
    // Which array each level is; none for an object.
    let mut levels: Vec<Option<usize>> = Vec::new();
    let (mut in_string, mut escaped, mut before) = (false, false, b' ');
    for byte in text.bytes() {
        if in_string {
            (in_string, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' if levels.len() >= limits.depth_max => break,
            b'[' => {
                levels.push(Some(sizes.len()));
                sizes.push(1);
            }
            b'{' => levels.push(None),
            b',' => {
                if let Some(size) = levels
                    .last()
                    .copied()
                    .flatten()
                    .and_then(|at| sizes.get_mut(at))
                {
                    *size = size.saturating_add(1);
                }
            }
            b']' | b'}' => {
                if let (Some(Some(at)), b'[') = (levels.pop(), before)
                    && let Some(size) = sizes.get_mut(at)
                {
                    *size = 0;
                }
            }
            b' ' | b'\t' | b'\n' | b'\r' => continue,
            _ => {}
        }
        before = byte;
    }
    sizes
}

/// What a block of so many bytes takes of the allocator, which has a smallest one and keeps its books
/// beside each.
const fn block(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=24 => 32,
        _ => bytes.saturating_add(16),
    }
}

/// A node of the tree that a map is: eleven names and values, and its place.
const NODE: usize = block(11 * (size_of::<String>() + size_of::<Value>()) + 16);
/// Members of the first node.
const NODE_MEMBERS: usize = 11;
/// What a node above others takes besides.
const NODE_EDGES: usize = 12 * size_of::<usize>();

/// What an object of so many members takes when one more comes, at most. Nodes are at least half full.
fn member_bytes(members: usize) -> usize {
    match members {
        0 => NODE,
        NODE_MEMBERS => 2 * NODE + NODE_EDGES,
        few if few < NODE_MEMBERS => 0,
        _ => NODE / 5,
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    limits: &'a JsonLimits,
    sizes: std::slice::Iter<'a, u32>,
    /// Bytes the tree may still take.
    left: usize,
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

    fn error(&self, what: impl Into<Cow<'static, str>>, at: usize) -> JsonError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before
            .bytes()
            .filter(|b| *b == b'\n')
            .count()
            .saturating_add(1);
        let last = before.rsplit('\n').next().unwrap_or("");
        JsonError {
            what: what.into(),
            line,
            column: last.chars().count().saturating_add(1),
            char: before.chars().count(),
        }
    }

    /// Accounts for memory that is about to be taken.
    fn charge(&mut self, bytes: usize) -> Result<(), JsonError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.error("Too many values for its length", self.at)),
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
            let begin = self.at;
            let name = self.string()?;
            if self.limits.twice == Twice::Refused && members.contains_key(&name) {
                let shown: String = name.chars().take(64).collect();
                return Err(self.error(format!("The member {shown:?} comes twice"), begin));
            }
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.error("Expecting ':' delimiter", self.at));
            }
            self.bump(1);
            self.skip_space();
            let value = self.value(depth.saturating_add(1))?;
            self.charge(member_bytes(members.len()))?;
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
        let size = self.sizes.next().map_or(0, |size| *size as usize);
        if size > self.limits.elements_max {
            return Err(self.error("Too many elements", self.at));
        }
        self.charge(block(size.saturating_mul(size_of::<Value>())))?;
        let mut elements = Vec::with_capacity(size);
        self.bump(1);
        self.skip_space();
        if self.peek() == Some(b']') {
            self.bump(1);
            return Ok(Value::Array(elements));
        }
        loop {
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

    /// Bytes of the string that begins here, as it is written.
    fn string_bytes(&self) -> usize {
        let mut escaped = false;
        let closes = |byte: u8| {
            let closing = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closing
        };
        let rest = self.rest();
        rest.bytes().position(closes).unwrap_or(rest.len())
    }

    fn string(&mut self) -> Result<String, JsonError> {
        let begin = self.at;
        self.bump(1);
        // An escape is longer than what it stands for, so it never grows.
        let bytes = self.string_bytes();
        self.charge(block(bytes))?;
        let mut out = String::with_capacity(bytes);
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
        let mut digits = match self.peek() {
            Some(b'0') => {
                self.bump(1);
                1
            }
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.error("Expecting value", begin)),
        };
        let mut whole = true;
        let mark = self.at;
        if self.peek() == Some(b'.') {
            self.bump(1);
            match self.digits() {
                0 => self.at = mark,
                fraction => {
                    digits = digits.saturating_add(fraction);
                    whole = false;
                }
            }
        }
        if digits > self.limits.number_digits_max {
            return Err(self.error("Number too long", begin));
        }
        let mark = self.at;
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.bump(1);
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.bump(1);
            }
            let from = self.at;
            if self.digits() == 0 {
                self.at = mark;
            } else {
                whole = false;
                let exponent = self.text.get(from..self.at).unwrap_or("").parse::<u32>();
                if exponent.map_or(true, |exponent| exponent > self.limits.number_exponent_max) {
                    return Err(self.error("Number out of range", begin));
                }
            }
        }
        let text = self.text.get(begin..self.at).unwrap_or("");
        // A whole number that is not exact in 64 bits would become a float without a word.
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

    /// Passes digits; how many there were.
    fn digits(&mut self) -> usize {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.bump(1);
        }
        self.at.saturating_sub(from)
    }
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
    fn whole_numbers_are_exact_or_refused() {
        let nines = "9".repeat(64);
        for (text, want) in [
            ("-9223372036854775808", Ok(json!(i64::MIN))),
            ("18446744073709551615", Ok(json!(u64::MAX))),
            ("-9223372036854775809", Err("Number out of range")),
            ("18446744073709551616", Err("Number out of range")),
            (
                "170141183460469231731687303715884105727",
                Err("Number out of range"),
            ),
            (nines.as_str(), Err("Number out of range")),
            ("1e400", Err("Number out of range")),
            ("0e400", Ok(json!(0.0))),
            ("0e401", Err("Number out of range")),
            ("1e-400", Ok(json!(0.0))),
            ("1e-401", Err("Number out of range")),
            ("1e99999999999999999999", Err("Number out of range")),
            ("1.5E+3", Ok(json!(1500.0))),
        ] {
            let got = read(text);
            match want {
                Ok(want) => assert_eq!(got, Ok(want), "{text}"),
                Err(what) => assert!(got.expect_err(text).starts_with(what), "{text}"),
            }
        }
        let fraction = |digits: usize| format!("0.{}", "1".repeat(digits));
        assert!(read(&fraction(63)).is_ok());
        let long = read(&fraction(64)).expect_err("65 digits");
        assert!(long.starts_with("Number too long"), "{long}");
        let long = read(&"1".repeat(65)).expect_err("65 digits");
        assert!(long.starts_with("Number too long"), "{long}");
    }

    #[test]
    fn members_that_come_twice_are_refused_where_asked() {
        let limits = JsonLimits {
            twice: Twice::Refused,
            ..JsonLimits::default()
        };
        let error = parse("{\"a\":{\"b\":1,\n\"b\":2}}", &limits).expect_err("twice");
        assert_eq!(
            error.to_string(),
            "The member \"b\" comes twice: line 2 column 1 (char 13)"
        );
    }

    #[test]
    fn members_elements_and_strings_have_limits() {
        let members = |n: usize| {
            let members: Vec<_> = (0..n).map(|at| format!("\"{at:0100}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(read(&members(10_000)).is_ok());
        let error = read(&members(10_001)).expect_err("members");
        assert!(error.starts_with("Too many members"), "{error}");
        let error = read(&format!("[{}0]", "0,".repeat(1_000_000))).expect_err("elements");
        assert!(error.starts_with("Too many elements"), "{error}");
        let error = read(&format!("\"{}\"", "x".repeat((8 << 20) + 1))).expect_err("string");
        assert!(error.starts_with("String too long"), "{error}");
    }

    #[test]
    fn a_tree_many_times_its_text_is_refused() {
        // Numbers of one digit are sixteen times their text, objects of one member a hundred times.
        for (item, fits) in [("0", 3_000), ("{\"\":0}", 80), ("[]", 3_000)] {
            let list = |n: usize| format!("[{}]", vec![item; n].join(","));
            assert!(read(&list(fits)).is_ok(), "{item}");
            let error = read(&list(300_000)).expect_err(item);
            assert!(error.starts_with("Too many values"), "{item}: {error}");
        }
        let list = format!("[{}]", vec!["1000"; 500_000].join(","));
        assert!(read(&list).is_ok(), "numbers of four digits fit");
    }

    proptest! {
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
