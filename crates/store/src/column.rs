//! One column of a sample block: many numbers, or many texts, in few bytes.
//!
//! A column is an encoding byte, its length, and its bytes; how many entries it has is known from the block.
//! Long columns of numbers go through `pco`, short ones (where its tables would outweigh them) are written
//! plainly, and a column of one repeated value is that value. Texts are one string, through zstd when that is
//! smaller, beside a column of lengths.

use pco::data_types::Number;
use pco::metadata::DeltaEncoding;
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, PagingSpec};

use crate::varint;

/// Why bytes are no column.
#[derive(Debug, thiserror::Error)]
pub enum ColumnError {
    /// It ends too early, is too long, or a number in it is malformed.
    #[error("column is cut short or malformed")]
    Malformed,
    /// An encoding this build does not know.
    #[error("column has unknown encoding {found}")]
    Encoding {
        /// The encoding byte.
        found: u8,
    },
    /// The number compressor refuses it.
    #[error("column of numbers does not decompress")]
    Numbers(#[source] pco::errors::PcoError),
    /// It would take more memory than any column we write.
    #[error("column would take {size} bytes; the limit is {limit}")]
    TooLarge {
        /// What it declares, in bytes.
        size: u64,
        /// What it may.
        limit: u64,
    },
    /// The text compressor refuses it.
    #[error("column of texts does not decompress")]
    Texts(#[source] std::io::Error),
}

/// Compression of numbers at intake (architecture, section 10).
const PCO_LEVEL: usize = 4;
/// Compression of texts at intake: the fastest level that still finds repeats across lines.
const ZSTD_LEVEL: i32 = 3;
/// Columns shorter than this are written plainly; `pco` needs some twenty bytes of tables.
const PCO_MIN: usize = 16;
/// Texts shorter than this are written plainly.
const ZSTD_MIN: usize = 64;
/// Window of the look-back that `pco` may reserve memory for, in bits; ours has none.
const PCO_WINDOW_LOG_MAX: u32 = 14;

const PLAIN: u8 = 0;
const CONSTANT: u8 = 1;
const COMPRESSED: u8 = 2;

/// A number that columns are made of.
pub(crate) trait Cell: Number + Copy + Default {
    fn bits(self) -> u64;
    fn from_bits(bits: u64) -> Option<Self>;
    /// Whether neighbours tend to be near each other as integers.
    const INTEGER: bool;
}

impl Cell for u64 {
    const INTEGER: bool = true;
    fn bits(self) -> u64 {
        self
    }
    fn from_bits(bits: u64) -> Option<Self> {
        Some(bits)
    }
}

impl Cell for i64 {
    const INTEGER: bool = true;
    fn bits(self) -> u64 {
        self.cast_unsigned()
    }
    fn from_bits(bits: u64) -> Option<Self> {
        Some(bits.cast_signed())
    }
}

impl Cell for u32 {
    const INTEGER: bool = true;
    fn bits(self) -> u64 {
        u64::from(self)
    }
    fn from_bits(bits: u64) -> Option<Self> {
        u32::try_from(bits).ok()
    }
}

impl Cell for f64 {
    const INTEGER: bool = false;
    fn bits(self) -> u64 {
        self.to_bits()
    }
    fn from_bits(bits: u64) -> Option<Self> {
        Some(f64::from_bits(bits))
    }
}

/// Appends a column of numbers; none is nothing.
pub(crate) fn put_numbers<T: Cell>(out: &mut Vec<u8>, cells: &[T]) -> Result<(), ColumnError> {
    let Some(first) = cells.first() else {
        return Ok(());
    };
    let first = first.bits();
    let (encoding, body) = if cells.iter().all(|cell| cell.bits() == first) {
        let mut body = Vec::new();
        put_plain::<T>(&mut body, 0, first);
        (CONSTANT, body)
    } else if cells.len() < PCO_MIN {
        (PLAIN, plain(cells))
    } else {
        (COMPRESSED, compressed(cells).map_err(ColumnError::Numbers)?)
    };
    put_column(out, encoding, &body);
    Ok(())
}

fn put_column(out: &mut Vec<u8>, encoding: u8, body: &[u8]) {
    out.push(encoding);
    varint::put(out, body.len() as u64);
    out.extend_from_slice(body);
}

fn plain<T: Cell>(cells: &[T]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut previous = 0;
    for cell in cells {
        put_plain::<T>(&mut body, previous, cell.bits());
        previous = cell.bits();
    }
    body
}

fn put_plain<T: Cell>(body: &mut Vec<u8>, previous: u64, bits: u64) {
    if T::INTEGER {
        varint::put(
            body,
            varint::zigzag(bits.wrapping_sub(previous).cast_signed()),
        );
    } else {
        body.extend_from_slice(&bits.to_le_bytes());
    }
}

fn take_plain<T: Cell>(body: &mut &[u8], previous: u64) -> Option<u64> {
    if T::INTEGER {
        let delta = varint::unzigzag(varint::take(body)?);
        Some(previous.wrapping_add(delta.cast_unsigned()))
    } else {
        let (bits, rest) = body.split_first_chunk()?;
        *body = rest;
        Some(u64::from_le_bytes(*bits))
    }
}

fn compressed<T: Cell>(cells: &[T]) -> pco::errors::PcoResult<Vec<u8>> {
    let config = ChunkConfig::default()
        .with_compression_level(PCO_LEVEL)
        .with_paging_spec(PagingSpec::Exact(vec![cells.len()]));
    let file = FileCompressor::default();
    let body = file.write_header(Vec::new())?;
    let mut chunk = file.chunk_compressor(cells, &config)?;
    let body = chunk.write_meta(body)?;
    chunk.write_page(0, body)
}

/// Takes a column of `count` numbers off the front.
pub(crate) fn take_numbers<T: Cell>(
    input: &mut &[u8],
    count: usize,
) -> Result<Vec<T>, ColumnError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let (encoding, mut body) = take_column(input)?;
    let malformed = ColumnError::Malformed;
    match encoding {
        PLAIN => {
            let mut cells = Vec::with_capacity(count.min(body.len()));
            let mut previous = 0;
            for _ in 0..count {
                previous = take_plain::<T>(&mut body, previous).ok_or(ColumnError::Malformed)?;
                cells.push(T::from_bits(previous).ok_or(ColumnError::Malformed)?);
            }
            if body.is_empty() {
                Ok(cells)
            } else {
                Err(malformed)
            }
        }
        CONSTANT => {
            let bits = take_plain::<T>(&mut body, 0).ok_or(ColumnError::Malformed)?;
            let cell = T::from_bits(bits).ok_or(ColumnError::Malformed)?;
            if body.is_empty() {
                Ok(vec![cell; count])
            } else {
                Err(malformed)
            }
        }
        COMPRESSED => decompressed(body, count),
        found => Err(ColumnError::Encoding { found }),
    }
}

fn take_column<'i>(input: &mut &'i [u8]) -> Result<(u8, &'i [u8]), ColumnError> {
    let (encoding, rest) = input.split_first().ok_or(ColumnError::Malformed)?;
    let mut rest = rest;
    let length = varint::take(&mut rest).ok_or(ColumnError::Malformed)?;
    let length = usize::try_from(length).map_err(|_| ColumnError::Malformed)?;
    let (body, rest) = rest
        .split_at_checked(length)
        .ok_or(ColumnError::Malformed)?;
    *input = rest;
    Ok((*encoding, body))
}

fn decompressed<T: Cell>(body: &[u8], count: usize) -> Result<Vec<T>, ColumnError> {
    let (file, rest) = FileDecompressor::new(body).map_err(ColumnError::Numbers)?;
    let (mut chunk, rest) = file
        .chunk_decompressor::<T, _>(rest)
        .map_err(ColumnError::Numbers)?;
    if let DeltaEncoding::Lookback { config, .. } = &chunk.meta().delta_encoding
        && config.window_n_log > PCO_WINDOW_LOG_MAX
    {
        return Err(ColumnError::TooLarge {
            size: 1u64.checked_shl(config.window_n_log).unwrap_or(u64::MAX),
            limit: 1 << PCO_WINDOW_LOG_MAX,
        });
    }
    let mut cells = vec![T::default(); count];
    let mut page = chunk
        .page_decompressor(rest, count)
        .map_err(ColumnError::Numbers)?;
    let progress = page.read(&mut cells).map_err(ColumnError::Numbers)?;
    if progress.n_processed == count && progress.finished && page.into_src().is_empty() {
        Ok(cells)
    } else {
        Err(ColumnError::Malformed)
    }
}

/// Appends texts: their lengths, then their bytes; none is nothing.
pub(crate) fn put_texts<'t>(
    out: &mut Vec<u8>,
    texts: impl Iterator<Item = &'t str> + Clone,
) -> Result<(), ColumnError> {
    let mut lengths = Vec::new();
    for text in texts.clone() {
        lengths.push(
            u32::try_from(text.len()).map_err(|_| ColumnError::TooLarge {
                size: text.len() as u64,
                limit: u64::from(u32::MAX),
            })?,
        );
    }
    if lengths.is_empty() {
        return Ok(());
    }
    put_numbers(out, &lengths)?;
    let mut joined = Vec::new();
    for text in texts {
        joined.extend_from_slice(text.as_bytes());
    }
    let packed = if joined.len() < ZSTD_MIN {
        None
    } else {
        let packed = zstd::bulk::compress(&joined, ZSTD_LEVEL).map_err(ColumnError::Texts)?;
        (packed.len() < joined.len()).then_some(packed)
    };
    match packed {
        Some(packed) => put_column(out, COMPRESSED, &packed),
        None => put_column(out, PLAIN, &joined),
    }
    Ok(())
}

/// Takes `count` texts off the front, of at most `limit` bytes together.
pub(crate) fn take_texts(
    input: &mut &[u8],
    count: usize,
    limit: usize,
) -> Result<Vec<String>, ColumnError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let lengths: Vec<u32> = take_numbers(input, count)?;
    let total: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
    let size = usize::try_from(total).unwrap_or(usize::MAX);
    if size > limit {
        return Err(ColumnError::TooLarge {
            size: total,
            limit: limit as u64,
        });
    }
    let (encoding, body) = take_column(input)?;
    let unpacked;
    let mut joined = match encoding {
        PLAIN => body,
        COMPRESSED => {
            unpacked = zstd::bulk::decompress(body, size).map_err(ColumnError::Texts)?;
            &unpacked[..]
        }
        found => return Err(ColumnError::Encoding { found }),
    };
    if joined.len() != size {
        return Err(ColumnError::Malformed);
    }
    let mut texts = Vec::with_capacity(count);
    for length in lengths {
        let (text, rest) = joined
            .split_at_checked(length as usize)
            .ok_or(ColumnError::Malformed)?;
        joined = rest;
        let text = std::str::from_utf8(text).map_err(|_| ColumnError::Malformed)?;
        texts.push(text.to_owned());
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round<T: Cell>(cells: &[T]) -> usize {
        let mut bytes = Vec::new();
        put_numbers(&mut bytes, cells).unwrap();
        let mut rest = &bytes[..];
        let back: Vec<T> = take_numbers(&mut rest, cells.len()).unwrap();
        assert!(rest.is_empty());
        assert_eq!(back.len(), cells.len());
        for (back, cell) in back.iter().zip(cells) {
            assert_eq!(back.bits(), cell.bits());
        }
        bytes.len()
    }

    #[test]
    fn odd_floats_keep_every_bit() {
        let odd = [
            0.0,
            -0.0,
            f64::NAN,
            f64::from_bits(0x7ff0_0000_0000_0001),
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MIN_POSITIVE,
            f64::from_bits(1),
            f64::MAX,
            0.1,
        ];
        for repeat in [1, 10] {
            let cells: Vec<f64> = odd
                .iter()
                .copied()
                .cycle()
                .take(odd.len() * repeat)
                .collect();
            round(&cells);
        }
    }

    #[test]
    fn integers_beyond_2_to_53_are_exact() {
        let cells: Vec<u64> = (0..100)
            .map(|i| u64::MAX - i * 3)
            .chain([0, 1 << 53, (1 << 53) + 1])
            .collect();
        round(&cells);
        round(&[i64::MIN, i64::MAX, 0, -1]);
    }

    #[test]
    fn regular_columns_are_small() {
        assert!(round(&vec![7u64; 4096]) <= 4);
        let clocks: Vec<i64> = (0..4096).map(|i| 1_795_287_639 + i).collect();
        assert!(round(&clocks) < 60, "{}", round(&clocks));
        let slow: Vec<f64> = (0..4096)
            .map(|i| 20.0 + f64::from(i % 50) / 100.0)
            .collect();
        assert!(round(&slow) < 4096, "{}", round(&slow));
    }

    #[test]
    fn a_text_bomb_is_refused_before_it_unpacks() {
        let mut bytes = Vec::new();
        let zeros = "0".repeat(1 << 20);
        put_texts(&mut bytes, std::iter::once(&*zeros)).unwrap();
        assert!(bytes.len() < 300);
        let refused = take_texts(&mut &bytes[..], 1, 1 << 16);
        assert!(
            matches!(refused, Err(ColumnError::TooLarge { .. })),
            "{refused:?}"
        );
        assert_eq!(take_texts(&mut &bytes[..], 1, 1 << 20).unwrap(), [zeros]);
    }

    #[test]
    fn texts_that_lie_about_their_length_are_refused() {
        let text = "x".repeat(200);
        let mut honest = Vec::new();
        put_texts(&mut honest, std::iter::once(&*text)).unwrap();
        for lie in [199u32, 201] {
            let mut bytes = Vec::new();
            put_numbers(&mut bytes, &[lie]).unwrap();
            let mut length = Vec::new();
            put_numbers(&mut length, &[200u32]).unwrap();
            bytes.extend_from_slice(&honest[length.len()..]);
            assert!(take_texts(&mut &bytes[..], 1, 1 << 16).is_err());
        }
    }

    proptest! {
        #[test]
        fn numbers_come_back(
            ints in prop::collection::vec(any::<u64>(), 0..300),
            small in prop::collection::vec(0u32..5, 0..300),
            floats in prop::collection::vec(any::<f64>(), 0..300),
        ) {
            round(&ints);
            round(&small);
            round(&floats);
        }

        #[test]
        fn texts_come_back(texts in prop::collection::vec(".{0,40}", 0..60)) {
            let mut bytes = Vec::new();
            put_texts(&mut bytes, texts.iter().map(String::as_str)).unwrap();
            let mut rest = &bytes[..];
            prop_assert_eq!(take_texts(&mut rest, texts.len(), 1 << 20).unwrap(), texts);
            prop_assert!(rest.is_empty());
        }
    }
}
