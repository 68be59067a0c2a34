//! Reading a request head strictly, before hyper reads it.
//!
//! Everything that intermediaries and servers are known to understand differently is refused: two
//! lengths, a length beside a transfer coding, folded lines, bare line ends, blanks before a colon,
//! control characters. What passes here, hyper understands in the one way that is left.

use bytes::BytesMut;

use super::HttpLimits;

/// Why a request is refused before anything above sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// The body broke its own framing.
    BadChunk,
    /// The client took too long over the body.
    BodySlow,
    /// The declared length is beyond what any body has.
    BodyTooLarge,
    /// A control character, a bare line end, a folded line, or something else no head may hold.
    HeadMalformed,
    /// The client took too long over the head.
    HeadSlow,
    /// The head has too many bytes or lines.
    HeadTooLarge,
    /// Two lengths, a length beside a transfer coding, or one that cannot be read.
    Length,
    /// TRACE or CONNECT.
    Method,
    /// The memory for unknown peers is used up.
    OverBudget,
    /// The request target is too long.
    TargetTooLong,
    /// Something else than HTTP/1.0 or HTTP/1.1.
    Version,
}

impl Reject {
    /// The status code that says so.
    pub fn status(self) -> u16 {
        match self {
            Self::BadChunk | Self::HeadMalformed | Self::Length => 400,
            Self::Method => 405,
            Self::BodySlow | Self::HeadSlow => 408,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            Self::HeadTooLarge => 431,
            Self::OverBudget => 503,
            Self::Version => 505,
        }
    }

    /// The word for the metric.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadChunk => "http_chunk",
            Self::BodySlow => "http_body_slow",
            Self::BodyTooLarge => "http_body_too_large",
            Self::HeadMalformed => "http_head_malformed",
            Self::HeadSlow => "http_head_slow",
            Self::HeadTooLarge => "http_head_too_large",
            Self::Length => "http_length",
            Self::Method => "http_method",
            Self::OverBudget => "memory",
            Self::TargetTooLong => "http_target_too_long",
            Self::Version => "http_version",
        }
    }

    /// A whole response that says so and closes.
    pub(super) fn response(self) -> Vec<u8> {
        let (phrase, extra) = match self.status() {
            400 => ("Bad Request", ""),
            405 => (
                "Method Not Allowed",
                "allow: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n",
            ),
            408 => ("Request Timeout", ""),
            413 => ("Content Too Large", ""),
            414 => ("URI Too Long", ""),
            431 => ("Request Header Fields Too Large", ""),
            503 => ("Service Unavailable", "retry-after: 10\r\n"),
            _ => ("HTTP Version Not Supported", ""),
        };
        let status = self.status();
        let body = format!("{phrase}\n");
        format!(
            "HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\
             {extra}connection: close\r\n\r\n{body}",
            body.len(),
        )
        .into_bytes()
    }
}

/// How the body after a head ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Chunked,
    Length(u64),
}

/// Where a head that is still arriving stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It ends before this offset.
    Complete(usize),
    Partial,
}

/// Looks for the end of the head in `bytes`, the part before `seen` having been looked at.
pub(super) fn find_end(bytes: &[u8], seen: usize) -> Result<Progress, Reject> {
    for (offset, window) in bytes.windows(2).enumerate().skip(seen.saturating_sub(3)) {
        if window[1] == b'\n' && window[0] != b'\r' {
            return Err(Reject::HeadMalformed);
        }
        if window == b"\r\n" && bytes.get(offset + 2..offset + 4) == Some(b"\r\n") {
            return Ok(Progress::Complete(offset + 4));
        }
    }
    if bytes.first() == Some(&b'\n') {
        return Err(Reject::HeadMalformed);
    }
    Ok(Progress::Partial)
}

/// Writes `"`, `<` and `>` in the query of a head that ends at `end` as they should have been written,
/// and returns where the head ends then.
///
/// Real clients send them as they are (`module["inventory"]`, JSON in a query), and the type that holds
/// a target takes them in no query. What it means stays the same.
pub(super) fn encode_query(buffer: &mut BytesMut, end: usize) -> usize {
    let head = buffer.get(..end).unwrap_or_default();
    let line = head.iter().position(|&byte| byte == b'\r').unwrap_or(0);
    let line = head.get(..line).unwrap_or_default();
    let Some(start) = line.iter().position(|&byte| byte == b'?') else {
        return end;
    };
    let is_odd = |byte: u8| matches!(byte, b'"' | b'<' | b'>');
    let query = line.get(start..).unwrap_or_default();
    if !query.iter().copied().any(is_odd) {
        return end;
    }
    let mut written = BytesMut::with_capacity(buffer.len() + 2 * query.len());
    written.extend_from_slice(buffer.get(..start).unwrap_or_default());
    for &byte in query {
        match byte {
            b'"' => written.extend_from_slice(b"%22"),
            b'<' => written.extend_from_slice(b"%3C"),
            b'>' => written.extend_from_slice(b"%3E"),
            other => written.extend_from_slice(&[other]),
        }
    }
    let grown = written.len() - line.len();
    written.extend_from_slice(buffer.get(line.len()..).unwrap_or_default());
    *buffer = written;
    end + grown
}

/// Checks a whole head and returns how its body is framed.
pub(super) fn check(head: &[u8], limits: &HttpLimits) -> Result<Framing, Reject> {
    if head.len() > limits.head_bytes {
        return Err(Reject::HeadTooLarge);
    }
    let lines = head
        .strip_suffix(b"\r\n\r\n")
        .ok_or(Reject::HeadMalformed)?;
    let mut lines = split_lines(lines);
    let minor = request_line(lines.next().unwrap_or_default(), limits)?;
    let mut headers = 0;
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let mut hosts = 0;
    for line in lines {
        headers += 1;
        if headers > limits.headers {
            return Err(Reject::HeadTooLarge);
        }
        let colon = line
            .iter()
            .position(|&byte| byte == b':')
            .ok_or(Reject::HeadMalformed)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        // A folded line begins with a blank, so its name is no token; nor is one with a blank at its end.
        if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
            return Err(Reject::HeadMalformed);
        }
        if value
            .iter()
            .any(|&byte| (byte < b' ' && byte != b'\t') || byte == 0x7f)
        {
            return Err(Reject::HeadMalformed);
        }
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let declared = declared_length(value).ok_or(Reject::Length)?;
            if length.is_some_and(|before| before != declared) {
                return Err(Reject::Length);
            }
            length = Some(declared);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || minor == 0 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Reject::Length);
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        }
    }
    if hosts > 1 || (hosts == 0 && minor == 1) {
        return Err(Reject::HeadMalformed);
    }
    /// hyper keeps the two largest numbers for itself.
    const LENGTH_MAX: u64 = u64::MAX / 2;
    match (chunked, length) {
        (false, Some(length)) if length > LENGTH_MAX => Err(Reject::BodyTooLarge),
        (true, Some(_)) => Err(Reject::Length),
        (true, None) => Ok(Framing::Chunked),
        (false, length) => Ok(Framing::Length(length.unwrap_or(0))),
    }
}

/// Checks the request line and returns the minor version.
fn request_line(line: &[u8], limits: &HttpLimits) -> Result<u8, Reject> {
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Reject::HeadMalformed);
    };
    if method.is_empty() || !method.iter().all(|&byte| is_token(byte)) {
        return Err(Reject::HeadMalformed);
    }
    if target.len() > limits.target_bytes {
        return Err(Reject::TargetTooLong);
    }
    if target.is_empty() || target.iter().any(|&byte| byte <= b' ' || byte == 0x7f) {
        return Err(Reject::HeadMalformed);
    }
    let minor = match version {
        b"HTTP/1.0" => 0,
        b"HTTP/1.1" => 1,
        other if other.starts_with(b"HTTP/") => return Err(Reject::Version),
        _ => return Err(Reject::HeadMalformed),
    };
    if method == b"TRACE" || method == b"CONNECT" {
        return Err(Reject::Method);
    }
    Ok(minor)
}

/// Lines that end in CR LF. [`find_end`] saw to it that every LF follows a CR; a CR alone stays in its
/// line and is refused there as a control character.
fn split_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn declared_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Follows a chunked body to its end, byte by byte where lines are and by the chunk where data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    /// In the line with the size: value, digits read, bytes of the line read.
    Size {
        value: u64,
        digits: u8,
        line: u16,
    },
    /// In the extension after the size; bytes of the line read.
    Extension {
        value: u64,
        line: u16,
    },
    /// After the CR of the size line.
    SizeEnd {
        value: u64,
    },
    /// In the data.
    Data {
        left: u64,
    },
    /// After the data: CR, then LF.
    DataCr,
    DataLf,
    /// In the trailer: bytes of it read, bytes of the current line read.
    Trailer {
        total: u16,
        line: u16,
    },
    /// After a CR in the trailer.
    TrailerLf {
        total: u16,
        line: u16,
    },
    Done,
}

impl Chunks {
    pub(super) const START: Self = Self::Size {
        value: 0,
        digits: 0,
        line: 0,
    };

    /// Longest line with a size, extension included. Real clients send none.
    const LINE_MAX: u16 = 1024;
    /// Longest trailer.
    const TRAILER_MAX: u16 = 8192;

    /// Takes bytes and returns how many belong to the body.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, Reject> {
        let mut taken = 0;
        while let Some(&byte) = bytes.get(taken) {
            if let Self::Data { left } = self {
                let here = u64::try_from(bytes.len() - taken)
                    .unwrap_or(u64::MAX)
                    .min(*left);
                *left -= here;
                taken += usize::try_from(here).unwrap_or(usize::MAX);
                if *left == 0 {
                    *self = Self::DataCr;
                }
                continue;
            }
            if *self == Self::Done {
                break;
            }
            *self = self.step(byte).ok_or(Reject::BadChunk)?;
            taken += 1;
        }
        Ok(taken)
    }

    fn step(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (
                Self::Size {
                    value,
                    digits,
                    line,
                },
                b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F',
            ) => {
                let digit = char::from(byte).to_digit(16)?;
                // Sixteen digits fill a u64; no body is that long.
                if digits == 15 {
                    return None;
                }
                let value = value << 4 | u64::from(digit);
                Self::Size {
                    value,
                    digits: digits + 1,
                    line: line + 1,
                }
            }
            (
                Self::Size {
                    value, digits: 1.., ..
                },
                b'\r',
            ) => Self::SizeEnd { value },
            (
                Self::Size {
                    value,
                    digits: 1..,
                    line,
                },
                b';',
            ) => Self::Extension {
                value,
                line: line + 1,
            },
            (Self::Extension { value, .. }, b'\r') => Self::SizeEnd { value },
            (Self::Extension { value, line }, b'\t' | b' '..=b'~') if line < Self::LINE_MAX => {
                Self::Extension {
                    value,
                    line: line + 1,
                }
            }
            (Self::SizeEnd { value: 0 }, b'\n') => Self::Trailer { total: 0, line: 0 },
            (Self::SizeEnd { value }, b'\n') => Self::Data { left: value },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::START,
            (Self::Trailer { total, line }, b'\r') => Self::TrailerLf { total, line },
            (Self::Trailer { total, line }, b'\t' | b' '..=b'~' | 0x80..)
                if total < Self::TRAILER_MAX =>
            {
                Self::Trailer {
                    total: total + 1,
                    line: line.saturating_add(1),
                }
            }
            (Self::TrailerLf { line: 0, .. }, b'\n') => Self::Done,
            (Self::TrailerLf { total, .. }, b'\n') => Self::Trailer { total, line: 0 },
            (
                Self::Size { .. }
                | Self::Extension { .. }
                | Self::SizeEnd { .. }
                | Self::Data { .. }
                | Self::DataCr
                | Self::DataLf
                | Self::Trailer { .. }
                | Self::TrailerLf { .. }
                | Self::Done,
                _,
            ) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(head: &str) -> Result<Framing, Reject> {
        match find_end(head.as_bytes(), 0)? {
            Progress::Complete(end) => {
                assert_eq!(end, head.len(), "{head:?}");
                check(head.as_bytes(), &HttpLimits::default())
            }
            Progress::Partial => panic!("partial: {head:?}"),
        }
    }

    #[test]
    fn good_heads() {
        for (head, framing) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Length(0)),
            ("GET / HTTP/1.0\r\n\r\n", Framing::Length(0)),
            (
                "POST /x?q=%20 HTTP/1.1\r\nhost:a\r\nContent-Length: 12\r\n\r\n",
                Framing::Length(12),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\ncontent-length:3\r\n\r\n",
                Framing::Length(3),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
                Framing::Chunked,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nX: \ttab é\r\nEmpty:\r\n\r\n",
                Framing::Length(0),
            ),
            ("PROPFIND * HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Length(0)),
        ] {
            assert_eq!(checked(head), Ok(framing), "{head:?}");
        }
    }

    #[test]
    fn bad_heads() {
        let bad = Reject::HeadMalformed;
        for (rest, reject) in [
            (
                "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
                Reject::Length,
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
                Reject::Length,
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Reject::Length,
            ),
            ("Transfer-Encoding: gzip, chunked\r\n", Reject::Length),
            ("Transfer-Encoding: identity\r\n", Reject::Length),
            ("Content-Length: 3\r\nContent-Length: 4\r\n", Reject::Length),
            ("Content-Length: 3, 3\r\n", Reject::Length),
            ("Content-Length: +3\r\n", Reject::Length),
            ("Content-Length: -3\r\n", Reject::Length),
            ("Content-Length: 0x3\r\n", Reject::Length),
            ("Content-Length:\r\n", Reject::Length),
            ("Content-Length: 18446744073709551616\r\n", Reject::Length),
            ("X: a\r\n folded\r\n", bad),
            ("X: a\r\n\tfolded\r\n", bad),
            (" X: a\r\n", bad),
            ("X : a\r\n", bad),
            ("X\t: a\r\n", bad),
            ("X: a\0b\r\n", bad),
            ("X: a\rb\r\n", bad),
            ("X: a\x01\r\n", bad),
            ("X: a\x7f\r\n", bad),
            ("X\r\n", bad),
            (": a\r\n", bad),
            ("X(: a\r\n", bad),
            ("Host: b\r\n", bad),
            ("X: a\nY: b\r\n", bad),
            ("\nY: b\r\n", bad),
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}\r\n");
            assert_eq!(checked(&head), Err(reject), "{head:?}");
        }
        for (line, reject) in [
            ("GET /", bad),
            ("GET  / HTTP/1.1", bad),
            ("GET / HTTP/1.1 x", bad),
            ("GET /\t HTTP/1.1", bad),
            ("G@T / HTTP/1.1", bad),
            ("GET / http/1.1", bad),
            ("PRI * HTTP/2.0", Reject::Version),
            ("GET / HTTP/1.2", Reject::Version),
            ("GET / HTTP/1.10", Reject::Version),
            ("TRACE / HTTP/1.1", Reject::Method),
            ("CONNECT a:1 HTTP/1.1", Reject::Method),
        ] {
            assert_eq!(
                checked(&format!("{line}\r\nHost: a\r\n\r\n")),
                Err(reject),
                "{line:?}"
            );
        }
        assert_eq!(
            checked("GET / HTTP/1.1\r\n\r\n"),
            Err(bad),
            "1.1 needs a host"
        );
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(
            checked(old),
            Err(Reject::Length),
            "1.0 has no transfer codings"
        );
    }

    #[test]
    fn sizes_have_bounds() {
        let target = |length| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length));
        assert_eq!(checked(&target(65_533)), Ok(Framing::Length(0)));
        assert_eq!(checked(&target(65_534)), Err(Reject::TargetTooLong));
        let lines = |count| {
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
                "X: a\r\n".repeat(count)
            )
        };
        assert_eq!(checked(&lines(99)), Ok(Framing::Length(0)));
        assert_eq!(checked(&lines(100)), Err(Reject::HeadTooLarge));
        let long = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "x".repeat(128 * 1024)
        );
        assert_eq!(checked(&long), Err(Reject::HeadTooLarge));
    }

    #[test]
    fn odd_characters_of_a_query_are_written_as_they_should_be() {
        for (given, wanted) in [
            (
                "GET /a?m[\"x\"]=<1> HTTP/1.1\r\nX: \"?\r\n\r\nbo\"dy",
                "GET /a?m[%22x%22]=%3C1%3E HTTP/1.1\r\nX: \"?\r\n\r\nbo\"dy",
            ),
            ("GET /\"a HTTP/1.1\r\n\r\n", "GET /\"a HTTP/1.1\r\n\r\n"),
            ("GET /?a=b HTTP/1.1\r\n\r\n", "GET /?a=b HTTP/1.1\r\n\r\n"),
        ] {
            let mut buffer = BytesMut::from(given.as_bytes());
            let end = given.find("\r\n\r\n").map_or(0, |end| end + 4);
            let end = encode_query(&mut buffer, end);
            assert_eq!(buffer, wanted.as_bytes(), "{given:?}");
            assert_eq!(Some(end), wanted.find("\r\n\r\n").map(|end| end + 4));
        }
    }

    #[test]
    fn the_end_is_found_in_any_split() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody\r\n\r\n";
        let end = 27;
        for seen in 0..end {
            let expected = Ok(Progress::Complete(end));
            assert_eq!(find_end(head, seen), expected, "looked at {seen} before");
            assert_eq!(
                find_end(&head[..seen], 0),
                Ok(Progress::Partial),
                "{seen} bytes"
            );
        }
    }

    #[test]
    fn chunked_bodies_end_where_they_should_in_any_split() {
        for body in [
            &b"0\r\n\r\n"[..],
            b"3\r\nabc\r\n0\r\n\r\n",
            b"00000A;name=\"value\"\r\n0123456789\r\n1\r\n\n\r\n0\r\nX: y\r\n\r\n",
        ] {
            let whole = [body, b"GET /next"].concat();
            let mut chunks = Chunks::START;
            assert_eq!(chunks.advance(&whole), Ok(body.len()));
            assert_eq!(chunks, Chunks::Done);
            let mut chunks = Chunks::START;
            for byte in body {
                assert_ne!(chunks, Chunks::Done);
                assert_eq!(chunks.advance(&[*byte]), Ok(1));
            }
            assert_eq!(chunks, Chunks::Done);
        }
    }

    #[test]
    fn bad_chunks() {
        let long_extension = format!("1;{}\r\n", "x".repeat(2000));
        let long_trailer = format!("0\r\nX: {}\r\n\r\n", "x".repeat(9000));
        for body in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 \r\n",
            ";a\r\n",
            "1\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "3\r\nabc0\r\n\r\n",
            "ffffffffffffffff\r\n",
            "0\r\nX: \0\r\n\r\n",
            "0\r\nX: a\n\r\n",
            &long_extension,
            &long_trailer,
        ] {
            let mut chunks = Chunks::START;
            let outcome = chunks.advance(body.as_bytes());
            assert_eq!(outcome, Err(Reject::BadChunk), "{body:?}");
        }
    }
}
