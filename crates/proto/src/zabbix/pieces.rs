//! A long payload as a series of short ones.
//!
//! An upload of half a gigabyte is not held in memory: it is read from disk in blocks, cut between
//! the rows of its sections, and each piece, dressed in the rest of the message, is a whole message
//! that is checked and decoded like any other. [`Cutter`] only finds the cuts; what is wrong inside a
//! piece is found when that is checked. Contract: Zabbix page, section 3.3; threats page, section 4.

use super::json::{JsonError, JsonLimits};

/// Sections whose rows a message may be cut between.
const SECTIONS: [&str; 7] = [
    "interface availability",
    "history data",
    "discovery data",
    "auto registration",
    "host data",
    "tasks",
    "data",
];

/// Bytes of rows after which a piece is full.
const PIECE_BYTES: usize = 1024 * 1024;
/// Bytes of everything that is not a row: names, a session, clocks.
const ENVELOPE_BYTES_MAX: usize = 1024 * 1024;

/// Some rows of one section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    section: &'static str,
    rows: Vec<u8>,
}

/// What a message says beside its rows, known when all of it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Pairs of keys and values, with their commas.
    pairs: Vec<u8>,
    /// The sections that occurred, in order.
    sections: Vec<&'static str>,
}

impl Envelope {
    /// The message with these rows only.
    pub fn with(&self, piece: &Piece) -> Vec<u8> {
        let mut out = self.open();
        section(&mut out, piece.section, &piece.rows);
        out.push(b'}');
        out
    }

    /// The message with every section that it had, and no rows.
    pub fn without_rows(&self) -> Vec<u8> {
        let mut out = self.open();
        for name in &self.sections {
            section(&mut out, name, b"");
        }
        out.push(b'}');
        out
    }

    fn open(&self) -> Vec<u8> {
        let mut out = vec![b'{'];
        out.extend_from_slice(&self.pairs);
        out
    }
}

impl Piece {
    /// The rows alone, as an object that can be checked before the rest of the message is known.
    pub fn alone(&self) -> Vec<u8> {
        let mut out = vec![b'{'];
        section(&mut out, self.section, &self.rows);
        out.push(b'}');
        out
    }
}

fn section(out: &mut Vec<u8>, name: &str, rows: &[u8]) {
    if out.len() > 1 {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":[");
    out.extend_from_slice(rows);
    out.push(b']');
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the object.
    Before,
    /// Where a key, a comma or the end may be; whether there was a pair, and a comma after it.
    Pairs { any: bool, comma: bool },
    /// In a key.
    Key,
    /// After a key, before its value.
    Colon { seen: bool },
    /// In a value that belongs to the envelope.
    Value,
    /// In the rows of a section, at its number in [`SECTIONS`].
    Rows(&'static str),
    /// Behind the object.
    After,
}

/// Cuts a payload that comes in blocks.
#[derive(Debug)]
pub struct Cutter {
    limits: JsonLimits,
    /// Bytes of one row at most.
    row_bytes_max: usize,
    place: Place,
    at: usize,
    key: Vec<u8>,
    envelope: Envelope,
    /// Keys of sections whose values are no rows.
    odd: Vec<&'static str>,
    rows: Vec<u8>,
    row_from: usize,
    row_began: bool,
    row_count: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Cutter {
    /// A cutter of one payload.
    pub fn new(limits: &JsonLimits, row_bytes_max: usize) -> Self {
        Self {
            limits: *limits,
            row_bytes_max,
            place: Place::Before,
            at: 0,
            key: Vec::new(),
            envelope: Envelope::default(),
            odd: Vec::new(),
            rows: Vec::new(),
            row_from: 0,
            row_began: false,
            row_count: 0,
            depth: 0,
            in_string: false,
            escaped: false,
        }
    }

    /// Takes a block, and hands over the pieces that are full.
    ///
    /// # Errors
    /// This is no object of pairs, or over a limit.
    pub fn feed(
        &mut self,
        block: &[u8],
        mut give: impl FnMut(Piece) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        for byte in block {
            if let Some(piece) = self.step(*byte)? {
                give(piece)?;
            }
            self.at = self.at.saturating_add(1);
        }
        Ok(())
    }

    /// The envelope, when the payload is over.
    ///
    /// # Errors
    /// The object is not complete.
    pub fn finish(self) -> Result<Envelope, JsonError> {
        match self.place {
            Place::After => Ok(self.envelope),
            Place::Before => Err(JsonError::NotAnObject),
            Place::Pairs { .. }
            | Place::Key
            | Place::Colon { .. }
            | Place::Value
            | Place::Rows(_) => Err(self.syntax("unexpected end of object data")),
        }
    }

    fn step(&mut self, byte: u8) -> Result<Option<Piece>, JsonError> {
        match self.place {
            Place::Before => match byte {
                b'{' => {
                    self.place = Place::Pairs {
                        any: false,
                        comma: false,
                    }
                }
                _ if is_space(byte) => {}
                _ => return Err(JsonError::NotAnObject),
            },
            Place::Pairs { any, comma } => match byte {
                b'"' if !any || comma => {
                    self.key.clear();
                    self.place = Place::Key;
                }
                b',' if any && !comma => self.place = Place::Pairs { any, comma: true },
                b'}' if !comma => self.place = Place::After,
                _ if is_space(byte) => {}
                _ => return Err(self.syntax("a comma or an end is missing")),
            },
            Place::Key => {
                if self.ends_string(byte) {
                    self.place = Place::Colon { seen: false };
                } else {
                    self.bound(self.key.len())?;
                    self.key.push(byte);
                }
            }
            Place::Colon { seen } => match byte {
                b':' if !seen => self.place = Place::Colon { seen: true },
                _ if is_space(byte) => {}
                _ if seen => return self.begin_value(byte),
                _ => return Err(self.syntax("a colon is missing")),
            },
            Place::Value => return self.envelope_byte(byte),
            Place::Rows(section) => return self.row_byte(section, byte),
            Place::After => {
                if !is_space(byte) && byte != 0 {
                    return Err(self.syntax("something follows the object"));
                }
            }
        }
        Ok(None)
    }

    fn begin_value(&mut self, byte: u8) -> Result<Option<Piece>, JsonError> {
        let named = SECTIONS.iter().find(|name| name.as_bytes() == self.key);
        if let Some(name) = named {
            // A section may come again, but as rows only.
            let (with, against) = match byte {
                b'[' => (&mut self.envelope.sections, &self.odd),
                _ => (&mut self.odd, &self.envelope.sections),
            };
            if against.contains(name) {
                return Err(JsonError::DuplicateKey {
                    key: (*name).to_owned(),
                });
            }
            with.push(name);
        }
        if let (b'[', Some(name)) = (byte, named) {
            self.bound(self.envelope.sections.len())?;
            self.rows.clear();
            (self.row_from, self.row_count, self.row_began) = (0, 0, false);
            self.place = Place::Rows(name);
            return Ok(None);
        }
        let pairs = &mut self.envelope.pairs;
        if !pairs.is_empty() {
            pairs.push(b',');
        }
        pairs.push(b'"');
        pairs.append(&mut self.key);
        pairs.extend_from_slice(b"\":");
        self.place = Place::Value;
        self.envelope_byte(byte)
    }

    fn envelope_byte(&mut self, byte: u8) -> Result<Option<Piece>, JsonError> {
        if !self.in_string && self.depth == 0 && matches!(byte, b',' | b'}') {
            self.place = if byte == b',' {
                Place::Pairs {
                    any: true,
                    comma: true,
                }
            } else {
                Place::After
            };
            return Ok(None);
        }
        self.nest(byte)?;
        self.bound(self.envelope.pairs.len())?;
        self.envelope.pairs.push(byte);
        Ok(None)
    }

    fn row_byte(&mut self, section: &'static str, byte: u8) -> Result<Option<Piece>, JsonError> {
        if !self.in_string && self.depth == 0 && matches!(byte, b',' | b']') {
            if byte == b']' && !self.row_began && self.row_count == 0 {
                self.end_section();
                return Ok(None);
            }
            if !self.row_began {
                return Err(self.syntax("a value is missing"));
            }
            self.row_count = self.row_count.saturating_add(1);
            if self.row_count > self.limits.array_items_max {
                return Err(JsonError::Items {
                    limit: self.limits.array_items_max,
                });
            }
            self.row_began = false;
            let last = byte == b']';
            if last {
                self.end_section();
            } else if self.rows.len() < PIECE_BYTES {
                self.rows.push(b',');
                self.row_from = self.rows.len();
                return Ok(None);
            }
            self.row_from = 0;
            let rows = std::mem::take(&mut self.rows);
            return Ok(Some(Piece { section, rows }));
        }
        if !self.row_began && is_space(byte) {
            return Ok(None);
        }
        self.row_began = true;
        self.nest(byte)?;
        if self.rows.len().saturating_sub(self.row_from) >= self.row_bytes_max {
            return Err(JsonError::StringTooLong {
                limit: self.row_bytes_max,
            });
        }
        self.rows.push(byte);
        Ok(None)
    }

    fn end_section(&mut self) {
        self.place = Place::Pairs {
            any: true,
            comma: false,
        };
    }

    /// Keeps count of what is open around the next byte.
    fn nest(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.in_string {
            if self.ends_string(byte) {
                self.in_string = false;
            }
            return Ok(());
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                if self.depth > self.limits.depth_max {
                    return Err(JsonError::Depth {
                        limit: self.limits.depth_max,
                    });
                }
            }
            b'}' | b']' => match self.depth.checked_sub(1) {
                Some(depth) => self.depth = depth,
                None => return Err(self.syntax("an end of nothing")),
            },
            _ => {}
        }
        Ok(())
    }

    /// Whether this byte, inside of a string, ends it.
    fn ends_string(&mut self, byte: u8) -> bool {
        if self.escaped {
            self.escaped = false;
            return false;
        }
        self.escaped = byte == b'\\';
        byte == b'"'
    }

    fn bound(&self, bytes: usize) -> Result<(), JsonError> {
        if bytes >= ENVELOPE_BYTES_MAX {
            return Err(JsonError::StringTooLong {
                limit: ENVELOPE_BYTES_MAX,
            });
        }
        Ok(())
    }

    fn syntax(&self, detail: &'static str) -> JsonError {
        JsonError::Syntax {
            detail,
            at: self.at,
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &[u8], block: usize) -> Result<(Envelope, Vec<Piece>), JsonError> {
        let mut cutter = Cutter::new(&JsonLimits::default(), 10_000_000);
        let mut pieces = Vec::new();
        for block in text.chunks(block) {
            cutter.feed(block, |piece| {
                pieces.push(piece);
                Ok(())
            })?;
        }
        Ok((cutter.finish()?, pieces))
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_message_comes_apart_between_rows_in_any_blocks() {
        let json = br#" {"request":"proxy data", "tasks":[] ,"host":"a,}]\"b", "history data":[{"id":1,"value":"],\"}"}, {"id":2,"x":[[1],{}]} ],"more":1,"odd":{"a":[1,2]},"tasks":[{"type":3}]}  "#;
        for block in [1, 2, 3, 7, 1000] {
            let (envelope, pieces) = cut(json, block).unwrap();
            let rest = r#"{"request":"proxy data","host":"a,}]\"b","more":1,"odd":{"a":[1,2]},"#;
            assert_eq!(
                text(envelope.without_rows()),
                format!("{rest}\"tasks\":[],\"history data\":[],\"tasks\":[]}}")
            );
            let messages: Vec<String> = pieces.iter().map(|p| text(envelope.with(p))).collect();
            assert_eq!(
                messages,
                [
                    format!(
                        r#"{rest}"history data":[{{"id":1,"value":"],\"}}"}},{{"id":2,"x":[[1],{{}}]}} ]}}"#
                    ),
                    format!(r#"{rest}"tasks":[{{"type":3}}]}}"#),
                ]
            );
            assert_eq!(text(pieces[1].alone()), r#"{"tasks":[{"type":3}]}"#);
        }
    }

    #[test]
    fn pieces_are_cut_when_they_are_full_and_hold_every_row_once() {
        let row = format!(r#"{{"value":"{}"}}"#, "x".repeat(100_000));
        let rows = vec![row.as_str(); 100].join(",");
        let json = format!(r#"{{"history data":[{rows}]}}"#);
        let (_, pieces) = cut(json.as_bytes(), 65_536).unwrap();
        assert_eq!(pieces.len(), 10);
        let mut count = 0;
        for piece in pieces {
            assert!(piece.rows.len() < PIECE_BYTES + row.len() + 1);
            let alone: serde_json::Value = serde_json::from_slice(&piece.alone()).unwrap();
            count += alone["history data"].as_array().unwrap().len();
        }
        assert_eq!(count, 100);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let long = format!("{{\"host\":\"{}\"}}", "x".repeat(ENVELOPE_BYTES_MAX));
        let deep = format!("{{\"history data\":[{}", "[".repeat(100_000));
        let key = format!("{{\"{}", "k".repeat(ENVELOPE_BYTES_MAX));
        let cases: &[&str] = &[
            "",
            "[1]",
            "x",
            "{",
            "{\"a\"",
            "{\"a\":1",
            "{\"a\" 1}",
            "{,\"a\":1}",
            "{\"a\":1,}",
            "{\"a\":1}}",
            "{\"a\":1}{}",
            "{\"history data\":[1}",
            "{\"history data\":[1,]}",
            "{\"history data\":[,1]}",
            "{\"history data\":[1,,2]}",
            "{\"history data\":[}]}",
            "{\"history data\":[1] \"a\":1}",
            "{\"history data\":[1],\"history data\":1}",
            "{\"history data\":1,\"history data\":[1]}",
            &long,
            &deep,
            &key,
        ];
        for case in cases {
            let shown: String = case.chars().take(40).collect();
            assert!(cut(case.as_bytes(), 1000).is_err(), "{shown}");
        }
        let small = JsonLimits {
            array_items_max: 2,
            ..JsonLimits::default()
        };
        let mut cutter = Cutter::new(&small, 8);
        assert_eq!(
            cutter.feed(b"{\"tasks\":[1,2,3]}", |_| Ok(())),
            Err(JsonError::Items { limit: 2 })
        );
        let mut cutter = Cutter::new(&small, 8);
        assert_eq!(
            cutter.feed(b"{\"tasks\":[123456789]}", |_| Ok(())),
            Err(JsonError::StringTooLong { limit: 8 })
        );
    }
}
