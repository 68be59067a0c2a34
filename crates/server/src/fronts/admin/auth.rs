//! Who may ask: a bearer token with a role, before a byte of the body is read.
//!
//! On the plain listener only clients on this machine are heard, and a request that somebody
//! forwarded is not one of theirs. Wrong tokens are counted by address; a right one always passes,
//! so that nobody can lock the administrator out.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode, header};
use muster_core::credential::Secret;
use muster_net::{PeerInfo, Security};

use super::Admin;
use super::problem::Problem;
use crate::control::{Role, Trouble};

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
            match admin.failures.failed(peer.ip(), None, now) {
                None => Err(not_authenticated()),
                Some(seconds) => {
                    let mut problem = Problem::new(
                        StatusCode::TOO_MANY_REQUESTS,
                        "TOO_MANY_FAILURES",
                        "too many wrong tokens from this address",
                    );
                    problem.retry_after_secs = Some(u64::from(seconds));
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
}
