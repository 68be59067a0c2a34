//! Doing nothing at once: the test `noop`.
//!
//! Spec and result are those of pScheduler's test of that name (pScheduler contract, section 14):
//! the data comes back, or, with the probability `fail`, a failure does.

use futures_util::future::BoxFuture;
use rand_core::Rng;
use serde_json::{Value, json};

use super::spec::Members;
use super::{Context, Failure, Outcome, SpecError, Tool};
use crate::policy::ActionClass;

/// The tool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noop;

fn fail_share(spec: &Value) -> Result<f64, SpecError> {
    let m = Members::of(spec, "")?;
    match m.raw("fail") {
        None => Ok(0.0),
        Some(value) => match value.as_f64() {
            Some(share) if (0.0..=1.0).contains(&share) => Ok(share),
            Some(_) | None => Err(m.wrong("fail", "is not a probability between 0 and 1")),
        },
    }
}

impl Tool for Noop {
    fn kind(&self) -> &'static str {
        "noop"
    }

    fn class(&self, _: &Value) -> ActionClass {
        ActionClass::Observe
    }

    fn check(&self, spec: &Value) -> Result<(), SpecError> {
        fail_share(spec).map(drop)
    }

    fn run<'a>(&'a self, ctx: Context, spec: Value) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let share = fail_share(&spec).map_err(|error| Failure::failed(error.to_string()))?;
            // Of 0 and 1 neither is left to chance.
            let drawn = f64::from(ctx.rng().next_u32()) / (f64::from(u32::MAX) + 1.0);
            if drawn < share {
                return Err(Failure::failed("Randomly-induced failure"));
            }
            let data = spec.get("data").cloned().unwrap_or(Value::Null);
            Ok(json!({ "schema": 1, "succeeded": true, "data": data }))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use muster_net::clock::Clock;

    fn context(seed: u8) -> Context {
        let state = std::path::PathBuf::from("/nonexistent");
        Context::operator(Clock::system(), [seed; 32], state)
    }

    #[tokio::test]
    async fn data_comes_back() {
        for data in [json!(null), json!({"a": [1]}), json!("x")] {
            let result = Noop.run(context(1), json!({"data": data})).await.unwrap();
            assert_eq!(
                result,
                json!({"schema": 1, "succeeded": true, "data": data})
            );
        }
        let result = Noop.run(context(1), json!({})).await.unwrap();
        assert_eq!(result["data"], Value::Null);
    }

    #[tokio::test]
    async fn it_fails_as_often_as_it_is_told_to() {
        let mut failed = 0;
        for seed in 0..200 {
            let spec = |fail: f64| json!({"fail": fail, "data": 1});
            assert!(Noop.run(context(seed), spec(0.0)).await.is_ok());
            assert!(Noop.run(context(seed), spec(1.0)).await.is_err());
            failed += usize::from(Noop.run(context(seed), spec(0.5)).await.is_err());
        }
        assert!((60..140).contains(&failed), "{failed} of 200");
    }

    #[test]
    fn shares_outside_0_to_1_are_refused() {
        for fail in [json!(-0.1), json!(1.1), json!("often")] {
            assert_eq!(
                Noop.check(&json!({"fail": fail})).unwrap_err().path,
                "/fail"
            );
        }
    }
}
