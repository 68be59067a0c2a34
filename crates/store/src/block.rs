//! Blocks: how values lie in storage (architecture, section 10).
//!
//! A block holds the readings of one or several uploads as columns: item, clock, nanoseconds, kind, flags,
//! then the values of each kind. Readings are sorted by item and time, so that neighbours are alike and an
//! item's values lie together. The bytes are versioned and carry a checksum; a block that does not decode is
//! an error that names it, never a wrong value. Numbers come back bit for bit.
//!
//! This file knows nothing of tables, uploads or duplicates.

use std::borrow::Borrow;

use muster_core::sample::{LogLine, Sample, Value};

use crate::column::{self, ColumnError};
use crate::varint;

/// What a peer said about an item at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The item's number.
    pub item: u64,
    /// Unix seconds.
    pub clock: i64,
    /// Nanoseconds within the second, below 10^9.
    pub ns: u32,
    /// A value, or why there is none.
    pub content: Content,
    /// What was done to it on the way in.
    pub flags: Flags,
}

/// A value, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// The item cannot be had; the peer's reason.
    NotSupported(String),
    /// A value.
    Value(Value),
}

/// What was done to a reading on the way in (threats, sections 4 and 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Its text was longer than what is kept.
    pub const CUT: Self = Self(1);
    /// Parts of its text that were no Unicode became U+FFFD.
    pub const REPLACED: Self = Self(2);
    /// Its time was impossible and became the time of arrival.
    pub const RESTAMPED: Self = Self(4);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl From<Sample> for Reading {
    fn from(sample: Sample) -> Self {
        Self {
            item: sample.item,
            clock: sample.clock,
            ns: sample.ns,
            content: Content::Value(sample.value),
            flags: Flags::default(),
        }
    }
}

impl Reading {
    /// The value at its time, if there is one.
    #[must_use]
    pub fn into_sample(self) -> Option<Sample> {
        match self.content {
            Content::Value(value) => Some(Sample {
                item: self.item,
                clock: self.clock,
                ns: self.ns,
                value,
            }),
            Content::NotSupported(_) => None,
        }
    }

    /// Its time, for ordering.
    #[must_use]
    pub fn at(&self) -> (i64, u32) {
        (self.clock, self.ns)
    }

    /// Bytes of text in it.
    #[must_use]
    pub fn text_len(&self) -> usize {
        match &self.content {
            Content::NotSupported(text) | Content::Value(Value::Text(text)) => text.len(),
            Content::Value(Value::Log(line)) => line.text.len().saturating_add(line.source.len()),
            Content::Value(Value::Float(_) | Value::Unsigned(_)) => 0,
        }
    }
}

/// Why bytes are no block.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The checksum is another.
    #[error("checksum is {found:08x} instead of {computed:08x}")]
    Checksum {
        /// The one in the block.
        found: u32,
        /// The one of its bytes.
        computed: u32,
    },
    /// A column does not decode.
    #[error("column {column} does not decode")]
    Column {
        /// Which.
        column: &'static str,
        /// Why.
        #[source]
        source: ColumnError,
    },
    /// It declares more or fewer readings than a block has.
    #[error("block declares {declared} readings; it has 1 to {limit}")]
    Count {
        /// How many it declares.
        declared: u64,
        /// How many it may.
        limit: usize,
    },
    /// It is not a block at all, or of another version.
    #[error("not a sample block of version {VERSION}")]
    Header,
    /// A kind or time in it is impossible.
    #[error("impossible {what} in a block")]
    Impossible {
        /// What.
        what: &'static str,
    },
    /// Its texts together are longer than a block may hold.
    #[error("text of {size} bytes is over the limit of {limit}")]
    Text {
        /// How long.
        size: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Something follows its last column.
    #[error("{count} bytes follow the last column")]
    Trailing {
        /// How many.
        count: usize,
    },
}

/// Readings of one block: their decoded form stays under a megabyte.
pub const READINGS_MAX: usize = 8192;
/// Texts of one block together, and so of one reading: what is kept of a value is 64 KiB (threats,
/// section 4), and a few of them share a block.
pub const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Encoded size that blocks are split near.
pub const BLOCK_BYTES_TARGET: usize = 16 * 1024;

const MAGIC: [u8; 3] = *b"MSB";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

const FLOAT: u32 = 0;
const UNSIGNED: u32 = 1;
const TEXT: u32 = 2;
const LOG: u32 = 3;
const NOT_SUPPORTED: u32 = 4;

fn kind(content: &Content) -> u32 {
    match content {
        Content::NotSupported(_) => NOT_SUPPORTED,
        Content::Value(Value::Float(_)) => FLOAT,
        Content::Value(Value::Log(_)) => LOG,
        Content::Value(Value::Text(_)) => TEXT,
        Content::Value(Value::Unsigned(_)) => UNSIGNED,
    }
}

/// Encodes readings as one block; they should be sorted by item and time, as [`split`] leaves them.
///
/// # Errors
/// [`BlockError`] for none or too many readings, too much text, or nanoseconds that are no fraction.
pub fn encode<R: Borrow<Reading>>(readings: &[R]) -> Result<Vec<u8>, BlockError> {
    let readings = || readings.iter().map(Borrow::borrow);
    let count = readings().len();
    if count == 0 || count > READINGS_MAX {
        return Err(BlockError::Count {
            declared: count as u64,
            limit: READINGS_MAX,
        });
    }
    let size = readings().map(Reading::text_len).sum();
    if size > TEXT_BYTES_MAX {
        return Err(BlockError::Text {
            size,
            limit: TEXT_BYTES_MAX,
        });
    }
    if readings().any(|r: &Reading| r.ns >= NS_PER_SECOND) {
        return Err(BlockError::Impossible {
            what: "nanoseconds",
        });
    }
    let mut out = Vec::with_capacity(BLOCK_BYTES_TARGET);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    varint::put(&mut out, count as u64);

    fn numbers<T: column::Cell>(
        out: &mut Vec<u8>,
        name: &'static str,
        cells: impl Iterator<Item = T>,
    ) -> Result<(), BlockError> {
        let cells: Vec<T> = cells.collect();
        column::put_numbers(out, &cells).map_err(|source| BlockError::Column {
            column: name,
            source,
        })
    }
    numbers(&mut out, "item", readings().map(|r: &Reading| r.item))?;
    numbers(&mut out, "clock", readings().map(|r: &Reading| r.clock))?;
    numbers(&mut out, "ns", readings().map(|r: &Reading| r.ns))?;
    numbers(
        &mut out,
        "kind",
        readings().map(|r: &Reading| kind(&r.content)),
    )?;
    numbers(&mut out, "flags", readings().map(|r: &Reading| r.flags.0))?;
    numbers(
        &mut out,
        "float",
        readings().filter_map(|r: &Reading| match r.content {
            Content::Value(Value::Float(number)) => Some(number),
            Content::Value(Value::Unsigned(_) | Value::Text(_) | Value::Log(_))
            | Content::NotSupported(_) => None,
        }),
    )?;
    numbers(
        &mut out,
        "unsigned",
        readings().filter_map(|r: &Reading| match r.content {
            Content::Value(Value::Unsigned(number)) => Some(number),
            Content::Value(Value::Float(_) | Value::Text(_) | Value::Log(_))
            | Content::NotSupported(_) => None,
        }),
    )?;
    let texts = readings().filter_map(|r: &Reading| match &r.content {
        Content::NotSupported(text) | Content::Value(Value::Text(text)) => Some(text.as_str()),
        Content::Value(Value::Log(line)) => Some(line.text.as_str()),
        Content::Value(Value::Float(_) | Value::Unsigned(_)) => None,
    });
    column::put_texts(&mut out, texts).map_err(|source| BlockError::Column {
        column: "text",
        source,
    })?;
    let logs = || {
        readings().filter_map(|r: &Reading| match &r.content {
            Content::Value(Value::Log(line)) => Some(line),
            Content::Value(Value::Float(_) | Value::Unsigned(_) | Value::Text(_))
            | Content::NotSupported(_) => None,
        })
    };
    column::put_texts(&mut out, logs().map(|line| line.source.as_str())).map_err(|source| {
        BlockError::Column {
            column: "log source",
            source,
        }
    })?;
    numbers(&mut out, "log time", logs().map(|line| line.timestamp))?;
    numbers(
        &mut out,
        "log severity",
        logs().map(|line| i64::from(line.severity)),
    )?;
    numbers(&mut out, "log event", logs().map(|line| line.event_id))?;

    let checksum = crc32fast::hash(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    Ok(out)
}

const NS_PER_SECOND: u32 = 1_000_000_000;

/// Decodes a block.
///
/// # Errors
/// [`BlockError`] for whatever [`encode`] did not write. Memory is bounded by [`READINGS_MAX`] and
/// [`TEXT_BYTES_MAX`], whatever the bytes declare.
pub fn decode(bytes: &[u8]) -> Result<Vec<Reading>, BlockError> {
    let (mut body, checksum) = bytes
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(BlockError::Header)?;
    let found = u32::from_le_bytes(*checksum);
    let computed = crc32fast::hash(body);
    body = body.strip_prefix(&MAGIC).ok_or(BlockError::Header)?;
    body = body.strip_prefix(&[VERSION]).ok_or(BlockError::Header)?;
    if found != computed {
        return Err(BlockError::Checksum { found, computed });
    }
    decode_body(body)
}

/// Decodes what lies between header and checksum; the fuzz targets enter here, as random bytes have no
/// right checksum.
///
/// # Errors
/// As [`decode`].
pub fn decode_body(mut body: &[u8]) -> Result<Vec<Reading>, BlockError> {
    let input = &mut body;
    let declared = varint::take(input).ok_or(BlockError::Header)?;
    let count = usize::try_from(declared)
        .ok()
        .filter(|count| (1..=READINGS_MAX).contains(count))
        .ok_or(BlockError::Count {
            declared,
            limit: READINGS_MAX,
        })?;

    fn numbers<T: column::Cell>(
        input: &mut &[u8],
        name: &'static str,
        count: usize,
    ) -> Result<Vec<T>, BlockError> {
        column::take_numbers(input, count).map_err(|source| BlockError::Column {
            column: name,
            source,
        })
    }
    let items: Vec<u64> = numbers(input, "item", count)?;
    let clocks: Vec<i64> = numbers(input, "clock", count)?;
    let fractions: Vec<u32> = numbers(input, "ns", count)?;
    let kinds: Vec<u32> = numbers(input, "kind", count)?;
    let flags: Vec<u32> = numbers(input, "flags", count)?;
    let of_kind = |kind| kinds.iter().filter(|k| **k == kind).count();
    let mut floats = numbers::<f64>(input, "float", of_kind(FLOAT))?.into_iter();
    let mut unsigned = numbers::<u64>(input, "unsigned", of_kind(UNSIGNED))?.into_iter();
    let log_count = of_kind(LOG);
    let text_count = of_kind(TEXT) + log_count + of_kind(NOT_SUPPORTED);
    let texts = column::take_texts(input, text_count, TEXT_BYTES_MAX).map_err(|source| {
        BlockError::Column {
            column: "text",
            source,
        }
    })?;
    let mut texts = texts.into_iter();
    let sources = column::take_texts(input, log_count, TEXT_BYTES_MAX).map_err(|source| {
        BlockError::Column {
            column: "log source",
            source,
        }
    })?;
    let mut sources = sources.into_iter();
    let mut times = numbers::<i64>(input, "log time", log_count)?.into_iter();
    let mut severities = numbers::<i64>(input, "log severity", log_count)?.into_iter();
    let mut events = numbers::<i64>(input, "log event", log_count)?.into_iter();
    if !input.is_empty() {
        return Err(BlockError::Trailing { count: input.len() });
    }

    let impossible = |what| BlockError::Impossible { what };
    let mut readings = Vec::with_capacity(count);
    let rows = items
        .into_iter()
        .zip(clocks)
        .zip(fractions)
        .zip(kinds)
        .zip(flags);
    for ((((item, clock), ns), kind), flags) in rows {
        if ns >= NS_PER_SECOND {
            return Err(impossible("nanoseconds"));
        }
        let missing = || impossible("kind");
        let content = match kind {
            FLOAT => Content::Value(Value::Float(floats.next().ok_or_else(missing)?)),
            UNSIGNED => Content::Value(Value::Unsigned(unsigned.next().ok_or_else(missing)?)),
            TEXT => Content::Value(Value::Text(texts.next().ok_or_else(missing)?)),
            NOT_SUPPORTED => Content::NotSupported(texts.next().ok_or_else(missing)?),
            LOG => Content::Value(Value::Log(LogLine {
                text: texts.next().ok_or_else(missing)?,
                source: sources.next().ok_or_else(missing)?,
                timestamp: times.next().ok_or_else(missing)?,
                severity: severities
                    .next()
                    .and_then(|s| i32::try_from(s).ok())
                    .ok_or_else(|| impossible("severity"))?,
                event_id: events.next().ok_or_else(missing)?,
            })),
            _ => return Err(missing()),
        };
        readings.push(Reading {
            item,
            clock,
            ns,
            content,
            flags: Flags(flags),
        });
    }
    Ok(readings)
}

/// A block and the readings it was made of.
#[derive(Clone, Debug)]
pub struct Block<R> {
    /// The readings, sorted by item and time.
    pub readings: Vec<R>,
    /// The same, encoded.
    pub data: Vec<u8>,
}

/// Sorts readings by item and time (equal ones stay in the order of arrival) and cuts them into encoded
/// blocks near [`BLOCK_BYTES_TARGET`].
///
/// # Errors
/// [`BlockError`] when one reading alone cannot be encoded.
pub fn split<R: Borrow<Reading>>(mut readings: Vec<R>) -> Result<Vec<Block<R>>, BlockError> {
    readings.sort_by_key(|r| {
        let r = r.borrow();
        (r.item, r.clock, r.ns)
    });
    let mut blocks = Vec::new();
    let mut rest = readings;
    // Readings that a block is likely to hold, learnt from the last one.
    let mut guess = READINGS_FIRST;
    while !rest.is_empty() {
        let mut take = fitting(&rest, guess);
        let data = loop {
            let head = rest.get(..take).unwrap_or(&rest);
            let data = encode(head)?;
            if data.len() <= BLOCK_BYTES_TARGET + BLOCK_BYTES_TARGET / 2 || take == 1 {
                break data;
            }
            take = (take * BLOCK_BYTES_TARGET / data.len()).clamp(1, take - 1);
        };
        guess = (take * BLOCK_BYTES_TARGET / data.len().max(1)).clamp(READINGS_LEAST, READINGS_MAX);
        let tail = rest.split_off(take.min(rest.len()));
        blocks.push(Block {
            readings: rest,
            data,
        });
        rest = tail;
    }
    Ok(blocks)
}

/// First guess at how many readings make a block: some four bytes each.
const READINGS_FIRST: usize = 4096;
/// A guess never falls below this, so that one odd block does not make many small ones.
const READINGS_LEAST: usize = 64;

/// How many of the first `count` readings stay within the text limit; at least one.
fn fitting<R: Borrow<Reading>>(readings: &[R], count: usize) -> usize {
    let mut text = 0usize;
    let fitting = readings
        .iter()
        .take(count)
        .take_while(|reading| {
            text = text.saturating_add((*reading).borrow().text_len());
            text <= TEXT_BYTES_MAX
        })
        .count();
    fitting.max(1)
}

#[cfg(test)]
mod tests;
