//! What the admin API says when it says no: a problem body with a stable code.

use std::collections::BTreeMap;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::openapi::{self, ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::control::{ControlError, Trouble};

/// Body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProblemBody {
    /// Stable code, listed in `docs/errors.md`.
    pub code: String,
    /// What failed, on what.
    pub title: String,
    /// Why, where there is more to say.
    pub detail: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Page that says more.
    pub docs: String,
}

/// Every answer that is no success, for the OpenAPI document.
pub(super) struct Refusal;

impl IntoResponses for Refusal {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let body = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("ProblemBody")))
            .build();
        let response = ResponseBuilder::new()
            .description("A refusal")
            .content("application/problem+json", body)
            .build();
        BTreeMap::from([("default".to_owned(), response.into())])
    }
}

/// A refusal of the admin API.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Status of the answer.
    pub status: StatusCode,
    /// Stable code.
    pub code: &'static str,
    /// What failed, on what.
    pub title: String,
    /// Why.
    pub detail: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// Seconds after which asking again makes sense.
    pub retry_after_secs: Option<u64>,
}

impl Problem {
    /// A refusal.
    pub fn new(status: StatusCode, code: &'static str, title: impl Into<String>) -> Self {
        Self {
            status,
            code,
            title: title.into(),
            detail: None,
            hint: None,
            retry_after_secs: None,
        }
    }

    /// Says why.
    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn next(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The request makes no sense at `path`.
    pub fn invalid(path: &str, why: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "REQUEST_INVALID",
            format!("{path} is not as it should be"),
        )
        .because(why)
    }

    /// The same as the body of the answer.
    pub fn body(&self) -> ProblemBody {
        ProblemBody {
            code: self.code.to_owned(),
            title: self.title.clone(),
            detail: self.detail.clone().unwrap_or_default(),
            hint: self.hint.clone(),
            docs: format!("docs/errors.md#{}", self.code.to_ascii_lowercase()),
        }
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        let status = match error.trouble {
            Trouble::Bug => StatusCode::INTERNAL_SERVER_ERROR,
            Trouble::Conflict => StatusCode::CONFLICT,
            Trouble::Invalid => StatusCode::BAD_REQUEST,
            Trouble::NotFound => StatusCode::NOT_FOUND,
            Trouble::Refused => StatusCode::FORBIDDEN,
            Trouble::TooMuch => StatusCode::TOO_MANY_REQUESTS,
            Trouble::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        if status.is_server_error() {
            // What is wrong inside is for whoever runs the server, not for whoever asks it.
            tracing::error!(error.chain = %error.chain(), code = error.code, "admin request failed");
        }
        Self {
            status,
            code: error.code,
            title: error.title,
            detail: error.detail,
            hint: error.hint,
            retry_after_secs: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"muster\""),
            );
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_trouble_has_its_status() {
        for (trouble, status) in [
            (Trouble::Bug, 500),
            (Trouble::Conflict, 409),
            (Trouble::Invalid, 400),
            (Trouble::NotFound, 404),
            (Trouble::Refused, 403),
            (Trouble::TooMuch, 429),
            (Trouble::Unavailable, 503),
        ] {
            let problem = Problem::from(ControlError::new(trouble, "CODE", "title"));
            assert_eq!(problem.status.as_u16(), status);
            assert_eq!(problem.body().docs, "docs/errors.md#code");
        }
    }
}
