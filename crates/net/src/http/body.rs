//! Reading a request body whole, within a limit.

use bytes::Bytes;
use http::request::Parts;
use http_body_util::BodyExt as _;
use hyper::body::Body;

use super::guard::BodyWatch;
use super::head::Reject;
use crate::limit::{MemoryBudget, MemoryShare};

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The client went away.
    #[error("the client went away within the body")]
    Gone,
    /// The body broke its own framing.
    #[error("the body is framed wrongly")]
    Malformed,
    /// The memory for unknown peers is used up.
    #[error("too many bodies are being read at once")]
    OverBudget,
    /// The client took too long.
    #[error("the body did not arrive in time")]
    Slow,
    /// It is longer than allowed here.
    #[error("the body is longer than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
}

impl BodyError {
    /// The status code that says so.
    pub fn status(self) -> u16 {
        match self {
            Self::Gone | Self::Malformed => 400,
            Self::Slow => 408,
            Self::TooLarge { .. } => 413,
            Self::OverBudget => 503,
        }
    }
}

/// Reads `body` whole.
///
/// A declared length over `limit` is refused before a byte is read; memory grows as bytes arrive and,
/// for a connection of [`serve_http`](super::serve_http), what is reserved counts against the memory
/// for unknown peers until the last of the bytes is dropped: a body that waits to be parsed is held as well.
///
/// # Errors
/// See [`BodyError`].
pub async fn read_body<B>(parts: &Parts, body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
{
    let declared = body.size_hint();
    if usize::try_from(declared.lower()).map_or(true, |declared| declared > limit) {
        return Err(BodyError::TooLarge { limit });
    }
    let most = declared
        .upper()
        .and_then(|upper| usize::try_from(upper).ok())
        .map_or(limit, |upper| upper.min(limit));
    let mut share = parts
        .extensions
        .get::<MemoryBudget>()
        .map(MemoryBudget::share);
    let mut whole = Vec::new();
    let mut body = std::pin::pin!(body);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            match parts
                .extensions
                .get::<BodyWatch>()
                .and_then(BodyWatch::reject)
            {
                Some(Reject::BodySlow) => BodyError::Slow,
                Some(Reject::BadChunk) => BodyError::Malformed,
                _ => BodyError::Gone,
            }
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > limit.saturating_sub(whole.len()) {
            return Err(BodyError::TooLarge { limit });
        }
        let needed = whole.len() + data.len();
        if needed > whole.capacity() {
            // Doubled, but to no more than the body can come to.
            let room = (2 * whole.capacity()).min(most).max(needed);
            let more = room - whole.capacity();
            if share.as_mut().is_some_and(|share| !share.grow(more)) {
                return Err(BodyError::OverBudget);
            }
            whole.reserve_exact(room - whole.len());
        }
        whole.extend_from_slice(&data);
    }
    Ok(match share {
        Some(share) => Bytes::from_owner(Counted {
            whole,
            _share: share,
        }),
        None => Bytes::from(whole),
    })
}

/// A body with its share of the memory for unknown peers.
struct Counted {
    whole: Vec<u8>,
    _share: MemoryShare,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.whole
    }
}
