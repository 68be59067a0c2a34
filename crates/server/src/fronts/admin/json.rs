//! Bodies that people and scripts send: JSON, read strictly.
//!
//! A key that comes twice, a member nobody knows, a document deeper than the limit and a wrong
//! content type are refused, with the path of the offending member: what is not understood is not
//! guessed at (threat model, section 5).

use std::fmt;

use axum::extract::{FromRequest, Request};
use http::{HeaderMap, StatusCode, header};
use muster_net::http::{BodyError, read_body};
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::problem::Problem;

/// Largest body in bytes. Specs are small; what is large here are lists of targets.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// Deepest nesting of a body (threat model, section 4).
pub const DEPTH_MAX: usize = 64;

/// Most members of one object (threat model, section 4).
pub const MEMBERS_MAX: usize = 10_000;

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
            .because(e.to_string())
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

/// Reads one JSON document; a key that comes twice is an error, and so is more than the limits.
///
/// # Errors
/// What is wrong, and at which line and column.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Unique { depth: 0 }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Builds a [`Value`] without letting a later key replace an earlier one.
struct Unique {
    depth: usize,
}

impl Unique {
    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX}")));
        }
        Ok(Self {
            depth: self.depth + 1,
        })
    }
}

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.deeper()?)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if map.contains_key(&key) {
                let shown: String = key.chars().take(64).collect();
                return Err(A::Error::custom(format_args!(
                    "the key {shown:?} comes twice"
                )));
            }
            if map.len() >= MEMBERS_MAX {
                return Err(A::Error::custom(format_args!(
                    "more than {MEMBERS_MAX} members"
                )));
            }
            let value = members.next_value_seed(self.deeper()?)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
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
            ("{\"name\":\"a\"} x", "JSON_INVALID", "trailing"),
            ("{\"name\":NaN}", "JSON_INVALID", "expected value"),
            ("", "JSON_INVALID", "EOF"),
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
                Err(e) => Problem::new(StatusCode::BAD_REQUEST, "JSON_INVALID", "t")
                    .because(e.to_string()),
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
    fn depth_has_a_limit() {
        let nested = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(parse(nested(DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(parse(nested(100_000).as_bytes()).is_err());
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
