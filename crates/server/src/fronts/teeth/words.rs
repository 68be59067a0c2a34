//! From the protocol's words to ours, and back.

use jiff::SignedDuration;
use muster_core::result::{News, Outcome};
use muster_core::run::Progress;
use muster_proto::teeth::Json;
use muster_proto::teeth::commands::{Report, TaskState, Verb};
use muster_proto::teeth::wire::Fatal;
use serde_json::{Map, Value};

use crate::control::Offer;

/// The parameters of a task command.
pub(super) fn params_of(offer: &Offer, verb: Verb, task_id: &str) -> Json {
    let spec: Value = serde_json::from_str(offer.spec.expose()).unwrap_or_default();
    let mut params = Map::new();
    if verb == Verb::Run {
        params.insert("kind".to_owned(), offer.kind.as_str().into());
        params.insert(
            "spec".to_owned(),
            if spec.is_object() {
                spec
            } else {
                Value::Object(Map::new())
            },
        );
        if !offer.targets.is_empty() {
            params.insert("targets".to_owned(), offer.targets.clone().into());
        }
        if let Some(workers) = offer.workers {
            params.insert("workers".to_owned(), workers.get().into());
        }
    } else if let Value::Object(members) = spec {
        params = members;
    }
    params.insert("task_id".to_owned(), task_id.into());
    Json::from(Value::Object(params))
}

pub(super) fn news_of(report: Report) -> News {
    let result = report.result.map(|result| result.as_str().to_owned());
    match report.state {
        TaskState::Complete => News::Finished(Outcome {
            succeeded: true,
            result,
            diags: None,
        }),
        TaskState::Error { msg } => News::Finished(Outcome {
            succeeded: false,
            result,
            diags: Some(msg),
        }),
        TaskState::Running { eta, percent } => News::Progress(Progress {
            percent: Some(percent),
            // An estimate beyond a year says nothing.
            eta: (eta < 366.0 * 86_400.0)
                .then(|| SignedDuration::try_from_secs_f64(eta).ok())
                .flatten(),
        }),
    }
}

/// The stable word of a refusal.
pub(super) fn slug(fatal: &Fatal) -> &'static str {
    match fatal {
        Fatal::Decode => "not_json",
        Fatal::HandshakeTooLong | Fatal::HandshakeTooSlow => "handshake_limits",
        Fatal::LineTooLong => "line_too_long",
        Fatal::Malformed => "malformed",
        Fatal::MissingId
        | Fatal::MissingParams
        | Fatal::MissingVersion
        | Fatal::ParamsNotObject => "bad_message",
        Fatal::OtherIdentity => "other_identity",
        Fatal::Other(_) => "handshake_refused",
        Fatal::UnknownId => "unknown_id",
        Fatal::UnknownMethod(_) => "unknown_method",
        Fatal::UnknownVersion(_) => "unknown_version",
    }
}

pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max))
        .unwrap_or_default()
}

/// The text without controls and without what turns the reading direction.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| {
            !c.is_control() && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        })
        .collect()
}
