//! `ZBXD` frames: header, incremental decoding, deflating, and inflating under a cap.
//!
//! Knows nothing of JSON. A length is compared with its limit before a byte is reserved for it,
//! memory grows with the bytes that arrive, and inflation stops one byte after what the header
//! declared. Contract: Zabbix page, sections 1.1 and 1.2.

use flate2::{Compression, Decompress, FlushDecompress, Status};

use super::wire::{Limits, PeerLimits};

/// The first four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"ZBXD";

const FLAG_PROTOCOL: u8 = 0x01;
const FLAG_COMPRESSED: u8 = 0x02;
const FLAG_LARGE: u8 = 0x04;
const HEADER_BYTES: usize = 13;
const HEADER_BYTES_LARGE: usize = 21;

/// A decoded frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The payload is a zlib stream (flag `0x02`).
    pub compressed: bool,
    /// Both lengths are 64-bit (flag `0x04`).
    pub large: bool,
    /// `DATALEN`: bytes of payload on the wire.
    pub length: u64,
    /// `RESERVED`: bytes after inflating when compressed, else anything (agent2 6.0 repeats the
    /// length there).
    pub reserved: u64,
}

impl Header {
    /// Reads a header off the front of `bytes`; `None` while bytes are missing.
    ///
    /// # Errors
    /// The magic or the flags are wrong, judged on the first byte that shows it.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        if bytes
            .iter()
            .zip(MAGIC)
            .any(|(found, wanted)| *found != wanted)
        {
            let mut found = [0; 4];
            for (to, from) in found.iter_mut().zip(bytes) {
                *to = *from;
            }
            return Err(FrameError::NotZbxd { found });
        }
        let Some(&flags) = bytes.get(MAGIC.len()) else {
            return Ok(None);
        };
        let known = FLAG_PROTOCOL | FLAG_COMPRESSED | FLAG_LARGE;
        if flags & FLAG_PROTOCOL == 0 || flags & !known != 0 {
            return Err(FrameError::Flags { flags });
        }
        let large = flags & FLAG_LARGE != 0;
        let (length, reserved, size) = if large {
            let (Some(length), Some(reserved)) = (u64_at(bytes, 5), u64_at(bytes, 13)) else {
                return Ok(None);
            };
            (length, reserved, HEADER_BYTES_LARGE)
        } else {
            let (Some(length), Some(reserved)) = (u32_at(bytes, 5), u32_at(bytes, 9)) else {
                return Ok(None);
            };
            (u64::from(length), u64::from(reserved), HEADER_BYTES)
        };
        let compressed = flags & FLAG_COMPRESSED != 0;
        Ok(Some((
            Self {
                compressed,
                large,
                length,
                reserved,
            },
            size,
        )))
    }

    /// Bytes the payload will have once opened.
    pub fn opened_len(&self) -> u64 {
        if self.compressed {
            self.reserved
        } else {
            self.length
        }
    }

    /// The flag byte of this header.
    pub fn flags(&self) -> u8 {
        let compressed = if self.compressed { FLAG_COMPRESSED } else { 0 };
        let large = if self.large { FLAG_LARGE } else { 0 };
        FLAG_PROTOCOL | compressed | large
    }

    /// The bytes of this header. Lengths that do not fit the 32-bit form saturate; callers set
    /// `large` for those.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES_LARGE);
        out.extend_from_slice(&MAGIC);
        out.push(self.flags());
        if self.large {
            out.extend_from_slice(&self.length.to_le_bytes());
            out.extend_from_slice(&self.reserved.to_le_bytes());
        } else {
            let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
            out.extend_from_slice(&narrow(self.length));
            out.extend_from_slice(&narrow(self.reserved));
        }
        out
    }
}

/// A whole frame as it came: the payload is still compressed when the header says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The header.
    pub header: Header,
    /// `DATALEN` bytes, without those that [`Decoder::take_part`] gave before.
    pub body: Vec<u8>,
}

impl Packet {
    /// Bytes the payload will have once opened.
    pub fn opened_len(&self) -> u64 {
        self.header.opened_len()
    }

    /// The payload, inflated when it is compressed.
    ///
    /// Costs CPU in proportion to [`Packet::opened_len`]; callers move that off the I/O threads
    /// above a mebibyte.
    ///
    /// # Errors
    /// The stream is not zlib, is not exactly what the header declared, or goes over a limit.
    pub fn open(self, limits: &Limits, peer: &PeerLimits) -> Result<Vec<u8>, FrameError> {
        if self.header.compressed {
            inflate(
                &self.body,
                self.header.reserved,
                peer.inflated_bytes_max,
                limits.ratio_max,
            )
        } else {
            Ok(self.body)
        }
    }
}

/// Encodes `payload` as one frame.
///
/// The large form is never produced: it is for configurations of 4 GiB only, which no limit of
/// ours admits.
///
/// # Errors
/// The payload is too long for a normal frame (contract, section 1.2: 1 GiB).
pub fn encode(payload: &[u8], compress: bool) -> Result<Vec<u8>, FrameError> {
    let size = u64::try_from(payload.len()).unwrap_or(u64::MAX);
    if size > NORMAL_FRAME_BYTES_MAX {
        return Err(FrameError::TooLong {
            declared: size,
            limit: NORMAL_FRAME_BYTES_MAX,
        });
    }
    let deflated;
    let (body, reserved) = if compress {
        deflated = deflate(payload);
        (deflated.as_slice(), size)
    } else {
        (payload, 0)
    };
    let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let mut out = Header {
        compressed: compress,
        large: false,
        length,
        reserved,
    }
    .encode();
    out.extend_from_slice(body);
    Ok(out)
}

/// What real peers accept in a frame without the large flag.
pub const NORMAL_FRAME_BYTES_MAX: u64 = 1 << 30;

fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() / 4);
    let mut encoder = flate2::Compress::new(Compression::fast(), true);
    loop {
        out.reserve(CHUNK_BYTES);
        let taken = usize::try_from(encoder.total_in()).unwrap_or(usize::MAX);
        let rest = payload.get(taken..).unwrap_or_default();
        match encoder.compress_vec(rest, &mut out, flate2::FlushCompress::Finish) {
            Ok(Status::StreamEnd) => return out,
            // Neither can end the loop early: room was reserved, and a deflater has no input it
            // refuses.
            Ok(Status::Ok | Status::BufError) | Err(_) => {}
        }
    }
}

/// Inflates a zlib stream that must give exactly `declared` bytes and end where `body` ends.
///
/// # Errors
/// As [`Packet::open`].
pub fn inflate(
    body: &[u8],
    declared: u64,
    limit: u64,
    ratio_max: u64,
) -> Result<Vec<u8>, FrameError> {
    let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let mut stream = Inflate::new(declared, length, limit, ratio_max)?;
    let wanted = usize::try_from(declared).unwrap_or(usize::MAX);
    let mut out: Vec<u8> = Vec::new();
    stream.feed(body, |given| {
        let room = out.capacity().saturating_sub(out.len());
        if room < given.len() {
            // Doubling, but never beyond what may still come.
            let rest = wanted.saturating_sub(out.len());
            out.reserve_exact(out.len().max(given.len()).min(rest));
        }
        out.extend_from_slice(given);
    })?;
    stream.finish()?;
    Ok(out)
}

/// Inflates a body that comes in parts; memory is one buffer of 64 KiB.
#[derive(Debug)]
pub struct Inflate {
    stream: Decompress,
    buffer: Vec<u8>,
    declared: u64,
    given: u64,
    ended: bool,
}

impl Inflate {
    /// Begins a body of `length` bytes that is to give `declared`.
    ///
    /// # Errors
    /// It declares more than `limit`, or than a zlib stream of its length can give.
    pub fn new(declared: u64, length: u64, limit: u64, ratio_max: u64) -> Result<Self, FrameError> {
        if declared > limit {
            return Err(FrameError::TooLong { declared, limit });
        }
        if declared > length.saturating_mul(ratio_max) {
            return Err(FrameError::Ratio { declared, length });
        }
        Ok(Self {
            stream: Decompress::new(true),
            buffer: Vec::with_capacity(CHUNK_BYTES),
            declared,
            given: 0,
            ended: false,
        })
    }

    /// Takes a part, and hands over what it gives.
    ///
    /// # Errors
    /// It is no zlib stream, gives more than was declared, or goes on after its end.
    pub fn feed(&mut self, part: &[u8], mut give: impl FnMut(&[u8])) -> Result<(), FrameError> {
        let mut rest = part;
        loop {
            if self.ended {
                return if rest.is_empty() {
                    Ok(())
                } else {
                    Err(FrameError::Trailing)
                };
            }
            self.buffer.clear();
            let before = self.stream.total_in();
            let status = self
                .stream
                .decompress_vec(rest, &mut self.buffer, FlushDecompress::None)
                .map_err(FrameError::Inflate)?;
            let taken = self.stream.total_in().saturating_sub(before);
            let taken = usize::try_from(taken).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            let new = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
            self.given = self.given.saturating_add(new);
            if self.given > self.declared {
                return Err(FrameError::Size {
                    declared: self.declared,
                    // One byte too many shows it.
                    given: self.declared.saturating_add(1),
                });
            }
            give(&self.buffer);
            self.ended = matches!(status, Status::StreamEnd);
            if !self.ended && taken == 0 && new == 0 {
                // It wants more than this part holds.
                return Ok(());
            }
        }
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The stream has not ended, or gave less than was declared.
    pub fn finish(self) -> Result<(), FrameError> {
        if !self.ended {
            return Err(FrameError::Truncated);
        }
        if self.given < self.declared {
            return Err(FrameError::Size {
                declared: self.declared,
                given: self.given,
            });
        }
        Ok(())
    }
}

/// Puts frames together from bytes in any split.
#[derive(Debug)]
pub struct Decoder {
    frame_bytes_max: u64,
    large: bool,
    header: Option<Header>,
    /// The header's bytes until it is complete, then the payload's.
    buffer: Vec<u8>,
    /// Payload bytes that were taken out before the frame was complete.
    taken: usize,
}

impl Decoder {
    /// A decoder for a peer of `peer`'s trust. `large` admits the large flag: only a proxy that
    /// receives configuration takes it (contract, section 1.2).
    pub fn new(peer: &PeerLimits, large: bool) -> Self {
        Self {
            frame_bytes_max: peer.frame_bytes_max,
            large,
            header: None,
            buffer: Vec::new(),
            taken: 0,
        }
    }

    /// Judges what comes from here on by other limits.
    pub fn set_limits(&mut self, peer: &PeerLimits) {
        self.frame_bytes_max = peer.frame_bytes_max;
    }

    /// Takes bytes and gives how many of them it used, and the frame that they completed. Bytes
    /// after a frame are left to the caller.
    ///
    /// # Errors
    /// The frame is to be refused; the decoder is of no further use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, Option<Packet>), FrameError> {
        let mut used = 0_usize;
        let mut rest = bytes;
        let header = loop {
            if let Some(header) = self.header {
                break header;
            }
            // A byte at a time: a header is refused on the byte that shows it, and none of the
            // payload gets in here.
            let Some((first, others)) = rest.split_first() else {
                return Ok((used, None));
            };
            self.buffer.push(*first);
            rest = others;
            used = used.saturating_add(1);
            let parsed = Header::parse(&self.buffer)?;
            if !self.large
                && let Some(flags) = self.buffer.get(MAGIC.len())
                && flags & FLAG_LARGE != 0
            {
                return Err(FrameError::Flags { flags: *flags });
            }
            if let Some((header, _)) = parsed {
                self.admit(&header)?;
                self.header = Some(header);
                self.buffer = Vec::new();
            }
        };
        let wanted = usize::try_from(header.length).unwrap_or(usize::MAX);
        let missing = wanted.saturating_sub(self.arrived());
        let taken = rest.get(..missing).unwrap_or(rest);
        self.buffer.extend_from_slice(taken);
        used = used.saturating_add(taken.len());
        if self.arrived() < wanted {
            return Ok((used, None));
        }
        self.header = None;
        self.taken = 0;
        Ok((
            used,
            Some(Packet {
                header,
                body: std::mem::take(&mut self.buffer),
            }),
        ))
    }

    /// The header of the frame in progress, once it is complete.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Whether no byte of a frame has come since the last one ended.
    pub fn is_empty(&self) -> bool {
        self.header.is_none() && self.buffer.is_empty()
    }

    /// Payload bytes of the frame in progress that have arrived.
    pub fn arrived(&self) -> usize {
        if self.header.is_some() {
            self.taken.saturating_add(self.buffer.len())
        } else {
            0
        }
    }

    /// Takes out what has arrived of the payload, once it is at least `least` bytes. The packet will
    /// have the rest only.
    pub fn take_part(&mut self, least: usize) -> Option<Vec<u8>> {
        if self.header.is_none() || self.buffer.len() < least {
            return None;
        }
        self.taken = self.arrived();
        Some(std::mem::take(&mut self.buffer))
    }

    fn admit(&self, header: &Header) -> Result<(), FrameError> {
        if header.length > self.frame_bytes_max {
            return Err(FrameError::TooLong {
                declared: header.length,
                limit: self.frame_bytes_max,
            });
        }
        Ok(())
    }
}

/// Why a frame is refused. A real peer closes without a word on each of these.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Flag bits that nobody defines, no protocol bit, or the large flag where it is not taken.
    #[error("flags {flags:#04x} are not supported")]
    Flags {
        /// The flag byte.
        flags: u8,
    },
    /// The payload is no zlib stream or its checksum is wrong.
    #[error("payload did not inflate")]
    Inflate(#[source] flate2::DecompressError),
    /// The first bytes are not the magic.
    #[error("header is {found:02x?} instead of ZBXD")]
    NotZbxd {
        /// The first four bytes, zero where they have not come.
        found: [u8; 4],
    },
    /// More inflated bytes are declared than a zlib stream of this length can give.
    #[error("{length} bytes cannot inflate to the declared {declared}")]
    Ratio {
        /// What the header declares.
        declared: u64,
        /// Bytes on the wire.
        length: u64,
    },
    /// The stream gives other than what the header declares.
    #[error("payload inflates to other than the declared {declared} bytes (at {given})")]
    Size {
        /// What the header declares.
        declared: u64,
        /// Bytes given when it showed.
        given: u64,
    },
    /// A declared length over the limit.
    #[error("frame declares {declared} bytes; the limit is {limit}")]
    TooLong {
        /// What the header declares.
        declared: u64,
        /// The limit in force.
        limit: u64,
    },
    /// Bytes follow the end of the zlib stream inside the frame.
    #[error("bytes follow the compressed payload")]
    Trailing,
    /// The frame ends inside the zlib stream.
    #[error("compressed payload is cut short")]
    Truncated,
}

impl FrameError {
    /// A stable word for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Flags { .. } => "flags",
            Self::Inflate(_) => "inflate",
            Self::NotZbxd { .. } => "magic",
            Self::Ratio { .. } => "ratio",
            Self::Size { .. } => "size",
            Self::TooLong { .. } => "too_long",
            Self::Trailing => "trailing",
            Self::Truncated => "truncated",
        }
    }
}

/// Memory is taken in steps of this size, doubling.
const CHUNK_BYTES: usize = 64 * 1024;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u32::from_le_bytes(*chunk))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> (Limits, PeerLimits) {
        let limits = Limits::default();
        let stranger = limits.stranger;
        (limits, stranger)
    }

    fn decode(bytes: &[u8]) -> Result<Option<Vec<u8>>, FrameError> {
        let (limits, peer) = limits();
        let mut decoder = Decoder::new(&peer, false);
        let (_, packet) = decoder.feed(bytes)?;
        packet.map(|packet| packet.open(&limits, &peer)).transpose()
    }

    fn raw(flags: u8, length: u32, reserved: u32, body: &[u8]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(flags);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&reserved.to_le_bytes());
        out.extend_from_slice(body);
        out
    }

    fn compressed(payload: &[u8], declared: u32, edit: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut body = deflate(payload);
        edit(&mut body);
        raw(3, u32::try_from(body.len()).unwrap(), declared, &body)
    }

    #[test]
    fn both_forms_come_back() {
        for compress in [false, true] {
            for payload in [&b""[..], b"{}", &[b'x'; 200_000]] {
                let frame = encode(payload, compress).unwrap();
                assert_eq!(decode(&frame).unwrap().as_deref(), Some(payload));
            }
        }
    }

    #[test]
    fn header_is_refused_on_the_byte_that_shows_it() {
        let cases: &[(&[u8], &str)] = &[
            (b"G", "magic"),
            (b"ZBX_", "magic"),
            (b"HTTP/1.1 GET /", "magic"),
            (b"ZBXD\x00", "flags"),
            (b"ZBXD\x02", "flags"),
            (b"ZBXD\x09", "flags"),
            (b"ZBXD\x81", "flags"),
            (b"ZBXD\x05", "flags"),
            (b"ZBXD\x07", "flags"),
        ];
        for (bytes, label) in cases {
            assert_eq!(decode(bytes).unwrap_err().label(), *label, "{bytes:02x?}");
        }
    }

    #[test]
    fn declared_length_is_judged_before_a_byte_is_reserved() {
        for length in [16 * 1024 * 1024 + 1, 1 << 31, u32::MAX] {
            assert_eq!(
                decode(&raw(1, length, 0, b"")).unwrap_err().label(),
                "too_long"
            );
        }
        let (_, peer) = limits();
        for length in [1_u64 << 63, u64::MAX] {
            let header = Header {
                compressed: false,
                large: true,
                length,
                reserved: 0,
            }
            .encode();
            let refused = Decoder::new(&peer, true).feed(&header).unwrap_err();
            assert_eq!(refused.label(), "too_long");
        }
        let mut decoder = Decoder::new(&peer, false);
        decoder.feed(&raw(1, 16 * 1024 * 1024, 0, b"x")).unwrap();
        assert!(decoder.buffer.capacity() < 1024);
    }

    #[test]
    fn inflation_is_exact_and_capped() {
        let payload = br#"{"request":"zabbix.stats"}"#;
        let size = u32::try_from(payload.len()).unwrap();
        let cases: Vec<(&str, Vec<u8>, &str)> = vec![
            ("reserved too small", compressed(payload, 5, |_| ()), "size"),
            ("reserved too big", compressed(payload, 500, |_| ()), "size"),
            (
                "cut",
                compressed(payload, size, |b| b.truncate(b.len() - 6)),
                "truncated",
            ),
            (
                "trailing",
                compressed(payload, size, |b| b.push(0)),
                "trailing",
            ),
            (
                "checksum",
                compressed(payload, size, |b| *b.last_mut().unwrap() ^= 1),
                "inflate",
            ),
            ("no zlib", raw(3, 5, 20, b"hello"), "inflate"),
            ("gzip", raw(3, 4, 20, b"\x1f\x8b\x08\x00"), "inflate"),
            ("raw deflate", raw(3, 3, 3, b"\x4b\x4c\x04"), "inflate"),
            ("empty", raw(3, 0, 0, b""), "truncated"),
            ("over the ratio", raw(3, 10, 20_000, &[0; 10]), "ratio"),
            (
                "over the limit",
                raw(3, 10, 64 * 1024 * 1024 + 1, &[0; 10]),
                "too_long",
            ),
        ];
        for (what, frame, label) in cases {
            assert_eq!(decode(&frame).unwrap_err().label(), label, "{what}");
        }
        // A bomb that lies about its size costs no more than what it declared.
        let bomb = deflate(&vec![0; 32 * 1024 * 1024]);
        let short = inflate(&bomb, 1_000_000, u64::MAX, 1100).unwrap_err();
        assert!(matches!(short, FrameError::Size { given, .. } if given == 1_000_001));
    }

    #[test]
    fn nested_compression_is_not_followed() {
        let inner = encode(b"{}", true).unwrap();
        assert_eq!(decode(&encode(&inner, true).unwrap()).unwrap(), Some(inner));
    }

    #[test]
    fn surplus_is_left_to_the_caller() {
        let (_, peer) = limits();
        let mut bytes = encode(b"{\"a\":1}", false).unwrap();
        let whole = bytes.len();
        bytes.extend_from_slice(b"ZBXD surplus");
        let mut decoder = Decoder::new(&peer, false);
        let (used, packet) = decoder.feed(&bytes).unwrap();
        assert_eq!(used, whole);
        assert_eq!(packet.unwrap().body, b"{\"a\":1}");
        assert!(decoder.is_empty());
    }
}
