//! Doing nothing for a while: the tests `idle`, beside anything, and `idleex`, alone on its agent.
//!
//! Specs and results are those of pScheduler's tests of these names (pScheduler contract, section 14);
//! that an `idleex` run is alone is the scheduler's doing.
//! The time is taken by the monotonic clock; the comments of the spec come back as diagnostics.

use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::spec::Members;
use super::{Context, Failure, Outcome, SpecError, Tool};
use crate::policy::ActionClass;

/// The longest nap: what the original's tools sleep at most.
const DURATION_MAX: Duration = Duration::from_secs(3600);
/// The longest comment, in bytes.
const COMMENT_MAX: usize = 4096;

/// The tool.
#[derive(Clone, Copy, Debug)]
pub enum Idle {
    /// For `idle`.
    Beside,
    /// For `idleex`.
    Alone,
}

#[derive(Debug, PartialEq)]
struct Spec {
    duration: Duration,
    text: String,
    diags: String,
}

impl Spec {
    fn parse(spec: &Value) -> Result<Self, SpecError> {
        let m = Members::of(spec, "")?;
        // Work of ours without a spec idles for the second that shows it works.
        let text = m.text("duration")?.unwrap_or("PT1S");
        let duration = m.duration("duration")?.unwrap_or(Duration::from_secs(1));
        if duration > DURATION_MAX {
            return Err(m.wrong("duration", "is longer than one hour"));
        }
        let mut diags = String::new();
        for member in ["starting-comment", "parting-comment"] {
            if let Some(comment) = m.text(member)? {
                if comment.len() > COMMENT_MAX {
                    return Err(m.wrong(member, "is longer than 4096 bytes"));
                }
                diags.push_str(comment);
                diags.push('\n');
            }
        }
        Ok(Self {
            duration,
            text: text.to_owned(),
            diags,
        })
    }
}

impl Tool for Idle {
    fn kind(&self) -> &'static str {
        match self {
            Self::Beside => "idle",
            Self::Alone => "idleex",
        }
    }

    fn class(&self, _: &Value) -> ActionClass {
        ActionClass::Observe
    }

    fn check(&self, spec: &Value) -> Result<(), SpecError> {
        Spec::parse(spec).map(drop)
    }

    fn run<'a>(&'a self, ctx: Context, spec: Value) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let spec = Spec::parse(&spec).map_err(|error| Failure::failed(error.to_string()))?;
            tokio::select! {
                biased;
                () = ctx.clock.sleep(spec.duration) => {}
                () = ctx.cancel.cancelled() => return Err(Failure::cancelled()),
            }
            let mut result = json!({ "schema": 1, "succeeded": true, "duration": spec.text });
            if !spec.diags.is_empty() {
                result["diags"] = json!(spec.diags);
            }
            Ok(result)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use muster_net::clock::Clock;

    fn context(clock: Clock) -> Context {
        Context::operator(clock, [0; 32], std::path::PathBuf::from("/nonexistent"))
    }

    #[tokio::test(start_paused = true)]
    async fn it_takes_the_time_it_was_asked_to() {
        let clock = Clock::simulated("2026-11-24T12:00:00Z".parse().unwrap());
        let before = clock.instant();
        let spec = json!({"duration": "PT2S", "starting-comment": "a", "parting-comment": "b"});
        let result = Idle::Beside
            .run(context(clock.clone()), spec)
            .await
            .unwrap();
        assert_eq!(clock.instant() - before, Duration::from_secs(2));
        let want = json!({"schema": 1, "succeeded": true, "duration": "PT2S", "diags": "a\nb\n"});
        assert_eq!(result, want);
    }

    #[tokio::test(start_paused = true)]
    async fn it_wakes_when_called_off() {
        let clock = Clock::simulated("2026-11-24T12:00:00Z".parse().unwrap());
        let ctx = context(clock.clone());
        ctx.cancel.cancel();
        let spec = json!({"duration": "PT1H"});
        assert_eq!(Idle::Beside.run(ctx, spec).await, Err(Failure::cancelled()));
    }

    #[test]
    fn specs_it_cannot_work_with() {
        for (spec, path) in [
            (json!({"duration": "x"}), "/duration"),
            (json!({"duration": "PT2H"}), "/duration"),
            (
                json!({"duration": "PT1S", "starting-comment": 5}),
                "/starting-comment",
            ),
            (json!([]), "/"),
        ] {
            assert_eq!(Idle::Beside.check(&spec).unwrap_err().path, path, "{spec}");
        }
        assert_eq!(
            Idle::Beside.check(&json!({"duration": "PT0.5S", "schema": 1})),
            Ok(())
        );
        assert_eq!(Idle::Beside.check(&json!({})), Ok(()));
    }
}
