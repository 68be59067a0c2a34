//! Who may ask: a bearer token with a role, before a byte of the body is read.
//!
//! On the plain listener only clients on this machine are heard, and a request that somebody
//! forwarded is not one of theirs. Wrong tokens are counted by address; a right one always passes,
//! so that nobody can lock the administrator out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode, header};
use muster_core::credential::Secret;
use muster_net::{PeerInfo, Security};

use super::Admin;
use super::problem::Problem;
use crate::control::{Role, Trouble};

/// Wrong tokens of one address in [`WINDOW`] before it has to wait (threat model, section 2).
pub(super) const FAILURES_MAX: u32 = 10;

/// How long failures count.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// Most addresses remembered; beyond them the oldest is forgotten.
const ADDRESSES_MAX: usize = 10_000;

/// Longest token looked at.
const TOKEN_BYTES_MAX: usize = 512;

/// Who asks, for handlers and the audit.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// Label of the token.
    pub label: String,
    /// What it may do.
    pub role: Role,
}

/// Failed logins, by address.
#[derive(Debug, Default)]
pub(super) struct Failures {
    by_address: Mutex<BTreeMap<IpAddr, Count>>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    since: Instant,
    failures: u32,
}

impl Failures {
    /// Counts one failure; the seconds to wait when there were too many.
    fn failed(&self, address: IpAddr, now: Instant) -> Option<u64> {
        let mut counts = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= ADDRESSES_MAX && !counts.contains_key(&address) {
            let oldest = counts
                .iter()
                .min_by_key(|(_, count)| count.since)
                .map(|(ip, _)| *ip);
            oldest.map(|ip| counts.remove(&ip));
        }
        let count = counts.entry(address).or_insert(Count {
            since: now,
            failures: 0,
        });
        if now.saturating_duration_since(count.since) >= WINDOW {
            *count = Count {
                since: now,
                failures: 0,
            };
        }
        count.failures = count.failures.saturating_add(1);
        if count.failures <= FAILURES_MAX {
            return None;
        }
        let left = WINDOW.saturating_sub(now.saturating_duration_since(count.since));
        Some(left.as_secs().max(1))
    }
}

/// Lets the request through with its [`Caller`], or answers it.
pub(super) async fn require(
    State((admin, needed)): State<(Admin, Role)>,
    mut request: Request,
    next: Next,
) -> Response {
    match authenticate(
        &admin,
        request.headers(),
        request.extensions().get::<PeerInfo>(),
    )
    .await
    {
        Err(problem) => problem.into_response(),
        Ok(caller) if caller.role < needed => Problem::new(
            StatusCode::FORBIDDEN,
            "NOT_ALLOWED",
            format!(
                "a token with the role {} may not do this",
                caller.role.word()
            ),
        )
        .next(format!("use a token with the role {}", needed.word()))
        .into_response(),
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
    }
}

async fn authenticate(
    admin: &Admin,
    headers: &HeaderMap,
    peer: Option<&PeerInfo>,
) -> Result<Caller, Problem> {
    // Without a peer there was no socket: a test, or a bug that must not open a door.
    let Some(peer) = peer else {
        return Err(not_authenticated());
    };
    let is_local = peer.is_loopback() && !forwarded(headers);
    if peer.security == Security::Plain && !is_local {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "PLAIN_HTTP_REMOTE",
            "the admin API is on plain HTTP for this machine only",
        )
        .next("use the https listener"));
    }
    let Some(token) = bearer(headers) else {
        return Err(not_authenticated());
    };
    match admin.control.authenticate(&token).await {
        Ok((label, role)) => Ok(Caller { label, role }),
        Err(error) if error.trouble == Trouble::Refused => {
            let now = admin.control.clock().instant();
            admin.refusals.count("bad_token");
            match admin.failures.failed(peer.ip(), now) {
                None => Err(not_authenticated()),
                Some(seconds) => {
                    let mut problem = Problem::new(
                        StatusCode::TOO_MANY_REQUESTS,
                        "TOO_MANY_FAILURES",
                        "too many wrong tokens from this address",
                    );
                    problem.retry_after_secs = Some(seconds);
                    Err(problem)
                }
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether somebody stands between this server and the client.
fn forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(header::FORWARDED) || headers.contains_key("x-forwarded-for")
}

/// The token of the head, if it has one that can be.
fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let fits = !token.is_empty() && token.len() <= TOKEN_BYTES_MAX;
    (scheme.eq_ignore_ascii_case("bearer") && fits).then(|| Secret::new(token))
}

fn not_authenticated() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "NOT_AUTHENTICATED",
        "not authenticated",
    )
    .next("send Authorization: Bearer and a token; the server keeps one in STATE/admin.token")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(*name, value.parse().unwrap());
                headers
            })
    }

    #[test]
    fn only_one_well_formed_bearer_token_counts() {
        let long = format!("Bearer {}", "x".repeat(TOKEN_BYTES_MAX + 1));
        for (lines, token) in [
            (vec![("authorization", "Bearer abc")], Some("abc")),
            (vec![("authorization", "bearer abc")], Some("abc")),
            (vec![("authorization", "Basic abc")], None),
            (vec![("authorization", "Bearer ")], None),
            (vec![("authorization", "Bearer")], None),
            (
                vec![("authorization", "Bearer a"), ("authorization", "Bearer b")],
                None,
            ),
            (vec![("authorization", long.as_str())], None),
            (vec![], None),
        ] {
            let found = bearer(&headers(&lines));
            assert_eq!(found.as_ref().map(Secret::expose), token, "{lines:?}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn failures_make_an_address_wait_and_are_forgotten() {
        let failures = Failures::default();
        let (one, two): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let start = Instant::now();
        for _ in 0..FAILURES_MAX {
            assert_eq!(failures.failed(one, start), None);
        }
        assert_eq!(
            failures.failed(one, start + Duration::from_secs(20)),
            Some(40)
        );
        assert_eq!(failures.failed(two, start), None);
        assert_eq!(failures.failed(one, start + WINDOW), None);
    }
}
