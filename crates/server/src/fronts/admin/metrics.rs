//! Pages for monitoring: `/metrics`, `/healthz`, `/readyz`.
//!
//! They show counts and no names, and need no token.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Admin;
use super::problem::Problem;
use crate::control::ControlError;

/// Refusals of the admin API itself, by reason.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    by_reason: Mutex<BTreeMap<&'static str, u64>>,
}

impl Refusals {
    /// Counts one.
    pub(super) fn count(&self, reason: &'static str) {
        let mut counts = self
            .by_reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *counts.entry(reason).or_insert(0) += 1;
    }

    fn all(&self) -> Vec<(&'static str, u64)> {
        let counts = self
            .by_reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts
            .iter()
            .map(|(reason, count)| (*reason, *count))
            .collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    wire: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Counted {
    noun: String,
    state: String,
}

/// `/metrics`, in OpenMetrics text.
pub(super) async fn serve(State(admin): State<Admin>) -> Result<Response, Problem> {
    let mut registry = Registry::with_prefix("muster");
    let refused = Family::<Refused, Counter>::default();
    let ours = admin.refusals.all().into_iter();
    let ours = ours.map(|(reason, n)| ("admin".to_owned(), reason.to_owned(), n));
    let wires = admin.control.refused_counts().into_iter();
    let wires = wires.map(|(wire, reason, n)| (wire.word().to_owned(), reason, n));
    for (wire, reason, n) in ours.chain(wires) {
        refused.get_or_create(&Refused { wire, reason }).inc_by(n);
    }
    registry.register(
        "refused",
        "Messages and peers refused since the process began",
        refused,
    );
    let objects = Family::<Counted, Gauge>::default();
    for (name, n) in admin.control.counts().await? {
        let (noun, state) = name.split_once('.').unwrap_or((name.as_str(), "known"));
        let labels = Counted {
            noun: noun.to_owned(),
            state: state.to_owned(),
        };
        objects.get_or_create(&labels).set(n);
    }
    registry.register(
        "objects",
        "Agents, tasks, runs, hosts and items by state",
        objects,
    );
    let started = Gauge::<i64>::default();
    started.set(admin.control.started().as_second());
    registry.register(
        "started_seconds",
        "When the process began, Unix time",
        started,
    );
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| {
        Problem::from(
            ControlError::new(
                crate::control::Trouble::Bug,
                "INTERNAL",
                "the metrics could not be written",
            )
            .caused_by(error),
        )
    })?;
    let mut response = text.into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    Ok(response)
}

/// `/healthz`: the process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// `/readyz`: the database answers too.
pub(super) async fn readyz(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    match admin.control.counts().await {
        Ok(_) => (StatusCode::OK, "ok\n"),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the database does not answer\n",
        ),
    }
}
