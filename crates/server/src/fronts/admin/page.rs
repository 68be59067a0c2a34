//! Pages of lists: a number of items, and a cursor that names where the next page begins.
//!
//! A cursor is the key of the last item, opaque to whoever holds it; it says nothing that a list
//! would not, and a made-up one gives an empty or a wrong page, never somebody else's items.

use axum::extract::{FromRequestParts, RawQuery};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::json;
use super::problem::Problem;
use crate::control;

/// Items of a page if not asked for.
pub const PAGE_DEFAULT: u32 = 100;

/// Most items of a page.
pub const PAGE_MAX: u32 = 1000;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; null on the last one.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A list that fits one page.
    pub(super) fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }

    /// A page of the application, each row as it is shown.
    pub(super) fn of<F>(page: control::Page<F>, view: impl FnMut(F) -> T) -> Self {
        Self {
            items: page.rows.into_iter().map(view).collect(),
            next: page.next.map(|key| URL_SAFE_NO_PAD.encode(key)),
        }
    }
}

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// 1 to 1000; 100 if not given.
    pub limit: Option<u32>,
    /// The `next` of the page before.
    pub cursor: Option<String>,
}

/// The number of items asked for.
///
/// # Errors
/// 400 when it is outside 1 to [`PAGE_MAX`].
pub(super) fn limit(asked: Option<u32>) -> Result<i64, Problem> {
    match asked {
        None => Ok(i64::from(PAGE_DEFAULT)),
        Some(n) if (1..=PAGE_MAX).contains(&n) => Ok(i64::from(n)),
        Some(n) => Err(Problem::invalid(
            "limit",
            format!("{n} is not 1 to {PAGE_MAX}"),
        )),
    }
}

/// The key a cursor names.
///
/// # Errors
/// 400 when it was not made here.
pub(super) fn key(cursor: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(cursor) = cursor else {
        return Ok(None);
    };
    URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(Some)
        .ok_or_else(|| Problem::invalid("cursor", "it is not the next of a page"))
}

/// A query of type `T`: each name once, none that nobody knows; numbers and truths are written as
/// such.
#[derive(Debug)]
pub(super) struct Query<T>(pub T);

impl<S, T> FromRequestParts<S> for Query<T>
where
    T: DeserializeOwned,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Ok(RawQuery(query)) = RawQuery::from_request_parts(parts, state).await;
        let mut members = Map::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let value = match value.parse::<u32>() {
                Ok(number) if name == "limit" => Value::from(number),
                Ok(_) | Err(_) => Value::from(value.into_owned()),
            };
            if members.insert(name.to_string(), value).is_some() {
                return Err(Problem::invalid(&name, "it comes twice"));
            }
        }
        json::decode(Value::Object(members)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_of_a_page_comes_back_as_its_key() {
        for next in [
            None,
            Some("1767225600000000.a-b".to_owned()),
            Some("näme".to_owned()),
        ] {
            let page = Page::of(
                control::Page {
                    rows: vec![1, 2],
                    next: next.clone(),
                },
                |n| n * 2,
            );
            assert_eq!(page.items, [2, 4]);
            assert_eq!(key(page.next.as_deref()).unwrap(), next);
        }
    }

    #[test]
    fn limits_and_cursors_are_checked() {
        assert_eq!(limit(None).unwrap(), 100);
        assert_eq!(limit(Some(1000)).unwrap(), 1000);
        assert!(limit(Some(0)).is_err());
        assert!(limit(Some(1001)).is_err());
        assert!(key(Some("not a cursor!")).is_err());
        assert_eq!(key(None).unwrap(), None);
    }
}
