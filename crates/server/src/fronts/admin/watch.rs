//! One run, now or when it has changed.
//!
//! A client that has seen a run sends its tag and how long it is ready to wait; it is answered when
//! the run differs from what it has seen, or with 304 when the time is up. Nothing of the database
//! is held while it waits.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::SignedDuration;
use muster_core::time::{parse_duration_or_zero, saturating_add};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use utoipa::IntoParams;

use super::Admin;
use super::page::Query;
use super::problem::{Problem, Refusal};
use super::views::{RunDetail, RunView};
use super::{runs, views};

/// Longest wait of one request; longer ones are cut to it.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long to wait for news.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WatchQuery {
    /// With `If-None-Match`: how long to wait for a change, at most a minute; ISO 8601 or 30s.
    pub wait: Option<String>,
}

/// Shows a run; with `If-None-Match` and `wait`, once it has changed.
#[utoipa::path(get, path = "/runs/{run}", tag = "work",
    params(("run" = String, Path, description = "Id or a unique beginning of it"), WatchQuery),
    responses((status = 200, description = "What was asked for", body = RunDetail), (status = 304, description = "Nothing has changed"),
        Refusal))]
pub(super) async fn show_run(
    State(admin): State<Admin>,
    Path(run): Path<String>,
    Query(query): Query<WatchQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wait = match query.wait.as_deref() {
        None => SignedDuration::ZERO,
        Some(text) => parse_duration_or_zero(text)
            .map_err(|e| Problem::invalid("wait", e.to_string()))?
            .min(SignedDuration::try_from(WAIT_MAX).unwrap_or(SignedDuration::ZERO)),
    };
    let seen = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    let mut view = admin.control.find_run(&run).await?;
    let mut tag = tag_of(&runs::run_view(&view));
    if let Some(seen) = seen {
        let deadline = saturating_add(admin.control.clock().now(), wait);
        let mut known = view.run.clone();
        while tag == seen {
            let id = known.run.id;
            let run = admin
                .control
                .wait_run(id, deadline, |run| {
                    run.run != known.run || run.result != known.result
                })
                .await?;
            let same = run.run == known.run && run.result == known.result;
            known = run;
            view = admin.control.find_run(&id.to_string()).await?;
            tag = tag_of(&runs::run_view(&view));
            if same {
                break;
            }
        }
        if tag == seen {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            put_tag(response.headers_mut(), &tag);
            return Ok(response);
        }
    }
    let (events, _) = admin.control.run_story(view.run.run.id).await?;
    let hosts = runs::hosts_of(&admin, &view).await?;
    let detail = views::run_detail(runs::run_view(&view), &events, hosts);
    let mut response = Json(detail).into_response();
    put_tag(response.headers_mut(), &tag);
    Ok(response)
}

/// A tag that differs whenever the run looks different.
fn tag_of(view: &RunView) -> String {
    let text = serde_json::to_vec(view).unwrap_or_default();
    let digest = Sha256::digest(text);
    let hex: String = digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("\"{hex}\"")
}

fn put_tag(headers: &mut HeaderMap, tag: &str) {
    if let Ok(value) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, value);
    }
}
