//! Bodies that people and scripts send: JSON, read strictly.
//!
//! A member that comes twice, a member nobody knows, a number that would not be exact, a document
//! beyond the limits and a wrong content type are refused, with the place: what is not understood is
//! not guessed at (threat model, section 5).

use axum::extract::{FromRequest, Request};
use http::{HeaderMap, StatusCode, header};
use muster_net::http::{BodyError, read_body};
use muster_proto::json::{JsonLimits, Twice};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::Problem;

/// Largest body in bytes. Specs are small; what is large here are lists of targets.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// A body of type `T`, read strictly.
#[derive(Debug)]
pub(super) struct Strict<T>(pub T);

impl<S, T> FromRequest<S> for Strict<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        if !is_json(&parts.headers) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "CONTENT_TYPE_UNSUPPORTED",
                "the body must be application/json",
            ));
        }
        let bytes = read_body(&parts, body, BODY_BYTES_MAX)
            .await
            .map_err(unread)?;
        let value = parse(&bytes).map_err(|e| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "JSON_INVALID",
                "the body is not JSON as it is taken here",
            )
            .because(e)
        })?;
        decode(value).map(Self)
    }
}

/// Whether the head says that the body is JSON. A body without a type is not taken for one.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn unread(error: BodyError) -> Problem {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let code = match error {
        BodyError::TooLarge { .. } => "BODY_TOO_LARGE",
        BodyError::OverBudget => "SERVER_OVERLOADED",
        BodyError::Gone | BodyError::Malformed | BodyError::Slow => "BODY_UNREAD",
    };
    Problem::new(status, code, error.to_string())
}

/// Turns a document into what the handler wants; the path of what does not fit is in the problem.
///
/// # Errors
/// 400 with the path of the first member that does not fit.
pub(super) fn decode<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    if !value.is_object() {
        // serde would take a list for a struct, by position.
        return Err(Problem::invalid("the body", "it is not an object"));
    }
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = match e.path().to_string() {
            path if path == "." => "the body".to_owned(),
            path => path,
        };
        Problem::invalid(&path, e.inner().to_string())
    })
}

/// Reads one JSON document; a member that comes twice is an error, and so is more than the limits.
///
/// # Errors
/// What is wrong, and at which line and column.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the text is not UTF-8".to_owned())?;
    let limits = JsonLimits {
        twice: Twice::Refused,
        ..JsonLimits::default()
    };
    muster_proto::json::parse(text, &limits).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only whether it decodes is asked")]
        name: String,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only whether it decodes is asked")]
        n: u32,
    }

    #[test]
    fn what_is_not_understood_is_not_guessed_at() {
        for (text, code, place) in [
            (
                "{\"name\":\"a\",\"name\":\"b\"}",
                "JSON_INVALID",
                "\"name\" comes twice",
            ),
            (
                "{\"name\":\"a\",\"x\":{\"y\":1,\"y\":2}}",
                "JSON_INVALID",
                "\"y\" comes twice",
            ),
            ("{\"name\":\"a\"} x", "JSON_INVALID", "Extra data"),
            ("{\"name\":NaN}", "JSON_INVALID", "Expecting value"),
            ("", "JSON_INVALID", "Expecting value"),
            (
                "{\"name\":18446744073709551616}",
                "JSON_INVALID",
                "Number out of range: line 1 column 9 (char 8)",
            ),
            ("{\"name\":1e401}", "JSON_INVALID", "Number out of range"),
            (
                "{\"name\":\"a\",\"role\":\"admin\"}",
                "REQUEST_INVALID",
                "role",
            ),
            (
                "{\"name\":\"a\",\"inner\":{\"n\":-1}}",
                "REQUEST_INVALID",
                "-1",
            ),
            ("[]", "REQUEST_INVALID", "not an object"),
            ("[\"a\",null]", "REQUEST_INVALID", "not an object"),
        ] {
            let problem = match parse(text.as_bytes()) {
                Err(e) => Problem::new(StatusCode::BAD_REQUEST, "JSON_INVALID", "t").because(e),
                Ok(value) => decode::<Outer>(value).unwrap_err(),
            };
            assert_eq!(problem.code, code, "{text}");
            let said = format!("{} {}", problem.title, problem.detail.unwrap_or_default());
            assert!(said.contains(place), "{text}: {said}");
        }
        let problem =
            decode::<Outer>(parse(br#"{"name":"a","inner":{"n":-1}}"#).unwrap()).unwrap_err();
        assert!(problem.title.starts_with("inner.n "), "{}", problem.title);
        let fine: Outer = decode(parse(br#"{"name":"a","inner":{"n":1}}"#).unwrap()).unwrap();
        assert!(fine.inner.is_some());
    }

    #[test]
    fn only_json_is_json() {
        for (text, yes) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, text.parse().unwrap());
            assert_eq!(is_json(&headers), yes, "{text}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
