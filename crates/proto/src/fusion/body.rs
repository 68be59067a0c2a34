//! The body of a message: which compression it came in, taking it off under a cap, putting it on.
//!
//! The content type is a hint only: real peers send types that do not fit, so the first bytes
//! decide and the declared type is used where they say nothing (FusionInventory contract, 2.1).

use std::borrow::Cow;
use std::io::{Read, Write};

use flate2::Compression as Level;
use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

/// How a body is packed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Packing {
    /// Raw RFC 1951. GLPI servers take it, no agent sends it.
    Deflate,
    /// RFC 1952.
    Gzip,
    /// As it is.
    #[default]
    Plain,
    /// RFC 1950, what agents send unless told otherwise.
    Zlib,
}

/// What a `Content-Type` says about the packing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Declared {
    /// One of the types of the family.
    Known(Packing),
    /// Nothing, or a type that says nothing: look at the bytes.
    Unknown,
    /// A packing that is known by name and not served (`application/x-compress-br`).
    Unsupported,
}

/// Why a body could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Compressed bytes that do not decompress.
    #[error("body did not decompress")]
    Corrupt(#[source] std::io::Error),
    /// More bytes than allowed, as sent or inflated.
    #[error("body is larger than {limit} bytes")]
    TooLarge {
        /// The limit that was passed.
        limit: usize,
    },
    /// A compression that is not served.
    #[error("compression is not supported")]
    Unsupported,
}

impl Packing {
    /// What the content type of a request or response declares.
    #[must_use]
    pub fn declared(content_type: Option<&str>) -> Declared {
        let Some(text) = content_type else {
            return Declared::Unknown;
        };
        let kind = text
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        match kind.as_str() {
            "application/x-compress-zlib" | "application/x-zlib" => Declared::Known(Self::Zlib),
            "application/x-compress-gzip" | "application/x-gzip" => Declared::Known(Self::Gzip),
            "application/x-compress-deflate" => Declared::Known(Self::Deflate),
            "application/xml" | "text/xml" | "application/json" => Declared::Known(Self::Plain),
            "application/x-compress-br" => Declared::Unsupported,
            _ => Declared::Unknown,
        }
    }

    /// The content type of a body packed like this; `plain` names the type when it is not packed.
    #[must_use]
    pub fn content_type(self, plain: &'static str) -> &'static str {
        match self {
            Self::Deflate => "application/x-compress-deflate",
            Self::Gzip => "application/x-compress-gzip",
            Self::Plain => plain,
            Self::Zlib => "application/x-compress-zlib",
        }
    }

    /// Packs a body.
    #[must_use]
    pub fn pack(self, body: Vec<u8>) -> Vec<u8> {
        // Writing into a `Vec` cannot fail; were it to, the plain body would be the honest answer.
        let packed = match self {
            Self::Plain => return body,
            Self::Deflate => {
                let mut to = DeflateEncoder::new(Vec::new(), Level::default());
                to.write_all(&body).and_then(|()| to.finish())
            }
            Self::Gzip => {
                let mut to = GzEncoder::new(Vec::new(), Level::default());
                to.write_all(&body).and_then(|()| to.finish())
            }
            Self::Zlib => {
                let mut to = ZlibEncoder::new(Vec::new(), Level::default());
                to.write_all(&body).and_then(|()| to.finish())
            }
        };
        packed.unwrap_or(body)
    }
}

/// Which packing a body is in: by its first bytes, else as declared.
///
/// # Errors
/// [`BodyError::Unsupported`] for a packing that is named but not served.
pub fn recognise(body: &[u8], declared: Declared) -> Result<Packing, BodyError> {
    match body {
        [0x1f, 0x8b, ..] => Ok(Packing::Gzip),
        [0x78, flags, ..] if u16::from_be_bytes([0x78, *flags]).is_multiple_of(31) => {
            Ok(Packing::Zlib)
        }
        [b'<' | b'{' | b'[' | b' ' | b'\t' | b'\r' | b'\n' | 0xef, ..] => Ok(Packing::Plain),
        _ => match declared {
            Declared::Known(packing) => Ok(packing),
            Declared::Unknown => Ok(Packing::Plain),
            Declared::Unsupported => Err(BodyError::Unsupported),
        },
    }
}

/// Takes the packing off, never producing more than `limit` bytes.
///
/// Memory grows with the bytes that come out, not with a declared length; inflation ends one byte
/// past the limit.
///
/// # Errors
/// [`BodyError::TooLarge`] above the limit, [`BodyError::Corrupt`] for a damaged or cut stream.
pub fn unpack(body: &[u8], packing: Packing, limit: usize) -> Result<Cow<'_, [u8]>, BodyError> {
    if body.len() > limit {
        return Err(BodyError::TooLarge { limit });
    }
    match packing {
        Packing::Plain => Ok(Cow::Borrowed(body)),
        Packing::Deflate => inflate(DeflateDecoder::new(body), limit),
        Packing::Gzip => inflate(GzDecoder::new(body), limit),
        Packing::Zlib => inflate(ZlibDecoder::new(body), limit),
    }
}

fn inflate(from: impl Read, limit: usize) -> Result<Cow<'static, [u8]>, BodyError> {
    let cap = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut out = Vec::new();
    from.take(cap)
        .read_to_end(&mut out)
        .map_err(BodyError::Corrupt)?;
    match out.len() > limit {
        true => Err(BodyError::TooLarge { limit }),
        false => Ok(Cow::Owned(out)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Packing; 4] = [
        Packing::Deflate,
        Packing::Gzip,
        Packing::Plain,
        Packing::Zlib,
    ];

    #[test]
    fn packs_and_unpacks() {
        let text = b"<REQUEST></REQUEST>".repeat(100);
        for packing in ALL {
            let wire = packing.pack(text.clone());
            let declared = Packing::declared(Some(packing.content_type("application/xml")));
            assert_eq!(recognise(&wire, declared).unwrap(), packing);
            assert_eq!(unpack(&wire, packing, text.len()).unwrap(), text);
            assert!(matches!(
                unpack(&wire, packing, text.len() - 1),
                Err(BodyError::TooLarge { .. })
            ));
        }
    }

    #[test]
    fn the_first_bytes_decide() {
        let zlib = Packing::Zlib.pack(b"<a/>".to_vec());
        for declared in [
            "application/xml",
            "application/x-compress-gzip",
            "text/plain",
        ] {
            let declared = Packing::declared(Some(declared));
            assert_eq!(recognise(&zlib, declared).unwrap(), Packing::Zlib);
            assert_eq!(recognise(b"<a/>", declared).unwrap(), Packing::Plain);
        }
        assert_eq!(recognise(&zlib, Declared::Unknown).unwrap(), Packing::Zlib);
        assert!(matches!(
            recognise(
                &[0x0b, 0x02],
                Packing::declared(Some("application/x-compress-br"))
            ),
            Err(BodyError::Unsupported)
        ));
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = Packing::Zlib.pack(vec![b' '; 8 << 20]);
        assert!(bomb.len() < 16 << 10);
        assert!(matches!(
            unpack(&bomb, Packing::Zlib, 1 << 20),
            Err(BodyError::TooLarge { limit: 1_048_576 })
        ));
    }

    #[test]
    fn a_cut_or_damaged_stream_is_an_error() {
        for packing in [Packing::Gzip, Packing::Zlib] {
            let wire = packing.pack(b"<REQUEST>some text</REQUEST>".to_vec());
            for len in 2..wire.len() {
                assert!(
                    unpack(&wire[..len], packing, 1000).is_err(),
                    "{packing:?} {len}"
                );
            }
            let mut wrong = wire.clone();
            if let Some(last) = wrong.last_mut() {
                *last ^= 1;
            }
            assert!(
                unpack(&wrong, packing, 1000).is_err(),
                "{packing:?} checksum"
            );
        }
    }
}
